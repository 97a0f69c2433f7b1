"""``transpose(x, y)``: dim x before dim y, as a view."""

from __future__ import annotations

from layoutdsl.ir.layout import Digit, Reject, Space, TensorType, digit_text, dims_text, find_dim, with_dims
from layoutdsl.ops.base import Arguments, Example, Op, Parameter, Place, Position, Rejected, register


@register
class Transpose(Op):
    """The two dims change places; memory stays. It states the order it produces, so a transpose that is already done is an error."""

    name = "transpose"
    summary = "see dim x before dim y; memory stays"
    parameters = (Parameter("first", "dim"), Parameter("second", "dim"))
    alias = "must"
    examples = (
        Example("int8[n, k]", "transpose(k, n)", "int8[n, k] in int8[k, n] over [n, k]"),
        Example("int4[e, n, k] in int8[e, n//2, k | n%2]", "transpose(k, n)", "int4[e, n, k] in int8[e, k, n//2 | n%2] over [e, n//2, k]"),
        Example("int8[n, k] in int8[n, k//64, k%64]", "transpose(k//64, n)", "int8[n, k] in int8[k//64, n, k%64] over [n, k//64, k%64]"),
        Example("int8[n, k] over nz[n, k]", "transpose(k, n)", "int8[n, k] in int8[k, n] over nz[n, k]"),
    )
    rejected = (
        Rejected("int8[n, k]", "transpose(n, k)", "transpose-done"),
        Rejected("int8[n, k] in int8[n, k//64, k%64]", "transpose(k, n)", "dim-ambiguous"),
        Rejected("int8[n, k]", "transpose(e, n)", "dim-missing"),
        Rejected("int8[e, n, k] over nz[e, n, k]", "transpose(n, e)", "movement-on-nz"),
    )

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        first, second = (dim_index(space, kind, args[name]) for name in ("first", "second"))
        if first <= second:
            text = f"[{dims_text(space, kind.dims)}]"
            raise Reject("transpose-done", f"`{digit_text(space, args['first'])}` already stands before `{digit_text(space, args['second'])}` in {text}")
        if kind.format and {first, second} != set(kind.order[-2:]):
            raise Reject("movement-on-nz", "only the two blocked dims of a FRACTAL_NZ value can change places")
        swap = {first: second, second: first}
        dims = [kind.dims[swap.get(d, d)] for d in range(len(kind.dims))]
        return with_dims(kind, dims, [swap.get(d, d) for d in kind.order])

    def source_of(self, position: Position, before: Place, after: Place, kind: TensorType, args: Arguments, space: Space) -> Position | None:
        index, lane = list(position[0]), position[1]
        first, second = (dim_index(space, kind, args[name]) for name in ("first", "second"))
        index[first], index[second] = index[second], index[first]
        return tuple(index), lane


def dim_index(space: Space, kind: TensorType, wanted: Digit) -> int:
    """The index of the dim that is named. Raises Reject if no dim or several could be meant."""
    found = find_dim(space, kind, wanted)
    if found is not None:
        return found
    text, dims = digit_text(space, wanted), dims_text(space, kind.dims)
    if any(digit.axis == wanted.axis for dim in kind.dims for digit in dim):
        raise Reject("dim-ambiguous", f"`{text}` is not one dim of [{dims}]", helps=["name a dim by its digit as it stands there"])
    raise Reject("dim-missing", f"no dim of [{dims}] holds `{text}`", helps=[f"the dims are {dims}"])
