"""``unpack(T)``: lanes back to one element per storage element."""

from __future__ import annotations

from dataclasses import replace

from layoutdsl.ir.dtypes import carriage_of
from layoutdsl.ir.layout import Digit, Element, Reject, Space, TensorType, digit_text, merge, with_dims
from layoutdsl.ops.base import Arguments, Example, Op, Parameter, Place, Position, Rejected, need_nd, register


@register
class Unpack(Op):
    """Every element gets a T of its own, by value. A lane digit goes behind the digit of its axis that it continues."""

    name = "unpack"
    summary = "lanes back to one element per T, by value"
    parameters = (Parameter("storage", "storage"),)
    examples = (
        Example("int4[n, k] in int8[n//2, k | n%2]", "unpack(int8)", "int4[n, k] in int8[n, k]"),
        Example("int4(excess 8)[n, k] in int32[n, k//8 | k%8]", "unpack(int8)", "int4[n, k] in int8[n, k]"),
        Example("e2m1[n, k] in uint8[n, k//2 | k%2]", "unpack(float32)", "e2m1[n, k] in float32[n, k]"),
    )
    rejected = (
        Rejected("int8[n, k]", "unpack(int8)", "unpack-no-lanes"),
        Rejected("int4[n, k] in int8[n//2, k | n%2]", "unpack(uint8)", "unpack-not-by-value"),
    )

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        need_nd(kind, "`unpack`")
        storage = args["storage"]
        if not kind.lanes:
            raise Reject("unpack-no-lanes", f"{kind.storage} holds one {kind.element.name} each")
        if carriage_of(kind.element.name, storage, False) not in ("value", "native"):
            raise Reject("unpack-not-by-value", f"{storage} does not hold every value of {kind.element.name}")
        dims = [list(dim) for dim in kind.dims]
        for lane in sorted(kind.lanes, key=lambda digit: -(digit.div.constant or 0)):
            _place(space, dims, lane)
        return replace(with_dims(kind, [tuple(merge(dim)) for dim in dims]), storage=storage, lanes=(), element=Element(kind.element.name), view=False)

    def source_of(self, position: Position, before: Place, after: Place, kind: TensorType, args: Arguments, space: Space) -> Position | None:
        if len(kind.lanes) > 1:
            return None
        (lane,) = kind.lanes
        dim = next(i for i, digits in enumerate(kind.dims) if any(d.axis == lane.axis and d.div == lane.div * lane.ext for d in digits))
        index = list(position[0])
        index[dim], lane_number = divmod(index[dim], before.lanes)
        return tuple(index), lane_number


def _place(space: Space, dims: list[list[Digit]], lane: Digit) -> None:
    for dim in dims:
        for i, digit in enumerate(dim):
            if digit.axis == lane.axis and digit.div == lane.div * lane.ext:
                dim.insert(i + 1, lane)
                return
    raise Reject("unpack-no-lanes", f"no dim continues the lane `{digit_text(space, lane)}`")
