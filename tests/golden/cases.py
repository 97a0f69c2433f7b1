"""Layers of every scheme but W4A8 that nobody recorded: sizes and configs, for the tests and for the shipped vectors. Nothing of ``layoutdsl`` is read here.

A row of ``TABLE`` names sizes and configs. Not their product is taken, but every one of both, with the systems of the recordings and both dtypes of the model
in rotation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from tests.golden.files import holds
from tests.golden.reference import HEAD, RELEASE, SEED, Case, parameters

LETTERS = {
    "K": "input_size",
    "N": "output_size",
    "E": "num_experts",
    "H": "hidden_size",
    "I": "intermediate_size_per_partition",
    "q": "num_heads",
    "kv": "num_kv_heads",
    "r": "kv_lora_rank",
    "d": "index_head_dim",
}
DTYPES = (torch.bfloat16, torch.float16)
Config = Mapping[str, Any]
Sizes = tuple[int, ...]
Given = tuple[Sizes, Config]


@dataclass(frozen=True)
class Row:
    """letters: what the sizes are. own: cases besides, whose sizes depend on the config; their system is the newest if none is given. small: the sizes of the
    shipped vectors, and own_small their cases besides."""

    letters: str
    sizes: tuple[Sizes, ...]
    small: tuple[Sizes, ...]
    configs: tuple[Config, ...] = ({},)
    own: tuple[Given, ...] = ()
    own_small: tuple[Given, ...] = ()


def cases(name: str) -> list[Case]:
    """For the tests: every config with every system and both dtypes, sizes in rotation, and every size."""
    entry = TABLE[name]
    worlds = [({**config, "consumer": consumer}, dtype) for config, consumer, dtype in product(entry.configs, holds(name), DTYPES)]
    worlds = [world for world in worlds if _exists(name, *world)]
    chosen = [(entry.sizes[i % len(entry.sizes)], *worlds[i % len(worlds)]) for i in range(max(len(worlds), len(entry.sizes)))]
    return [*(case_of(name, *each) for each in chosen), *(case_of(name, *each) for each in entry.own)]


def small_cases(name: str) -> Iterator[Case]:
    """For the vectors: every config with every system, sizes and dtypes in rotation; both dtypes where there is one system and a parameter depends on them."""
    entry, systems = TABLE[name], holds(name)
    for (i, config), (j, consumer) in product(enumerate(entry.configs), enumerate(systems)):
        world, turn = {**config, "consumer": consumer}, i + j
        dtypes = [dtype for dtype in (DTYPES[turn % 2], DTYPES[1 - turn % 2]) if _exists(name, world, dtype)]
        made = [case_of(name, entry.small[turn % len(entry.small)], world, dtype) for dtype in dtypes]
        both = len(systems) == 1 and len({str(parameters(case)) for case in made}) == 2
        yield from made if both else made[:1]
    yield from (case_of(name, *each) for each in entry.own_small)


def case_of(name: str, sizes: Sizes, config: Config, dtype: torch.dtype = DTYPES[0]) -> Case:
    """Of the newest system if the config names none."""
    scheme, _, layer = name.partition(".")
    named = {LETTERS[letter]: size for letter, size in zip(TABLE[name].letters.split(), sizes, strict=True)}
    return Case(scheme, layer, named, {"consumer": holds(name)[-1], **config}, dtype)


def _exists(name: str, config: Config, dtype: torch.dtype) -> bool:
    """There is no bfloat16 on 310P, and in the oldest system no dynamic linear layer there; MegaMoe is in the newest alone."""
    on_310p = config.get("device") == "310p"
    absent = on_310p and (dtype == torch.bfloat16 or (name == "w8a8_dynamic.linear" and config["consumer"] == SEED))
    return not absent and (config["consumer"] == HEAD or not config.get("mega_moe"))


# ---- configs and sizes ---------------------------------------------------------------------------------------------------------------------------------------

ANY = ((128, 128), (1, 1), (7, 33), (33, 7), (40, 96), (96, 40), (1000, 24), (64, 1), (1, 64))
WORDS = ((64, 64), (8, 1), (8, 24), (24, 8), (40, 7), (1000, 33), (16, 128))
BLOCKS = ((64, 64), (32, 8), (96, 5), (112, 24), (34, 40), (2, 1), (100, 33), (160, 16), (1024, 7))
EXPERTS = ((1, 1, 1), (1, 128, 128), (5, 7, 3), (2, 64, 32), (3, 24, 40), (5, 40, 96))
"""E, H, I: one expert, H = 2 I, odd ones."""
BLOCK_EXPERTS = ((1, 64, 32), (5, 96, 32), (2, 100, 36), (3, 34, 98), (1, 2, 2), (5, 160, 112))
FEW, FEW_WORDS, FEW_BLOCKS = ((10, 6), (5, 7)), ((24, 5), (8, 12)), ((64, 5), (96, 4))
FEW_EXPERTS, FEW_BLOCK_EXPERTS = ((2, 10, 6), (3, 5, 4)), ((2, 32, 18), (1, 66, 34))

CHIPS: tuple[Config, ...] = ({}, {"device": "a3", "weight_nz_mode": 0}, {"device": "310p"})
CT = {"quant_method": "compressed-tensors"}
ON_310P: tuple[Config, ...] = ({"device": "310p"}, {"device": "310p", "weight_nz_mode": 0})
FUSED: tuple[Config, ...] = (
    {},
    {"expert_lists": True},
    {"fused_mc2": 1},
    {"fused_mc2": 1, "expert_lists": True},
    {"fused_mc2": 1, "mega_moe": True},
    {"fused_mc2": 1, "mega_moe": True, "expert_lists": True},
    {"fused_mc2": 2, "weight_nz_mode": 0},
    {"mega_moe": True},
)
ROLES: tuple[Config, ...] = ({"kv_role": "consumer"}, {"kv_role": "producer"}, {"kv_role": "none", "weight_nz_mode": 0}, {})
RANKS: tuple[Config, ...] = (
    {"device": "310p"},
    {"device": "310p", "layer_type": "row"},
    {"device": "310p", "layer_type": "row", "tp_size": 4, "tp_rank": 3},
    {"device": "310p", "layer_type": "column", "tp_size": 2, "tp_rank": 1},
)
NZ: tuple[Config, ...] = ({}, {"weight_nz_mode": 0})
PACKED: tuple[Config, ...] = ({}, {"symmetric": False})
"""Of compressed-tensors: with zero points or without."""


def row(whole: int, N: int, tp: int, rank: int, **config: Any) -> Given:  # noqa: N803
    """A rank of a row layer with so many inputs over all."""
    return (whole // tp, N), {"layer_type": "row", "tp_size": tp, "tp_rank": rank, **config}


def wo_a(K: int, groups: int, rank: int, tp: int = 1) -> Given:  # noqa: N803
    """The grouped output projection of DeepSeek."""
    return (K, groups // tp * rank), {"prefix": "model.layers.3.attn.wo_a", "o_groups": groups, "o_lora_rank": rank, "tp_size": tp}


TABLE = {
    "w8a8.linear": Row("K N", ANY, FEW, (*CHIPS, CT), own=(((40, 24), {"weight_nz_mode": 2}), ((40, 24), {**CT, "weight_nz_mode": 0}))),
    "w8a8_mix.linear": Row("K N", ANY, FEW, ROLES),
    "w8a8s.linear": Row("K N", ANY, FEW, ON_310P),
    "w8a8sc.linear": Row("K N", (*ANY, (256, 128), (257, 129), (512, 384)), ((10, 6), (257, 2)), RANKS),
    "w8a8_dynamic.linear": Row("K N", ANY, FEW, CHIPS),
    "w8a16.linear": Row("K N", ANY, FEW, NZ),
    "w8a8fp8_dynamic.linear": Row("K N", ANY, FEW),
    "w8a8_dynamic.moe": Row("E H I", EXPERTS, FEW_EXPERTS, (*FUSED, *ON_310P)),
    "w8a8_mix.moe": Row("E H I", EXPERTS, FEW_EXPERTS, FUSED),
    "w8a8fp8_dynamic.moe": Row("E H I", EXPERTS, FEW_EXPERTS, FUSED),
    "w4a4_dynamic.linear": Row("K N", WORDS, FEW_WORDS),
    "w4a4_flatquant_dynamic.linear": Row("K N", (*WORDS, (168, 5), (104, 8), (72, 8), (1024, 3), (3072, 2), (7168, 1)), ((40, 5), (24, 3))),
    "w4a16.moe": Row(
        "E H I",
        ((1, 32, 32), (5, 96, 64), (2, 64, 32), (3, 32, 160)),
        ((2, 64, 32), (1, 32, 64)),
        own=(((2, 128, 192), {"group_size": 64}), ((1, 256, 128), {"group_size": 128}), ((2, 128, 128), {"group_size": 128, "consumer": SEED})),
    ),
    "w4a16.linear": Row(
        "K N",
        ((128, 64), (384, 8), (256, 24), (1024, 40)),
        ((128, 16), (256, 8)),
        ({}, {"symmetric": False}),
        own=(
            *(((96, 40), {"group_size": 32, **asked}) for asked in PACKED),
            *(((24, 8), {"group_size": 8, **asked}) for asked in PACKED),
            *(((K, N), {"weight_strategy": "channel", **asked}) for K, N in ((8, 8), (40, 16), (1000, 24)) for asked in PACKED),
            row(512, 16, 4, 2, symmetric=False),
        ),
        own_small=(
            ((64, 16), {"group_size": 32, "symmetric": False}),
            *(((24, 16), {"weight_strategy": "channel", **asked}) for asked in PACKED),
        ),
    ),
    "w8a8_mxfp8.linear": Row("K N", (*BLOCKS, (33, 5), (1, 1), (65, 3)), FEW_BLOCKS),
    "w4a4_mxfp4.linear": Row("K N", BLOCKS, FEW_BLOCKS),
    "w4a8_mxfp.linear": Row("K N", BLOCKS, FEW_BLOCKS, NZ),
    "w4a4_mxfp4_flatquant.linear": Row(
        "K N",
        ((64, 64), (36, 5), (100, 8), (12, 24), (44, 1), (96, 33), (168, 16), (4096, 2)),
        ((36, 5), (12, 3)),
        own=(
            row(64, 8, 1, 0),
            *(row(64, 8, 2, rank) for rank in range(2)),
            *(row(128, 8, 4, rank) for rank in range(4)),
            row(384, 5, 4, 2),
            row(3072, 3, 4, 3, consumer=RELEASE),
            row(20736, 2, 4, 1),  # a left side of 256, whatever the factors
            row(256, 8, 8, 5, max_supported_tp=8),
            row(192, 8, 2, 1, max_supported_tp=2),
            row(400, 8, 1, 0, max_supported_tp=1),
            ((64, 8), {"tp_size": 4, "tp_rank": 3}),
        ),
        own_small=(row(64, 5, 1, 0), row(64, 3, 2, 1), row(128, 5, 4, 2), row(128, 3, 4, 3, consumer=RELEASE)),
    ),
    "w8a8_mxfp8.moe": Row("E H I", (*BLOCK_EXPERTS, (2, 33, 65)), FEW_BLOCK_EXPERTS),
    "w4a4_mxfp4.moe": Row("E H I", BLOCK_EXPERTS, FEW_BLOCK_EXPERTS),
    "w4a8_mxfp.moe": Row("E H I", BLOCK_EXPERTS, FEW_BLOCK_EXPERTS, NZ),
    "fp8.ds_w4a8_moe": Row("E H I", BLOCK_EXPERTS, FEW_BLOCK_EXPERTS),
    "w4a16_mxfp4.moe": Row("E H I", ((1, 64, 32), (5, 96, 32), (2, 104, 36), (3, 40, 100), (1, 8, 4)), ((2, 32, 20), (1, 72, 36))),
    "fp8.ds_linear": Row(
        "K N",
        ((128, 128), (384, 256), (256, 640), (512, 128), (192, 128), (160, 300), (129, 1)),
        ((128, 256),),
        own=(wo_a(256, 8, 128, 2), wo_a(128, 4, 256, 4), wo_a(384, 2, 64), wo_a(96, 2, 128)),
        own_small=(wo_a(128, 4, 64, 2),),
    ),
    "fakquant.attention": Row(
        "q kv r d", ((16, 1, 512, 128), (1, 1, 1, 1), (5, 1, 33, 64), (128, 1, 64, 32)), ((5, 1, 12, 8),), ({}, {"device": "a3"}, {"device": "a5"})
    ),
    "int8_dynamic.attention": Row("q kv r d", ((4, 1, 32, 128), (1, 1, 1, 1), (5, 1, 33, 7)), ((2, 1, 4, 6),)),
    "c8.attention": Row("q kv r d", ((8, 8, 1, 128), (1, 1, 1, 1), (5, 5, 2, 7), (32, 4, 64, 16)), ((4, 2, 8, 5),)),
}
