# ruff: noqa: N806 - sizes are capitals, as everywhere in this field
"""Block scales: e4m3 or FP4 weights with one power of two (E8M0, in a byte) per 32 inputs, and the 128 x 128 blocks of DeepSeek.

FP4 comes two to a byte, the even input in the low nibble. The kernels read scales in pairs of groups. Where the original counts groups with a floor, or fails
on an odd number of them, here all are counted and the last pair is completed with a zero byte (see the package).
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from tests.golden.reference.int4 import factors, rotated
from tests.golden.reference.layer import E4M3, FP4, SEED, Case, Declared, Layer, Stored, Tensors, e4m3, e8m0, f32, i32, layer_of, u8


def groups(case: Case, inputs: int) -> int:
    """The last one perhaps partial."""
    return int(-(-inputs // case.config.get("group_size", 32)))


def pairs(scale: torch.Tensor) -> torch.Tensor:
    """[..., G] -> [..., ceil(G / 2), 2]."""
    if scale.shape[-1] % 2:
        scale = pad(scale, (0, 1))
    return scale.reshape(*scale.shape[:-1], scale.shape[-1] // 2, 2)


# ---- linear -------------------------------------------------------------------------------------------------------------------------------------------------


def mxfp8_parameters(case: Case) -> Declared:
    return {"weight": Stored((case.N, case.K), e4m3), "weight_scale": Stored((case.N, groups(case, case.K)), u8)}


def mxfp4_parameters(case: Case) -> Declared:
    if case.K % 2:
        raise ValueError(f"{case.K} inputs are no whole bytes of FP4")
    return {"weight": Stored((case.N, case.K // 2), u8), "weight_scale": Stored((case.N, groups(case, case.K)), u8)}


def views(case: Case, given: Tensors) -> Layer:
    """Transposed, not moved: the kernel sees the packed dim from the strides."""
    layer = layer_of(case, given)
    layer.tensors["weight"] = given["weight"].transpose(0, 1)
    layer.tensors["weight_scale"] = pairs(given["weight_scale"]).transpose(0, 1)
    return layer


def mxfp8(case: Case, given: Tensors) -> Layer:
    """Newer systems copy both into buffers whose addresses never change."""
    layer = views(case, given)
    if case.consumer != SEED:
        layer.tensors["weight"] = given["weight"].transpose(0, 1).contiguous()
        layer.tensors["weight_scale"] = pairs(given["weight_scale"]).transpose(0, 1).contiguous()
    return layer


def w4a8_mxfp(case: Case, given: Tensors) -> Layer:
    """NZ on the bytes as they are stored, whatever weight_nz_mode says."""
    layer = views(case, given)
    layer.nz(given["weight"], customize_dtype=E4M3, input_dtype=FP4)
    return layer


def sides(n: int, ranks: int) -> tuple[int, int]:
    """The left matrix has this side for each of so many ranks; no side is above 256."""
    left, right = factors(n)
    if right > 256:
        raise ValueError(f"a factor of {n} is above 256")
    return (256, ranks * n // 256) if left * ranks > 256 else (left, right)


def flatquant_sides(case: Case) -> tuple[int, int]:
    """The left matrix of a row layer spans the inputs of all ranks; the right one is that of the largest number of ranks."""
    most = case.config.get("max_supported_tp", 4)
    if case.tp > most:
        raise ValueError(f"more than {most} ranks")
    if not case.row:
        return sides(case.K, 1)
    whole = case.K * case.tp
    _, right = sides(whole // most, most)
    return whole // right, right


def flatquant_parameters(case: Case) -> Declared:
    left, right = flatquant_sides(case)
    trans = {"left_trans": Stored((left, left), case.params), "right_trans": Stored((right, right), case.params), "clip_ratio": Stored((1,), f32, "positive")}
    return {**mxfp4_parameters(case), **trans}


def flatquant(case: Case, given: Tensors) -> Layer:
    layer = views(case, given)
    left = given["left_trans"]
    if case.row:
        block = left.shape[0] // case.tp
        mine = slice(case.rank * block, (case.rank + 1) * block)
        left = left[mine, mine]
    rotated(layer, left, given)
    return layer


def ds_parameters(case: Case) -> Declared:
    """One float32 per block of 128 x 128, a power of two."""
    return {"weight": Stored((case.N, case.K), e4m3), "weight_scale": Stored((-(-case.N // 128), -(-case.K // 128)), f32, "power_of_two")}


def ds_linear(case: Case, given: Tensors) -> Layer:
    layer = layer_of(case, given)
    exponents = ((given["weight_scale"].view(i32) >> 23) & 255).to(u8)
    # A byte per row and 32 inputs. What the blocks at the edges have too much is cut off.
    repeated = exponents.repeat_interleave(4, 1).repeat_interleave(128, 0)
    scale = pairs(repeated[: case.N, : -(-case.K // 32)].contiguous())
    layer.tensors["weight"] = given["weight"].transpose(0, 1)
    layer.tensors["weight_scale"] = scale.transpose(0, 1)
    if str(case.config.get("prefix", "")).endswith("wo_a"):
        ranks, rank = case.config["o_groups"] // case.tp, case.config["o_lora_rank"]
        layer.tensors["weight"] = given["weight"].reshape(ranks, rank, case.K).transpose(1, 2).contiguous()
        layer.tensors["weight_scale"] = scale.reshape(ranks, rank, *scale.shape[1:]).transpose(1, 2).contiguous()
    return layer


# ---- MoE ----------------------------------------------------------------------------------------------------------------------------------------------------


def _experts(case: Case, packed: bool, scale: torch.dtype) -> Declared:
    if packed and (case.H % 2 or case.I % 2):
        raise ValueError(f"{case.H} or {case.I} inputs are no whole bytes of FP4")
    weight = {f"{name}_weight": Stored((case.E, N, K // 2), u8) if packed else Stored((case.E, N, K), e4m3) for name, N, K in case.experts}
    return weight | {f"{name}_weight_scale": Stored((case.E, N, groups(case, K)), scale) for name, N, K in case.experts}


def moe_mxfp8_parameters(case: Case) -> Declared:
    return _experts(case, packed=False, scale=u8)


def moe_mxfp4_parameters(case: Case) -> Declared:
    return _experts(case, packed=True, scale=u8)


def ds_moe_parameters(case: Case) -> Declared:
    return _experts(case, packed=True, scale=e8m0)


def moe_views(case: Case, given: Tensors) -> Layer:
    layer = layer_of(case, given)
    for name in ("w13", "w2"):
        layer.tensors[f"{name}_weight"] = given[f"{name}_weight"].transpose(1, 2)
        layer.tensors[f"{name}_weight_scale"] = pairs(given[f"{name}_weight_scale"].view(u8)).transpose(1, 2)
    return layer


def moe_w4a8_mxfp(case: Case, given: Tensors) -> Layer:
    layer = moe_views(case, given)
    for name in ("w13", "w2"):
        layer.nz(given[f"{name}_weight"], customize_dtype=E4M3, input_dtype=FP4)
    return layer


def moe_w4a16(case: Case, given: Tensors) -> Layer:
    """FP4 to float32, NZ, and packed again: eight codes in what is called a float32. Scales without pairs."""
    layer = layer_of(case, given)
    for name, _, K in case.experts:
        stored = given[f"{name}_weight"]
        values = torch.zeros(*stored.shape[:-1], K)
        values[..., 0::2], values[..., 1::2] = FP4_VALUES[(stored & 15).long()], FP4_VALUES[(stored // 16).long()]
        turned = layer.nz(values.transpose(1, 2), customize_dtype="torch.bfloat16")
        layer.tensors[f"{name}_weight"] = _pack_fp4(turned)
    for name in ("w13", "w2"):
        layer.tensors[f"{name}_weight_scale"] = given[f"{name}_weight_scale"].transpose(1, 2).contiguous()
    return layer


FP4_VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def _pack_fp4(values: torch.Tensor) -> torch.Tensor:
    """PACK4 of float32: sign and magnitude to the code, eight codes of the last dim in 32 bits, the first in the lowest."""
    codes = torch.searchsorted(FP4_VALUES[:8], values.abs().contiguous()).to(i32) + 8 * torch.signbit(values).to(i32)
    eights = codes.reshape(*codes.shape[:-1], codes.shape[-1] // 8, 8)
    word = torch.zeros_like(eights[..., 0])
    for lane in range(8):
        word = word | (eights[..., lane] << (4 * lane))
    return word.view(f32)


SCHEMES = {
    "w8a8_mxfp8.linear": (mxfp8_parameters, mxfp8),
    "w4a4_mxfp4.linear": (mxfp4_parameters, views),
    "w4a4_mxfp4_flatquant.linear": (flatquant_parameters, flatquant),
    "w4a8_mxfp.linear": (mxfp4_parameters, w4a8_mxfp),
    "fp8.ds_linear": (ds_parameters, ds_linear),
    "w8a8_mxfp8.moe": (moe_mxfp8_parameters, moe_views),
    "w4a4_mxfp4.moe": (moe_mxfp4_parameters, moe_views),
    "w4a8_mxfp.moe": (moe_mxfp4_parameters, moe_w4a8_mxfp),
    "fp8.ds_w4a8_moe": (ds_moe_parameters, moe_w4a8_mxfp),
    "w4a16_mxfp4.moe": (moe_mxfp4_parameters, moe_w4a16),
}
