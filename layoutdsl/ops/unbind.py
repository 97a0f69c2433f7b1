"""``unbind(axis)``: a list of slices."""

from __future__ import annotations

from dataclasses import replace

from layoutdsl.ir.layout import Reject, Space, TensorType, dims_text, letter, with_dims
from layoutdsl.ops.base import Arguments, Example, Op, Parameter, Place, Position, Rejected, register


@register
class Unbind(Op):
    """One tensor per index of the axis, sharing memory with the whole at an offset; ``clone`` behind it gives each its own storage."""

    name = "unbind"
    summary = "list of slices along an axis, aliases"
    parameters = (Parameter("axis", "axis"),)
    alias = "must"
    on_lists = False
    examples = (Example("int8[e, n, k]", "unbind(e)", "list e of int8[n, k]"),)
    rejected = (
        Rejected("float32[e, n] in float32[(e, n)]", "unbind(e)", "unbind-not-a-dim"),
        Rejected("int8[n, k]", "unbind(e)", "unbind-not-a-dim"),
        Rejected("int8[e, n, k] in int8[n, e, k]", "unbind(e)", "unbind-not-slowest"),
        Rejected("int8[e, n] over nz[e, n]", "unbind(e)", "movement-on-nz"),
        Rejected("int8[e, n] in int8[e, n] pad e to 16", "unbind(e)", "unbind-padded"),
    )

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        axis = args["axis"]
        place = next((i for i, dim in enumerate(kind.dims) if len(dim) == 1 and dim[0].axis == axis and dim[0].div == 1 and dim[0].top), None)
        if place is None:
            text = f"`{letter(axis)}` is not a whole dim of [{dims_text(space, kind.dims)}]"
            raise Reject("unbind-not-a-dim", text, helps=["`view` the value with that axis as a dim of its own first"])
        if any(pad.axis == axis for pad in kind.pads):
            raise Reject("unbind-padded", f"`{letter(axis)}` is padded, so some slices hold no element", helps=["`unbind` before `pad`"])
        if kind.format and place in kind.order[-2:]:
            raise Reject("movement-on-nz", f"`{letter(axis)}` is one of the two blocked dims of a FRACTAL_NZ value", helps=["`unbind` before `nz`"])
        slowest = next((d for d in kind.order if not all(digit.unit for digit in kind.dims[d])), place)
        if slowest != place and not kind.dims[place][0].unit:
            raise Reject(
                "unbind-not-slowest", f"`{letter(axis)}` is not the slowest dim in memory, so its slices are scattered", helps=["write `contiguous` before it"]
            )
        dims = [dim for i, dim in enumerate(kind.dims) if i != place]
        order = [d - (d > place) for d in kind.order if d != place]
        return replace(with_dims(kind, dims, order), logical=tuple(d for d in kind.logical if d.axis != axis), listed=axis, view=True)

    def source_of(self, position: Position, before: Place, after: Place, kind: TensorType, args: Arguments, space: Space) -> Position | None:
        # The index in the list stands first; the axis is the slowest dim, and the other dims keep their order.
        place = next(i for i, dim in enumerate(kind.dims) if dim and dim[0].axis == args["axis"])
        element, *index = position[0]
        return (*index[:place], element, *index[place:]), position[1]
