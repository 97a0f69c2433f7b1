"""Each token's matrix rotated from both sides and quantized: x'' = kronecker_p1 @ (x @ kronecker_p2), rounded to the dtype of x.

int4: scale = max|x''| * clip_ratio / 7 per token, y = rint(x'' / scale) clipped to -8..7. e2m1 (A5): blocks of 32 of the flat x'' share an exponent, as
npu_dynamic_mx_quant makes it; clip_ratio has no part in it.
Source: torch_npu 2.13.0 schema and meta function; ops-nn e5c3fa93 flat_quant document and executor. That y is rounded to even and clipped, and that x @ p2 is
not rounded in between, is assumed: no upstream reference says.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layoutdsl.kernels.numerics import HALVES, LARGEST, Checks, mx_quantize, pack_nibbles

OP = "npu::npu_kronecker_quant"
_CHECKS = Checks(OP)


def reference(
    x: Tensor, kronecker_p1: Tensor, kronecker_p2: Tensor, clip_ratio: float | None = None, dst_dtype: int | None = None, dst_type_max: float | None = None
) -> tuple[Tensor, Tensor]:
    """x: float16 or bfloat16 [m, r, c]; p1 [r, r] and p2 [c, c] of the same dtype. Results: int32 [m, r, c / 8] and float32 [m] for int4 (dst_dtype int32),
    uint8 [m, r * c / 2] and uint8 [m, ceil(r * c / 64), 2] for e2m1.

    Raises: DiagnosticError ``kernel-arguments``.
    """
    element = _CHECKS.dtype("dst_dtype", dst_dtype, "", "int32", "e2m1") or "int32"
    _CHECKS.rank("x", x, HALVES, (3,))
    rows, columns = x.shape[1:]
    _CHECKS.tensor("kronecker_p1", kronecker_p1, (x.dtype,), (rows, rows))
    _CHECKS.tensor("kronecker_p2", kronecker_p2, (x.dtype,), (columns, columns))
    _CHECKS.expect(columns % 8 == 0 if element == "int32" else rows * columns % 2 == 0, "x", "lanes that fill their carriers", x)
    _CHECKS.expect(not dst_type_max, "dst_type_max", "0", dst_type_max)
    rotated = (kronecker_p1.to(torch.float64) @ (x.to(torch.float64) @ kronecker_p2.to(torch.float64))).to(x.dtype)
    if element == "e2m1":
        return mx_quantize(rotated.flatten(1).to(torch.float64), "e2m1")
    values = rotated.to(torch.float32)
    scale = values.abs().amax(dim=(1, 2)) * (1.0 if clip_ratio is None else clip_ratio) / LARGEST["int4"]
    divided = torch.where(scale[:, None, None] == 0, 0.0, values / scale[:, None, None])
    return pack_nibbles(torch.round(divided).clamp(-8, 7).to(torch.int64), torch.int32), scale


def fake(
    x: Tensor, kronecker_p1: Tensor, kronecker_p2: Tensor, clip_ratio: float | None = None, dst_dtype: int | None = None, dst_type_max: float | None = None
) -> tuple[Tensor, Tensor]:
    rows, columns = x.shape[1:]
    if _CHECKS.dtype("dst_dtype", dst_dtype, "", "int32", "e2m1") == "e2m1":
        size = rows * columns
        return x.new_empty((x.shape[0], size // 2), dtype=torch.uint8), x.new_empty((x.shape[0], (size + 63) // 64, 2), dtype=torch.uint8)
    return x.new_empty((x.shape[0], rows, columns // 8), dtype=torch.int32), x.new_empty((x.shape[0],), dtype=torch.float32)
