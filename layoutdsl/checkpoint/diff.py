"""Two checkpoints of one model, quantized or float, compared by ``value``: what each weight is, whatever carries it.

Beside ``values``, after ``sides``, which says what there is to compare. A quantized module is decoded by its spec, a block of rows at a time; a float tensor is
itself.

Invariants: modules are matched by the names of the files, experts one by one; memory stays within the budget; nothing is rounded but to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite, lcm, log10, nan, prod
from typing import Any

import numpy as np

from layoutdsl.checkpoint.decoded import Decoded, Programs, Side
from layoutdsl.checkpoint.model import StoredTensor
from layoutdsl.checkpoint.numbers import Array, Reader, scratch
from layoutdsl.checkpoint.plans import Plans
from layoutdsl.checkpoint.reading import BLOCK, Progress, Rows, Work, flat, side_by_side, size_text
from layoutdsl.checkpoint.sides import Model, Plain, Quantized, Source, Sources, meaning_of, sources
from layoutdsl.checkpoint.units import Units
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.ir.dtypes import STORAGES
from layoutdsl.plan.model import Digit, TensorType

ELEMENTS_AT_ONCE = 1 << 17
"""Numbers that are compared at once: in float32 they stay in the cache of a core."""
COMPILED_AT_ONCE = 1 << 20
"""The same where nothing but bytes is kept of them."""
OVERHEAD = max(10 * 4 * ELEMENTS_AT_ONCE, 2 * 5 * COMPILED_AT_ONCE)
"""Bytes that a comparison takes beside what is held."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far apart two tensors are. sqnr: signal to noise in dB, infinite for equal ones, NaN where one holds no number. error: the largest, absolute, and its
    place. schemes: what carries the tensor on either side."""

    name: str
    sqnr: float
    error: float
    place: tuple[int, ...]
    shape: tuple[int, ...]
    schemes: tuple[str, str]


def diff(
    a: Model,
    b: Model,
    *,
    max_memory: int,
    progress: Callable[[str], None],
    min_sqnr: float | None = None,
    wanted: Callable[[str], bool] = lambda name: True,
) -> tuple[list[Difference], list[Diagnostic]]:
    """Every tensor that both sides have, worst first; and what is wrong: tensors that only one has, shapes that differ, SQNR below ``min_sqnr``.

    The signal is the float side's; of two quantized or two float ones, a's. max_memory: bytes for buffers. wanted: of the names of tensors, as a float model
    has them.
    """
    ours, theirs = (sources(model, Units(Plans(model.consumer, model.device, model.params_dtype))).only(wanted) for model in (a, b))
    findings = [*_unmatched(ours, theirs, "the first", "the second"), *_unmatched(theirs, ours, "the second", "the first")]
    pairs = [_Pair(name, source, theirs.found[name]) for name, source in ours.found.items() if name in theirs.found]
    findings += [pair.misshapen() for pair in pairs if pair.one.shape != pair.other.shape]
    jobs = _jobs(pair for pair in pairs if pair.one.shape == pair.other.shape and 0 not in pair.one.shape)
    findings += [job.too_large(max_memory) for job in jobs if job.needs > max_memory]
    jobs = sorted((job for job in jobs if job.needs <= max_memory), key=lambda job: job.place)
    size = sum(job.size for job in jobs)
    programs, said = Programs(size, max_memory), Progress(progress, size)
    rows: list[Difference] = []
    for found, faults in side_by_side([Work(partial(_compared, job, said.done, programs), job.needs) for job in jobs], programs.room):
        rows += found
        findings += faults
    rows.sort(key=lambda row: (row.sqnr if row.sqnr == row.sqnr else -inf, -row.error, row.name))
    return rows, [*findings, *_too_far(rows, min_sqnr)]


# ---- unmatched ----------------------------------------------------------------------------------------------------------------------------------------


def _unmatched(ours: Sources, theirs: Sources, here: str, there: str) -> Iterator[Diagnostic]:
    for name, source in ours.found.items():
        if name not in theirs.found and name not in theirs.undecoded and name not in ours.optional:
            message = f"only {here} checkpoint has this tensor"
            notes = (f"it is {source.scheme}{list(source.shape)} there; {there} has no tensor of this name",)
            helps = ("compare checkpoints of one model; experts that are stacked in one float tensor are not matched with single ones",)
            yield Diagnostic(code="diff-unmatched", message=message, where=name, notes=notes, helps=helps)
    for name, why in ours.undecoded.items():
        message = f"in {here} checkpoint this cannot be decoded: {why}"
        yield Diagnostic(code="diff-undecoded", message=message, where=name, helps=("`layoutdsl check` says what does not fit",))


# ---- pairs ----------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pair:
    """The same tensor on both sides."""

    name: str
    one: Source
    other: Source

    def misshapen(self) -> Diagnostic:
        notes = (f"{self.one.scheme}{list(self.one.shape)} in the first, {self.other.scheme}{list(self.other.shape)} in the second",)
        helps = ("compare checkpoints of one model" if self.one.shape != self.other.shape[::-1] else "one of them is transposed",)
        return Diagnostic(code="diff-shape", message="the shapes of the two checkpoints differ", where=self.name, notes=notes, helps=helps)


@dataclass(frozen=True, slots=True)
class _Job:
    """What is compared together, since it comes from the same bytes: the results of one unit on either side."""

    pairs: Sequence[_Pair]

    @property
    def ours(self) -> list[Source]:
        return [pair.one for pair in self.pairs]

    @property
    def theirs(self) -> list[Source]:
        return [pair.other for pair in self.pairs]

    @property
    def size(self) -> int:
        return sum(tensor.end - tensor.begin for tensor in (*_tensors(self.ours), *_tensors(self.theirs)))

    @property
    def place(self) -> tuple[str, int]:
        tensor = _tensors(self.ours)[0]
        return str(tensor.file), tensor.begin

    @property
    def step(self) -> int:
        return lcm(*(_step(source) for source in (*self.ours, *self.theirs)))

    @property
    def needs(self) -> int:
        """Bytes of memory: what both sides hold, and the blocks that are compared."""
        rows, columns = _matrix(self.pairs[0].one.shape)
        block = min(rows, self.step) * columns
        return OVERHEAD + 10 * 4 * max(0, block - ELEMENTS_AT_ONCE) + sum(_held(source) for source in (self.ours[0], self.theirs[0]))

    def too_large(self, budget: int) -> Diagnostic:
        message = f"the values were not read: `--max-memory` allows {size_text(budget)}, and they need {size_text(self.needs)}"
        helps = (f"allow {self.needs} bytes or more",)
        return Diagnostic(code="memory-budget", message=message, where=self.pairs[0].name, helps=helps)


def _jobs(pairs: Iterable[_Pair]) -> list[_Job]:
    """Pairs of the same units together, the largest first."""
    found: dict[tuple[int, ...], list[_Pair]] = {}
    for pair in pairs:
        units = tuple(id(source.unit) for source in (pair.one, pair.other) if isinstance(source, Quantized))
        found.setdefault(units or (0, id(pair)), []).append(pair)
    return [_Job(sorted(group, key=lambda pair: -prod(pair.one.shape))) for group in found.values()]


def _tensors(sources: Iterable[Source]) -> list[StoredTensor]:
    """What is read for these, each once."""
    found = [[source.tensor] if isinstance(source, Plain) else [source.unit.tensors[name] for name in meaning_of(source).kinds] for source in sources]
    return list(dict.fromkeys(tensor for tensors in found for tensor in tensors))


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """A shape as rows and columns: the outermost dim that is not 1, and the rest."""
    rows = next((extent for extent in shape if extent != 1), 1)
    return rows, prod(shape) // rows if rows else 0


def _step(source: Source) -> int:
    return 1 if isinstance(source, Plain) else Decoded(source.unit, meaning_of(source), Programs()).step


def _held(source: Source) -> int:
    if isinstance(source, Plain):
        return 0
    meaning = meaning_of(source)
    return sum(16 * prod(meaning.held[name].counts) for name in meaning.kinds if name != meaning.weight)


def _compared(job: _Job, done: Callable[[int], None], programs: Programs) -> tuple[list[Difference], list[Diagnostic]]:
    try:
        if all(_alike(pair.one, pair.other) for pair in job.pairs) and _same_bytes(_tensors(job.ours), _tensors(job.theirs), done):
            return [_difference(pair, inf, 0.0, 0) for pair in job.pairs], []
        return _measured(job, done, programs), []
    except DiagnosticError as error:
        return [], list(error.diagnostics)


def _alike(one: Source, other: Source) -> bool:
    """Do equal bytes mean equal values."""
    if isinstance(one, Plain) or isinstance(other, Plain):
        return isinstance(one, Plain) and isinstance(other, Plain) and one.tensor.dtype == other.tensor.dtype
    ours, theirs = meaning_of(one), meaning_of(other)
    return ours.results == theirs.results and ours.kinds == theirs.kinds and ours.sizes == theirs.sizes and ours.absent == theirs.absent


def _same_bytes(ours: Sequence[StoredTensor], theirs: Sequence[StoredTensor], done: Callable[[int], None]) -> bool:
    for one, other in zip(ours, theirs):
        for (_, left), (_, right) in zip(flat(one, BLOCK).blocks(_quiet), flat(other, BLOCK).blocks(_quiet)):
            if not _equal(left, right):
                return False
    done(sum(tensor.end - tensor.begin for tensor in (*ours, *theirs)))
    return True


def _equal(left: Array, right: Array) -> bool:
    """Bytes; eight at once."""
    wide = left.size == right.size and left.size % 8 == 0
    return np.array_equal(left.view(np.uint64), right.view(np.uint64)) if wide else np.array_equal(left, right)


def _quiet(count: int) -> None:
    """Bytes that may be read again are not counted yet."""


@dataclass(slots=True)
class _Sums:
    """What one pair adds up to. worst: the place of the largest error, in the order of the elements."""

    signal: float = 0.0
    noise: float = 0.0
    error: float = 0.0
    worst: int = 0
    seen: int = 0

    def add(self, ours: Array, theirs: Array, *, second: bool) -> None:
        """The next elements of both; equal ones may be one array. second: the signal is theirs."""
        base, dtype = theirs if second else ours, np.result_type(ours, theirs)
        signal = float(np.dot(base, base))
        self.signal, self.seen = self.signal + signal, self.seen + ours.size
        if ours is theirs and isfinite(signal):
            return
        # A block is not looked at again, so that one that nothing else reads is written over.
        room = next((array for array in (ours, theirs) if array.flags.writeable and array.dtype == dtype), None)
        apart = np.subtract(ours, theirs, out=scratch("apart", ours.size, dtype) if room is None else room)
        self.noise += float(np.dot(apart, apart))
        largest = max(float(apart.max()), -float(apart.min()))
        if largest > self.error or largest != largest:
            self.error, self.worst = largest, self.seen - ours.size + int(np.abs(apart).argmax())

    def add_compiled(self, kernels: Any, ours: Side, theirs: Side, shape: tuple[int, int], *, second: bool, same: bool) -> None:
        """The next rows of both in one pass. same: equal bytes that mean equal numbers."""
        signal, noise, largest, place = kernels.compared(*((theirs, ours) if second else (ours, theirs)), *shape, same)
        if same and not isfinite(signal):
            self.add_compiled(kernels, ours, theirs, shape, second=second, same=False)
            return
        self.signal, self.noise = self.signal + signal, self.noise + noise
        if largest > self.error or largest != largest:
            self.error, self.worst = largest, self.seen + place
        self.seen += prod(shape)


def _measured(job: _Job, done: Callable[[int], None], programs: Programs) -> list[Difference]:
    _, columns = _matrix(job.pairs[0].one.shape)
    if (found := _measured_compiled(job, done, programs)) is not None:
        return [found]
    at_once = max(1, ELEMENTS_AT_ONCE // max(columns, 1) // job.step) * job.step
    sums = [_Sums() for _ in job.pairs]
    second = [isinstance(pair.other, Plain) and isinstance(pair.one, Quantized) for pair in job.pairs]
    quantized = [source for source in (job.ours[0], job.theirs[0]) if isinstance(source, Quantized)]
    if len(quantized) == 2 and all(_alike(pair.one, pair.other) for pair in job.pairs):
        names = tuple(pair.one.result for pair in job.pairs if isinstance(pair.one, Quantized))
        one, other = (Decoded(source.unit, meaning_of(source), programs, side) for source, side in zip(quantized, ("one", "other")))
        _add_alike(sums, one, other, names, at_once, done)
    else:
        for ours, theirs in zip(_blocks("one", job.ours, at_once, done, programs), _blocks("other", job.theirs, at_once, done, programs)):
            for total, left, right, signal in zip(sums, ours, theirs, second):
                total.add(left.reshape(-1), right.reshape(-1), second=signal)
    return [_difference(pair, _decibels(total.signal, total.noise), total.error, total.worst) for pair, total in zip(job.pairs, sums)]


def _measured_compiled(job: _Job, done: Callable[[int], None], programs: Programs) -> Difference | None:
    """One pair whose numbers are stored, or only multiplied by something, compared straight from the bytes; None where that is not so."""
    pair, kernels = job.pairs[0], programs.kernels
    if len(job.pairs) > 1 or kernels is None:
        return None
    total, (count, columns) = _Sums(), _matrix(pair.one.shape)
    rows = max(1, COMPILED_AT_ONCE // columns // job.step) * job.step
    ours, theirs = (_sides(source, rows, programs, done) for source in (pair.one, pair.other))
    if ours is None or theirs is None:
        return None
    second, alike = isinstance(pair.other, Plain) and isinstance(pair.one, Quantized), _alike(pair.one, pair.other)
    for first, one, other in zip(range(0, count, rows), ours, theirs):
        same = alike and _equal(one[0], other[0]) and np.array_equal(one[3], other[3])
        total.add_compiled(kernels, one, other, (min(rows, count - first), columns), second=second, same=same)
    return _difference(pair, _decibels(total.signal, total.noise), total.error, total.worst)


def _sides(source: Source, rows: int, programs: Programs, done: Callable[[int], None]) -> Iterator[Side] | None:
    """The bytes of the next so many rows, if compiled loops can read them."""
    if isinstance(source, Quantized):
        return Decoded(source.unit, meaning_of(source), programs).sides(source.result, rows, done)
    code = {"bfloat16": programs.kernels.BFLOAT16, "float32": programs.kernels.FLOAT32}.get(source.tensor.dtype)
    nothing = np.empty((0, 0), np.float32)
    return None if code is None else ((raw, code, nothing, nothing) for _, raw in Rows.of(source.tensor).by(rows).blocks(done))


def _add_alike(sums: Sequence[_Sums], one: Decoded, other: Decoded, names: tuple[str, ...], rows: int, done: Callable[[int], None]) -> None:
    """Of two sides whose equal bytes mean equal values, those of the second are decoded only where they are others."""
    ours, theirs = one.held(names, done), other.held(names, done)
    same_held = all(np.array_equal(ours[name], theirs[name]) for name in ours)
    for (first, left), (_, right) in zip(one.raw(rows, done), other.raw(rows, done)):
        same = same_held and _equal(left, right)
        signals = one.of(first, left, ours, names)
        found = signals if same else other.of(first, right, theirs, names)
        for total, name in zip(sums, names):
            total.add(flat_one := signals[name].reshape(-1), flat_one if same else found[name].reshape(-1), second=False)


def _difference(pair: _Pair, sqnr: float, error: float, worst: int) -> Difference:
    shape = pair.one.shape
    place = tuple(int(i) for i in np.unravel_index(worst, shape)) if shape and sqnr != inf else ()
    return Difference(pair.name, sqnr, error, place, shape, (pair.one.scheme, pair.other.scheme))


def _blocks(side: str, sources: Sequence[Source], rows: int, done: Callable[[int], None], programs: Programs) -> Iterator[list[Array]]:
    """The next so many rows of each: results of one unit, or tensors of their own."""
    quantized = [source for source in sources if isinstance(source, Quantized)]
    if quantized:
        names = [source.result for source in quantized]
        for results in Decoded(quantized[0].unit, meaning_of(quantized[0]), programs, side).blocks(rows, done, names):
            yield [results[name] for name in names]
        return
    plain = (_plain(f"{side} {place}", source.tensor, rows, done) for place, source in enumerate(sources) if isinstance(source, Plain))
    yield from map(list, zip(*plain))


def _plain(memory: str, tensor: StoredTensor, rows: int, done: Callable[[int], None]) -> Iterator[Array]:
    reader: Reader | None = None
    for _, raw in Rows.of(tensor).by(rows).blocks(done):
        count = raw.size // (STORAGES[tensor.dtype].bits // 8)
        if reader is None or reader.digits[0] != count:
            reader = Reader.of(_plain_type(tensor.dtype, count))
        yield reader(raw, np.float32, scratch(memory, count, np.float32))


def _decibels(signal: float, noise: float) -> float:
    if signal != signal or noise != noise:
        return nan
    if noise == 0:
        return inf
    return 10 * log10(signal / noise) if signal else -inf


def _plain_type(dtype: str, count: int) -> TensorType:
    return TensorType(dtype, 0, dtype, "", ((Digit("i", 1, count),),), (), (0,), 0, (), "")


def _too_far(rows: Sequence[Difference], least: float | None) -> Iterator[Diagnostic]:
    for row in rows:
        place = f"the largest error is {row.error:.6g} at [{', '.join(map(str, row.place))}]"
        if row.sqnr != row.sqnr:
            message = "one of the two tensors holds NaN or infinities"
            yield Diagnostic(code="values-differ", message=message, where=row.name, notes=(place,), helps=("`layoutdsl check --data` says which",))
        elif least is not None and row.sqnr < least:
            message = f"the two tensors differ by more than `--min-sqnr {least:g}` allows"
            yield Diagnostic(code="values-differ", message=message, where=row.name, notes=(f"the SQNR is {row.sqnr:.2f} dB", place))
