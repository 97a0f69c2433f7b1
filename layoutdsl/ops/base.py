"""What an op is: the entry from which the compiler, the docs and the tests of every primitive derive.

Below the compiler, above the algebra. An op's type rule (``result``) and its meaning (``source_of``) are stated independently; the tests compare them
position by position.

Invariants: ops are stateless; ``result`` raises :class:`Reject` or returns a well-formed type; movement ops keep the logical digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from layoutdsl.ir.layout import Digit, Dim, Reject, Space, TensorType, merge, stored_digits
from layoutdsl.ir.symbolic import Size

ParameterKind = Literal["dim", "axis", "storage", "element", "size", "int", "word", "dims", "type", "kernel"]
Instruction = Literal["move", "compute", "opaque", "none"]
Alias = Literal["must", "may", "never"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of an op. kind: what the text must be; words: the allowed ones of kind ``word``; optional arguments come last."""

    name: str
    kind: ParameterKind
    words: tuple[str, ...] = ()
    optional: bool = False


Arguments = Mapping[str, Any]
"""Resolved arguments by name: a Digit (dim), an axis name, a dtype name, a Size, an int, a word, a tuple of dims, or a TensorType."""


@dataclass(frozen=True, slots=True)
class Example:
    """A stage on a type, and the type it gives; texts in the notation of the language, over axes e, n, k with facts ``N % 8 == 0`` and ``K % 64 == 0``."""

    before: str
    stage: str
    after: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A stage that the type rule refuses, with the slug of the rule."""

    before: str
    stage: str
    code: str


@dataclass(frozen=True, slots=True)
class Place:
    """A bound layout: shape and strides of the dims as seen (strides in storage elements), and lanes per storage element."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    lanes: int


Position = tuple[tuple[int, ...], int]
"""An index per dim as seen, and a lane number."""


class Op:
    """One primitive.

    summary: one line for the docs. instruction: what it lowers to. alias: whether a move shares memory. function: what an opaque instruction does.
    numeric: values change (all other ops keep the logical tensor).
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    instruction: ClassVar[Instruction] = "move"
    alias: ClassVar[Alias] = "never"
    function: ClassVar[str] = ""
    numeric: ClassVar[bool] = False
    on_lists: ClassVar[bool] = True
    examples: ClassVar[tuple[Example, ...]] = ()
    rejected: ClassVar[tuple[Rejected, ...]] = ()

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        """The type after the stage. Raises Reject."""
        raise NotImplementedError

    def source_of(self, position: Position, before: Place, after: Place, kind: TensorType, args: Arguments, space: Space) -> Position | None:
        """Where the element at ``position`` of the result lies in the operand; None for a hole. Default: at the same place."""
        return position


OPS: dict[str, Op] = {}
OpClass = TypeVar("OpClass", bound=type[Op])


def register(cls: OpClass) -> OpClass:
    """Class decorator: one instance of the op goes into the table."""
    if cls.name in OPS:
        raise ValueError(f"op {cls.name} is registered twice")
    OPS[cls.name] = cls()
    return cls


# --- helpers that several type rules share ---------------------------------------------------------------------------------------------------------------


def need_nd(kind: TensorType, what: str) -> None:
    if kind.format:
        raise Reject(
            "movement-on-nz",
            f"{what} cannot work on a FRACTAL_NZ value: its blocks are not visible as dimensions",
            helps=[f"do {what} before `nz`"],
        )


def last_run(kind: TensorType) -> Dim:
    """The last dim as seen, its digits merged; extents of 1 stay only where nothing else is."""
    dim = kind.dims[-1] if kind.dims else ()
    return tuple(merge(dim)) or dim


# --- bound types, for meanings: every divisor and extent is a number ---------------------------------------------------------------------------------------


def number(size: Size) -> int:
    """The value of a Size of a bound type."""
    assert size.constant is not None, size
    return size.constant


def digits_at(value: int, digits: Dim) -> list[tuple[Digit, int]]:
    """A number written in digits, major first."""
    found: list[tuple[Digit, int]] = []
    for digit in reversed(digits):
        value, rest = divmod(value, number(digit.ext))
        found.insert(0, (digit, rest))
    return found


def values_at(kind: TensorType, position: Position) -> dict[str, int]:
    """The index per axis that a slot holds; at or above the extent in a hole."""
    values: dict[str, int] = {}
    for part, digits in (*zip(position[0], kind.dims), (position[1], kind.lanes)):
        for digit, value in digits_at(part, digits):
            values[digit.axis] = values.get(digit.axis, 0) + value * number(digit.div)
    return values


def slot_of(kind: TensorType, values: Mapping[str, int]) -> Position | None:
    """The slot that holds an index per axis; None if the type has no room for it."""
    reach = {digit.axis: number(digit.div * digit.ext) for digit in stored_digits(kind) if digit.top}
    if any(value >= reach.get(axis, value + 1) for axis, value in values.items()):
        return None

    def join(digits: Dim) -> int:
        total = 0
        for digit in digits:
            total = total * number(digit.ext) + values.get(digit.axis, 0) // number(digit.div) % number(digit.ext)
        return total

    return tuple(map(join, kind.dims)), join(kind.lanes)
