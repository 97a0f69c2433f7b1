"""Eight values to a carrier along the last dim, element 0 in the lowest bits: int32 as int4, float32 as e2m1 (A5; the carrier stays float32).

Source: op-plugin 517f2e7d ConvertWeightToINT4PackKernelNpuOpApi.cpp. int32 values keep their low four bits; float32 values that e2m1 does not hold become 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layoutdsl.kernels.numerics import Checks, e2m1_codes, pack_nibbles

OP = "npu::npu_convert_weight_to_int4pack"
_CHECKS = Checks(OP)


def reference(weight: Tensor, inner_k_tiles: int = 0) -> Tensor:
    """weight: int32 or float32 [.., n], 2 or 3 dims (3 on A5). inner_k_tiles: ignored, as the op does. Raises: DiagnosticError ``kernel-arguments``.

    The op wants a contiguous tensor. A format cast makes one on the device and is the identity here, so that is no reason to refuse.
    """
    _CHECKS.rank("weight", weight, (torch.int32, torch.float32), (2, 3))
    _CHECKS.expect(weight.shape[-1] % 8 == 0, "weight", "a multiple of 8 columns", weight)
    codes = weight.to(torch.int64) if weight.dtype == torch.int32 else e2m1_codes(weight)
    return pack_nibbles(codes, weight.dtype)


def fake(weight: Tensor, inner_k_tiles: int = 0) -> Tensor:
    return weight.new_empty((*weight.shape[:-1], weight.shape[-1] // 8))
