# ruff: noqa: N806 - sizes are capitals, as everywhere in this field
"""W4A8_DYNAMIC: int4 weights, packed or one per byte, with channel and group scales."""

from __future__ import annotations

import numpy as np
import torch

from tests.golden.reference.layer import (
    HEAD,
    RELEASE,
    SEED,
    Case,
    Declared,
    Layer,
    Stored,
    Tensors,
    bf16,
    bytes_as_words,
    f16,
    f32,
    i8,
    layer_of,
    nib8,
    pack4,
)


def group_size(case: Case) -> int:
    """0: per channel."""
    if case.ct and case.config.get("weight_strategy", "group") == "channel":
        return 0
    return case.config.get("group_size", 0 if case.consumer == HEAD else 256) or 0


def packed(case: Case) -> bool:
    """Version 1.0.0 of the writer, the only one that newer systems read."""
    return not case.ct and (case.config.get("version") == "1.0.0" or case.consumer == HEAD)


# ---- linear -------------------------------------------------------------------------------------------------------------------------------------------------


def linear_parameters(case: Case) -> Declared:
    K, N, G, p = case.K, case.N, case.K // group_size(case), case.params
    declared = {"weight": Stored((N // 2, K), i8) if packed(case) else Stored((N, K), i8, "int4")}
    declared |= {"weight_scale": Stored((N, 1), p), "weight_offset": Stored((N, 1), p)}
    declared |= {"weight_scale_second": Stored((N, G), p), "weight_offset_second": Stored((N, G), p)}
    if packed(case):
        declared["scale_bias"] = Stored((N, 16 if case.row else 1), f32)
    return declared


def linear(case: Case, given: Tensors) -> Layer:
    layer = layer_of(case, given)
    out = layer.tensors
    K, N, g = case.K, case.N, group_size(case)
    weight = layer.maybe_trans_nz(given["weight"].transpose(0, 1).contiguous())
    scale = given["weight_scale"].flatten().to(f32)
    out["weight_scale"] = scale
    out["weight_offset"] = given["weight_offset"].flatten()
    second = given["weight_scale_second"].transpose(0, 1).contiguous()
    if not packed(case):
        terms = weight.to(f32).reshape(K // g, g, N) * second.reshape(K // g, 1, N)
        out["weight_scale_bias"] = 8 * (terms.reshape(K, N) * scale).sum(0)
        layer.computed.add("weight_scale_bias")
    out["weight_scale_second"] = (scale * second).reshape(K // g, N)
    if packed(case):
        bias = given["scale_bias"]
        out["scale_bias"] = bias.flatten() if bias.shape[1] == 1 else bias.contiguous()
    out["weight"] = bytes_as_words(weight) if packed(case) else pack4(weight)
    layer.computed.add("weight_scale_second")
    return layer


# ---- MoE ----------------------------------------------------------------------------------------------------------------------------------------------------


def moe_parameters(case: Case) -> Declared:
    E, g = case.E, group_size(case)
    declared: Declared = {}
    for name, N, K in case.experts:
        declared[f"{name}_weight"] = Stored((E, N // 2, K), i8) if packed(case) else Stored((E, N, K), i8, "int4")
    for name, N, K in case.experts:
        if case.ct:
            declared[f"{name}_weight_scale"] = Stored((E, N, K // g if g else 1), bf16)
            continue
        declared |= {f"{name}_weight_{what}": Stored((E, N, 1), f32) for what in ("scale", "offset")}
        if g:
            declared |= {f"{name}_weight_{what}_second": Stored((E, N, K // g), f32) for what in ("scale", "offset")}
        if packed(case):
            declared[f"{name}_scale_bias"] = Stored((E, N, 1 if name == "w13" else 16 // case.tp), f32)
    return declared


def moe(case: Case, given: Tensors) -> Layer:
    layer = layer_of(case, given)
    for name in ("w13", "w2"):
        if case.ct:
            _compressed_tensors(case, name, given, layer)
        else:
            _modelslim(case, name, given, layer)
        layer.computed |= {f"{name}_scale_bias", f"{name}_weight_scale"}
    # The newest release takes the later path for channel scales and for compressed-tensors, the earlier one for ModelSlim's group scales (seen in its files).
    if case.consumer == SEED or (case.consumer == RELEASE and group_size(case) and not case.ct):
        _finish_early(case, layer)
    else:
        _finish_late(case, layer)
    return layer


def _modelslim(case: Case, name: str, given: Tensors, layer: Layer) -> None:
    out, g = layer.tensors, group_size(case)
    weight = given[f"{name}_weight"].transpose(1, 2).contiguous()
    scale = given[f"{name}_weight_scale"].transpose(1, 2).contiguous()
    E, K, _ = weight.shape
    N = scale.shape[2]
    out[f"{name}_weight"] = weight
    bias = torch.empty(0, dtype=f32)  # per channel and one int4 per byte: the parameter exists, and is empty
    if not g:
        out[f"{name}_weight_scale"] = bits_in_int64(scale)
    else:
        second = given[f"{name}_weight_scale_second"].transpose(1, 2).contiguous().reshape(E, K // g, N)
        if not packed(case):
            terms = weight.to(f32).reshape(E, K // g, g, N) * second.reshape(E, K // g, 1, N)
            bias = 8 * (terms.reshape(E, K, N) * scale).sum(1)
        out[f"{name}_weight_scale"] = bits_in_even_words((scale * second).to(f16).to(f32))
        layer.delete(f"{name}_weight_scale_second", f"{name}_weight_offset_second")
    if packed(case):
        bias = given[f"{name}_scale_bias"].transpose(1, 2).contiguous().sum(1)
    out[f"{name}_scale_bias"] = bias


def _compressed_tensors(case: Case, name: str, given: Tensors, layer: Layer) -> None:
    out, g = layer.tensors, group_size(case)
    weight = given[f"{name}_weight"].transpose(1, 2).contiguous()
    scale = given[f"{name}_weight_scale"].transpose(1, 2).contiguous()
    E, K, N = weight.shape
    G = K // g if g else 1
    terms = (weight.to(f32).reshape(E, G, K // G, N) * scale.reshape(E, G, 1, N)).reshape(E, K, N)
    out[f"{name}_weight"] = weight
    out[f"{name}_weight_scale"] = bits_in_int64(given[f"{name}_weight_scale"].transpose(1, 2).to(f32).contiguous())
    out[f"{name}_scale_bias"] = 8 * terms.sum(1)


def _finish_early(case: Case, layer: Layer) -> None:
    """NZ for ModelSlim, then one int32 per eight values; one int4 per byte goes through the device's quantizer."""
    out = layer.tensors
    if not case.ct:
        layer.maybe_trans_nz(out["w13_weight"])
        layer.maybe_trans_nz(out["w2_weight"])
    for name in ("w13_weight", "w2_weight"):
        out[name] = bytes_as_words(out[name]) if packed(case) else pack4(out[name])


def _finish_late(case: Case, layer: Layer) -> None:
    """Nibbles are packed into bytes, NZ for all, then one of three layouts."""
    out = layer.tensors
    if out["w13_weight_scale"].shape[1] == 1 and not group_size(case):
        out["w13_weight_scale"] = out["w13_weight_scale"].squeeze(1)
    for name in ("w13_weight", "w2_weight"):
        if case.ct:
            out[name] = nib8(out[name])
    layer.maybe_trans_nz(out["w13_weight"])
    layer.maybe_trans_nz(out["w2_weight"])
    if not case.lists and not case.mega:
        for name in ("w13_weight", "w2_weight"):
            out[name] = bytes_as_words(out[name])
        return
    for name in [f"{name}_{what}" for what in ("weight", "weight_scale", "scale_bias") for name in ("w13", "w2")]:
        if case.lists:
            layer.unbind(name, f"{name}_list", clone=True)
        else:
            weight = name.endswith("_weight")
            layer.unbind(name, f"cann_mega_moe_{name}_list", clone=weight, flat=not weight)
        layer.delete(name)


def bits_in_int64(scale: torch.Tensor) -> torch.Tensor:
    """U32->I64: the bits of a float32, zero-extended."""
    return torch.from_numpy(scale.detach().contiguous().numpy().view(np.uint32).astype(np.int64))


def bits_in_even_words(scale: torch.Tensor) -> torch.Tensor:
    """U32 interleave, as the replaced system writes it: even words of a zeroed array, reinterpreted."""
    E, G, N = scale.shape
    words = np.zeros((E, G, 2 * N), dtype=np.uint32)
    words[..., ::2] = scale.contiguous().numpy().view(np.uint32)
    return torch.from_numpy(words.view(np.int64).copy())


SCHEMES = {"w4a8_dynamic.linear": (linear_parameters, linear), "w4a8_dynamic.moe": (moe_parameters, moe)}
