"""One configuration as text: types, shapes and bytes in the letters of the spec, or with the numbers of ``--sizes``.

Shared by ``explain`` and ``describe``; above the compiler, whose state it only reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from layoutdsl.compiler.driver import Compiled
from layoutdsl.compiler.elaborate import Elaboration
from layoutdsl.compiler.scope import Context
from layoutdsl.diagnostics import DiagnosticError, Span
from layoutdsl.ir.layout import Digit, Dim, Space, TensorType, type_text
from layoutdsl.ir.symbolic import Proved, Size, format_size
from layoutdsl.syntax.document import Document, ForwardLine, Step
from layoutdsl.syntax.walk import nodes


@dataclass(frozen=True, slots=True)
class Accepted:
    """An ``accept``: the rule, the tensors whose steps bear it (or ``forward``), the reason, and whether the rule would refuse something here."""

    rule: str
    names: tuple[str, ...]
    why: str
    needed: bool


@dataclass(slots=True)
class Sheet:
    """A compiled world. sizes: numbers for some or all sizes; those of free axes are added, as far as they are taken for others."""

    compiled: Compiled
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nominal = {name: size for context in self.contexts for name, size in context.nominal.items() if size.symbols <= self.sizes.keys()}
        self.sizes = {name: size.evaluate(self.sizes) for name, size in nominal.items()} | dict(self.sizes)

    @property
    def state(self) -> Elaboration:
        return self.compiled.state

    @property
    def document(self) -> Document:
        return self.state.world.document

    @property
    def contexts(self) -> list[Context]:
        return list(self.state.contexts.values())

    # -- types

    def context(self, kind: TensorType) -> Context:
        """The member whose letters the type is written in."""
        axes = {digit.axis for dim in (*kind.dims, kind.lanes, kind.logical) for digit in dim}
        return next((context for context in self.contexts if axes <= set(context.axes.values())), self.contexts[0])

    def space(self, kind: TensorType) -> Space:
        return self.context(kind).space

    def type(self, kind: TensorType) -> str:
        return type_text(self.space(kind), kind)

    def shape(self, kind: TensorType) -> str:
        return f"[{', '.join(self.extent(dim, self.space(kind)) for dim in kind.dims)}]"

    def extent(self, dim: Dim, space: Space) -> str:
        """The extent of a dim; the number of groups that divide nothing provably is written ``cdiv(K, 32)``, whatever is known of K."""
        text = self.size(_extent(dim), space)
        if len(dim) != 1 or text.isdigit() or dim[0].div == 1:
            return text
        whole, div = space.extents[dim[0].axis], dim[0].div
        if space.facts.cdiv(whole, div) != dim[0].ext or isinstance(space.facts.divisible(whole, div), Proved):
            return text
        return f"cdiv({self.size(whole, space)}, {self.size(div, space)})"

    def size(self, size: Size, space: Space | None) -> str:
        """A size as a number where all it needs is known, else in letters; in the names of the sizes without a space."""
        if size.symbols <= self.sizes.keys():
            with suppress(ValueError, ZeroDivisionError):  # no such integer: the letters say why
                return str(size.evaluate(self.sizes))
        if self.sizes:
            return format_size(size, {Size.of(name): str(value) for name, value in self.sizes.items()})
        return space.text(size) if space is not None else format_size(size)

    def bytes(self, kind: TensorType) -> Size:
        """Bytes of one tensor, or of all tensors of a list."""
        total = Size.of(kind.itemsize)
        for dim in kind.dims:
            total = total * _extent(dim)
        return total * self.space(kind).extents[kind.listed] if kind.listed else total

    # -- the world

    def cases(self) -> list[tuple[str, str]]:
        """Facet and case, for every facet."""
        cases = self.state.world.cases
        return [(facet.name.value, next(case.name.value for case in facet.cases if cases[case.name.value])) for facet in self.document.variants]

    def axes(self, text: str = "", *, mentioned: bool = False) -> list[str]:
        """What the capitals mean, and the names of ``let`` that ``text`` mentions; one line for all members, or one each where they differ. mentioned: leave
        out the axes that ``text`` does not mention."""
        words = set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", text))
        known = {member: [one for one in letters if not mentioned or {one[0], one[0].lower()} & words] for member, letters in self.letters(text).items()}
        lines = {member: ", ".join(f"{name} = {value}" for name, value in letters) for member, letters in known.items()}
        if len(set(lines.values())) == 1:
            return [next(iter(lines.values()))]
        return [f"{name}: {line}" for name, line in lines.items()]

    def letters(self, text: str = "") -> dict[str, list[tuple[str, str]]]:
        """For every member the capitals and the names of ``let`` that ``text`` mentions, each with what it means."""
        mentioned = set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", text))
        return {context.member.name: [*self._extents(context), *self._lets(context, mentioned)] for context in self.contexts}

    def _extents(self, context: Context) -> Iterator[tuple[str, str]]:
        for letter, axis in context.axes.items():
            size, nominal = context.space.extents[axis], context.nominal.get(letter.upper())
            if size == Size.of(letter.upper()) and letter.upper() not in self.sizes:
                yield letter.upper(), "as stored" if nominal is None else f"as stored, else {self.size(nominal, None)}"
            else:
                yield letter.upper(), self._equal(size)

    def _lets(self, context: Context, mentioned: set[str]) -> Iterator[tuple[str, str]]:
        for let in self.document.let:
            if let.name.value in mentioned:
                value = context.lookup(let.name.value, let.span)
                yield let.name.value, self._equal(value) if isinstance(value, Size) else str(value)

    def _equal(self, size: Size) -> str:
        symbolic, text = format_size(size), self.size(size, None)
        return symbolic if text == symbolic else f"{symbolic} = {text}"

    def accepted(self) -> list[Accepted]:
        """What the steps and lines of this world reproduce on purpose, in the order of the file."""
        written = {text.span: node for node in nodes(self.document) if isinstance(node, (Step, ForwardLine)) for text in node.accept}
        found: dict[Span, Accepted] = {}
        for accept in self.state.accepts:
            node, known = written[accept.span], found.get(accept.span)
            name = accept.name if isinstance(node, Step) else "forward"
            names = (*known.names, name) if known is not None else (name,)
            needed = accept.used or (known is not None and known.needed)
            found[accept.span] = Accepted(accept.code, tuple(dict.fromkeys(names)), " ".join(node.why.value.split()) if node.why else "", needed)
        return [found[span] for span in sorted(found, key=lambda span: span.start)]

    def refuse_problems(self) -> None:
        """Raise what is wrong with the spec in this world."""
        problems = [p for p in (*self.state.problems, *self.compiled.forward.problems) if p.severity == "error"]
        if problems:
            raise DiagnosticError(*dict.fromkeys(problems))


def _extent(dim: Dim) -> Size:
    total = Size.of(1)
    for digit in dim:
        total = total * digit.ext
    return total


def one_line(span: Span) -> str:
    """A text of the spec as one line."""
    return " ".join(span.text.split())


def arm_text(context: Context, cased: Any) -> str | None:
    """The text of the alternative that holds, templates expanded; None where none does."""
    body = context.arm(cased)
    return None if body is None else context.member.expand(one_line(body.span))


# ---- storage in words --------------------------------------------------------------------------------------------------------------------------------------

UNITS = {1: "byte", 2: "halfword", 4: "word", 8: "doubleword"}


def storage_words(sheet: Sheet, kind: TensorType) -> list[str]:
    """How a stored tensor differs from the plain one of its dtype and shape."""
    space = sheet.space(kind)
    words = []
    if kind.lanes:
        words.append(_lanes(sheet, kind))
    elif kind.carriage == "value":
        words.append(f"one {kind.element.name} in each {kind.storage}, by value")
    elif kind.carriage == "bits":
        upper = {"zero": ", upper bits zero", "sign": ", upper bits copies of the sign", None: ""}[kind.extension]
        words.append(f"{kind.storage} holds the bits of {kind.element.name}{upper}")
    elif kind.element.name != kind.storage:
        words.append(f"the values are {kind.element.name}")
    if kind.element.excess:
        words.append(f"stored is the value + {kind.element.excess}")
    if not kind.contiguous:
        words.append(f"in memory as [{_dims(space, [kind.dims[place] for place in kind.order])}]")
    if kind.format:
        words.append(f"in FRACTAL_NZ blocks of {kind.format} bytes")
    words += [f"axis {pad.axis.rpartition('.')[2]} padded to {sheet.size(pad.capacity, space)} with {pad.fill}" for pad in kind.pads]
    return words


def _lanes(sheet: Sheet, kind: TensorType) -> str:
    space, bits = sheet.space(kind), kind.element_bits
    unit = UNITS.get(kind.itemsize, kind.storage)
    element = _dims(space, [(digit,) for digit in kind.logical])
    text = f"element [{element}] in lane {_lane_number(space, kind.lanes)} of {unit} [{_dims(space, kind.dims)}]; lane 0 = low bits, {bits} bits each"
    order = _lane_order(kind.lanes)
    return f"{text}; lanes 0, 1, ... hold {_dims(space, [_whole(kind.lanes)])} = {', '.join(map(str, order))}" if order else text


def _lane_number(space: Space, lanes: Dim) -> str:
    """``n%2``; of several digits each times what lies below it."""
    parts: list[str] = []
    factor = 1
    for digit in reversed([digit for digit in lanes if not digit.unit]):
        text = _dims(space, [(digit,)])
        parts.insert(0, text if factor == 1 else f"{factor}*({text})")
        factor *= digit.ext.constant or 1
    return " + ".join(parts) or "0"


def _whole(lanes: Dim) -> Dim:
    """The digit that all lanes of one axis make up."""
    low = min(lanes, key=lambda digit: digit.div.constant or 0)
    return (Digit(low.axis, low.div, _extent(lanes), False),)


def _lane_order(lanes: Dim) -> list[int]:
    """For each lane the remainder that it holds, where that is not simply the lane's number."""
    if len(lanes) < 2 or len({digit.axis for digit in lanes}) > 1 or any(digit.ext.constant is None or digit.div.constant is None for digit in lanes):
        return []
    base = min(digit.div.constant or 1 for digit in lanes)
    order = [0]
    for digit in lanes:
        step = (digit.div.constant or 1) // base
        order = [held + step * index for held in order for index in range(digit.ext.constant or 1)]
    return order if order != sorted(order) else []


def _dims(space: Space, dims: list[Dim] | tuple[Dim, ...]) -> str:
    from layoutdsl.ir.layout import dims_text

    return dims_text(space, dims)
