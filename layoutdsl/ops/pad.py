"""``pad(axis, multiple, fill)``: raise the capacity of an axis."""

from __future__ import annotations

from dataclasses import replace

from layoutdsl.ir.layout import Digit, Pad, Reject, Space, TensorType, digit_text, letter, with_dims
from layoutdsl.ops.base import Arguments, Example, Op, Parameter, Place, Position, Rejected, need_nd, register


@register
class PadOp(Op):
    """The top digit grows until the capacity is a multiple; an element is valid iff its index is below the extent, everything else holds the fill."""

    name = "pad"
    summary = "raise the capacity of an axis to a multiple; holes hold the fill"
    parameters = (Parameter("axis", "axis"), Parameter("multiple", "size"), Parameter("fill", "int"))
    examples = (Example("e8m0[n, k//32] in uint8[n, k//32]", "pad(k, 128, 0)", "e8m0[n, k//32] in uint8[n, k//32] pad k to 128"),)
    rejected = (
        Rejected("int8[n, k] in int8[n, k//64, k%64] over nz[n, k//64, k%64]", "pad(n, 16, 0)", "movement-on-nz"),
        Rejected("int8[n, e] in int8[(n, e)]", "pad(e, 16, 0)", "pad-not-top"),
        Rejected("int8[n, k]", "pad(e, 16, 0)", "dim-missing"),
        Rejected("e8m0[n, k//32] in uint8[n, k//32]", "pad(k, 80, 0)", "pad-multiple"),
        Rejected("int8[e, n] in int8[e, n] pad e to 16", "pad(e, 64, 0)", "pad-twice"),
    )

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        need_nd(kind, "`pad`")
        axis, multiple = args["axis"], args["multiple"]
        capacity = multiple * space.facts.cdiv(space.extents[axis], multiple)
        place = _top(space, kind, axis)
        dim = kind.dims[place]
        if dim[0].axis != axis or not dim[0].top:
            raise Reject(
                "pad-not-top",
                f"`{letter(axis)}` does not lead its dim, so padding it would move other elements",
                helps=["give the inner part an axis of its own"],
            )
        grown = Digit(axis, dim[0].div, space.facts.cdiv(capacity, dim[0].div))
        if any(pad.axis == axis and pad.capacity != space.extents[axis] for pad in kind.pads):
            raise Reject("pad-twice", f"`{letter(axis)}` is padded already", helps=["`pad` once, to the larger multiple"])
        step = f"`pad` to multiples of {space.text(multiple)} cuts through `{digit_text(space, dim[0])}`, which advances by {space.text(dim[0].div)}"
        space.need(space.facts.divisible(multiple, dim[0].div), "pad-multiple", step, [f"pad to a multiple of {space.text(dim[0].div)}"])
        dims = [(grown, *dim[1:]) if i == place else d for i, d in enumerate(kind.dims)]
        pads = (*(p for p in kind.pads if p.axis != axis), Pad(axis, capacity, args["fill"]))
        return replace(with_dims(kind, dims), pads=pads if grown.ext != dim[0].ext else kind.pads, view=False)

    def source_of(self, position: Position, before: Place, after: Place, kind: TensorType, args: Arguments, space: Space) -> Position | None:
        return position if all(i < extent for i, extent in zip(position[0], before.shape)) else None


def _top(space: Space, kind: TensorType, axis: str) -> int:
    found = [i for i, dim in enumerate(kind.dims) if any(d.axis == axis and d.top for d in dim)]
    if not found:
        raise Reject("dim-missing", f"no dim holds the top of `{letter(axis)}`")
    return found[0]
