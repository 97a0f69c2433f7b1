"""Layers of folders: right ones give the layers that were written and no finding; each planted mistake makes its finding; what is not read is refused."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from folders import Draft, Tensor, compressed_tensors, float_model, fp8_block, modelslim

from layoutdsl.checkpoint import modules
from layoutdsl.checkpoint.compressed_tensors import _is_bounded
from layoutdsl.checkpoint.grouping import Modules, modules_of
from layoutdsl.checkpoint.layers import layers_of
from layoutdsl.checkpoint.model import Folder, Layer, Part, StoredTensor
from layoutdsl.checkpoint.registry import Known, Registry, read
from layoutdsl.diagnostics import Diagnostic

DTYPES = {"U8": "uint8", "I8": "int8", "I32": "int32", "I64": "int64", "BF16": "bfloat16", "F16": "float16", "F32": "float32"}
DTYPES |= {"F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu"}
RELEASE, MAIN, SEED = "vllm-ascend-0.23", "vllm-ascend-main", "vllm-ascend-0.16"
ATTENTION, MLP = "model.layers.0.self_attn", "model.layers.0.mlp"


def folder(draft: Draft) -> Folder:
    """The folder that reading the written draft would give."""
    file = Path("model.safetensors")
    tensors = {name: StoredTensor(name, DTYPES[tensor.dtype], tensor.shape, file, 0, tensor.size) for name, tensor in draft.tensors.items()}
    return Folder(Path(), tensors, draft.config, draft.description)


def read_draft(draft: Draft, consumer: str = RELEASE, device: str = "a2") -> tuple[dict[str, Layer], list[Diagnostic]]:
    layers, findings = layers_of(folder(draft), consumer, device)
    assert len({layer.prefix for layer in layers}) == len(layers)
    return {layer.prefix: layer for layer in layers}, findings


def codes(findings: list[Diagnostic]) -> list[tuple[str, str]]:
    return sorted((finding.code, finding.where) for finding in findings)


# --- right folders ------------------------------------------------------------------------------------------------------------------------------------------

MOE = {"experts": 4, "dense_layers": 1}


def ct_experts(scheme: str, **options: Any) -> Draft:
    """Attention stays float, since consumers have no linear layers of these schemes."""
    kept = [f"model.layers.{layer}.self_attn.{name}" for layer in range(2) for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    return compressed_tensors(scheme=scheme, experts=4, ignore=["lm_head", *(f"model.layers.{layer}.mlp.gate" for layer in range(2)), *kept], **options)


RIGHT: dict[str, tuple[Draft, str, str, Mapping[tuple[str, str], int]]] = {
    "dynamic": (modelslim(), RELEASE, "a2", {("W8A8_DYNAMIC", "linear"): 14}),
    "static on 310P": (modelslim(scheme="W8A8", dtype="float16"), RELEASE, "310p", {("W8A8", "linear"): 14}),
    "int4 experts": (
        modelslim(expert_scheme="W4A8_DYNAMIC", **MOE),
        RELEASE,
        "910b",
        {("W8A8_DYNAMIC", "linear"): 11, ("W4A8_DYNAMIC", "moe"): 1},
    ),
    "mla": (
        modelslim(model_type="deepseek_v3", attention_scheme="W8A8", expert_scheme="W4A8_DYNAMIC", shared_experts=True, group_size=0, **MOE),
        MAIN,
        "a3",
        {("W8A8", "linear"): 8, ("W8A8_DYNAMIC", "linear"): 6, ("W4A8_DYNAMIC", "moe"): 1},
    ),
    "microscaled": (modelslim(scheme="W8A8_MXFP8", group_size=32, **MOE), MAIN, "a5", {("W8A8_MXFP8", "linear"): 11, ("W8A8_MXFP8", "moe"): 1}),
    "in config.json": (modelslim(in_config=True), RELEASE, "a2", {("W8A8_DYNAMIC", "linear"): 14}),
    "groups of channels": (
        compressed_tensors(experts=4),
        RELEASE,
        "a2",
        {("W8A8_DYNAMIC", "linear"): 8, ("W8A8_DYNAMIC", "moe"): 2},
    ),
    "static groups": (compressed_tensors(scheme="W8A8"), SEED, "a2", {("W8A8", "linear"): 14}),
    "packed experts": (ct_experts("W4A16"), RELEASE, "a2", {("W4A16", "moe"): 2}),
    "int4 groups of experts": (ct_experts("W4A8_DYNAMIC"), RELEASE, "a2", {("W4A8_DYNAMIC", "moe"): 2}),
    "blocks of float8": (fp8_block(), MAIN, "a5", {("fp8", "ds_linear"): 16, ("fp8", "ds_w4a8_moe"): 2}),
    "blocks, other scales": (fp8_block(scale="weight_scale_inv"), MAIN, "a5", {("fp8", "ds_linear"): 16, ("fp8", "ds_w4a8_moe"): 2}),
}


@pytest.mark.parametrize(("draft", "consumer", "device", "expected"), RIGHT.values(), ids=RIGHT)
def test_right_folders(draft: Draft, consumer: str, device: str, expected: Mapping[tuple[str, str], int]) -> None:
    layers, findings = read_draft(draft, consumer, device)
    assert not findings
    assert Counter((layer.scheme, layer.kind) for layer in layers.values()) == expected
    for layer in layers.values():
        spec = read(f"{layer.scheme.lower()}.{layer.kind}")
        assert layer.stored.keys() <= spec.parameters, "the writer stores nothing that no spec declares"
        assert layer.config.keys() <= spec.config | {"layer_type"}
        assert all(tensor.name.startswith(f"{layer.prefix}.") for parts in layer.stored.values() for tensor in parts.values())


def test_every_tensor_of_a_layer_is_in_it() -> None:
    draft = modelslim(expert_scheme="W4A8_DYNAMIC", **MOE)
    layers, _ = read_draft(draft)
    held = {tensor.name for layer in layers.values() for parts in layer.stored.values() for tensor in parts.values()}
    assert held == {name for name in draft.tensors if draft.description[name] != "FLOAT"}


def test_experts_are_one_layer() -> None:
    layer = read_draft(modelslim(expert_scheme="W4A8_DYNAMIC", **MOE))[0]["model.layers.1.mlp.experts"]
    assert layer.config == {"group_size": 256, "version": "1.0.0"}
    assert set(layer.stored["w13_weight"]) == {Part(expert, segment) for expert in range(4) for segment in ("gate", "up")}
    assert set(layer.stored["w2_scale_bias"]) == {Part(expert) for expert in range(4)}
    assert layer.stored["w13_weight"][Part(2, "up")].name == "model.layers.1.mlp.experts.2.up_proj.weight"
    assert layer.fused == layer.prefix


def test_other_names_of_projections() -> None:
    draft = modelslim(expert_scheme="W8A8_DYNAMIC", model_type="minimax_m2", **MOE)
    for old, new in (("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")):
        draft.tensors = {name.replace(f"{old}.", f"{new}.") if ".experts." in name else name: tensor for name, tensor in draft.tensors.items()}
        draft.description = {name.replace(f"{old}.", f"{new}.") if ".experts." in name else name: kind for name, kind in draft.description.items()}
    layers, findings = read_draft(draft)
    assert not findings
    assert layers["model.layers.1.mlp.experts"].stored["w13_weight"][Part(3, "gate")].name.endswith("experts.3.w1.weight")


@pytest.mark.parametrize(
    ("model_type", "module", "fused", "split"),
    [
        ("qwen3_moe", "self_attn.q_proj", "self_attn.qkv_proj", "column"),
        ("qwen3_moe", "self_attn.o_proj", "self_attn.o_proj", "row"),
        ("qwen3_moe", "mlp.up_proj", "mlp.gate_up_proj", "column"),
        ("qwen3_moe", "mlp.down_proj", "mlp.down_proj", "row"),
        ("deepseek_v3", "self_attn.q_a_proj", "self_attn.fused_qkv_a_proj", "column"),
        ("deepseek_v3", "self_attn.q_b_proj", "self_attn.q_b_proj", "column"),
        ("a_type_nobody_knows", "self_attn.k_proj", "self_attn.qkv_proj", "column"),
    ],
)
def test_fused_and_split(model_type: str, module: str, fused: str, split: str) -> None:
    layer = read_draft(modelslim(model_type=model_type))[0][f"model.layers.0.{module}"]
    assert (layer.fused, layer.config["layer_type"]) == (f"model.layers.0.{fused}", split)


def test_config_of_the_model() -> None:
    layer = read_draft(fp8_block(), MAIN, "a5")[0]["layers.0.attn.wo_a"]
    assert layer.config == {"prefix": "layers.0.attn.wo_a", "o_groups": 2, "o_lora_rank": 128, "layer_type": "column"}
    assert layer.stored.keys() == {"weight", "weight_scale"}


def test_group_size_of_compressed_tensors() -> None:
    layer = read_draft(ct_experts("W4A8_DYNAMIC", group_size=0))[0]["model.layers.0.mlp.experts"]
    assert layer.config == {"quant_method": "compressed-tensors", "group_size": 0, "version": "0", "weight_strategy": "channel"}


def test_extras_are_not_the_schemes() -> None:
    draft = modelslim()
    draft.tensors |= {f"{ATTENTION}.q_proj.bias": Tensor("BF16", (512,)), f"{ATTENTION}.q_proj.surprise": Tensor("F32", (1,))}
    draft.tensors |= {f"{ATTENTION}.q_proj.div.mul_scale": Tensor("F32", (1,))}
    layers, findings = read_draft(draft)
    assert not findings
    assert layers[f"{ATTENTION}.q_proj"].stored.keys() == {"weight", "weight_scale", "weight_offset", "surprise", "div.mul_scale"}


def test_surprises_among_experts() -> None:
    draft = modelslim(**MOE)
    at = "model.layers.1.mlp.experts"
    draft.tensors |= {f"{at}.1.router.weight": Tensor("F32", (1,)), f"{at}.rotation": Tensor("F32", (1,)), f"{at}.2.w1.weight": Tensor("I8", (512, 512))}
    layer = read_draft(draft)[0][at]
    assert {"1.router.weight", "rotation", "2.w1.weight"} <= layer.stored.keys()


def test_norms_have_the_type_of_their_layer() -> None:
    draft = modelslim()
    draft.description["model.layers.0.input_layernorm.weight"] = "W8A8_DYNAMIC"
    layers, findings = read_draft(draft)
    assert not findings and len(layers) == 14


def test_only_expert_0_steers() -> None:
    draft = modelslim(**MOE)
    draft.description = {key: kind for key, kind in draft.description.items() if ".experts." not in key or ".experts.0." in key}
    layers, findings = read_draft(draft)
    assert not findings and len(layers["model.layers.1.mlp.experts"].stored["w13_weight"]) == 8


def test_float_folder() -> None:
    layers, findings = read_draft(float_model())
    assert not layers and codes(findings) == [("not-quantized", "config.json")] and findings[0].severity == "note"


def test_description_may_name_what_is_left_out() -> None:
    draft = modelslim()
    draft.description |= dict.fromkeys(("model.layers.2.eh_proj.weight", "visual.blocks.0.attn.proj.weight", "mtp.fc.weight"), "FLOAT")
    del draft.tensors["lm_head.weight"]
    assert not read_draft(draft)[1]


# --- other spellings ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "described", "stored"),
    [
        ("deepseek_v3", "model.layers.61.shared_head.head", "model.layers.61.head"),
        ("deepseek_v3", "model.layers.61.transformer.shared_head.output", "model.layers.61.shared_head.head"),
        ("deepseek_v4", "model.layers.0.self_attn.wq_a", "layers.0.attn.wq_a"),
        ("deepseek_v4", "layers.0.ffn.shared_experts.w2", "model.layers.0.mlp.shared_experts.down_proj"),
        ("step3p5_mtp", "model.layers.45.self_attn.o_proj", "model.layers.45.mtp_block.self_attn.o_proj"),
        ("qwen3_moe", "model.layers.0.eh_proj", "model.layers.0.eh_proj"),
    ],
)
def test_spellings(model_type: str, described: str, stored: str) -> None:
    tensors = {f"{stored}.weight": Tensor("I8", (64, 64)), f"{stored}.weight_scale": Tensor("BF16", (64, 1))}
    layers, findings = read_draft(Draft(tensors, {"model_type": model_type}, {f"{described}.weight": "W8A8_DYNAMIC"}))
    assert not findings and list(layers) == [stored]


def test_spellings_of_float_modules() -> None:
    names = {"embed": "model.embed_tokens", "norm": "model.norm", "layers.0.attn_norm": "model.layers.0.attn_norm"}
    draft = Draft({f"{name}.weight": Tensor("BF16", (8,)) for name in names}, {"model_type": "deepseek_v4"})
    draft.description = {f"{name}.weight": "FLOAT" for name in names.values()}
    assert [code for code, _ in codes(read_draft(draft)[1])] == ["not-quantized"]


def test_packed_weights_steer() -> None:
    tensors = {"a.o_proj.weight_packed": Tensor("I32", (64, 8)), "a.o_proj.weight_scale": Tensor("BF16", (64, 1))}
    layers, _ = read_draft(Draft(tensors, {}, {"a.o_proj.weight_packed": "W8A16"}))
    assert layers["a.o_proj"].scheme == "W8A16"


# --- one mistake, one finding -------------------------------------------------------------------------------------------------------------------------------


def describe(**kinds: str | None) -> Callable[[Draft], Any]:
    """Changes types in the description: `q_proj="FLOAT"`; None takes the keys out."""

    def plant(draft: Draft) -> None:
        for module, kind in kinds.items():
            for key in [key for key in draft.description if key.startswith("model.layers.0.") and f".{module}." in key]:
                draft.description[key] = kind
                if kind is None:
                    del draft.description[key]

    return plant


def without(*parts: str, keys: bool = False) -> Callable[[Draft], Any]:
    def plant(draft: Draft) -> None:
        for name in [name for name in draft.tensors if any(name.startswith(part) for part in parts)]:
            del draft.tensors[name]
            if keys:
                del draft.description[name]

    return plant


def setting(**values: Any) -> Callable[[Draft], Any]:
    return lambda draft: draft.description.update(values)


def adding(kinds: Mapping[str, Any], **tensors: Tensor) -> Callable[[Draft], Any]:
    def plant(draft: Draft) -> None:
        draft.description |= kinds
        draft.tensors |= {name.replace("__", "."): tensor for name, tensor in tensors.items()}

    return plant


EXPERT = "model.layers.0.mlp.experts"
WRONG: dict[str, tuple[Callable[[Draft], Any], str, str, str]] = {
    "a misspelt type": (describe(o_proj="W8A8_DYNAMC"), "scheme-unknown", f"{ATTENTION}.o_proj", "the nearest is `W8A8_DYNAMIC`"),
    "lower case": (describe(o_proj="w8a8_dynamic"), "scheme-unknown", f"{ATTENTION}.o_proj", "the nearest is `W8A8_DYNAMIC`"),
    "float, misspelt": (describe(o_proj="Float"), "scheme-unknown", f"{ATTENTION}.o_proj", "the nearest is `FLOAT`"),
    "the writer's type": (describe(o_proj="WFP8AFP8_DYNAMIC"), "scheme-unknown", f"{ATTENTION}.o_proj", "`W8A8FP8_DYNAMIC`"),
    "a scheme of experts": (describe(o_proj="W4A16_MXFP4"), "scheme-unsupported", f"{ATTENTION}.o_proj", "`W4A16_MXFP4` is for experts"),
    "another device's": (describe(o_proj="W8A8_MXFP8"), "scheme-unsupported", f"{ATTENTION}.o_proj", "have it on a5"),
    "mixed attention": (describe(k_proj="W8A8"), "mixed-schemes", f"{ATTENTION}.qkv_proj", "`k_proj`: W8A8"),
    "said to be float": (describe(o_proj="FLOAT"), "float-but-quantized", f"{ATTENTION}.o_proj", "int8"),
    "no key": (describe(o_proj=None), "description-key-missing", f"{ATTENTION}.o_proj", "has no key"),
    "no key of one member": (describe(v_proj=None), "description-key-missing", f"{ATTENTION}.v_proj", "has no key"),
    "no tensors": (without(f"{ATTENTION}.o_proj"), "description-tensor-missing", f"{ATTENTION}.o_proj", "`W8A8_DYNAMIC`"),
    "no tensors of a norm": (without("model.norm"), "description-tensor-missing", "model.norm", "`FLOAT`"),
    "no experts": (without(EXPERT), "description-tensor-missing", EXPERT, "`W8A8_DYNAMIC`"),
    "no member": (without(f"{ATTENTION}.k_proj", keys=True), "module-incomplete", f"{ATTENTION}.qkv_proj", "lacks `k_proj`"),
    "a number for a type": (setting(**{f"{ATTENTION}.q_norm.weight": 8}), "description-value", f"{ATTENTION}.q_norm.weight", "not int"),
    "a number for version": (setting(version=1.0), "description-value", "version", '"1.0.0"'),
    "a text for group_size": (setting(group_size="256"), "description-value", "group_size", "an integer"),
    "a truth for group_size": (setting(group_size=True), "description-value", "group_size", "not bool"),
    "mixed experts": (setting(**{f"{EXPERT}.3.up_proj.weight": "W4A8_DYNAMIC"}), "mixed-schemes", EXPERT, "`3.up_proj`: W4A8_DYNAMIC"),
    "one float expert": (setting(**{f"{EXPERT}.2.up_proj.weight": "FLOAT"}), "mixed-schemes", EXPERT, "FLOAT"),
    "no key of expert 0": (
        lambda draft: [draft.description.pop(f"{EXPERT}.0.{name}_proj.weight") for name in ("gate", "up", "down")],
        "description-key-missing",
        EXPERT,
        "only expert 0 is asked",
    ),
    "a quantized embedding": (
        adding({"model.embed_tokens.weight": "W8A8_DYNAMIC"}),
        "module-unsupported",
        "model.embed_tokens",
        "no quantized embedding",
    ),
    "float by its name": (
        adding({f"{MLP}.gate.weight": "W8A8_DYNAMIC", f"{MLP}.gate_extra.weight": "FLOAT"}, **{f"{MLP}.gate_extra.weight": Tensor("BF16", (4, 4))}),
        "float-by-prefix",
        f"{MLP}.gate",
        "`gate_extra` is FLOAT",
    ),
    "experts in one tensor": (
        adding({}, **{"model.layers.0.moe.experts.gate_up_proj": Tensor("I8", (4, 8, 8))}),
        "module-unsupported",
        "model.layers.0.moe.experts",
        "loaded one by one",
    ),
    "a cache nobody enables": (
        adding({f"{ATTENTION}.k_proj.kv_cache_scale": "C8"}, **{f"{ATTENTION}.k_proj.kv_cache_scale": Tensor("BF16", (256,))}),
        "cache-type-missing",
        ATTENTION,
        '"kv_cache_type": "C8"',
    ),
    "a cache without its key": (
        adding({"kv_cache_type": "C8"}, **{f"{ATTENTION}.k_proj.kv_cache_scale": Tensor("BF16", (256,))}),
        "description-key-missing",
        ATTENTION,
        "kv_cache_scale",
    ),
    "a cache of another type": (
        adding({"kv_cache_type": "C4", f"{ATTENTION}.k_proj.kv_cache_scale": "C4"}, **{f"{ATTENTION}.k_proj.kv_cache_scale": Tensor("BF16", (256,))}),
        "cache-type-missing",
        ATTENTION,
        "`C4`",
    ),
    "an attention scheme nobody has": (
        adding({"fa_quant_type": "FAKQuantt", f"{ATTENTION}.fa_k.scale": "FAKQuant"}),
        "scheme-unknown",
        ATTENTION,
        "the nearest is `FAKQuant`",
    ),
    "two formats": (
        lambda draft: draft.config.update(quantization_config={"quant_method": "compressed-tensors"}),
        "method-differs",
        "config.json",
        "unless `--quantization`",
    ),
    "no description": (
        lambda draft: setattr(draft, "description", None),
        "description-missing",
        "quant_model_description.json",
        "look quantized",
    ),
}


@pytest.mark.parametrize(("plant", "code", "where", "text"), WRONG.values(), ids=WRONG)
def test_one_mistake_one_finding(plant: Callable[[Draft], Any], code: str, where: str, text: str) -> None:
    draft = modelslim(experts=4)
    assert not read_draft(draft)[1]
    plant(draft)
    _, findings = read_draft(draft)
    assert codes(findings) == [(code, where)]
    assert text in " ".join((findings[0].message, *findings[0].notes, *findings[0].helps))


def test_what_nobody_can_load_is_no_layer() -> None:
    """Members of a mixed module would only make findings that follow from it."""
    draft = modelslim()
    describe(k_proj="W8A8")(draft)
    assert read_draft(draft)[0].keys().isdisjoint({f"{ATTENTION}.{name}_proj" for name in "qkv"})


def test_equal_findings_can_be_folded() -> None:
    """The texts of one fault in many layers differ in nothing but where they are."""
    draft = modelslim(layers=4, expert_scheme="W4A8_DYNAMIC", experts=4)
    for key in draft.description:
        if ".o_proj." in key or ".experts." in key:
            draft.description[key] = "W9A9"
    _, findings = read_draft(draft)
    assert len(findings) == 8
    assert len({(finding.code, finding.message, finding.notes, finding.helps) for finding in findings}) == 2


def test_what_an_index_lost_is_said_once() -> None:
    draft = modelslim()
    gone = [name for name in draft.tensors if name.startswith(f"{ATTENTION}.k_proj.")]
    whole = folder(draft)
    tensors = {name: tensor for name, tensor in whole.tensors.items() if name not in gone}
    assert not layers_of(Folder(Path(), tensors, whole.config, whole.description, lost=frozenset(gone)), RELEASE, "a2")[1]


def test_what_an_index_lost_of_compressed_tensors() -> None:
    whole = folder(compressed_tensors())
    gone = frozenset(name for name in whole.tensors if name.startswith(f"{ATTENTION}.k_proj."))
    kept = {name: tensor for name, tensor in whole.tensors.items() if name not in gone}
    assert codes(layers_of(Folder(Path(), kept, whole.config), RELEASE, "a2")[1]) == [("module-incomplete", f"{ATTENTION}.qkv_proj")]
    assert not layers_of(Folder(Path(), kept, whole.config, lost=gone), RELEASE, "a2")[1]


def test_a_missing_expert_is_not_said_here() -> None:
    draft = modelslim(experts=4)
    without(f"{EXPERT}.2.")(draft)
    layers, findings = read_draft(draft)
    assert not findings and len(layers[EXPERT].stored["w2_weight"]) == 3


# --- consumers and devices ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draft", "consumer", "device", "text"),
    [
        (modelslim(scheme="W4A8_DYNAMIC"), MAIN, "a2", "vllm-ascend-0.16, vllm-ascend-0.23 have it on a2, a3"),
        (modelslim(scheme="W8A8_DYNAMIC"), SEED, "310p", ""),
        (modelslim(scheme="W8A8FP8_DYNAMIC"), SEED, "a5", "vllm-ascend-0.23, vllm-ascend-main have it on a5"),
        (fp8_block(), RELEASE, "a5", ""),
        (fp8_block(), SEED, "a5", "vllm-ascend-0.23, vllm-ascend-main have it on a5"),
    ],
)
def test_who_has_a_scheme(draft: Draft, consumer: str, device: str, text: str) -> None:
    layers, findings = read_draft(draft, consumer, device)
    assert {finding.code for finding in findings} == ({"scheme-unsupported"} if text else set())
    assert bool(layers) == (not text)
    assert not text or text in " ".join(findings[0].notes)


def test_registry_agrees_with_the_specs() -> None:
    found = Registry(RELEASE, "950").find("W8A8_MXFP8", "linear", "a test")
    assert isinstance(found, Known) and found.parameters == {"weight", "weight_scale"} and "group_size" in found.config


def test_the_oldest_consumer_takes_config_json_first() -> None:
    draft = compressed_tensors()
    draft.description = dict.fromkeys(draft.tensors, "FLOAT")
    layers, findings = read_draft(draft, SEED)
    assert len(layers) == 14 and not findings
    layers, findings = read_draft(draft, RELEASE)
    assert not layers and ("method-differs", "config.json") in codes(findings)


# --- attention ----------------------------------------------------------------------------------------------------------------------------------------------


def test_c8() -> None:
    draft = modelslim()
    names = {f"{ATTENTION}.{p}_proj.kv_cache_{what}": Tensor("BF16", (256,)) for p in "kv" for what in ("scale", "offset")}
    draft.tensors |= names
    draft.description |= dict.fromkeys(names, "C8") | {"kv_cache_type": "C8"}
    layers, findings = read_draft(draft)
    assert not findings
    layer = layers[ATTENTION]
    assert (layer.scheme, layer.kind) == ("C8", "attention")
    assert {name: parts[Part()].name for name, parts in layer.stored.items()} == {
        f"{p}_cache_{what}": f"{ATTENTION}.{p}_proj.kv_cache_{what}" for p in "kv" for what in ("scale", "offset")
    }
    assert layers[f"{ATTENTION}.k_proj"].stored.keys() == {"weight", "weight_scale", "weight_offset"}


def test_latent_keys_and_indexers() -> None:
    draft = modelslim(model_type="deepseek_v32")
    keys = {f"{ATTENTION}.fa_{p}.{what}": Tensor("BF16" if what == "scale" else "I8", (4 if p == "q" else 1, 1)) for p in "qkv" for what in ("scale", "offset")}
    rotations = {f"{ATTENTION}.indexer.{p}_rot": Tensor("F32", (128, 128)) for p in "qk"}
    draft.tensors |= keys | rotations
    draft.description |= dict.fromkeys(keys, "FAKQuant") | {"fa_quant_type": "FAKQuant", "indexer_quant_type": "INT8_DYNAMIC"}
    draft.description |= {f"{ATTENTION}.indexer.quant_type": "INT8_DYNAMIC"}
    layers, findings = layers_of(folder(draft), RELEASE, "a2")
    assert not findings
    stored = {layer.scheme: set(layer.stored) for layer in layers if layer.kind == "attention"}
    assert stored == {"FAKQuant": {f"fa_{p}.{what}" for p in "qkv" for what in ("scale", "offset")}, "INT8_DYNAMIC": {"indexer.q_rot", "indexer.k_rot"}}
    assert {finding.code for finding in layers_of(folder(draft), SEED, "a2")[1]} == {"scheme-unsupported"}


# --- compressed-tensors -------------------------------------------------------------------------------------------------------------------------------------

INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False, "strategy": "channel"}
TOKENS = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"}
FLOAT8, FLOAT_TOKENS = INT8 | {"type": "float"}, TOKENS | {"type": "float"}
INT4 = INT8 | {"num_bits": 4, "strategy": "group", "group_size": 32}


def ct(module: str = "a.o_proj", **quantization: Any) -> Draft:
    """One module and one group, which may be replaced."""
    group = {"targets": ["Linear"], "weights": INT8, "input_activations": TOKENS, "format": "int-quantized"}
    config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": []}
    tensors = {f"{module}.weight": Tensor("I8", (64, 64)), f"{module}.weight_scale": Tensor("BF16", (64, 1))}
    return Draft(tensors, {"model_type": "llama", "quantization_config": config | quantization})


def group(**changes: Any) -> dict[str, Any]:
    first = {"targets": ["Linear"], "weights": INT8, "input_activations": TOKENS, "format": "int-quantized"}
    return {"config_groups": {"group_0": first | changes}}


@pytest.mark.parametrize(
    ("weights", "inputs", "layout", "module", "consumer", "scheme"),
    [
        (INT8, TOKENS, "int-quantized", "a.o_proj", RELEASE, "W8A8_DYNAMIC"),
        (INT8, TOKENS | {"strategy": "tensor", "dynamic": False}, "int-quantized", "a.o_proj", RELEASE, "W8A8"),
        (FLOAT8, FLOAT_TOKENS, "float-quantized", "a.o_proj", RELEASE, "W8A8FP8_DYNAMIC"),
        (FLOAT8, FLOAT_TOKENS, "float-quantized", "a.o_proj", SEED, "would take weights and inputs of floats for integers"),
        (INT8, FLOAT_TOKENS, "int-quantized", "a.o_proj", RELEASE, "would take inputs of floats for integers"),
        (INT8, TOKENS | {"symmetric": False}, "int-quantized", "a.o_proj", RELEASE, "no scheme for 8-bit int weights per channel"),
        (INT8 | {"strategy": "tensor"}, TOKENS, "int-quantized", "a.o_proj", RELEASE, "no scheme for 8-bit int weights per tensor"),
        (INT8, TOKENS, "pack-quantized", "a.o_proj", RELEASE, "no scheme for 8-bit int weights per channel of `pack-quantized`"),
        (INT4, None, "pack-quantized", "a.o_proj", RELEASE, "vllm-ascend-0.23 itself has no `W4A16` for linear layers: the plugin adds it"),
        (INT4 | {"actorder": "group"}, None, "pack-quantized", "a.o_proj", RELEASE, "reorders the inputs"),
        (INT4, TOKENS, "int-quantized", "a.o_proj", RELEASE, "no `W4A8_DYNAMIC` for linear layers"),
        (INT4, None, "pack-quantized", "a.experts.0.gate_proj", RELEASE, "W4A16"),
        (INT4, TOKENS, "int-quantized", "a.experts.0.gate_proj", RELEASE, "W4A8_DYNAMIC"),
        (INT4 | {"strategy": None}, None, "pack-quantized", "a.experts.0.gate_proj", RELEASE, "W4A16"),
        (INT4 | {"symmetric": False}, None, "pack-quantized", "a.experts.0.gate_proj", RELEASE, "ignores zero points"),
        (INT4 | {"actorder": "group"}, None, "pack-quantized", "a.experts.0.gate_proj", RELEASE, "reorders the inputs"),
        (INT4 | {"actorder": "static"}, None, "pack-quantized", "a.experts.0.gate_proj", RELEASE, "W4A16"),
        (
            INT4 | {"group_size": 128},
            None,
            "pack-quantized",
            "a.experts.0.gate_proj",
            RELEASE,
            "groups of 128, and vllm-ascend-0.23 takes them for groups of 32",
        ),
        (INT8, TOKENS, "marlin-24", "a.o_proj", RELEASE, "`marlin-24`"),
        ("int8", TOKENS, "int-quantized", "a.o_proj", RELEASE, "must be a mapping"),
        (INT8 | {"num_bits": "8"}, TOKENS, "int-quantized", "a.o_proj", RELEASE, "must be integers"),
        (INT8 | {"strategy": 3}, TOKENS, "int-quantized", "a.o_proj", RELEASE, "must be a text"),
    ],
)
def test_schemes_of_groups(weights: Any, inputs: Any, layout: str, module: str, consumer: str, scheme: str) -> None:
    device = "a5" if "FP8" in scheme else "a2"
    layers, findings = read_draft(ct(module, **group(weights=weights, input_activations=inputs, format=layout)), consumer, device)
    if scheme.startswith("W"):
        assert [layer.scheme for layer in layers.values()] == [scheme] and not findings
    else:
        assert len(findings) == 1 and scheme in findings[0].message


def test_a_group_size_nobody_hands_on_is_the_layers() -> None:
    """The finding says it; the layer is read as it was written, so that its shapes make no more findings."""
    layers, findings = read_draft(ct_experts("W4A16", group_size=128))
    assert {finding.code for finding in findings} == {"group-size-ignored"}
    assert layers["model.layers.0.mlp.experts"].config["group_size"] == 128


@pytest.mark.parametrize(
    ("quantization", "code"),
    [
        ({"ignore": ["a.o_proj"]}, "float-but-quantized"),
        ({"ignore": ["re:.*o_proj$"]}, "float-but-quantized"),
        (group(targets=["re:.*q_proj$"]), "float-but-quantized"),
        (group(targets=["re:a\\..*", "Linear"]), None),
        (group(targets=["a.o_proj"]), None),
        (group(targets=["re:(.*_proj)*$"]), "config-pattern"),
        (group(targets=["re:("]), "config-pattern"),
        (group(targets="Linear"), "description-value"),
        (group(targets=[1]), "description-value"),
        ({"ignore": {"a": 1}}, "description-value"),
        ({"config_groups": []}, "description-value"),
        ({"config_groups": {"group_0": 1}}, "description-value"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "format-unsupported"),
        ({"transform_config": {"R1": {}}}, "format-unsupported"),
        ({"kv_cache_scheme": TOKENS}, "format-unsupported"),
        ({"quant_method": ["fp8"]}, "description-value"),
    ],
)
def test_targets(quantization: Mapping[str, Any], code: str | None) -> None:
    layers, findings = read_draft(ct(**quantization))
    assert [finding.code for finding in findings] == ([code] if code else [])
    assert code or list(layers) == ["a.o_proj"]


def test_experts_are_asked_as_consumers_ask() -> None:
    _, findings = read_draft(ct("a.experts.0.w1", **group(targets=["re:.*w1$"])))
    assert codes(findings) == [("float-but-quantized", "a.experts")] and "gate_proj" in findings[0].notes[-1]


def test_mixed_groups() -> None:
    draft = compressed_tensors()
    draft.config["quantization_config"]["ignore"].append("re:.*k_proj")
    for name in [name for name in draft.tensors if ".k_proj." in name]:
        draft.retype(name, "BF16")
        if not name.endswith(".weight"):
            del draft.tensors[name]
    assert codes(read_draft(draft)[1]) == [("mixed-schemes", f"model.layers.{layer}.self_attn.qkv_proj") for layer in range(2)]


def test_a_float_module_that_is_said_to_be_quantized_is_a_layer() -> None:
    """Its weight has the wrong dtype, which the check of parameters says."""
    draft = compressed_tensors()
    draft.retype(f"{ATTENTION}.o_proj.weight", "BF16")
    del draft.tensors[f"{ATTENTION}.o_proj.weight_scale"]
    layers, findings = read_draft(draft)
    assert not findings and layers[f"{ATTENTION}.o_proj"].stored.keys() == {"weight"}


def test_heads_stay_float() -> None:
    assert codes(read_draft(ct("lm_head"))[1]) == [("module-unsupported", "lm_head")]


@pytest.mark.parametrize(
    ("pattern", "bounded"),
    [
        (r".*\.layers\.\d+\..*experts\.\d+\..*_proj$", True),
        (r"model\.layers\.(0|1|2)\.mlp", True),
        (r"(?:.*\.)?mlp\.gate$", True),
        (r"[^.]*\.self_attn\..*", True),
        (r"(a+)+$", False),
        (r"(a|a)*$", False),
        (r"(a?b?)*$", False),
        (r"((a+)b)+$", False),
        (r"(a+){2,}$", False),
        (r".*.*.*.*.*$", False),
        (r"\d+\d+\d+\d+\d+\d+\d+$", False),
        (r"(\*\+)*", True),
        (r"[*+|]*", True),
    ],
)
def test_patterns_are_bounded(pattern: str, bounded: bool) -> None:
    assert _is_bounded(pattern) == bounded


# --- other formats ------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "consumer", "text"),
    [
        ({"quant_method": "awq"}, RELEASE, "does not read checkpoints of `awq`"),
        ({"quant_method": "gptq"}, MAIN, "does not read checkpoints of `gptq`"),
        ({"quant_method": "bitsandbytes"}, MAIN, "does not read checkpoints of `bitsandbytes`"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, MAIN, "does not read checkpoints of `modelopt`"),
        ({"quant_method": "mxfp8"}, RELEASE, "does not read `mxfp8`"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, MAIN, "`fp8` of DeepSeek-V4 alone, and this model is `llama`"),
    ],
)
def test_formats_that_are_refused(config: Mapping[str, Any], consumer: str, text: str) -> None:
    layers, findings = read_draft(ct(**config), consumer, "a5")
    assert not layers and [finding.code for finding in findings] == ["format-unsupported"]
    assert text in findings[0].message and findings[0].helps


@pytest.mark.parametrize(
    ("change", "where", "layers_left"),
    [
        ({"expert_dtype": "fp8"}, ["layers.0.ffn.experts", "layers.1.ffn.experts"], 16),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}}, ["config.json: quantization_config"], 0),
    ],
)
def test_blocks_that_are_refused(change: Mapping[str, Any], where: list[str], layers_left: int) -> None:
    draft = fp8_block()
    draft.config |= change
    layers, findings = read_draft(draft, MAIN, "a5")
    assert len(layers) == layers_left and codes(findings) == [("format-unsupported", place) for place in where]


@pytest.mark.parametrize("config", [{"quant_method": "mxfp8"}, {"quant_method": "modelopt", "quant_algo": "mxfp8"}, {"quant_method": "modelopt_mxfp8"}])
def test_microscaled(config: Mapping[str, Any]) -> None:
    draft = modelslim(scheme="W8A8_MXFP8", **MOE)
    draft.description, draft.config = None, draft.config | {"quantization_config": config}
    layers, findings = read_draft(draft, MAIN, "a5")
    assert not findings and Counter(layer.kind for layer in layers.values()) == {"linear": 11, "moe": 1}


# --- tables -------------------------------------------------------------------------------------------------------------------------------------------------


def test_a_member_is_in_one_fused_module() -> None:
    for model_type, table in modules.FUSED.items():
        members = [member for names in table.values() for member in names]
        assert len(members) == len(set(members)), model_type


def test_optional_members_are_members() -> None:
    members = {fused: set(names) for table in (*modules.FUSED.values(), modules.FUSED_BY_DEFAULT) for fused, names in table.items()}
    assert all(optional < members[fused] for fused, optional in modules.MAY_LACK.items())


def test_names_of_experts() -> None:
    assert modules.expert_of("model.layers.3.mlp.experts.17.down_proj") == ("model.layers.3.mlp.experts", 17, "down_proj")
    for name in ("mlp.shared_experts.gate_proj", "mlp.experts.gate_up_proj", "mlp.experts.x.w1", "mlp.experts.1234567.w1", "mlp.experts.².w1", "experts.1.fc"):
        assert modules.expert_of(name) is None


# --- size ---------------------------------------------------------------------------------------------------------------------------------------------------


def many(layers: int, experts: int) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    tensors: dict[str, StoredTensor] = {}
    file = Path("model.safetensors")
    for layer in range(layers):
        for expert in range(experts):
            for projection in ("gate_proj", "up_proj", "down_proj"):
                for suffix, dtype in (("weight", "int8"), ("weight_scale", "float32"), ("weight_offset", "float32"), ("scale_bias", "float32")):
                    name = f"model.layers.{layer}.mlp.experts.{expert}.{projection}.{suffix}"
                    tensors[name] = StoredTensor(name, dtype, (64, 64), file, 0, 4096)
    return tensors, dict.fromkeys(tensors, "W4A8_DYNAMIC") | {"version": "1.0.0", "group_size": 0}


def test_many_tensors_cost_little() -> None:
    """CPU time, since the machine has other work; generous, since what must not happen is a search per tensor."""
    tensors, description = many(33, 256)
    begin = time.process_time()
    layers, findings = layers_of(Folder(Path(), tensors, {"model_type": "qwen3_moe"}, description), RELEASE, "a2")
    assert len(tensors) > 100_000 and len(layers) == 33 and not findings
    assert time.process_time() - begin < 6


def test_many_keys_cost_little() -> None:
    tensors, description = many(33, 256)
    first = {name: tensor for name, tensor in tensors.items() if ".experts.0." in name}
    begin = time.process_time()
    layers, _ = layers_of(Folder(Path(), first, {"model_type": "qwen3_moe"}, description), RELEASE, "a2")
    assert len(layers) == 33 and time.process_time() - begin < 3


def test_torch_is_not_needed() -> None:
    assert not {name for name in vars(sys.modules["layoutdsl.checkpoint.layers"]) if name in ("torch", "numpy")}


def test_modules_of_nothing() -> None:
    assert modules_of(Folder(Path(), {})) == Modules("", frozenset(), frozenset(), {}, {})
    assert codes(layers_of(Folder(Path(), {}), RELEASE, "a2")[1]) == [("not-quantized", "config.json")]
