"""npu_grouped_matmul_swiglu_quant with a cap, ``swiglu_limit``, as one op of vllm-ascend's own library.

Sources: vllm-ascend 001c5b567b, csrc/torch_binding.cpp (schema) and grouped_matmul_swiglu_quant_torch_adpt.h (it calls the kernel of torch_npu's op).
"""

from typing import Any

from layoutdsl.kernels.base import ANY, Contract
from layoutdsl.kernels.swiglu_quant_rows import int4_rows, int8_row

_SOURCE = "vllm-ascend 182b75ea84, device/device_op.py; the layouts are those of npu_grouped_matmul_swiglu_quant, whose kernel it calls"
_RESULTS = ("int8[m, h]", "float32[m]", "")
_FIELDS: dict[str, Any] = {"consumers": ("vllm-ascend-0.23", "vllm-ascend-main"), "constants": {"swiglu_limit": ANY}}

CONTRACT = Contract(
    op="_C_ascend::grouped_matmul_swiglu_quant_weight_nz",
    group_list="cumsum",
    own_schema=(
        "_C_ascend::grouped_matmul_swiglu_quant_weight_nz(Tensor x, Tensor weight, Tensor weight_scale, Tensor x_scale, Tensor group_list, *, "
        "Tensor? bias=None, Tensor? offset=None, float swiglu_limit=0.0) -> (Tensor output, Tensor output_scale, Tensor output_offset)"
    ),
    rows=(int8_row(_SOURCE, _RESULTS, **_FIELDS), *int4_rows(_SOURCE, _RESULTS, "bias", **_FIELDS)),
)
