"""Compares hand-written load-time code with a plan: for the tests of whoever replaces one by the other, and for running both side by side.

On top of ``layoutdsl.api``; nothing in the package but integrations uses it.

Invariants: the layer that is given is not changed; a difference counts by what the plan promises for the output: the same bits, or, where a float sum decides
them, 1e-5 of the largest element.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import Module

from layoutdsl.api import Plan
from layoutdsl.diagnostics import Diagnostic
from layoutdsl.runtime.places import place_of
from layoutdsl.verify.compare import difference


def compare(plan: Plan, module: Module, process: Callable[[Module], object]) -> list[Diagnostic]:
    """Runs ``process`` and the plan, each on a copy of a loaded module, and compares what the layers then have.

    Returns a ``process-differs`` for every output of the plan that ``process`` leaves otherwise: another dtype, shape, strides, bits, or no such name.
    Raises: DiagnosticError, as ``plan.apply``; whatever ``process`` raises.
    """
    by_hand, ours = copy.deepcopy(module), copy.deepcopy(module)
    process(by_hand)
    plan.apply(ours)
    held = {output.name: place_of(ours, output.name) for output in plan.data.outputs}
    return differences(plan, {name: place.held for name, place in held.items() if place is not None}, by_hand)


def differences(plan: Plan, results: Mapping[str, Any], module: Module) -> list[Diagnostic]:
    """The same for a module that was processed by hand. results: by name, as ``plan.run`` gives them."""
    found = []
    for output in plan.data.outputs:
        place = place_of(module, output.name)
        theirs = None if place is None else _plain(getattr(place.owner, place.leaf, None))
        wanted = {output.name: _plain(results[output.name])}
        close = {output.name} if output.bits == "sum" else ()
        one = difference({} if theirs is None else {output.name: theirs}, wanted, close)
        if one is not None:
            message = f"`{one.name}` of the layer that was processed by hand {one.message}"
            found.append(Diagnostic(code="process-differs", message=message, where=one.name, notes=one.notes))
    return found


def _plain(value: Any) -> Any:
    """Tensors, lists of tensors, numbers."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    return [_plain(one) for one in value] if isinstance(value, (list, tuple, torch.nn.ParameterList)) else value
