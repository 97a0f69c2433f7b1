"""What a ModelSlim description says: one type per tensor name, of which those of weights choose the scheme of a module.

One of the readers that ``layers`` asks; the rules are those of vllm-ascend 0.23.0 and 182b75ea84 (quantization/modelslim_config.py).
Invariants: the description is read once; a finding names no layer in its text, so that equal ones can be folded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from layoutdsl.checkpoint import grouping
from layoutdsl.checkpoint import modules as names
from layoutdsl.checkpoint.grouping import WHOLE, Maker, Modules, Said, looks_quantized
from layoutdsl.checkpoint.model import Folder, Layer
from layoutdsl.checkpoint.modules import FLOAT
from layoutdsl.checkpoint.registry import Known, Refusal, Registry, shown
from layoutdsl.diagnostics import Diagnostic
from layoutdsl.diagnostics.model import Severity

FILE = "quant_model_description.json"
_KEYS = {"group_size": int, "version": str}
_WEIGHTS = (".weight", ".weight_packed")
_ATTENTION = (".fa_k.scale", ".indexer.quant_type", ".k_proj.kv_cache_scale")
_STEERING = (*_WEIGHTS, *_ATTENTION)


@dataclass(slots=True)
class _Described:
    """The description, sorted out. types: of the modules with a weight. attention: the attention modules behind each mark of a quantized cache.
    config: the keys that are for the whole folder and that specs read. unreadable: the modules whose type is no word."""

    by: str
    types: dict[str, str]
    attention: dict[str, list[str]]
    config: dict[str, Any]
    unreadable: set[str] = field(default_factory=set)
    findings: list[Diagnostic] = field(default_factory=list)


def layers(folder: Folder, description: Mapping[str, Any], modules: Modules, registry: Registry, said_by: str = FILE) -> tuple[list[Layer], list[Diagnostic]]:
    """The layers that the description names, in its order, and what is wrong between it and the files."""
    described = _sorted_out(description, said_by)
    findings = described.findings
    _rename(described, modules)
    maker = Maker(folder, modules)
    made = _linear_layers(described, maker, registry) + _moe_layers(described, maker, registry)
    mixed = _check_fused(described, modules)
    made = [layer for layer in made if layer.fused not in mixed]
    findings += _without_key(described, modules)
    findings += _without_tensor(described, folder, modules)
    made += _attention_layers(folder, description, described, registry)
    findings += _caches_without_key(described, modules)
    return made, findings


def _sorted_out(description: Mapping[str, Any], said_by: str) -> _Described:
    found = _Described(said_by, {}, {mark: [] for mark in _ATTENTION}, {})
    types, wrong = found.types, found.findings
    for key in [key for key in description if key.endswith(_STEERING)]:
        value = description[key]
        if not key.endswith(_WEIGHTS):
            mark = next(mark for mark in _ATTENTION if key.endswith(mark))
            found.attention[mark].append(key.removesuffix(mark))
        elif isinstance(value, str):
            types[key.rpartition(".")[0]] = value
        else:
            found.unreadable.add(key.rpartition(".")[0])
            message = f"the type of a weight is a word, not {type(value).__name__}"
            wrong.append(_bad_value(key, message, value, said_by, 'write the scheme, such as "W8A8_DYNAMIC", or "FLOAT"'))
    for name, kind in _KEYS.items():
        value = description.get(name)
        if value is None:
            continue
        if isinstance(value, kind) and not isinstance(value, bool):
            found.config[name] = value
        else:
            word, right = ("an integer", "256, or 0 for none") if kind is int else ("a text", '"1.0.0"')
            wrong.append(_bad_value(name, f"`{name}` is {word}, not {type(value).__name__}", value, said_by, f"write {right}"))
    return found


def _bad_value(where: str, message: str, value: Any, said_by: str, write: str) -> Diagnostic:
    return Diagnostic(code="description-value", message=message, where=where, notes=(f"{said_by} has {shown(value)}",), helps=(write,))


def _rename(described: _Described, modules: Modules) -> None:
    """Types under other spellings of a module's name that consumers accept go to the name in the files."""
    types = described.types
    untyped, missing = modules.names - types.keys(), types.keys() - modules.names
    if not untyped or not missing:
        return
    known = {names.canonical(module, modules.model_type): module for module in sorted(missing, reverse=True)}
    for module in sorted(untyped):
        described_as = known.get(names.canonical(module, modules.model_type))
        if described_as is not None and described_as in types:
            types[module] = types.pop(described_as)


# ---- linear layers ----------------------------------------------------------------------------------------------------------------------------------


def _linear_layers(described: _Described, maker: Maker, registry: Registry) -> list[Layer]:
    made, modules, by = [], maker.modules, described.by
    prefixes = _FloatPrefixes(described.types)
    for name, scheme in described.types.items():
        tensors = modules.plain.get(name)
        if tensors is None:
            continue
        if scheme == FLOAT:
            if looks_quantized(tensors):
                described.findings.append(_float_but_quantized(name, tensors, by))
            continue
        if grouping.is_plain_vector(tensors):
            continue
        found = _refuse_by_place(name, registry) or registry.find(scheme, "linear", by)
        if isinstance(found, Refusal):
            described.findings.append(found.at(name))
            continue
        layer = maker.linear(name, Said(scheme, by, described.config), found)
        if layer.fused == name and (other := prefixes.of(name)):
            described.findings.append(_float_by_prefix(name, other, registry.consumer, by))
        else:
            made.append(layer)
    return made


def _refuse_by_place(module: str, registry: Registry) -> Refusal | None:
    last = module.rpartition(".")[2]
    if last in names.EMBEDDINGS:
        notes = ("its quantized methods multiply; none looks up rows",)
        return Refusal("module-unsupported", f"{registry.consumer} has no quantized embedding", notes, ("keep the embedding float",))
    if last in names.HEADS and registry.device == "310p":
        return Refusal("module-unsupported", f"{registry.consumer} keeps the head float on 310p", (), ("keep the head float",))
    return None


def _float_but_quantized(module: str, tensors: grouping.Module, by: str) -> Diagnostic:
    message = "the description says `FLOAT`, and the tensors are quantized"
    weight = tensors.get("weight")
    shows = weight.dtype if weight is not None and weight.dtype in names.QUANTIZED_DTYPES else ", ".join(sorted(names.QUANTIZED_SUFFIXES & tensors.keys()))
    helps = ("write the scheme of the module into the description, or store the float weight",)
    return Diagnostic(code="float-but-quantized", message=message, where=module, notes=(f"the files hold {shows}", f"said by {by}"), helps=helps)


class _FloatPrefixes:
    """Float modules by the beginning of their names."""

    def __init__(self, types: Mapping[str, str]) -> None:
        self._names = sorted(module for module, scheme in types.items() if scheme == FLOAT)

    def of(self, module: str) -> str:
        """A float module whose name begins with this one's; "" for none."""
        at = bisect_left(self._names, module)
        return self._names[at] if at < len(self._names) and self._names[at].startswith(module) else ""


def _float_by_prefix(module: str, other: str, consumer: str, by: str) -> Diagnostic:
    message = f"{consumer} takes this layer for float, since the name of a float module begins with its name"
    rest = other.removeprefix(module)
    notes = (f"`{other.rpartition('.')[2]}` is FLOAT" if "." not in rest else f"`{rest.lstrip('.')}` below it is FLOAT", f"said by {by}")
    return Diagnostic(code="float-by-prefix", message=message, where=module, notes=notes, helps=("keep both float, or quantize both",))


# ---- experts ----------------------------------------------------------------------------------------------------------------------------------------


def _moe_layers(described: _Described, maker: Maker, registry: Registry) -> list[Layer]:
    made = []
    for prefix, experts in maker.modules.experts.items():
        types = {at: described.types[name] for at, name in experts.names.items() if name in described.types}
        first = {projection: scheme for (expert, projection), scheme in types.items() if expert == 0}
        quantized = [module for at, module in experts.modules.items() if types.get(at, FLOAT) == FLOAT and looks_quantized(module)]
        if not first:
            if quantized or any(scheme != FLOAT for scheme in types.values()):
                described.findings.append(_expert_0_missing(prefix, bool(types), described.by))
            continue
        if mixed := _mixed_experts(prefix, types, described.by):
            described.findings.append(mixed)
            continue
        scheme = next(iter(first.values()))
        if scheme == FLOAT:
            if quantized:
                described.findings.append(_float_but_quantized(prefix, quantized[0], described.by))
            continue
        found = registry.find(scheme, "moe", described.by)
        if isinstance(found, Refusal):
            described.findings.append(found.at(prefix))
        else:
            made.append(maker.experts(prefix, Said(scheme, described.by, described.config), found))
    return made


def _expert_0_missing(prefix: str, others: bool, by: str) -> Diagnostic:
    message = "the description does not say which scheme the experts have"
    notes = ("only expert 0 is asked, and it has no key; others have one" if others else "no expert's weight has a key", f"said by {by}")
    helps = ("add `experts.0.gate_proj.weight`, `experts.0.up_proj.weight` and `experts.0.down_proj.weight` to the description",)
    return Diagnostic(code="description-key-missing", message=message, where=prefix, notes=notes, helps=helps)


def _mixed_experts(prefix: str, types: Mapping[tuple[int, str], str], by: str) -> Diagnostic | None:
    kinds = list(dict.fromkeys(types.values()))
    if len(kinds) <= 1:
        return None
    shown_types = {f"{expert}.{projection}": scheme for scheme in kinds for expert, projection in [next(at for at in types if types[at] == scheme)]}
    return grouping.disagreement(prefix, shown_types, by)


# ---- between the description and the files ----------------------------------------------------------------------------------------------------------


def _check_fused(described: _Described, modules: Modules) -> set[str]:
    """Members of a module must have one scheme, all of them a key, and all must be there. Gives those that have several: nobody can load them."""
    several = set()
    types, unknown = described.types, {finding.where for finding in described.findings if finding.code == "scheme-unknown"}
    present = [name for name, tensors in modules.plain.items() if name in types or "weight" in tensors or "weight_packed" in tensors]
    for fused, members, absent in grouping.fused_modules(modules, present):
        said = {member: types[module] for member, module in members.items() if module in types}
        if not said:
            continue
        known = {member: scheme for member, scheme in said.items() if members[member] not in unknown}
        if mixed := grouping.disagreement(fused, known, described.by):
            described.findings.append(mixed)
            several.add(fused)
        parent = fused.rpartition(".")[0]
        if lacking := tuple(member for member in absent if f"{parent}.{member}" not in types):
            described.findings.append(grouping.lack(fused, members, lacking))
        without = [module for member, module in members.items() if member not in said and module not in described.unreadable]
        described.findings += [_key_missing(module, described.by) for module in without]
    return several


def _key_missing(module: str, by: str) -> Diagnostic:
    helps = ('add the name of its weight, with the scheme, or with "FLOAT"',)
    message = "the description has no key for the weight of this module"
    return Diagnostic(code="description-key-missing", message=message, where=module, notes=(f"said by {by}",), helps=helps)


def _without_key(described: _Described, modules: Modules) -> list[Diagnostic]:
    """Quantized modules that the description does not name. Those of fused modules are found there, experts by their expert 0."""
    table, types = names.fused_of(modules.model_type), described.types
    typed = {f"{name.rpartition('.')[0]}.{table[last][0]}" for name in types if (last := name.rpartition(".")[2]) in table}
    found = []
    for name, tensors in modules.plain.items():
        if name in types or name in described.unreadable or not looks_quantized(tensors):
            continue
        parent, _, last = name.rpartition(".")
        if last not in table or f"{parent}.{table[last][0]}" not in typed:
            found.append(_key_missing(name, described.by))
    return found


def _without_tensor(described: _Described, folder: Folder, modules: Modules) -> list[Diagnostic]:
    """Keys of weights for modules of which no file holds anything."""
    found: dict[str, Diagnostic] = {}
    for name in described.types.keys() - modules.names:
        scheme, (head, mark, _) = described.types[name], name.rpartition(names.EXPERTS)
        where = head + mark[:-1] if mark else name
        # Which experts a layer lacks is for the check of its parameters, and what an index promised was said when it was read.
        if where in found or where in modules.experts or name in modules.lost or (scheme == FLOAT and may_be_absent(name, folder.config)):
            continue
        found[where] = _tensor_missing(where, scheme, described.by)
    return [found[where] for where in sorted(found)]


def _tensor_missing(where: str, scheme: str, by: str) -> Diagnostic:
    message = f"the description says `{shown(scheme)}`, and no file holds a tensor of it"
    helps = ("look for a file that was not copied, or take the key out of the description",)
    severity: Severity = "warning" if scheme == FLOAT else "error"
    return Diagnostic(code="description-tensor-missing", message=message, where=where, notes=(f"said by {by}",), helps=helps, severity=severity)


def may_be_absent(module: str, config: Mapping[str, Any]) -> bool:
    """May a right folder leave out this float module: a tied head, a part for drafts, a vision tower?"""
    if module.rpartition(".")[2] in names.HEADS or module.startswith((*names.VISION, *names.MTP)):
        return True
    layers, (_, mark, rest) = config.get("num_hidden_layers"), module.partition("layers.")
    number = rest.partition(".")[0]
    return bool(mark) and isinstance(layers, int) and number.isdecimal() and len(number) < 7 and int(number) >= layers


# ---- attention --------------------------------------------------------------------------------------------------------------------------------------


def _attention_layers(folder: Folder, description: Mapping[str, Any], described: _Described, registry: Registry) -> list[Layer]:
    """Layers of quantized caches. A mark counts only together with the key that names the scheme for the whole folder."""
    made = []
    for mark, key, only, stored_as in (
        (".fa_k.scale", "fa_quant_type", None, {}),
        (".indexer.quant_type", "indexer_quant_type", None, {}),
        (".k_proj.kv_cache_scale", "kv_cache_type", "C8", names.C8_NAMES),
    ):
        marked, scheme = described.attention[mark], description.get(key, "")
        if not marked:
            continue
        if not isinstance(scheme, str):
            described.findings.append(_bad_value(key, f"`{key}` is a word, not {type(scheme).__name__}", scheme, described.by, "write the scheme"))
            continue
        if not scheme or (only is not None and scheme != only):
            described.findings += [_ignored_cache(prefix, mark, key, scheme, only, described.by) for prefix in marked]
            continue
        found = registry.find(scheme, "attention", described.by)
        if isinstance(found, Refusal):
            described.findings += [found.at(prefix) for prefix in marked]
        else:
            made += [_attention_layer(folder, prefix, scheme, found, stored_as, described) for prefix in marked]
    return made


def _ignored_cache(prefix: str, mark: str, key: str, scheme: str, only: str | None, by: str) -> Diagnostic:
    message = f"`{mark[1:]}` is described, and `{key}` is {f'`{shown(scheme)}`' if scheme else 'absent'}: nobody reads it"
    helps = (f'write `"{key}": "{only or ("FAKQuant" if key == "fa_quant_type" else "INT8_DYNAMIC")}"` into the description',)
    return Diagnostic(code="cache-type-missing", message=message, where=prefix, notes=(f"said by {by}",), helps=helps)


def _caches_without_key(described: _Described, modules: Modules) -> list[Diagnostic]:
    """Scales of a cache in the files, of layers that the description does not mark: nobody reads them."""
    found = []
    for name, tensors in modules.plain.items():
        for mark in (".fa_k.scale", ".k_proj.kv_cache_scale"):
            module, _, suffix = mark.rpartition(".")
            prefix = name.removesuffix(module)
            if suffix in tensors and name.endswith(module) and prefix not in described.attention[mark]:
                message = f"the files hold `{mark[1:]}`, and the description has no key for it"
                helps = (f"add the key of `{mark[1:]}`, or take the tensors of this cache out",)
                found.append(Diagnostic(code="description-key-missing", message=message, where=prefix, notes=(f"said by {described.by}",), helps=helps))
    return found


def _attention_layer(folder: Folder, prefix: str, scheme: str, spec: Known, stored_as: Mapping[str, str], described: _Described) -> Layer:
    tensors = ((name, folder.tensors.get(f"{prefix}.{stored_as.get(name, name)}")) for name in sorted(spec.parameters))
    stored = {name: {WHOLE: tensor} for name, tensor in tensors if tensor is not None}
    config = {name: value for name, value in (described.config | {"prefix": prefix}).items() if name in spec.config}
    return Layer(prefix, scheme, "attention", config, stored, prefix, described.by)
