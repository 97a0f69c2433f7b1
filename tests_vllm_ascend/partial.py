"""Loads that vllm 0.23 accepts although they leave part of a parameter as it was: what a guard has to find.

``left(case, world, stored)`` measures it; ``PARTIAL`` is the table, with what is left of which parameter. ``harness`` makes and loads the layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import Module

from tests.golden.compare import bits
from tests_vllm_ascend.cases import A2, A5, Case, E, H, I, K, N
from tests_vllm_ascend.harness import Engine, Tensors, checkpoint, engine
from tests_vllm_ascend.world import World

Left = dict[str, tuple[int, int]]
"""Elements that nothing was loaded into, and all of them, by the parameter; those that are wholly loaded are not in it."""


def left(case: Case, world: World, stored: Tensors | None = None, declare: Callable[[Engine, Module], None] = lambda rank, layer: None) -> Left:
    """A layer is loaded over two backgrounds; what differs between the two afterwards is background. Raises what the loader raises.

    declare: changes the parameters of a new layer.
    """
    with engine(case, world) as rank:
        over = []
        for background in (0x00, 0x5A):
            layer = rank.layer()
            declare(rank, layer)
            for parameter in layer.parameters():
                parameter.data.view(torch.uint8).fill_(background) if parameter.dim() else parameter.data.fill_(0)
            rank.load(layer, checkpoint(case, world) if stored is None else stored)
            over.append({name: bits(parameter.data) for name, parameter in layer.named_parameters()})
    counted = {name: (int((tensor != over[1][name]).sum()), tensor.numel()) for name, tensor in over[0].items()}
    return {name: count for name, count in counted.items() if count[0]}


@dataclass(frozen=True)
class Partial:
    """title: what is wrong. change: what to do to the right checkpoint, None where it is right and the loader or the declaration is not. left: by parameter."""

    title: str
    case: Case
    world: World
    left: Left
    change: Callable[[Tensors], Tensors] | None = None

    def stored(self) -> Tensors:
        right = checkpoint(self.case, self.world)
        return right if self.change is None else self.change(right)

    def __str__(self) -> str:
        return f"{self.title}/{self.case}/{self.world}"


# ---- lies ----------------------------------------------------------------------------------------------------------------------------------------------------


def _rows_halved(stored: Tensors) -> Tensors:
    """Two int4 in a byte along the outputs, as version 1.0.0 stores them."""
    return {name: tensor[: tensor.shape[0] // 2] if name.endswith(".weight") else tensor for name, tensor in stored.items()}


def _one_column(stored: Tensors) -> Tensors:
    """The sum over all inputs instead of sixteen partial sums."""
    return {name: tensor[:, :1] if name.endswith("down_proj.scale_bias") else tensor for name, tensor in stored.items()}


def _without(*parts: str) -> Callable[[Tensors], Tensors]:
    return lambda stored: {name: tensor for name, tensor in stored.items() if not any(part in name for part in parts)}


# ---- the table -----------------------------------------------------------------------------------------------------------------------------------------------


def _case(table: list[Case], scheme: str, layer: str, kind: str = "experts", **described: object) -> Case:
    """The case of a table with exactly this description."""
    (found,) = [case for case in table if (case.scheme, case.layer, case.kind, case.description) == (scheme, layer, kind, described)]
    return found


_UNPACKED = _case(A2, "W4A8_DYNAMIC", "moe", group_size=64)
_PACKED = _case(A2, "W4A8_DYNAMIC", "moe", group_size=64, version="1.0.0")
_CHANNEL = _case(A2, "W4A8_DYNAMIC", "moe", group_size=0, version="1.0.0")
_MIX = _case(A2, "W8A8_MIX", "moe")
_EXPERTS = _case(A2, "W8A8_DYNAMIC", "moe")
_MERGED = _case(A2, "W8A8_DYNAMIC", "linear", "merged")
_STATIC = _case(A2, "W8A8", "linear", "row")
_BLOCKS = _case(A5, "FP8", "ds_linear", "qkv", weight_block_size=[128, 128])
_ALONE, _TP4 = World(), World(tp=4, rank=3)


def _of(case: Case, *names: str) -> Left:
    """All of a parameter of experts that is as long as the model is wide."""
    return dict.fromkeys(names, (E * H, E * H))


PARTIAL: list[Partial] = [
    # The version in the description decides what is declared.
    Partial(
        "packed weights, declared unpacked",
        _UNPACKED,
        _ALONE,
        {"w13_weight": (E * I * H, 2 * E * I * H), "w2_weight": (E * H * I // 2, E * H * I)},
        _rows_halved,
    ),
    Partial("one column of scale_bias, sixteen declared", _CHANNEL, _ALONE, {"w2_scale_bias": (15 * E * H, 16 * E * H)}, _one_column),
    Partial("one column of scale_bias, sixteen declared", _CHANNEL, _TP4, {"w2_scale_bias": (4 * E * H, 4 * E * H)}, _one_column),
    # The adapter calls every scale of a grouped scheme grouped; the loader cuts the one column of a channel scale by the number of ranks, and nothing is left.
    *(
        Partial("a channel scale cut like a group scale", case, World(tp=tp, rank=rank), _of(case, "w2_weight_scale", "w2_weight_offset"))
        for case in (_UNPACKED, _PACKED)
        for tp, rank in ((2, 0), (2, 1), (4, 0), (4, 3))
    ),
    # Declared for the tensor parallel ranks, split over those of all data parallel engines.
    Partial("scale_bias declared for tp 1, split over dp 2", _CHANNEL, World(dp=2, rank=1), {"w2_scale_bias": (8 * E * H, 16 * E * H)}),
    # gate and up share one number per expert; the loader halves it.
    Partial("half of one number", _MIX, _ALONE, {"w13_input_offset": (E, E)}),
    Partial("half of one number", _MIX, _TP4, {"w13_input_offset": (E, E)}),
    # k and v have 64 outputs on a rank, half a block of 128.
    Partial("a block of 128 outputs cut by tp 4", _BLOCKS, World(device="a5", tp=4, rank=1), {"weight_scale": (K // 128, 2 * K // 128)}),
    # vllm looks for missing tensors in unquantized models only.
    Partial(
        "an expert is missing",
        _EXPERTS,
        _ALONE,
        {
            "w13_weight": (2 * I * H, E * 2 * I * H),
            "w13_weight_scale": (2 * I, E * 2 * I),
            "w13_weight_offset": (2 * I, E * 2 * I),
            "w2_weight": (H * I, E * H * I),
            "w2_weight_scale": (H, E * H),
            "w2_weight_offset": (H, E * H),
        },
        _without(".experts.2."),
    ),
    Partial(
        "the scale of an expert is missing",
        _EXPERTS,
        World(tp=2, rank=1, ep=True),
        {"w2_weight_scale": (H, E // 2 * H)},
        _without(".experts.3.down_proj.weight_scale"),
    ),
    Partial(
        "one part of a fused layer is missing",
        _MERGED,
        _ALONE,
        {"weight": (N // 2 * K, N * K), "weight_scale": (N // 2, N), "weight_offset": (N // 2, N)},
        _without(".up_proj."),
    ),
    Partial("a tensor is missing", _STATIC, _TP4, {"quant_bias": (N, N)}, _without(".quant_bias")),
]


def never_whole(case: Case, world: World) -> set[str]:
    """The parameters that upstream's loaders do not fill from a right checkpoint."""
    found: set[str] = set()
    if case is _MIX:
        found |= {"w13_input_offset"}
    if case in (_UNPACKED, _PACKED) and world.moe_tp > 1:
        found |= {"w2_weight_scale", "w2_weight_offset"}
    if case in (_PACKED, _CHANNEL) and world.dp > 1 and not world.ep:
        found |= {"w2_scale_bias"}
    if case is _BLOCKS and world.tp == 4:
        found |= {"weight_scale"}
    return found
