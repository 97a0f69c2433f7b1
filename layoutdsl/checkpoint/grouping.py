"""The tensors of a folder by module, and the layers that are made of them.

Between the names in the files and the readers of the formats, which say what scheme a module has. One pass over the tensors.
Invariants: each tensor is in one module; a layer holds every tensor below its prefix but the known extras.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from layoutdsl.checkpoint.model import Folder, Layer, Part, StoredTensor
from layoutdsl.checkpoint.modules import (
    EXPERTS,
    EXTRAS,
    FUSED,
    HEADS,
    MAY_LACK,
    PROJECTIONS,
    QUANTIZED_DTYPES,
    QUANTIZED_SUFFIXES,
    expert_of,
    fused_of,
    layer_type,
    part_of,
)
from layoutdsl.checkpoint.registry import Known, shown
from layoutdsl.diagnostics import Diagnostic

Module = dict[str, StoredTensor]
"""The tensors of one module, by the last part of their names."""

WHOLE = Part()


@dataclass(slots=True)
class Experts:
    """The modules of one MoE layer, by expert and projection. names: what the files call each."""

    modules: dict[tuple[int, str], Module] = field(default_factory=dict)
    names: dict[tuple[int, str], str] = field(default_factory=dict)


@dataclass(slots=True)
class Modules:
    """Every module of a folder. names: of all. plain: those outside experts, by name. experts: by the name that holds them. lost: modules of which
    an index names a tensor that no file has, which was said when it was read. model_type: of ``config.json``, or ""."""

    model_type: str
    names: frozenset[str]
    lost: frozenset[str]
    plain: dict[str, Module]
    experts: dict[str, Experts]


@dataclass(frozen=True, slots=True)
class Said:
    """What a checkpoint says of one module. scheme: ``FLOAT`` for none. config: in the names of specs. by: where it is said, for messages."""

    scheme: str
    by: str
    config: Mapping[str, Any] = field(default_factory=dict)


def modules_of(folder: Folder) -> Modules:
    """One pass over the names."""
    plain: dict[str, Module] = {}
    for name, tensor in folder.tensors.items():
        module, _, suffix = name.rpartition(".")
        found = plain.get(module)
        if found is None:
            plain[module] = {suffix: tensor}
        else:
            found[suffix] = tensor
    names, experts = frozenset(plain), dict[str, Experts]()
    for module in [name for name in plain if EXPERTS in name]:
        expert = expert_of(module)
        if expert is None:
            continue
        prefix, at = expert[0], expert[1:]
        if prefix not in experts:
            experts[prefix] = Experts()
        # `experts.07` beside `experts.7` is no second name of it: it stays where it is, and nobody asks for it.
        if at not in experts[prefix].modules:
            experts[prefix].modules[at], experts[prefix].names[at] = plain.pop(module), module
    lost = frozenset(name.rpartition(".")[0] for name in folder.lost)
    return Modules(model_type_of(folder.config), names, lost, plain, experts)


def model_type_of(config: Mapping[str, Any]) -> str:
    """The model type that the tables are asked for: of the model, or of its text part where only that is known."""
    outer, text = config.get("model_type"), config.get("text_config")
    inner = text.get("model_type") if isinstance(text, Mapping) else None
    known = [name for name in (outer, inner) if isinstance(name, str)]
    return next((name for name in known if name in FUSED), known[0] if known else "")


def looks_quantized(module: Module) -> bool:
    """Has it a weight of integers or 8-bit floats, or a tensor that only quantized modules have?"""
    weight = module.get("weight")
    return (weight is not None and weight.dtype in QUANTIZED_DTYPES) or not QUANTIZED_SUFFIXES.isdisjoint(module)


def is_plain_vector(module: Module) -> bool:
    """A norm or the like: ModelSlim gives it the type of the layer behind it, and nobody quantizes it."""
    weight = module.get("weight")
    return weight is not None and len(weight.shape) == 1 and weight.dtype not in QUANTIZED_DTYPES and module.keys() <= {"weight", "bias"}


# ---- layers -----------------------------------------------------------------------------------------------------------------------------------------


class Maker:
    """Makes layers of one folder. names: other names of parameters in the files (``scale`` for ``weight_scale``)."""

    def __init__(self, folder: Folder, modules: Modules, names: Mapping[str, str] | None = None) -> None:
        self.modules, self._names = modules, dict(names or {})
        self._model = folder.config
        self._fused = fused_of(modules.model_type)
        self._below = _strays(modules)

    def linear(self, module: str, said: Said, spec: Known) -> Layer:
        stored = {self._names.get(suffix, suffix): {WHOLE: tensor} for suffix, tensor in self.modules.plain[module].items()}
        stored |= {name: {WHOLE: tensor} for name, tensor in self._below.get(module, ())}
        kept = {name: parts for name, parts in stored.items() if name not in EXTRAS or name in spec.parameters}
        return Layer(module, said.scheme, spec.kind, self._config(said, spec, module), kept, self.fused(module), said.by)

    def experts(self, prefix: str, said: Said, spec: Known) -> Layer:
        stored: dict[str, dict[Part, StoredTensor]] = {}
        for (expert, projection), module in self.modules.experts[prefix].modules.items():
            matrix, segment = PROJECTIONS[projection]
            part = part_of(expert, segment)
            for suffix, tensor in module.items():
                name = f"{matrix}_{self._names.get(suffix, suffix)}"
                parts = stored.setdefault(name, {})
                # Two spellings of one projection: the second has no place, and is reported under its own name.
                if part in parts:
                    stored[tensor.name.removeprefix(f"{prefix}.")] = {WHOLE: tensor}
                else:
                    parts[part] = tensor
        stored |= {name: {WHOLE: tensor} for name, tensor in (*self._below.get(prefix, ()), *self.modules.plain.get(prefix, {}).items())}
        kept = {name: parts for name, parts in stored.items() if name in spec.parameters or name.rpartition(".")[2].split("_", 1)[-1] not in EXTRAS}
        return Layer(prefix, said.scheme, spec.kind, self._config(said, spec, prefix), kept, prefix, said.by)

    def fused(self, module: str) -> str:
        """The module that loaders put it into: its own name where they do not."""
        parent, dot, last = module.rpartition(".")
        members = self._fused.get(last)
        return f"{parent}{dot}{members[0]}" if members is not None and last not in HEADS else module

    def _config(self, said: Said, spec: Known, prefix: str) -> dict[str, Any]:
        """What is said, where the spec asks for it; and always how a linear layer is split, which tells its sizes on a rank."""
        given = dict(said.config) | {"prefix": prefix}
        given |= {name: self._model[key] for name, key in spec.from_model if isinstance(self._model.get(key), int)}
        split = {"layer_type": layer_type(prefix)} if spec.kind.endswith("linear") else {}
        return {name: value for name, value in given.items() if name in spec.config} | split


def _strays(modules: Modules) -> dict[str, list[tuple[str, StoredTensor]]]:
    """Tensors deeper below another module: of ``a.q_proj.div.scale``, ``div.scale`` below ``a.q_proj``. Attention's are not meant: it has no module."""
    found: dict[str, list[tuple[str, StoredTensor]]] = {}
    plain, experts = modules.plain, modules.experts
    for module, tensors in plain.items():
        above = module.rpartition(".")[0]
        while above:
            if (above in plain and "weight" in plain[above]) or above in experts:
                below = found.setdefault(above, [])
                below += [(tensor.name.removeprefix(f"{above}."), tensor) for tensor in tensors.values()]
                break
            above = above.rpartition(".")[0]
    return found


# ---- fused modules ----------------------------------------------------------------------------------------------------------------------------------


def fused_modules(modules: Modules, names: Iterable[str]) -> Iterator[tuple[str, dict[str, str], tuple[str, ...]]]:
    """Every fused module of these modules: its name, the modules that are there by member name, and the members that are not and must be."""
    table = fused_of(modules.model_type)
    found: dict[tuple[str, tuple[str, ...]], dict[str, str]] = {}
    for module in names:
        parent, dot, last = module.rpartition(".")
        entry = table.get(last)
        if entry is not None:
            found.setdefault((f"{parent}{dot}{entry[0]}", entry[1]), {})[last] = module
    known = modules.model_type in FUSED
    for (fused, members), present in found.items():
        parent, dot, last = fused.rpartition(".")
        optional = MAY_LACK.get(last, frozenset())
        absent = (member for member in members if known and member not in present and member not in optional)
        yield fused, present, tuple(member for member in absent if f"{parent}{dot}{member}" not in modules.lost)


def disagreement(fused: str, types: Mapping[str, str], said_by: str) -> Diagnostic | None:
    """The finding if members of one module have different schemes; all must have one, since they are loaded into one set of parameters."""
    if len(set(types.values())) <= 1:
        return None
    kinds = list(dict.fromkeys(types.values()))
    message = f"`{fused.rpartition('.')[2]}` is made of modules with different schemes: {' and '.join(f'`{shown(kind)}`' for kind in kinds)}"
    notes = (*(f"`{member}`: {shown(kind)}" for member, kind in list(types.items())[:8]), f"said by {said_by}")
    helps = ("quantize all of them in one way, or keep all of them float: they are loaded into one set of parameters",)
    return Diagnostic(code="mixed-schemes", message=message, where=fused, notes=notes, helps=helps)


def lack(fused: str, present: Iterable[str], absent: tuple[str, ...]) -> Diagnostic:
    """The finding for a fused module without all its members."""
    message = f"`{fused.rpartition('.')[2]}` lacks {' and '.join(f'`{name}`' for name in absent)}"
    notes = (f"the files hold {', '.join(f'`{name}`' for name in present)}", "loaders fill one parameter with all of them; the rest stays as it lay in memory")
    return Diagnostic(code="module-incomplete", message=message, where=fused, notes=notes, helps=("look for a file that was not copied",))
