"""y = (x1 @ x2 + bias) * scale for compressed int8 weights (310P only); the compression is not public, so its bytes are opaque.

Sources: torch_npu 2.13.0 schema, document and meta function; ops-nn e5c3fa93, aclnnMatmulCompressDequant document (limits).
"""

from layoutdsl.kernels.base import Contract, LimitRow, Row

CONTRACT = Contract(
    op="npu::npu_matmul_compress_dequant",
    rows=(
        Row(
            name="compressed int8",
            source="torch_npu 2.13.0, npu_matmul_compress_dequant document and meta function",
            devices=("310p",),
            # Without an offset no rank may leave the bias out.
            arguments={
                "bias": "int32[0, n]",
                "x1": "int8[m, k]",
                "x2": "opaque[b] in int8[b]",
                "compress_index": "opaque[j] in int8[j]",
                "scale": "float32[0, n] in zext uint64[0, n]",
            },
            constants={"offsetX": (None, 0)},
            results=("float16[m, n]",),
            sums="k",
            addends=("bias",),
            limits=(LimitRow(slug="kernel-alignment", test="K % 64 == 0 and K > 256 and N % 64 == 0 and N >= 128"),),
        ),
    ),
    most_tokens=256,
)
