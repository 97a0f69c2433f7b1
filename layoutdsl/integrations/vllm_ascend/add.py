"""Mode ``add``: schemes that vllm-ascend's registry lacks, made of specs.

A linear scheme has the parameters and the generated forward of its spec. One for experts names with ``like`` the scheme whose forward, quant type and
constructor it borrows, since a spec does not say how tokens travel between ranks.

The adapters take what shards how from the word under which a parameter is returned, and give all packed weights one packed dim. That cannot say a zero point
that is packed along the outputs beside weights that are packed along the inputs; so for schemes that are made here, and only for these, the plan creates the
parameters itself, with the loader attributes that follow from the spec, and asks the layer for its group size.

Invariants: what the registry has is never replaced; what cannot be added is a diagnostic for a spec that the user named.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.integrations.vllm_ascend import system
from layoutdsl.integrations.vllm_ascend.log import LOGGER
from layoutdsl.integrations.vllm_ascend.names import METHODS, METHODS_310P
from layoutdsl.integrations.vllm_ascend.override import COUNTS
from layoutdsl.integrations.vllm_ascend.plans import Known, Plans
from layoutdsl.integrations.vllm_ascend.target import Target, adapters, registry, scheme_of
from layoutdsl.plan.forward import walk
from layoutdsl.plan.sizes import layer_kind

if TYPE_CHECKING:
    import torch

    from layoutdsl.api import Plan

CREATE = "_layoutdsl_create"
"""The method of an added class that creates a layer's parameters; it tells such classes from all others."""
_LINEAR = {"input_size_per_partition", "output_partition_sizes", "params_dtype"}
_EXPERTS = {"num_experts", "hidden_size", "intermediate_size_per_partition", "params_dtype"}
"""What the adapters' ``create_weights`` is given."""


def install(target: Target) -> None:
    """Raises: DiagnosticError (``plugin-scheme``) with every named spec that cannot be added."""
    name = METHODS_310P if system.device() == "310p" else METHODS
    if name not in sys.modules or not list(adapters()):
        return  # installed again once it is imported
    schemes = registry(name)
    problems: list[Diagnostic] = []
    for known in target.plans.specs.to_add(target.plans.consumer):
        try:
            target.patches.put_item(schemes, known.key, _class(known, target.plans, schemes))
            target.log.append(f"added {known.name}")
        except DiagnosticError as error:
            problems += error.diagnostics if known.named else ()
    for adapter in adapters():
        target.patches.put(adapter, "create_weights", _creating(adapter.__dict__["create_weights"]))
    if problems:
        raise DiagnosticError(*problems)


def _class(known: Known, plans: Plans, schemes: Mapping[tuple[str, str], type]) -> type:
    if known.key in schemes:
        raise _refusal(known, "vllm-ascend has this scheme already", "take mode `override`, or give the scheme another name")
    kind = layer_kind(known.spec.layer)
    if kind.experts:
        return _experts_class(known, plans, schemes)
    if kind.columns is None:
        raise _refusal(known, f"schemes for layers of kind `{known.spec.layer}` have no generated forward", "only linear layers and experts can be added")
    if known.like is not None:
        raise _refusal(known, "a linear scheme has a forward of its own", "leave `like` out")
    base = getattr(sys.modules.get(f"{METHODS}.base"), "AscendLinearScheme", object)
    return _linear_class(known, plans, base)


def _refusal(known: Known, message: str, help: str) -> DiagnosticError:
    return DiagnosticError(Diagnostic(code="plugin-scheme", message=message, where=known.name, helps=(help,)))


def _creating(original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def create_weights(adapter: Any, layer: Any, *args: Any, **kwargs: Any) -> Any:
        scheme = scheme_of(adapter)
        if not hasattr(type(scheme), CREATE):
            return original(adapter, layer, *args, **kwargs)
        bound = signature.bind(adapter, layer, *args, **kwargs).arguments
        further = next((name for name, one in signature.parameters.items() if one.kind is inspect.Parameter.VAR_KEYWORD), "")
        getattr(scheme, CREATE)(layer, bound, bound.get(further, {}))
        return None

    return create_weights


def _create(known: Known, plans: Plans, scheme: Any, layer: Any, given: Mapping[str, Any], sizes: Mapping[str, int], further: Mapping[str, Any]) -> Plan:
    """Creates the parameters of a layer. further: what the adapter would set on each of them. Raises: DiagnosticError."""
    plan = plans.fresh(known, scheme, layer, sizes, given["params_dtype"])
    plan.create_parameters(layer, weight_loader=further.get("weight_loader"))
    for name in plan.parameters:
        parameter = layer.get_parameter(name)
        for attribute, value in further.items():
            if not hasattr(parameter, attribute):
                setattr(parameter, attribute, value)
    plans.decide(layer, plan)
    return plan


# ---- linear layers -------------------------------------------------------------------------------------------------------------------------------------------


def _linear_class(known: Known, plans: Plans, base: type) -> type:
    class Added(base):  # type: ignore[misc]
        def __init__(self, *args: Any) -> None:
            self.plan: Plan | None = None
            self.forward: Callable[..., torch.Tensor] | None = None

        def get_weight(self, input_size: int, output_size: int, params_dtype: Any) -> dict[str, Any]:
            """Parameters of a layer of which nothing else is known, without loader attributes; layers get theirs from the plan itself."""
            plan = plans.fresh(known, self, None, {"input_size": input_size, "output_size": output_size}, params_dtype)
            return {name: parameter.allocate() for name, parameter in plan.parameters.items()}

        def process_weights_after_loading(self, layer: Any) -> None:
            self.plan = self.plan or plans.decided(layer)
            if self.plan is None:
                raise _refusal(known, "the parameters of this layer were not created by its plan", "create them with the adapter of the scheme")
            self.plan.apply(layer)
            COUNTS[known.key] += 1
            device = next(iter(layer.parameters())).device.type
            self.forward = self.plan.forward_function(device)
            if getattr(layer, "bias", None) is not None and "bias" not in inspect.signature(self.forward).parameters:
                raise _refusal(known, "the layer has a bias, and the forward of the spec adds none", "read `bias` in the spec's forward")

        def restore_weights_for_rl_loading(self, layer: Any) -> None:
            if self.plan is not None:
                self.plan.restore(layer)

        def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None, tp_rank: int | None = 0) -> torch.Tensor:
            assert self.forward is not None, "process_weights_after_loading comes first"
            return self.forward(layer, x) if bias is None else self.forward(layer, x, bias=bias)

    def create(self: Any, layer: Any, given: Mapping[str, Any], further: Mapping[str, Any]) -> None:
        _need(known, given, _LINEAR)
        parts = list(given["output_partition_sizes"])
        self.plan = _create(known, plans, self, layer, given, {"input_size": given["input_size_per_partition"], "output_size": sum(parts)}, further)
        unit = self.plan.granularity.get("output_size", 1)
        if any(part % unit for part in parts):
            raise _refusal(known, f"parts of {parts} outputs are loaded one by one, and stored words hold {unit}", "quantize without packing across them")

    setattr(Added, CREATE, create)
    return _titled(Added, known)


# ---- experts -------------------------------------------------------------------------------------------------------------------------------------------------


def _experts_class(known: Known, plans: Plans, schemes: Mapping[tuple[str, str], type]) -> type:
    if known.like is None:
        raise _refusal(known, "a scheme for experts borrows its forward", 'write {"spec": ..., "like": "W8A8_DYNAMIC"}, a scheme that reads the same tensors')
    base = schemes.get((known.like, known.spec.layer))
    if base is None:
        names = ", ".join(name for name, layer in schemes if layer == known.spec.layer)
        raise _refusal(known, f"vllm-ascend has no `{known.like}` for layers of kind `{known.spec.layer}`", f"it has {names}")
    like = (known.like, known.spec.layer)

    class Added(base):  # type: ignore[misc, valid-type]
        def process_weights_after_loading(self, layer: Any) -> None:
            plan = plans.decided(layer)
            if plan is None:
                raise _refusal(known, "the parameters of this layer were not created by its plan", "create them with the adapter of the scheme")
            plan.apply(layer)
            COUNTS[known.key] += 1

        def restore_weights_for_rl_loading(self, layer: Any) -> None:
            plan = plans.decided(layer)
            if plan is not None:
                plan.restore(layer)

    def create(self: Any, layer: Any, given: Mapping[str, Any], further: Mapping[str, Any]) -> None:
        _need(known, given, _EXPERTS)
        sizes = {name: given[name] for name in ("num_experts", "hidden_size", "intermediate_size_per_partition")}
        plan = _create(known, plans, self, layer, given, sizes, further)
        _check_like(known, plan, plans.bundled(like, self, layer, sizes, given["params_dtype"]))

    setattr(Added, CREATE, create)
    return _titled(Added, known)


def _check_like(known: Known, plan: Plan, like: Plan | None) -> None:
    """The borrowed forward finds what it reads: the outputs of the other scheme's spec, where there is one, with the same dtypes and dims."""
    if like is None:
        LOGGER.warning("layoutdsl: no spec says what the forward of `%s` reads", known.like)
        return
    ours, theirs = _outputs(plan), _outputs(like)
    for name in sorted(_read(like) & theirs.keys()):
        if ours.get(name) != theirs[name]:
            has = " ".join(map(str, ours[name])) if name in ours else "nothing of that name"
            message = f"the forward of `{known.like}` reads `{name}`, {' '.join(map(str, theirs[name]))}, and this spec leaves {has}"
            raise _refusal(known, message, f"let the steps end in what `layoutdsl describe {known.like}` shows")


def _read(plan: Plan) -> set[str]:
    """The tensors of the layer that a forward reads."""
    if plan.data.forward == "external":
        return {output.name for output in plan.data.outputs}
    lines = [expr for call in plan.data.forward for expr in (call.expr, call.when) if expr is not None]
    return {node[1] for expr in lines for node in walk(expr) if node[0] == "layer"}


def _outputs(plan: Plan) -> dict[str, tuple[str, str]]:
    """What a plan leaves on the layer: by name the kind, and dtype and dims in words."""
    types = {node.id: node.type for node in (*plan.data.inputs, *plan.data.code)}
    return {one.name: (one.kind, f"{types[one.value].storage} of {len(types[one.value].dims)} dims") for one in plan.data.outputs if one.value in types}


# ---- both ----------------------------------------------------------------------------------------------------------------------------------------------------


def _need(known: Known, given: Mapping[str, Any], names: set[str]) -> None:
    missing = sorted(names - given.keys())
    if missing:
        raise _refusal(known, f"the adapter of this vllm-ascend does not say `{missing[0]}`", "this version of vllm-ascend is not supported by mode `add`")


def _titled(cls: type, known: Known) -> type:
    cls.__name__ = cls.__qualname__ = "Layoutdsl" + "".join(word.capitalize() for word in (*known.spec.scheme.split("_"), known.spec.layer)) + "Method"
    cls.__doc__ = known.spec.title
    return cls
