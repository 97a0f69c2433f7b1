"""Layers in memory, as the spec of each scheme declares them: right ones, which a test then changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from layoutdsl.api import load_spec
from layoutdsl.bundled import bundled
from layoutdsl.checkpoint.contents import declared
from layoutdsl.checkpoint.model import Layer, Part, StoredTensor
from layoutdsl.checkpoint.plans import LayerPlan, Plans
from layoutdsl.diagnostics import DiagnosticError

SIZES = {
    "input_size": 768,
    "output_size": 512,
    "num_experts": 4,
    "intermediate_size_per_partition": 512,
    "hidden_size": 768,
    "num_heads": 4,
    "num_kv_heads": 1,
    "kv_lora_rank": 64,
    "index_head_dim": 32,
    "H": 2,
    "D": 8,
}
MODULES = {("w13", "gate"): "gate_proj", ("w13", "up"): "up_proj", ("w2", ""): "down_proj"}
PREFIX = {"linear": "model.layers.0.self_attn.q_proj", "moe": "model.layers.0.mlp.experts"}


def tensor(name: str, dtype: str, shape: tuple[int, ...]) -> StoredTensor:
    return StoredTensor(name, dtype, shape, Path("model.safetensors"), 0, 0)


def layer(plan: LayerPlan, scheme: str, kind: str, config: Mapping[str, Any], sizes: Mapping[str, int], prefix: str = "") -> Layer:
    """A layer whose tensors are what the plan declares; of experts each has tensors of its own."""
    prefix = prefix or PREFIX["moe" if "num_experts" in plan.plan.size_names else "linear"]
    stored: dict[str, dict[Part, StoredTensor]] = {}
    for name, node in plan.inputs.items():
        shape = declared(node, sizes)
        assert shape is not None
        stored[name] = dict(_parts(plan, name, node.type.storage, shape, prefix))
    return Layer(prefix, scheme, kind, dict(config), stored, prefix, "quant_model_description.json")


def _parts(plan: LayerPlan, name: str, dtype: str, shape: tuple[int, ...], prefix: str) -> Iterator[tuple[Part, StoredTensor]]:
    if not prefix.endswith("experts"):
        yield Part(), tensor(f"{prefix}.{name}", dtype, shape)
        return
    family, _, leaf = name.partition("_")
    segmented = plan.segmented(name)
    for expert, segment in product(range(shape[0]), ("gate", "up") if family == "w13" else ("",)):
        own = list(shape[1:])
        if segmented is not None:
            own[segmented[0] - 1] //= 2
        yield Part(expert, segment), tensor(f"{prefix}.{expert}.{MODULES[family, segment]}.{leaf}", dtype, tuple(own))


@cache
def right_layers() -> tuple[tuple[Layer, Plans], ...]:
    """One layer per bundled spec, for the first consumer, device and dtype that it holds for."""
    found = []
    for name in bundled():
        spec = load_spec(name)
        held = spec.document.held
        for consumer, device, dtype in product(held["consumer"][::-1], held["device"], ("bfloat16", "float16")):
            plans = Plans(consumer, device, dtype)
            try:
                plan = plans.of(spec.scheme, spec.layer, {"tp_size": 1})
            except DiagnosticError:
                continue
            found.append((layer(plan, spec.scheme, spec.layer, {}, SIZES), plans))
            break
    return tuple(found)


def of(scheme: str, kind: str = "linear", *, consumer: str = "vllm-ascend-0.23", device: str = "a2", prefix: str = "", **config: Any) -> tuple[Layer, Plans]:
    """A right layer of one scheme. config: the layer's; also sizes by name."""
    plans = Plans(consumer, device, "bfloat16")
    sizes = {name: config.pop(name, size) for name, size in SIZES.items()}
    return layer(plans.of(scheme, kind, {**config, "tp_size": 1}), scheme, kind, config, sizes, prefix), plans


def without(one: Layer, name: str, part: Part | None = None) -> Layer:
    stored = {other: {p: t for p, t in parts.items() if other != name or part not in (None, p)} for other, parts in one.stored.items()}
    return replace(one, stored={other: parts for other, parts in stored.items() if parts})


def changed(one: Layer, parameter: str, part: Part | None = None, **fields: Any) -> Layer:
    """Other fields of a stored tensor, or of all parts of it."""
    parts = {p: replace(t, **fields) if part in (None, p) else t for p, t in one.stored[parameter].items()}
    return replace(one, stored={**one.stored, parameter: parts})
