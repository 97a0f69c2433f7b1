"""Types and stages from their texts over the axes e, n, k, and what a bound type says slot by slot: the ground of the tests of ops and layouts.

The world comes from a real (tiny) document, so that texts mean here what they mean in a spec. The tables are brute force: every slot, every digit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from math import prod
from typing import Any

from layoutdsl.compiler.config import settings_of
from layoutdsl.compiler.elaborate import contexts_of, stage_arguments
from layoutdsl.compiler.scope import Context, World
from layoutdsl.compiler.types import tensor_type
from layoutdsl.compiler.worlds import decide
from layoutdsl.diagnostics import Source, Span
from layoutdsl.ir.layout import Digit, Dim, TensorType
from layoutdsl.ir.symbolic import Size
from layoutdsl.ops import OPS, Op, Place
from layoutdsl.syntax.expressions import parse_pipeline, parse_type
from layoutdsl.syntax.reader import read_document
from layoutdsl.syntax.tree import Pipeline, TypeText

AXES = ("e", "n", "k")
FACTS = ("N % 8 == 0", "K % 64 == 0")
SIZES = ({"e": 1, "n": 8, "k": 64}, {"e": 3, "n": 16, "k": 64}, {"e": 2, "n": 8, "k": 192}, {"e": 5, "n": 24, "k": 128})
"""Sizes that meet the facts: the smallest, and some where no two extents are equal."""

Position = tuple[tuple[int, ...], int]


@cache
def context(facts: tuple[str, ...] = FACTS, sizes: tuple[tuple[str, int], ...] = (), axes: tuple[str, ...] = AXES) -> Context:
    """The names of a document with these axes: of any extent that meets the facts, or of the given ones."""
    given = dict(sizes)
    extents = ", ".join(f"{axis}: {given.get(axis, 'free')}" for axis in axes)
    text = "\n".join(
        [
            "layoutdsl: 1\nscheme: TEST\nlayer: linear\ntitle: a world for types\nholds: {consumer: [vllm-ascend-0.23], device: [a2]}",
            f"axes: {{{extents}}}",
            *(["require:", *(f"  - {fact}" for fact in facts)] if facts else []),
            "params:\n  weight: int8[0]\nvalue: none\nsteps:\n  - weight: clone\nforward: external\n",
        ]
    )
    document = read_document(Source("spec.yaml", text))
    world = World(document, settings_of(document), {}, {})
    assert decide(world), text
    (found,) = contexts_of(world).values()
    return found


def bound(sizes: Mapping[str, int]) -> Context:
    """The same world at one size."""
    return context((), tuple(sizes.items()), tuple(sizes))


def type_of(text: str, where: Context) -> TensorType:
    """``list e of TYPE`` is no text of the language, but one of messages and examples."""
    if text.startswith("list "):
        axis = text.split()[1]
        return replace(type_of(text.partition(" of ")[2], where), listed=where.axes[axis])
    return tensor_type(_type(text), where)


def stage_of(text: str, where: Context) -> tuple[Op, dict[str, Any]]:
    (stage,) = _pipeline(text).stages
    op = OPS[stage.op]
    return op, stage_arguments(op, stage, where)


# Contexts remember types by the identity of the node they come from, so the nodes must outlive them.
@cache
def _type(text: str) -> TypeText:
    return parse_type(Span(Source("text", text), 0, len(text)))


@cache
def _pipeline(text: str) -> Pipeline:
    return parse_pipeline(Span(Source("text", text), 0, len(text)))


# --- bound types ------------------------------------------------------------------------------------------------------------------------------------------


def number(size: Size, sizes: Mapping[str, int] | None = None) -> int:
    return size.evaluate({axis.upper(): extent for axis, extent in (sizes or {}).items()})


def at_sizes(kind: TensorType, sizes: Mapping[str, int]) -> TensorType:
    """A symbolic type at one size."""

    def digits(dim: Dim) -> Dim:
        return tuple(replace(d, div=Size.of(number(d.div, sizes)), ext=Size.of(number(d.ext, sizes))) for d in dim)

    pads = tuple(replace(pad, capacity=Size.of(number(pad.capacity, sizes))) for pad in kind.pads)
    return replace(kind, dims=tuple(map(digits, kind.dims)), lanes=digits(kind.lanes), logical=digits(kind.logical), pads=pads)


def extent(digits: Dim) -> int:
    return prod(number(digit.ext) for digit in digits)


def place(kind: TensorType) -> Place:
    """Shape, dense strides in memory order, lanes."""
    shape, strides, step = tuple(map(extent, kind.dims)), [0] * len(kind.dims), 1
    for dim in reversed(kind.order):
        strides[dim] = step
        step *= shape[dim]
    return Place(shape, tuple(strides), extent(kind.lanes))


def positions(kind: TensorType) -> Iterator[Position]:
    here = place(kind)
    for index in itertools.product(*map(range, here.shape)):
        for lane in range(here.lanes):
            yield index, lane


def split(value: int, digits: Dim) -> Iterator[tuple[Digit, int]]:
    """A number as its digits, minor first."""
    for digit in reversed(digits):
        value, rest = divmod(value, number(digit.ext))
        yield digit, rest


def logical_index(kind: TensorType, position: Position, sizes: Mapping[str, int]) -> tuple[tuple[str, int], ...] | None:
    """The index per axis that a slot holds; None for a hole."""
    found: dict[str, int] = {}
    for value, digits in (*zip(position[0], kind.dims), (position[1], kind.lanes)):
        for digit, part in split(value, digits):
            found[digit.axis] = found.get(digit.axis, 0) + part * number(digit.div)
    if any(index >= sizes[axis] for axis, index in found.items()):
        return None
    return tuple(sorted((axis, index) for axis, index in found.items() if sizes[axis] > 1))


def table(kind: TensorType, sizes: Mapping[str, int]) -> dict[Position, Any]:
    """Every slot with the index it holds."""
    return {position: logical_index(kind, position, sizes) for position in positions(kind)}
