"""grouped_matmul_swiglu_quant_weight_nz with one int8 weight and one scale per expert; an op of vllm-ascend's own library.

Sources: vllm-ascend 001c5b567b, csrc/torch_binding.cpp (schema) and grouped_matmul_swiglu_quant_torch_adpt.h (results; int8 only).
"""

from layoutdsl.kernels.base import ANY, Contract
from layoutdsl.kernels.swiglu_quant_rows import int8_row, listed

_SOURCE = "vllm-ascend 182b75ea84, ops/fused_moe, path A1; the layouts are those of npu_grouped_matmul_swiglu_quant, by expert"

CONTRACT = Contract(
    op="_C_ascend::grouped_matmul_swiglu_quant_weight_nz_tensor_list",
    group_list="cumsum",
    own_schema=(
        "_C_ascend::grouped_matmul_swiglu_quant_weight_nz_tensor_list(Tensor x, Tensor[] weight, Tensor[] weight_scale, Tensor x_scale, Tensor group_list, *, "
        "Tensor? bias=None, Tensor? offset=None, float swiglu_limit=0.0) -> (Tensor output, Tensor output_scale, Tensor output_offset)"
    ),
    rows=tuple(listed(int8_row(_SOURCE, ("int8[m, h]", "float32[m]", ""), constants={"swiglu_limit": ANY}))),
)
