"""Size expressions of a plan: nested tuples over integers and size names, evaluated with plain integers.

Emitted by the compiler, evaluated at bind. ``("/", a, b)`` is a division that was proved exact; ``("//", a, b)`` rounds down.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from math import isqrt, prod
from typing import Any, Union

# An integer, the name of a size, or (operator, operand, ...).
SizeExpr = Union[int, str, tuple[Any, ...]]


LAYER_SIZES: Mapping[str, tuple[str, ...]] = {
    "linear": ("input_size", "output_size"),
    "ds_linear": ("input_size", "output_size"),
    "moe": ("num_experts", "intermediate_size_per_partition", "hidden_size"),
    "attention": ("num_heads", "num_kv_heads", "kv_lora_rank", "index_head_dim"),
}
"""Sizes by layer kind, per partition; another layer kind may use all of them."""

SPLIT_SIZES: Mapping[tuple[str, str], str] = {
    **{(layer, "row"): "input_size" for layer in ("linear", "ds_linear")},
    **{(layer, "column"): "output_size" for layer in ("linear", "ds_linear")},
    **{("moe", layer_type): "intermediate_size_per_partition" for layer_type in ("row", "column")},
}
"""The size that tensor parallelism splits, by layer kind and ``layer_type`` (which says nothing of experts)."""

LARGEST_FACTORED = 2**40
"""`near_square` tries divisors one by one; no layer comes near this size."""


def _exact(left: int, right: int) -> int:
    if left % right:
        raise ValueError(f"{left} is not a multiple of {right}")
    return left // right


def near_square(size: int) -> int:
    """The largest divisor of ``size`` that is at most its square root. Source: vllm-ascend's FlatQuant scheme (facts: catalogue, L-W4A4FLAT)."""
    if size > LARGEST_FACTORED:
        raise ValueError(f"{size} is too large to look for its divisors")
    return next(divisor for divisor in range(isqrt(size), 0, -1) if size % divisor == 0)


OPERATORS: dict[str, Callable[..., Any]] = {
    "-": operator.sub,
    "/": _exact,
    "//": operator.floordiv,
    "%": operator.mod,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "not": operator.not_,
    "cdiv": lambda left, right: -(-left // right),
    "near_square": near_square,
}
ARITY = {name: 1 if name in ("not", "near_square") else 2 for name in OPERATORS}
FOLDS: dict[str, Callable[[list[Any]], Any]] = {
    "+": sum,
    "*": prod,
    "and": all,
    "or": any,
}


def evaluate(expr: SizeExpr, sizes: Mapping[str, int]) -> int:
    """The value of a size expression (a truth value counts as 0 or 1).

    Raises: KeyError for a size without a value, ValueError for an inexact exact division, ZeroDivisionError.
    """
    if isinstance(expr, int):
        return expr
    if isinstance(expr, str):
        return sizes[expr]
    name, *operands = expr
    values = [evaluate(operand, sizes) for operand in operands]
    if name in FOLDS:
        return int(FOLDS[name](values))
    return int(OPERATORS[name](*values))


def reduced(expr: SizeExpr, sizes: Mapping[str, int]) -> SizeExpr:
    """The value of a size expression; where it mentions sizes without a value, the expression with everything else evaluated. Raises as ``evaluate``."""
    if names_in(expr) <= sizes.keys():
        return evaluate(expr, sizes)
    if not isinstance(expr, tuple):
        return expr
    name, *operands = expr
    return (name, *(reduced(operand, sizes) for operand in operands))


def names_in(expr: SizeExpr) -> set[str]:
    """The sizes that an expression mentions."""
    if isinstance(expr, str):
        return {expr}
    if isinstance(expr, int):
        return set()
    return set().union(*(names_in(operand) for operand in expr[1:]))


def size_text(expr: SizeExpr) -> str:
    """A size expression as text, for messages."""
    if not isinstance(expr, tuple):
        return str(expr)
    name, *operands = expr
    texts = [f"({size_text(o)})" if isinstance(o, tuple) else size_text(o) for o in operands]
    if name in ("cdiv", "near_square"):
        return f"{name}({', '.join(map(size_text, operands))})"
    if name == "not":
        return f"not {texts[0]}"
    return f" {'//' if name == '/' else name} ".join(texts)
