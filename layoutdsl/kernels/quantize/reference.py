"""rint(x * scale_reciprocal + offset) as int8: npu_quantize with the reciprocal; the scale itself is there for graph passes and is not read.

Source: vllm-ascend 0209ae8a, ops/register_custom_ops.py (the schema that it infers from its function).
"""

from __future__ import annotations

import torch
from torch import Tensor

from layoutdsl.kernels.npu_quantize.reference import run
from layoutdsl.kernels.numerics import Checks

OP = "vllm::quantize"


def reference(in_tensor: Tensor, input_scale: Tensor, input_scale_reciprocal: Tensor, input_offset: Tensor) -> Tensor:
    """in_tensor: floats [.., h]; the rest [h] or [1]. Raises: DiagnosticError ``kernel-arguments``, naming arguments as npu_quantize does."""
    return run(Checks(OP), in_tensor, input_scale_reciprocal, input_offset, torch.qint8, -1, False)


def fake(in_tensor: Tensor, input_scale: Tensor, input_scale_reciprocal: Tensor, input_offset: Tensor) -> Tensor:
    return in_tensor.new_empty(in_tensor.shape, dtype=torch.int8)
