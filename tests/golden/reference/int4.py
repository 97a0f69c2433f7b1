# ruff: noqa: N806 - sizes are capitals, as everywhere in this field
"""int4 weights besides W4A8: with int4 rows, plain or rotated, and experts with 16-bit rows."""

from __future__ import annotations

from math import isqrt

import torch

from tests.golden.reference.layer import SEED, Case, Declared, Layer, Stored, Tensors, bf16, f32, i8, i32, layer_of, pack4

# ---- linear -------------------------------------------------------------------------------------------------------------------------------------------------


def w4a4_parameters(case: Case) -> Declared:
    return {"weight": Stored((case.N, case.K), i8, "int4"), "weight_scale": Stored((case.N, 1), f32), "weight_offset": Stored((case.N, 1), f32)}


def w4a4(case: Case, given: Tensors) -> Layer:
    """The kernel sees from the strides that the outputs are not packed: a view, no copy."""
    layer = layer_of(case, given)
    layer.tensors["weight_scale"] = given["weight_scale"].to(f32)
    layer.tensors["weight"] = pack4(given["weight"]).transpose(-1, -2)
    return layer


def factors(n: int) -> tuple[int, int]:
    """Two factors of one parity, as near to each other as can be. Raises ValueError: there are none, and the original looks for ever."""
    if n < 1 or n % 4 == 2:
        raise ValueError(f"{n} has no two factors of one parity")
    a = isqrt(n) + (isqrt(n) ** 2 < n)
    while isqrt(a * a - n) ** 2 != a * a - n:
        a += 1
    b = isqrt(a * a - n)
    return a - b, a + b


def flatquant_parameters(case: Case) -> Declared:
    if case.K % 8:
        raise ValueError(f"{case.K} inputs are no whole words of int4")
    left, right = factors(case.K)
    trans = {"left_trans": Stored((left, left), case.params), "right_trans": Stored((right, right), case.params), "clip_ratio": Stored((1,), f32, "positive")}
    return {**w4a4_parameters(case), **trans}


def flatquant(case: Case, given: Tensors) -> Layer:
    layer = layer_of(case, given)
    layer.tensors["weight_packed"] = pack4(given["weight"])
    layer.delete("weight")
    layer.tensors["weight_scale"] = given["weight_scale"].to(f32)
    layer.tensors["weight_offset"] = given["weight_offset"].to(f32)
    rotated(layer, given["left_trans"], given)
    return layer


def rotated(layer: Layer, left: torch.Tensor, given: Tensors) -> None:
    """The matrices of the rotation, and the clipping of rows as a number."""
    layer.tensors["left_trans"] = left.t().contiguous()
    layer.tensors["right_trans"] = given["right_trans"]
    layer.tensors["clip_ratio"] = given["clip_ratio"].to(f32)
    layer.numbers["aclnn_clip_ratio"] = float(given["clip_ratio"].to(f32))


# ---- MoE ----------------------------------------------------------------------------------------------------------------------------------------------------


def w4a16_parameters(case: Case) -> Declared:
    g, dtype = case.config.get("group_size", 32), bf16 if case.consumer == SEED else case.params
    if any(K % 8 or K % g for _, _, K in case.experts):
        raise ValueError(f"{case.H} or {case.I} inputs are no whole words of int4, or no whole groups of {g}")
    declared: Declared = {}
    for name, N, K in case.experts:
        declared |= {f"{name}_weight_packed": Stored((case.E, N, K // 8), i32), f"{name}_weight_shape": Stored((case.E, 2), i32)}
        declared |= {f"{name}_weight_{what}": Stored((case.E, N, K // g), dtype) for what in ("scale", "offset")}
    return declared


def w4a16(case: Case, given: Tensors) -> Layer:
    layer = layer_of(case, given)
    for name, N, K in case.experts:
        words = given[f"{name}_weight_packed"].reshape(-1, K // 8)
        codes = torch.zeros(words.shape[0], K, dtype=i32)
        for lane in range(8):
            codes[:, lane::8] = (words >> (4 * lane)) & 0xF
        values = (codes - 8).to(i8).view(case.E, N, K).transpose(1, 2).contiguous().to(i32)
        layer.tensors[f"{name}_weight_packed"] = pack4(values.reshape(-1, N)).view(case.E, K, N // 8)
        for what in ("scale", "offset"):
            layer.tensors[f"{name}_weight_{what}"] = given[f"{name}_weight_{what}"].transpose(1, 2).contiguous()
    return layer


SCHEMES = {
    "w4a4_dynamic.linear": (w4a4_parameters, w4a4),
    "w4a4_flatquant_dynamic.linear": (flatquant_parameters, flatquant),
    "w4a16.moe": (w4a16_parameters, w4a16),
}
