"""Named functions of a plan that are neither movement nor arithmetic: the device's format cast, and kernels that run while loading."""

from __future__ import annotations

import torch

from layoutdsl.plan.model import Opaque
from layoutdsl.runtime.kernels import find_kernel, missing


def opaque(instruction: Opaque, tensor: torch.Tensor) -> torch.Tensor:
    """The result of ``instruction`` on ``tensor``.

    ``format_cast`` is the identity (the same tensor) on every device but ``npu``: other devices have no FRACTAL_NZ, and torch shows the same dims either way.
    ``kernel`` calls a kernel by name: torch_npu's on an npu device, its reference elsewhere.
    Raises: ValueError for a function that this version does not know; DiagnosticError ``kernel-missing`` (there is none of that name, or it cannot run),
    ``kernel-arguments``, ``torch-npu-missing``.
    """
    if instruction.function == "kernel":
        return _kernel(str(dict(instruction.arguments)["kernel"]), tensor)
    if instruction.function != "format_cast":
        raise ValueError(f"unknown opaque function `{instruction.function}`")
    if tensor.device.type != "npu":
        return tensor
    from layoutdsl.runtime import npu

    arguments = dict(instruction.arguments)
    return npu.format_cast(tensor, int(arguments.pop("format")), **arguments)


def _kernel(name: str, tensor: torch.Tensor) -> torch.Tensor:
    try:
        result: torch.Tensor = find_kernel(name, tensor.device.type)(tensor)
    except (NotImplementedError, RuntimeError) as error:
        missing(name, tensor.device.type, str(error).splitlines()[0])
    return result
