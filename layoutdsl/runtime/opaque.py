"""Named functions of a plan that are neither movement nor arithmetic: today the device's format cast."""

from __future__ import annotations

import torch

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.plan.model import Opaque


def opaque(instruction: Opaque, tensor: torch.Tensor) -> torch.Tensor:
    """The result of ``instruction`` on ``tensor``.

    ``format_cast`` is the identity (the same tensor) on every device but ``npu``: other devices have no FRACTAL_NZ, and torch shows the same dims either way.
    ``kernel`` calls an operator by name.
    Raises: ValueError for a function that this version does not know; DiagnosticError ``kernel-missing`` (not registered, or not for this device),
    ``torch-npu-missing``.
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
    namespace, _, op = name.partition("::")
    if namespace == "npu" and tensor.device.type == "npu":
        from layoutdsl.runtime import npu

        npu.torch_npu()
    try:
        packet = getattr(getattr(torch.ops, namespace), op)
        result: torch.Tensor = packet(tensor)
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        diagnostic = Diagnostic(
            code="kernel-missing",
            message=f"the kernel `{name}` cannot run on {tensor.device.type}",
            where=name,
            notes=(str(error).splitlines()[0],),
            helps=("run the plan on an npu device with torch_npu",),
        )
        raise DiagnosticError(diagnostic) from None
    return result
