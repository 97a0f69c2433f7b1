"""y = silu(gate) * up, gate being the first half of the last dim of the input and up the second.

Sources: torch_npu 2.13.0 schema; op-plugin 517f2e7d test of npu_swiglu (silu on the first half).
"""

from layoutdsl.kernels.base import Contract, Row

CONTRACT = Contract(
    op="npu::npu_swiglu",
    rows=(
        Row(
            name="halves of the last dim",
            source="torch_npu 2.13.0, npu_swiglu document; that devices other than a2 have it is read from vllm-ascend 182b75ea84, which calls it there",
            devices=("a2", "a3", "a5", "310p"),
            arguments={"input": "T[m, n]"},
            dtypes={"T": ("bfloat16", "float16", "float32")},
            segments={"n": ("gate", "up")},
            derived={"h": "N // 2"},
            results=("T[m, h]",),
        ),
    ),
)
