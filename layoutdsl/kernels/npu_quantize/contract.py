"""Rows to integers with given scales: rint(input * scales + zero_points), or with ``div_mode`` rint(input / scales) + zero_points.

Without ``div_mode`` the scale is the reciprocal of the one that belongs to the result.
Sources: torch_npu 2.13.0 schema, document and meta function; ops-nn e5c3fa93, aclnnAscendQuantV3 document and ascend_quant_v2 golden.
"""

from collections.abc import Iterator

from layoutdsl.kernels.base import Contract, Row

_SOURCE = "torch_npu 2.13.0, npu_quantize document"
_A2_A3, _ALL = ("a2", "a3"), ("a2", "a3", "a5", "310p")
_LAST = ("axis", (-1, 1))
_ELEMENTS = {"int8": ("int8[m, k]", _ALL), "int4": ("int4[m, k] in int32[m, k//8 | k%8]", _A2_A3)}


def _multiplied() -> Iterator[Row]:
    for element, (result, devices) in _ELEMENTS.items():
        for per, dims in (("column", "k"), ("tensor", "0")):
            yield Row(
                name=f"{element}, multiplied, per {per}",
                source=_SOURCE + ("; that a5 and 310p take it is read from vllm-ascend, which calls it there" if len(devices) > 2 else ""),
                devices=devices,
                arguments={"input": "T[m, k]", "scales": f"T[{dims}]", "zero_points": f"T[{dims}]"},
                dtypes={"T": ("bfloat16", "float16", "float32")},
                constants=dict([("dtype", (element,)), ("div_mode", (False,)), _LAST]),
                reciprocal=("scales",),
                results=(result,),
            )


def _divided() -> Iterator[Row]:
    for element in ("int8", "uint8", "int32"):
        for per, dims in (("column", "k"), ("tensor", "0")):
            yield Row(
                name=f"{element}, divided, per {per}",
                source=_SOURCE,
                devices=_A2_A3,
                arguments={"input": "T[m, k]", "scales": f"S[{dims}]", "zero_points": f"Z[{dims}]"},
                dtypes={"T": ("bfloat16", "float16", "float32"), "S": ("float32", "bfloat16"), "Z": ("int8", "uint8", "int32", "bfloat16")},
                constants=dict([("dtype", (element,)), ("div_mode", (True,)), _LAST]),
                results=(f"{element}[m, k]",),
            )


CONTRACT = Contract(op="npu::npu_quantize", rows=(*_multiplied(), *_divided()))
