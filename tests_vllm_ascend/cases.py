"""Every key of the scheme registries of vllm-ascend 0.23, in each form in which a checkpoint can ask for it, and the ranks it is loaded on.

Data only; ``test_registry`` proves that no key of either registry is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from tests_vllm_ascend.harness import HEADS, KV_HEADS, Case, Kind
from tests_vllm_ascend.world import World

BF16, FP16 = torch.bfloat16, torch.float16
CT = "compressed-tensors"
LINEAR: tuple[Kind, ...] = ("column", "row", "merged", "qkv", "replicated")
WO_A: Kind = "wo_a"
K, N = 512, 1024
"""Over all ranks: at tp 4 a rank of a row layer still has whole groups, and one of a fused column layer whole words."""
E, H, I = 4, 256, 512  # noqa: E741


def _linear(scheme: str, spec: str | None = None, kinds: tuple[Kind, ...] = LINEAR, **more: Any) -> list[Case]:
    return [Case(scheme, "linear", kind, spec or f"{scheme.lower()}.linear", (K, N), **more) for kind in kinds]


def _moe(scheme: str, spec: str | None = None, **more: Any) -> Case:
    return Case(scheme, "moe", "experts", spec or f"{scheme.lower()}.moe", (E, H, I), **more)


def _attention(scheme: str, spec: str, kv_heads: int = KV_HEADS, stored: tuple[int, ...] | None = None, **described: str) -> Case:
    shapes = dict.fromkeys((f"{p}_cache_{what}" for p in "kv" for what in ("scale", "offset")), stored) if stored is not None else {}
    return Case(scheme, "attention", "attention", spec, (HEADS, kv_heads), {**described}, stored=shapes)


def _weights(bits: int, strategy: str, group_size: int | None = None, type: str = "int") -> dict[str, Any]:
    return {"num_bits": bits, "strategy": strategy, "group_size": group_size, "type": type, "symmetric": True, "dynamic": False}


def _tokens(type: str = "int") -> dict[str, Any]:
    return {"num_bits": 8, "strategy": "token", "type": type, "symmetric": True, "dynamic": True}


def _quantized(weights: dict[str, Any], inputs: dict[str, Any] | None, format: str = "int-quantized") -> dict[str, Any]:
    """A config group of compressed-tensors."""
    return {"writer": CT, "description": {"weights": weights, "input_activations": inputs, "format": format}}


ATTENTION = "model.layers.0.self_attn"
STATIC = {"num_bits": 8, "strategy": "tensor", "type": "int", "symmetric": True, "dynamic": False}
FIRST = {"version": "1.0.0"}

A2: list[Case] = [
    *_linear("W8A8"),
    *_linear("W8A8", **_quantized(_weights(8, "channel"), STATIC)),
    *_linear("W8A8_DYNAMIC"),
    *_linear("W8A8_DYNAMIC", **_quantized(_weights(8, "channel"), _tokens())),
    *_linear("W8A8_MIX"),
    *_linear("W8A16"),
    *_linear("W4A4_DYNAMIC", int4=True),
    *_linear("W4A4_FLATQUANT_DYNAMIC", int4=True),
    *_linear("W4A8_DYNAMIC", int4=True, description={"group_size": 64}),
    *_linear("W4A8_DYNAMIC", description={"group_size": 64, **FIRST}),
    _moe("W8A8_DYNAMIC"),
    _moe("W8A8_DYNAMIC", **_quantized(_weights(8, "channel"), _tokens())),
    _moe("W8A8_MIX"),
    _moe("W4A8_DYNAMIC", int4=True, description={"group_size": 64}),
    _moe("W4A8_DYNAMIC", description={"group_size": 64, **FIRST}),
    _moe("W4A8_DYNAMIC", description={"group_size": 0, **FIRST}),
    _moe("W4A8_DYNAMIC", int4=True, **_quantized(_weights(4, "group", 64), _tokens())),
    _moe("W4A8_DYNAMIC", int4=True, **_quantized(_weights(4, "channel"), _tokens())),
    _moe("W4A16", **_quantized(_weights(4, "group", 32), None, "pack-quantized")),
    _attention("FAKQuant", "fakquant.attention", 1, **{"fa_quant_type": "FAKQuant", f"{ATTENTION}.fa_k.scale": "FAKQuant"}),
    _attention("INT8_DYNAMIC", "int8_dynamic.attention", **{"indexer_quant_type": "INT8_DYNAMIC", f"{ATTENTION}.attn.indexer.quant_type": "INT8_DYNAMIC"}),
    *(
        _attention("C8", "c8.attention", stored=stored, **{"kv_cache_type": "C8", f"{ATTENTION}.k_proj.kv_cache_scale": "C8"})
        for stored in ((KV_HEADS, 128), (KV_HEADS * 128,), (1,))
    ),
]
A5: list[Case] = [
    *_linear("W8A8FP8_DYNAMIC"),
    *_linear("W8A8FP8_DYNAMIC", **_quantized(_weights(8, "channel", type="float"), _tokens("float"), "float-quantized")),
    *_linear("W8A8_MXFP8"),
    *_linear("W4A4_MXFP4"),
    *_linear("W4A4_MXFP4_FLATQUANT"),
    *_linear("W4A8_MXFP"),
    *[Case("FP8", "ds_linear", kind, "fp8.ds_linear", (K, N), {"weight_block_size": [128, 128]}, "fp8") for kind in (*LINEAR, WO_A)],
    _moe("W8A8FP8_DYNAMIC"),
    _moe("W8A8_MXFP8"),
    _moe("W4A4_MXFP4"),
    _moe("W4A8_MXFP"),
    _moe("W4A16_MXFP4"),
    Case("FP8", "w4a8_moe", "experts", "fp8.ds_w4a8_moe", (E, H, I), {}, "fp8"),
]
ON_310P: list[Case] = [*_linear("W8A8"), *_linear("W8A8_DYNAMIC"), *_linear("W8A8S"), *_linear("W8A8SC", sharded=True), _moe("W8A8_DYNAMIC")]


# ---- ranks ---------------------------------------------------------------------------------------------------------------------------------------------------

SPLITS = [World(), *(World(tp=2, rank=rank) for rank in range(2)), *(World(tp=4, rank=rank) for rank in range(4))]
SPREADS = [World(dp=2, rank=rank, ep=True) for rank in range(2)]
"""ep 2 with tp 1."""
BOTH = [World(tp=2, rank=rank, ep=True) for rank in range(2)]
"""ep 2 with tp 2: experts are not split, what reads the tp size of the engine still finds 2."""


def worlds(case: Case, device: str) -> list[World]:
    ranks = [*SPLITS, *(SPREADS if case.kind == "experts" and device != "310p" else []), *(BOTH if case.kind == "experts" and device != "310p" else [])]
    dtype = FP16 if device == "310p" else BF16
    made = [replace(world, device=device, dtype=dtype) for world in ranks]
    return made + [replace(made[0], **more) for more in _more(case, device)] + [replace(SPREADS[1], device=device, **more) for more in _balanced(case, device)]


def _more(case: Case, device: str) -> list[dict[str, Any]]:
    """Settings of the engine that the schemes read, on one rank."""
    found: list[dict[str, Any]] = [*([{"dtype": FP16}] if device != "310p" else []), {"weight_nz_mode": 0}, {"weight_nz_mode": 2}]
    if case.scheme == "W8A8_MIX":
        found += [{"kv_role": "consumer"}, {"kv_role": "producer"}]
    if case.scheme == "C8":
        found += [{"kv_role": "producer"}]
    if case.kind == "experts":
        found += [{"fused_mc2": 1}, {"fused_mc2": 2}]
    if device == "a2":
        found += [{"device": "a3"}]
    return found


def _balanced(case: Case, device: str) -> list[dict[str, Any]]:
    return [{"eplb": True}, {"eplb": True, "fused_mc2": 1}] if case.kind == "experts" and device != "310p" else []


ALL: list[tuple[Case, World]] = [
    (case, world) for device, table in (("a2", A2), ("a5", A5), ("310p", ON_310P)) for case in table for world in worlds(case, device)
]


# ---- what is known to differ ---------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """stage: where the two part: ``load`` where upstream's own loader refuses, ``apply`` where our plan does, ``compare`` where the results differ."""

    stage: Literal["load", "apply", "compare"]
    reason: str


def known(case: Case, world: World) -> Known | None:
    """None where everything must be equal."""
    if case.scheme == "W4A4_FLATQUANT_DYNAMIC" and case.kind == "row" and world.tp > 1:
        return Known("load", "upstream declares left_trans and right_trans for the inputs of a rank; the checkpoint has them for all: vllm's loader refuses")
    if case.scheme == "C8" and case.stored["k_cache_scale"] != (KV_HEADS, 128):
        return Known("apply", "upstream takes cache scales of any shape and flattens them; our spec takes [heads, channels] alone")
    if case.scheme == "W4A8_DYNAMIC" and world.eplb and case.writer == CT:
        return Known("compare", "with dynamic EPLB upstream makes no lists from compressed-tensors, though its forward reads them; ours makes them")
    if case.scheme == "W4A8_DYNAMIC" and world.eplb and "version" not in case.description:
        return Known("compare", "with dynamic EPLB upstream puts unpacked int8 into the lists, which its forward views as int32; ours packs them")
    return None
