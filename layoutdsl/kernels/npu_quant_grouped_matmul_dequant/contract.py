"""float16 rows quantized to int8 per row, one matmul per expert, and float16 again (310P only).

The rows of a group are cumulated, and the weight is not transposed: [e, n, k].
Sources: torch_npu 2.13.0 schema and meta function (dtypes, shapes); ops-transformer 3a280bcc aclnnQuantGroupedMatmulDequant and WeightNZ documents.
"""

from layoutdsl.kernels.base import Contract, Row

CONTRACT = Contract(
    op="npu::npu_quant_grouped_matmul_dequant",
    group_list="cumsum",
    rows=tuple(
        Row(
            name=f"int8 per row, {form}",
            source=f"torch_npu 2.13.0 meta function; ops-transformer 3a280bcc, {document} document",
            devices=("310p",),
            arguments={"quantized_weight": weight, "x": "float16[m, k]", "weight_scale": "float32[e, n]", "group_list": "int64[e]"},
            constants={"quant_mode": ("pertoken",)},
            results=("float16[m, n]",),
            sums="k",
        )
        for form, weight, document in (
            ("ND", "int8[e, n, k]", "aclnnQuantGroupedMatmulDequant"),
            ("FRACTAL_NZ", "int8[e, n, k] over nz[e, n, k]", "aclnnQuantGroupedMatmulDequantWeightNZ"),
        )
    ),
)
