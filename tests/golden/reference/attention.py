"""What attention layers quantize: the latent keys of MLA, the rotation of an indexer, and the int8 cache of keys and values."""

from __future__ import annotations

import torch

from tests.golden.reference.layer import Case, Declared, Layer, Stored, Tensors, f32, i8, layer_of


def fakquant_parameters(case: Case) -> Declared:
    heads = {"fa_q": case.sizes["num_heads"], "fa_k": case.sizes["num_kv_heads"], "fa_v": case.sizes["num_kv_heads"]}
    if heads["fa_k"] != 1:
        raise ValueError("only for one latent head of keys")
    return {f"{part}.{what}": Stored((count, 1), dtype) for part, count in heads.items() for what, dtype in (("scale", case.params), ("offset", i8))}


def fakquant(case: Case, given: Tensors) -> Layer:
    layer = layer_of(case, given)
    scale = given["fa_k.scale"].squeeze().unsqueeze(0)
    layer.tensors["fak_descale_float"] = scale.to(f32)
    layer.tensors["fak_descale"] = scale
    exact = scale.to(f32) if case.config.get("device") == "a5" else scale
    layer.attribute("fak_descale_reciprocal", torch.reciprocal(exact), computed=True)
    layer.tensors["fak_offset"] = given["fa_k.offset"].squeeze().unsqueeze(0).to(case.params)
    rank = case.sizes["kv_lora_rank"]
    layer.attribute("quant_kscale", torch.reciprocal(scale.repeat(rank).view(1, rank).to(f32)), computed=True)
    layer.computed.add("fak_descale_float")
    return layer


def indexer_parameters(case: Case) -> Declared:
    """Nothing reads them any more; they are there so that what the checkpoint holds has a place."""
    size = case.sizes["index_head_dim"]
    return {f"indexer.{name}_rot": Stored((size, size), f32) for name in ("q", "k")}


def c8_parameters(case: Case) -> Declared:
    """Created with one value, but the loader puts what the checkpoint holds in their place: recorded with a value per head of keys and per place in it."""
    shape = (case.sizes["num_kv_heads"], case.sizes["index_head_dim"])
    return {f"{part}_cache_{what}": Stored(shape, case.params) for part in ("k", "v") for what in ("scale", "offset")}


def c8(case: Case, given: Tensors) -> Layer:
    layer = layer_of(case, given)
    for name, tensor in given.items():
        layer.tensors[name] = tensor.flatten()
    return layer


SCHEMES = {
    "fakquant.attention": (fakquant_parameters, fakquant),
    "int8_dynamic.attention": (indexer_parameters, layer_of),
    "c8.attention": (c8_parameters, c8),
}
