"""``check --data``: the values of a checkpoint's layers, each byte read once.

After ``layers``; beside ``fit``, which looks at headers. What single values can have wrong is ``watch``, what the tensors of a layer say of one another
``invariants``.

Invariants: memory stays within the budget, whatever the size of a tensor; what cannot be decided within it is said; a finding names the stored tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod

import numpy as np

from layoutdsl.checkpoint.decoded import Programs, held_arrays, rows_of
from layoutdsl.checkpoint.invariants import Invariant, equations, held_by, rules_of
from layoutdsl.checkpoint.model import Layer, StoredTensor
from layoutdsl.checkpoint.plans import Plans
from layoutdsl.checkpoint.reading import BLOCK, Progress, Work, flat, side_by_side, size_text
from layoutdsl.checkpoint.units import Meaning, Unit, Units
from layoutdsl.checkpoint.watch import ConstantRows, Watch, constant_rows
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.ir.dtypes import STORAGES

OVERHEAD = 14 * BLOCK
"""Bytes that work on a block takes beside the block: copies of it while it is counted, and what an equation is evaluated with."""


def check_values(
    layers: Iterable[Layer],
    plans: Plans,
    *,
    max_memory: int,
    progress: Callable[[str], None],
    others: Iterable[StoredTensor] = (),
) -> Iterator[Diagnostic]:
    """Everything that is wrong with the values of these layers, in the order of the files; ``others`` are tensors outside of layers.

    max_memory: bytes for buffers, whatever the tensors' sizes. progress: is told every few seconds how far it is. A tensor that does not fit its spec, which
    the checks of the headers say, is only looked at value by value.
    """
    units, rules = Units(plans), _Rules()
    jobs = [_Job(unit.tensors, unit, unit.meaning, rules.of(unit.meaning)) for layer in layers for unit in units.of(layer) if unit.tensors]
    jobs = sorted([*jobs, *(_Job({tensor.name: tensor}) for tensor in others)], key=lambda job: job.place)
    size = sum(job.size for job in jobs)
    said, programs = Progress(progress, size), Programs(size, max_memory)
    yield from (job.too_large(max_memory) for job in jobs if job.needs > max_memory)
    work = [Work(partial(job.run, said.done, programs), job.needs) for job in jobs if job.needs <= max_memory]
    seen: set[tuple[str, str, str]] = set()
    for findings in side_by_side(work, programs.room):
        for finding in findings:
            key = (finding.code, finding.message, finding.where)
            if key not in seen:  # experts may share a tensor
                seen.add(key)
                yield finding


@dataclass(frozen=True, slots=True)
class _Rules:
    """The invariants of each meaning, found once."""

    _known: dict[int, tuple[Invariant, ...]] = field(default_factory=dict)

    def of(self, meaning: Meaning | None) -> tuple[Invariant, ...]:
        if meaning is None:
            return ()
        if id(meaning) not in self._known:
            self._known[id(meaning)] = tuple(rules_of(meaning))
        return self._known[id(meaning)]


@dataclass(frozen=True, slots=True)
class _Job:
    """The tensors of a unit, or one tensor that belongs to none."""

    tensors: Mapping[str, StoredTensor]
    unit: Unit | None = None
    meaning: Meaning | None = None
    rules: tuple[Invariant, ...] = ()

    @property
    def largest(self) -> StoredTensor:
        return max(self.tensors.values(), key=lambda tensor: tensor.end - tensor.begin)

    @property
    def place(self) -> tuple[str, int]:
        return str(self.largest.file), self.largest.begin

    @property
    def size(self) -> int:
        return sum(tensor.end - tensor.begin for tensor in self.tensors.values())

    @property
    def needs(self) -> int:
        """Bytes of memory: the weight passes in blocks, what invariants read is held, as stored and as float64."""
        meaning = self.meaning
        if meaning is None or not meaning.weight:
            return OVERHEAD
        held = [*held_by(self.rules, meaning), *([] if meaning.row_axis else [meaning.weight])]
        # Read element by element, a block is several arrays of float64.
        apart = any(rule.sum is None and meaning.weight in rule.reads for rule in self.rules)
        block = 4 * 8 * BLOCK * 8 // meaning.kinds[meaning.weight].slot_bits if apart else 0
        return OVERHEAD + block + sum(self.tensors[name].end - self.tensors[name].begin + 8 * prod(meaning.held[name].counts) for name in held)

    def too_large(self, budget: int) -> Diagnostic:
        tensor = self.largest
        message = f"the values were not read: `--max-memory` allows {size_text(budget)}, and they need {size_text(self.needs)}"
        notes = (f"{self.needs} bytes for buffers, and for the tensors that are held while `{tensor.name.rpartition('.')[2]}` is read",)
        return Diagnostic(code="memory-budget", message=message, where=tensor.name, notes=notes, helps=(f"allow {self.needs} bytes or more",))

    def run(self, done: Callable[[int], None], programs: Programs) -> list[Diagnostic]:
        try:
            if self.meaning is None or self.unit is None or not self.meaning.weight:
                return self._each(self.tensors, done)
            together = {self.meaning.weight, *held_by(self.rules, self.meaning)}
            rest = {name: tensor for name, tensor in self.tensors.items() if name not in together}
            return [*self._together(self.unit, self.meaning, done, programs), *self._each(rest, done)]
        except DiagnosticError as error:
            return list(error.diagnostics)

    def _each(self, tensors: Mapping[str, StoredTensor], done: Callable[[int], None]) -> list[Diagnostic]:
        """Value by value."""
        found: list[Diagnostic] = []
        for name, tensor in tensors.items():
            watch = self._watch(name)
            for _, raw in flat(tensor).blocks(done):
                watch.see(raw)
            found += watch.findings()
        return found

    def _together(self, unit: Unit, meaning: Meaning, done: Callable[[int], None], programs: Programs) -> list[Diagnostic]:
        names = sorted(held_by(self.rules, meaning))
        watches = {name: self._watch(name) for name in (meaning.weight, *names)}
        held = held_arrays(unit, meaning, names, done, lambda name, raw: watches[name].see(raw))
        wanted = equations(unit, meaning, self.rules, programs)
        rules = [rule for rule in wanted if not rule.obstacle]
        streamed = [rule for rule in rules if rule.weight]
        rows, constant = rows_of(meaning, unit, BLOCK), self._constant_rows(meaning)
        for first, raw in rows.blocks(done):
            count = raw.size // rows.size
            watches[meaning.weight].see(raw)
            if constant is not None:
                constant.see(raw.view(_words(meaning)).reshape(count, -1))
            for rule in streamed:
                rule.see(first * meaning.packed_rows, raw, count, held)
        found = [rule.unchecked() for rule in wanted if rule.obstacle]
        found += [finding for watch in watches.values() for finding in watch.findings()]
        if constant is not None:
            found += constant.findings("the layer" if unit.expert is None else "the expert")
        for rule in rules:
            if not rule.weight:
                rule.evaluate(held)
        return [*found, *(finding for rule in rules for finding in rule.findings())]

    def _watch(self, name: str) -> Watch:
        meaning, tensor = self.meaning, self.tensors[name]
        if meaning is None or name not in meaning.kinds:
            return Watch(tensor)
        return Watch(tensor, meaning.kinds[name], name in meaning.scales, meaning.ranges.get(name, ""))

    def _constant_rows(self, meaning: Meaning) -> ConstantRows | None:
        if not meaning.row_axis or meaning.rows < 1:
            return None
        return constant_rows(self.tensors[meaning.weight], meaning.kinds[meaning.weight], meaning.row_axis)


def _words(meaning: Meaning) -> np.dtype[np.unsignedinteger]:
    return np.dtype(f"<u{STORAGES[meaning.kinds[meaning.weight].storage].bits // 8}")
