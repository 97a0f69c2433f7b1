"""Rows to integers (or e4m3) by their own maximum: scale = max|x * smooth| * (1 / largest), y = rint(x * smooth / scale), in float32.

largest is 127 for int8, 7 for int4, 448 for e4m3. A row of zeros gives y = 0 and scale 0 (assumed; the upstream reference divides by zero).
Source: torch_npu 2.13.0 schema and meta function; ops-nn e5c3fa93, dynamic_quant golden.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layoutdsl.kernels.numerics import HALVES, LARGEST, Checks, pack_nibbles

OP = "npu::npu_dynamic_quant"
_CHECKS = Checks(OP)


def reference(
    input: Tensor,
    *,
    smooth_scales: Tensor | None = None,
    group_index: Tensor | None = None,
    dst_type: int | None = None,
    quant_mode: str = "pertoken",
    dst_type_max: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """input: float16 or bfloat16 [.., h]. smooth_scales: [h] of the same dtype. Results: y (int4 as 8 to an int32), and float32 [..].

    Raises: DiagnosticError ``kernel-arguments``.
    """
    element = _CHECKS.dtype("dst_type", dst_type, "", "int8", "int4", "e4m3") or "int8"
    _CHECKS.rank("input", input, HALVES, range(2, 9))
    _CHECKS.absent("the reference knows one smooth scale for all rows", group_index=group_index)
    _CHECKS.expect(quant_mode == "pertoken", "quant_mode", "`pertoken`", quant_mode)
    _CHECKS.expect(dst_type_max == 0, "dst_type_max", "0", dst_type_max)
    _CHECKS.expect(element != "int4" or input.shape[-1] % 8 == 0, "input", "int4 in a multiple of 8 columns", input)
    values = input.to(torch.float32)
    if smooth_scales is not None:
        values = values * _CHECKS.tensor("smooth_scales", smooth_scales, (input.dtype,), (input.shape[-1],)).to(torch.float32)
    scale = values.abs().amax(dim=-1) * torch.tensor(1 / LARGEST[element], dtype=torch.float32)
    divided = torch.where(scale[..., None] == 0, 0.0, values / scale[..., None])
    if element == "e4m3":
        return divided.clamp(-LARGEST[element], LARGEST[element]).to(torch.float8_e4m3fn), scale
    rounded = torch.round(divided)
    return (pack_nibbles(rounded.to(torch.int64), torch.int32) if element == "int4" else rounded.to(torch.int8)), scale


def fake(
    input: Tensor,
    *,
    smooth_scales: Tensor | None = None,
    group_index: Tensor | None = None,
    dst_type: int | None = None,
    quant_mode: str = "pertoken",
    dst_type_max: float = 0.0,
) -> tuple[Tensor, Tensor]:
    element = _CHECKS.dtype("dst_type", dst_type, "", "int8", "int4", "e4m3") or "int8"
    scale = input.new_empty(input.shape[:-1], dtype=torch.float32)
    if element == "int4":
        return input.new_empty((*input.shape[:-1], input.shape[-1] // 8), dtype=torch.int32), scale
    return input.new_empty(input.shape, dtype=torch.int8 if element == "int8" else torch.float8_e4m3fn), scale
