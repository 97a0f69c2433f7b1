"""Rows seen as matrices, rotated from both sides, quantized: kronecker_p1 @ x @ kronecker_p2, x being [m, k//r, k%r].

k is the axis of x, q the rotated one; r is the number of columns of a row's matrix. So the left matrix has its output first, the right one last.
Sources: torch_npu 2.13.0 schema, document and meta function; ops-nn e5c3fa93, flat_quant document. e2m1: meta function only.
"""

from collections.abc import Iterator

from layoutdsl.kernels.base import ANY, Contract, LimitRow, Row

_SOURCE = "torch_npu 2.13.0, npu_kronecker_quant document and meta function"
_WORDS = LimitRow(slug="kernel-alignment", test="r % 8 == 0")  # the results go eight to an int32 along a row of the matrix
_EXPONENTS = "e8m0[m, q//32] in uint8[m, q//64, q//32%2] pad q to 64"


def _rows() -> Iterator[Row]:
    for name, devices, dst_dtypes, results, limits in (
        ("int4 per row", ("a2", "a3"), (None, "int32"), ("int4[m, q] in int32[m, q//r, q//8%(r//8) | q%8]", "float32[m]"), (_WORDS,)),
        ("e2m1 per 32 columns", ("a5",), ("e2m1",), ("e2m1[m, q] in uint8[m, q//2 | q%2]", _EXPONENTS), ()),
    ):
        yield Row(
            name=name,
            source=_SOURCE,
            devices=devices,
            arguments={"kronecker_p1": "T[q//r, k//r]", "kronecker_p2": "T[k%r, q%r]", "x": "T[m, k//r, k%r]"},
            dtypes={"T": ("bfloat16", "float16")},
            constants={"clip_ratio": ANY, "dst_dtype": dst_dtypes},
            integers={"r": ""},
            results=results,
            quantizes=True,
            limits=limits,
        )


CONTRACT = Contract(op="npu::npu_kronecker_quant", rows=tuple(_rows()), most_tokens=32768)
