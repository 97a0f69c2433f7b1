"""The same values in another device format; where there are no formats, a copy with the same dims and strides.

Torch shows the logical dims either way (source: torch_npu 9e73e708 FormatCastKernelNpu.cpp), so nothing that reads the result here can tell.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layoutdsl.kernels.numerics import Checks

OP = "npu::npu_format_cast"
_CHECKS = Checks(OP)
_FORMATS = (2, 29, 50, 51, 52, 53, 54)
"""ND, FRACTAL_NZ, and FRACTAL_NZ with C0 of 16, 32, 2, 4 and 8."""


def reference(input: Tensor, acl_format: int, *, customize_dtype: int | None = None, input_dtype: int | None = None) -> Tensor:
    """Raises: DiagnosticError ``kernel-arguments`` for formats that are no weight formats."""
    _CHECKS.expect(acl_format in _FORMATS, "acl_format", " or ".join(map(str, _FORMATS)), acl_format)
    return input.clone(memory_format=torch.preserve_format)


def fake(input: Tensor, acl_format: int, *, customize_dtype: int | None = None, input_dtype: int | None = None) -> Tensor:
    return torch.empty_like(input)
