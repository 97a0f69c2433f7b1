"""The dtype table against every value of the small dtypes, decoded here from their bits."""

from __future__ import annotations

import struct
from fractions import Fraction
from functools import cache
from math import inf, isfinite, nan

import pytest

from layoutdsl.ir.dtypes import ARITHMETIC, ELEMENTS, STORAGES, carriage_of, holds_exactly

# element: bits of exponent and mantissa. Source: IEEE 754, OCP Microscaling Formats 1.0 (e2m1 and e4m3 have no infinity; e4m3 has one NaN per sign).
FLOATS = {"e2m1": (2, 1), "e4m3": (4, 3), "float8_e4m3fn": (4, 3), "float16": (5, 10), "bfloat16": (8, 7), "float32": (8, 23), "float64": (11, 52)}
INTS = {name: dtype.bits for name, dtype in ELEMENTS.items() if dtype.kind in ("int", "uint")}
LISTED = ("int4", "uint4", "e2m1", "e4m3", "float8_e4m3fn", "int8", "uint8", "float16", "bfloat16")


def decoded(name: str, code: int) -> float:
    """The value of a code, by the definition of the format."""
    exponent, mantissa = FLOATS[name]
    sign = -1 if code >> (exponent + mantissa) else 1
    raised, part = code >> mantissa & ((1 << exponent) - 1), code & ((1 << mantissa) - 1)
    bias = (1 << (exponent - 1)) - 1
    if raised == (1 << exponent) - 1 and name not in ("e2m1", "e4m3", "float8_e4m3fn"):
        return sign * inf if part == 0 else nan
    if name in ("e4m3", "float8_e4m3fn") and raised == 15 and part == 7:
        return nan
    value = Fraction(part, 1 << mantissa) + (raised > 0)
    return float(sign * value * Fraction(2) ** (max(raised, 1) - bias))


@cache
def values(name: str) -> frozenset[Fraction]:
    """Every finite value of a small dtype."""
    if name in INTS:
        bits = INTS[name]
        low = -(1 << (bits - 1)) if name.startswith("int") else 0
        return frozenset(map(Fraction, range(low, low + (1 << bits))))
    found = (decoded(name, code) for code in range(1 << ELEMENTS[name].bits))
    return frozenset(Fraction(value) for value in found if isfinite(value))


def holds(name: str, value: Fraction) -> bool:
    """Is the value one of the dtype's? Wide dtypes by a round trip, small ones by the list of their values."""
    if name in LISTED:
        return value in values(name)
    if name in INTS:
        low = -(1 << (INTS[name] - 1)) if name.startswith("int") else 0
        return value.denominator == 1 and low <= value < low + (1 << INTS[name])
    try:
        number = float(value)
        return Fraction(number) == value and (name == "float64" or struct.unpack("<f", struct.pack("<f", number))[0] == number)
    except OverflowError:
        return False


def test_the_decoder_knows_the_formats() -> None:
    assert sorted(values("e2m1") - {0}) == sorted(Fraction(s * m, 2) for s in (-1, 1) for m in (1, 2, 3, 4, 6, 8, 12))
    assert max(values("e4m3")) == 448
    assert max(values("float16")) == 65504
    assert all(decoded("float16", code) == struct.unpack("<e", struct.pack("<H", code))[0] for code in range(0x7C00))
    assert all(decoded("bfloat16", code) == struct.unpack("<f", struct.pack("<I", code << 16))[0] for code in range(0x7F80))


@pytest.mark.parametrize("narrow", LISTED)
def test_a_cast_that_is_said_to_keep_values_keeps_them(narrow: str) -> None:
    for wide in [name for name in ELEMENTS if name in FLOATS or name in INTS]:
        # A float holds fractions or infinities, which no integer does.
        kept = all(holds(wide, value) for value in values(narrow)) and not (narrow in FLOATS and wide in INTS)
        assert holds_exactly(wide, narrow) == kept, wide


@pytest.mark.parametrize("narrow", ["int16", "int32", "int64", "uint16", "uint32", "uint64"])
def test_wide_integers_are_kept_by_what_holds_their_ends(narrow: str) -> None:
    bits, signed = INTS[narrow], narrow.startswith("int")
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    for wide in [name for name in ELEMENTS if name in FLOATS or name in INTS]:
        assert holds_exactly(wide, narrow) == all(holds(wide, Fraction(value)) for value in (low, high, high - 1)), wide


def test_every_pair_has_an_answer_and_every_dtype_keeps_itself() -> None:
    for wide in ELEMENTS:
        assert holds_exactly(wide, wide)
        for narrow in ELEMENTS:
            if {ELEMENTS[wide].kind, ELEMENTS[narrow].kind} & {"scale", "bool", "opaque"}:
                assert holds_exactly(wide, narrow) == (wide == narrow)


@pytest.mark.parametrize("element", [name for name in ELEMENTS if name != "opaque"])
def test_carriage_follows_from_the_values(element: str) -> None:
    dtype, numbers = ELEMENTS[element], INTS if element in INTS else FLOATS
    for storage in STORAGES:
        assert carriage_of(element, storage, True) == "lanes"
        found = carriage_of(element, storage, False)
        if dtype.native == storage:
            assert found == "native"
        elif dtype.bits == 4 and storage in numbers and storage != "float8_e4m3fn":
            assert (found == "value") == all(holds(storage, value) for value in values(element)), storage
        else:
            assert found == "bits", storage


def test_the_table_is_about_torch() -> None:
    """Natives are storages of the same width and, where it is a number, of the same values; arithmetic is done in natives only."""
    for name, dtype in ELEMENTS.items():
        if dtype.native is not None:
            assert STORAGES[dtype.native].bits == dtype.bits
            assert name not in LISTED or values(name) == values(dtype.native)
    assert all(ELEMENTS[name].native == name for name in ARITHMETIC)
    assert STORAGES.keys() <= ELEMENTS.keys()
