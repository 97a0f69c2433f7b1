"""swiglu of the halves of rows, quantized to e4m3 with one exponent per 32 columns; vllm-ascend's op.

Sources: vllm-ascend 001c5b567b, csrc/torch_binding.cpp (schema); vllm-ascend 182b75ea84, ops/fused_moe, W4A8MXFP (what it is given). That the exponents lie as
npu_dynamic_mx_quant makes them is read from vllm-ascend's test, which compares with that op. The third result means nothing without ``output_origin``.
"""

from layoutdsl.kernels.base import ANY, Contract, LimitRow, Row

CONTRACT = Contract(
    op="_C_ascend::npu_swiglu_group_quant",
    own_schema=(
        "_C_ascend::npu_swiglu_group_quant(Tensor x, Tensor? topk_weight, Tensor? group_index, ScalarType dst_type=39, int quant_mode=1, int group_size=128, "
        "bool round_scale=False, bool ue8m0_scale=False, bool output_origin=False, int group_list_type=0, float clamp_value=0.0) -> "
        "(Tensor y, Tensor scale, Tensor y_origin)"
    ),
    rows=(
        Row(
            name="mx e4m3",
            source="vllm-ascend 182b75ea84, ops/fused_moe, W4A8MXFP",
            devices=("a5",),
            consumers=("vllm-ascend-0.23", "vllm-ascend-main"),
            arguments={"x": "T[m, n]"},
            dtypes={"T": ("bfloat16", "float16")},
            constants={"dst_type": ("e4m3",), "quant_mode": (2,), "clamp_value": ANY},
            segments={"n": ("gate", "up")},
            derived={"h": "N // 2"},
            results=("e4m3[m, h]", "e8m0[m, h//32] in float8_e8m0fnu[m, h//64, h//32%2] pad h to 64", ""),
            limits=(LimitRow(slug="kernel-alignment", test="N % 128 == 0"),),
            quantizes=True,
        ),
    ),
)
