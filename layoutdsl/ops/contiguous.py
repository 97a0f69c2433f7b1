"""``contiguous``: written in the order seen."""

from __future__ import annotations

from layoutdsl.ir.layout import Space, TensorType, with_dims
from layoutdsl.ops.base import Arguments, Example, Op, Rejected, need_nd, register


@register
class Contiguous(Op):
    """Memory takes the order of the dims; nothing happens where it has it already, so writing it twice is harmless."""

    name = "contiguous"
    summary = "write in the order seen"
    alias = "may"
    examples = (
        Example("int8[n, k] in int8[k, n] over [n, k]", "contiguous", "int8[n, k] in int8[k, n]"),
        Example("int8[n, k]", "contiguous", "int8[n, k]"),
    )
    rejected = (Rejected("int8[n, k] over nz[n, k]", "contiguous", "movement-on-nz"),)

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        need_nd(kind, "`contiguous`")
        return with_dims(kind, kind.dims)
