"""Blocks of 32 along the last dim that share an exponent: e = floor(log2(max|block|)) - emax, y = x / 2**e rounded to e4m3 or e2m1.

``scale_alg`` 0 is the OCP rule above (emax: 8 for e4m3, 2 for e2m1); 1, for e4m3, takes the least e with max / 448 <= 2**e. The bytes of e come in pairs,
an odd count padded with a byte 0. ``round_mode``: ``rint`` ties to even, ``round`` ties away from zero.
Source: torch_npu 2.13.0 schema and meta function; ops-nn e5c3fa93, dynamic_mx_quant golden.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layoutdsl.kernels.numerics import HALVES, Checks, mx_quantize

OP = "npu::npu_dynamic_mx_quant"
_CHECKS = Checks(OP)


def reference(
    input: Tensor,
    *,
    axis: int = -1,
    round_mode: str = "rint",
    dst_type: int = 296,
    block_size: int = 32,
    scale_alg: int | None = 0,
    dst_type_max: float = 0.0,
    max_low_bound: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """input: float16 or bfloat16 [.., h]. Results: e4m3 [.., h] or two e2m1 to a uint8 [.., h / 2], and uint8 [.., ceil(h / 64), 2].

    Raises: DiagnosticError ``kernel-arguments``.
    """
    element = _CHECKS.dtype("dst_type", dst_type, "e4m3", "e2m1")
    _CHECKS.rank("input", input, HALVES, range(1, 8))
    _CHECKS.expect(element == "e4m3" or input.shape[-1] % 2 == 0, "input", "e2m1 in an even number of columns", input)
    _CHECKS.expect(axis in (-1, input.dim() - 1), "axis", "the last dim", axis)
    modes = ("rint",) if element == "e4m3" else ("rint", "round")
    _CHECKS.expect(round_mode in modes, "round_mode", " or ".join(f"`{mode}`" for mode in modes), round_mode)
    _CHECKS.expect(block_size > 0 and block_size % 32 == 0 and block_size <= 1024, "block_size", "a multiple of 32, at most 1024", block_size)
    algorithms = (0, 1) if element == "e4m3" else (0,)
    _CHECKS.expect((scale_alg or 0) in algorithms, "scale_alg", " or ".join(map(str, algorithms)), scale_alg)
    _CHECKS.expect(dst_type_max == 0, "dst_type_max", "0", dst_type_max)
    _CHECKS.expect(max_low_bound == 0, "max_low_bound", "0", max_low_bound)
    return mx_quantize(input.to(torch.float64), element, block_size, away=round_mode == "round", round_up=scale_alg == 1)


def fake(
    input: Tensor,
    *,
    axis: int = -1,
    round_mode: str = "rint",
    dst_type: int = 296,
    block_size: int = 32,
    scale_alg: int | None = 0,
    dst_type_max: float = 0.0,
    max_low_bound: float = 0.0,
) -> tuple[Tensor, Tensor]:
    element = _CHECKS.dtype("dst_type", dst_type, "e4m3", "e2m1")
    *leading, length = input.shape
    blocks = (length + block_size - 1) // block_size
    scale = input.new_empty((*leading, (blocks + 1) // 2, 2), dtype=torch.uint8)
    if element == "e4m3":
        return input.new_empty(input.shape, dtype=torch.float8_e4m3fn), scale
    return input.new_empty((*leading, length // 2), dtype=torch.uint8), scale
