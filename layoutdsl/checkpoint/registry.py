"""Which schemes a consumer has on a device, as far as specs describe them, and the words that refuse all others.

Asked by the readers of the formats for every type that a checkpoint names. Specs are read when they are first asked for, once.
Invariants: a refusal names no layer, so that equal refusals of many layers can be folded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from layoutdsl.bundled import bundled
from layoutdsl.checkpoint.modules import FLOAT, REGISTRY_KEYS, WRITER_TYPES
from layoutdsl.compiler.consumers import DEVICE_ALIASES
from layoutdsl.diagnostics import Diagnostic

KINDS = {"linear": "linear layers", "moe": "experts", "attention": "attention", "ds_linear": "linear layers", "ds_w4a8_moe": "experts"}


@dataclass(frozen=True, slots=True)
class Known:
    """What a reader needs of a spec. from_model: names of its config that the model's ``config.json`` gives, and the key there. consumers, devices: where it
    holds. added: those of the consumers that lack it, and get it from the plugin. parameters: the names it declares in any configuration."""

    scheme: str
    kind: str
    consumers: tuple[str, ...]
    devices: tuple[str, ...]
    added: tuple[str, ...]
    config: frozenset[str]
    from_model: tuple[tuple[str, str], ...]
    parameters: frozenset[str]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no plan can be made for a layer; the same for every layer that it meets."""

    code: str
    message: str
    notes: tuple[str, ...] = ()
    helps: tuple[str, ...] = ()

    def at(self, where: str) -> Diagnostic:
        return Diagnostic(code=self.code, message=self.message, where=where, notes=self.notes, helps=self.helps)


@dataclass(slots=True)
class Registry:
    """The schemes of one consumer on one device (``a2``, or an alias such as ``910b``)."""

    consumer: str
    device: str
    _found: dict[tuple[str, str, str], Known | Refusal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.device = DEVICE_ALIASES.get(self.device, self.device)

    def find(self, scheme: str, kind: str, said_by: str) -> Known | Refusal:
        """The spec for layers of this kind, or why there is none."""
        asked = (scheme, kind, said_by)
        if asked not in self._found:
            self._found[asked] = self._find(scheme, kind, said_by)
        return self._found[asked]

    def added(self, scheme: str, kind: str) -> bool:
        """Is this a scheme that only the plugin brings to the consumer?"""
        stem = f"{scheme.lower()}.{kind}"
        return stem in bundled() and self.consumer in read(stem).added

    def _find(self, scheme: str, kind: str, said_by: str) -> Known | Refusal:
        kinds = [stem.rpartition(".")[2] for stem in bundled() if stem.rpartition(".")[0] == scheme.lower()]
        specs = {found.kind: found for found in map(read, (f"{scheme.lower()}.{other}" for other in kinds)) if found.scheme == scheme}
        if not specs:
            return self._unknown(scheme, kind, said_by)
        spec = specs.get(kind)
        if spec is None:
            message = f"no consumer has `{scheme}` for {KINDS[kind]}"
            others = " and ".join(sorted({KINDS[other] for other in specs}))
            return Refusal("scheme-unsupported", message, (f"said by {said_by}", f"`{scheme}` is for {others}"), (self._take_another(kind),))
        if self.consumer in spec.consumers and self.device in spec.devices:
            return spec
        message = f"{self.consumer} has no `{scheme}` for {KINDS[kind]} on {self.device}"
        held = f"{', '.join(spec.consumers)} {'has' if len(spec.consumers) == 1 else 'have'} it on {', '.join(spec.devices)}"
        key = REGISTRY_KEYS.get((self.consumer, scheme, kind))
        other = (f"{self.consumer} registers one under {key!r}, which no spec describes",) if key else ()
        return Refusal("scheme-unsupported", message, (f"said by {said_by}", held, *other), (self._take_another(kind),))

    def _unknown(self, scheme: str, kind: str, said_by: str) -> Refusal:
        message, notes = f"`{shown(scheme)}` is no scheme that {self.consumer} knows", (f"said by {said_by}",)
        if scheme in WRITER_TYPES:
            written = "msModelSlim 26.1 writes this type, and no registry of vllm-ascend has it"
            return Refusal("scheme-unknown", message, (*notes, written), (f"where the consumer has it, write `{WRITER_TYPES[scheme]}` instead",))
        names = {FLOAT.lower(): FLOAT} | {stem.rpartition(".")[0]: stem for stem in bundled() if stem.endswith(f".{kind}")}
        close = get_close_matches(scheme.lower()[:64], names, 1, 0.5)
        nearest = names[close[0]] if close else ""
        if nearest and nearest != FLOAT:
            nearest = read(nearest).scheme
        return Refusal("scheme-unknown", message, notes, (f"the nearest is `{nearest}`",) if nearest else (self._take_another(kind),))

    def _take_another(self, kind: str) -> str:
        known = [read(stem) for stem in bundled() if KINDS.get(stem.rpartition(".")[2]) == KINDS[kind]]
        held = [spec.scheme for spec in known if self.consumer in {*spec.consumers} - {*spec.added} and self.device in spec.devices]
        return f"{self.consumer} on {self.device} has {', '.join(held) or 'nothing'} for {KINDS[kind]}"


_READ: dict[str, Known] = {}


def read(stem: str) -> Known:
    """What a bundled spec (``w8a8.linear``) says of itself, read once. The specs of the package are right: a test proves it."""
    if stem not in _READ:
        _READ[stem] = _read(stem)
    return _READ[stem]


def _read(stem: str) -> Known:
    from layoutdsl.api import load_spec

    spec = load_spec(bundled()[stem])
    document = spec.document
    members = {each.name.value: [member.value for member in each.members] for each in document.each}
    names = frozenset(name for parameter in document.params for name in _expanded(parameter.name.value, members))
    config = frozenset(spec.config_names)
    held, devices, added = (document.held.get(name, ()) for name in ("consumer", "device", "added"))
    return Known(spec.scheme, spec.layer, held, devices, added, config, tuple(document.from_model.items()), names)


def _expanded(name: str, members: Mapping[str, list[str]]) -> list[str]:
    """``<p>_weight`` for every member of ``p``."""
    names = [name]
    for letter, values in members.items():
        names = [one.replace(f"<{letter}>", value) for one in names for value in (values if f"<{letter}>" in one else [""])]
    return names


def shown(value: Any) -> str:
    """A value of somebody's JSON, cut to what a line can hold."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 64 else f"{text[:61]}..."
