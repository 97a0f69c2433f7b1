"""What only torch_npu can do; the one module that imports it, and only when called."""

from __future__ import annotations

from typing import Any

import torch

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.runtime.dtypes import torch_dtype


def torch_npu() -> Any:
    """The module torch_npu.

    Raises: DiagnosticError ``torch-npu-missing`` where it is not installed, or cannot be loaded (no CANN).
    """
    try:
        import torch_npu as module
    except (ImportError, OSError, RuntimeError) as error:
        diagnostic = Diagnostic(
            code="torch-npu-missing",
            message="torch_npu cannot be imported, so nothing can be done on an npu device",
            where="torch_npu",
            notes=(str(error),),
            helps=("install torch_npu with CANN, or move the tensors to another device",),
        )
        raise DiagnosticError(diagnostic) from error
    return module


def format_cast(tensor: torch.Tensor, acl_format: int, **arguments: int | str) -> torch.Tensor:
    """``tensor`` in another device format (source: torch_npu 2.13, npu_format_cast; it takes torch dtypes, and integers for those that torch lacks)."""
    options = {name: torch_dtype(value) if isinstance(value, str) else value for name, value in arguments.items()}
    cast: torch.Tensor = torch_npu().npu_format_cast(tensor, acl_format, **options)
    return cast
