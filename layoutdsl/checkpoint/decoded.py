"""What the tensors of a unit mean, a block of rows at a time: its weight streamed from the file, everything else held.

Between ``units`` and ``reading`` on one side, ``values`` and ``diff`` on the other.

Invariants: every byte of a unit is read once; a block is as large as the caller says, in whole steps of the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from math import prod
from threading import local
from typing import Any, TypeVar

import numpy as np

from layoutdsl.checkpoint.evaluate import Run, Scope, factor_of, program, reads
from layoutdsl.checkpoint.numbers import Array, Codes, Reader, scratch
from layoutdsl.checkpoint.reading import Rows, whole
from layoutdsl.checkpoint.units import Meaning, Unit
from layoutdsl.plan.model import Digit, TensorType
from layoutdsl.syntax.tree import Entry, Expr

Watch = Callable[[str, Array], None]
Side = tuple[Array, int, Array, Array]
"""Bytes, what they hold, its table, and what the rows are multiplied by: see ``compiled.compared``."""
T = TypeVar("T")


WORTH = 1 << 31
"""Bytes to be read that pay for the import of numba and of what it compiled before, 0.4 s each; the first compilation takes 6 s."""
NUMBA = 160 << 20
"""Bytes of memory that numba and its code take."""


def _kernels() -> Any:
    try:
        return import_module("layoutdsl.checkpoint.compiled")
    except (ImportError, RuntimeError):  # numba is missing, or too old for this numpy, or has no place to keep what it compiles
        return None


@dataclass(slots=True)
class Programs:
    """What is made once per thread for all units of one meaning: programs hold buffers. size: of all that is to be read, in bytes. budget: bytes of memory."""

    size: int = 0
    budget: int = 1 << 40
    _local: local = field(default_factory=local)

    @property
    def kernels(self) -> Any:
        """Compiled loops; None where numba is not installed, too little is read to pay for its import, or the budget is small."""
        return self.once("kernels", lambda: _kernels() if self._is_worth_it else None)

    @property
    def room(self) -> int:
        """What is left of the budget for buffers."""
        return self.budget - (NUMBA if self._is_worth_it else 0)

    @property
    def _is_worth_it(self) -> bool:
        return self.size >= WORTH and self.budget >= 3 * NUMBA

    def once(self, key: Any, make: Callable[[], T]) -> T:
        known: dict[Any, Any] = self._local.__dict__.setdefault("known", {})
        if key not in known:
            known[key] = make()
        found: T = known[key]
        return found

    def of(self, body: Expr, entries: Sequence[Entry], scope: Scope, key: Any) -> Run:
        """The program of an expression; ``key`` stands for its scope. Raises: Unsupported."""
        return self.once((id(body), key), lambda: program(body, entries, scope))


def rows_of(meaning: Meaning, unit: Unit, block: int) -> Rows:
    """The weight of a unit in blocks of about so many bytes; in one block where its rows are not of one axis."""
    rows = Rows.of(unit.tensors[meaning.weight], meaning.step // meaning.packed_rows if meaning.row_axis else 1, block)
    return rows if meaning.row_axis else rows.by(rows.count)


def held_arrays(unit: Unit, meaning: Meaning, names: Iterable[str], done: Callable[[int], None], watch: Watch | None = None) -> dict[str, Array]:
    """These tensors in float64. watch: is shown the bytes of each."""
    found = {}
    for name in names:
        raw = whole(unit.tensors[name], done)
        if watch is not None:
            watch(name, raw)
        found[name] = meaning.readers[name](raw, np.float64)
    return found


def cut(arrays: Mapping[str, Array], meaning: Meaning, first: int, count: int) -> dict[str, Array]:
    """Of every array what belongs to these rows."""
    found = {}
    for name, array in arrays.items():
        base = meaning.row_bases.get(name)
        found[name] = array if base is None else array[first // base : -(-(first + count) // base)]
    return found


def rows_kind(meaning: Meaning, count: int) -> TensorType:
    """The type of so many rows of the weight's words; of all of them where they are not of one axis."""
    kind = meaning.kinds[meaning.weight]
    place = next((place for place, dim in enumerate(kind.dims) if any(digit.ext != 1 for digit in dim)), None)
    if place is None or not meaning.row_axis:
        return kind
    dims = [*kind.dims]
    dims[place] = tuple(digit if digit.ext == 1 else Digit(digit.axis, digit.div, count) for digit in dims[place])
    return replace(kind, dims=tuple(dims))


@dataclass(frozen=True, slots=True)
class Decoded:
    """The results of ``value`` of one unit in float32, block by block. memory: a name for the memory that they are in, until the next block."""

    unit: Unit
    meaning: Meaning
    programs: Programs
    memory: str = "decoded"

    @property
    def step(self) -> int:
        """How many rows of the results a block must be a multiple of; all of them where the weight does not lie by rows of outputs."""
        meaning = self.meaning
        outputs = next((axis for axis in meaning.axes(next(iter(meaning.results))) if axis not in meaning.expert_axes), "")
        return meaning.step if meaning.row_axis and meaning.row_axis == outputs else max(meaning.rows, 1)

    def blocks(self, rows: int, done: Callable[[int], None], names: Sequence[str] = ()) -> Iterator[dict[str, Array]]:
        """These results, or all, over the next so many rows, valid until the next block. rows: a multiple of ``step``. Raises: DiagnosticError, Unsupported."""
        names = tuple(names) or tuple(self.meaning.results)
        held = self.held(names, done)
        for first, raw in self.raw(rows, done):
            yield self.of(first, raw, held, names)

    def held(self, names: Iterable[str], done: Callable[[int], None]) -> dict[str, Array]:
        """What these results read besides the weight."""
        scope = self.meaning.scope()
        needed = set().union(*(reads(self.meaning.results[name].body, scope) for name in names)) - {self.meaning.weight}
        return held_arrays(self.unit, self.meaning, needed, done)

    def raw(self, rows: int, done: Callable[[int], None]) -> Iterator[tuple[int, Array]]:
        """The bytes of the next so many rows of the weight, and the number of the first."""
        packed, stream = self.meaning.packed_rows, rows_of(self.meaning, self.unit, 1)
        for first, raw in (stream.by(-(-rows // packed)) if self.meaning.row_axis else stream).blocks(done):
            yield first * packed, raw

    def of(self, first: int, raw: Array, held: Mapping[str, Array], names: tuple[str, ...]) -> dict[str, Array]:
        """These results of one block."""
        meaning, packed = self.meaning, self.meaning.packed_rows
        count = raw.size // rows_of(meaning, self.unit, 1).size
        block = self.programs.once((id(meaning), count, names, self.memory), lambda: self._block(count, names))
        arrays = cut(held, meaning, first, count * packed)
        room = scratch(self.memory, prod(block.reader.shape.counts), np.float32)
        arrays[meaning.weight] = block.reader(raw, np.float32, room)
        return {name: run(arrays).reshape(shape) for name, (run, shape) in block.results.items()}

    def sides(self, name: str, rows: int, done: Callable[[int], None]) -> Iterator[Side] | None:
        """The same result as compiled loops read it, over the next so many rows; None where it is more than the weight's numbers, each times a factor."""
        weight, packed = rows_of(self.meaning, self.unit, 1), self.meaning.packed_rows
        at_once = min(-(-rows // packed), weight.count)
        counts = {at_once, weight.count % at_once or at_once}
        found = {count: self.programs.once((id(self.meaning), count, name, "side"), partial(self._side, name, count)) for count in counts}
        if any(side is None for side in found.values()):
            return None
        return self._sides(name, rows, {count: side for count, side in found.items() if side is not None}, done)

    def _sides(self, name: str, rows: int, known: Mapping[int, tuple[Codes, Run]], done: Callable[[int], None]) -> Iterator[Side]:
        held, packed = self.held([name], done), self.meaning.packed_rows
        for first, raw in self.raw(rows, done):
            count = raw.size // rows_of(self.meaning, self.unit, 1).size
            codes, factor = known[count]
            yield raw, codes.name(self.programs.kernels), codes.table, factor(cut(held, self.meaning, first, count * packed))

    def _side(self, name: str, count: int) -> tuple[Codes, Run] | None:
        """Of so many rows of the weight's words."""
        meaning, result, rows = self.meaning, self.meaning.results[name], count * self.meaning.packed_rows
        kept = [axis for axis in meaning.axes(name) if axis not in meaning.expert_axes]
        codes = Codes.of(rows_kind(meaning, count), meaning.row_axis)
        if not meaning.row_axis or len(kept) != 2 or kept[0] != meaning.row_axis or codes is None:
            return None
        scope = meaning.scope(rows, dtype=np.float32, memory=f"{self.memory} {name}")
        factor = factor_of(result.body, result.entries, scope, meaning.weight, rows)
        return None if factor is None else (codes, factor)

    def _block(self, count: int, names: Sequence[str]) -> _Block:
        meaning, rows = self.meaning, count * self.meaning.packed_rows
        results = {}
        for name in names:
            scope = meaning.scope(rows if meaning.row_axis else None, dtype=np.float32, memory=f"{self.memory} {name}")
            extents = zip(meaning.axes(name), meaning.loops(name, scope))
            shape = tuple(extent for axis, extent in extents if axis not in meaning.expert_axes)
            results[name] = (program(meaning.results[name].body, meaning.results[name].entries, scope), shape)
        return _Block(Reader.of(rows_kind(meaning, count), meaning.row_axis), results)


@dataclass(frozen=True, slots=True)
class _Block:
    """What blocks of so many rows need. results: by name the program and the shape, without the axis of experts."""

    reader: Reader
    results: Mapping[str, tuple[Run, tuple[int, ...]]]
