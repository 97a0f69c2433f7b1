"""Mode ``override``: the plan prepares the layer, on the classes that are there.

The constructor, the creation of parameters and the forward stay vllm-ascend's. Its reload hook, ``restore_weights_for_rl_loading``, is added to every scheme.

Invariants: a layer without a plan is prepared by the original, always; a layer that a plan has prepared is never given to the original. ``COUNTS`` says how
often a plan ran, by key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from layoutdsl.integrations.vllm_ascend.log import LOGGER
from layoutdsl.integrations.vllm_ascend.patches import Around, Next
from layoutdsl.integrations.vllm_ascend.plans import Key, Plans, tensors_of
from layoutdsl.integrations.vllm_ascend.target import PROCESS, RESTORE, Scheme, Target
from layoutdsl.integrations.vllm_ascend.upstream_state import after_apply, after_restore

if TYPE_CHECKING:
    from layoutdsl.api import Plan

COUNTS: Counter[Key] = Counter()


def install(target: Target) -> None:
    for scheme in target.schemes:
        if hasattr(scheme.cls, PROCESS):
            target.around_process(scheme, _around(target.plans, scheme))
            target.patches.put(scheme.cls, RESTORE, _restore(target.plans, getattr(scheme.cls, RESTORE, None)))


def _around(plans: Plans, of: Scheme) -> Around:
    def process(scheme: Any, layer: Any, next: Next) -> Any:
        if plans.decided(layer) is None and _is_prepared(layer):
            return None  # the copy of a layer that a plan has prepared
        plan = plans.plan_of(of.key, scheme, layer, of.device)
        return next() if plan is None else apply(plan, of.key, layer)

    return process


def apply(plan: Plan, key: Key, layer: Any) -> None:
    """Prepares a layer. Raises: DiagnosticError, with the layer as it was."""
    plan.apply(layer)
    after_apply(key, plan, layer)
    COUNTS[key] += 1


def _is_prepared(layer: Any) -> bool:
    from layoutdsl.runtime.marks import kernel_form

    return any(kernel_form(tensor) is not None for tensor in tensors_of(layer).values())


def _restore(plans: Plans, original: Callable[..., Any] | None) -> Callable[..., Any]:
    def restore_weights_for_rl_loading(scheme: Any, layer: Any) -> None:
        """Brings the layer into the form in which a checkpoint can be loaded again."""
        plan = plans.decided(layer)
        if plan is not None:
            plan.restore(layer)
            after_restore((plan.scheme, plan.layer), layer)
        elif original is not None:
            original(scheme, layer)
        else:
            LOGGER.warning("layoutdsl: %s has no plan and no hook of its own: nothing is restored", type(layer).__name__)

    return restore_weights_for_rl_loading
