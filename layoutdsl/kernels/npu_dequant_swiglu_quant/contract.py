"""The int32 result of a grouped matmul scaled, through swiglu, and quantized to int8 with one scale per row; torch_npu's op and vllm-ascend's of that name.

``activate_left``: silu of the first half times the second; without it, silu of the second half times the first. ``group_index`` counts the rows of a group.
Sources: torch_npu 2.13.0 schema and document; vllm-ascend 001c5b567b, csrc/torch_binding.cpp (schema of its own), ops/fused_moe path A3 (what it is given).
"""

from layoutdsl.kernels.base import ANY, Contract, LimitRow, Row

_SOURCE = "torch_npu 2.13.0, npu_dequant_swiglu_quant document"
_H = LimitRow(slug="kernel-size", test="N <= 20992")
_ALIGNED = LimitRow(slug="kernel-alignment", test="N % 128 == 0")
# They belong to swiglu_mode 1, and do nothing in mode 0.
_IDLE = {"clamp_limit": ANY, "glu_alpha": ANY, "glu_bias": ANY}
_HALVES = {True: ("gate", "up"), False: ("up", "gate")}


def _rows(source: str, consumers: tuple[str, ...] = ()) -> tuple[Row, ...]:
    return tuple(
        Row(
            name=f"int32 by group, {halves[0]} first",
            source=source,
            devices=("a2", "a3"),
            consumers=consumers,
            arguments={"weight_scale": "float32[e, n]", "x": "int32[m, n]", "activation_scale": "float32[m]", "group_index": "int64[e]"},
            required=("weight_scale", "activation_scale", "group_index"),
            constants={"activate_left": (left,), "quant_mode": (1,), **_IDLE},
            segments={"n": halves},
            derived={"h": "N // 2"},
            results=("int8[m, h]", "float32[m]"),
            quantizes=True,
            limits=(_H, _ALIGNED),
        )
        for left, halves in _HALVES.items()
    )


CONTRACT = Contract(op="npu::npu_dequant_swiglu_quant", group_list="counts", rows=_rows(_SOURCE))
OF_VLLM_ASCEND = Contract(
    op="_C_ascend::npu_dequant_swiglu_quant",
    group_list="counts",
    own_schema=(
        "_C_ascend::npu_dequant_swiglu_quant(Tensor x, *, Tensor? weight_scale=None, Tensor? activation_scale=None, Tensor? bias=None, "
        "Tensor? quant_scale=None, Tensor? quant_offset=None, Tensor? group_index=None, bool activate_left=True, int quant_mode=0, int swiglu_mode=0, "
        "float clamp_limit=0.0, float glu_alpha=1.0, float glu_bias=0.0) -> (Tensor y, Tensor scale)"
    ),
    rows=_rows("vllm-ascend 182b75ea84, ops/fused_moe, path A3; as torch_npu's op of the same name", ("vllm-ascend-0.23", "vllm-ascend-main")),
)
