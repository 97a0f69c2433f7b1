"""The dtype rules of one line of math: operators, conversions, and literals against exact arithmetic."""

from __future__ import annotations

import struct
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layoutdsl.ir.dtypes import ARITHMETIC, ELEMENTS
from layoutdsl.ir.layout import Reject
from layoutdsl.ops.index_math import CONVERSIONS, FLOAT_OPERATORS, INT_OPERATORS, REAL, conversion_result, literal_fits, operator_result

NUMBERS = sorted(ARITHMETIC)
INTEGERS = [name for name in NUMBERS if ELEMENTS[name].kind != "float"]
OPERATORS = sorted(FLOAT_OPERATORS | INT_OPERATORS)


refused: dict[str, str] = {}


def code_of(function, *arguments: str) -> str:
    """The result, or the code of the refusal."""
    try:
        return function(*arguments)
    except Reject as error:
        refused[error.code] = error.message
        return error.code


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_take_two_of_one_dtype(operator: str) -> None:
    for left, right in product(ELEMENTS, ELEMENTS):
        known = FLOAT_OPERATORS if ELEMENTS[left].kind == "float" else INT_OPERATORS
        wanted = "dtype-mismatch" if left != right else left if left in ARITHMETIC and operator in known else "operator-dtype"
        assert code_of(operator_result, operator, left, right) == wanted, (left, right)
    assert operator_result(operator, REAL, REAL) == REAL


@pytest.mark.parametrize("operator", sorted(FLOAT_OPERATORS - {"/"}))
def test_float_operators_are_integer_operators_too(operator: str) -> None:
    """Only division differs: `/` of integers would round, `//` says how."""
    assert {operator} <= INT_OPERATORS
    assert "/" not in INT_OPERATORS
    assert "//" not in FLOAT_OPERATORS


def test_conversions() -> None:
    table = {
        ("cast", "float32", "bfloat16"): "float32",
        ("cast", "float16", "float32"): "float16",
        ("cast", "float32", "int4"): "float32",
        ("cast", "int32", "int8"): "int32",
        ("cast", "int8", "int32"): "int8",
        ("cast", "float32", "float32"): "no-op",
        ("cast", "int8", "float32"): "cast-rounds",
        ("cast", "int4", "int8"): "cast-target",
        ("cast", "float32", "e8m0"): "cast-of-bits",
        ("cast", "float32", "opaque"): "cast-of-bits",
        ("rint", "int32", "float32"): "int32",
        ("trunc", "int8", "float64"): "int8",
        ("bits", "int32", "float32"): "int32",
        ("bits", "uint8", "e8m0"): "uint8",
        ("bits", "int64", "float32"): "bits-width",
    }
    for (function, target, source), wanted in table.items():
        assert code_of(conversion_result, function, target, source) == wanted, (function, target, source)


@pytest.mark.parametrize("function", CONVERSIONS)
def test_every_conversion_has_an_answer(function: str) -> None:
    for target, source in product(ELEMENTS, ELEMENTS):
        found = code_of(conversion_result, function, target, source)
        assert found == target or found in ("bits-width", "no-op", "cast-target", "cast-of-bits", "cast-rounds")
        if function == "bits":
            assert (found == target) == (ELEMENTS[target].bits == ELEMENTS[source].bits)
    assert code_of(conversion_result, function, "float32", REAL) == "cast-in-value"


def test_refusals_are_plain_sentences() -> None:
    code_of(operator_result, "+", "int8", "float32")
    assert all((text[0].islower() or text[0] == "`") and "?" not in text for text in refused.values()), refused


def exact(value: int | float, dtype: str) -> bool:
    """Does the dtype hold the number, by a round trip through it?"""
    if dtype in INTEGERS:
        return isinstance(value, int) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    try:
        number = float(value)
        if Fraction(number) != Fraction(value):
            return False
        if dtype == "bfloat16":
            return struct.pack("<f", number)[:2] == b"\0\0" and struct.unpack("<f", struct.pack("<f", number))[0] == number
        with np.errstate(over="ignore", under="ignore"):
            return bool(np.isfinite(np.dtype(dtype).type(number)) and float(np.dtype(dtype).type(number)) == number)
    except (OverflowError, ValueError):
        return False


POWERS = st.tuples(st.integers(-5000, 5000), st.integers(-1100, 1030)).map(lambda pair: _scaled(*pair))


def _scaled(mantissa: int, exponent: int) -> float:
    try:
        return float(Fraction(mantissa) * Fraction(2) ** exponent)
    except OverflowError:
        return 1.5


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(st.one_of(st.integers(-(2**70), 2**70), st.integers(-300, 300), st.floats(allow_nan=False), st.floats(width=16, allow_nan=False), POWERS))
def test_a_literal_fits_if_the_dtype_holds_it(value: int | float) -> None:
    for dtype in NUMBERS:
        assert literal_fits(value, dtype) == exact(value, dtype), dtype
    assert literal_fits(value, REAL)


@pytest.mark.parametrize(
    ("value", "dtype", "fits"),
    [
        (65504, "float16", True),
        (65536, "float16", False),
        (2.0**-24, "float16", True),
        (2.0**-25, "float16", False),
        (0.1, "float32", False),
        (0.1, "float64", True),
        (257, "bfloat16", False),
        (2**127, "bfloat16", True),
        (2**128, "float32", False),
        (2**1024, "float64", False),
        (128, "int8", False),
        (-128, "int8", True),
        (1.0, "int8", False),
        (-1, "uint8", False),
        (-0.0, "float16", True),
        (float("inf"), "float32", False),
        (1, "e8m0", False),
    ],
)
def test_literals_at_the_edges(value: int | float, dtype: str, fits: bool) -> None:
    assert literal_fits(value, dtype) is fits
