"""``clone``: storage of its own."""

from __future__ import annotations

from dataclasses import replace

from layoutdsl.ir.layout import Space, TensorType
from layoutdsl.ops.base import Arguments, Example, Op, register


@register
class Clone(Op):
    """The same bytes in fresh storage; on a list, every element gets storage of its own."""

    name = "clone"
    summary = "own storage"
    examples = (Example("int8[n, k]", "clone", "int8[n, k]"),)

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        return replace(kind, view=False)
