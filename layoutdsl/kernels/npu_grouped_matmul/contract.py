"""One matmul per expert over rows sorted by expert; here the rows for int8 tokens times int4 weights (A8W4).

y = (16 * C_hi + C_lo + bias) * per_token_scale with x = 16 * hi + lo + 8, so ``bias`` = 8 * sum_k weight * scale is required.
Sources: torch_npu 2.13.0 schema; ops-transformer 3a280bcc aclnnGroupedMatmulV5 document and kernel grouped_matmul_antiquant_a8w4_msd.h.
"""

from layoutdsl.kernels.base import Contract, LimitRow, Row

_DOCUMENT = "ops-transformer 3a280bcc, aclnnGroupedMatmulV5 document, A8W4 rows"
_LIMITS = (LimitRow(slug="a8w4-k", test="K <= 18432"),)
_GROUPED = (*_LIMITS, LimitRow(slug="a8w4-group-size", test="g == 256"))
_WEIGHTS = {"ND": "int4[e, k, n] in int32[e, k, n//8 | n%8]", "FRACTAL_NZ": "int4[e, k, n] in int32[e, k, n//8 | n%8] over nz[e, k, n//8]"}
_ELEMENTS = {"ND": "int4[k, n] in int32[k, n//8 | n%8]", "FRACTAL_NZ": "int4[k, n] in int32[k, n//8 | n%8] over nz[k, n//8]"}
_SCALES = {
    "per channel": ("float32[e, 0, n] in zext int64[e, 0, n]", "float32[0, n] in zext int64[0, n]", _LIMITS),
    "per group": ("float32[e, k//g, n] in zext int64[e, k//g, n]", "float32[k//g, n] in zext int64[k//g, n]", _GROUPED),
}

CONTRACT = Contract(
    op="npu::npu_grouped_matmul",
    parameters=(
        "x",
        "weight",
        "bias",
        "scale",
        "offset",
        "antiquant_scale",
        "antiquant_offset",
        "per_token_scale",
        "group_list",
        "activation_input",
        "activation_quant_scale",
        "activation_quant_offset",
        "split_item",
        "group_type",
        "group_list_type",
        "act_type",
        "tuning_config",
        "output_dtype",
        "x_dtype",
        "weight_dtype",
        "scale_dtype",
        "per_token_scale_dtype",
    ),
    rows=tuple(
        row
        for grouping, (scale, element_scale, limits) in _SCALES.items()
        for format in ("ND", "FRACTAL_NZ")
        for row in (
            Row(
                name=f"A8W4 {grouping}, {format}",
                devices=("a2", "a3"),
                arguments={"weight": _WEIGHTS[format], "scale": scale, "bias": "float32[e, n]"},
                integers={"g": "from the scale"},
                selected_by=("per_token_scale",),
                required=("weight", "scale", "bias"),
                limits=limits,
                source=_DOCUMENT,
            ),
            Row(
                name=f"A8W4 {grouping}, {format}, one tensor per expert",
                devices=("a2", "a3"),
                arguments={"weight": _ELEMENTS[format], "scale": element_scale, "bias": "float32[n]"},
                integers={"g": "from the scale"},
                selected_by=("per_token_scale",),
                required=("weight", "scale", "bias"),
                listed=("weight", "scale", "bias"),
                limits=limits,
                source=_DOCUMENT,
            ),
        )
    ),
)
