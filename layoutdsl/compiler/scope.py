"""Names and what they mean: one namespace over cases, axes, extents, ``let``, config, dtypes and sizes; per member of a template.

Made by the driver for one :class:`World`; read by every later pass. Invariant: within one world a name has one meaning; what is of finite domain is
decided or raises ``Undecided``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import product
from typing import Any, TypeVar, cast

from layoutdsl.compiler.config import ConfigValue, Setting
from layoutdsl.compiler.evaluate import DtypeName, Undecided, evaluate, fail, size_of, truth
from layoutdsl.compiler.helps import help_for
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Label, Span
from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.ir.layout import Digit, Dim, Space
from layoutdsl.ir.symbolic import Facts, Size
from layoutdsl.plan.sizes import KIND_SIZES
from layoutdsl.syntax.document import Cased, CaseMap, Document
from layoutdsl.syntax.tree import Binary, Constant, Entry, Expr, Group, Name, Pick, Unary

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Member:
    """One instance of the templates: ``{p: w13, w: w1}``; the empty member of a spec without ``each``."""

    bindings: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return self.bindings[0][1] if self.bindings else ""

    def expand(self, text: str) -> str:
        if "<" not in text:
            return text
        for hole, word in self.bindings:
            text = text.replace(f"<{hole}>", word)
        return text


def members_of(document: Document) -> tuple[Member, ...]:
    """The members in the order of the file; one empty member without ``each``."""
    if not document.each:
        return (Member(),)
    lengths = {len(each.members) for each in document.each}
    if len(lengths) > 1:
        fail(
            "each-not-parallel",
            document.each[-1].span,
            f"the word lists of `each` differ in length: {', '.join(f'{each.name.value} has {len(each.members)}' for each in document.each)}",
        )
    return tuple(Member(tuple((each.name.value, each.members[i].value) for each in document.each)) for i in range(len(document.each[0].members)))


class Memo:
    """What was made from something is made once.

    By identity for nodes and types, which stay referenced, so that an id is never another's; by value for small keys.
    """

    def __init__(self) -> None:
        self._by_identity: dict[tuple[int, ...], tuple[tuple[object, ...], Any]] = {}
        self._by_value: dict[Any, Any] = {}

    def once(self, sources: tuple[object, ...], make: Callable[[], T]) -> T:
        """The result for exactly these objects."""
        key = tuple(map(id, sources))
        found = self._by_identity.get(key)
        if found is None:
            found = self._by_identity[key] = (sources, make())
        result: T = found[1]
        return result

    def by_value(self, key: Any, make: Callable[[], T]) -> T:
        """The result for everything equal to the key."""
        if key not in self._by_value:
            self._by_value[key] = make()
        result: T = self._by_value[key]
        return result


@dataclass(slots=True, eq=False)
class World:
    """One decided configuration. config: decided names; cases: truth of every case; facts: what ``require`` says here. alike: per name of finite domain, the
    values that are told apart by nothing, of which the first is tried for all. merged: configs that lead to the same cases and facts."""

    document: Document
    settings: Mapping[str, Setting]
    config: dict[str, ConfigValue]
    domains: Mapping[str, tuple[ConfigValue, ...]]
    cases: dict[str, bool] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    concrete: bool = False
    memos: dict[Any, Any] = field(default_factory=dict)
    uses: frozenset[str] | None = None
    bounds: Facts = field(default_factory=Facts)
    used: set[str] = field(default_factory=set)
    alike: Mapping[str, tuple[tuple[ConfigValue, ...], ...]] = field(default_factory=dict)
    merged: list[dict[str, ConfigValue]] = field(default_factory=list)

    @property
    def decided(self) -> bool:
        """Are the cases of all facets known?"""
        return len(self.cases) == sum(len(facet.cases) for facet in self.document.variants)

    @property
    def platforms(self) -> tuple[tuple[str, str], ...]:
        """Every (device, consumer) that this world stands for."""
        found = (product(self._values(config, "device"), self._values(config, "consumer")) for config in (self.config, *self.merged))
        return tuple(dict.fromkeys((str(device), str(consumer)) for pairs in found for device, consumer in pairs))

    def _values(self, config: Mapping[str, ConfigValue], name: str) -> tuple[ConfigValue, ...]:
        decided = config.get(name)
        if decided is None:
            return tuple(self.settings[name].values or ())
        return next((values for values in self.alike.get(name, ()) if decided in values), (decided,))

    def describe(self) -> str:
        """The decided names that matter, for messages."""
        cases = [name for name, holds in self.cases.items() if holds]
        return ", ".join([*cases, *(f"{name} = {value}" for name, value in self.config.items() if name in ("weight_nz_mode", "params_dtype"))])


@dataclass(slots=True, eq=False)
class Context:
    """A world seen from one member: names, axes and the space in which types are checked. nominal: what the sizes of free axes are taken for, once ``space`` is
    there."""

    world: World
    member: Member
    facts: Facts
    nominal: dict[str, Size] = field(default_factory=dict)
    _lets: dict[str, Any] = field(default_factory=dict)
    _axes: dict[str, str] = field(default_factory=dict)
    _space: Space | None = None
    _memo: Memo | None = None
    _known: dict[str, Any] = field(default_factory=dict)
    _flags: dict[str, bool] | None = None

    # -- names

    def lookup(self, name: str, span: Span) -> Any:
        """The value of a name. Raises DiagnosticError (``name-unknown``), Undecided."""
        if "<" in name:
            name = self.member.expand(name)
        case = self.world.cases.get(name)
        if case is not None:
            return case
        found = self._known.get(name, _PENDING)
        if found is _PENDING:
            found = self._known[name] = self._resolve(name, span)
        return found

    def _resolve(self, name: str, span: Span) -> Any:
        if any(name in words for words in self._member_words()):
            return any(name == word for _, word in self.member.bindings)
        if len(name) <= 2 and name.lower() in self.axes and name[0].isupper():
            extent = self.space.extents.get(self.axes[name.lower()])
            if extent is None:
                fail("extent-later", span, f"`{name}` is not known yet: its axis stands further down", helps=("move that axis up",))
            return _plain(extent)
        if name in self._let_names():
            return self._let(name, span)
        if name in self.world.settings:
            return self._config(name)
        if name in ELEMENTS:
            return DtypeName(name)
        if name in KIND_SIZES:
            return self.facts.symbol(name)
        return self._unknown(name, span)

    def _unknown(self, name: str, span: Span) -> Any:
        known = [*self.world.cases, *self._let_names(), *self.world.settings, *ELEMENTS, *KIND_SIZES, *(a.upper() for a in self.axes)]
        close = get_close_matches(name, known, 1)
        fail("name-unknown", span, f"`{name}` is not a name of config, a case, a size or a dtype", helps=(f"a name like it is `{close[0]}`",) if close else ())

    def _member_words(self) -> Iterator[set[str]]:
        return ({text.value for text in each.members} for each in self.world.document.each)

    def _let_names(self) -> set[str]:
        return {let.name.value for let in self.world.document.let}

    def _let(self, name: str, span: Span) -> Any:
        if name not in self._lets:
            self._lets[name] = _PENDING
            decl = next(let for let in self.world.document.let if let.name.value == name)
            body = self.expr(decl.value)
            if body is None:
                del self._lets[name]
                fail("case-missing", decl.span, f"no case of `{name}` holds in: {self.describe()}")
            try:
                self._lets[name] = evaluate(body, self)
            except (Undecided, DiagnosticError):
                self._lets.pop(name, None)  # a cycle has taken it away already
                raise
        if self._lets[name] is _PENDING:
            del self._lets[name]
            fail("let-cycle", span, f"`{name}` is defined by itself")
        return self._lets[name]

    def _config(self, name: str) -> Any:
        world, setting = self.world, self.world.settings[name]
        world.used.add(name)
        if name in world.config:
            value = world.config[name]
            if name == "params_dtype" or (isinstance(value, str) and value in ELEMENTS and name.endswith("dtype")):
                return DtypeName(value)
            return Size.of(name) if value is SYMBOLIC else value
        if name in world.domains:
            raise Undecided(name)
        if setting.type == "int":
            return self.facts.symbol(name)
        raise Undecided(name)

    def describe(self) -> str:
        """The member and the decided names that matter, for messages."""
        return ", ".join(filter(None, (self.member.name, self.world.describe()))) or "every configuration"

    # -- cases

    def arm(self, cased: Cased[T] | None) -> T | None:
        """The alternative that holds, or None. Raises DiagnosticError (``case-overlap``) if several do."""
        if not isinstance(cased, CaseMap):
            return cased
        held = [(arm.value, arm.condition.span) for arm in cased.arms if arm.condition is not None and self.holds(arm.condition)]
        if len(held) > 1:
            (_, first), (_, second), *_ = held
            message = f"two cases hold at once: {self.world.describe()}"
            label = Label(first, "this one holds too")
            raise DiagnosticError(Diagnostic(code="case-overlap", message=message, span=second, labels=(label,), helps=help_for("case-overlap")))
        return held[0][0] if held else next((arm.value for arm in cased.arms if arm.condition is None), None)

    def expr(self, cased: Cased[Expr] | None) -> Expr | None:
        """``arm`` of a cased expression."""
        return cast("Expr | None", self.arm(cased))

    def holds(self, condition: Expr | None) -> bool:
        if condition is None:
            return True
        flags = self.flags
        if flags is None:
            return truth(condition, self)
        predicates: Memo = self.world.memos.setdefault("predicates", Memo())
        predicate = predicates.once((condition,), lambda: _predicate(condition, flags))
        return predicate(flags) if predicate is not None else truth(condition, self)

    @property
    def flags(self) -> dict[str, bool] | None:
        """Truth of every case and every member's name; None while the cases are being decided."""
        if self._flags is None and self.world.decided:
            ours = {word for _, word in self.member.bindings}
            self._flags = self.world.cases | {word: word in ours for words in self._member_words() for word in words}
        return self._flags

    # -- axes and digits

    @property
    def axes(self) -> dict[str, str]:
        """Letter to axis id; an axis given per member is the member's own."""
        if not self._axes:
            self._axes = {
                axis.name.value: f"{self.member.name}.{axis.name.value}" if isinstance(axis.extent, CaseMap) else axis.name.value
                for axis in self.world.document.axes
            }
        return self._axes

    @property
    def space(self) -> Space:
        if self._space is None:
            extents: dict[str, Size] = {}
            # While extents are evaluated, those above are there already: an extent may use the capitals of earlier axes.
            self._space = Space(self.facts, extents, names={})
            try:
                self._fill(extents)
            except (DiagnosticError, Undecided):
                self._space = None
                raise
            names = {extents[axis]: letter.upper() for letter, axis in reversed(self._axes.items()) if extents[axis].constant is None}
            self._space = Space(self.facts, extents, names)
            for let, value in zip(self.world.document.let, self._quiet_lets()):
                if isinstance(value, Size) and value.applications:
                    names.setdefault(value, let.name.value)  # too long to be read without its name
        return self._space

    def _fill(self, extents: dict[str, Size]) -> None:
        for axis in self.world.document.axes:
            letter = axis.name.value
            body = self.expr(axis.extent)
            if body is None and not axis.free:
                fail("case-missing", axis.span, f"no case of axis `{letter}` holds in: {self.describe()}")
            size = None if body is None else self.facts.floor(size_of(body, self))
            if axis.free and size is not None:
                self.nominal[letter.upper()] = size
            extents[self.axes[letter]] = self.facts.symbol(letter.upper()) if axis.free or size is None else size

    @property
    def memo(self) -> Memo:
        """Results by node, shared by all worlds in which names of sizes have the same values: digits and types of one text are made once, not once per
        world."""
        if self._memo is None:
            values = [value if isinstance(value, (int, Size)) else str(value) for value in self._quiet_lets()]
            uses = self.world.uses
            config = [(name, str(value)) for name, value in sorted(self.world.config.items()) if uses is None or name in uses or name == "params_dtype"]
            key = (self.member.name, tuple(values), tuple(config), tuple(self.space.extents.items()))
            self._memo = self.world.memos.setdefault((self.facts, *key), Memo())
        return self._memo

    def _quiet_lets(self) -> Iterator[Any]:
        for let in self.world.document.let:
            try:
                yield self._let(let.name.value, let.span)
            except (Undecided, DiagnosticError):
                yield None

    def digit(self, entry: Entry) -> Digit | None:
        """An index entry as a digit; None for the unit entry ``0``. Raises DiagnosticError (``not-a-digit``)."""
        return self.memo.once((entry,), lambda: self._digit(entry))

    def _digit(self, entry: Entry) -> Digit | None:
        match entry:
            case Constant(0):
                return None
            case Name(name, span):
                return self._top(name, span, Size.of(1))
            case Binary("//", left, right):
                return self._coarser(left, self.divisor(right), right.span)
            case Binary("%", left, right):
                return self._inner(left, self.divisor(right))
            case Group() | Pick():
                fail("not-a-digit", entry.span, "this form of index is not possible here")
            case _:
                fail(
                    "not-a-digit",
                    entry.span,
                    f"`{entry.span.text}` is not an index",
                    helps=("write an axis `n`, a quotient `n//8`, a remainder `n%8`, both `n//2%4`, or `0`",),
                )

    def _top(self, name: str, span: Span, div: Size) -> Digit:
        axis = self.axes.get(name)
        if axis is None:
            help_ = f"the index of axis `{name.lower()}` is written `{name.lower()}`" if name.lower() in self.axes else f"axes: {', '.join(self.axes)}"
            fail("not-an-axis", span, f"`{name}` is not an axis", helps=(help_,))
        return self.space.top(axis, div)

    def _coarser(self, left: Expr, div: Size, span: Span) -> Digit:
        match left:
            case Name(name, name_span):
                return self._top(name, name_span, div)
            case Binary("%", inner, right):
                digit, modulus = self.digit(inner), self.divisor(right)
                if digit is not None:
                    return Digit(digit.axis, digit.div * div, self.facts.div(modulus, div), False)
        fail("not-a-digit", left.span, f"`{left.span.text}` is not an axis")

    def _inner(self, left: Expr, modulus: Size) -> Digit:
        digit = self.digit(left)
        if digit is None:
            fail("not-a-digit", left.span, "`0` has no remainder")
        return Digit(digit.axis, digit.div, modulus, digit.ext == modulus)

    def divisor(self, expr: Expr) -> Size:
        """What something is divided by, or padded to a multiple of. Raises DiagnosticError (``divisor-not-a-product``)."""
        size = size_of(expr, self)
        if len(size.terms) != 1 or size.terms[0][1] <= 0:
            fail("divisor-not-a-product", expr.span, f"`{expr.span.text}` is not a product of names and positive numbers")
        return size

    def dim(self, entry: Entry) -> Dim:
        """An entry of a dims list: one digit, several in parentheses, or none for ``0``."""
        entries = entry.items if isinstance(entry, Group) else (entry,)
        return tuple(digit for digit in map(self.digit, entries) if digit is not None)

    def dims(self, entries: tuple[Entry, ...]) -> tuple[Dim, ...]:
        return self.memo.once((entries,), lambda: tuple(map(self.dim, entries)))


class _Symbolic:
    """Marks an integer of the config that stays a symbol in this world."""

    def __repr__(self) -> str:
        return "any"


SYMBOLIC: Any = _Symbolic()
_PENDING = object()


def _plain(size: Size) -> int | Size:
    return size.constant if size.constant is not None else size


Predicate = Callable[[Mapping[str, bool]], bool]


def _predicate(expr: Expr, flags: Mapping[str, bool]) -> Predicate | None:
    """A condition over case names alone as a function of their truth: the same conditions are asked in every world. None for any other condition."""
    match expr:
        case Name(name) if name in flags:
            return lambda truths: truths[name]
        case Unary("not", operand):
            inner = _predicate(operand, flags)
            return None if inner is None else lambda truths: not inner(truths)
        case Binary("and" | "or" as op, left, right):
            first, second = _predicate(left, flags), _predicate(right, flags)
            if first is None or second is None:
                return None
            if op == "and":
                return lambda truths: first(truths) and second(truths)
            return lambda truths: first(truths) or second(truths)
    return None
