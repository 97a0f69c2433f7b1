"""Named functions of a plan that are neither movement nor arithmetic: today the device's format cast."""

from __future__ import annotations

import torch

from layoutdsl.plan.model import FRACTAL_NZ, Opaque


def opaque(instruction: Opaque, tensor: torch.Tensor) -> torch.Tensor:
    """The result of ``instruction`` on ``tensor``.

    ``format_cast`` is the identity (the same tensor) on every device but ``npu``: other devices have no FRACTAL_NZ, and torch shows the same dims either way.
    Raises: ValueError for a function that this version does not know; DiagnosticError ``torch-npu-missing``.
    """
    if instruction.function != "format_cast":
        raise ValueError(f"unknown opaque function `{instruction.function}`")
    if tensor.device.type != "npu":
        return tensor
    from layoutdsl.runtime import npu

    arguments = dict(instruction.arguments)
    return npu.format_cast(tensor, int(arguments.pop("format", FRACTAL_NZ)), **arguments)
