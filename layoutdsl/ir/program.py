"""The typed program: single-assignment instructions over values with complete symbolic types, each with its place in the spec.

Made by ``layoutdsl.compiler.elaborate`` for one configuration; emitted as a plan, which is the same without places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Union

from layoutdsl.diagnostics import Span
from layoutdsl.ir.layout import TensorType
from layoutdsl.ir.symbolic import Size


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One tensor that never changes. ``name`` is the name it was first bound to."""

    number: int
    name: str
    type: TensorType
    span: Span


# ("at", Value, ((axis, index), ...)), ("const", dtype, number), ("cast" | "bits" | "rint" | "trunc", dtype, e), ("neg", e),
# (binary operator, e, e), ("sum", (Digit, ...), (Digit, ...) in order of materialisation, e); an index is a Size, ("loop", axis, div) or (operator, index,
# index).
MathExpr = tuple[Any, ...]


def values_in(expr: Any) -> list[Value]:
    """The values that a math expression reads, in the order of its text."""
    if isinstance(expr, Value):
        return [expr]
    return [value for part in expr for value in values_in(part)] if isinstance(expr, tuple) else []


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    result: Value
    of: Value
    alias: Literal["must", "may", "never"]
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Compute:
    result: Value
    expr: MathExpr
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    result: Value
    of: Value
    function: str
    arguments: tuple[tuple[str, int | str], ...]
    span: Span


Instruction = Union[Move, Compute, Opaque]


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    """A parameter as stored. default: None (required), a number, or ``uninitialised``. range: what the spec promises of its values, "" for nothing."""

    value: Value
    default: int | float | str | None
    range: str
    sharded: bool


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """A requirement on sizes, with the text of the spec and a size expression that is true when it holds."""

    text: str
    test: Any


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """A contract's condition of use. slug: what ``accept`` names. divides: pairs (divisor, dividend), what it says of divisibility."""

    slug: str
    text: str
    test: Any
    kernel: str
    source: str
    span: Span
    divides: tuple[tuple[Size, Size], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A result that is a Python number, not a tensor."""

    value: int | float | bool | str | None


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    name: str
    value: Value
    kind: str


@dataclass(slots=True, eq=False)
class Program:
    """Everything one configuration does to a layer. free: sizes of free axes; nominal: what some of them are taken for until the tensors tell."""

    sizes: tuple[str, ...]
    free: tuple[str, ...]
    nominal: dict[str, Size]
    axes: dict[str, Size]
    parameters: list[Parameter]
    code: list[Instruction]
    outputs: list[Output]
    require: list[Condition]
    limits: list[Limit]
    forward: list[Any] | None
