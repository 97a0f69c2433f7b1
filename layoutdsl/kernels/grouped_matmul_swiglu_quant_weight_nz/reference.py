"""npu_grouped_matmul_swiglu_quant with a cap: ``swiglu_limit`` above 0 caps silu's argument from above and the other half on both sides.

Source: vllm-ascend 001c5b567b, csrc/torch_binding.cpp (schema), grouped_matmul_swiglu_quant_torch_adpt.h (results), a8w4_msd_post.h (cap).
"""

from __future__ import annotations

import torch
from torch import Tensor

from layoutdsl.kernels.npu_grouped_matmul_swiglu_quant.reference import run
from layoutdsl.kernels.numerics import Checks

OP = "_C_ascend::grouped_matmul_swiglu_quant_weight_nz"
_CHECKS = Checks(OP)


def reference(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    x_scale: Tensor,
    group_list: Tensor,
    *,
    bias: Tensor | None = None,
    offset: Tensor | None = None,
    swiglu_limit: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments and results as npu_grouped_matmul_swiglu_quant. Raises: DiagnosticError ``kernel-arguments``."""
    q, scale = run(_CHECKS, x, weight, group_list, weight_scale, x_scale, bias, offset, swiglu_limit)
    return q, scale, torch.full((), torch.nan, device=x.device)


def fake(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    x_scale: Tensor,
    group_list: Tensor,
    *,
    bias: Tensor | None = None,
    offset: Tensor | None = None,
    swiglu_limit: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    q = x.new_empty((x.shape[0], weight_scale.shape[-1] // 2), dtype=torch.int8)
    return q, x.new_empty((x.shape[0],), dtype=torch.float32), x.new_empty((), dtype=torch.float32)
