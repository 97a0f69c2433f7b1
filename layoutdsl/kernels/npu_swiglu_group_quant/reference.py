"""swiglu of the halves of rows, with a cap, quantized to e4m3 in blocks of 32 that share an exponent, as npu_dynamic_mx_quant makes it.

Source: vllm-ascend 001c5b567b, csrc/torch_binding.cpp (schema; results, of which the exponents are float8_e8m0fnu); that swiglu is not rounded before it is
quantized, and that the cap is the one of its grouped matmuls, is assumed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layoutdsl.kernels.grouped import swiglu
from layoutdsl.kernels.numerics import HALVES, Checks, mx_quantize

OP = "_C_ascend::npu_swiglu_group_quant"
_CHECKS = Checks(OP)


def reference(
    x: Tensor,
    topk_weight: Tensor | None,
    group_index: Tensor | None,
    dst_type: int | torch.dtype = 39,
    quant_mode: int = 1,
    group_size: int = 128,
    round_scale: bool = False,
    ue8m0_scale: bool = False,
    output_origin: bool = False,
    group_list_type: int = 0,
    clamp_value: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """x: float16 or bfloat16 [m, n], n a multiple of 128. quant_mode 2 only, in which group_size, round_scale and ue8m0_scale have no part.

    Results: e4m3 [m, n / 2], e8m0 [m, n / 128, 2], and one [m, n / 2] of the dtype of x that means nothing. Raises: DiagnosticError ``kernel-arguments``.
    """
    _CHECKS.dtype("dst_type", dst_type, "e4m3")
    _CHECKS.expect(quant_mode == 2, "quant_mode", "2, blocks that share an exponent", quant_mode)
    _CHECKS.absent("the reference quantizes all rows alike", topk_weight=topk_weight, group_index=group_index)
    _CHECKS.expect(not output_origin, "output_origin", "False", output_origin)
    _CHECKS.rank("x", x, HALVES)
    _CHECKS.expect(x.shape[1] % 128 == 0, "x", "a multiple of 128 columns", x)
    y, scale = mx_quantize(swiglu(x.to(torch.float64), clamp_value), "e4m3")
    return y, scale.view(torch.float8_e8m0fnu), torch.full(y.shape, torch.nan, dtype=x.dtype, device=x.device)


def fake(
    x: Tensor,
    topk_weight: Tensor | None,
    group_index: Tensor | None,
    dst_type: int | torch.dtype = 39,
    quant_mode: int = 1,
    group_size: int = 128,
    round_scale: bool = False,
    ue8m0_scale: bool = False,
    output_origin: bool = False,
    group_list_type: int = 0,
    clamp_value: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    m, half = x.shape[0], x.shape[1] // 2
    y = x.new_empty((m, half), dtype=torch.float8_e4m3fn)
    return y, x.new_empty((m, (half + 63) // 64, 2), dtype=torch.float8_e8m0fnu), x.new_empty((m, half))
