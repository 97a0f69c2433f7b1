# ruff: noqa: N806 - sizes are capitals, as everywhere in this field
"""Weights of one byte with one scale per output channel: int8, static or dynamic, and e4m3 per channel."""

from __future__ import annotations

from typing import Literal

import torch

from tests.golden.reference.layer import HEAD, SEED, Case, Declared, Layer, Stored, Tensors, e4m3, f16, f32, i8, i32, i64, layer_of

# ---- linear, static -----------------------------------------------------------------------------------------------------------------------------------------


def _input(case: Case) -> Declared:
    """Of the quantizer of rows: one scale and one offset for all of them."""
    return {"input_scale": Stored((1,), case.params), "input_offset": Stored((1,), i8)}


def w8a8s_parameters(case: Case) -> Declared:
    """deq_scale for float16 models is an int64: the cube unit reads the bits of a float32 in its low word. 310P holds that form alone."""
    deq = i64 if case.on_310p or case.params == f16 else f32
    return {"weight": Stored((case.N, case.K), i8), **_input(case), "quant_bias": Stored((case.N,), i32), "deq_scale": Stored((case.N,), deq)}


def w8a8_parameters(case: Case) -> Declared:
    return {**w8a8s_parameters(case), **_channel(case, case.params)}


def _channel(case: Case, dtype: torch.dtype) -> Declared:
    return {"weight_scale": Stored((case.N, 1), dtype), "weight_offset": Stored((case.N, 1), dtype)}


def _repeated_input(layer: Layer, given: Tensors, as_parameters: tuple[str, ...]) -> None:
    """What the quantizer of rows is called with: a value per input, in the dtype of the model."""
    K, p = layer.case.K, layer.case.params
    made = {
        "aclnn_input_scale": given["input_scale"].repeat(K),
        "aclnn_input_scale_reciprocal": 1.0 / given["input_scale"].repeat(K),
        "aclnn_input_offset": given["input_offset"].repeat(K).to(p),
    }
    for name, tensor in made.items():
        layer.attribute(name, tensor, computed=name == "aclnn_input_scale_reciprocal")
    layer.attributes -= set(as_parameters)


def w8a8(case: Case, given: Tensors) -> Layer:
    layer = layer_of(case, given)
    out = layer.tensors
    if case.on_310p:
        _repeated_input(layer, given, ("aclnn_input_scale", "aclnn_input_scale_reciprocal"))
        out["weight"] = layer.maybe_trans_nz(given["weight"]).transpose(0, 1)
    else:
        _repeated_input(layer, given, ("aclnn_input_scale",))
        out["weight"] = layer.maybe_trans_nz(given["weight"].transpose(0, 1).contiguous())
    out["weight_scale"] = given["weight_scale"].flatten()
    out["weight_offset"] = given["weight_offset"].flatten()
    if case.ct:
        out["deq_scale"] = given["input_scale"] * out["weight_scale"]
        layer.computed.add("deq_scale")
    return layer


def w8a8_mix(case: Case, given: Tensors) -> Layer:
    """Static where it decodes for another instance that prefills, dynamic else: the tensors of both."""
    layer = w8a8(case, given)
    layer.attribute("weight_scale_fp32", layer.tensors["weight_scale"].to(f32), computed=True)
    layer.numbers["is_kv_consumer"] = case.config.get("kv_role", "none") == "consumer"
    return layer


def w8a8s(case: Case, given: Tensors) -> Layer:
    """310P, sparse weights stored densely: transposed when called."""
    layer = layer_of(case, given)
    _repeated_input(layer, given, ())
    layer.tensors["weight"] = layer.maybe_trans_nz(given["weight"])
    return layer


def w8a8sc_parameters(case: Case) -> Declared:
    """310P, compressed weights: the upper bound of their length, and an index of 8 bytes per block of 256 x 128."""
    K, N = case.K, case.N
    declared = {"weight": Stored((K * N,), i8), "index": Stored((-(-K // 256) * -(-N // 128) * 8,), i8), "info": Stored((5,), i64)}
    return {**declared, **_input(case), "quant_bias": Stored((N,), i32), "deq_scale": Stored((N,), i64)}


def w8a8sc(case: Case, given: Tensors) -> Layer:
    layer = layer_of(case, given)
    out = layer.tensors
    _repeated_input(layer, given, ())
    out["deq_scale"] = given["deq_scale"].unsqueeze(0).to(torch.uint64)
    bias = given["quant_bias"].unsqueeze(0)
    # The kernel takes no call without a bias, and the ranks' results are added.
    out["quant_bias"] = torch.zeros_like(bias) if case.row and case.rank else bias
    return layer


# ---- linear, dynamic ----------------------------------------------------------------------------------------------------------------------------------------


def w8a8_dynamic_parameters(case: Case) -> Declared:
    """On 310P the two of the input are inherited: created, never loaded, never read."""
    weight = {"weight": Stored((case.N, case.K), i8)}
    return {**weight, **_input(case), **_channel(case, f32)} if case.on_310p else {**weight, **_channel(case, case.params)}


def w8a8_dynamic(case: Case, given: Tensors) -> Layer:
    if case.on_310p:
        layer = layer_of(case, given)
        layer.tensors["weight"] = layer.maybe_trans_nz(given["weight"]).transpose(0, 1)
        layer.tensors["weight_scale"] = given["weight_scale"].flatten()
        layer.tensors["weight_offset"] = given["weight_offset"].flatten()
        return layer
    layer = w8a16(case, given)
    layer.attribute("weight_scale_fp32", given["weight_scale"].flatten().to(f32), computed=True)
    return layer


def w8a16(case: Case, given: Tensors) -> Layer:
    layer = layer_of(case, given)
    layer.tensors["weight"] = layer.maybe_trans_nz(given["weight"].transpose(0, 1).contiguous())
    layer.tensors["weight_scale"] = given["weight_scale"].flatten()
    layer.tensors["weight_offset"] = given["weight_offset"].flatten()
    return layer


def w8a8fp8_parameters(case: Case) -> Declared:
    return {"weight": Stored((case.N, case.K), e4m3), "weight_scale": Stored((case.N, 1), f32), "weight_offset": Stored((case.N, 1), case.params)}


def w8a8fp8(case: Case, given: Tensors) -> Layer:
    layer = layer_of(case, given)
    layer.tensors["weight"] = given["weight"].transpose(0, 1).contiguous()
    layer.tensors["weight_scale"] = given["weight_scale"].flatten()
    layer.tensors["weight_offset"] = given["weight_offset"].flatten()
    layer.attribute("weight_scale_fp32", given["weight_scale"].flatten().to(f32), computed=True)
    return layer


# ---- MoE ----------------------------------------------------------------------------------------------------------------------------------------------------


def _experts(case: Case, weight: torch.dtype, scale: torch.dtype) -> Declared:
    holds: Literal["positive", "any"] = "positive" if case.fused else "any"
    declared = {f"{name}_weight": Stored((case.E, N, K), weight) for name, N, K in case.experts}
    for name, N, _ in case.experts:
        declared |= {f"{name}_weight_scale": Stored((case.E, N, 1), scale, holds), f"{name}_weight_offset": Stored((case.E, N, 1), case.params)}
    return declared


def moe_parameters(case: Case) -> Declared:
    return _experts(case, i8, f32 if case.on_310p else case.params)


def moe_mix_parameters(case: Case) -> Declared:
    """Four more that nothing reads."""
    declared = moe_parameters(case)
    declared |= {f"{name}_deq_scale": Stored((case.E, N), f32) for name, N, _ in case.experts}
    return declared | {f"{name}_input_offset": Stored((case.E, 1), i8) for name, _, _ in case.experts}


def moe_fp8_parameters(case: Case) -> Declared:
    return _experts(case, e4m3, f32)


def moe(case: Case, given: Tensors) -> Layer:
    layer = layer_of(case, given)
    out, E = layer.tensors, case.E
    if case.on_310p:
        for name in ("w13", "w2"):
            if case.consumer != SEED:
                layer.maybe_trans_nz(given[f"{name}_weight"])
            out[f"{name}_weight_scale"] = given[f"{name}_weight_scale"].view(E, -1)
            out[f"{name}_weight_offset"] = given[f"{name}_weight_offset"].view(E, -1)
        return layer
    for name in ("w13", "w2"):
        weight = given[f"{name}_weight"].transpose(1, 2).contiguous()
        # Whatever weight_nz_mode says; only the subclass for e4m3 does without.
        out[f"{name}_weight"] = layer.nz(weight) if weight.dtype == i8 else weight
        out[f"{name}_weight_scale"] = given[f"{name}_weight_scale"].view(E, -1)
        out[f"{name}_weight_offset"] = given[f"{name}_weight_offset"].view(E, -1)
    layer.attribute("w13_weight_scale_fp32", given["w13_weight_scale"].view(E, -1).to(f32), computed=True)
    if case.fused:
        _fuse(case, layer, given)
    if case.lists:
        _list(case, layer)
    elif case.mega:
        _mega(case, layer)
    return layer


def _fuse(case: Case, layer: Layer, given: Tensors) -> None:
    """S32->I64: the bits of a float32, sign-extended, all experts in one row."""
    for short, name in (("w1", "w13"), ("w2", "w2")):
        layer.attribute(f"fused_{short}_scale", given[f"{name}_weight_scale"].to(f32).view(i32).to(i64).flatten(), computed=True)
        if case.consumer == HEAD:
            layer.attribute(f"fused_{short}_scale_bias", [torch.empty(0, dtype=f32)])


def _list(case: Case, layer: Layer) -> None:
    names = ["w13_weight", "w2_weight", "w13_weight_scale_fp32", "w2_weight_scale"]
    for name in names:
        layer.unbind(name, f"{name}_list", clone=True)
    layer.delete("w13_weight_scale", *names)
    for name in ("fused_w1_scale", "fused_w2_scale") if case.fused else ():
        layer.tensors[name] = layer.tensors[name].view(case.E, -1)
        layer.unbind(name, f"{name}_list", clone=True)
        layer.delete(name)


def _mega(case: Case, layer: Layer) -> None:
    """Besides what is there: no copies."""
    for name in ("w13_weight", "w2_weight"):
        layer.unbind(name, f"cann_mega_moe_{name}_list")
    for name in ("fused_w1_scale", "fused_w2_scale"):
        layer.attribute(f"cann_mega_moe_{name}_list", list(layer.tensors[name].view(case.E, -1).unbind(0)), computed=True)


SCHEMES = {
    "w8a8.linear": (w8a8_parameters, w8a8),
    "w8a8_mix.linear": (w8a8_parameters, w8a8_mix),
    "w8a8s.linear": (w8a8s_parameters, w8a8s),
    "w8a8sc.linear": (w8a8sc_parameters, w8a8sc),
    "w8a8_dynamic.linear": (w8a8_dynamic_parameters, w8a8_dynamic),
    "w8a16.linear": (w8a8_dynamic_parameters, w8a16),
    "w8a8fp8_dynamic.linear": (w8a8fp8_parameters, w8a8fp8),
    "w8a8_dynamic.moe": (moe_parameters, moe),
    "w8a8_mix.moe": (moe_mix_parameters, moe),
    "w8a8fp8_dynamic.moe": (moe_fp8_parameters, moe),
}
