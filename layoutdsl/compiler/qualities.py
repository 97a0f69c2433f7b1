"""What index math keeps of the values it reads: is every result free of a sign bit, and is it one over what the checkpoint stores?

Read by ``layoutdsl.compiler.elaborate``, which puts both into the type; contracts ask for them (a sign-extended scale, a kernel that wants the reciprocal).

Invariant: "no" is always a safe answer to the first question; the second is decided by the form of the expression, a stored scale being no reciprocal.
"""

from __future__ import annotations

from typing import Any

from layoutdsl.ir.dtypes import ELEMENTS


def is_positive(expr: Any) -> bool:
    """Does no value of a math expression have its sign bit set? Products, quotients and sums of such values, and casts between floats, keep that."""
    match expr:
        case ("at", value, _):
            return bool(value.type.positive)
        case ("const", _, value):
            return isinstance(value, (int, float)) and value > 0
        case ("cast", dtype, operand):
            return ELEMENTS[dtype].kind == "float" and is_positive(operand)
        case ("sum", _, _, body):
            return is_positive(body)
        case ("+" | "*" | "/", left, right):
            return is_positive(left) and is_positive(right)
    return False


def is_reciprocal(expr: Any) -> bool:
    """Is it a constant over a tensor, however it is cast and scaled?"""
    match expr:
        case ("at", value, _):
            return bool(value.type.reciprocal)
        case ("cast", _, operand):
            return is_reciprocal(operand)
        case ("/", ("const", _, _), right):
            return not is_reciprocal(right)
        case ("*", ("const", _, _), operand) | ("*", operand, ("const", _, _)) | ("/", operand, ("const", _, _)):
            return is_reciprocal(operand)
    return False
