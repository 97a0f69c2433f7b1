"""The plans of a checkpoint's layers: each spec compiled once per configuration, with what only the spec's text knows of its parameters.

Between ``layers``, which says what scheme and config a layer has, and the checks, which compare plans with tensors.

Invariants: a configuration is compiled once, whatever comes of it; names that a spec does not read make no other configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from layoutdsl.api import Plan, Spec, load_spec
from layoutdsl.compiler.config import settings_of
from layoutdsl.compiler.driver import elaborate_one, plan_of
from layoutdsl.compiler.scope import Context
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.plan.model import Input
from layoutdsl.syntax.document import Document


@dataclass(frozen=True, slots=True, eq=False)
class LayerPlan:
    """A compiled spec. config: what it was compiled for. inputs: its parameters. disk: by parameter, the dtype in the files where that is another one.
    segments: by axis, the names of its parts. document, contexts: the spec's text, and its names in this configuration by member, for what evaluates it."""

    plan: Plan
    config: Mapping[str, Any]
    inputs: Mapping[str, Input]
    disk: Mapping[str, str]
    segments: Mapping[str, tuple[str, ...]]
    document: Document
    contexts: Mapping[str, Context]

    def segmented(self, name: str) -> tuple[int, tuple[str, ...]] | None:
        """The dim of a parameter that is stored in parts, and their names."""
        for place, dim in enumerate(self.inputs[name].type.dims):
            if dim and dim[0].axis in self.segments:
                return place, self.segments[dim[0].axis]
        return None


@dataclass(slots=True)
class Plans:
    """Compiles for one consumer, device and dtype of the model, and remembers."""

    consumer: str
    device: str
    params_dtype: str
    _specs: dict[tuple[str, str], Spec | tuple[Diagnostic, ...]] = field(default_factory=dict)
    _config_names: dict[int, Mapping[str, bool]] = field(default_factory=dict)
    _made: dict[Any, LayerPlan | tuple[Diagnostic, ...]] = field(default_factory=dict)

    def spec(self, scheme: str, kind: str) -> Spec:
        """Raises: DiagnosticError."""
        key = (scheme, kind)
        if key not in self._specs:
            try:
                self._specs[key] = load_spec(scheme, kind)
            except DiagnosticError as error:
                self._specs[key] = error.diagnostics
        found = self._specs[key]
        if isinstance(found, Spec):
            return found
        raise DiagnosticError(*found)

    def key(self, scheme: str, kind: str, config: Mapping[str, Any]) -> tuple[Any, ...]:
        """Equal for layers of one plan. Raises: DiagnosticError."""
        return (scheme, kind, *sorted(self._read(scheme, kind, config, {}).items()))

    def of(self, scheme: str, kind: str, config: Mapping[str, Any], **changes: Any) -> LayerPlan:
        """The plan of a scheme for a layer's config with some of it changed. Raises: DiagnosticError, the same for the same question."""
        spec = self.spec(scheme, kind)
        given = self._read(scheme, kind, config, changes)
        key = (scheme, kind, *sorted(given.items()))
        if key not in self._made:
            try:
                self._made[key] = _compiled(spec, given)
            except DiagnosticError as error:
                self._made[key] = error.diagnostics
        found = self._made[key]
        if isinstance(found, LayerPlan):
            return found
        raise DiagnosticError(*found)

    def _read(self, scheme: str, kind: str, config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        """What the spec reads of a config, and all changes. Of a prefix only its last word counts: that is all that the language compares."""
        whole = {**config, "consumer": self.consumer, "device": self.device, "params_dtype": self.params_dtype}
        read = {name: whole[name] for name, optional in self.names(scheme, kind).items() if name in whole and (optional or whole[name] is not None)}
        if "prefix" in read:
            read["prefix"] = str(read["prefix"]).rpartition(".")[2]
        return {**read, **changes}

    def names(self, scheme: str, kind: str) -> Mapping[str, bool]:
        """The names of config that a spec reads, and whether they may be none. Raises: DiagnosticError."""
        spec = self.spec(scheme, kind)
        if id(spec) not in self._config_names:
            settings = settings_of(spec.document)
            self._config_names[id(spec)] = {name: settings[name].optional for name in spec.config_names}
        return self._config_names[id(spec)]


def _compiled(spec: Spec, given: Mapping[str, Any]) -> LayerPlan:
    compiled = elaborate_one(spec.document, given)
    plan = Plan(plan_of(compiled))
    members = [context.member for context in compiled.state.contexts.values()]
    disk = {member.expand(param.name.value): param.disk.value for param in spec.document.params if param.disk for member in members}
    segments = {segment.axis.value: tuple(name.value for name in segment.names) for segment in spec.document.segments}
    inputs = {node.name: node for node in plan.data.inputs}
    return LayerPlan(plan, given, inputs, disk, segments, spec.document, compiled.state.contexts)
