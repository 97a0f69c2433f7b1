"""Grouped matmul of int8 rows, swiglu of its halves, and int8 rows with one scale each again; ``group_list`` cumulated.

c = acc * weight_scale * x_scale for an int8 weight, (16 * C_hi + C_lo + bias) * x_scale for an int4 one (bias = 8 * sum_k weight * scale);
s = silu(first half of c) * second half; output scale = max|s| / 127 per row, q = rint(s / scale). Rows after the last group stay poisoned.
Source: torch_npu 2.13.0 schema and meta function; ops-transformer 3a280bcc aclnnGroupedMatmulSwigluQuant document and executors of its tests.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layoutdsl.kernels.grouped import CUMULATED, experts, int_products, row_groups, swiglu_quant
from layoutdsl.kernels.numerics import Checks

OP = "npu::npu_grouped_matmul_swiglu_quant"
_CHECKS = Checks(OP)


def reference(
    x: Tensor, weight: Tensor, group_list: Tensor, weight_scale: Tensor, x_scale: Tensor, *, bias: Tensor | None = None, offset: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """x: int8 [m, k]. weight: int8 [e, k, n] with weight_scale float32 [e, n], or int4 as 8 to an int32 [e, k, n / 8] with int64 [e, n] or [e, groups, n].

    Results: int8 [m, n / 2], float32 [m], and a float32 that means nothing. Raises: DiagnosticError ``kernel-arguments``.
    """
    q, scale = run(_CHECKS, x, weight, group_list, weight_scale, x_scale, bias, offset)
    return q, scale, torch.full((), torch.nan, device=x.device)


def run(
    checks: Checks,
    x: Tensor,
    weight: Tensor,
    group_list: Tensor,
    weight_scale: Tensor,
    x_scale: Tensor,
    bias: Tensor | None,
    offset: Tensor | None,
    limit: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """q and its scale, of this op and of what vllm-ascend builds from the same kernel."""
    checks.absent("the reference has no asymmetric int4", offset=offset)
    checks.rank("x", x, (torch.int8,))
    checks.rank("weight", weight, (torch.int8, torch.int32), (3,))
    own = experts(checks, [weight])
    found = row_groups(checks, group_list, CUMULATED, len(own.weights), x.shape[0])
    rows = checks.tensor("x_scale", x_scale, (torch.float32,), (x.shape[0],))
    product = int_products(checks, x, own, [weight_scale], None if bias is None else [bias])
    return swiglu_quant(rows, found, product, weight_scale.shape[-1], limit=limit)


def fake(
    x: Tensor, weight: Tensor, group_list: Tensor, weight_scale: Tensor, x_scale: Tensor, *, bias: Tensor | None = None, offset: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    q = x.new_empty((x.shape[0], weight_scale.shape[-1] // 2), dtype=torch.int8)
    return q, x.new_empty((x.shape[0],), dtype=torch.float32), x.new_empty((), dtype=torch.float32)
