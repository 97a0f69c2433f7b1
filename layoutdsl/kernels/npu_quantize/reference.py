"""Values to integers with given scales: rint(x * scale + zero_point), or with ``div_mode`` rint(x / scale) + zero_point; clipped, in float32.

Source: torch_npu 2.13.0 schema and meta function; ops-nn e5c3fa93, ascend_quant_v2 golden; op-plugin 517f2e7d test_npu_quantize.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layoutdsl.kernels.numerics import FLOATS, TORCH, Checks, pack_nibbles

OP = "npu::npu_quantize"
_CHECKS = Checks(OP)
_MULTIPLIED = ("int8", "int4")
_DIVIDED = ("int8", "uint8", "int32")


def reference(input: Tensor, scales: Tensor, zero_points: Tensor | None, dtype: int, axis: int = 1, div_mode: bool = True) -> Tensor:
    """input: floats. scales, zero_points: [1], or one for each index of ``axis``. Result: the shape of the input; int4 as 8 to an int32 along the last dim.

    Raises: DiagnosticError ``kernel-arguments``.
    """
    return run(_CHECKS, input, scales, zero_points, dtype, axis, div_mode)


def run(checks: Checks, input: Tensor, scales: Tensor, zero_points: Tensor | None, dtype: int | torch.dtype, axis: int, div_mode: bool) -> Tensor:
    """This op, and what is built on it."""
    element = checks.dtype("dtype", dtype, *(_DIVIDED if div_mode else _MULTIPLIED))
    checks.expect(input.dtype in FLOATS and input.dim() > 0, "input", "float16, bfloat16 or float32", input)
    near = div_mode or axis % max(input.dim(), 1) >= input.dim() - 2
    checks.expect(-input.dim() <= axis < input.dim() and near, "axis", "a dim of the input, without div_mode one of the last two", axis)
    checks.expect(element != "int4" or input.shape[-1] % 8 == 0, "input", "int4 in a multiple of 8 columns", input)
    shape = [1] * input.dim()
    shape[axis] = -1
    values = input.to(torch.float32)
    size = input.shape[axis]
    scale = checks.tensor("scales", scales, FLOATS, (1,), (size,)).to(torch.float32).reshape(shape)
    offset = torch.zeros(())
    if zero_points is not None:
        kinds = (*FLOATS, torch.int8, torch.uint8, torch.int32) if div_mode else FLOATS
        offset = checks.tensor("zero_points", zero_points, kinds, (1,), (size,)).to(torch.float32).reshape(shape)
    rounded = torch.round(values / scale) + offset if div_mode else torch.round(values * scale + offset)
    if element == "int4":
        return pack_nibbles(rounded.clamp(-8, 7).to(torch.int64), torch.int32)
    limits = torch.iinfo(TORCH[element])
    return rounded.to(torch.float64).clamp(limits.min, limits.max).to(TORCH[element])


def fake(input: Tensor, scales: Tensor, zero_points: Tensor | None, dtype: int, axis: int = 1, div_mode: bool = True) -> Tensor:
    element = _CHECKS.dtype("dtype", dtype, *(_DIVIDED if div_mode else _MULTIPLIED))
    if element == "int4":
        return input.new_empty((*input.shape[:-1], input.shape[-1] // 8), dtype=torch.int32)
    return input.new_empty(input.shape, dtype=TORCH[element])
