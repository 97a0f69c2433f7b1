"""Names of storages and elements <-> torch dtypes.

Between the names of ``layoutdsl.ir.dtypes`` and torch; read by every executor. Where a torch lacks a dtype, the tables here lack its name.
"""

from __future__ import annotations

import torch

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.ir.dtypes import ELEMENTS, STORAGES

TORCH: dict[str, torch.dtype] = {name: dtype for name in STORAGES if isinstance(dtype := getattr(torch, name, None), torch.dtype)}
NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in TORCH.items()}
# Movement sees memory through these alone, so that NaN payloads and -0.0 survive; unsigned for bytes, because shifts of nibbles must be logical.
UNITS: dict[int, torch.dtype] = {8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}
SIGNED: dict[int, torch.dtype] = {**UNITS, 8: torch.int8}


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a storage, or of an element that torch has.

    Raises: DiagnosticError ``torch-dtype-missing`` where this torch lacks it.
    """
    native = ELEMENTS[name].native or name
    if native not in TORCH:
        message = f"torch {torch.__version__} has no dtype `{native}`"
        raise DiagnosticError(Diagnostic(code="torch-dtype-missing", message=message, where="torch"))
    return TORCH[native]


def dtype_name(dtype: torch.dtype) -> str:
    """Our name of a torch dtype.

    Raises: DiagnosticError ``torch-dtype-unknown`` for dtypes that the language does not have (complex, quantized, ...).
    """
    if dtype not in NAMES:
        raise DiagnosticError(Diagnostic(code="torch-dtype-unknown", message=f"`{dtype}` is no storage of the language", where="torch"))
    return NAMES[dtype]
