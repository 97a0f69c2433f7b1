"""What a checkpoint means: ``value`` and ``invariants`` of a spec in float64, from its tensors as stored.

Between the spec's text and every comparison of this package. The expressions are evaluated as they are written, index by index; steps, plan and runtime are not
asked.

Invariants: nothing is rounded but by float64; an index beyond an axis adds nothing to a sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import prod
from typing import Any

import numpy as np

from layoutdsl.compiler.emit import size_expr
from layoutdsl.compiler.evaluate import integer
from layoutdsl.compiler.scope import Context
from layoutdsl.ir.layout import Digit
from layoutdsl.ir.symbolic import Size
from layoutdsl.plan.sizes import evaluate
from layoutdsl.syntax.document import Document, NoValue
from layoutdsl.syntax.tree import Binary, Conditional, Constant, Entry, Expr, Index, Name, Pick, Sum, Unary
from layoutdsl.syntax.walk import nodes
from layoutdsl.verify.decode import Array, Logical

Stored = Mapping[str, Logical]
_OPERATORS = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}


@dataclass(frozen=True, slots=True)
class Loop:
    """A digit that an expression runs over, and the dimension of the arrays that it runs along."""

    axis: str
    div: int
    ext: int
    dim: int


@dataclass(frozen=True, slots=True)
class _Scope:
    """One expression being evaluated: its loops, and how many dimensions its arrays have."""

    context: Context
    sizes: Mapping[str, int]
    stored: Stored
    loops: tuple[Loop, ...] = ()
    indices: Mapping[str, Array] = field(default_factory=dict)

    def number(self, size: Size | int) -> int:
        return evaluate(size_expr(Size.of(size)), self.sizes)

    def inside(self, digits: Sequence[Digit]) -> _Scope:
        """The scope with more loops; every array of it has one more dimension per loop, behind those that are there."""
        loops = list(self.loops)
        for digit in digits:
            loops.append(Loop(digit.axis, self.number(digit.div), self.number(digit.ext), len(loops)))
        indices: dict[str, Array] = {}
        for loop in loops:
            shape = [1] * len(loops)
            shape[loop.dim] = loop.ext
            indices[loop.axis] = indices.get(loop.axis, np.int64(0)) + (np.arange(loop.ext) * loop.div).reshape(shape)
        return _Scope(self.context, self.sizes, self.stored, tuple(loops), indices)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(loop.ext for loop in self.loops)

    def extent(self, axis: str) -> int:
        return self.number(self.context.space.extents[axis])


@dataclass(frozen=True, slots=True)
class Rotated:
    """A value ``sum[q](weight * rotation)`` in its two factors: weight over outputs and rotated inputs, rotation over inputs and rotated inputs."""

    weight: Logical
    rotation: Logical

    @property
    def product(self) -> Logical:
        """The value itself, over outputs and inputs."""
        product: Array = self.weight.values @ self.rotation.values.T
        return Logical((self.weight.axes[0], self.rotation.axes[0]), (1, 1), product)


def values(document: Document, contexts: Mapping[str, Context], sizes: Mapping[str, int], stored: Stored) -> dict[str, Logical]:
    """Every result of ``value`` by its name, as :func:`results`, rotated or not."""
    return {name: plain(found) for name, found in results(document, contexts, sizes, stored).items()}


def plain(found: Logical | Rotated) -> Logical:
    return found.product if isinstance(found, Rotated) else found


def results(document: Document, contexts: Mapping[str, Context], sizes: Mapping[str, int], stored: Stored) -> dict[str, Logical | Rotated]:
    """Every result of ``value`` by its name, templates expanded: ``W`` of a linear layer, ``w13`` and ``w2`` of experts; dims as the spec lists them. A sum of
    weights times a rotation of the inputs comes in its factors."""
    found: dict[str, Logical | Rotated] = {}
    known = dict(stored)
    if isinstance(document.value, NoValue):
        return found
    for decl in document.value:
        everything = list(contexts.values())
        for context in everything if "<" in decl.target.name else everything[:1]:
            body = context.expr(decl.body)
            if body is not None:
                name, scope = context.member.expand(decl.target.name), _Scope(context, sizes, known)
                entries = decl.target.entries or ()
                result = _rotated(body, entries, scope) or _evaluated(body, entries, scope)
                found[name], known[name] = result, plain(result)
    return found


def _rotated(body: Expr, entries: Sequence[Entry], scope: _Scope) -> Rotated | None:
    """A sum of products in its factors: those that depend on the outputs are the weight, and must not depend on the inputs; the others are the rotation."""
    if not isinstance(body, Sum) or len(entries) != 2 or len(body.entries) != 1:
        return None
    outputs, inputs = entries
    weight, rotation = ([f for f in _factors(body.body) if _mentions(f, outputs, scope) is depends] for depends in (True, False))
    if not weight or not any(_mentions(f, inputs, scope) for f in rotation) or any(_mentions(f, inputs, scope) for f in weight):
        return None
    sides = ((weight, outputs), (rotation, inputs))
    return Rotated(*(_evaluated(_product(factors), (entry, *body.entries), scope) for factors, entry in sides))


def _factors(expr: Expr) -> list[Expr]:
    return [*_factors(expr.left), *_factors(expr.right)] if isinstance(expr, Binary) and expr.op == "*" else [expr]


def _product(factors: Sequence[Expr]) -> Expr:
    return reduce(lambda left, right: Binary("*", left, right, left.span), factors)


def _mentions(expr: Expr, entry: Entry, scope: _Scope) -> bool:
    """Does an expression read at an index of this axis?"""
    digit = scope.context.digit(entry)
    letters = [letter for letter, axis in scope.context.axes.items() if digit is not None and axis == digit.axis]
    return any(isinstance(node, Name) and node.id in letters for node in nodes(expr))


def invariants(document: Document, contexts: Mapping[str, Context], sizes: Mapping[str, int], stored: Stored) -> Iterator[tuple[str, Logical]]:
    """The tensors that follow from the others, with the values that they must have. What depends on them is not evaluated before they are stored."""
    for rule in document.invariants:
        for context in contexts.values():
            if not context.holds(rule.condition):
                continue
            assert isinstance(rule.expr, Binary)
            assert isinstance(rule.expr.left, Index)
            name = context.member.expand(rule.expr.left.name)
            known = {**stored, **values(document, contexts, sizes, stored)}
            yield name, _evaluated(rule.expr.right, rule.expr.left.entries, _Scope(context, sizes, known))


def _evaluated(body: Expr, entries: Sequence[Entry], scope: _Scope) -> Logical:
    """The value of an expression over the digits of a left side, one dimension per axis."""
    digits = [digit for entry in entries if (digit := scope.context.digit(entry)) is not None]
    inner = scope.inside(digits)
    array = np.broadcast_to(_value(body, inner), inner.shape).astype(np.float64)
    # A left side lists each axis once, or its digits from the top down, side by side or not.
    places = {loop.axis: [other.dim for other in inner.loops if other.axis == loop.axis] for loop in inner.loops}
    bases = tuple(min(inner.loops[i].div for i in dims) for dims in places.values())
    ordered = array.transpose([i for dims in places.values() for i in sorted(dims, key=lambda i: -inner.loops[i].div)])
    whole = ordered.reshape([prod(inner.loops[i].ext for i in dims) for dims in places.values()])
    cut = tuple(slice(0, -(-scope.extent(axis) // base)) for axis, base in zip(places, bases))
    return Logical(tuple(places), bases, whole[cut])


# ---- expressions -------------------------------------------------------------------------------------------------------------------------------------------


def _value(expr: Expr, scope: _Scope) -> Any:
    match expr:
        case Constant(int() | float() as number):
            return np.float64(number)
        case Unary("-", operand):
            return -_value(operand, scope)
        case Binary(op, left, right) if op in _OPERATORS:
            return _OPERATORS[op](_value(left, scope), _value(right, scope))
        case Conditional(condition, then, otherwise):
            return _value(then if scope.context.holds(condition) else otherwise, scope)
        case Index(name, _, entries):
            return _read(scope.context.member.expand(name), entries, scope)
        case Name(name):
            return _name(expr, scope.context.member.expand(name), scope)
        case Sum(entries, body):
            return _sum(body, entries, scope)
    raise AssertionError(f"`{expr.span.text}` was typed, but has no value")


def _name(expr: Name, name: str, scope: _Scope) -> Any:
    """A tensor of one element, or an integer of the config."""
    if name in scope.stored:
        return _read(name, (), scope)
    return np.float64(scope.number(scope.context.lookup(name, expr.span)))


def _read(name: str, entries: Sequence[Entry], scope: _Scope) -> Array:
    picks = [(scope.context.digit(entry.digit), entry.at) for entry in entries if isinstance(entry, Pick)]
    picked = {digit.axis: _index(at, scope) for digit, at in picks if digit is not None}
    return scope.stored[name].at({**scope.indices, **picked}).astype(np.float64, copy=False)


def _index(expr: Expr, scope: _Scope) -> Any:
    """The index of a pick: integers over the letters of axes."""
    match expr:
        case Name(name) if name in scope.context.axes:
            return scope.indices[scope.context.axes[name]]
        case Binary("+" | "-" | "*" | "//" | "%" as op, left, right):
            functions = {"+": np.add, "-": np.subtract, "*": np.multiply, "//": np.floor_divide, "%": np.mod}
            return functions[op](_index(left, scope), _index(right, scope))
    return scope.number(integer(expr, scope.context))


def _sum(body: Expr, entries: Sequence[Entry], scope: _Scope) -> Array:
    digits = [digit for entry in entries if (digit := scope.context.digit(entry)) is not None]
    inner = scope.inside(digits)
    terms = np.broadcast_to(_value(body, inner), inner.shape)
    for axis in {digit.axis for digit in digits}:
        # The last group of a partial split has fewer indices than the others.
        terms = np.where(inner.indices[axis] < scope.extent(axis), terms, 0.0)
    found: Array = terms.sum(axis=tuple(range(len(scope.loops), len(inner.loops))))
    return found
