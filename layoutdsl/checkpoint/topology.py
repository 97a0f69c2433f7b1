"""Can every layer be split over these ranks: shard boundaries against packed words, groups and tiles, loaders against the parameters of a rank, kernels.

After ``fit``, whose sizes are those of the whole layer. A rank's plan says what the rank needs; what a loader gives it follows from the loader attributes.

Sources: vLLM 0.23.0, linear.py and fused_moe/layer.py: without expert parallelism the experts' inner size is split over data x tensor parallel ranks, with it
the experts are dealt out over them; k and v heads are repeated where there are fewer than ranks. vllm-ascend c980e68d40 and 0.23.0.post1: which scales of
experts the loader takes for group scales, and that ``w2_scale_bias`` of 0.23 is declared for the tensor parallel size alone.
Invariants: one rank stands for all; layers of one plan and equal sizes are looked at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from layoutdsl.checkpoint.contents import Shape, declared
from layoutdsl.checkpoint.faults import Fault, placed
from layoutdsl.checkpoint.fit import Fit
from layoutdsl.checkpoint.model import Layer
from layoutdsl.checkpoint.modules import is_replicated, layer_type
from layoutdsl.checkpoint.plans import LayerPlan, Plans
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.plan.bind import broken_limits
from layoutdsl.plan.sizes import layer_kind

SIZES = range(1, 33)
"""Tensor parallel sizes that are tried where none is given."""
EXPERTS = "num_experts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """How a model is spread. heads, kv_heads: of ``config.json``, 0 where it does not say; then q, k and v are judged by their rows."""

    tp: int = 1
    dp: int = 1
    expert_parallel: bool = False
    redundant: int = 0
    heads: int = 0
    kv_heads: int = 0

    @property
    def ranks(self) -> int:
        return self.tp * self.dp

    def text(self) -> str:
        words = [f"tp {self.tp}", *([f"dp {self.dp}"] if self.dp > 1 else []), *(["expert parallel"] if self.expert_parallel else [])]
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Whole:
    """A layer that fits: its plan and sizes for one rank. layer_type: whether ranks split its inputs (``row``) or outputs. most: the most ranks that split it,
    0 for as many as there are."""

    scheme: str
    kind: str
    config: Mapping[str, Any]
    plan: LayerPlan
    sizes: Mapping[str, int]
    layer_type: str
    most: int

    @property
    def experts(self) -> bool:
        return layer_kind(self.kind).experts

    @property
    def split(self) -> str:
        """The size that is split."""
        return layer_kind(self.kind).split[self.layer_type]


# ---- all layers -------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Splits:
    """Judges layers under topologies, each kind of layer once per topology."""

    fit: Fit
    _known: dict[Any, tuple[Fault, ...]] = field(default_factory=dict)
    _wholes: dict[Any, Whole] = field(default_factory=dict)
    _limits: dict[Any, tuple[Diagnostic, ...]] = field(default_factory=dict)

    def findings(self, layers: list[Layer], topology: Topology) -> Iterator[Diagnostic]:
        yield from _heads(topology)
        modules: dict[str, list[Whole]] = {}
        for layer in layers:
            one = self.whole(layer, topology)
            if one is None:
                continue
            modules.setdefault(layer.fused, []).append(one)
            for fault in self.faults(one, topology, exact=True):
                yield from placed(replace(fault, helps=(*fault.helps, *self._others(one, topology))), layer)
        for fused, members in modules.items():
            for warning in self._broken_limits(members, topology):
                yield replace(warning, where=fused)

    def legal(self, layers: list[Layer], topology: Topology) -> tuple[tuple[list[int], list[int] | None] | None, int]:
        """The tensor parallel sizes for which nothing is wrong, without and with expert parallelism (None where there are no experts); None where there is no
        layer to split. And how many layers are left out, since their shapes are wrong."""
        splittable = [self.whole(layer, topology) for layer in layers if layer_kind(layer.kind).split]
        wholes = {id(one): one for one in splittable if one is not None}.values()
        if not wholes:
            return None, len(splittable)
        plain = self._fitting(wholes, replace(topology, expert_parallel=False))
        dealt = self._fitting(wholes, replace(topology, expert_parallel=True)) if any(one.experts for one in wholes) else None
        return (plain, dealt), sum(one is None for one in splittable)

    def _fitting(self, wholes: Collection[Whole], topology: Topology) -> list[int]:
        """The sizes with which nothing is wrong; what a division shows is looked at first."""
        tried = [replace(topology, tp=size) for size in SIZES]
        even = [other for other in tried if not any(_heads(other)) and not any(_uneven(one, other) for one in wholes)]
        return [other.tp for other in even if not any(self.faults(one, other) for one in wholes)]

    def whole(self, layer: Layer, topology: Topology) -> Whole | None:
        """None for what is not split by loaders, or does not fit."""
        verdict = self.fit.verdict(layer)
        if verdict.plan is None or verdict.sizes is None or not layer_kind(layer.kind).split:
            return None
        most = 1 if is_replicated(layer.prefix) else topology.kv_heads if layer.prefix.endswith((".k_proj", ".v_proj")) else 0
        split = str(layer.config.get("layer_type") or layer_type(layer.prefix))
        key = (id(verdict.plan), tuple(verdict.sizes.items()), split, most)
        if key not in self._wholes:
            self._wholes[key] = Whole(layer.scheme, layer.kind, layer.config, verdict.plan, verdict.sizes, split, most)
        return self._wholes[key]

    def faults(self, one: Whole, topology: Topology, *, exact: bool = False) -> tuple[Fault, ...]:
        """exact: with the right number of ranks in texts of the plan, too."""
        key = (id(one), topology, exact)
        if key not in self._known:
            self._known[key] = tuple(_faults(one, topology, self.fit.plans, exact=exact))
        return self._known[key]

    def _others(self, one: Whole, topology: Topology) -> Iterator[str]:
        """Topologies under which nothing is wrong with this layer."""
        for expert_parallel in (False, True) if one.experts else (False,):
            tried = [replace(topology, tp=size, expert_parallel=expert_parallel) for size in SIZES]
            sizes = [other.tp for other in tried if not self.faults(one, other)]
            if sizes:
                with_flag = " with `--enable-expert-parallel`" if expert_parallel else ""
                yield f"this layer can be split{with_flag} with `-tp` {', '.join(map(str, sizes))}"

    def _broken_limits(self, members: list[Whole], topology: Topology) -> tuple[Diagnostic, ...]:
        """Conditions of use of the kernels, for the module that loaders make of these members."""
        key = (*map(id, members), topology)
        if key not in self._limits:
            split = not any(self.faults(member, topology) for member in members)
            self._limits[key] = tuple(_broken_limits(members, topology, self.fit.plans)) if split else ()
        return self._limits[key]


def _heads(topology: Topology) -> Iterator[Diagnostic]:
    """The consumers refuse to cut a head."""
    heads, kv_heads, tp = topology.heads, topology.kv_heads, topology.tp
    if heads and heads % tp:
        yield Diagnostic(code="split-uneven", message=f"{heads} attention heads cannot be dealt out to {tp} ranks", where="config.json")
    if kv_heads and kv_heads % tp and tp % kv_heads:
        yield Diagnostic(
            code="split-uneven", message=f"{kv_heads} key and value heads can neither be dealt out to {tp} ranks nor repeated", where="config.json"
        )


# ---- one layer --------------------------------------------------------------------------------------------------------------------------------------------


def _ways(one: Whole, topology: Topology) -> int:
    """Over how many ranks a layer's split size goes."""
    if one.experts:
        return 1 if topology.expert_parallel else topology.ranks
    return min(topology.tp, one.most) if one.most else topology.tp


def _own_sizes(one: Whole, topology: Topology) -> dict[str, int]:
    own = {**one.sizes, one.split: one.sizes[one.split] // _ways(one, topology)}
    if one.experts and topology.expert_parallel:
        own[EXPERTS] = (one.sizes[EXPERTS] + topology.redundant) // topology.ranks
    return own


def _rank_plan(one: Whole, topology: Topology, plans: Plans, *, exact: bool = False) -> LayerPlan:
    """The plan of a rank. Raises: DiagnosticError. One that does not read how many ranks there are is the same from two on, but for the texts of conditions."""
    ways = _ways(one, topology)
    declared_for = topology.tp if one.experts and ways > 1 and plans.consumer != "vllm-ascend-0.16" else ways
    read = "tp_size" in plans.spec(one.scheme, one.kind).config_names
    return plans.of(one.scheme, one.kind, one.config, tp_size=declared_for if read or exact else min(ways, 2), tp_rank=0, layer_type=one.layer_type)


def _faults(one: Whole, topology: Topology, plans: Plans, *, exact: bool) -> Iterator[Fault]:
    uneven = _uneven(one, topology)
    if uneven is not None:
        yield uneven
        return
    if topology.ranks == 1:
        return
    try:
        plan = _rank_plan(one, topology, plans, exact=exact)
        plan.plan.bind(_own_sizes(one, topology))
    except DiagnosticError as error:
        notes = (f"at {topology.text()}", f"the whole layer has {_text(one.sizes)}")
        yield from (Fault(finding.code, finding.message, notes=(*finding.notes, *notes), helps=finding.helps) for finding in error.diagnostics)
        return
    yield from _unloaded(one, plan, topology)


def _uneven(one: Whole, topology: Topology) -> Fault | None:
    ways, size = _ways(one, topology), one.sizes[one.split]
    if size % ways:
        message = f"`{one.split}` {size} cannot be split over {ways} ranks"
        return Fault("split-uneven", message, notes=(f"at {topology.text()}, a {_what(one)}",))
    if one.experts and topology.expert_parallel and (one.sizes[EXPERTS] + topology.redundant) % topology.ranks:
        redundant = f" and {topology.redundant} redundant ones" if topology.redundant else ""
        return Fault(
            "split-uneven", f"{one.sizes[EXPERTS]} experts{redundant} cannot be dealt out evenly to {topology.ranks} ranks", notes=(f"at {topology.text()}",)
        )
    return None


def _what(one: Whole) -> str:
    return "layer of experts" if one.experts else f"{one.layer_type}-parallel layer"


def _text(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in sizes.items())


def _broken_limits(members: list[Whole], topology: Topology, plans: Plans) -> Iterator[Diagnostic]:
    one = members[0]
    own = _own_sizes(one, topology)
    if not one.experts:
        own["output_size"] = sum(_own_sizes(member, topology)["output_size"] for member in members)
    unformatted = None
    if one.plan.plan.config.get("weight_nz_mode"):
        plan = _rank_plan(replace(one, config={**one.config, "weight_nz_mode": 0}), topology, plans)
        unformatted = {warning.message for warning in broken_limits(plan.plan.data, own)}
    for warning in broken_limits(_rank_plan(one, topology, plans).plan.data, own):
        helps = () if unformatted is None or warning.message in unformatted else ("without FRACTAL_NZ it holds: `--set weight_nz_mode=0`",)
        yield replace(warning, notes=(*warning.notes, f"at {topology.text()}"), helps=(*warning.helps, *helps))


# ---- loaders ----------------------------------------------------------------------------------------------------------------------------------------------


def _unloaded(one: Whole, plan: LayerPlan, topology: Topology) -> Iterator[Fault]:
    """Parameters of which the loaders do not fill what a rank has: they narrow some dims to the rank's share and take the others whole."""
    ways, own_sizes = _ways(one, topology), _own_sizes(one, topology)
    for name, node in plan.inputs.items():
        if name not in one.plan.inputs:
            continue
        full, own = declared(one.plan.inputs[name], one.sizes), declared(node, own_sizes)
        if full is None or own is None:
            continue
        dim = _narrowed(one, name)
        if one.experts:
            full = (own[0], *full[1:])
        given = tuple(_given(extent, kept, ways) if place == dim else extent for place, (extent, kept) in enumerate(zip(full, own)))
        if given == own:
            continue
        yield _unfilled(name, full, own, given, f"at {topology.text()}, each of {ways} ranks")


def _narrowed(one: Whole, name: str) -> int | None:
    """The dim of a parameter that loaders narrow to a rank's share."""
    loader = dict(one.plan.inputs[name].loader)
    if not one.experts:
        return _place(loader.get("input_dim" if one.layer_type == "row" else "output_dim"))
    if not name.startswith("w2_"):
        segmented = one.plan.segmented(name)
        return None if segmented is None else segmented[0]
    if "shape" in name or (any(word in name for word in ("scale", "zero", "offset")) and not _per_group(one, name)):
        return None
    return 2


def _place(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _per_group(one: Whole, name: str) -> bool:
    """Does the experts' loader take it for a scale per group? Of a W4A8 scheme with groups it does so of the scales per channel as well."""
    config = one.plan.plan.config
    two_levels = one.scheme.upper() == "W4A8_DYNAMIC" and one.plan.config.get("consumer") != "vllm-ascend-main" and bool(config.get("group_size"))
    return dict(one.plan.inputs[name].loader).get("quant_method") == "group" or (two_levels and ("weight_scale" in name or "weight_offset" in name))


def _given(extent: int, kept: int, ways: int) -> int:
    """What the last rank gets of a dim: loaders start at the rank times what it keeps."""
    return kept if kept * ways == extent else max(0, min(kept, extent - (ways - 1) * kept))


def _unfilled(name: str, full: Shape, own: Shape, given: Shape, who: str) -> Fault:
    notes = (f"the whole parameter is {list(full)}; {who} has {list(own)}",)
    if len(given) == len(own) and all(ours <= theirs for ours, theirs in zip(given, own)):
        message = f"loaders fill {prod(given)} of {prod(own)} values of `{name}` on the last rank; the others would stay uninitialised"
        return Fault("partial-load", message, name, (), notes=notes)
    return Fault("tensor-shape", f"loaders hand {list(given)} to `{name}` of {list(own)}", name, (), notes=notes)
