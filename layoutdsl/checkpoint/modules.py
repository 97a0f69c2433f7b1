"""What is known of module names: which ones loaders fuse, which belong to an expert, which are split along the inputs, which tensors nobody quantizes.

Data only, for ``grouping`` and the readers of the formats. Names are those of checkpoints. Sources: the tables of vllm-ascend 0.23.0
(quantization/modelslim_config.py) and 182b75ea84, vLLM 0.23's ``packed_modules_mapping`` of dense models, and msModelSlim 26.1, the writer.
Invariants: a module name has one meaning per model type; nothing here depends on a layer's number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from layoutdsl.checkpoint.model import Part

FLOAT: Final = "FLOAT"
"""ModelSlim's word for a module that is not quantized."""

# ---- fused modules ----------------------------------------------------------------------------------------------------------------------------------

_QKV: Final[dict[str, tuple[str, ...]]] = {"qkv_proj": ("q_proj", "k_proj", "v_proj")}
_GATE_UP: Final[dict[str, tuple[str, ...]]] = {"gate_up_proj": ("gate_proj", "up_proj")}
_QKV_A: Final[dict[str, tuple[str, ...]]] = {"fused_qkv_a_proj": ("q_a_proj", "kv_a_proj_with_mqa")}
_ATTN_QKV: Final[dict[str, tuple[str, ...]]] = {"attn_qkv_proj": ("attn_q_proj", "attn_k_proj", "attn_v_proj")}
_DENSE: Final[dict[str, tuple[str, ...]]] = _QKV | _GATE_UP
_MLA: Final[dict[str, tuple[str, ...]]] = _GATE_UP | _QKV_A
_DELTA: Final[dict[str, tuple[str, ...]]] = {"in_proj_qkvz": ("in_proj_qkv", "in_proj_z"), "in_proj_ba": ("in_proj_b", "in_proj_a")}


def _each(pattern: Mapping[str, tuple[str, ...]], *model_types: str) -> dict[str, Mapping[str, tuple[str, ...]]]:
    return dict.fromkeys(model_types, pattern)


FUSED: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    **_each(_DENSE, "qwen3_moe", "qwen3_vl_moe", "glm4_moe", "glm4v_moe", "glm4v_moe_text", "gemma4", "gemma4_text", "step3p5", "step3p5_mtp"),
    **_each(_DENSE, "qwen2_5_vl", "minimax_m3", "minimax_m3_vl", "llama", "mistral", "qwen2", "qwen2_moe", "qwen3"),
    **_each(_DENSE | _DELTA, "qwen3_5", "qwen3_5_moe"),
    **_each(_DENSE | {"in_proj": ("in_proj_qkvz", "in_proj_ba")}, "qwen3_next"),
    **_each(_MLA, "deepseek_v2", "deepseek_v3", "deepseek_v32", "pangu_ultra_moe", "pangu_ultra_moe_mtp", "kimi_k2", "glm_moe_dsa", "glm4_moe_lite"),
    **_each(_MLA, "longcat_flash", "bailing_hybrid"),
    **_each(_GATE_UP, "deepseek_mtp"),
    **_each(_GATE_UP | {"gate_up_proj.w": ("w1", "w3")}, "deepseek_v4"),
    **_each(_QKV, "minimax_m2", "mixtral"),
    **_each(_DENSE | _ATTN_QKV, "qwen3_omni_moe"),
    **_each(_DENSE | _ATTN_QKV | {"qkv": ("q", "k", "v")}, "qwen2_5_omni"),
}
"""Per model type: the fused module and what is loaded into it. A name behind a dot (``gate_up_proj.w``) only tells two spellings of one module apart."""

FUSED_BY_DEFAULT: Final[Mapping[str, tuple[str, ...]]] = _DENSE | _QKV_A
"""For model types that the table lacks; that all members are there is then assumed, not known."""

MAY_LACK: Final[Mapping[str, frozenset[str]]] = {
    "fused_qkv_a_proj": frozenset({"q_a_proj"}),  # a model without a low rank for queries has kv_a_proj_with_mqa alone
    "qkv_proj": frozenset({"v_proj"}),  # gemma4 takes its values from its keys
}
"""Members that a right model may lack."""

# ---- experts ----------------------------------------------------------------------------------------------------------------------------------------

EXPERTS: Final = ".experts."
PROJECTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "gate_proj": ("w13", "gate"),
    "up_proj": ("w13", "up"),
    "down_proj": ("w2", ""),
    "w1": ("w13", "gate"),
    "w3": ("w13", "up"),
    "w2": ("w2", ""),
}
"""The modules of one expert: which matrix of the layer they are part of, and which segment of its outputs."""

# ---- how a linear layer is split --------------------------------------------------------------------------------------------------------------------

ROW: Final = frozenset({"o_proj", "down_proj", "out_proj", "dense", "wo", "wo_b", "w2", "fc2", "linear_fc2", "c_proj", "dense_4h_to_h", "proj"})
"""Modules whose inputs are split over ranks (``w2``: of a dense or shared mlp). All other linear modules are split by their outputs, or not at all."""

REPLICATED: Final = frozenset({"q_a_proj", "kv_a_proj_with_mqa", "wq_a", "wkv", "gate", "shared_expert_gate", "eh_proj", "wk", "weights_proj"})
"""Modules that every rank holds whole. An indexer's modules are whole as well, whatever their names."""

LINEAR: Final = frozenset(
    {
        *(member for pattern in FUSED.values() for members in pattern.values() for member in members if len(member) > 1),
        *("o_proj", "down_proj", "out_proj", "q_b_proj", "kv_b_proj", "wq_a", "wq_b", "wkv", "wo_a", "wo_b", "w1", "w2", "w3"),
    }
)
"""Names that only linear modules have: said to be quantized, they must be, whatever their tensors look like."""

HEADS: Final = frozenset({"lm_head", "head", "output"})
EMBEDDINGS: Final = frozenset({"embed_tokens", "embed", "word_embeddings", "wte", "embedding"})

# ---- tensors ----------------------------------------------------------------------------------------------------------------------------------------

QUANTIZED_DTYPES: Final = frozenset({"int8", "uint8", "int32", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float4_e2m1fn_x2"})
QUANTIZED_SUFFIXES: Final = frozenset(
    {"weight_packed", "weight_scale", "weight_scale_inv", "weight_scale_second", "deq_scale", "scale_bias", "qweight", "qzeros", "weight_global_scale"}
)
"""What shows that a module is quantized: the dtype of its weight, or a tensor that no float module has."""

EXTRAS: Final = frozenset(
    {
        *("bias",),  # the layer's own, float; loaded by the layer, not by its scheme
        *("weight_shape", "weight_g_idx", "g_idx"),  # notes of the packer; what an order of activations means is refused where the config names it
        *("kv_cache_scale", "kv_cache_offset", "k_scale", "v_scale", "q_scale", "output_scale"),  # of the cache, stored below k_proj and v_proj
    }
)
"""Tensors below a quantized module that are not its scheme's. Where a spec declares one, the spec wins."""

VISION: Final = ("visual.", "vision_tower.", "vision_model.", "model.visual.", "model.vision_tower.", "multi_modal_projector.", "audio_tower.", "mm_projector.")
MTP: Final = ("mtp.", "model.mtp.", "mtp_layers.")
"""Parts that a description may name though the folder leaves them out."""

# ---- attention --------------------------------------------------------------------------------------------------------------------------------------

C8_NAMES: Final[Mapping[str, str]] = {
    "k_cache_scale": "k_proj.kv_cache_scale",
    "k_cache_offset": "k_proj.kv_cache_offset",
    "v_cache_scale": "v_proj.kv_cache_scale",
    "v_cache_offset": "v_proj.kv_cache_offset",
}
"""The parameters of C8 and what ModelSlim calls them (0.23, ``get_cache_scale``)."""

# ---- names of descriptions --------------------------------------------------------------------------------------------------------------------------

CANONICAL: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "": ((".transformer.shared_head.output.", ".shared_head.head."), (".transformer.shared_head.norm.", ".shared_head.norm."), (".shared_head.", ".")),
    "deepseek_v4": (
        (".attn.", ".self_attn."),
        (".ffn.", ".mlp."),
        (".w1.", ".gate_proj."),
        (".w2.", ".down_proj."),
        (".w3.", ".up_proj."),
        ("^embed.", "^model.embed_tokens."),
        ("^head.", "^lm_head."),
        ("^layers.", "^model.layers."),
        ("^norm.", "^model.norm."),
    ),
    "step3p5_mtp": ((".mtp_block.", "."), ("^language_model.", "^")),
    "gemma4": ((".moe.experts.", ".experts."),),
    "gemma4_text": ((".moe.experts.", ".experts."),),
    "qwen3_5_moe": (("^language_model.lm_head.", "^lm_head."),),
    "qwen3_vl_moe": (("^language_model.lm_head.", "^lm_head."),),
}
"""Spellings that consumers take for one: replaced from left to right in ``^`` + name + ``.``. The first row is for all model types."""

WRITER_TYPES: Final[Mapping[str, str]] = {"WFP8AFP8_DYNAMIC": "W8A8FP8_DYNAMIC"}
"""Types that msModelSlim 26.1 writes and no registry has, and the one that means the same."""

REGISTRY_KEYS: Final[Mapping[tuple[str, str, str], tuple[str, str]]] = {
    ("vllm-ascend-0.23", "fp8", "ds_linear"): ("FP8", "ds_linear"),
    ("vllm-ascend-0.23", "fp8", "ds_w4a8_moe"): ("FP8", "w4a8_moe"),
}
"""(consumer, scheme, kind) and the key under which that consumer has it, where it differs from ours."""


def fused_of(model_type: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Member name to (fused name, all members), for a model type."""
    table = FUSED.get(model_type, FUSED_BY_DEFAULT)
    return {member: (fused.partition(".")[0], members) for fused, members in table.items() for member in members}


def canonical(module: str, model_type: str) -> str:
    """One name for all spellings of a module that the consumers take for one."""
    name = f"^{module}."
    for old, new in (*CANONICAL[""], *CANONICAL.get(model_type, ())):
        name = name.replace(old, new)
    return name[1:-1]


def expert_of(module: str) -> tuple[str, int, str] | None:
    """(``model.layers.3.mlp.experts``, 7, ``gate_proj``) of ``model.layers.3.mlp.experts.7.gate_proj``; None for anything else."""
    head, mark, rest = module.rpartition(EXPERTS)
    if not mark:
        return None
    number, _, projection = rest.partition(".")
    if projection not in PROJECTIONS or len(number) > 6 or not (number.isascii() and number.isdigit()):
        return None
    return head + mark[:-1], int(number), projection


_PARTS: dict[tuple[int, str], Part] = {}


def part_of(expert: int, segment: str) -> Part:
    """The one Part of an expert and a segment: a checkpoint has hundreds of thousands of tensors but few parts."""
    found = _PARTS.get((expert, segment))
    if found is None:
        found = _PARTS[expert, segment] = Part(expert, segment)
    return found


def layer_type(module: str) -> str:
    """``row`` for a module whose inputs are split over ranks, else ``column``."""
    return "row" if module.rpartition(".")[2] in ROW else "column"


def is_replicated(module: str) -> bool:
    """Does every rank hold the module whole?"""
    parent, _, last = module.rpartition(".")
    return last in REPLICATED or parent.endswith(".indexer")
