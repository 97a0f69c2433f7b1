"""Mode ``guard``: parameters are created full of poison, and the original code gets them only if all of it was overwritten.

The hand-written schemes stay as they are. What their adapters create is filled afterwards, because only there the Parameter exists that a loader will be given
and that the mark must be on. Only memory that vllm-ascend itself left uninitialised (``torch.empty``) is filled: zeros and ones are defaults of its own.

Invariants: a layer that is not loaded wholly is refused; a fault of the guard itself is a line in the log, and the layer goes on as without it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.integrations.vllm_ascend import system
from layoutdsl.integrations.vllm_ascend.log import LOGGER
from layoutdsl.integrations.vllm_ascend.patches import Around, Next
from layoutdsl.integrations.vllm_ascend.plans import Plans, tensors_of
from layoutdsl.integrations.vllm_ascend.target import PROCESS, Scheme, Target, adapters, scheme_of

if TYPE_CHECKING:
    import torch

    from layoutdsl.api import Plan
    from layoutdsl.diagnostics import Diagnostic


def install(target: Target) -> None:
    by_class = {scheme.cls: scheme for scheme in target.schemes}
    for adapter in adapters():
        target.patches.put(adapter, "create_weights", _creating(adapter.__dict__["create_weights"], target.plans, by_class))
    for scheme in target.schemes:
        if hasattr(scheme.cls, PROCESS):
            target.around_process(scheme, _around(target.plans, scheme))


def _creating(original: Callable[..., Any], plans: Plans, by_class: Mapping[type, Scheme]) -> Callable[..., Any]:
    @functools.wraps(original)
    def create_weights(adapter: Any, layer: Any, *args: Any, **kwargs: Any) -> Any:
        scheme = by_class.get(type(scheme_of(adapter)))
        if scheme is None or system.loads_dummies(system.vllm_config()):
            return original(adapter, layer, *args, **kwargs)
        empties = _empties()
        with empties:
            result = original(adapter, layer, *args, **kwargs)
        try:
            _fill(layer, empties.made, plans.described(scheme.key, scheme_of(adapter), layer, scheme.device))
        except Exception as error:
            _say(scheme, error)
        return result

    return create_weights


def _empties() -> Any:
    """A context that keeps what is allocated inside without being written."""
    import torch
    from torch.overrides import TorchFunctionMode

    kinds = (torch.empty, torch.empty_like, torch.empty_strided, torch.Tensor.new_empty)

    class Empties(TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.made: list[torch.Tensor] = []

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if function in kinds:
                self.made.append(result)
            return result

    return Empties()


def _fill(layer: Any, made: list[torch.Tensor], plan: Plan | None) -> None:
    from layoutdsl.runtime.marks import watch
    from layoutdsl.runtime.poison import fill

    empty = {tensor.untyped_storage().data_ptr() for tensor in made if not tensor.is_meta}
    elements = {node.name: node.type.element for node in plan.data.inputs} if plan is not None else {}
    for name, tensor in tensors_of(layer).items():
        if not tensor.is_meta and tensor.numel() and tensor.untyped_storage().data_ptr() in empty:
            fill(tensor, elements.get(name))
            watch(tensor)


# ---- looking -------------------------------------------------------------------------------------------------------------------------------------------------


def _around(plans: Plans, of: Scheme) -> Around:
    def process(scheme: Any, layer: Any, next: Next) -> Any:
        try:
            findings = _look(layer, plans.described(of.key, scheme, layer, of.device))
        except Exception as error:
            _say(of, error)
            findings = []
        if findings:
            prefix = getattr(layer, "prefix", None) or getattr(layer, "layer_name", None)
            raise DiagnosticError(*(replace(one, where=f"{prefix}.{one.where}") if isinstance(prefix, str) else one for one in findings))
        return next()

    return process


def _look(layer: Any, plan: Plan | None) -> list[Diagnostic]:
    """What was not loaded. Defaults are filled in where the checkpoint may lack a tensor; of a layer without a plan nobody knows which these are."""
    from layoutdsl.plan.sizes import layer_kind
    from layoutdsl.runtime.guard import unloaded
    from layoutdsl.runtime.poison import poison_of, unmark

    tensors = {name: tensor for name, tensor in tensors_of(layer).items() if poison_of(tensor) is not None}
    defaults = {node.name: node.default for node in plan.data.inputs if node.default is not None} if plan is not None else dict.fromkeys(tensors)
    experts = plan is not None and layer_kind(plan.layer).experts
    size = getattr(layer, "tp_size", None)
    tp_size = size if isinstance(size, int) else system.tp_size() or 1
    absent, findings = unloaded(tensors, defaulted=defaults, experts=experts, tp_size=tp_size)
    if findings:
        return findings
    for name in absent:
        default = defaults[name]
        tensors[name].data.fill_(default if isinstance(default, (int, float)) else 0)
        if plan is None:
            LOGGER.warning("layoutdsl: nothing was loaded into `%s` of a layer that no spec describes", name)
    for tensor in tensors.values():
        unmark(tensor)
    return []


def _say(of: Scheme, error: Exception) -> None:
    LOGGER.warning("layoutdsl: %s.%s is not guarded: %s: %s", *of.key, type(error).__name__, error)
