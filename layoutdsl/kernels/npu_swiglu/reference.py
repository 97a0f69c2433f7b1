"""y = silu(first half) * second half along ``dim``, silu(a) = a * sigmoid(a); ideal inside, rounded once to the dtype of the input.

Source: torch_npu 2.13.0 schema and meta function; op-plugin 517f2e7d, document of npu_swiglu.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layoutdsl.kernels.numerics import FLOATS, Checks, silu

OP = "npu::npu_swiglu"
_CHECKS = Checks(OP)


def reference(input: Tensor, dim: int = -1) -> Tensor:
    """input: float16, bfloat16 or float32. Raises: DiagnosticError ``kernel-arguments``."""
    _CHECKS.expect(input.dtype in FLOATS and input.dim() > 0, "input", "float16, bfloat16 or float32", input)
    _CHECKS.expect(-input.dim() <= dim < input.dim() and input.shape[dim] % 2 == 0, "dim", "a dim of even size", dim)
    gate, up = input.to(torch.float64).chunk(2, dim)
    return (silu(gate) * up).to(input.dtype)


def fake(input: Tensor, dim: int = -1) -> Tensor:
    shape = list(input.shape)
    shape[dim] = shape[dim] // 2
    return input.new_empty(shape)
