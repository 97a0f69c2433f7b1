"""Index math, ``name[digits]: expression``: the operators and functions of one line, and their dtype rules.

Not a stage of a pipeline, but a primitive all the same: the compiler types expressions with these tables, and the runtime evaluates what comes out.
No promotion: both operands of an operator have one dtype; a literal takes the dtype of the other operand if it is exact there.
"""

from __future__ import annotations

from fractions import Fraction
from math import isfinite

from layoutdsl.ir.dtypes import ARITHMETIC, ELEMENTS, Dtype
from layoutdsl.ir.layout import Reject

FLOAT_OPERATORS = frozenset({"+", "-", "*", "/"})
INT_OPERATORS = frozenset({"+", "-", "*", "//", "%", "&", "<<", ">>"})
CONVERSIONS = {
    "cast": "to nearest even",
    "bits": "the same bits as another dtype of equal width: a new value",
    "rint": "a float to an integer, ties to even",
    "trunc": "a float to an integer, towards zero",
}
REAL = "real"
"""The dtype of ``value`` and ``invariants``: arithmetic over the reals."""


def operator_result(operator: str, left: str, right: str) -> str:
    """The dtype of ``left operator right``. Raises Reject (``dtype-mismatch``, ``operator-dtype``)."""
    if left == right == REAL:
        return REAL
    if left != right:
        raise Reject(
            "dtype-mismatch", f"`{operator}` of {left} and {right}: nothing is promoted silently", helps=[f"cast one side, as in `{_wider(left, right)}(...)`"]
        )
    allowed = FLOAT_OPERATORS if ELEMENTS[left].kind == "float" else INT_OPERATORS
    if left not in ARITHMETIC:
        raise Reject("operator-dtype", f"there is no arithmetic in {left}", helps=["cast it first, as in `float32(...)`"])
    if operator not in allowed:
        raise Reject("operator-dtype", f"`{operator}` does not exist for {left}")
    return left


def _wider(left: str, right: str) -> str:
    return max(left, right, key=lambda name: (ELEMENTS[name].kind == "float", ELEMENTS[name].bits))


def conversion_result(function: str, target: str, source: str) -> str:
    """The dtype of ``function(target, source value)``. Raises Reject."""
    if source == REAL:
        raise Reject("cast-in-value", "`value` and `invariants` are over the reals: nothing is rounded there", helps=["drop the cast"])
    old, new = ELEMENTS[source], ELEMENTS[target]
    if function == "bits":
        if old.bits != new.bits:
            raise Reject("bits-width", f"`bits({target}, ...)` of {source}: {new.bits} bits of {old.bits}")
        return target
    if old.kind not in ("int", "uint", "float"):
        raise Reject("cast-of-bits", f"{source} has no numeric value to cast", helps=["its bits, as in `bits(uint8, ...)`, are an integer"])
    if function == "cast" and target == source:
        raise Reject("no-op", f"the value is {source} already", helps=["drop the cast"])
    if target not in ARITHMETIC:
        raise Reject("cast-target", f"`{target}(...)`: there is no arithmetic in {target}")
    if function == "cast" and old.kind == "float" and new.kind != "float":
        raise Reject("cast-rounds", f"{source} to {target} must say how it rounds", helps=[f"write `rint({target}, ...)` or `trunc({target}, ...)`"])
    return target


def sum_result(dtype: str) -> str:
    """The dtype of a sum over values of ``dtype``. Raises Reject (``sum-narrow``): integer sums are exact, so they are made where nothing can wrap."""
    if dtype != REAL and ELEMENTS[dtype].kind != "float" and dtype != "int64":
        raise Reject("sum-narrow", f"a sum of {dtype} wraps around for long axes, and integer sums are exact", helps=["write `sum[...](int64(...))`"])
    return dtype


def literal_fits(value: int | float | bool, dtype: str) -> bool:
    """Is the literal exact in the dtype?"""
    if dtype == REAL:
        return True
    kind = ELEMENTS[dtype]
    if kind.kind in ("int", "uint"):
        low, high = (-(1 << (kind.bits - 1)), (1 << (kind.bits - 1)) - 1) if kind.kind == "int" else (0, (1 << kind.bits) - 1)
        return isinstance(value, int) and low <= value <= high
    return kind.kind == "float" and (isinstance(value, int) or isfinite(value)) and _float_holds(Fraction(value), kind)


def _float_holds(value: Fraction, kind: Dtype) -> bool:
    """IEEE 754: an odd integer times a power of two, within the mantissa, the largest exponent and the smallest subnormal."""
    if not value:
        return True
    bias = (1 << (kind.exponent - 1)) - 1
    numerator = abs(value.numerator)
    lowest = (numerator & -numerator).bit_length() - value.denominator.bit_length()
    highest = numerator.bit_length() - value.denominator.bit_length()
    return value.denominator.bit_count() == 1 and highest - lowest <= kind.mantissa and highest <= bias and lowest >= 1 - bias - kind.mantissa
