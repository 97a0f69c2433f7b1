"""A float32 scale, and an offset, in the int64 that the matrix unit reads: bits 0-31 the scale's top 19 bits, 37-45 the offset, 46 set (int8 is signed).

``round_mode`` 0 drops the low 13 bits of the scale, 1 rounds them to even and makes subnormals 0.
Source: torch_npu 2.13.0 schema and meta function; ops-nn e5c3fa93 trans_quant_param_v2.h.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layoutdsl.kernels.numerics import Checks

OP = "npu::npu_trans_quant_param"
_CHECKS = Checks(OP)


def reference(scale: Tensor, offset: Tensor | None = None, round_mode: int | None = 0) -> Tensor:
    """scale: float32 [t] or [1, n]. offset: float32 [t], [1], or as the scale. Result: int64. Raises: DiagnosticError ``kernel-arguments``."""
    flat = scale.dim() == 1 or (scale.dim() == 2 and scale.shape[0] == 1)
    _CHECKS.expect(scale.dtype == torch.float32 and flat, "scale", "float32 [t] or [1, n]", scale)
    _CHECKS.expect(round_mode in (None, 0, 1), "round_mode", "0 or 1", round_mode)
    packed = _top_bits(scale, round_mode or 0) | (1 << 46)
    if offset is None:
        return packed
    one = scale.dim() == 1 == offset.dim() and 1 in (*scale.shape, *offset.shape)
    _CHECKS.expect(offset.dtype == torch.float32 and (one or offset.shape == scale.shape), "offset", f"float32 {list(scale.shape)}, or one number", offset)
    return packed | ((torch.round(offset).clamp(-256, 255).to(torch.int64) & 0x1FF) << 37)


def _top_bits(scale: Tensor, round_mode: int) -> Tensor:
    bits = scale.contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    if round_mode == 1:
        subnormal = (bits & 0x7F800000) == 0
        bits = torch.where(subnormal, 0, bits + 0xFFF + ((bits >> 13) & 1))
    return bits & 0xFFFFE000


def fake(scale: Tensor, offset: Tensor | None = None, round_mode: int | None = 0) -> Tensor:
    return torch.empty_like(scale if offset is None else scale + offset, dtype=torch.int64)
