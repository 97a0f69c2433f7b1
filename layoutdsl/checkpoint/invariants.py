"""The equations of a spec between stored tensors, over the tensors of one unit.

Under ``values``. The right side is evaluated from the weight's sums over runs in which nothing else changes, so that a scale is multiplied once per group and
not once per weight; where that is not possible, element by element.

Invariants: what rounding in the dtypes on disk can do is no finding: each stored factor may be off by half a unit of its last digit, and the sum was made in
float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod, sqrt
from typing import Any

import numpy as np

from layoutdsl.checkpoint.decoded import Programs, cut, rows_kind
from layoutdsl.checkpoint.evaluate import Scope, Unsupported, program, reads, run_length
from layoutdsl.checkpoint.model import StoredTensor
from layoutdsl.checkpoint.numbers import Array, Reader, RunSums, Shape
from layoutdsl.checkpoint.units import Meaning, Unit
from layoutdsl.compiler.evaluate import integer
from layoutdsl.diagnostics import Diagnostic
from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.syntax.tree import Binary, Entry, Expr, Index, Name, Pick, Rule, Sum
from layoutdsl.syntax.walk import nodes

ENOUGH = 1 << 16
"""Sums that are evaluated at once."""
FLOAT32 = 2.0**-24


@dataclass(slots=True)
class Broken:
    """How much of an equation does not hold; the worst place, its two numbers, and whether it would hold with the lanes of a word in the other order."""

    total: int = 0
    number: int = 0
    ratio: float = 0.0
    place: tuple[int, ...] = ()
    found: float = 0.0
    wanted: float = 0.0
    swapped: bool = True


@dataclass(slots=True)
class Equation:
    """One invariant over one unit. entries: what the right side is evaluated over, as the left side has it or in digits of the weight's own axis. runs: the
    axis and length of the runs of the weight that it needs sums of; None: it does not read the weight, or needs each element. reads: the tensors of the right
    side."""

    unit: Unit
    meaning: Meaning
    rule: Rule
    left: Index
    right: Expr
    entries: tuple[Entry, ...]
    reads: frozenset[str]
    runs: tuple[str, int] | None
    programs: Programs
    broken: Broken = field(default_factory=Broken)
    _sums: list[Array] = field(default_factory=list)
    _first: int = 0
    _rows: int = 0

    # -- blocks

    def see(self, raw: Array, count: int, held: Mapping[str, Array]) -> None:
        """The next rows of the weight."""
        self._sums.append(self.programs.once((id(self.meaning), count, self.runs), lambda: self._sums_of(count))(raw))
        self._rows += count * self.meaning.packed_rows
        if sum(part.size for part in self._sums) >= ENOUGH:
            self.flush(held)

    def _sums_of(self, count: int) -> Callable[[Array], Array]:
        """What makes sums of so many rows; without runs, the numbers themselves."""
        kind = rows_kind(self.meaning, count)
        if self.runs is not None:
            return RunSums.of(kind, self.meaning.row_axis, self.runs[1], self.programs.kernels)
        reader = Reader.of(kind, self.meaning.row_axis)
        return lambda raw: reader(raw, np.float64)

    def flush(self, held: Mapping[str, Array]) -> None:
        """Evaluate what is there."""
        if not self._rows:
            return
        sums = self._sums[0] if len(self._sums) == 1 else np.concatenate(self._sums)
        self._compare({**cut(held, self.meaning, self._first, self._rows), self.meaning.weight: sums}, self._first, self._rows)
        self._first, self._rows = self._first + self._rows, 0
        self._sums.clear()

    def evaluate(self, held: Mapping[str, Array]) -> None:
        """All at once, where the weight is not read."""
        self._compare(dict(held), 0, self.meaning.rows)

    # -- both sides

    def _compare(self, arrays: Mapping[str, Array], first: int, rows: int) -> None:
        found = self._run(self.left, arrays, rows)
        wanted = self._run(self.right, arrays, rows)
        difference = np.abs(found - wanted)
        self.broken.total += found.size
        allowed = self._exactly(found, wanted)
        if not (difference > allowed).any():
            return
        allowed = allowed + self._rounding(arrays, rows)
        wrong = difference > allowed
        number = int(np.count_nonzero(wrong))
        if not number:
            return
        self.broken.number += number
        ratio = np.where(wrong, difference / np.maximum(allowed, 1e-300), 0)
        if ratio.max() > self.broken.ratio:
            place = np.unravel_index(int(ratio.argmax()), ratio.shape)
            self.broken.ratio, self.broken.found, self.broken.wanted = float(ratio.max()), float(found[place]), float(wanted[place])
            self.broken.place = self._stored_place(place, first)
        self.broken.swapped = self.broken.swapped and self._holds_swapped(arrays, rows, found)

    def _exactly(self, found: Array, wanted: Array) -> Array:
        """What the result itself may be rounded by."""
        return 2 * self._unit(self.name) * np.abs(found) + 2 * FLOAT32 * np.abs(wanted)

    def _run(self, body: Expr, arrays: Mapping[str, Array], rows: int, *, absolute: bool = False) -> Array:
        entries = self.left.entries if body is self.left else self.entries
        key = (id(self.meaning), id(body), rows, self.runs, absolute)
        run = self.programs.once(key, lambda: program(body, entries, self._scope(rows, absolute=absolute)))
        result: Array = run(arrays).copy()
        return result

    def _scope(self, rows: int, *, absolute: bool = False) -> Scope:
        """What both sides read for so many rows: of the weight the sums."""
        meaning, coarse, kernels = self.meaning, dict([self.runs] if self.runs else ()), self.programs.kernels if self.weight else None
        scope = meaning.scope(rows if meaning.row_axis else None, coarse=coarse, absolute=absolute, memory="invariant", kernels=kernels)
        if self.runs is None:
            return scope
        axis, run = self.runs
        shape = scope.held[meaning.weight]
        bases = tuple(run if own == axis else base for own, base in zip(shape.axes, shape.bases))
        counts = tuple(number // run if own == axis else number for own, number in zip(shape.axes, shape.counts))
        return replace(scope, held={**scope.held, meaning.weight: Shape(shape.axes, bases, counts)})

    def _rounding(self, arrays: Mapping[str, Array], rows: int) -> Any:
        """What rounding may do: to the factors, each by half of its last digit; and to a sum of so many terms in float32."""
        factors = 2 * sum(self._unit(name) for name in self.reads)
        if not self.weight:
            return factors * self._run(self.right, arrays, rows, absolute=True)
        weight, kind = arrays[self.meaning.weight], ELEMENTS[self.meaning.kinds[self.meaning.weight].element]
        largest = float(1 << (kind.bits - 1)) if kind.kind == "int" else float(np.abs(weight).max())
        largest *= self.runs[1] if self.runs else 1
        terms = 4 * FLOAT32 * sqrt(prod(self.meaning.held[self.meaning.weight].counts) / max(self.meaning.rows, 1))
        if self.runs and factors:
            # The weight is a factor once, so that both bounds are one evaluation.
            bounds = np.abs(weight)
            bounds += largest * terms / factors
            return factors * self._run(self.right, {**arrays, self.meaning.weight: bounds}, rows, absolute=True)
        most = {**arrays, self.meaning.weight: np.full_like(weight, largest)}
        return factors * self._run(self.right, arrays, rows, absolute=True) + terms * self._run(self.right, most, rows, absolute=True)

    def _unit(self, name: str) -> float:
        """Half of the last digit of what the file holds, relative."""
        element = ELEMENTS[self.meaning.kinds[name].element]
        return 2.0 ** -(element.mantissa + 1) if element.kind == "float" and element.bits >= 16 else 0.0

    def _holds_swapped(self, arrays: Mapping[str, Array], rows: int, found: Array) -> bool:
        """Would it hold if the lanes of every word were in the other order. Only what lies in other rows then makes a difference."""
        meaning = self.meaning
        count = meaning.packed_rows
        if not self.weight or count < 2 or not meaning.row_axis:
            return False
        weight = arrays[meaning.weight]
        other = weight.reshape(-1, count, *weight.shape[1:])[:, ::-1].reshape(weight.shape)
        swapped = {**arrays, meaning.weight: other}
        wanted = self._run(self.right, swapped, rows)
        return not (np.abs(wanted - found) > self._exactly(found, wanted) + self._rounding(swapped, rows)).any()

    def _stored_place(self, place: Any, first: int) -> tuple[int, ...]:
        """The index in the whole left side, without the axis of experts."""
        digits = [digit for entry in self.left.entries if (digit := self.meaning.context.digit(entry)) is not None]
        found = []
        for digit, index in zip(digits, place):
            if digit.axis in self.meaning.expert_axes:
                continue
            div = self.meaning.scope().number(digit.div)
            found.append(int(index) + (first // div if digit.axis == self.meaning.row_axis else 0))
        return tuple(found)

    @property
    def weight(self) -> bool:
        """Does it read the weight."""
        return self.meaning.weight in self.reads

    @property
    def obstacle(self) -> str:
        """What neither side can be evaluated in blocks for; "" where both can, as in every bundled spec."""
        return self.programs.once((id(self.meaning), id(self.rule), "obstacle"), self._try)

    def _try(self) -> str:
        try:
            for side, entries in ((self.left, self.left.entries), (self.right, self.entries)):
                program(side, entries, self._scope(self.meaning.rows))
        except Unsupported as error:
            return str(error)
        return ""

    # -- finding

    @property
    def name(self) -> str:
        return self.meaning.context.member.expand(self.left.name)

    @property
    def tensor(self) -> StoredTensor:
        return self.unit.tensors[self.name]

    @property
    def text(self) -> str:
        return self.meaning.context.member.expand(self.rule.expr.span.text)

    def unchecked(self) -> Diagnostic:
        """That nobody looked."""
        message = f"`{self.text}` was not checked: values are read in blocks, and it cannot be evaluated so"
        return Diagnostic(code="invariant-unchecked", message=message, severity="warning", where=self.tensor.name, notes=(f"because of {self.obstacle}",))

    def findings(self) -> Iterator[Diagnostic]:
        broken = self.broken
        if not broken.number:
            return
        place = ", ".join(map(str, broken.place))
        notes = [f"{broken.number} of {broken.total} values do not fit", f"the worst, [{place}], is {broken.found:.9g}; the others give {broken.wanted:.9g}"]
        helps = ("one of the tensors is from another quantization, or of another layer or expert: write them again together",)
        if broken.swapped:
            helps = ("the values in each word are in the other order: with them exchanged it holds everywhere",)
        yield Diagnostic(code="invariant-broken", message=f"`{self.text}` does not hold", where=self.tensor.name, notes=tuple(notes), helps=helps)


Found = tuple[Rule, Index, Expr, "tuple[Entry, ...]", "frozenset[str]", "tuple[str, int] | None"]


def equations(unit: Unit, meaning: Meaning, rules: Sequence[Found], programs: Programs) -> list[Equation]:
    """The invariants of one unit. rules: :func:`rules_of` its meaning."""
    return [Equation(unit, meaning, *rule, programs) for rule in rules]


def held_by(rules: Iterable[Found], meaning: Meaning) -> frozenset[str]:
    """The tensors that these read besides the weight."""
    names = {name for _, left, _, _, names, _ in rules for name in (meaning.context.member.expand(left.name), *names)}
    return frozenset(names - {meaning.weight})


def rules_of(meaning: Meaning) -> Iterator[Found]:
    """The invariants that hold here and whose tensors are all stored."""
    scope = meaning.scope()
    for rule in meaning.plan.document.invariants:
        match rule.expr:
            case Binary("==", Index(name) as left, right) if meaning.context.holds(rule.condition):
                names = {meaning.context.member.expand(node.name) for node in nodes(right) if isinstance(node, Index)}
                if meaning.context.member.expand(name) not in meaning.kinds or not names <= {*meaning.kinds, *meaning.absent, *meaning.results}:
                    continue
                right, entries = _in_digits(right, left.entries, scope)
                needed = frozenset(reads(right, scope))
                runs = run_length(right, entries, meaning.weight, scope) if meaning.weight in needed and meaning.row_axis else None
                yield rule, left, right, entries, needed, runs


# ---- digits ---------------------------------------------------------------------------------------------------------------------------------------------


def _in_digits(right: Expr, entries: tuple[Entry, ...], scope: Scope) -> tuple[Expr, tuple[Entry, ...]]:
    """A sum over ``c`` of what is read at ``k = s * C + c`` is one over ``k%C``, with ``k//C`` for ``s``: then it is a sum of runs."""
    for pick in [node for node in nodes(right) if isinstance(node, Pick)]:
        match pick:
            case Pick(Name() as whole, Binary("+", Binary("*", Name() as upper, size), Name() as lower)) if _cover(whole, upper, size, lower, scope):
                digits = {upper.id: Binary("//", whole, size, pick.span), lower.id: Binary("%", whole, size, pick.span)}
                return _rewritten(right, digits), tuple(digits.get(entry.id, entry) if isinstance(entry, Name) else entry for entry in entries)
    return right, entries


def _cover(whole: Name, upper: Name, size: Expr, lower: Name, scope: Scope) -> bool:
    axes, extents = scope.context.axes, scope.extents
    if not {whole.id, upper.id, lower.id} <= axes.keys():
        return False
    length = scope.number(integer(size, scope.context))
    return extents[axes[lower.id]] == length and extents[axes[upper.id]] * length == extents[axes[whole.id]]


def _rewritten(node: Any, digits: Mapping[str, Expr]) -> Any:
    """Sums over these digits, and reads at the index that they make."""
    match node:
        case Sum(entries, body, span):
            return Sum(tuple(digits.get(entry.id, entry) if isinstance(entry, Name) else entry for entry in entries), _rewritten(body, digits), span)
        case Index(name, name_span, entries, span):
            return Index(name, name_span, tuple(entry.digit if isinstance(entry, Pick) else entry for entry in entries), span)
        case Binary(op, left, right, span):
            return Binary(op, _rewritten(left, digits), _rewritten(right, digits), span)
    return node
