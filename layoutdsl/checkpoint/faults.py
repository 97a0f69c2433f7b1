"""What can be wrong with a layer, before it is said of a layer: faults of one kind of contents under one config.

Between ``contents`` and the checks ``fit``, ``shapes`` and ``topology``, which make faults; ``placed`` makes findings of them.

Invariants: a fault names parameters of the spec and parts of them, never a layer, so that it serves all layers that are alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from layoutdsl.checkpoint.contents import Groups, Shape, whole
from layoutdsl.checkpoint.model import Layer, Part
from layoutdsl.checkpoint.plans import LayerPlan, Plans
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.diagnostics.model import Severity


@dataclass(frozen=True, slots=True)
class Lie:
    """A value of the config that the tensors contradict, and the one that they fit."""

    name: str
    stated: Any
    fitting: Any


@dataclass(frozen=True, slots=True)
class Fault:
    """A finding without the layer. name, parts: the parameter, and what of it; without a name it is about the layer. lie: what it comes from."""

    code: str
    message: str
    name: str = ""
    parts: tuple[Part, ...] = ()
    severity: Severity = "error"
    notes: tuple[str, ...] = ()
    helps: tuple[str, ...] = ()
    lie: Lie | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """What decides which faults a layer has. experts: how many there are, 0 for a layer without."""

    plans: Plans
    plan: LayerPlan
    scheme: str
    kind: str
    config: Mapping[str, Any]
    groups: Groups
    experts: int
    said_by: str

    def shapes(self, plan: LayerPlan) -> dict[str, Shape]:
        """The declared parameters that are stored, each as a whole."""
        found = {name: whole(plan, name, self.groups[name], self.experts) for name in plan.inputs if name in self.groups}
        return {name: shape for name, shape in found.items() if shape is not None}

    def parts(self, name: str) -> tuple[Part, ...]:
        return tuple(part for group in self.groups.get(name, ()) for part in group.parts)

    def missing(self, plan: LayerPlan) -> list[str]:
        """Required parameters of which nothing is stored."""
        return [name for name, node in plan.inputs.items() if node.default is None and name not in self.groups]

    def strangers(self, plan: LayerPlan) -> list[str]:
        """What is stored and no parameter."""
        return [name for name in self.groups if name not in plan.inputs]

    def with_config(self, plans: Plans | None = None, **changes: Any) -> LayerPlan | None:
        """The plan of another config; None where the spec refuses it."""
        try:
            return (plans or self.plans).of(self.scheme, self.kind, {**self.config, "tp_size": 1, "tp_rank": 0, **changes})
        except DiagnosticError:
            return None


def placed(fault: Fault, layer: Layer) -> Iterator[Diagnostic]:
    """The findings of one fault: one per tensor that it is about, or one for the layer."""
    places = [_place(layer, fault.name, part) for part in fault.parts] or [layer.prefix]
    for place in dict.fromkeys(places):
        yield Diagnostic(code=fault.code, message=fault.message, severity=fault.severity, where=place, notes=fault.notes, helps=fault.helps)


def _place(layer: Layer, name: str, part: Part) -> str:
    """The name of a stored tensor, or that which it would have. Without a parameter's name: the expert."""
    if name in layer.stored and part in layer.stored[name]:
        return layer.stored[name][part].name
    if part.expert is None:
        return f"{layer.prefix}.{name}"
    if not name:
        return f"{layer.prefix}.{part.expert}"
    family, _, leaf = name.partition("_")
    for other, parts in layer.stored.items():
        for like, tensor in parts.items() if other.startswith(f"{family}_") else ():
            if like.segment == part.segment and like.expert is not None:
                module = tensor.name.removeprefix(f"{layer.prefix}.{like.expert}.").rpartition(".")[0]
                return f"{layer.prefix}.{part.expert}.{module}.{leaf}"
    return f"{layer.prefix}.{part.expert}.{leaf}"
