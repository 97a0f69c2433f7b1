"""Kernels by name: torch_npu's on an npu device, the reference kernels everywhere else.

Used by ``layoutdsl.runtime.opaque`` while loading and by ``layoutdsl.runtime.forward``: a plan names its kernels, and here a name becomes something that runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from layoutdsl.diagnostics import Diagnostic, DiagnosticError

Kernel = Callable[..., Any]
NAMESPACES = ("npu", "_C_ascend", "vllm")
"""Libraries whose operators a plan may call: torch_npu, vllm-ascend, vLLM. A plan may come from anywhere, and torch knows operators that write files."""


def find_kernel(name: str, device: str) -> Kernel:
    """What runs ``namespace::name`` on tensors of a device type (``npu``, ``cpu``, ...).

    Raises: DiagnosticError with ``kernel-missing`` (there is none of that name), ``torch-npu-missing``.
    """
    if device != "npu":
        from layoutdsl.runtime.reference_ops import reference_op

        return reference_op(name)
    from layoutdsl.runtime import npu

    npu.torch_npu()
    namespace, _, op = name.partition("::")
    if namespace not in NAMESPACES:
        missing(name, device, f"kernels are of {', '.join(NAMESPACES)}, not of `{namespace}`")
    found = getattr(getattr(torch.ops, namespace), op, None)
    if not isinstance(found, torch._ops.OpOverloadPacket):
        missing(name, device, f"no operator of that name is registered in `{namespace}`")
    return found


def missing(name: str, device: str, note: str) -> NoReturn:
    """Raises DiagnosticError ``kernel-missing``."""
    message = f"the kernel `{name}` cannot run on {device}"
    helps = ("run on an npu device with torch_npu and the consumer's operators loaded",)
    raise DiagnosticError(Diagnostic(code="kernel-missing", message=message, where=name, notes=(note,), helps=helps))
