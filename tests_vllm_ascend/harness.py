"""Layers of vllm-ascend as an engine makes them: by vllm's own classes, through the registry and the adapter, loaded by vllm's own weight loaders.

On top of ``world``. A ``Case`` is a key of a scheme registry with a writer's description; ``engine(case, world)`` is a rank that makes, loads and processes its
layers, and compiles our plan for them. Nothing of vllm is imported before ``engine`` is entered.

Invariants: a checkpoint is made from what upstream declares on one rank, so that upstream decides its shapes; every rank loads from the same checkpoint.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any, Literal
from unittest import mock

import torch
from torch.nn import Module

import layoutdsl
from tests_vllm_ascend import stand_ins
from tests_vllm_ascend.world import MODEL, World, entered

Kind = Literal["column", "row", "replicated", "merged", "qkv", "wo_a", "experts", "attention"]
Tensors = dict[str, torch.Tensor]

PREFIXES: dict[Kind, str] = {
    "column": "model.layers.0.mlp.up_proj",
    "row": "model.layers.0.mlp.down_proj",
    "replicated": "model.layers.0.self_attn.q_a_proj",
    "merged": "model.layers.0.mlp.gate_up_proj",
    "qkv": "model.layers.0.self_attn.qkv_proj",
    "wo_a": "model.layers.0.self_attn.wo_a",
    "experts": "model.layers.0.mlp.experts",
    "attention": "model.layers.0.self_attn.attn",
}
FUSED = {"gate_up_proj": ["gate_proj", "up_proj"], "qkv_proj": ["q_proj", "k_proj", "v_proj"]}
"""What a model class of vllm declares as its ``packed_modules_mapping``."""
HEADS, KV_HEADS = 8, 4
WHOLE = ("weight_shape", "input_offset", "input_scale")
"""Endings of expert parameters that gate and up have one of each, not one half each."""


@dataclass(frozen=True, eq=False)
class Case:
    """A key of a registry, as a checkpoint asks for it.

    scheme, layer: the key. kind: which of vllm's layers. spec: ours, by its bundled id. sizes: K, N of a linear layer over all ranks; E, H, I of experts;
    numbers of heads of attention. description: what the writer notes beside the tensors, for ``quant_description``. writer: whose quantization config.
    int4: int8 parameters hold int4 values. sharded: the writer stored what each rank holds, so nothing is cut while loading (``ShardedStateLoader310``).
    stored: shapes on disk of what upstream declares otherwise.
    """

    scheme: str
    layer: str
    kind: Kind
    spec: str | None
    sizes: tuple[int, ...]
    description: Mapping[str, Any] = field(default_factory=dict)
    writer: Literal["modelslim", "compressed-tensors", "fp8"] = "modelslim"
    int4: bool = False
    sharded: bool = False
    stored: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        return PREFIXES[self.kind]

    def __str__(self) -> str:
        said = [f"{name}={self.description[name]}" for name in ("version", "group_size") if name in self.description]
        said += [str(self.description["weights"]["strategy"])] if "weights" in self.description else []
        said += [str(shape) for shape in dict.fromkeys(self.stored.values())]
        kind = [self.kind] if self.kind not in (self.layer, "experts") else []
        return "-".join([self.scheme, self.layer, *kind, *([self.writer] if self.writer == "compressed-tensors" else []), *said])


@cache
def _imported() -> None:
    """vllm and vllm-ascend with their patches, in the order in which an engine starts."""
    import torch_npu  # noqa: F401
    from vllm_ascend.utils import adapt_patch, register_ascend_customop

    adapt_patch(is_global_patch=True)
    adapt_patch()
    register_ascend_customop()
    import vllm_ascend._310p.quantization.methods
    import vllm_ascend.quantization.methods  # noqa: F401


def registry(device: str) -> dict[tuple[str, str], type]:
    """Every key of the registry of a chip. The very dict of vllm-ascend: leave it as it is."""
    _imported()
    from vllm_ascend._310p.quantization.methods import registry as on_310p
    from vllm_ascend.quantization.methods import registry as elsewhere

    module: ModuleType = on_310p if device == "310p" else elsewhere
    found: dict[tuple[str, str], type] = module._SCHEME_REGISTRY
    return found


# ---- quantization configs ------------------------------------------------------------------------------------------------------------------------------------


def _quant_config(case: Case, world: World) -> Any:
    config = _WRITERS[case.writer](case, world)
    config.packed_modules_mapping = FUSED
    return config


def _modelslim(case: Case, world: World) -> Any:
    if world.device == "310p":
        from vllm_ascend._310p.quantization.modelslim_config import AscendModelSlimConfig310 as Config
    else:
        from vllm_ascend.quantization.modelslim_config import AscendModelSlimConfig as Config

    parent, _, last = case.prefix.rpartition(".")
    names = [f"{parent}.{part}" for part in FUSED.get(last, [last])]
    return Config({**{f"{name}.weight": case.scheme for name in names}, **case.description})


def _compressed_tensors(case: Case, world: World) -> Any:
    from vllm_ascend.quantization.compressed_tensors_config import AscendCompressedTensorsConfig

    group = {"targets": ["Linear"], "weights": case.description["weights"], "input_activations": case.description.get("input_activations")}
    return AscendCompressedTensorsConfig.from_config({"format": case.description["format"], "ignore": [], "config_groups": {"group_0": group}})


def _fp8(case: Case, world: World) -> Any:
    from vllm_ascend.quantization.fp8_config import AscendFp8Config

    return AscendFp8Config.from_config(dict(case.description))


_WRITERS: dict[str, Callable[[Case, World], Any]] = {"modelslim": _modelslim, "compressed-tensors": _compressed_tensors, "fp8": _fp8}


# ---- a rank --------------------------------------------------------------------------------------------------------------------------------------------------


@dataclass
class Engine:
    """A rank with its config. casts: NZ casts so far, see ``stand_ins.device_functions``."""

    case: Case
    world: World
    vllm_config: Any
    casts: list[dict[str, Any]]

    def layer(self) -> Module:
        """A new layer with upstream's parameters; what they hold is what the memory held."""
        self.vllm_config.compilation_config.static_forward_context.clear()  # vllm refuses a second layer of one name
        made: Module = _KINDS[self.case.kind](self.case, self.world, self.vllm_config.quant_config)
        assert type(made.quant_method.quant_method) is self.scheme_class, (type(made.quant_method.quant_method), self.scheme_class)
        return made

    @property
    def scheme_class(self) -> type | None:
        if self.case.scheme == "C8":
            from vllm_ascend.quantization.methods.kv_c8 import AscendC8KVCacheAttentionMethod

            return AscendC8KVCacheAttentionMethod
        return registry(self.world.device)[self.case.scheme, self.case.layer]

    def load(self, layer: Module, checkpoint: Mapping[str, torch.Tensor]) -> None:
        """Every tensor of a checkpoint through the weight loader of its parameter, as the models of vllm do."""
        loader = _load_sharded if self.case.sharded else _LOADERS.get(self.case.kind, _load_whole)
        loader(self.case, layer, checkpoint)

    def loaded(self, blank: bool = False) -> Module:
        """A new layer with the checkpoint of this case in it. blank: zeros where the loaders leave holes, else what the memory held."""
        made = self.layer()
        for parameter in made.parameters() if blank else ():
            parameter.data.zero_()
        self.load(made, checkpoint(self.case, self.world))
        return made

    def process(self, layer: Module) -> None:
        """What the hand-written code does after loading."""
        layer.quant_method.process_weights_after_loading(layer)

    def plan(self, layer: Module) -> layoutdsl.Plan:
        """Ours for this layer: config and sizes as the rank has them. Raises: DiagnosticError."""
        assert self.case.spec is not None, f"no spec for {self.case}"
        return _plan(self.case.spec, tuple(sorted(self.config(layer).items())), self.world.dtype).bind(self.sizes(layer))

    def config(self, layer: Module) -> dict[str, Any]:
        """The config of our plan, by what vllm-ascend looks at; of it, what the spec reads."""
        assert self.case.spec is not None
        read = _spec(self.case.spec).config_names
        return {name: value for name, value in _config(self, layer).items() if name in read}

    def sizes(self, layer: Module) -> dict[str, int]:
        if self.case.kind == "attention":
            return {
                "num_heads": layer.num_heads,
                "num_kv_heads": layer.num_kv_heads,
                "kv_lora_rank": MODEL["kv_lora_rank"],
                "index_head_dim": MODEL["index_head_dim"],
            }
        if self.case.kind == "experts":
            moe = layer.moe_config
            return {
                "num_experts": layer.local_num_experts,
                "hidden_size": moe.hidden_dim,
                "intermediate_size_per_partition": moe.intermediate_size_per_partition,
            }
        inputs = getattr(layer, "input_size_per_partition", layer.input_size)
        return {"input_size": inputs, "output_size": sum(layer.output_partition_sizes)}


@contextmanager
def engine(case: Case, world: World = World()) -> Iterator[Engine]:  # noqa: B008 - frozen
    """A rank, while it lasts. One at a time: configs and groups are vllm's module-wide variables."""
    _imported()
    from vllm.model_executor import custom_op

    with stand_ins.device_functions() as casts, entered(world) as vllm_config:
        vllm_config.quant_config = _quant_config(case, world)
        with mock.patch.dict(custom_op.op_registry_oot, _classes_of(world)):
            yield Engine(case, world, vllm_config, casts)


def _classes_of(world: World) -> dict[str, type]:
    """vllm-ascend puts its classes for 310P into vllm's table when it starts on one; these are the ones that a quantized layer can be."""
    if world.device != "310p":
        return {}
    from vllm_ascend._310p.fused_moe.fused_moe import AscendFusedMoE310

    return {"FusedMoE": AscendFusedMoE310}


def _config(rank: Engine, layer: Module) -> dict[str, Any]:
    from vllm.model_executor.layers.linear import RowParallelLinear
    from vllm_ascend.ascend_config import get_ascend_config

    case, world, ascend = rank.case, rank.world, get_ascend_config()
    described = rank.vllm_config.quant_config.quant_description
    read = {name: described[name] for name in ("version", "group_size", "weight_strategy", "max_supported_tp") if described.get(name) is not None}
    return {
        **read,
        "consumer": "vllm-ascend-0.23",
        "device": world.device,
        "quant_method": "compressed-tensors" if case.writer == "compressed-tensors" else "ascend",
        "layer_type": "row" if isinstance(layer, RowParallelLinear) else "column",
        "tp_size": 1 if world.ep and case.kind == "experts" else world.tp,
        "tp_rank": world.tp_rank,
        "weight_nz_mode": ascend.weight_nz_mode,
        "fused_mc2": int(ascend.enable_fused_mc2),
        "expert_lists": bool(ascend.eplb_config.dynamic_eplb),
        "kv_role": world.kv_role,
        "prefix": case.prefix,
        "o_groups": MODEL["o_groups"],
        "o_lora_rank": MODEL["o_lora_rank"],
    }


@cache
def _spec(name: str) -> layoutdsl.Spec:
    return layoutdsl.load_spec(name)


@cache
def _plan(name: str, config: tuple[tuple[str, Any], ...], dtype: torch.dtype) -> layoutdsl.Plan:
    return layoutdsl.compile_spec(_spec(name), config=dict(config), params_dtype=dtype)


# ---- layers --------------------------------------------------------------------------------------------------------------------------------------------------


def _linear(case: Case, world: World, quant_config: Any) -> Module:
    from vllm.model_executor.layers import linear

    K, N = case.sizes  # noqa: N806
    given = {"bias": False, "quant_config": quant_config, "prefix": case.prefix, "params_dtype": world.dtype}
    match case.kind:
        case "row":
            return linear.RowParallelLinear(K, N, **given)
        case "replicated":
            return linear.ReplicatedLinear(K, N, **given)
        case "merged":
            return linear.MergedColumnParallelLinear(K, [N // 2, N // 2], **given)
        case "qkv":
            return linear.QKVParallelLinear(K, N // (HEADS + 2 * KV_HEADS), HEADS, KV_HEADS, **given)
        case _:
            return linear.ColumnParallelLinear(K, N, **given)


def _experts(case: Case, world: World, quant_config: Any) -> Module:
    from vllm.model_executor.layers.fused_moe import FusedMoE

    E, H, I = case.sizes  # noqa: E741, N806
    return FusedMoE(
        num_experts=E, top_k=2, hidden_size=H, intermediate_size=I, quant_config=quant_config, prefix=case.prefix, params_dtype=world.dtype, n_shared_experts=0
    )


def _attention(case: Case, world: World, quant_config: Any) -> Module:
    """An attention layer without its backend, which would want a device: the adapter asks it for its kind and its numbers of heads."""
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

    class Attention(Module, AttentionLayerBase):
        def __init__(self) -> None:
            super().__init__()
            heads, kv_heads = case.sizes
            self.num_heads, self.num_kv_heads = heads // world.tp, max(1, kv_heads // world.tp)
            self.quant_method = quant_config.get_quant_method(self, prefix=case.prefix)
            self.quant_method.create_weights(self)

        def get_attn_backend(self) -> Any:
            raise NotImplementedError

        def get_kv_cache_spec(self, vllm_config: Any) -> Any:
            raise NotImplementedError

    return Attention()


_KINDS: dict[Kind, Callable[[Case, World, Any], Module]] = {
    **dict.fromkeys(("column", "row", "replicated", "merged", "qkv", "wo_a"), _linear),  # type: ignore[dict-item]
    "experts": _experts,
    "attention": _attention,
}


# ---- checkpoints ---------------------------------------------------------------------------------------------------------------------------------------------


@cache
def checkpoint(case: Case, world: World) -> Tensors:
    """The tensors that a writer would store for this layer, by their names on disk: unsliced, unfused, of every expert. The same for every rank.

    What upstream declares on one rank is filled and cut into what is fused there.
    """
    writer = world if case.sharded else world.alone()
    generator = torch.Generator().manual_seed(zlib.crc32(f"{case} {world.dtype}".encode()))
    with engine(case, writer) as rank:
        declared = {name: (tuple(parameter.shape), parameter.dtype) for name, parameter in rank.layer().named_parameters()}
        split = rank.layer()
    found: Tensors = {}
    for name, (shape, dtype) in declared.items():
        found |= _stored(case, split, name, values(name, case.stored.get(name, shape), dtype, generator, int4=case.int4))
    return found


def values(name: str, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, int4: bool = False) -> torch.Tensor:
    """Random, in the range of what a writer stores; no NaN, since a parameter that was not loaded is recognized by them."""
    if dtype in (torch.bfloat16, torch.float16, torch.float32):
        return (torch.rand(shape, generator=generator, dtype=torch.float32) * 0.1 + 1e-3).to(dtype)
    if dtype == torch.int64:
        return (torch.rand(shape, generator=generator, dtype=torch.float32) * 0.1 + 1e-3).view(torch.int32).to(dtype)  # the bits of a float32 scale
    if dtype == torch.float8_e4m3fn:
        return (torch.randint(0, 127, shape, generator=generator) + 128 * torch.randint(0, 2, shape, generator=generator)).to(torch.uint8).view(dtype)
    if dtype in (torch.uint8, torch.float8_e8m0fnu):
        return torch.randint(0, 255, shape, generator=generator).to(torch.uint8).view(dtype)
    if int4 and dtype == torch.int8 and "offset" not in name:
        return torch.randint(-8, 8, shape, generator=generator).to(dtype)
    info = torch.iinfo(dtype)
    return torch.randint(info.min, info.max + 1, shape, generator=generator).to(dtype)


def _stored(case: Case, layer: Module, name: str, value: torch.Tensor) -> Tensors:
    """A parameter of one rank as the tensors that it is loaded from."""
    prefix = case.prefix.rpartition(".")[0]
    if case.kind == "experts":
        return {f"{case.prefix}.{stored}": tensor for stored, tensor in _of_experts(name, value)}
    parts = FUSED.get(case.prefix.rpartition(".")[2])
    if parts is None or case.sharded:
        return {f"{case.prefix}.{name}": value}
    if not hasattr(getattr(layer, name), "output_dim"):
        return {f"{prefix}.{part}.{name}": value for part in parts}
    sizes = [size * value.shape[0] // sum(layer.output_partition_sizes) for size in layer.output_partition_sizes]
    return {f"{prefix}.{part}.{name}": piece.contiguous() for part, piece in zip(parts, value.split(sizes), strict=True)}


def _of_experts(name: str, value: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    which, _, stored = name.partition("_")
    for expert, tensor in enumerate(value):
        if which == "w2":
            yield f"{expert}.down_proj.{stored}", tensor.clone()
            continue
        gate, up = (tensor, tensor) if stored in WHOLE else tensor.chunk(2)
        yield f"{expert}.gate_proj.{stored}", gate.clone()
        yield f"{expert}.up_proj.{stored}", up.clone()


# ---- loading -------------------------------------------------------------------------------------------------------------------------------------------------


def _load_whole(case: Case, layer: Module, stored: Mapping[str, torch.Tensor]) -> None:
    from vllm.model_executor.model_loader.weight_utils import default_weight_loader

    parameters = dict(layer.named_parameters())
    for name, tensor in stored.items():
        parameter = parameters[name.removeprefix(f"{case.prefix}.")]
        getattr(parameter, "weight_loader", default_weight_loader)(parameter, tensor)


def _load_sharded(case: Case, layer: Module, stored: Mapping[str, torch.Tensor]) -> None:
    """As vllm's sharded state loader: by name, without weight loaders."""
    parameters = dict(layer.named_parameters())
    for name, tensor in stored.items():
        parameters[name.removeprefix(f"{case.prefix}.")].data.copy_(tensor)


def _load_fused(case: Case, layer: Module, stored: Mapping[str, torch.Tensor]) -> None:
    """As ``stacked_params_mapping`` of vllm's models: the loader is told the part."""
    shards: dict[str, int | str] = {"gate_proj": 0, "up_proj": 1, "q_proj": "q", "k_proj": "k", "v_proj": "v"}
    for name, tensor in stored.items():
        _, part, leaf = name.rsplit(".", 2)
        parameter = getattr(layer, leaf)
        parameter.weight_loader(parameter, tensor, shards[part])


def _load_experts(case: Case, layer: Module, stored: Mapping[str, torch.Tensor]) -> None:
    """By vllm's own mapping, every tensor to every rank, as its models do."""
    from vllm.model_executor.layers.fused_moe import FusedMoE

    parameters = dict(layer.named_parameters())
    mapping = FusedMoE.make_expert_params_mapping(layer, "gate_proj", "down_proj", "up_proj", case.sizes[0])
    by_weight = {weight: (parameter, expert, shard) for parameter, weight, expert, shard in mapping}
    for name, tensor in stored.items():
        head, _, leaf = name.rpartition(".")
        target, expert, shard = by_weight[head.removeprefix("model.layers.0.mlp.") + "."]
        parameter = parameters[target.removeprefix("experts.") + leaf]
        parameter.weight_loader(parameter, tensor, f"model.layers.0.mlp.{target}{leaf}", shard_id=shard, expert_id=expert)


_LOADERS: dict[Kind, Callable[[Case, Module, Mapping[str, torch.Tensor]], None]] = {"merged": _load_fused, "qkv": _load_fused, "experts": _load_experts}
