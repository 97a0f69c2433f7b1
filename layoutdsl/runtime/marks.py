"""Marks on Parameter objects: which form a parameter is in, and a weight loader that refuses the wrong one.

Set by ``layoutdsl.runtime.apply`` and taken away by ``layoutdsl.runtime.restore``; loaders are watched from the moment a parameter is created.

Invariants: a mark counts for the very object it was made for, because reload protocols copy the attributes of a Parameter onto other tensors; no mark is the
checkpoint's form, so a re-created Parameter is in it. A watched loader keeps its name, its signature, its attributes and, if it is a bound method, its object.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.runtime.poison import poison_of

MARK = "_layoutdsl_form"
"""Attribute of a tensor in the kernel's form: its :class:`Kernel`."""
LOADER = "weight_loader"
"""Attribute of a Parameter that vLLM's loaders call with (param, loaded_weight, ...)."""


class Kernel:
    """The mark of a tensor that a plan has put into the kernel's form. plan: its hash. name: what the tensor is called on its layer."""

    __slots__ = ("name", "owner", "plan")

    def __init__(self, plan: str, name: str, owner: torch.Tensor | None = None) -> None:
        self.plan, self.name = plan, name
        self.owner = None if owner is None else weakref.ref(owner)

    def __reduce__(self) -> tuple[Any, ...]:
        return Kernel, (self.plan, self.name)  # of no tensor: who copies a layer marks the copies (``layoutdsl.runtime.record``)


def mark_kernel(tensor: torch.Tensor, plan: str, name: str) -> None:
    setattr(tensor, MARK, Kernel(plan, name, tensor))


def mark_checkpoint(tensor: torch.Tensor) -> None:
    tensor.__dict__.pop(MARK, None)


def kernel_form(tensor: torch.Tensor) -> Kernel | None:
    """The mark, if the tensor is in the kernel's form."""
    found = getattr(tensor, MARK, None)
    return found if isinstance(found, Kernel) and found.owner is not None and found.owner() is tensor else None


# ---- loaders -------------------------------------------------------------------------------------------------------------------------------------------------


def watch(tensor: torch.Tensor) -> None:
    """Wraps the tensor's ``weight_loader``, if it has one and it is not watched yet: it will refuse tensors in the kernel's form, and note what it loads."""
    loader = getattr(tensor, LOADER, None)
    if loader is None or isinstance(getattr(loader, "__func__", loader), _Watched):
        return
    if isinstance(loader, MethodType):
        setattr(tensor, LOADER, MethodType(_Watched(loader.__func__, bound=True), loader.__self__))
    else:
        setattr(tensor, LOADER, _Watched(loader, bound=False))


class _Watched:
    """A loader, or the function of a bound one, that looks at the tensor it is given before it works.

    It is no closure over the layer or the tensor: loaders are copied from tensor to tensor, and taken from one layer and bound to another.
    """

    def __init__(self, loader: Callable[..., Any], bound: bool) -> None:
        functools.update_wrapper(self, loader)
        self._loader, self._bound = loader, bound

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = args[1:] if self._bound else args
        _before(kwargs["param"] if "param" in kwargs else next(iter(given), None), (*given[1:2], *kwargs.values()))
        return self._loader(*args, **kwargs)

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        return self if owner is None else MethodType(self, owner)


def _before(param: Any, others: tuple[Any, ...]) -> None:
    """param: what is loaded into; others: arguments, the first tensor among which is what is loaded."""
    if not isinstance(param, torch.Tensor):
        return
    form = kernel_form(param)
    if form is not None:
        raise DiagnosticError(_refusal(form))
    poison = poison_of(param)
    if poison is not None:
        poison.note(next((tuple(other.shape) for other in others if isinstance(other, torch.Tensor) and other is not param), None))


def _refusal(form: Kernel) -> Diagnostic:
    return Diagnostic(
        code="loaded-into-kernel-form",
        message=f"`{form.name}` is in the form the kernel wants; what a checkpoint holds cannot be loaded into it",
        where=form.name,
        notes=(f"plan {form.plan[:19]}... was applied to it",),
        helps=("call `plan.restore(module)` first, then load, then `plan.apply(module)`",),
    )
