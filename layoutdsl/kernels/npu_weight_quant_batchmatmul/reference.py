"""y = x @ ((weight + antiquant_offset) * antiquant_scale) + bias, for 16-bit x and a weight of int8, int4 or e2m1.

The weight is rounded to the dtype of x after the sum and after the product; the matmul is ideal, its result rounded once. e2m1 (A5): weight * 2**e, exact.
Source: torch_npu 2.13.0 schema and meta function; op-plugin 517f2e7d WeightQuantBatchMatmulV2KernelNpuOpApi.cpp (checks); ops-nn e5c3fa93
aclnnWeightQuantBatchMatmulV2 document (shapes) and wqbmmv2_kernel_golden (roundings).
"""

from __future__ import annotations

import torch
from torch import Tensor

from layoutdsl.kernels.numerics import BYTES, HALVES, MX_BLOCK, Checks, antiquant, columns, e8m0_values, elements, groups, transposed

OP = "npu::npu_weight_quant_batchmatmul"
_CHECKS = Checks(OP)
_LANES = {"int8": 1, "int4": 8}


def reference(
    x: Tensor,
    weight: Tensor,
    antiquant_scale: Tensor,
    antiquant_offset: Tensor | None = None,
    quant_scale: Tensor | None = None,
    quant_offset: Tensor | None = None,
    bias: Tensor | None = None,
    antiquant_group_size: int = 0,
    inner_precise: int = 0,
    weight_dtype: int | None = None,
) -> Tensor:
    """x: float16 or bfloat16 [m, k]. weight: int8 [k, n], int4 as 8 to an int32 along n, or along k in a transposed view [k / 8, n].

    antiquant_scale, antiquant_offset: of the dtype of x; [1], [n] ([1, n], or [n, 1] with a transposed weight), or with antiquant_group_size
    [ceil(k / g), n], a transposed view if the weight is one. bias: [n] or [1, n], float16 for float16, else float32 or bfloat16.
    inner_precise, a trade of speed for precision, changes nothing here.
    Raises: DiagnosticError ``kernel-arguments``.
    """
    _CHECKS.rank("x", x, HALVES)
    _CHECKS.expect(weight.dim() == 2, "weight", "2 dims", weight)
    _CHECKS.absent("the reference does not requantize", quant_scale=quant_scale, quant_offset=quant_offset)
    _CHECKS.expect(inner_precise in (0, 1), "inner_precise", "0 or 1", inner_precise)
    element = _element(weight, weight_dtype)
    values = elements(weight, element)
    k, n = values.shape
    _CHECKS.expect(x.shape[1] == k, "weight", f"{x.shape[1]} rows, as x has columns", weight)
    if element == "e2m1":
        _CHECKS.absent("where the weight is e2m1", antiquant_offset=antiquant_offset)
        _CHECKS.expect(antiquant_group_size == MX_BLOCK, "antiquant_group_size", f"{MX_BLOCK}", antiquant_group_size)
        scale = _CHECKS.tensor("antiquant_scale", antiquant_scale, BYTES, (-(-k // MX_BLOCK), n))
        dense = values * groups(e8m0_values(scale), MX_BLOCK, k)
    else:
        scale = _scale("antiquant_scale", antiquant_scale, x.dtype, weight, (k, n), antiquant_group_size)
        offset = None
        if antiquant_offset is not None:
            _CHECKS.expect(antiquant_offset.shape == antiquant_scale.shape, "antiquant_offset", f"the shape {list(antiquant_scale.shape)}", antiquant_offset)
            offset = _scale("antiquant_offset", antiquant_offset, x.dtype, weight, (k, n), antiquant_group_size)
        dense = antiquant(values, scale, offset).to(torch.float64)
    y = x.to(torch.float64) @ dense
    if bias is not None:
        kinds = (torch.float16,) if x.dtype == torch.float16 else (torch.float32, torch.bfloat16)
        y = y + _CHECKS.tensor("bias", bias, kinds, (n,), (1, n)).to(torch.float64)
    return y.to(x.dtype)


def _element(weight: Tensor, weight_dtype: int | None) -> str:
    if weight.dtype == torch.float32 or weight_dtype is not None:
        _CHECKS.dtype("weight_dtype", weight_dtype, *(("", "e2m1") if weight.dtype == torch.float32 else ("e2m1",)))
        _CHECKS.expect(weight.dtype in (torch.float32, torch.uint8), "weight", "e2m1 in float32 or uint8", weight)
        return "e2m1"
    _CHECKS.expect(weight.dtype in (torch.int8, torch.int32), "weight", "int8, or int4 in int32", weight)
    return "int8" if weight.dtype == torch.int8 else "int4"


def _scale(argument: str, scale: Tensor, dtype: torch.dtype, weight: Tensor, sizes: tuple[int, int], group_size: int) -> Tensor:
    """Scale or offset, broadcast against [k, n]."""
    k, n = sizes
    if group_size == 0:
        column = (n, 1) if transposed(weight) else (1, n)
        found = _CHECKS.tensor(argument, scale, (dtype,), (1,), (n,), column)
        return found.mT if found.shape == (n, 1) != (1, 1) else found
    legal = group_size % 32 == 0 and 32 <= group_size < k
    _CHECKS.expect(legal, "antiquant_group_size", f"0, or a multiple of 32 from 32 to {k - 1}", group_size)
    found = _CHECKS.tensor(argument, scale, (dtype,), (-(-k // group_size), n))
    alike = 1 in found.shape or transposed(found) == transposed(weight)
    _CHECKS.expect(alike, argument, "a transposed view, as the weight is" if transposed(weight) else "no transposed view, as the weight is none", found)
    return groups(found, group_size, k)


def fake(
    x: Tensor,
    weight: Tensor,
    antiquant_scale: Tensor,
    antiquant_offset: Tensor | None = None,
    quant_scale: Tensor | None = None,
    quant_offset: Tensor | None = None,
    bias: Tensor | None = None,
    antiquant_group_size: int = 0,
    inner_precise: int = 0,
    weight_dtype: int | None = None,
) -> Tensor:
    lanes = {torch.int32: 8, torch.float32: 8, torch.uint8: 2}.get(weight.dtype, 1)
    return x.new_empty((x.shape[0], columns(weight, lanes)))
