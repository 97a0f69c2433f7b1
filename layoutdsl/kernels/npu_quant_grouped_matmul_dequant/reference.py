"""Rows quantized to int8 by their own maximum, one matmul per expert with a weight [n, k], and scaled again (310P).

x_scale = max|x| / 127 per row, q = rint(x / x_scale), y = (q @ weight^T) * weight_scale * x_scale. Groups are cumulated; rows after the last stay poisoned.
Source: torch_npu 2.13.0 schema and meta function; aclnnQuantGroupedMatmulDequant document of CANN 8.3 (formula).
"""

from __future__ import annotations

import torch
from torch import Tensor

from layoutdsl.kernels.grouped import CUMULATED, Group, row_groups, run_groups
from layoutdsl.kernels.numerics import Checks, poisoned, quantize_rows

OP = "npu::npu_quant_grouped_matmul_dequant"
_CHECKS = Checks(OP)


def reference(
    x: Tensor,
    quantized_weight: Tensor,
    weight_scale: Tensor,
    group_list: Tensor,
    *,
    bias: Tensor | None = None,
    x_scale: Tensor | None = None,
    x_offset: Tensor | None = None,
    smooth_scale: Tensor | None = None,
    quant_mode: str | None = "pertoken",
) -> Tensor:
    """x: float16 [m, k]. quantized_weight: int8 [e, n, k]. weight_scale: float32 [e, n]. Result: float16 [m, n].

    Raises: DiagnosticError ``kernel-arguments``.
    """
    _CHECKS.absent("the reference quantizes rows by their own maximum", bias=bias, x_scale=x_scale, x_offset=x_offset, smooth_scale=smooth_scale)
    _CHECKS.expect(quant_mode == "pertoken", "quant_mode", "`pertoken`", quant_mode)
    _CHECKS.rank("x", x, (torch.float16,))
    _CHECKS.rank("quantized_weight", quantized_weight, (torch.int8,), (3,))
    count, n, k = quantized_weight.shape
    _CHECKS.expect(k == x.shape[1], "quantized_weight", f"{x.shape[1]} columns, as x", quantized_weight)
    _CHECKS.tensor("weight_scale", weight_scale, (torch.float32,), (count, n))
    q, scale = quantize_rows(x.to(torch.float64))

    def product(group: Group) -> Tensor:
        rows, weight = q[group.rows].to(torch.float64), quantized_weight[group.expert].to(torch.float64)
        return rows @ weight.mT * weight_scale[group.expert].to(torch.float64) * scale[group.rows, None].to(torch.float64)

    found = row_groups(_CHECKS, group_list, CUMULATED, count, x.shape[0])
    return run_groups(poisoned((x.shape[0], n), x.dtype, x.device), found, product)


def fake(
    x: Tensor,
    quantized_weight: Tensor,
    weight_scale: Tensor,
    group_list: Tensor,
    *,
    bias: Tensor | None = None,
    x_scale: Tensor | None = None,
    x_offset: Tensor | None = None,
    smooth_scale: Tensor | None = None,
    quant_mode: str | None = "pertoken",
) -> Tensor:
    return x.new_empty((x.shape[0], weight_scale.shape[1]))
