"""Grouped matmul of quantized rows, swiglu of its halves, and quantized rows again: int8, e4m3 with a scale per row, or mx (blocks that share an exponent).

int8    as npu_grouped_matmul_swiglu_quant; ``weight_assist_matrix`` is its bias
e4m3    c = acc * weight_scale * x_scale; scale = max|s| / 448 per row, q = s / scale (dequant_mode 0, quant_mode 0, quant_dtype e4m3)
mx      operands times 2**e of their block of 32; s quantized as npu_dynamic_mx_quant does (dequant_mode 2, quant_mode 2, quant_dtype e4m3 or e2m1)

Rows after the last group stay poisoned; the exponents of mx are then 255, which is NaN.
Source: torch_npu 2.13.0 schema and meta function (but for the size of an e2m1 result: it counts elements, here are bytes, as the next matmul reads them);
ops-transformer 3a280bcc aclnnGroupedMatmulSwigluQuantV2 document.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layoutdsl.kernels.grouped import COUNTS, CUMULATED, Experts, Group, experts, int_products, row_groups, swiglu, swiglu_quant, weight_of
from layoutdsl.kernels.numerics import (
    BYTES,
    Checks,
    blocks_transposed,
    column_blocks,
    elements,
    mx_quantize,
    poisoned,
    row_blocks,
    scale_values,
    transposed,
)

OP = "npu::npu_grouped_matmul_swiglu_quant_v2"
_CHECKS = Checks(OP)
_RESULTS = ("int8", "e4m3", "e2m1")


def reference(
    x: Tensor,
    weight: Sequence[Tensor],
    weight_scale: Sequence[Tensor],
    x_scale: Tensor,
    group_list: Tensor,
    *,
    smooth_scale: Tensor | None = None,
    weight_assist_matrix: Sequence[Tensor] | None = None,
    bias: Tensor | None = None,
    dequant_mode: int | None = 0,
    dequant_dtype: int | None = 6,
    quant_mode: int | None = 0,
    quant_dtype: int | None = 1,
    group_list_type: int | None = 0,
    tuning_config: Sequence[int] | None = None,
    x_dtype: int | None = None,
    weight_dtype: int | None = None,
    weight_scale_dtype: int | None = None,
    x_scale_dtype: int | None = None,
) -> tuple[Tensor, Tensor]:
    """x: int8 or e4m3 [m, k], or e2m1 as two to a uint8 (x_dtype 296). weight, weight_scale: one tensor each, of all experts.

    Results: [m, n / 2] (e2m1 [m, n / 4] uint8), and float32 [m] or for mx uint8 [m, ceil(n / 128), 2]. Raises: DiagnosticError ``kernel-arguments``.
    """
    _CHECKS.absent("reserved by the op", bias=bias, smooth_scale=smooth_scale)
    _CHECKS.dtype("dequant_dtype", dequant_dtype, "float32")
    result = _CHECKS.dtype("quant_dtype", quant_dtype, *_RESULTS)
    _CHECKS.expect(group_list_type in (CUMULATED, COUNTS), "group_list_type", "0 or 1", group_list_type)
    _CHECKS.expect(len(weight) == 1 and weight[0].dim() == 3, "weight", "one tensor [e, k, n]", list(weight))
    _CHECKS.expect(len(weight_scale) == 1, "weight_scale", "one tensor", list(weight_scale))
    own = experts(_CHECKS, weight)
    found = row_groups(_CHECKS, group_list, group_list_type, len(own.weights), x.shape[0])
    if dequant_mode == 2:
        _CHECKS.expect(quant_mode == 2, "quant_mode", "2, as dequant_mode", quant_mode)
        _CHECKS.absent("with block exponents", weight_assist_matrix=weight_assist_matrix)
        _CHECKS.dtype("weight_scale_dtype", weight_scale_dtype, "e8m0")
        _CHECKS.dtype("x_scale_dtype", x_scale_dtype, "e8m0")
        kinds = _mx_element("x", x, x_dtype), _mx_element("weight", weight[0], weight_dtype)
        _CHECKS.expect(kinds[0] == kinds[1] and result != "int8", "quant_dtype", "e4m3 or e2m1, and operands that are alike", result)
        return _mx(x, own, kinds[0], weight_scale, x_scale, found, result)
    _CHECKS.absent("but with dequant_mode 2", x_dtype=x_dtype, weight_dtype=weight_dtype, weight_scale_dtype=weight_scale_dtype, x_scale_dtype=x_scale_dtype)
    _CHECKS.expect(quant_mode == 0, "quant_mode", "0, one scale per row", quant_mode)
    rows = _CHECKS.tensor("x_scale", x_scale, (torch.float32,), (x.shape[0],))
    element = {torch.int8: "int8", torch.float8_e4m3fn: "e4m3"}.get(x.dtype)
    _CHECKS.expect(x.dim() == 2 and element is not None, "x", "int8 or e4m3 [m, k], without x_dtype", x)
    _CHECKS.expect(result == element, "quant_dtype", f"{element}, as x", result)
    grouped = weight_scale[0].dim() == 3
    _CHECKS.expect(dequant_mode == int(grouped), "dequant_mode", "1 with a scale per group of k, 2 with block exponents, else 0", dequant_mode)
    if element == "int8":
        _CHECKS.rank("weight", weight[0], (torch.int8, torch.int32), (3,))
        product = int_products(_CHECKS, x, own, weight_scale, weight_assist_matrix, "weight_assist_matrix")
        return swiglu_quant(rows, found, product, weight_scale[0].shape[-1])
    _CHECKS.absent("where the weight is e4m3", weight_assist_matrix=weight_assist_matrix)
    _CHECKS.rank("weight", weight[0], (torch.float8_e4m3fn,), (3,))
    scales = own.each("weight_scale", weight_scale)

    def scaled(group: Group) -> Tensor:
        values = weight_of(_CHECKS, own.weights[group.expert], "e4m3", x.shape[1])
        scale = _CHECKS.tensor("weight_scale", scales[group.expert], (torch.float32,), (values.shape[1],))
        return (x[group.rows].to(torch.float64) @ values) * scale_values(scale)

    return swiglu_quant(rows, found, scaled, weight[0].shape[-1], element="e4m3")


def _mx_element(argument: str, tensor: Tensor, number: int | None) -> str:
    if _CHECKS.dtype(f"{argument}_dtype", number, "", "e2m1"):
        _CHECKS.expect(tensor.dtype == torch.uint8, argument, "e2m1 in uint8", tensor)
        return "e2m1"
    _CHECKS.expect(tensor.dtype == torch.float8_e4m3fn, argument, "e4m3, or e2m1 in uint8 with its dtype argument", tensor)
    return "e4m3"


def _mx(x: Tensor, own: Experts, element: str, weight_scale: Sequence[Tensor], x_scale: Tensor, found: Sequence[Group], result: str) -> tuple[Tensor, Tensor]:
    _CHECKS.expect(x.dim() == 2, "x", "2 dims", x)
    values = elements(x, element)
    m, k = values.shape
    values = values * row_blocks(_CHECKS.tensor("x_scale", x_scale, BYTES, (m, -(-k // 64), 2)), k)
    scales = own.each("weight_scale", weight_scale)
    shape, scale_shape = _mx_shapes(m, weight_scale[0].shape[-2], result)
    output = poisoned(shape, torch.float8_e4m3fn if result == "e4m3" else torch.uint8, x.device)
    output_scale = torch.full(scale_shape, 255, dtype=torch.uint8, device=x.device)
    for group in found:
        raw = own.weights[group.expert]
        weight = weight_of(_CHECKS, raw, element, k)
        scale = _CHECKS.tensor("weight_scale", scales[group.expert], BYTES, (-(-k // 64), weight.shape[1], 2))
        alike = blocks_transposed(scale) in (None, transposed(raw))
        _CHECKS.expect(alike, "weight_scale", "a transposed view exactly if the weight is one", f"strides {list(scale.stride())}")
        product = values[group.rows] @ (weight * column_blocks(scale, k))
        output[group.rows], output_scale[group.rows] = mx_quantize(swiglu(product), result)
    return output, output_scale


def _mx_shapes(m: int, n: int, result: str) -> tuple[tuple[int, int], tuple[int, int, int]]:
    half = n // 2
    return (m, half if result == "e4m3" else half // 2), (m, (half + 63) // 64, 2)


def fake(
    x: Tensor,
    weight: Sequence[Tensor],
    weight_scale: Sequence[Tensor],
    x_scale: Tensor,
    group_list: Tensor,
    *,
    smooth_scale: Tensor | None = None,
    weight_assist_matrix: Sequence[Tensor] | None = None,
    bias: Tensor | None = None,
    dequant_mode: int | None = 0,
    dequant_dtype: int | None = 6,
    quant_mode: int | None = 0,
    quant_dtype: int | None = 1,
    group_list_type: int | None = 0,
    tuning_config: Sequence[int] | None = None,
    x_dtype: int | None = None,
    weight_dtype: int | None = None,
    weight_scale_dtype: int | None = None,
    x_scale_dtype: int | None = None,
) -> tuple[Tensor, Tensor]:
    result = _CHECKS.dtype("quant_dtype", quant_dtype, *_RESULTS)
    if dequant_mode == 2:
        shape, scale_shape = _mx_shapes(x.shape[0], weight_scale[0].shape[-2], result)
        return x.new_empty(shape, dtype=torch.float8_e4m3fn if result == "e4m3" else torch.uint8), x.new_empty(scale_shape, dtype=torch.uint8)
    q = x.new_empty((x.shape[0], weight_scale[0].shape[-1] // 2), dtype=torch.int8 if result == "int8" else torch.float8_e4m3fn)
    return q, x.new_empty((x.shape[0],), dtype=torch.float32)
