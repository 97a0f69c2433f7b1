"""grouped_matmul_swiglu_quant_weight_nz with one int8 weight and one scale per expert.

Source: vllm-ascend 001c5b567b, csrc/torch_binding.cpp (schema) and grouped_matmul_swiglu_quant_torch_adpt.h (results; no int4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layoutdsl.kernels.grouped import CUMULATED, experts, int_products, row_groups, swiglu_quant
from layoutdsl.kernels.numerics import Checks

OP = "_C_ascend::grouped_matmul_swiglu_quant_weight_nz_tensor_list"
_CHECKS = Checks(OP)


def reference(
    x: Tensor,
    weight: Sequence[Tensor],
    weight_scale: Sequence[Tensor],
    x_scale: Tensor,
    group_list: Tensor,
    *,
    bias: Tensor | None = None,
    offset: Tensor | None = None,
    swiglu_limit: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """x: int8 [m, k]. weight: e of int8 [k, n]. weight_scale: e of float32 [n]. group_list: cumulated.

    Results: int8 [m, n / 2], float32 [m], and float32 [m] that mean nothing. Raises: DiagnosticError ``kernel-arguments``.
    """
    _CHECKS.absent("with int8 weights", bias=bias, offset=offset)
    _CHECKS.rank("x", x, (torch.int8,))
    own = experts(_CHECKS, weight)
    _CHECKS.expect(not own.stacked and own.weights[0].dtype == torch.int8, "weight", "one int8 [k, n] for each expert", list(weight))
    found = row_groups(_CHECKS, group_list, CUMULATED, len(own.weights), x.shape[0])
    rows = _CHECKS.tensor("x_scale", x_scale, (torch.float32,), (x.shape[0],))
    product = int_products(_CHECKS, x, own, weight_scale, None)
    q, scale = swiglu_quant(rows, found, product, own.weights[0].shape[1], limit=swiglu_limit)
    return q, scale, torch.full_like(scale, torch.nan)


def fake(
    x: Tensor,
    weight: Sequence[Tensor],
    weight_scale: Sequence[Tensor],
    x_scale: Tensor,
    group_list: Tensor,
    *,
    bias: Tensor | None = None,
    offset: Tensor | None = None,
    swiglu_limit: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    q = x.new_empty((x.shape[0], weight[0].shape[1] // 2), dtype=torch.int8)
    return q, x.new_empty((x.shape[0],), dtype=torch.float32), x.new_empty((x.shape[0],), dtype=torch.float32)
