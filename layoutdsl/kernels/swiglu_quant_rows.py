"""Rows that the grouped matmuls with swiglu and quantization share: torch_npu's two ops and the ones that vllm-ascend builds from the same kernels.

Used by ``contract.py`` of those ops. The halves of n are gate, then up; a quantized row has half as many columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from layoutdsl.kernels.base import LIST, LimitRow, Row

SHARED: Mapping[str, Any] = {"segments": {"n": ("gate", "up")}, "derived": {"h": "N // 2"}, "quantizes": True, "scales": {"x_scale": "x"}, "sums": "k"}
"""Fields that every row has."""
A2_A3 = ("a2", "a3")
FLOATS = ("float32", "bfloat16", "float16")
_N = LimitRow(slug="a8w4-swiglu-n", test="N <= 10240")
_A8W8_LIMITS = (_N, LimitRow(slug="kernel-size", test="K < 65536"))
_A8W4_LIMITS = (_N, LimitRow(slug="a8w4-swiglu-k", test="K < 20000"))
_FORMATS = {"ND": "", "FRACTAL_NZ": " over nz[{0}]"}
_GROUPINGS = {"per channel": ("", 0), "per group": ("k//g, ", 1)}
"""The dims of a scale before n, and what ``dequant_mode`` calls it."""


def _row(name: str, weight: str, scale: str, source: str, results: tuple[str, ...], more: Mapping[str, str], **fields: Any) -> Row:
    arguments = {"weight": weight, "x": "int8[m, k]", "weight_scale": scale, "x_scale": "float32[m]", **more, "group_list": "int64[e]"}
    return Row(name=name, source=source, devices=A2_A3, arguments=arguments, results=results, **SHARED, **fields)


def int8_row(source: str, results: tuple[str, ...], **fields: Any) -> Row:
    """An int8 weight, one tensor for all experts."""
    return _row("A8W8, FRACTAL_NZ", "int8[e, k, n] over nz[e, k, n]", "S[e, n]", source, results, {}, dtypes={"S": FLOATS}, limits=_A8W8_LIMITS, **fields)


def int4_rows(source: str, results: tuple[str, ...], compensation: str, formats: tuple[str, ...] = ("FRACTAL_NZ",), **fields: Any) -> Iterator[Row]:
    """An int4 weight, one tensor for all experts. compensation: what the op calls 8 * sum_k weight * scale."""
    for format in formats:
        for grouping, (rows, mode) in _GROUPINGS.items():
            dims = f"e, {rows}n"
            yield _row(
                f"A8W4 {grouping}, {format}",
                "int4[e, k, n] in int32[e, k, n//8 | n%8]" + _FORMATS[format].format("e, k, n//8"),
                f"float32[{dims}] in zext int64[{dims}]",
                source,
                results,
                {compensation: "float32[e, n]"},
                required=(compensation,),
                integers={"g": ""},
                limits=_A8W4_LIMITS,
                **_with_mode(fields, mode),
            )


def _with_mode(fields: Mapping[str, Any], mode: int) -> dict[str, Any]:
    """``dequant_mode`` says whether there is a scale per group, where the op has that argument."""
    constants = fields.get("constants", {})
    return {**fields, **({"constants": {**constants, "dequant_mode": (mode,)}} if "dequant_mode" in constants else {})}


def listed(*rows: Row) -> Iterator[Row]:
    """The same rows with one tensor per expert in place of a tensor of all experts."""
    for row in rows:
        alone = {name: LIST + text.replace("[e, ", "[") if "[e, " in text else text for name, text in row.arguments.items()}
        yield replace(row, name=f"{row.name}, one tensor per expert", arguments=alone)
