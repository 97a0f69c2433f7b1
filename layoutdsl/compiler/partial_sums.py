"""What every rank holds a part of: axes that tensor parallelism splits, and values that are sums over such an axis.

Read by ``layoutdsl.compiler.forward_types``: the parts of a sum are added over the ranks, so what is added to each part is added once per rank.
"""

from __future__ import annotations

from typing import Any

from layoutdsl.compiler.elaborate import Elaboration
from layoutdsl.ir.program import Compute, Value, values_in
from layoutdsl.plan.sizes import layer_kind


def split_axes(state: Elaboration) -> frozenset[str]:
    """Axes that a matmul may sum over only in part: the inputs of a row-parallel linear layer, the intermediate axis of experts. Empty on rank 0, which may
    add what all ranks hold."""
    config, split = state.world.config, layer_kind(state.world.document.layer.value).split
    if config.get("tp_rank") == 0 or config.get("tp_size") == 1:
        return frozenset()
    size = split.get("row")  # the inputs, unless the layer is known to be split by its outputs
    if size is None or size != split[str(config.get("layer_type", "row"))]:
        return frozenset()
    extents = {axis: extent for context in state.contexts.values() for axis, extent in context.space.extents.items()}
    return frozenset(axis for axis, extent in extents.items() if size in extent.symbols)


def is_part(state: Elaboration, value: Value, axis: str) -> bool:
    """Is a value a sum over an axis, or made of one? A zero is a part of every sum."""
    makers = {instruction.result.number: instruction for instruction in state.code}
    pending = [value]
    while pending:
        instruction = makers.get(pending.pop().number)
        if instruction is None:
            continue
        if isinstance(instruction, Compute):
            if _sums_over(instruction.expr, axis) or (instruction.expr[0] == "const" and instruction.expr[2] == 0):
                return True
            pending += values_in(instruction.expr)
        else:
            pending.append(instruction.of)
    return False


def _sums_over(expr: Any, axis: str) -> bool:
    if not isinstance(expr, tuple) or not expr:
        return False
    return (expr[0] == "sum" and any(loop.axis == axis for loop in expr[1])) or any(_sums_over(part, axis) for part in expr[1:])
