"""Right checkpoint folders, small and made up: a `Draft` in memory, which a test changes and then writes.

Each maker (`modelslim`, `compressed_tensors`, `fp8_block`, `float_model`) gives a Draft; `draft.write(path)` makes the folder. Shapes are computed here from
the formats' own rules, not from our specs. No torch: files are written by the few lines at the end, so every dtype can be stored.

    draft = modelslim(layers=2, experts=4, expert_scheme="W4A8_DYNAMIC")
    del draft.tensors["model.layers.0.self_attn.q_proj.weight_scale"]
    folder = draft.write(tmp_path / "model")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"U8": 1, "I8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "F16": 2, "BF16": 2, "I32": 4, "F32": 4, "I64": 8, "F64": 8}
NUMPY = {"uint8": "U8", "int8": "I8", "bool": "BOOL", "int16": "I16", "float16": "F16", "int32": "I32", "float32": "F32", "int64": "I64", "float64": "F64"}
CODES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass
class Tensor:
    """A tensor to store. dtype: as safetensors writes it. data: its bytes, row-major; None for zeros."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | None = None

    @property
    def size(self) -> int:
        return SIZES[self.dtype] * prod(self.shape)

    @classmethod
    def of(cls, array: np.ndarray, dtype: str | None = None) -> Tensor:
        """A numpy array; `dtype` for bytes that numpy has no name for (`F8_E4M3` of a uint8 array), `BF16` rounds a float32 array."""
        shape = array.shape
        if dtype == "BF16":
            bits = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
            array = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        return cls(dtype or NUMPY[array.dtype.name], shape, np.ascontiguousarray(array).tobytes())

    def array(self) -> np.ndarray:
        """The values; float8 as the uint8 that hold their bits, bfloat16 as float32."""
        raw = self.data if self.data is not None else bytes(self.size)
        if self.dtype == "BF16":
            return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(self.shape)
        numpy = {code: name for name, code in NUMPY.items()}.get(self.dtype, "uint8")
        return np.frombuffer(raw, numpy).reshape(self.shape).copy()


@dataclass
class Draft:
    """A folder that is not written yet; everything may be changed.

    config, description, index: as JSON values, or a text that is written as it is; None: no such file. `index` is computed when the folder is written, and
    `edit_index` may change it then. index_name: "" for none. shards: how many files; `place` overrides the file of single tensors.
    """

    tensors: dict[str, Tensor]
    config: Any
    description: Any = None
    index_name: str = "model.safetensors.index.json"
    shards: int = 2
    stem: str = "model"
    place: dict[str, str] = field(default_factory=dict)
    edit_index: Callable[[dict[str, Any]], Any] | None = None
    others: dict[str, bytes] = field(default_factory=dict)

    def retype(self, name: str, dtype: str) -> None:
        self.tensors[name] = Tensor(dtype, self.tensors[name].shape)

    def reshape(self, name: str, *shape: int) -> None:
        self.tensors[name] = Tensor(self.tensors[name].dtype, shape)

    def rename(self, old: str, new: str) -> None:
        """Keeps the order, so that every other tensor stays in its file."""
        self.tensors = {new if name == old else name: tensor for name, tensor in self.tensors.items()}

    def names(self, part: str) -> list[str]:
        return [name for name in self.tensors if part in name]

    def fill(self, seed: int = 0) -> Draft:
        """Plain random values in place of zeros: small positive scales, zero offsets, any integers. Values of one parameter do not fit those of another."""
        source = np.random.default_rng(seed)
        self.tensors = {name: tensor if tensor.data is not None else _random(source, name, tensor) for name, tensor in self.tensors.items()}
        return self

    @property
    def files(self) -> dict[str, str]:
        """Which file each tensor goes into: consecutive runs of equal length."""
        per = max(1, ceil(len(self.tensors) / max(1, self.shards)))
        count = ceil(len(self.tensors) / per)
        shard = {
            name: f"{self.stem}.safetensors" if self.shards == 1 else f"{self.stem}-{1 + at // per:05}-of-{count:05}.safetensors"
            for at, name in enumerate(self.tensors)
        }
        return shard | {name: file for name, file in self.place.items() if name in shard}

    def write(self, path: Path) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        files = self.files
        held: dict[str, dict[str, Tensor]] = {}
        for name, file in files.items():
            held.setdefault(file, {})[name] = self.tensors[name]
        for file, tensors in held.items():
            write_safetensors(path / file, tensors)
        if self.index_name:
            index = {"metadata": {"total_size": sum(tensor.size for tensor in self.tensors.values())}, "weight_map": files}
            changed = self.edit_index(index) if self.edit_index else None
            _write_json(path / self.index_name, index if changed is None else changed)
        _write_json(path / "config.json", self.config)
        _write_json(path / "quant_model_description.json", self.description)
        for name, content in self.others.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        return path


# --- models -------------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """Sizes of a made-up model. experts: 0 for dense ones. dense_layers: the first layers that have no experts."""

    model_type: str = "qwen3_moe"
    layers: int = 2
    hidden: int = 512
    intermediate: int = 1024
    moe_intermediate: int = 512
    experts: int = 0
    dense_layers: int = 0
    shared_experts: bool = False
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 128
    vocab: int = 64

    @property
    def mla(self) -> bool:
        return self.model_type.startswith(("deepseek", "kimi", "pangu_ultra", "glm_moe_dsa", "glm4_moe_lite", "longcat"))

    def linears(self) -> dict[str, tuple[int, int]]:
        """Every linear module in the model's order: its name, its outputs and its inputs."""
        return {name: shape for layer in range(self.layers) for name, shape in (self._attention(layer) | self._mlp(layer)).items()}

    def _attention(self, layer: int) -> dict[str, tuple[int, int]]:
        at, h, width = f"model.layers.{layer}.self_attn", self.hidden, self.heads * self.head_dim
        if self.mla:
            return {
                f"{at}.q_a_proj": (256, h),
                f"{at}.kv_a_proj_with_mqa": (256 + 64, h),
                f"{at}.q_b_proj": (self.heads * (self.head_dim + 64), 256),
                f"{at}.kv_b_proj": (self.heads * 2 * self.head_dim, 256),
                f"{at}.o_proj": (h, width),
            }
        kv = self.kv_heads * self.head_dim
        return {f"{at}.q_proj": (width, h), f"{at}.k_proj": (kv, h), f"{at}.v_proj": (kv, h), f"{at}.o_proj": (h, width)}

    def _mlp(self, layer: int) -> dict[str, tuple[int, int]]:
        at, h = f"model.layers.{layer}.mlp", self.hidden
        if not self.sparse(layer):
            return _gated(at, h, self.intermediate)
        found: dict[str, tuple[int, int]] = {}
        for expert in range(self.experts):
            found |= _gated(f"{at}.experts.{expert}", h, self.moe_intermediate)
        return found | (_gated(f"{at}.shared_experts", h, self.moe_intermediate) if self.shared_experts else {})

    def sparse(self, layer: int) -> bool:
        return self.experts > 0 and layer >= self.dense_layers

    def plain(self, dtype: str) -> dict[str, Tensor]:
        """What is never quantized: embeddings, norms, routers, the head."""
        h = self.hidden
        found = {"model.embed_tokens.weight": Tensor(dtype, (self.vocab, h))}
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            found |= {f"{at}.{name}.weight": Tensor(dtype, (h,)) for name in ("input_layernorm", "post_attention_layernorm")}
            norms = {"q_a_layernorm": 256, "kv_a_layernorm": 256} if self.mla else {"q_norm": self.head_dim, "k_norm": self.head_dim}
            found |= {f"{at}.self_attn.{name}.weight": Tensor(dtype, (size,)) for name, size in norms.items()}
            if self.sparse(layer):
                found[f"{at}.mlp.gate.weight"] = Tensor(dtype, (self.experts, h))
                if self.mla:
                    found[f"{at}.mlp.gate.e_score_correction_bias"] = Tensor("F32", (self.experts,))
        return found | {"model.norm.weight": Tensor(dtype, (h,)), "lm_head.weight": Tensor(dtype, (self.vocab, h))}

    def config(self, torch_dtype: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "architectures": ["".join(part.title() for part in self.model_type.split("_")) + "ForCausalLM"],
            "model_type": self.model_type,
            "torch_dtype": torch_dtype,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "tie_word_embeddings": False,
        }
        if self.experts:
            found |= {"moe_intermediate_size": self.moe_intermediate, "num_experts_per_tok": 2, "first_k_dense_replace": self.dense_layers}
            found["n_routed_experts" if self.mla else "num_experts"] = self.experts
        if self.shared_experts:
            found["n_shared_experts"] = 1
        return found


def _gated(at: str, hidden: int, inner: int) -> dict[str, tuple[int, int]]:
    return {f"{at}.gate_proj": (inner, hidden), f"{at}.up_proj": (inner, hidden), f"{at}.down_proj": (hidden, inner)}


ROW = ("o_proj", "down_proj")
"""Linear modules whose inputs are split over ranks."""


# --- ModelSlim ----------------------------------------------------------------------------------------------------------------------------------------------


def modelslim(
    *,
    scheme: str = "W8A8_DYNAMIC",
    attention_scheme: str = "",
    expert_scheme: str = "",
    schemes: Mapping[str, str] | None = None,
    version: str = "1.0.0",
    group_size: int = 256,
    dtype: str = "bfloat16",
    shards: int = 2,
    index: str = "model.safetensors.index.json",
    in_config: bool = False,
    **model: Any,
) -> Draft:
    """A ModelSlim folder: `quant_model_description.json` names the type of every tensor.

    scheme: of linear layers; attention_scheme, expert_scheme: of those parts, if they differ; schemes: of single modules, by name (`FLOAT` for none).
    group_size: 0 for scales per channel (experts of W4A8_DYNAMIC). index: file name, "" for none (then put `shards=1`, or not). in_config: the description
    stands in `config.json` under `quantization_config`. model: the fields of `Model`.
    """
    sizes = Model(**model)
    plain = sizes.plain(CODES[dtype])
    tensors, types = dict(plain), dict.fromkeys(plain, "FLOAT")
    for name, (n, k) in sizes.linears().items():
        kind = (schemes or {}).get(name) or _default_scheme(name, scheme, attention_scheme, expert_scheme)
        for suffix, tensor in scheme_tensors(kind, name, n, k, group_size, version, dtype).items():
            tensors[f"{name}.{suffix}"], types[f"{name}.{suffix}"] = tensor, kind
    used = expert_scheme if sizes.experts and expert_scheme else scheme
    description: dict[str, Any] = {"model_quant_type": used, "version": version, "group_size": group_size, **types}
    config = sizes.config(dtype)
    if in_config:
        config["quantization_config"] = description
    return Draft(tensors, config, None if in_config else description, index, shards, "quant_model_weights" if "quant_model" in index else "model")


def _default_scheme(name: str, scheme: str, attention: str, expert: str) -> str:
    if name.endswith(".kv_b_proj"):
        return "FLOAT"
    chosen = attention if ".self_attn." in name else expert if ".experts." in name else scheme
    return chosen or scheme


def scheme_tensors(scheme: str, module: str, n: int, k: int, group_size: int, version: str, dtype: str) -> dict[str, Tensor]:
    """What ModelSlim stores of one linear module of n outputs and k inputs, by suffix."""
    p, expert, row = CODES[dtype], ".experts." in module, module.endswith(ROW)
    per_row = {"weight_scale": Tensor(p, (n, 1)), "weight_offset": Tensor(p, (n, 1))}
    floats = {"weight_scale": Tensor("F32", (n, 1)), "weight_offset": Tensor("F32", (n, 1))}
    static = {
        "input_scale": Tensor(p, (1,)),
        "input_offset": Tensor("I8", (1,)),
        "quant_bias": Tensor("I32", (n,)),
        "deq_scale": Tensor("F32" if dtype == "bfloat16" else "I64", (n,)),
    }
    int8 = {"weight": Tensor("I8", (n, k))}
    fp4 = {"weight": Tensor("U8", (n, k // 2))}
    e4m3 = {"weight": Tensor("F8_E4M3", (n, k))}
    exponents = {"weight_scale": Tensor("U8", (n, ceil(k / 32)))}
    match scheme:
        case "FLOAT":
            return {"weight": Tensor(p, (n, k))}
        case "W8A8" | "W8A8S":
            return int8 | static
        case "W8A8_DYNAMIC" | "W8A16":
            return int8 | per_row
        case "W8A8_MIX":
            return int8 | (per_row if expert else static | per_row)
        case "W4A4_DYNAMIC":
            return int8 | floats
        case "W4A4_FLATQUANT_DYNAMIC":
            left = next(d for d in range(int(k**0.5), 0, -1) if k % d == 0)
            sides = {"left_trans": Tensor(p, (left, left)), "right_trans": Tensor(p, (k // left, k // left)), "clip_ratio": Tensor("F32", (1,))}
            return int8 | sides | floats
        case "W8A8FP8_DYNAMIC":
            return e4m3 | {"weight_scale": Tensor("F32", (n, 1)), "weight_offset": Tensor(p, (n, 1))}
        case "W8A8_MXFP8":
            return e4m3 | exponents
        case "W4A8_MXFP" | "W4A4_MXFP4":
            return fp4 | exponents
        case "W4A8_DYNAMIC":
            return _w4a8(n, k, group_size, version == "1.0.0", row, "F32" if expert else p)
    raise ValueError(f"no maker for {scheme}")


def _w4a8(n: int, k: int, group_size: int, packed: bool, row: bool, p: str) -> dict[str, Tensor]:
    """Two int4 of neighbouring outputs in a byte (version 1.0.0), or one by value. scale_bias: 16 partial sums where the inputs are split over ranks."""
    found = {"weight": Tensor("I8", (n // 2 if packed else n, k)), "weight_scale": Tensor(p, (n, 1)), "weight_offset": Tensor(p, (n, 1))}
    if group_size:
        found |= {name: Tensor(p, (n, ceil(k / group_size))) for name in ("weight_scale_second", "weight_offset_second")}
    return found | ({"scale_bias": Tensor("F32", (n, 16 if row else 1))} if packed else {})


# --- compressed-tensors -------------------------------------------------------------------------------------------------------------------------------------


def compressed_tensors(
    *, scheme: str = "W8A8_DYNAMIC", group_size: int = 32, dtype: str = "bfloat16", shards: int = 2, ignore: list[str] | None = None, **model: Any
) -> Draft:
    """A compressed-tensors folder: `quantization_config` of `config.json` says it all.

    scheme: `W8A8_DYNAMIC` and `W8A8` (int-quantized, per channel), `W4A16` (pack-quantized, groups), `W4A8_DYNAMIC` (int-quantized, groups; channels for
    group_size 0). ignore: modules that stay float; by default the head and routers.
    """
    sizes = Model(**model)
    p, tensors = CODES[dtype], sizes.plain(CODES[dtype])
    kept = ["lm_head", *(name.removesuffix(".weight") for name in tensors if name.endswith(".mlp.gate.weight"))] if ignore is None else ignore
    for name, (n, k) in sizes.linears().items():
        found = {"weight": Tensor(p, (n, k))} if name in kept else _ct_tensors(scheme, n, k, group_size, p)
        tensors |= {f"{name}.{suffix}": tensor for suffix, tensor in found.items()}
    config = sizes.config(dtype) | {"quantization_config": _ct_config(scheme, group_size, kept)}
    return Draft(tensors, config, shards=shards)


def _ct_tensors(scheme: str, n: int, k: int, group_size: int, p: str) -> dict[str, Tensor]:
    groups = k // group_size if group_size else 1
    match scheme:
        case "W8A8_DYNAMIC":
            return {"weight": Tensor("I8", (n, k)), "weight_scale": Tensor(p, (n, 1))}
        case "W8A8":
            return {"weight": Tensor("I8", (n, k)), "weight_scale": Tensor(p, (n, 1)), "input_scale": Tensor(p, (1,))}
        case "W4A8_DYNAMIC":
            return {"weight": Tensor("I8", (n, k)), "weight_scale": Tensor(p, (n, groups))}
        case "W4A16":
            shape = Tensor.of(np.array([n, k], np.int64))
            return {"weight_packed": Tensor("I32", (n, k // 8)), "weight_scale": Tensor(p, (n, groups)), "weight_shape": shape}
    raise ValueError(f"no maker for {scheme}")


def _ct_config(scheme: str, group_size: int, ignore: list[str]) -> dict[str, Any]:
    grouped = scheme.startswith("W4") and group_size > 0
    weights = {
        "num_bits": int(scheme[1]),
        "type": "int",
        "symmetric": True,
        "dynamic": False,
        "strategy": "group" if grouped else "channel",
        "group_size": group_size if grouped else None,
    }
    dynamic = scheme.endswith("_DYNAMIC")
    inputs = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": dynamic, "strategy": "token" if dynamic else "tensor", "group_size": None}
    layout = "pack-quantized" if scheme == "W4A16" else "int-quantized"
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": None if scheme == "W4A16" else inputs,
        "output_activations": None,
        "format": layout,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "kv_cache_scheme": None,
        "config_groups": {"group_0": group},
        "ignore": ignore,
    }


# --- fp8 by blocks ------------------------------------------------------------------------------------------------------------------------------------------


def fp8_block(*, layers: int = 2, experts: int = 4, hidden: int = 512, inner: int = 256, heads: int = 4, scale: str = "scale", shards: int = 2) -> Draft:
    """A DeepSeek-V4 folder under its own names: e4m3 linear layers with e8m0 scales of 128 by 128 blocks, fp4 experts with e8m0 scales of 32 inputs."""
    ranks, groups, width = 128, 2, heads * 128
    tensors = {"embed.weight": Tensor("BF16", (64, hidden)), "norm.weight": Tensor("BF16", (hidden,)), "head.weight": Tensor("BF16", (64, hidden))}
    tensors |= {"hc_head_fn": Tensor("F32", (4, 4 * hidden)), "hc_head_base": Tensor("F32", (4,)), "hc_head_scale": Tensor("F32", (1,))}
    for layer in range(layers):
        attn, ffn = f"layers.{layer}.attn", f"layers.{layer}.ffn"
        blocks = {
            f"{attn}.wq_a": (256, hidden),
            f"{attn}.wq_b": (width, 256),
            f"{attn}.wkv": (128, hidden),
            f"{attn}.wo_a": (groups * ranks, width // groups),
            f"{attn}.wo_b": (hidden, groups * ranks),
            f"{ffn}.shared_experts.w1": (inner, hidden),
            f"{ffn}.shared_experts.w3": (inner, hidden),
            f"{ffn}.shared_experts.w2": (hidden, inner),
        }
        for name, (n, k) in blocks.items():
            tensors[f"{name}.weight"] = Tensor("F8_E4M3", (n, k))
            tensors[f"{name}.{scale}"] = Tensor("F8_E8M0", (ceil(n / 128), ceil(k / 128)))
        for expert in range(experts):
            for name, (n, k) in {"w1": (inner, hidden), "w3": (inner, hidden), "w2": (hidden, inner)}.items():
                tensors[f"{ffn}.experts.{expert}.{name}.weight"] = Tensor("I8", (n, k // 2))
                tensors[f"{ffn}.experts.{expert}.{name}.{scale}"] = Tensor("F8_E8M0", (n, k // 32))
        tensors |= {f"layers.{layer}.{name}.weight": Tensor("BF16", (hidden,)) for name in ("attn_norm", "ffn_norm")}
        tensors |= {
            f"{attn}.q_norm.weight": Tensor("BF16", (256,)),
            f"{attn}.kv_norm.weight": Tensor("BF16", (128,)),
            f"{attn}.attn_sink": Tensor("F32", (heads,)),
        }
        tensors |= {f"{ffn}.gate.weight": Tensor("BF16", (experts, hidden)), f"{ffn}.gate.bias": Tensor("F32", (experts,))}
    config = {
        "architectures": ["DeepseekV4ForCausalLM"],
        "model_type": "deepseek_v4",
        "torch_dtype": "bfloat16",
        "hidden_size": hidden,
        "moe_intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "n_routed_experts": experts,
        "n_shared_experts": 1,
        "o_groups": groups,
        "o_lora_rank": ranks,
        "expert_dtype": "fp4",
        "vocab_size": 64,
        "quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]},
    }
    return Draft(tensors, config, shards=shards)


# --- float --------------------------------------------------------------------------------------------------------------------------------------------------


def float_model(*, dtype: str = "bfloat16", shards: int = 2, **model: Any) -> Draft:
    """A folder that is not quantized."""
    sizes = Model(**model)
    tensors = sizes.plain(CODES[dtype]) | {f"{name}.weight": Tensor(CODES[dtype], shape) for name, shape in sizes.linears().items()}
    return Draft(tensors, sizes.config(dtype), shards=shards)


# --- shorthands ---------------------------------------------------------------------------------------------------------------------------------------------


def write_modelslim(path: Path, *, edit: Callable[[Draft], Any] | None = None, **options: Any) -> Path:
    return _written(modelslim(**options), path, edit)


def write_compressed_tensors(path: Path, *, edit: Callable[[Draft], Any] | None = None, **options: Any) -> Path:
    return _written(compressed_tensors(**options), path, edit)


def write_fp8_block(path: Path, *, edit: Callable[[Draft], Any] | None = None, **options: Any) -> Path:
    return _written(fp8_block(**options), path, edit)


def write_float(path: Path, *, edit: Callable[[Draft], Any] | None = None, **options: Any) -> Path:
    return _written(float_model(**options), path, edit)


def _written(draft: Draft, path: Path, edit: Callable[[Draft], Any] | None) -> Path:
    if edit:
        edit(draft)
    return draft.write(path)


# --- files --------------------------------------------------------------------------------------------------------------------------------------------------


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """The file, zeros as a hole that takes no disk."""
    header = safetensors_header(tensors)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for tensor in tensors.values():
            if tensor.data is None:
                file.seek(tensor.size, 1)
            else:
                assert len(tensor.data) == tensor.size
                file.write(tensor.data)
        file.truncate(file.tell())


def safetensors_header(tensors: Mapping[str, Tensor]) -> bytes:
    text = json.dumps({"__metadata__": {"format": "pt"}, **dict(_entries(tensors))}).encode()
    return text + b" " * (-len(text) % 8)


def _entries(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Any]]]:
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.size
        yield name, {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}


def _write_json(path: Path, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bytes):
        path.write_bytes(value)
    else:
        path.write_text(value if isinstance(value, str) else json.dumps(value, indent=1), encoding="utf-8")


INTEGERS = {"U8": (0, 256), "I8": (-8, 8), "I16": (-100, 100), "I32": (-100, 100), "I64": (0, 100)}
"""int8 within four bits, so that it may be a weight by value."""


def _random(source: np.random.Generator, name: str, tensor: Tensor) -> Tensor:
    if "offset" in name:
        return tensor
    numpy = {code: dtype for dtype, code in NUMPY.items()}
    if tensor.dtype == "F8_E8M0" or (tensor.dtype == "U8" and "scale" in name):
        data = source.integers(110, 125, tensor.shape, np.uint8).tobytes()
    elif tensor.dtype == "F8_E4M3":
        data = (source.integers(0, 0x7F, tensor.shape, np.uint8) | source.integers(0, 2, tensor.shape, np.uint8) << 7).tobytes()
    elif tensor.dtype in INTEGERS:
        data = source.integers(*INTEGERS[tensor.dtype], tensor.shape).astype(numpy[tensor.dtype]).tobytes()
    else:
        positive = "scale" in name and "scale_bias" not in name
        values = source.uniform(0.001, 0.01, tensor.shape) if positive else source.normal(0, 0.02, tensor.shape)
        data = Tensor.of(values, "BF16").data if tensor.dtype == "BF16" else values.astype(numpy[tensor.dtype]).tobytes()
    return replace(tensor, data=data)
