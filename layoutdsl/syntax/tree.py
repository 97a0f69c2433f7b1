"""The tree that the expression grammar makes: frozen nodes, each with its span.

Made by ``layoutdsl.syntax.expressions``, read by ``layoutdsl.compiler``.

Invariants: names are as written, template holes (``<p>``) included; no node has a meaning yet (``n//2`` is a division until a checker says that it is a
digit); the depth of a tree is bounded by the parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from layoutdsl.diagnostics import Span


@dataclass(frozen=True, slots=True)
class Name:
    """``weight``, ``<p>_weight_scale``, ``fa_k.scale``, ``x.dtype``, ``N``."""

    id: str
    span: Span


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal: int, float, str, bool, or None (written ``none``)."""

    value: int | float | str | bool | None
    span: Span


@dataclass(frozen=True, slots=True)
class Unary:
    """``-x`` or ``not x``; ``op`` is ``"-"`` or ``"not"``."""

    op: str
    operand: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Binary:
    """Two operands and one of ``+ - * / // % & << >> == != < <= > >= and or in``."""

    op: str
    left: Expr
    right: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Conditional:
    """``then if condition else otherwise``."""

    condition: Expr
    then: Expr
    otherwise: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Items:
    """``[a, b]``: a list of values (domains of ``in``, kernel arguments)."""

    items: tuple[Expr, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Group:
    """``(e, n)`` inside an index: several digits in one dimension, major first."""

    items: tuple[Expr, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Pick:
    """``n = expr`` inside a read: the index at which an axis is read."""

    digit: Expr
    at: Expr
    span: Span


Entry = Union["Expr", Group, Pick]


@dataclass(frozen=True, slots=True)
class Index:
    """``name[entries]``: a read in math; ``name`` alone is a :class:`Name`."""

    name: str
    name_span: Span
    entries: tuple[Entry, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Sum:
    """``sum[entries](body)``."""

    entries: tuple[Entry, ...]
    body: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a call; ``keyword`` is None for a positional one."""

    keyword: str | None
    value: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Call:
    """``name(args)``: a cast in math, a size function, a kernel in forward."""

    name: str
    name_span: Span
    arguments: tuple[Argument, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Inline:
    """``(name | stage | ...)`` in forward: a view made at call time."""

    name: Name
    stages: tuple[Stage, ...]
    span: Span


Expr = Union[Name, Constant, Unary, Binary, Conditional, Items, Index, Sum, Call, Inline]


@dataclass(frozen=True, slots=True)
class ElementText:
    """``int4``, ``params_dtype``, ``int4(excess 8)``: name and excess (0 when not written)."""

    name: str
    excess: int
    span: Span


@dataclass(frozen=True, slots=True)
class LayoutText:
    """``[zext|sext] storage[dims | lanes] over format(width)[order]``.

    ``order`` is None when no ``over`` is written; then ``format`` is None too. ``width`` is the bytes in ``nz(64)``.
    """

    extension: str | None
    storage: str
    storage_span: Span
    dims: tuple[Entry, ...]
    lanes: tuple[Entry, ...]
    format: str | None
    width: int | None
    order: tuple[Entry, ...] | None
    span: Span


@dataclass(frozen=True, slots=True)
class PadText:
    """``pad k to 64 = 0``: the multiple that a capacity is raised to, and the fill (0 when not written)."""

    axis: str
    multiple: Expr
    fill: int
    span: Span


@dataclass(frozen=True, slots=True)
class TypeText:
    """``element[logical] in layout pad ...``; ``layout`` is None for a native tensor."""

    element: ElementText
    logical: tuple[Entry, ...]
    layout: LayoutText | None
    pads: tuple[PadText, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a pipeline: ``op(args) when condition``, ``view [dims]``, ``relayout TYPE``, ``is TYPE``, or a bare name.

    ``view`` carries its dims in ``dims``; ``relayout`` and ``is`` carry ``type``; ``called`` tells ``nz()`` and ``nz(x)`` from a bare ``nz``.
    """

    op: str
    op_span: Span
    arguments: tuple[Argument, ...]
    dims: tuple[Entry, ...] | None
    type: TypeText | None
    called: bool
    condition: Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class Pipeline:
    """``stage | stage | ...``; the first may be the name of a tensor."""

    stages: tuple[Stage, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Target:
    """The key of a step, value or forward line: ``name`` or ``name[index]``; ``entries`` is None without brackets."""

    name: str
    name_span: Span
    entries: tuple[Entry, ...] | None
    span: Span


@dataclass(frozen=True, slots=True)
class Rule:
    """``expr when condition`` of ``require`` and ``invariants``."""

    expr: Expr
    condition: Expr | None
    span: Span
