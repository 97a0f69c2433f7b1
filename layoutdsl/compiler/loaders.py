"""What a weight loader needs to know of a parameter, derived from its digits.

Source of the attributes: vLLM's weight loaders (facts: catalogue 2.2-2.4): ``output_dim``/``input_dim`` are the dims that tensor parallelism narrows,
``packed_dim`` and
``packed_factor`` say that a fused shard's offset is divided, ``quant_method`` picks the MoE loader's branch for scales.
"""

from __future__ import annotations

from layoutdsl.compiler.elaborate import Elaboration
from layoutdsl.ir.layout import Digit, TensorType
from layoutdsl.ir.program import Parameter
from layoutdsl.ir.symbolic import Size
from layoutdsl.plan.sizes import layer_kind


def loader_attributes(parameter: Parameter, layer: str, state: Elaboration) -> tuple[tuple[str, int | str], ...]:
    """The attributes as sorted pairs; a parameter with ``shard: none`` has none."""
    kind = parameter.value.type
    if not parameter.sharded:
        return ()
    extents = {axis: extent for context in state.contexts.values() for axis, extent in context.space.extents.items()}
    if layer_kind(layer).experts:
        return tuple(sorted(_moe(kind).items()))
    found: dict[str, int | str] = {}
    for attribute, size in (("output_dim", "output_size"), ("input_dim", "input_size")):
        place = _top_dim(kind, state.world.facts.symbol(size), extents)
        if place is not None:
            found[attribute] = place[0]
            divisor = place[1].div.constant
            if attribute == "output_dim" and divisor is not None and divisor > 1:
                found |= {"packed_dim": place[0], "packed_factor": divisor}
    return tuple(sorted(found.items()))


def _top_dim(kind: TensorType, size: Size, extents: dict[str, Size]) -> tuple[int, Digit] | None:
    """The dim whose leading digit is the top of an axis of that size."""
    for i, dim in enumerate(kind.dims):
        if dim and dim[0].top and not dim[0].unit and extents.get(dim[0].axis) == size:
            return i, dim[0]
    return None


def _moe(kind: TensorType) -> dict[str, int | str]:
    """``group`` where a scale has one value per several indices of an axis, else ``channel``; the loader reads it for scales and offsets only."""
    lowest: dict[str, Size] = {}
    for digit in (*(digit for dim in kind.dims for digit in dim), *kind.lanes):
        if not digit.unit:
            lowest[digit.axis] = digit.div if digit.div == 1 or digit.axis not in lowest else lowest[digit.axis]
    return {"quant_method": "group" if any(div != 1 for div in lowest.values()) else "channel"}
