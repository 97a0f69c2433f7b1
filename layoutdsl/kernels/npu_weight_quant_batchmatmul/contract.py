"""y = x @ ((weight + antiquant_offset) * antiquant_scale) + bias, x in float16 or bfloat16.

Sources: torch_npu 2.13.0 schema; op-plugin 517f2e7d WeightQuantBatchMatmulV2KernelNpuOpApi.cpp (checks), ops-nn e5c3fa93 aclnnWeightQuantBatchMatmulV2
(documented limits).
"""

from layoutdsl.kernels.base import Contract, LimitRow, Row

_DOCUMENT = "ops-nn e5c3fa93, aclnnWeightQuantBatchMatmulV2 document"
_SCALE = "x_dtype[k//g, n]"
_GROUPS = LimitRow(slug="group-size", test="g % 32 == 0 and g >= 32 and g < K")

CONTRACT = Contract(
    op="npu::npu_weight_quant_batchmatmul",
    parameters=(
        "x",
        "weight",
        "antiquant_scale",
        "antiquant_offset",
        "quant_scale",
        "quant_offset",
        "bias",
        "antiquant_group_size",
        "inner_precise",
        "weight_dtype",
    ),
    rows=(
        Row(
            name="int4 per group, ND",
            devices=("a2", "a3"),
            arguments={"weight": "int4[k, n] in int32[k, n//8 | n%8]", "antiquant_scale": _SCALE, "antiquant_offset": _SCALE},
            integers={"g": "antiquant_group_size"},
            limits=(_GROUPS,),
            required=("antiquant_scale",),
            source=_DOCUMENT,
        ),
        Row(
            name="int4 per group, FRACTAL_NZ",
            devices=("a2", "a3"),
            arguments={"weight": "int4[k, n] in int32[k, n//8 | n%8] over nz[k, n//8]", "antiquant_scale": _SCALE, "antiquant_offset": _SCALE},
            integers={"g": "antiquant_group_size"},
            limits=(
                LimitRow(slug="nz-group-size", test="g in [64, 128]"),
                LimitRow(slug="nz-alignment", test="K % g == 0 and N % 64 == 0"),
            ),
            required=("antiquant_scale",),
            source=_DOCUMENT + "; users' reports of `antiquantGroupSize should be 128 or 64`",
        ),
        Row(
            name="int4 per group, ND, transposed view",
            devices=("a2", "a3"),
            arguments={
                "weight": "int4[k, n] in int32[k//8, n | k%8] over [n, k//8]",
                "antiquant_scale": "x_dtype[k//g, n] over [n, k//g]",
                "antiquant_offset": "x_dtype[k//g, n] over [n, k//g]",
            },
            integers={"g": "antiquant_group_size"},
            limits=(_GROUPS,),
            required=("antiquant_scale",),
            source=_DOCUMENT,
        ),
        Row(
            name="int8 per channel, ND",
            devices=("a2", "a3"),
            arguments={"weight": "int8[k, n]", "antiquant_scale": "x_dtype[n]", "antiquant_offset": "x_dtype[n]"},
            integers={},
            required=("antiquant_scale",),
            source=_DOCUMENT,
        ),
        Row(
            name="int8 per channel, ND, transposed view",
            devices=("a2", "a3"),
            arguments={"weight": "int8[k, n] over [n, k]", "antiquant_scale": "x_dtype[n, 0]", "antiquant_offset": "x_dtype[n, 0]"},
            integers={},
            required=("antiquant_scale",),
            source=_DOCUMENT,
        ),
        Row(
            name="int8 per channel, FRACTAL_NZ",
            devices=("a2", "a3"),
            arguments={"weight": "int8[k, n] over nz[k, n]", "antiquant_scale": "x_dtype[n]", "antiquant_offset": "x_dtype[n]"},
            integers={},
            required=("antiquant_scale",),
            source=_DOCUMENT,
        ),
        Row(
            name="int8 per channel, FRACTAL_NZ, transposed view",
            devices=("310p",),
            arguments={"weight": "int8[k, n] over nz[n, k]", "antiquant_scale": "x_dtype[n]", "antiquant_offset": "x_dtype[n]"},
            integers={},
            required=("antiquant_scale",),
            source=_DOCUMENT,
        ),
    ),
)
