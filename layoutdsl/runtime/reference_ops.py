"""Reference kernels as torch operators: ``npu::npu_quant_matmul`` as ``layoutdsl_ref::npu__npu_quant_matmul``, registered when it is first asked for.

Between the functions of ``layoutdsl/kernels/<op>/reference.py`` and whoever runs a forward without a device. They take the place of kernels on the CPU, trace
under ``torch.compile``, and change nothing for the device: nothing is registered in another namespace, and nothing on import.

Invariants: an operator has the schema of the kernel, but that written arguments are marked so; it has no derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import layoutdsl.kernels
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.kernels import CONTRACTS
from layoutdsl.kernels.schemas import schema_text

NAMESPACE = "layoutdsl_ref"


def reference_op(name: str) -> Callable[..., Any]:
    """The operator that stands for a kernel, such as ``npu::npu_swiglu``.

    It takes what the kernel takes and raises DiagnosticError ``kernel-arguments`` for what the kernel would refuse, or what nobody knows its answer to.
    Raises: DiagnosticError ``kernel-missing`` where there is no reference.
    """
    if name not in _references():
        message = f"there is no reference of the kernel `{name}`"
        notes = (f"references: {', '.join(reference_names())}",)
        raise DiagnosticError(Diagnostic(code="kernel-missing", message=message, where=name, notes=notes))
    return _registered(name)


def reference_names() -> tuple[str, ...]:
    """The kernels that have a reference."""
    return tuple(sorted(_references()))


@dataclass(frozen=True, slots=True)
class _Reference:
    """run: the kernel. fake: what gives tensors of the right dims in its place. mutates: the arguments that it writes to."""

    run: Callable[..., Any]
    fake: Callable[..., Any]
    mutates: tuple[str, ...] = ()


@cache
def _references() -> dict[str, _Reference]:
    """By the name of the kernel, which a module states as ``OP``: folders cannot tell the namespace. ``ALSO`` are kernels of that name in other namespaces."""
    found: dict[str, _Reference] = {}
    for path in sorted(Path(layoutdsl.kernels.__file__).parent.glob("*/reference.py")):
        module = import_module(f"layoutdsl.kernels.{path.parent.name}.reference")
        found[module.OP] = _Reference(module.reference, module.fake, getattr(module, "MUTATES", ()))
        found |= {op: _Reference(*functions) for op, functions in getattr(module, "ALSO", {}).items()}
    return found


@cache
def _library() -> Any:
    """torch.library.Library, which has no types; it lives as long as the process, and its operators with it."""
    return torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]


@cache
def _registered(name: str) -> Callable[..., Any]:
    reference = _references()[name]
    text = schema_text(name) or CONTRACTS[name].own_schema
    own = name.replace("::", "__").lstrip("_")
    declaration = own + text[text.index("(") :]
    for argument in reference.mutates:
        declaration = declaration.replace(f"Tensor[] {argument},", f"Tensor(a!)[] {argument},")
    if declaration.endswith("-> Tensor[]"):
        return _list_of_one(own, declaration, reference)
    _define(own, declaration, reference)
    return _packet(own)


def _define(own: str, declaration: str, reference: _Reference) -> None:
    library = _library()
    # Kernels read the layout of a weight in its strides; torch's compilers keep them for operators that do not say otherwise.
    library.define(declaration, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        library.impl(own, torch.no_grad()(reference.run), key)
    library.impl(own, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"{NAMESPACE}::{own}", reference.fake, lib=library)


def _list_of_one(own: str, declaration: str, reference: _Reference) -> Callable[..., Any]:
    """An operator that gives a list, over one that gives its only tensor: torch cannot functionalize an operator that writes and gives a list."""
    inner = f"{own}__tensor"
    first = _Reference(lambda *args, **kwargs: reference.run(*args, **kwargs)[0], lambda *args, **kwargs: reference.fake(*args, **kwargs)[0])
    _define(inner, declaration.replace(own, inner, 1).removesuffix("[]"), first)
    _library().define(declaration, tags=(torch.Tag.pt2_compliant_tag,))
    packet = _packet(inner)
    _library().impl(own, lambda *args, **kwargs: [packet(*args, **kwargs)], "CompositeImplicitAutograd")
    return _packet(own)


def _packet(own: str) -> Callable[..., Any]:
    packet: Callable[..., Any] = getattr(getattr(torch.ops, NAMESPACE), own)
    return packet
