"""Grouped matmul of int8 rows with int8 or int4 weights, swiglu of its halves with a cap, and int8 rows with one scale each again.

As npu_grouped_matmul_swiglu_quant, for weights in one tensor or one per expert, and for groups cumulated (``group_list_type`` 0) or counted (1);
``weight_assist_matrix`` is its bias. Unlike npu_grouped_matmul, the device splits the rows for int4 in a workspace: x stays as it is.
Source: vllm-ascend 001c5b567b, csrc/torch_binding.cpp (schema), grouped_matmul_swiglu_quant_v2_torch_adpt.h (results), a8w4_msd_pre.h and a8w4_msd_post.h,
and its nightly test of both forms of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layoutdsl.kernels.grouped import COUNTS, CUMULATED, experts, int_products, row_groups, swiglu_quant
from layoutdsl.kernels.numerics import Checks

OP = "_C_ascend::grouped_matmul_swiglu_quant_v2"
_CHECKS = Checks(OP)


def reference(
    x: Tensor,
    weight: Sequence[Tensor],
    weight_scale: Sequence[Tensor],
    x_scale: Tensor,
    group_list: Tensor,
    smooth_scale: Tensor | None = None,
    weight_assist_matrix: Sequence[Tensor] | None = None,
    bias: Tensor | None = None,
    dequant_mode: int | None = 0,
    dequant_dtype: int | None = 0,
    quant_mode: int | None = 0,
    quant_dtype: int | None = 0,
    transpose_weight: bool = False,
    group_list_type: int = 0,
    tuning_config: Sequence[int] = (),
    swiglu_limit: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """x: int8 [m, k]. weight: one tensor [e, k, n] or e of [k, n], int8, or int4 as 8 to an int32 along n; weight_scale and weight_assist_matrix likewise.

    weight_scale: float32 [n] per expert, with int4 int64 [n] (dequant_mode 0) or [groups, n] (1). Results: int8 [m, n / 2], float32 [m].
    Raises: DiagnosticError ``kernel-arguments``.
    """
    _CHECKS.absent("reserved by the op", smooth_scale=smooth_scale, bias=bias)
    for argument, mode in (("dequant_dtype", dequant_dtype), ("quant_mode", quant_mode), ("quant_dtype", quant_dtype)):
        _CHECKS.expect(not mode, argument, "0, for int8 rows", mode)
    _CHECKS.expect(not transpose_weight, "transpose_weight", "False", transpose_weight)
    _CHECKS.expect(group_list_type in (CUMULATED, COUNTS), "group_list_type", "0 or 1", group_list_type)
    _CHECKS.rank("x", x, (torch.int8,))
    own = experts(_CHECKS, weight)
    _CHECKS.expect(own.weights[0].dtype in (torch.int8, torch.int32), "weight", "int8, or int4 in int32", list(weight))
    grouped = weight_scale[0].dim() - own.stacked == 2
    _CHECKS.expect((dequant_mode or 0) == int(grouped), "dequant_mode", "1 with a scale per group of k, else 0", dequant_mode)
    found = row_groups(_CHECKS, group_list, group_list_type, len(own.weights), x.shape[0])
    rows = _CHECKS.tensor("x_scale", x_scale, (torch.float32,), (x.shape[0],))
    product = int_products(_CHECKS, x, own, weight_scale, weight_assist_matrix, "weight_assist_matrix")
    return swiglu_quant(rows, found, product, weight_scale[0].shape[-1], limit=swiglu_limit)


def fake(
    x: Tensor,
    weight: Sequence[Tensor],
    weight_scale: Sequence[Tensor],
    x_scale: Tensor,
    group_list: Tensor,
    smooth_scale: Tensor | None = None,
    weight_assist_matrix: Sequence[Tensor] | None = None,
    bias: Tensor | None = None,
    dequant_mode: int | None = 0,
    dequant_dtype: int | None = 0,
    quant_mode: int | None = 0,
    quant_dtype: int | None = 0,
    transpose_weight: bool = False,
    group_list_type: int = 0,
    tuning_config: Sequence[int] = (),
    swiglu_limit: float = 0.0,
) -> tuple[Tensor, Tensor]:
    q = x.new_empty((x.shape[0], weight_scale[0].shape[-1] // 2), dtype=torch.int8)
    return q, x.new_empty((x.shape[0],), dtype=torch.float32)
