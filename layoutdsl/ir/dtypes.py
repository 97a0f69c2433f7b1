"""Elements and storages: what a number means, and the torch dtype whose bytes carry it.

Read by every later stage; no torch here, so dtypes are names. Storages are torch's names; elements are torch's names plus ours (``int4 uint4 e2m1 e4m3
e8m0 opaque``).

Source of the formats: OCP Microscaling Formats specification 1.0 (e2m1, e4m3, e8m0); torch 2.13 dtype table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["int", "uint", "float", "scale", "bool", "opaque"]


@dataclass(frozen=True, slots=True)
class Dtype:
    """bits: width of one value. kind: how the bits are read. native: the torch dtype that holds exactly this element, or None.
    mantissa, exponent: bits of a float."""

    name: str
    bits: int
    kind: Kind
    native: str | None
    mantissa: int = 0
    exponent: int = 0


_TORCH = [
    Dtype("int8", 8, "int", "int8"),
    Dtype("int16", 16, "int", "int16"),
    Dtype("int32", 32, "int", "int32"),
    Dtype("int64", 64, "int", "int64"),
    Dtype("uint8", 8, "uint", "uint8"),
    Dtype("uint16", 16, "uint", "uint16"),
    Dtype("uint32", 32, "uint", "uint32"),
    Dtype("uint64", 64, "uint", "uint64"),
    Dtype("bool", 8, "bool", "bool"),
    Dtype("float16", 16, "float", "float16", 10, 5),
    Dtype("bfloat16", 16, "float", "bfloat16", 7, 8),
    Dtype("float32", 32, "float", "float32", 23, 8),
    Dtype("float64", 64, "float", "float64", 52, 11),
    Dtype("float8_e4m3fn", 8, "float", "float8_e4m3fn", 3, 4),
    Dtype("float8_e8m0fnu", 8, "scale", "float8_e8m0fnu"),
]
_OURS = [
    Dtype("int4", 4, "int", None),
    Dtype("uint4", 4, "uint", None),
    Dtype("e2m1", 4, "float", None, 1, 2),
    Dtype("e4m3", 8, "float", "float8_e4m3fn", 3, 4),
    Dtype("e8m0", 8, "scale", "float8_e8m0fnu"),
    Dtype("opaque", 8, "opaque", None),
]
STORAGES: dict[str, Dtype] = {dtype.name: dtype for dtype in _TORCH}
ELEMENTS: dict[str, Dtype] = {dtype.name: dtype for dtype in _TORCH + _OURS}
# What arithmetic may be done in; everything else is cast first.
ARITHMETIC = frozenset({"int8", "int16", "int32", "int64", "uint8", "float16", "bfloat16", "float32", "float64"})

Carriage = Literal["native", "lanes", "value", "bits"]


def carriage_of(element: str, storage: str, lanes: bool) -> Carriage:
    """How a storage carries an element: the derived rule of docs/language.md."""
    if lanes:
        return "lanes"
    if ELEMENTS[element].native == storage:
        return "native"
    return "value" if _holds_values(ELEMENTS[element], STORAGES[storage]) else "bits"


def _holds_values(element: Dtype, storage: Dtype) -> bool:
    if element.kind in ("int", "uint") and storage.kind in ("int", "uint"):
        if element.kind == "int" and storage.kind == "uint":
            return False
        needed = element.bits + (element.kind == "uint" and storage.kind == "int")
        return element.bits < 8 and storage.bits >= needed
    return element.name == "e2m1" and storage.kind == "float" and storage.bits >= 16


def holds_exactly(wide: str, narrow: str) -> bool:
    """Does a cast from ``narrow`` to ``wide`` keep every value?"""
    source, target = ELEMENTS[narrow], ELEMENTS[wide]
    if source.kind == "float" and target.kind == "float":
        return target.mantissa >= source.mantissa and target.exponent >= source.exponent
    if source.kind in ("int", "uint") and target.kind == "float":
        return target.mantissa + 1 >= source.bits - (source.kind == "int")
    if source.kind in ("int", "uint") and target.kind in ("int", "uint"):
        return target.bits >= source.bits + (source.kind == "uint" and target.kind == "int") and not (source.kind == "int" and target.kind == "uint")
    return wide == narrow
