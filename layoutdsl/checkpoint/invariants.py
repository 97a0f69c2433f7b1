"""The equations of a spec between stored tensors, over the tensors of one unit.

Under ``values``. Of the weight mostly a sum over each row is needed: its numbers are added up over runs in which nothing else changes, so that a scale is
multiplied once per group and not once per weight; where that is not possible, it is read element by element.

Invariants: what rounding in the dtypes on disk can do is no finding: each stored factor may be off by half a unit of its last digit, and the sum was made in
float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod, sqrt
from typing import Any

import numpy as np

from layoutdsl.checkpoint.decoded import Programs, cut, rows_kind
from layoutdsl.checkpoint.evaluate import Run, Scope, Unsupported, Weighed, program, reads, weighed_sum, weights
from layoutdsl.checkpoint.model import StoredTensor
from layoutdsl.checkpoint.numbers import Array, Reader, WeighedSums
from layoutdsl.checkpoint.units import Meaning, Unit
from layoutdsl.compiler.evaluate import integer
from layoutdsl.diagnostics import Diagnostic
from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.syntax.tree import Binary, Entry, Expr, Index, Name, Pick, Rule, Sum
from layoutdsl.syntax.walk import nodes

FLOAT32 = 2.0**-24
SUM, TERMS, MOST = "the sum", "its terms", "its largest terms"
"""What arrays hold of a sum over the weight, beside tensors, whose names have no blanks."""


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


@dataclass(frozen=True, slots=True)
class Invariant:
    """An equation of a spec for one meaning. entries: what the right side is evaluated over, as the left side has it or in digits of the weight's own axis.
    reads: the tensors of the right side. sum: all that it needs of the weight; None: it does not read the weight, or needs each element."""

    rule: Rule
    left: Index
    right: Expr
    entries: tuple[Entry, ...]
    reads: frozenset[str]
    sum: Weighed | None


@dataclass(slots=True)
class Equation:
    """An invariant over one unit, block by block."""

    unit: Unit
    meaning: Meaning
    invariant: Invariant
    programs: Programs
    broken: Broken = field(default_factory=Broken)

    def see(self, first: int, raw: Array, count: int, held: Mapping[str, Array]) -> None:
        """Evaluates it for the next rows of the weight. first: the number of the first; count: of words that hold rows."""
        rows, name = count * self.meaning.packed_rows, self.meaning.weight
        arrays, key = cut(held, self.meaning, first, rows), (id(self.meaning), id(self.invariant), count)
        weighed = self.invariant.sum
        if weighed is None:
            reader = self.programs.once((*key, "reader"), lambda: Reader.of(rows_kind(self.meaning, count), self.meaning.row_axis))
            numbers = reader(raw, np.float64)
            self._compare({**arrays, name: numbers}, first, rows, lambda: {**arrays, name: self._exchanged(numbers)})
            return
        sums, factor = self.programs.once((*key, "sums"), partial(self._sums_of, weighed, count))
        factors = factor(arrays)
        found = sums(raw, factors)
        self._compare({**arrays, **_sums(found)}, first, rows, lambda: {**arrays, **_sums(sums.added(self._exchanged(sums.sums(raw)), factors))})

    def _sums_of(self, weighed: Weighed, count: int) -> tuple[WeighedSums, Run]:
        """What adds up so many rows, and what says by what the numbers are multiplied."""
        meaning, rows = self.meaning, count * self.meaning.packed_rows
        sums = WeighedSums.of(rows_kind(meaning, count), meaning.row_axis, weighed.run, weighed.parts, self.programs.kernels)
        return sums, weights(weighed, self.invariant.entries, rows, meaning.scope(rows, memory="weights"))

    def _exchanged(self, array: Array) -> Array:
        """The rows of every word in the other order."""
        other: Array = array.reshape(-1, self.meaning.packed_rows, *array.shape[1:])[:, ::-1].reshape(array.shape)
        return other

    def evaluate(self, held: Mapping[str, Array]) -> None:
        """All at once, where the weight is not read."""
        self._compare(dict(held), 0, self.meaning.rows, None)

    # -- both sides

    def _compare(self, arrays: Mapping[str, Array], first: int, rows: int, swapped: Callable[[], Mapping[str, Array]] | None) -> None:
        """swapped: the same arrays if the rows of every word lay in the other order."""
        found = self._run(self.invariant.left, arrays, rows)
        wanted = self._run(self.invariant.right, arrays, rows)
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
        self.broken.swapped = self.broken.swapped and swapped is not None and self.meaning.packed_rows > 1 and self._holds(swapped(), rows, found)

    def _exactly(self, found: Array, wanted: Array) -> Array:
        """What the result itself may be rounded by."""
        return 2 * self._unit(self.name) * np.abs(found) + 2 * FLOAT32 * np.abs(wanted)

    def _run(self, body: Expr, arrays: Mapping[str, Array], rows: int, *, of: str = SUM, absolute: bool = False) -> Array:
        entries = self.invariant.left.entries if body is self.invariant.left else self.invariant.entries
        key = (id(self.meaning), id(body), rows, of, absolute)
        run = self.programs.once(key, lambda: program(body, entries, self._scope(rows, of=of, absolute=absolute)))
        result: Array = run(arrays).copy()
        return result

    def _scope(self, rows: int, *, of: str = SUM, absolute: bool = False) -> Scope:
        """What both sides read for so many rows. of: what the sum over the weight is, or bounds it."""
        sums = {id(self.invariant.sum.sum): of} if self.invariant.sum is not None else {}
        return self.meaning.scope(rows if self.meaning.row_axis else None, sums=sums, absolute=absolute, memory="invariant")

    def _rounding(self, arrays: Mapping[str, Array], rows: int) -> Any:
        """What rounding may do: to the factors, each by half of its last digit; and to a sum of so many terms in float32."""
        factors, name = 2 * sum(self._unit(name) for name in self.invariant.reads), self.meaning.weight
        if not self.weight:
            return factors * self._run(self.invariant.right, arrays, rows, absolute=True)
        terms = 4 * FLOAT32 * sqrt(prod(self.meaning.held[name].counts) / max(self.meaning.rows, 1))
        if self.invariant.sum is not None:
            first = factors * self._run(self.invariant.right, arrays, rows, of=TERMS, absolute=True)
            return first + terms * self._run(self.invariant.right, arrays, rows, of=MOST, absolute=True)
        kind = ELEMENTS[self.meaning.kinds[name].element]
        largest = float(1 << (kind.bits - 1)) if kind.kind == "int" else float(np.abs(arrays[name]).max(initial=0))
        most = {**arrays, name: np.full_like(arrays[name], largest)}
        return factors * self._run(self.invariant.right, arrays, rows, absolute=True) + terms * self._run(self.invariant.right, most, rows, absolute=True)

    def _unit(self, name: str) -> float:
        """Half of the last digit of what the file holds, relative."""
        element = ELEMENTS[self.meaning.kinds[name].element]
        return 2.0 ** -(element.mantissa + 1) if element.kind == "float" and element.bits >= 16 else 0.0

    def _holds(self, arrays: Mapping[str, Array], rows: int, found: Array) -> bool:
        wanted = self._run(self.invariant.right, arrays, rows)
        return not (np.abs(wanted - found) > self._exactly(found, wanted) + self._rounding(arrays, rows)).any()

    def _stored_place(self, place: Any, first: int) -> tuple[int, ...]:
        """The index in the whole left side, without the axis of experts."""
        digits = [digit for entry in self.invariant.left.entries if (digit := self.meaning.context.digit(entry)) is not None]
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
        return self.meaning.weight in self.invariant.reads

    @property
    def obstacle(self) -> str:
        """What neither side can be evaluated in blocks for; "" where both can, as in every bundled spec."""
        return self.programs.once((id(self.meaning), id(self.invariant.rule), "obstacle"), self._try)

    def _try(self) -> str:
        try:
            for side, entries in ((self.invariant.left, self.invariant.left.entries), (self.invariant.right, self.invariant.entries)):
                program(side, entries, self._scope(self.meaning.rows))
            if self.invariant.sum is not None:
                weights(self.invariant.sum, self.invariant.entries, self.meaning.rows, self.meaning.scope())
        except Unsupported as error:
            return str(error)
        return ""

    # -- finding

    @property
    def name(self) -> str:
        return self.meaning.context.member.expand(self.invariant.left.name)

    @property
    def tensor(self) -> StoredTensor:
        return self.unit.tensors[self.name]

    @property
    def text(self) -> str:
        return self.meaning.context.member.expand(self.invariant.rule.expr.span.text)

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


def _sums(found: Array) -> dict[str, Array]:
    return dict(zip((SUM, TERMS, MOST), found))


def equations(unit: Unit, meaning: Meaning, rules: Sequence[Invariant], programs: Programs) -> list[Equation]:
    """The invariants of one unit. rules: :func:`rules_of` its meaning."""
    return [Equation(unit, meaning, rule, programs) for rule in rules]


def held_by(rules: Iterable[Invariant], meaning: Meaning) -> frozenset[str]:
    """The tensors that these read besides the weight."""
    names = {name for rule in rules for name in (meaning.context.member.expand(rule.left.name), *rule.reads)}
    return frozenset(names - {meaning.weight})


def rules_of(meaning: Meaning) -> Iterator[Invariant]:
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
                reads_rows = meaning.weight in needed and meaning.row_axis
                sum = weighed_sum(right, entries, meaning.weight, meaning.row_axis, scope) if reads_rows else None
                yield Invariant(rule, left, right, entries, needed, sum)


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
