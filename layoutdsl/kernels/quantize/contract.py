"""npu_quantize without ``div_mode``, as one op of vLLM's library: the scale itself is there for graph passes, what is computed is x * reciprocal + offset.

Source: vllm-ascend 182b75ea84, ops/register_custom_ops.py (the schema is what torch infers from its function).
"""

from layoutdsl.kernels.base import Contract, Row

CONTRACT = Contract(
    op="vllm::quantize",
    own_schema="vllm::quantize(Tensor in_tensor, Tensor input_scale, Tensor input_scale_reciprocal, Tensor input_offset) -> Tensor",
    rows=(
        Row(
            name="int8 per column",
            source="vllm-ascend 182b75ea84, ops/register_custom_ops.py",
            devices=("a2", "a3", "a5", "310p"),
            arguments={"in_tensor": "T[m, k]", "input_scale": "T[k]", "input_scale_reciprocal": "T[k]", "input_offset": "T[k]"},
            dtypes={"T": ("bfloat16", "float16")},
            reciprocal=("input_scale_reciprocal",),
            results=("int8[m, k]",),
        ),
    ),
)
