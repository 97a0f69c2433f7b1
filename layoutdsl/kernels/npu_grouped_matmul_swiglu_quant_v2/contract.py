"""Grouped matmul of quantized rows, swiglu of its halves, and quantized rows again.

int8 on A2 and A3 as npu_grouped_matmul_swiglu_quant; on Ascend 950 int8 and e4m3 with one scale per row, and mx (blocks that share an exponent).
Sources: torch_npu 2.13.0 schema, document and meta function (one tensor of all experts); ops-transformer 3a280bcc aclnnGroupedMatmulSwigluQuantV2 document.
"""

from collections.abc import Iterator
from typing import Any

from layoutdsl.kernels.base import ANY, Contract, LimitRow, Row
from layoutdsl.kernels.swiglu_quant_rows import FLOATS, SHARED, int4_rows, int8_row

_SOURCE = "ops-transformer 3a280bcc, aclnnGroupedMatmulSwigluQuantV2 document"
_CONSTANTS: dict[str, tuple[Any, ...]] = {
    "dequant_mode": (0,),
    # 6 is torch's number for float32, the dtype of what lies between; 1 the one for int8.
    "dequant_dtype": (6, "float32"),
    "quant_dtype": (1, "int8"),
    "group_list_type": (0, 1),
    "tuning_config": ANY,
}
_RESULTS = ("int8[m, h]", "float32[m]")
_ROW_EXPONENTS = "e8m0[m, k//32] in uint8[m, k//64, k//32%2] pad k to 64"
_EXPONENTS = "e8m0[e, k//32, n] in uint8[e, k//64, n, k//32%2]{} pad k to 64"
_EXPONENTS_VIEW = _EXPONENTS.format(" over [e, n, k//64, k//32%2]")
_RESULT_EXPONENTS = "e8m0[m, h//32] in uint8[m, h//64, h//32%2] pad h to 64"
_FORMS = {"contiguous": "", "transposed view": " over [e, n, k]"}


def _row(name: str, x: str, weight: str, scales: tuple[str, str], results: tuple[str, str], dtypes: dict[str, Any], **fields: Any) -> Row:
    arguments = {"weight": weight, "x": x, "weight_scale": scales[0], "x_scale": scales[1], "group_list": "int64[e]"}
    constants = {**_CONSTANTS, "tuning_config": (None,), **fields.pop("constants")}
    return Row(name=name, source=_SOURCE, devices=("a5",), arguments=arguments, constants=constants, results=results, dtypes=dtypes, **SHARED, **fields)


def _a5() -> Iterator[Row]:
    for form, over in _FORMS.items():
        for element, scales in (("int8", FLOATS), ("e4m3", ("float32",))):
            yield _row(
                f"{element} per row, {form}",
                f"{element}[m, k]",
                f"{element}[e, k, n]{over}",
                ("S[e, n]", "float32[m]"),
                (f"{element}[m, h]", "float32[m]"),
                {"S": scales},
                constants={} if element == "int8" else {"quant_dtype": ("e4m3",)},
            )
    mx: dict[str, Any] = {"dequant_mode": (2,), "quant_mode": (2,), "weight_scale_dtype": ("e8m0",), "x_scale_dtype": ("e8m0",)}
    limits = (LimitRow(slug="kernel-alignment", test="N % 128 == 0"),)
    for form, over in _FORMS.items():
        exponents = (_EXPONENTS_VIEW if over else _EXPONENTS.format(""), _ROW_EXPONENTS)
        results = ("e4m3[m, h]", _RESULT_EXPONENTS)
        constants = {**mx, "quant_dtype": ("e4m3",)}
        yield _row(f"mx e4m3, {form}", "e4m3[m, k]", f"e4m3[e, k, n]{over}", exponents, results, {}, constants=constants, limits=limits)
    yield _row(
        "mx e2m1, transposed view",
        "e2m1[m, k] in uint8[m, k//2 | k%2]",
        "e2m1[e, k, n] in uint8[e, k//2, n | k%2] over [e, n, k//2]",
        (_EXPONENTS_VIEW, _ROW_EXPONENTS),
        ("e2m1[m, h] in uint8[m, h//2 | h%2]", _RESULT_EXPONENTS),
        {},
        constants={**mx, "quant_dtype": ("e2m1",), "x_dtype": ("e2m1",), "weight_dtype": ("e2m1",)},
        limits=limits,
    )


CONTRACT = Contract(
    op="npu::npu_grouped_matmul_swiglu_quant_v2",
    rows=(
        int8_row(_SOURCE, _RESULTS, constants=_CONSTANTS),
        *int4_rows(_SOURCE, _RESULTS, "weight_assist_matrix", ("ND", "FRACTAL_NZ"), constants=_CONSTANTS),
        *_a5(),
    ),
)
