"""The forward of a plan as text: one line per call, as a reader would write it in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layoutdsl.plan.model import Call, TensorType
from layoutdsl.plan.sizes import size_text


def call_text(call: Call) -> str:
    """``h = npu::npu_grouped_matmul([xq], ...)``; the last line returns."""
    head = f"{', '.join(call.targets)} = " if call.targets else "return "
    text = head + expr_text(call.expr)
    return text if call.when == ("const", True) else f"{text}   when {expr_text(call.when)}"


def expr_text(expr: Any) -> str:
    match expr:
        case ("const", value):
            return repr(value) if isinstance(value, (bool, str)) or value is None else str(value)
        case ("layer", name):
            return f"layer.{name}"
        case ("input" | "local" | "dtype", name):
            return str(name)
        case ("external",):
            return "external"
        case ("dtype_of", value):
            return f"{expr_text(value)}.dtype"
        case ("size", size):
            return size_text(size)
        case ("list", *items):
            return f"[{_listed(items)}]"
        case ("if", condition, then, otherwise):
            return f"{expr_text(then)} if {expr_text(condition)} else {expr_text(otherwise)}"
        case ("cast", dtype, value):
            return f"cast({expr_text(dtype)}, {expr_text(value)})"
        case ("view", value, _, kind):
            return f"{_inner(value)} as {_type_text(kind)}"
        case ("call", op, arguments, keywords):
            return f"{op}({', '.join([*map(expr_text, arguments), *(f'{name}={expr_text(value)}' for name, value in keywords)])})"
        case ("given", *values):
            return f"given({_listed(values)})"
        case ("not", value):
            return f"not {_inner(value)}"
        case ("neg", value):
            return f"-{_inner(value)}"
        case (str() as operator, left, right):
            return f"{_inner(left)} {operator} {_inner(right)}"
    return str(expr)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(expr_text, values))


def _inner(expr: Any) -> str:
    """An operand, in brackets where it is an operation itself."""
    text = expr_text(expr)
    return f"({text})" if " " in text and expr[0] not in ("call", "const", "list", "cast", "given") else text


def _type_text(kind: TensorType) -> str:
    """Storage and shape: what a view changes."""
    dims = []
    for dim in kind.dims:
        extents = [digit.ext for digit in dim if digit.ext != 1]
        dims.append(size_text(("*", *extents) if len(extents) > 1 else extents[0] if extents else 1))
    return f"{kind.storage}[{', '.join(dims)}]"
