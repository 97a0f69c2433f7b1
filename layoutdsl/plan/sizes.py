"""Kinds of layer and the sizes that they have; size expressions of a plan: nested tuples over integers and size names, evaluated with plain integers.

Emitted by the compiler, evaluated at bind. ``("/", a, b)`` is a division that was proved exact; ``("//", a, b)`` rounds down.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Union

from layoutdsl.ir.size_functions import SIZE_FUNCTIONS

# An integer, the name of a size, or (operator, operand, ...).
SizeExpr = Union[int, str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """What is known of a kind of layer.

    sizes: per partition. columns: the sizes of a row of ``x`` and of a row of the result, None where that is not known. split: the size that tensor parallelism
    splits, by ``layer_type`` (which says nothing of experts). experts: it has a weight per expert, and ``x`` is sorted by expert.
    """

    sizes: tuple[str, ...]
    columns: tuple[str, str] | None = None
    split: Mapping[str, str] = field(default_factory=dict)
    experts: bool = False


_LINEAR = LayerKind(
    sizes=("input_size", "output_size"),
    columns=("input_size", "output_size"),
    split={"row": "input_size", "column": "output_size"},
)
_EXPERTS = LayerKind(
    sizes=("num_experts", "intermediate_size_per_partition", "hidden_size"),
    columns=("hidden_size", "hidden_size"),
    split=dict.fromkeys(("row", "column"), "intermediate_size_per_partition"),
    experts=True,
)
LAYER_KINDS: Mapping[str, LayerKind] = {
    "linear": _LINEAR,
    "ds_linear": _LINEAR,
    "moe": _EXPERTS,
    "ds_w4a8_moe": _EXPERTS,
    "attention": LayerKind(sizes=("num_heads", "num_kv_heads", "kv_lora_rank", "index_head_dim")),
}
KIND_SIZES = tuple(dict.fromkeys(name for kind in LAYER_KINDS.values() for name in kind.sizes))
"""The sizes of all kinds of layer."""
_OTHER = LayerKind(sizes=())


def layer_kind(layer: str) -> LayerKind:
    """What is known of a kind of layer; of another word nothing: such a layer may use the sizes of all kinds."""
    return LAYER_KINDS.get(layer, _OTHER)


def _exact(left: int, right: int) -> int:
    if left % right:
        raise ValueError(f"{left} is not a multiple of {right}")
    return left // right


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
    **{name: function.compute for name, function in SIZE_FUNCTIONS.items()},
}
ARITY = {**dict.fromkeys(OPERATORS, 2), "not": 1, **{name: function.arity for name, function in SIZE_FUNCTIONS.items()}}
FOLDS: dict[str, Callable[[list[Any]], Any]] = {
    "+": sum,
    "*": prod,
    "and": all,
    "or": any,
}


def evaluate(expr: SizeExpr, sizes: Mapping[str, int]) -> int:
    """The value of a size expression (a truth value counts as 0 or 1).

    Raises: KeyError for a size without a value, ValueError for an inexact exact division or a size function without a value, ZeroDivisionError.
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
    if name in SIZE_FUNCTIONS:
        return f"{name}({', '.join(map(size_text, operands))})"
    if name == "not":
        return f"not {texts[0]}"
    return f" {'//' if name == '/' else name} ".join(texts)
