"""layoutdsl: declarative layout transformations, from quantized checkpoints to what Ascend NPU kernels want."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = [
    "Diagnostic",
    "DiagnosticError",
    "Format",
    "FormatCast",
    "Parameter",
    "Plan",
    "Spec",
    "compile_spec",
    "load_plan",
    "load_spec",
    "validate",
]


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562), so that `import layoutdsl` costs nothing and the command line starts fast.
    if name in ("Diagnostic", "DiagnosticError"):
        from layoutdsl import diagnostics

        return getattr(diagnostics, name)
    if name in __all__:
        from layoutdsl import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
