"""The specs that the plugin works with, and the plan of every layer.

Between the modes and the compiler: a spec is read once, compiled once per configuration, and bound once per layer.

Invariants: what was decided for a layer, a plan or none, stays decided while the layer lives, so that reloads go the way of the first load; a layer without a
plan is said once per reason.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layoutdsl.api import Spec, load_spec
from layoutdsl.bundled import bundled, find_bundled, is_path
from layoutdsl.checkpoint.modules import REGISTRY_KEYS
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.integrations.vllm_ascend import system
from layoutdsl.integrations.vllm_ascend.config_of import Asked, config_of, dtypes_of, misfit, sizes_of
from layoutdsl.integrations.vllm_ascend.log import LOGGER
from layoutdsl.integrations.vllm_ascend.settings import Named
from layoutdsl.plan.solve import solve_sizes

if TYPE_CHECKING:
    import torch

    from layoutdsl.api import Plan

Key = tuple[str, str]
"""Scheme and kind of layer, as in vllm-ascend's registries: ``("W8A8", "linear")``."""
DEFAULT_DEVICE = "a2"
"""Where vllm-ascend does not know its chip, as on a machine without one."""
DIGEST = 12
"""Hexadecimal digits of a digest that are shown and compared."""


@dataclass(frozen=True, slots=True)
class Known:
    """A spec and what the plugin asks of it. digest: of the text and of those that it extends. named: by the user, else bundled. types: of its config."""

    spec: Spec
    digest: str
    named: bool
    like: str | None
    types: Mapping[str, str]
    model_names: Mapping[str, str]
    added: tuple[str, ...]

    @property
    def key(self) -> Key:
        return self.spec.scheme, self.spec.layer

    @property
    def name(self) -> str:
        return f"{self.spec.scheme}.{self.spec.layer}"


def read(source: str | Path, *, named: bool = False, like: str | None = None) -> Known:
    """A spec by path, or by the id of a bundled one. Raises: DiagnosticError with everything that is wrong with it."""
    from layoutdsl.compiler.config import settings_of

    spec = load_spec(source)
    settings = settings_of(spec.document)
    types = {name: settings[name].type for name in spec.config_names}
    return Known(spec, digest_of(source), named, like, types, spec.document.from_model, spec.document.held.get("added", ()))


def digest_of(source: str | Path) -> str:
    """Of the text of a spec and of the specs that it takes something from. Raises: DiagnosticError."""
    from layoutdsl.reading import sources_of
    from layoutdsl.syntax.yaml_reader import read_source

    path = Path(source) if isinstance(source, Path) or is_path(source) else find_bundled(source)
    text = read_source(path)
    parts = sources_of(text) or (text,)
    return hashlib.sha256("\0".join(part.text for part in parts).encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST]


class Specs:
    """The specs that are in use: those that the user named, or else all bundled ones."""

    def __init__(self, named: Iterable[Named], consumer: str) -> None:
        """Raises: DiagnosticError with everything that is wrong with the named ones."""
        self.wanted = tuple(named)
        self._spelled = {key: (scheme, layer) for (of, scheme, layer), key in REGISTRY_KEYS.items() if of == consumer}
        self.named: dict[Key, Known] = {}
        problems: list[Diagnostic] = []
        for one in self.wanted:
            try:
                known = read(one.spec, named=True, like=one.like)
                self.named[known.key] = known
            except DiagnosticError as error:
                problems += error.diagnostics
        if problems:
            raise DiagnosticError(*problems)
        self._bundled: dict[str, Known] = {}

    def find(self, key: Key) -> Known | None:
        """The spec for a registry key."""
        return self.named.get(self._spelled.get(key, key)) if self.named else self.find_bundled(key)

    def find_bundled(self, key: Key) -> Known | None:
        stem = ".".join(self._spelled.get(key, key)).lower()
        if stem not in self._bundled and stem in bundled():
            self._bundled[stem] = read(bundled()[stem])
        return self._bundled.get(stem)

    def to_add(self, consumer: str) -> list[Known]:
        """Those that the registry shall get: the named ones, or the bundled ones that say that this consumer lacks them."""
        if self.named:
            return list(self.named.values())
        # Of the others none is parsed: that would take seconds.
        stems = [stem for stem, path in bundled().items() if "added:" in path.read_text(encoding="utf-8")]
        every = [self.find((stem.rpartition(".")[0], stem.rpartition(".")[2])) for stem in stems]
        return [known for known in every if known is not None and consumer in known.added]

    @cached_property
    def digests(self) -> dict[str, str]:
        """By the name of a spec; all bundled ones together have one."""
        if self.named:
            return {known.name: known.digest for known in self.named.values()}
        whole = hashlib.sha256(b"\0".join(path.read_bytes() for path in bundled().values()))
        return {"bundled": whole.hexdigest()[:DIGEST]}


@dataclass(slots=True)
class Plans:
    """The plans of a consumer's layers. device: of the registry, "" where vLLM's own word counts."""

    specs: Specs
    consumer: str
    _compiled: dict[Any, Plan | DiagnosticError] = field(default_factory=dict)
    _decided: weakref.WeakKeyDictionary[Any, Plan | None] = field(default_factory=weakref.WeakKeyDictionary)
    _said: set[tuple[Key, str]] = field(default_factory=set)

    def plan_of(self, key: Key, scheme: Any, layer: Any, device: str = "") -> Plan | None:
        """The bound plan of a layer; None, with one line in the log per reason, where there is none.

        Raises: DiagnosticError for a spec that the user named: it should have done for this layer.
        """
        if layer not in self._decided:
            try:
                self._decided[layer] = self._fitting(key, scheme, layer, device)
            except DiagnosticError as error:
                known = self.specs.find(key)
                if known is not None and known.named:
                    raise
                self._none(key, error.diagnostics[0].message)
                self._decided[layer] = None
        return self._decided[layer]

    def fitting(self, key: Key, scheme: Any, layer: Any, device: str = "") -> Plan | None:
        """The same for whoever only looks: nothing is decided, and a spec that the user named raises nothing."""
        try:
            return self._fitting(key, scheme, layer, device)
        except DiagnosticError as error:
            self._none(key, error.diagnostics[0].message)
            return None

    def described(self, key: Key, scheme: Any, layer: Any, device: str = "") -> Plan | None:
        """The plan of a layer whatever shapes its tensors have, for whoever asks only what they mean and which of them may be absent; None if no spec says."""
        known = self.specs.find(key)
        if known is None:
            return None
        asked = self._asked(known, scheme, layer, device)
        config = config_of(known.types, asked)
        try:
            return self.compiled(known, {**config, "params_dtype": dtypes_of(asked)[0]} if "params_dtype" in known.types else config)
        except DiagnosticError as error:
            self._none(key, error.diagnostics[0].message)
            return None

    def decided(self, layer: Any) -> Plan | None:
        """What was decided for a layer, None if nothing was."""
        return self._decided.get(layer)

    def decide(self, layer: Any, plan: Plan | None) -> None:
        self._decided[layer] = plan

    def fresh(self, known: Known, scheme: Any, layer: Any, sizes: Mapping[str, int], params_dtype: Any) -> Plan:
        """The plan of a layer that has no parameters yet. layer: None for one of which nothing is known. Raises: DiagnosticError."""
        config = config_of(known.types, self._asked(known, scheme, layer))
        if "params_dtype" in known.types:
            config["params_dtype"] = str(params_dtype).removeprefix("torch.")
        return self.compiled(known, config).bind(sizes)

    def bundled(self, key: Key, scheme: Any, layer: Any, sizes: Mapping[str, int], params_dtype: Any) -> Plan | None:
        """The plan that a bundled spec has for such a layer; None where there is none."""
        known = self.specs.find_bundled(key)
        try:
            return None if known is None else self.fresh(known, scheme, layer, sizes, params_dtype)
        except DiagnosticError:
            return None

    def compiled(self, known: Known, config: Mapping[str, Any]) -> Plan:
        """Raises: DiagnosticError, the same for the same question."""
        from layoutdsl.api import compile_spec

        question = (known.key, tuple(sorted(config.items())))
        if question not in self._compiled:
            try:
                self._compiled[question] = compile_spec(known.spec, config=config)
            except DiagnosticError as error:
                self._compiled[question] = error
        found = self._compiled[question]
        if isinstance(found, DiagnosticError):
            raise found
        return found

    def _fitting(self, key: Key, scheme: Any, layer: Any, device: str) -> Plan:
        """The plan whose parameters are those of the layer; what decides between bfloat16 and float16 are the tensors. Raises: DiagnosticError."""
        known, tensors = self.specs.find(key), tensors_of(layer)
        if known is None:
            raise _misfit("no spec describes it", key)
        if not tensors:
            raise _misfit("the layer has no parameters", key)
        asked = self._asked(known, scheme, layer, device)
        config, why = config_of(known.types, asked), ""
        for dtype in dtypes_of(asked) if "params_dtype" in known.types else [None]:
            plan = self.compiled(known, config if dtype is None else {**config, "params_dtype": dtype})
            bound = _bound(plan, tensors, sizes_of(asked))
            found = misfit(bound, tensors)
            if found is None:
                return bound
            why = why or found
        raise _misfit(why, key)

    def _asked(self, known: Known, scheme: Any, layer: Any, device: str = "") -> Asked:
        return Asked(scheme, layer, system.vllm_config(), self.consumer, device or system.device() or DEFAULT_DEVICE, known.model_names)

    def _none(self, key: Key, why: str) -> None:
        if (key, why) not in self._said:
            self._said.add((key, why))
            LOGGER.info("layoutdsl: %s.%s stays with vllm-ascend's own code: %s", *key, why)


def _bound(plan: Plan, tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> Plan:
    """A plan for the sizes that the tensors have. sizes: those that are stated. Raises: DiagnosticError."""
    shapes = {node.name: tuple(tensors[node.name].shape) for node in plan.data.inputs if node.name in tensors}
    stated = {name: value for name, value in sizes.items() if name in plan.size_names}
    return plan.bind(solve_sizes(plan.data, shapes, stated))


def _misfit(why: str, key: Key) -> DiagnosticError:
    helps = ("take the spec out of `specs`, and vllm-ascend's own code prepares such layers",)
    return DiagnosticError(Diagnostic(code="plugin-misfit", message=why, where=".".join(key), helps=helps))


def tensors_of(layer: Any) -> dict[str, torch.Tensor]:
    """The parameters of a layer and of its submodules, by dotted name; nothing for what is no module."""
    import torch

    return dict(layer.named_parameters()) if isinstance(layer, torch.nn.Module) else {}
