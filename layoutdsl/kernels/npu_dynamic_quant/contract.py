"""Rows to integers with one scale per row: scale = max|x| / (largest integer), y = rint(x / scale).

Sources: torch_npu 2.13.0 schema and meta function; ops-nn e5c3fa93, dynamic_quant document and golden.
"""

from layoutdsl.kernels.base import Contract, Row

_DOCUMENT = "ops-nn e5c3fa93, aclnnDynamicQuant document; torch_npu 2.13.0 meta function"
_ALL = ("a2", "a3", "a5", "310p")


def _row(name: str, dst_types: tuple[str | None, ...], result: str, devices: tuple[str, ...], source: str = _DOCUMENT) -> Row:
    return Row(
        name=name,
        source=source,
        devices=devices,
        arguments={"input": "T[m, k]", "smooth_scales": "T[k]"},
        dtypes={"T": ("bfloat16", "float16")},
        constants={"dst_type": dst_types},
        results=(result, "float32[m]"),
        quantizes=True,
    )


CONTRACT = Contract(
    op="npu::npu_dynamic_quant",
    group_list="cumsum",
    rows=(
        _row("int8 per row", (None, "int8"), "int8[m, k]", _ALL, _DOCUMENT + "; 310p: vllm-ascend 182b75ea84, which calls it there"),
        _row("int4 per row", ("int4",), "int4[m, k] in int32[m, k//8 | k%8]", ("a2", "a3")),
        _row("e4m3 per row", ("e4m3",), "e4m3[m, k]", ("a5",)),
    ),
)
