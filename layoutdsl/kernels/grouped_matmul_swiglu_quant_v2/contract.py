"""Grouped matmul of int8 rows, swiglu of its halves, and int8 rows with one scale per row again; one tensor of all experts, or one per expert.

An op of vllm-ascend's own library. int4 weights: ``weight_assist_matrix`` = 8 * sum_k weight * scale is required; x is split in a workspace and stays.
Sources: vllm-ascend 001c5b567b, csrc/torch_binding.cpp (schema) and a8w4_msd_pre.h; vllm-ascend 182b75ea84, ops/fused_moe (what it is given). That the layouts
are those of torch_npu's op of this name is assumed.
"""

from typing import Any

from layoutdsl.kernels.base import ANY, Contract
from layoutdsl.kernels.swiglu_quant_rows import int4_rows, int8_row, listed

_SOURCE = "vllm-ascend 182b75ea84, ops/fused_moe, path C-W4A8; the layouts are assumed to be those of torch_npu's op of the same name"
_RESULTS = ("int8[m, h]", "float32[m]")
_FIELDS: dict[str, Any] = {
    "consumers": ("vllm-ascend-0.23", "vllm-ascend-main"),
    "constants": {"dequant_mode": (0,), "group_list_type": (0, 1), "swiglu_limit": ANY},
}
_ROWS = (int8_row(_SOURCE, _RESULTS, **_FIELDS), *int4_rows(_SOURCE, _RESULTS, "weight_assist_matrix", ("ND", "FRACTAL_NZ"), **_FIELDS))

CONTRACT = Contract(
    op="_C_ascend::grouped_matmul_swiglu_quant_v2",
    own_schema=(
        "_C_ascend::grouped_matmul_swiglu_quant_v2(Tensor x, Tensor[] weight, Tensor[] weight_scale, Tensor x_scale, Tensor group_list, "
        "Tensor? smooth_scale=None, Tensor[]? weight_assist_matrix=None, Tensor? bias=None, int? dequant_mode=0, int? dequant_dtype=0, int? quant_mode=0, "
        "int? quant_dtype=0, bool transpose_weight=False, int group_list_type=0, int[2] tuning_config=[], float swiglu_limit=0.0) -> "
        "(Tensor output, Tensor output_scale)"
    ),
    rows=(*_ROWS, *listed(*_ROWS)),
)
