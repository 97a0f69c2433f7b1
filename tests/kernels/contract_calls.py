"""Calls made from the text of a contract row alone: operands typed as the row wants them, over axes with other names, and single changes to them.

Read by the tests of contracts; adding a row adds its calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from layoutdsl.compiler.contracts import Operand, RowContext, Verdict, check_call
from layoutdsl.compiler.driver import worlds
from layoutdsl.compiler.evaluate import DtypeName
from layoutdsl.compiler.scope import Context, Memo
from layoutdsl.compiler.types import tensor_type
from layoutdsl.diagnostics import Source, Span
from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.ir.layout import ROWS, Digit, Element, Space, TensorType, find_dim
from layoutdsl.ir.symbolic import Facts, Size
from layoutdsl.kernels import ANY, CONTRACTS, LIST, Contract, Row
from layoutdsl.kernels.schemas import SchemaParameter
from layoutdsl.syntax.expressions import parse_type
from layoutdsl.syntax.reader import read_document
from layoutdsl.syntax.tree import TypeText

SIZES = {"E": 3, "M": 5, "N": 256, "K": 512, "Q": 512, "B": 96, "J": 16, "R": 16, "C": 256}
"""Extents of the kernels' letters; groups are of 256, as wide as a rotated matrix is 32."""
AXES = {letter.lower(): ROWS if letter == "M" else f"layer.{letter.lower()}x" for letter in SIZES}
INTEGERS = {"g": 256, "r": 32}
TEXT = """
layoutdsl: 1
scheme: CALLS
layer: moe
title: a layer with segments
holds: {{consumer: [vllm-ascend-main], device: [a2]}}
axes: {{n: num_experts}}
segments: {{n: [{segments}]}}
params: {{weight: "int8[n]"}}
value: none
steps: []
forward: external
"""
SPAN = Span(Source("call", "call"), 0, 4)


@cache
def context(segments: tuple[str, ...]) -> Context:
    """Any layer, in which the axis that the kernel calls n has these parts; all sizes but that of the rows are multiples of 256."""
    document = read_document(Source("calls.moe.yaml", TEXT.format(segments=", ".join(segments or ("a", "b")))))
    compiled = next(worlds(document))
    (named,) = document.segments
    world = compiled.state.world
    world.document = replace(document, segments=(replace(named, axis=replace(named.axis, value=AXES["n"])),))
    many = [(Size.of(256), Size.of(letter)) for letter in SIZES if letter not in "EMBJ"]
    made = Context(world, next(iter(compiled.state.contexts.values())).member, Facts(tuple(many)))
    made._axes = {axis: axis for axis in AXES.values()}
    made._space = Space(made.facts, {axis: Size.of(letter.upper()) for letter, axis in AXES.items()}, {})
    made._memo = Memo()
    return made


@cache
def parsed(text: str) -> TypeText:
    source = Source("row", text.removeprefix(LIST))
    return parse_type(Span(source, 0, len(source.text)))


@dataclass(frozen=True)
class Call:
    """One way to call a row: a choice of dtypes, with or without what is optional."""

    contract: Contract
    row: Row
    dtypes: tuple[tuple[str, str], ...]
    bare: bool

    def __str__(self) -> str:
        return f"{self.contract.op}: {self.row.name}, {self.row.devices[0]}, {dict(self.dtypes)}{', bare' if self.bare else ''}"

    @property
    def context(self) -> Context:
        return context(self.row.segments.get("n", ()))

    @property
    def arguments(self) -> dict[str, str]:
        """The types of the tensors that this call passes."""
        wanted = [p.name for p in self.contract.schema.parameters if p.default is None and not p.optional] + list(self.row.required)
        return {name: text for name, text in self.row.arguments.items() if not self.bare or name in wanted}

    def type(self, text: str) -> TensorType:
        """The type that a text of the row states, over the layer's axes."""
        made = RowContext(self.context.world, self.context.member, self.context.facts)
        axes = {**AXES, **{letter: f"call.{letter}" for letter in self.row.derived}}
        extents = {**self.context.space.extents, **{f"call.{letter}": Size.of("N") * Size.of(1) for letter in self.row.derived}}
        if self.row.derived:
            assert set(self.row.derived.items()) == {("h", "N // 2")}
            extents["call.h"] = self.context.facts.div(Size.of("N"), Size.of(2))
        made._axes, made._memo = axes, Memo()
        made._space = Space(self.context.facts, extents, {})
        made.integers, made.dtypes = dict(INTEGERS), {**dict(self.dtypes), **self.chosen_dtypes}
        kind = tensor_type(parsed(text), made)
        return replace(kind, listed=AXES["e"]) if text.startswith(LIST) else kind

    @property
    def chosen_dtypes(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.constants.items() if isinstance(value, DtypeName)}

    @property
    def constants(self) -> dict[str, Any]:
        """Every argument that is no tensor, as the row wants it."""
        found: dict[str, Any] = {}
        for parameter in self.contract.schema.parameters:
            if parameter.tensors:
                continue
            letter = next((letter for letter, argument in self.row.integers.items() if argument == parameter.name), None)
            found[parameter.name] = INTEGERS[letter] if letter is not None else accepted(self.row, parameter)[0]
        return found

    def operands(self) -> dict[str, Operand]:
        made = {name: Operand(SPAN, replace(self.type(text), reciprocal=name in self.row.reciprocal)) for name, text in self.arguments.items()}
        absent = {p.name: Operand(SPAN) for p in self.contract.schema.parameters if p.tensors and p.name not in made}
        return {**made, **absent, **{name: Operand(SPAN, value=value) for name, value in self.constants.items()}}

    def check(self, rows: tuple[Row, ...], operands: dict[str, Operand]) -> Verdict:
        return check_call(self.contract, rows, operands, self.context, SPAN, "call")


def accepted(row: Row, parameter: SchemaParameter) -> list[Any]:
    """What an argument that is no tensor may be; dtypes as a spec would write them. One example where it may be anything."""
    values = row.constants.get(parameter.name, (parameter.default_value,))
    if values == ANY:
        return [parameter.default_value]
    return [DtypeName(value) if isinstance(value, str) and parameter.type != "str" else value for value in values]


def calls(contract: Contract, row: Row) -> Iterator[Call]:
    """With everything for every dtype that some letter may be, and with what the row cannot do without."""
    most = max((len(options) for options in row.dtypes.values()), default=1)
    for place in range(most):
        dtypes = tuple((letter, options[min(place, len(options) - 1)]) for letter, options in row.dtypes.items())
        yield Call(contract, row, dtypes, False)
    if set(Call(contract, row, (), True).arguments) != set(row.arguments):
        yield Call(contract, row, tuple((letter, options[0]) for letter, options in row.dtypes.items()), True)


ROWS_OF_ALL = [(contract, row) for contract in CONTRACTS.values() for row in contract.rows]


# ---- single changes ------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One argument of a call made different."""

    argument: str
    what: str
    operand: Operand


def changes(call: Call) -> Iterator[Change]:
    operands = call.operands()
    for parameter in call.contract.schema.parameters:
        operand = operands[parameter.name]
        if operand.type is not None:
            allowed = call.row.dtypes.get(parsed(call.row.arguments[parameter.name]).element.name, ())
            for what, kind in other_types(operand.type, call.context.space, allowed):
                # Of a tensor that is on its own, nothing else says which axis is which, but for the rows of x.
                if what != "the last dims exchanged" or len(call.arguments) > 1 or any(d.axis == ROWS for dim in kind.dims for d in dim):
                    yield Change(parameter.name, what, replace(operand, type=kind))
        elif parameter.tensors and parameter.name in call.row.arguments:
            continue
        elif parameter.tensors:
            yield Change(parameter.name, "given, though the row does not take it", Operand(SPAN, call.type("float32[n]")))
        elif parameter.name not in call.row.integers.values() and call.row.constants.get(parameter.name) != ANY:
            allowed = accepted(call.row, parameter)
            yield from (Change(parameter.name, f"{value}", Operand(SPAN, value=value)) for value in _OTHERS[parameter.type] if value not in allowed)
    for name in call.row.required:
        yield Change(name, "left out", Operand(SPAN))


_OTHERS: dict[str, tuple[Any, ...]] = {
    "int": (7, DtypeName("float64")),
    "ScalarType": (DtypeName("float64"),),
    "int[]": ((7, 7, 7),),
    "bool": (True, False),
    "float": (0.123,),
    "str": ("other",),
}


def other_types(kind: TensorType, space: Space, allowed: tuple[str, ...]) -> Iterator[tuple[str, TensorType]]:
    """The same values, stored in another way; or a value that differs in one thing. allowed: elements that it might have as well."""
    last = len(kind.dims) - 1
    if last > 0 and _real(kind, last) and _real(kind, last - 1):
        order = list(kind.order)
        order[-1], order[-2] = order[-2], order[-1]
        yield "another order in memory", replace(kind, order=tuple(order))
        yield "the last dims exchanged", replace(kind, dims=(*kind.dims[:-2], kind.dims[-1], kind.dims[-2]))
        yield "the other format", replace(kind, format=0 if kind.format else 32)
        if kind.format:
            yield "blocks of another width", replace(kind, format=kind.format * 2)
    yield "one dim more, of one index", replace(kind, dims=(*kind.dims, ()), order=(*kind.order, last + 1))
    yield "a list" if kind.listed is None else "one tensor", replace(kind, listed=AXES["e"] if kind.listed is None else None)
    yield "not in the checkpoint", replace(kind, initialised=False)
    if kind.element.name != "opaque":
        yield "the reciprocal, or not", replace(kind, reciprocal=not kind.reciprocal)
        yield "another element", _of_another_element(kind, allowed)
    if kind.lanes:
        yield from ((f"lanes along {axis}", turned) for axis, turned in _other_lanes(kind, space))
    if kind.extension == "zero":
        yield "extended by the sign", replace(kind, extension="sign")
    if any(_real(kind, place) for place in range(last + 1)):
        yield "twice as long", replace(kind, dims=tuple(tuple(replace(d, ext=d.ext * 2) for d in dim) for dim in kind.dims))


def _real(kind: TensorType, place: int) -> bool:
    return any(not digit.unit for digit in kind.dims[place])


def _of_another_element(kind: TensorType, allowed: tuple[str, ...]) -> TensorType:
    """As many bits where possible, so that only the meaning differs."""
    bits = ELEMENTS[kind.element.name].bits
    others = [dtype for name, dtype in ELEMENTS.items() if name not in (kind.element.name, "bool", "opaque", *allowed) and dtype.kind != "scale"]
    found = min(others, key=lambda dtype: abs(dtype.bits - bits))
    return replace(kind, element=Element(found.name), storage=found.native if kind.carriage == "native" and found.native else kind.storage)


def _other_lanes(kind: TensorType, space: Space) -> Iterator[tuple[str, TensorType]]:
    """Packed along another axis: what was cut is whole again, and the other axis is cut."""
    (lane,) = kind.lanes
    for place, dim in enumerate(kind.dims):
        if len(dim) != 1 or dim[0].axis == lane.axis or dim[0].axis == AXES["e"] or dim[0].div != 1:
            continue
        packed = find_dim(space, kind, Digit(lane.axis, lane.ext, space.facts.cdiv(space.extents[lane.axis], lane.ext)))
        if packed is None:
            continue
        whole = Digit(lane.axis, Size.of(1), space.extents[lane.axis])
        cut = Digit(dim[0].axis, lane.ext, space.facts.div(dim[0].ext, lane.ext))
        dims = tuple((whole,) if i == packed else (cut,) if i == place else d for i, d in enumerate(kind.dims))
        yield dim[0].axis, replace(kind, dims=dims, lanes=(Digit(dim[0].axis, Size.of(1), lane.ext, False),))
