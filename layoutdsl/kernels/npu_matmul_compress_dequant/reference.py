"""y = (x1 @ x2 + bias) * scale with a compressed x2 (310P): nothing can be computed here, since the stream of bits is not public.

Source: torch_npu 2.13.0 schema and meta function; ops-nn e5c3fa93 aclnnMatmulCompressDequant document, which leaves the compression to a closed tool.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layoutdsl.kernels.numerics import Checks

OP = "npu::npu_matmul_compress_dequant"
_CHECKS = Checks(OP)


def reference(
    x1: Tensor,
    x2: Tensor,
    compress_index: Tensor,
    bias: Tensor,
    scale: Tensor,
    *,
    offsetW: Tensor | None = None,  # noqa: N803 (the op's own name)
    offsetX: int | None = None,  # noqa: N803
) -> Tensor:
    """Raises: DiagnosticError ``kernel-arguments``, always."""
    _CHECKS.refuse("x2", "a device: the stream of bits of compressed weights is not public, so no reference can read it", x2)


def fake(
    x1: Tensor,
    x2: Tensor,
    compress_index: Tensor,
    bias: Tensor,
    scale: Tensor,
    *,
    offsetW: Tensor | None = None,  # noqa: N803
    offsetX: int | None = None,  # noqa: N803
) -> Tensor:
    return x1.new_empty((x1.shape[0], bias.shape[1]), dtype=torch.float16)
