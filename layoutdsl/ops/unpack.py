"""``unpack(T)``: lanes back to one element per storage element."""

from __future__ import annotations

from dataclasses import replace

from layoutdsl.ir.dtypes import carriage_of
from layoutdsl.ir.layout import Digit, Dim, Element, Reject, Space, TensorType, digit_text, merge, with_dims
from layoutdsl.ops.base import Arguments, Example, Op, Parameter, Place, Position, Rejected, digits_at, need_nd, number, register


@register
class Unpack(Op):
    """Every element gets a T of its own, by value. A lane digit goes behind the digit of its axis that it continues."""

    name = "unpack"
    summary = "lanes back to one element per T, by value"
    parameters = (Parameter("storage", "storage"),)
    examples = (
        Example("int4[n, k] in int8[n//2, k | n%2]", "unpack(int8)", "int4[n, k] in int8[n, k]"),
        Example("int4(excess 8)[n, k] in int32[n, k//8 | k%8]", "unpack(int8)", "int4[n, k] in int8[n, k]"),
        Example("uint4[k, n] in int32[k, n//8 | n%2, n//2%4]", "unpack(uint8)", "uint4[k, n] in uint8[k, n]"),
        Example("e2m1[n, k] in uint8[n, k//2 | k%2]", "unpack(float32)", "e2m1[n, k] in float32[n, k]"),
    )
    rejected = (
        Rejected("int8[n, k]", "unpack(int8)", "unpack-no-lanes"),
        Rejected("int4[n, k] in int8[n//2, k | n%2]", "unpack(uint8)", "unpack-not-by-value"),
        Rejected("int4[n%8] in int32[0 | n%8]", "unpack(int8)", "unpack-no-place"),
    )

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        need_nd(kind, "`unpack`")
        storage = args["storage"]
        if not kind.lanes:
            raise Reject("unpack-no-lanes", f"{kind.storage} holds one {kind.element.name} each")
        if carriage_of(kind.element.name, storage, False) not in ("value", "native"):
            raise Reject("unpack-not-by-value", f"{storage} does not hold every value of {kind.element.name}")
        dims = [dim if dim == old else tuple(merge(dim)) for dim, old in zip(_joined(space, kind), kind.dims)]
        return replace(with_dims(kind, dims), storage=storage, lanes=(), element=Element(kind.element.name), view=False)

    def source_of(self, position: Position, before: Place, after: Place, kind: TensorType, args: Arguments, space: Space) -> Position | None:
        index: list[int] = []
        lanes: dict[tuple[str, int], int] = {}
        for part, digits, old in zip(position[0], _joined(space, kind), kind.dims):
            index.append(0)
            for digit, value in digits_at(part, digits):
                if digit in old:
                    index[-1] = index[-1] * number(digit.ext) + value
                else:
                    lanes[digit.axis, number(digit.div)] = value
        lane = 0
        for digit in kind.lanes:
            lane = lane * number(digit.ext) + lanes[digit.axis, number(digit.div)]
        return tuple(index), lane


def _joined(space: Space, kind: TensorType) -> list[Dim]:
    """The dims, each lane digit behind the digit of its axis that it continues."""
    dims, waiting = list(kind.dims), list(kind.lanes)
    while waiting:
        joined = next(((lane, found) for lane in waiting if (found := _joining(dims, lane)) is not None), None)
        if joined is None:
            raise Reject("unpack-no-place", f"no dim continues the lane `{digit_text(space, waiting[0])}`", helps=["`relayout` to the type wanted"])
        lane, (place, at) = joined
        dims[place] = (*dims[place][:at], lane, *dims[place][at:])
        waiting.remove(lane)
    return dims


def _joining(dims: list[Dim], lane: Digit) -> tuple[int, int] | None:
    """The dim that holds the digit above the lane, and the place behind it."""
    for place, dim in enumerate(dims):
        for at, digit in enumerate(dim):
            if (digit.axis, digit.div) == (lane.axis, lane.div * lane.ext):
                return place, at + 1
    return None
