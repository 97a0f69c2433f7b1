"""Rows to e4m3 or e2m1 with one e8m0 exponent per 32 columns; exponents come in pairs, an odd number of them is padded with a zero byte.

Sources: torch_npu 2.13.0 schema, document and meta function; ops-nn e5c3fa93, dynamic_mx_quant golden (order of the pairs).
"""

from typing import Any

from layoutdsl.kernels.base import Contract, Row

_SOURCE = "torch_npu 2.13.0, npu_dynamic_mx_quant document; ops-nn e5c3fa93, dynamic_mx_quant golden"
_LAST = {"axis": (-1, 1)}


def _row(name: str, result: str, **constants: tuple[Any, ...]) -> Row:
    return Row(
        name=name,
        source=_SOURCE,
        devices=("a5",),
        arguments={"input": "T[m, k]"},
        dtypes={"T": ("bfloat16", "float16")},
        constants={**_LAST, **constants},
        results=(result, "e8m0[m, k//32] in uint8[m, k//64, k//32%2] pad k to 64"),
        quantizes=True,
    )


CONTRACT = Contract(
    op="npu::npu_dynamic_mx_quant",
    rows=(
        _row("e4m3 per 32 columns", "e4m3[m, k]", dst_type=("e4m3",), scale_alg=(0, 1)),
        # 296 is torch_npu's number for e2m1.
        _row("e2m1 per 32 columns", "e2m1[m, k] in uint8[m, k//2 | k%2]", dst_type=(296, "e2m1"), round_mode=("rint", "round", "floor")),
    ),
)
