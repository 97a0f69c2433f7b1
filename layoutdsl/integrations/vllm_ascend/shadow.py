"""Mode ``shadow``: the original prepares the layer, the plan a copy, and what differs is logged.

Costs, for one layer at a time, a copy of its parameters and the results of the plan. The original's results stay.

Invariants: nothing that happens here reaches the model; a finding is logged once per scheme, rule and tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layoutdsl.integrations.vllm_ascend.log import LOGGER
from layoutdsl.integrations.vllm_ascend.patches import Around, Next
from layoutdsl.integrations.vllm_ascend.plans import Key, Plans, tensors_of
from layoutdsl.integrations.vllm_ascend.target import PROCESS, Scheme, Target

if TYPE_CHECKING:
    from layoutdsl.api import Plan
    from layoutdsl.diagnostics import Diagnostic

COMPARED: dict[Key, int] = {}
"""Layers that were compared, by key."""
FINDINGS: dict[tuple[Key, str, str], Diagnostic] = {}
"""What was logged: the first finding by key, rule and tensor."""


def install(target: Target) -> None:
    for scheme in target.schemes:
        if hasattr(scheme.cls, PROCESS):
            target.around_process(scheme, _around(target.plans, scheme))


def _around(plans: Plans, of: Scheme) -> Around:
    def process(scheme: Any, layer: Any, next: Next) -> Any:
        try:
            plan = plans.fitting(of.key, scheme, layer, of.device)
            inputs = _copies(plan, layer) if plan is not None else {}
        except Exception as error:
            LOGGER.warning("layoutdsl: %s.%s is not compared: %s: %s", *of.key, type(error).__name__, error)
            plan = None
        result = next()
        if plan is not None:
            _compare(of.key, plan, inputs, layer)
        return result

    return process


def _copies(plan: Plan, layer: Any) -> dict[str, Any]:
    tensors = tensors_of(layer)
    return {node.name: tensors[node.name].detach().clone() for node in plan.data.inputs if node.name in tensors}


def _compare(key: Key, plan: Plan, inputs: dict[str, Any], layer: Any) -> None:
    from layoutdsl.testing import differences

    try:
        found = differences(plan, plan.run(inputs, donate=True), layer)
    except Exception as error:
        LOGGER.warning("layoutdsl: %s.%s cannot be compared: %s: %s", *key, type(error).__name__, error)
        return
    COMPARED[key] = COMPARED.get(key, 0) + 1
    for one in found:
        kind = (key, one.code, one.where or "")
        if kind not in FINDINGS:
            FINDINGS[kind] = one
            LOGGER.warning("layoutdsl: %s.%s differs from its spec: %s", *key, "; ".join((one.message, *one.notes)))
