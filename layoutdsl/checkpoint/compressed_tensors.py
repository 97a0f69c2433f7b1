"""What the ``quantization_config`` of compressed-tensors says: groups of modules by name, pattern or class, each with numbers that a scheme is told from.

One of the readers that ``layers`` asks; the rules are those of vllm-ascend 0.23.0 and 182b75ea84 (quantization/compressed_tensors_config.py) and of vLLM's
matching of targets. Invariants: patterns are bounded before they are compiled: they come from somebody's JSON; experts are asked by the name of the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from layoutdsl.checkpoint import grouping
from layoutdsl.checkpoint import modules as names
from layoutdsl.checkpoint.grouping import Maker, Modules, Said, looks_quantized
from layoutdsl.checkpoint.model import Folder, Layer
from layoutdsl.checkpoint.modules import FLOAT
from layoutdsl.checkpoint.registry import Refusal, Registry, shown
from layoutdsl.diagnostics import Diagnostic, DiagnosticError

ACTIVATION_FORMATS = ("naive-quantized", "int-quantized", "float-quantized")
FORMATS = (*ACTIVATION_FORMATS, "pack-quantized", "mixed-precision", "dense")
"""Formats whose tensors a spec describes, or that leave it to the groups."""
LINEAR = ("W8A8", "W8A8_DYNAMIC", "W8A8FP8_DYNAMIC", "W4A16")
"""Schemes whose linear class reads what compressed-tensors stores. W4A8_DYNAMIC's reads ModelSlim's layout (0.23)."""
CONSUMER_GROUP = 32
"""The group size of W4A16 experts that consumers take: nothing hands them the checkpoint's."""
_MAX_PATTERN, _MAX_REPEATS, _MAX_WIDE, _MAX_NAME, _MAX_TARGETS = 512, 6, 4, 256, 100_000
# An escape, a class, a bracket or mark of repetition, or any other character.
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[()*+?|]|\{\d*,?\d*\}|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Numbers:
    """How weights or inputs of a group are quantized. strategy: ``tensor``, ``channel``, ``group``, ``token``, ``block``. group_size: 0 for none."""

    bits: int
    type: str
    strategy: str
    symmetric: bool
    dynamic: bool
    group_size: int
    order: str

    def __str__(self) -> str:
        size = f" of {self.group_size}" if self.group_size > 0 else ""
        how = "dynamic" if self.dynamic else "static"
        return f"{self.bits}-bit {self.type} per {self.strategy}{size}, {'symmetric' if self.symmetric else 'asymmetric'}, {how}"


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    weights: Numbers
    inputs: Numbers | None
    format: str

    def __str__(self) -> str:
        return f"weights {self.weights}; inputs {self.inputs or 'not quantized'}; {self.format or 'no format'}"


@dataclass(slots=True)
class Names:
    """Module names by full name, by pattern, and by class, each with what it stands for."""

    exact: dict[str, Group | None] = field(default_factory=dict)
    patterns: list[tuple[re.Pattern[str], Group | None]] = field(default_factory=list)

    def find(self, module: str) -> tuple[bool, Group | None]:
        if module in self.exact:
            return True, self.exact[module]
        if len(module) > _MAX_NAME:
            return False, None
        return next(((True, group) for pattern, group in self.patterns if pattern.match(module)), (False, None))

    def by_class(self, words: Iterable[str]) -> Group | None:
        """The group whose target is a part of a class's name, as vLLM compares them."""
        return next((group for target, group in self.exact.items() if any(target and target.lower() in word for word in words)), None)


LINEAR_CLASSES = ("columnparallellinear", "rowparallellinear", "qkvparallellinear", "mergedcolumnparallellinear", "replicatedlinear")
MOE_CLASSES = ("fusedmoe", "routedexperts")


def layers(folder: Folder, config: Mapping[str, Any], modules: Modules, registry: Registry, said_by: str) -> tuple[list[Layer], list[Diagnostic]]:
    """The layers that the groups name and what is wrong between them and the files."""
    findings = _unsupported_parts(config, registry, said_by)
    try:
        targets, ignore = _targets(config, said_by), _ignored(config, said_by)
    except DiagnosticError as error:
        return [], [*findings, *error.diagnostics]
    reader = _Reader(folder, modules, registry, targets, ignore, said_by, findings)
    return reader.linear_layers() + reader.moe_layers(), findings


@dataclass(slots=True)
class _Reader:
    folder: Folder
    modules: Modules
    registry: Registry
    targets: Names
    ignore: Names
    by: str
    findings: list[Diagnostic]
    said: dict[tuple[str, str], Said | Refusal] = field(default_factory=dict)
    by_class: dict[str, Group | None] = field(init=False)

    def __post_init__(self) -> None:
        linear = self.targets.by_class(LINEAR_CLASSES)
        # `Linear` alone means experts too.
        self.by_class = {"linear": linear, "moe": self.targets.by_class(MOE_CLASSES) or self.targets.exact.get("Linear")}

    def linear_layers(self) -> list[Layer]:
        maker, groups, found = Maker(self.folder, self.modules), {}, []
        for name, tensors in self.modules.plain.items():
            last, quantized = name.rpartition(".")[2], looks_quantized(tensors)
            if not quantized and (last not in names.LINEAR or "weight" not in tensors):
                continue
            group = self._group_of(name)
            groups[name] = group
            if group is None:
                if quantized:
                    self.findings.append(self._float_but_quantized(name))
            elif last in (*names.HEADS, *names.EMBEDDINGS):
                if quantized:
                    message = f"{self.registry.consumer} keeps heads and embeddings of compressed-tensors float"
                    self.findings.append(Refusal("module-unsupported", message, (f"said by {self.by}",), ("add the module to `ignore`",)).at(name))
            else:
                found += self._made(name, group, "linear", maker)
        mixed = self._check_fused(groups)
        return [layer for layer in found if layer.fused not in mixed]

    def moe_layers(self) -> list[Layer]:
        maker, found = Maker(self.folder, self.modules), []
        for prefix, experts in self.modules.experts.items():
            quantized = any(map(looks_quantized, experts.modules.values()))
            group = self._group_of_experts(prefix)
            if group is not None:
                found += self._made(prefix, group, "moe", maker)
            elif quantized:
                self.findings.append(self._float_but_quantized(prefix, "consumers ask for `experts.0.gate_proj`"))
        return found

    def _made(self, name: str, group: Group, kind: str, maker: Maker) -> list[Layer]:
        said = self._said(group, kind)
        if isinstance(said, Refusal):
            self.findings.append(said.at(name))
            return []
        spec = self.registry.find(said.scheme, kind, said.by)
        if isinstance(spec, Refusal):
            self.findings.append(spec.at(name))
            return []
        if said.scheme == "W4A16" and kind == "moe" and group.weights.group_size != CONSUMER_GROUP:
            self.findings.append(_group_ignored(name, group, self.registry.consumer, said.by))
        return [maker.linear(name, said, spec) if kind == "linear" else maker.experts(name, said, spec)]

    def _said(self, group: Group, kind: str) -> Said | Refusal:
        at = (group.name, kind)
        if at not in self.said:
            self.said[at] = scheme_of(group, kind, self.registry.consumer, f"{self.by}: {group.name}")
        return self.said[at]

    # -- matching

    def _group_of(self, module: str) -> Group | None:
        """None: stays float."""
        if self.ignore.find(module)[0]:
            return None
        named, group = self.targets.find(module)
        return group if named else self.by_class["linear"]

    def _group_of_experts(self, prefix: str) -> Group | None:
        """Consumers ask for the first expert's `gate_proj`, whatever that model calls it."""
        asked = f"{prefix}.0.gate_proj"
        if self.ignore.find(asked)[0]:
            return None
        named, group = self.targets.find(asked)
        return group if named else self.by_class["moe"]

    def _check_fused(self, groups: Mapping[str, Group | None]) -> set[str]:
        """Those whose members have several schemes: nobody can load them."""
        several = set()
        for fused, members, absent in grouping.fused_modules(self.modules, groups):
            said = {member: self._word(groups[module]) for member, module in members.items()}
            if mixed := grouping.disagreement(fused, said, self.by):
                self.findings.append(mixed)
                several.add(fused)
                continue
            if set(said.values()) != {FLOAT}:
                self.findings += [grouping.lack(fused, members, absent)] if absent else []
        return several

    def _word(self, group: Group | None) -> str:
        if group is None:
            return FLOAT
        said = self._said(group, "linear")
        return f"{said.scheme} of {group.name}" if isinstance(said, Said) else group.name

    def _float_but_quantized(self, where: str, *notes: str) -> Diagnostic:
        message = "the config leaves this module float, and the tensors are quantized"
        helps = ("let a target name the module, or take it out of `ignore`; or store the float weight",)
        return Diagnostic(code="float-but-quantized", message=message, where=where, notes=(f"said by {self.by}", *notes), helps=helps)


def _group_ignored(where: str, group: Group, consumer: str, by: str) -> Diagnostic:
    message = f"the weights have groups of {group.weights.group_size}, and {consumer} takes them for groups of {CONSUMER_GROUP}"
    notes = (f"said by {by}", "the group size of W4A16 is not handed on by the consumer: it has its default")
    return Diagnostic(code="group-size-ignored", message=message, where=where, notes=notes, helps=(f"quantize with groups of {CONSUMER_GROUP}",))


# ---- schemes ----------------------------------------------------------------------------------------------------------------------------------------


def scheme_of(group: Group, kind: str, consumer: str, said_by: str) -> Said | Refusal:
    """The scheme that consumers take for a group, in the order in which they ask; or why none does."""
    weights, inputs = group.weights, group.inputs if group.format in ACTIVATION_FORMATS else None
    method: dict[str, str | int] = {"quant_method": "compressed-tensors"}
    if weights.order not in ("", "static", "weight"):
        notes = (f"said by {said_by}", "consumers do not read weight_g_idx, and take the columns in their stored order")
        return Refusal(
            "format-unsupported", f"`actorder: {shown(weights.order)}` reorders the inputs, and {consumer} does not", notes, ("quantize without it",)
        )
    scheme = _scheme(weights, inputs, kind)
    refused = _mistaken(scheme, weights, inputs, kind, consumer)
    if refused or not scheme:
        message = refused or f"{consumer} has no scheme for {weights.bits}-bit {weights.type} weights per {weights.strategy} of `{group.format}`"
        return Refusal("format-unsupported", message, (f"said by {said_by}", str(group)), (_CAN,))
    if kind == "linear" and scheme not in LINEAR:
        message = f"{consumer} has no `{scheme}` for linear layers of compressed-tensors"
        why = "its class reads ModelSlim's layout of W4A8_DYNAMIC"
        return Refusal("scheme-unsupported", message, (f"said by {said_by}", why, str(group)), ("quantize linear layers to W8A8_DYNAMIC: channels, tokens",))
    if weights.bits == 4:
        method |= {"group_size": max(0, weights.group_size), "version": "0", "weight_strategy": weights.strategy, "symmetric": weights.symmetric}
    return Said(scheme, said_by, method)


_CAN = "what is read: W8A8 and W8A8_DYNAMIC (8 bit per channel, symmetric), W4A16 (4 bit; experts in symmetric groups), W4A8_DYNAMIC of experts (4 bit)"


def _scheme(weights: Numbers, inputs: Numbers | None, kind: str) -> str:
    channel = weights.strategy == "channel"
    if weights.dynamic:
        return ""
    if inputs is None:
        strategies = ("group", "channel") if kind == "linear" else ("group",)
        return "W4A16" if (weights.type, weights.bits) == ("int", 4) and weights.strategy in strategies else ""
    if inputs.bits != 8 or not (weights.symmetric and inputs.symmetric):
        return ""
    per_token = inputs.strategy == "token" and inputs.dynamic
    if weights.bits == 8 and channel and inputs.strategy == "tensor" and not inputs.dynamic:
        return "W8A8"
    if weights.bits == 8 and channel and per_token:
        return "W8A8FP8_DYNAMIC" if (weights.type, inputs.type) == ("float", "float") else "W8A8_DYNAMIC"
    return "W4A8_DYNAMIC" if weights.bits == 4 and per_token and weights.strategy in ("channel", "group") else ""


def _mistaken(scheme: str, weights: Numbers, inputs: Numbers | None, kind: str, consumer: str) -> str:
    """What the consumer accepts and then reads as something else; "" for nothing."""
    floats = [what for what, numbers in (("weights", weights), ("inputs", inputs)) if numbers is not None and numbers.type == "float"]
    if floats and (scheme in ("W8A8", "W8A8_DYNAMIC", "W4A8_DYNAMIC") or (scheme and consumer == "vllm-ascend-0.16")):
        return f"{consumer} would take {' and '.join(floats)} of floats for integers"
    if scheme == "W4A16" and kind == "moe" and not weights.symmetric:
        return f"{consumer} ignores zero points of weights, and these have some"
    return ""


# ---- the config -------------------------------------------------------------------------------------------------------------------------------------


def _targets(config: Mapping[str, Any], by: str) -> Names:
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise _bad(by, "`config_groups` must be a mapping with at least one group", groups)
    found = Names()
    for name, group in groups.items():
        where = f"{by}.config_groups.{shown(name)}"
        if not isinstance(group, Mapping):
            raise _bad(where, "a group must be a mapping", group)
        parsed = _group(name, group, config.get("format"), where)
        if parsed is not None:
            _add(found, group.get("targets"), parsed, f"{where}.targets")
    return found


def _ignored(config: Mapping[str, Any], by: str) -> Names:
    found = Names()
    _add(found, config.get("ignore") or [], None, f"{by}.ignore")
    return found


def _group(name: str, group: Mapping[str, Any], overall: Any, where: str) -> Group | None:
    layout = group.get("format") or overall or ""
    if not isinstance(layout, str):
        raise _bad(where, "`format` must be a text", layout)
    if layout and layout not in FORMATS:
        message = f"tensors of the format `{shown(layout)}` are not described by any spec"
        raise DiagnosticError(Diagnostic(code="format-unsupported", message=message, where=where, notes=(f"known: {', '.join(FORMATS)}",), helps=(_CAN,)))
    weights = _numbers(group.get("weights"), f"{where}.weights")
    return None if weights is None else Group(name, weights, _numbers(group.get("input_activations"), f"{where}.input_activations"), layout)


def _numbers(value: Any, where: str) -> Numbers | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise _bad(where, "this must be a mapping", value)
    bits, size, kind = value.get("num_bits", 8), value.get("group_size"), value.get("type", "int")
    order, strategy = value.get("actorder"), value.get("strategy")
    if not isinstance(bits, int) or not isinstance(size, (int, type(None))) or isinstance(bits, bool) or isinstance(size, bool):
        raise _bad(where, "`num_bits` and `group_size` must be integers", {"num_bits": bits, "group_size": size})
    words = {"type": kind, "strategy": strategy or "tensor", "actorder": order if isinstance(order, str) else ""}
    if wrong := next((word for word, text in words.items() if not isinstance(text, str)), ""):
        raise _bad(where, f"`{wrong}` must be a text", words[wrong])
    if order is True:
        words["actorder"] = "group"
    if strategy is None and size is not None:
        words["strategy"] = "group" if size > 0 else "channel"
    dynamic = value.get("dynamic", False)
    return Numbers(bits, kind, words["strategy"].lower(), value.get("symmetric", True) is not False, dynamic not in (False, None), size or 0, words["actorder"])


def _add(found: Names, targets: Any, group: Group | None, where: str) -> None:
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets) or len(targets) > _MAX_TARGETS:
        raise _bad(where, "this must be a list of names", targets)
    for target in targets:
        if target.startswith("re:"):
            found.patterns.append((_pattern(target[3:], where), group))
        else:
            found.exact.setdefault(target, group)


def _pattern(text: str, where: str) -> re.Pattern[str]:
    """The pattern, if it can be tried on a name in bounded time."""
    if len(text) > _MAX_PATTERN or not _is_bounded(text):
        message, notes = "a pattern is too long, or repeats what it repeats: to try it could take for ever", (f"it is {shown(text)}",)
        raise DiagnosticError(Diagnostic(code="config-pattern", message=message, where=where, notes=notes, helps=("write the names, or a simpler pattern",)))
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        message, notes = f"a pattern is not right: {error}", (f"it is {shown(text)}",)
        raise DiagnosticError(Diagnostic(code="config-pattern", message=message, where=where, notes=notes)) from None


def _is_bounded(text: str) -> bool:
    """Has the pattern few repetitions, and none of a group that holds a choice? Else a name can take time exponential in its length."""
    repeats, wide, choices, held, last = 0, 0, [0], 0, ""
    for token in _TOKEN.findall(text):
        if token in ("*", "+") or (token.startswith("{") and len(token) > 2):
            if last == ")" and held:
                return False
            repeats, wide = repeats + 1, wide + (last == "." or last.startswith("["))
            choices[-1] += 1
        elif token == "|" or (token == "?" and last != "("):
            choices[-1] += 1
        elif token == "(":
            choices.append(0)
        elif token == ")" and len(choices) > 1:
            held = choices.pop()
            choices[-1] += held
        last = token
    return repeats <= _MAX_REPEATS and wide <= _MAX_WIDE


def _bad(where: str, message: str, value: Any) -> DiagnosticError:
    return DiagnosticError(Diagnostic(code="description-value", message=message, where=where, notes=(f"it is {shown(value)}",)))


def _unsupported_parts(config: Mapping[str, Any], registry: Registry, by: str) -> list[Diagnostic]:
    """Sections that the consumers pass over, though tensors were stored for them."""
    found = []
    sparsity = config.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") != "dense":
        message = f"tensors of the sparse format `{shown(sparsity.get('format'))}` are not described by any spec"
        found.append(Diagnostic(code="format-unsupported", message=message, where=f"{by}.sparsity_config", helps=("store the weights without compression",)))
    if config.get("transform_config"):
        message = f"{registry.consumer} does not apply the rotations of `transform_config`"
        found.append(Diagnostic(code="format-unsupported", message=message, where=f"{by}.transform_config", helps=("quantize without rotations",)))
    if config.get("kv_cache_scheme"):
        message = f"{registry.consumer} passes over `kv_cache_scheme` of compressed-tensors: the cache stays in 16 bits"
        found.append(Diagnostic(code="format-unsupported", message=message, where=f"{by}.kv_cache_scheme", severity="warning"))
    return found
