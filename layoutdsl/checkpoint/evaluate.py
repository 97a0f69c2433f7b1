"""``value`` and ``invariants`` of a spec over blocks of rows: an expression becomes a few operations over whole arrays, made once and run for every block.

Between the spec's text and ``values`` and ``diff``; ``layoutdsl.verify.oracle`` evaluates the same index by index, and the tests compare the two. An array has
one dimension per loop, of length one where it does not vary. Loops are cut at the divisors of what is read (``k`` into ``k//64`` and ``k%64`` where a scale is
read at ``k//64``), so that a read is a view and a product broadcasts.

Invariants: what an expression does not say is not known here: no scheme has code of its own. Products are taken small factors first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import count, pairwise
from math import gcd, prod
from typing import Any

import numpy as np

from layoutdsl.checkpoint.numbers import LONGEST, Array, Shape, scratch
from layoutdsl.compiler.emit import size_expr
from layoutdsl.compiler.evaluate import integer
from layoutdsl.compiler.scope import Context
from layoutdsl.ir.layout import Digit
from layoutdsl.ir.symbolic import Size
from layoutdsl.plan.sizes import evaluate
from layoutdsl.syntax.document import Document, NoValue
from layoutdsl.syntax.tree import Binary, Conditional, Constant, Entry, Expr, Index, Name, Pick, Sum, Unary
from layoutdsl.syntax.walk import nodes

Arrays = Mapping[str, Array]
Run = Callable[[Arrays], Array]


class Unsupported(Exception):
    """An expression, or sizes, that blocks cannot be made of."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A digit of an axis that an array has a dimension for."""

    axis: str
    div: int
    ext: int


@dataclass(frozen=True, slots=True)
class Node:
    """An expression ready to run. shape: one length per loop, 1 where it does not vary. number: what it always is, if that is known. array: what it reads, if
    that is all it does, in order; factor: what that is multiplied by, the same along the last dim."""

    shape: tuple[int, ...]
    run: Run
    number: float | None = None
    array: str = ""
    factor: Run | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """What an expression may read, and the loops that it runs over.

    held: the shapes of the arrays. absent: what stands for a parameter that is not stored. extents: of the axes, as far as this block goes. bodies: named
    results of ``value``, which are evaluated where they are read.
    sums: sums that arrays hold already: by the identity of the node, the name of the array, which has every place of the loops. absolute: of everything the
    magnitude, so that the result bounds what rounding can do. memory: the name of the memory that products are written to, which is the same every time.
    """

    context: Context
    sizes: Mapping[str, int]
    extents: Mapping[str, int]
    held: Mapping[str, Shape]
    bodies: Mapping[str, Expr]
    absent: Mapping[str, float] = field(default_factory=dict)
    dtype: Any = np.float64
    sums: Mapping[int, str] = field(default_factory=dict)
    absolute: bool = False
    memory: str = "program"
    loops: tuple[Loop, ...] = ()
    products: Iterator[int] = field(default_factory=count)

    def number(self, size: Size | int) -> int:
        return evaluate(size_expr(Size.of(size)), self.sizes)

    def loop(self, digit: Digit) -> Loop:
        """A digit as a loop; a digit that is all of its axis goes as far as the axis does here."""
        div, ext = self.number(digit.div), self.number(digit.ext)
        whole = self.number(self.context.space.extents[digit.axis])
        return Loop(digit.axis, div, -(-self.extents[digit.axis] // div) if div * ext >= whole else ext)

    def index(self, axis: str) -> Array:
        """The index of an axis at every place of the loops, to broadcast."""
        total: Array = np.zeros([1] * len(self.loops), np.int64)
        for dim, loop in enumerate(self.loops):
            if loop.axis == axis:
                total = total + (np.arange(loop.ext) * loop.div).reshape([-1 if d == dim else 1 for d in range(len(self.loops))])
        return total


def bodies_of(document: Document, contexts: Iterable[Context]) -> dict[str, tuple[Context, Expr, tuple[Entry, ...]]]:
    """The results of ``value`` that have one in this configuration: by name, templates expanded, the member's view, the expression and the left side."""
    found: dict[str, tuple[Context, Expr, tuple[Entry, ...]]] = {}
    if isinstance(document.value, NoValue):
        return found
    everything = list(contexts)
    for decl in document.value:
        for context in everything if "<" in decl.target.name else everything[:1]:
            body = context.expr(decl.body)
            if body is not None:
                found[context.member.expand(decl.target.name)] = (context, body, decl.target.entries or ())
    return found


def program(body: Expr, entries: Sequence[Entry], scope: Scope) -> Run:
    """A function that evaluates an expression over the digits of a left side, one dimension per digit. It may return the same memory every time.

    Raises: Unsupported.
    """
    whole, inner = _loops(body, entries, scope)
    node = _node(body, inner)
    shape, full = tuple(loop.ext for loop in whole), tuple(loop.ext for loop in inner.loops)

    def run(arrays: Arrays) -> Array:
        found = node.run(arrays)
        everywhere: Array = found if found.shape == full else np.broadcast_to(found, full)
        return everywhere.reshape(shape)

    return run


def factor_of(body: Expr, entries: Sequence[Entry], scope: Scope, name: str, rows: int) -> Run | None:
    """Where an expression is each number of this array, in order, times what is the same along runs of its row: that, as float32 [rows, runs]; else None.

    Raises: Unsupported.
    """
    _, inner = _loops(body, entries, scope)
    node, full = _node(body, inner), tuple(loop.ext for loop in inner.loops)
    factor = node.factor
    if factor is None or node.array != name or node.shape != full:
        return None

    def run(arrays: Arrays) -> Array:
        return np.ascontiguousarray(np.broadcast_to(factor(arrays), (*full[:-1], 1)).reshape(rows, -1), np.float32)

    return run


def _loops(body: Expr, entries: Sequence[Entry], scope: Scope) -> tuple[list[Loop], Scope]:
    """The loops of a left side, and what is inside of them."""
    whole = [scope.loop(digit) for entry in entries if (digit := scope.context.digit(entry)) is not None]
    return whole, replace(scope, loops=_cut(whole, body, scope), products=count())


def reads(expr: Expr, scope: Scope) -> set[str]:
    """The arrays that an expression reads, those of the named results in it included."""
    found: set[str] = set()
    for node in nodes(expr):
        name = node.name if isinstance(node, Index) else node.id if isinstance(node, Name) else ""
        name = scope.context.member.expand(name)
        if name in scope.held:
            found.add(name)
        elif name in scope.bodies and isinstance(node, Index):
            found |= reads(scope.bodies[name], scope)
    return found


# ---- loops --------------------------------------------------------------------------------------------------------------------------------------------------


def _cut(loops: Iterable[Loop], body: Expr, scope: Scope) -> tuple[Loop, ...]:
    """Each loop as several, cut where something that the expression reads has its base, as far as these divide one another."""
    bases: dict[str, set[int]] = {}
    for name in reads(body, scope):
        for axis, base in zip(scope.held[name].axes, scope.held[name].bases):
            bases.setdefault(axis, set()).add(base)
    for base, axis in _modulo(body, scope):
        bases.setdefault(axis, set()).add(base)
    found: list[Loop] = []
    for loop in loops:
        end, low = loop.div * loop.ext, loop.div
        cuts = [loop.div]
        for base in sorted(bases.get(loop.axis, ())):
            if low < base < end and base % low == 0 and end % base == 0:
                cuts.append(base)
                low = base
        found += [Loop(loop.axis, low, high // low) for low, high in reversed([*pairwise((*cuts, end))])]
    return tuple(found)


def _modulo(body: Expr, scope: Scope) -> Iterable[tuple[int, str]]:
    """Where an index is taken apart: the divisors in ``k//R`` and ``k%R`` of reads and picks."""
    for node in nodes(body):
        match node:
            case Binary("//" | "%", Name(letter), right) if letter in scope.context.axes:
                yield scope.number(integer(right, scope.context)), scope.context.axes[letter]


def _inside(entries: Sequence[Entry], body: Expr, scope: Scope) -> Scope:
    """The scope of a sum's body."""
    loops = [scope.loop(digit) for entry in entries if (digit := scope.context.digit(entry)) is not None]
    return replace(scope, loops=(*scope.loops, *_cut(loops, body, scope)))


# ---- expressions ----------------------------------------------------------------------------------------------------------------------------------------


def _node(expr: Expr, scope: Scope) -> Node:
    match expr:
        case Constant(int() | float() as number):
            return _constant(abs(number) if scope.absolute else number, scope)
        case Unary("-", operand):
            inner = _node(operand, scope)
            return inner if scope.absolute else Node(inner.shape, lambda arrays: np.negative(inner.run(arrays)))
        case Binary("+" | "-" as op, left, right):
            first, second = _node(left, scope), _node(right, scope)
            if second.number == 0:
                return first
            function = np.add if op == "+" or scope.absolute else np.subtract
            return Node(_broadcast(first, second), lambda arrays: function(first.run(arrays), second.run(arrays)))
        case Binary("*" | "/"):
            return _product(expr, scope)
        case Conditional(condition, then, otherwise):
            return _node(then if scope.context.holds(condition) else otherwise, scope)
        case Index(name, _, entries):
            name = scope.context.member.expand(name)
            if name in scope.absent:
                return _constant(scope.absent[name], scope)
            return _read(name, entries, scope) if name in scope.held else _node(_body(name, entries, scope), scope)
        case Name(name):
            name = scope.context.member.expand(name)
            if name in scope.absent:
                return _constant(scope.absent[name], scope)
            if name in scope.held:
                return _read(name, (), scope)
            return _constant(scope.number(scope.context.lookup(name, expr.span)), scope)
        case Sum() if id(expr) in scope.sums:
            name, shape = scope.sums[id(expr)], tuple(loop.ext for loop in scope.loops)
            return Node(shape, lambda arrays: arrays[name].reshape(shape))
        case Sum(entries, body):
            return _sum(entries, body, scope)
    raise Unsupported(f"`{expr.span.text}`")


def _constant(number: float, scope: Scope) -> Node:
    array = np.full([1] * len(scope.loops), number, np.float64)
    return Node(array.shape, lambda arrays: array, number)


def _broadcast(*operands: Node) -> tuple[int, ...]:
    return tuple(np.broadcast_shapes(*(operand.shape for operand in operands)))


def _body(name: str, entries: Sequence[Entry], scope: Scope) -> Expr:
    """A named result where it is read: the same indices, so the same expression."""
    if name not in scope.bodies:
        raise Unsupported(f"`{name}` is not stored")
    if any(isinstance(entry, Pick) for entry in entries):
        raise Unsupported(f"`{name}` is read at other indices")
    return scope.bodies[name]


def factors(expr: Expr, scope: Scope) -> tuple[list[Expr], list[Expr]]:
    """What a product multiplies, and what it divides by; named results opened."""
    match expr:
        case Binary("*", left, right):
            (a, b), (c, d) = factors(left, scope), factors(right, scope)
            return a + c, b + d
        case Binary("/", left, right):
            (a, b), (c, d) = factors(left, scope), factors(right, scope)
            return a + d, b + c
        case Index(name, _, entries) if scope.context.member.expand(name) in scope.bodies:
            return factors(_body(scope.context.member.expand(name), entries, scope), scope)
        case Conditional(condition, then, otherwise):
            return factors(then if scope.context.holds(condition) else otherwise, scope)
    return [expr], []


def _product(expr: Expr, scope: Scope) -> Node:
    """Small factors first, in float64; the largest last, in the type that is asked for."""
    above, below = factors(expr, scope)
    parts = sorted([*((_node(f, scope), False) for f in above), *((_node(f, scope), True) for f in below)], key=lambda part: prod(part[0].shape))
    shape = _broadcast(*(node for node, _ in parts))
    *small, (largest, divides) = parts
    memory = f"{scope.memory} {next(scope.products)}"

    def rest(arrays: Arrays) -> Array:
        found = reduce(lambda found, part: _times(found, part[0].run(arrays), part[1]), small, np.float64(1))
        return np.asarray(found).astype(scope.dtype, copy=False)

    def run(arrays: Arrays) -> Array:
        buffer = scratch(memory, prod(shape), scope.dtype).reshape(shape)
        full, factor = largest.run(arrays), rest(arrays)
        found: Array = np.divide(factor, full, out=buffer) if divides else np.multiply(full, factor, out=buffer)
        return found

    along_runs = not divides and largest.shape == shape and all(node.shape[-1:] == (1,) for node, _ in small)
    return Node(shape, run, array=largest.array if along_runs else "", factor=rest if along_runs else None)


def _times(found: Any, factor: Array, divides: bool) -> Any:
    return found / factor if divides else found * factor


def _sum(entries: Sequence[Entry], body: Expr, scope: Scope) -> Node:
    """A sum of products, factor by factor: a rotation is multiplied by its two small matrices, not by their product."""
    inner, kept = _inside(entries, body, scope), len(scope.loops)
    above, below = factors(body, inner)
    parts = [_node(factor, inner) for factor in above] if not below else [_node(body, inner)]
    dims = [[d for d, size in enumerate(part.shape) if size > 1] for part in parts]
    out = sorted({d for own in dims for d in own if d < kept})
    # What no factor tells apart is added that many times over.
    same = prod(loop.ext for d, loop in enumerate(inner.loops) if d >= kept and not any(d in own for own in dims))
    shapes = [tuple(part.shape[d] for d in own) for part, own in zip(parts, dims)]
    examples: list[Any] = [item for shape, own in zip(shapes, dims) for item in (np.broadcast_to(np.float64(0), shape), own)]
    # One pass over the largest is best where the others only scale it; else, as with rotations, two at a time.
    largest: list[int] = max(dims, key=len)
    one_pass = {d for own in dims for d in own} == {*largest}
    path = not one_pass and np.einsum_path(*examples, out, optimize="optimal" if len(parts) > 2 else "greedy")[0]
    shape = tuple(max((part.shape[d] for part in parts), default=1) for d in range(kept))

    def run(arrays: Arrays) -> Array:
        operands = [item for part, own, sizes in zip(parts, dims, shapes) for item in (part.run(arrays).reshape(sizes), own)]
        found: Array = np.einsum(*operands, out, optimize=path) * same
        return found.reshape(shape)

    return Node(shape, run)


# ---- reads ----------------------------------------------------------------------------------------------------------------------------------------------


def _read(name: str, entries: Sequence[Entry], scope: Scope) -> Node:
    """An array at the indices of the loops: a view wherever each axis runs along loops of its own, else a copy."""
    held = scope.held[name]
    picks = [(scope.context.digit(entry.digit), entry.at) for entry in entries if isinstance(entry, Pick)]
    picked = {digit.axis: _index(at, scope) for digit, at in picks if digit is not None}
    places = [_place(picked.get(axis, scope.index(axis)), base, values) for axis, base, values in zip(held.axes, held.bases, held.counts)]
    dims = [[d for d, size in enumerate(place.shape) if size > 1] for place in places]
    shape = tuple(np.broadcast_shapes(*(place.shape for place in places), (1,) * len(scope.loops)))
    memory = f"{scope.memory} {name} {next(scope.products)}"
    if len({d for own in dims for d in own}) < sum(map(len, dims)):
        return Node(shape, lambda arrays: _absolute(arrays[name][tuple(places)], scope, memory))
    takes = [(axis, place.reshape(-1)) for axis, place in enumerate(places) if not np.array_equal(place.reshape(-1), np.arange(held.counts[axis]))]
    apart = [place.shape[d] for place, own in zip(places, dims) for d in own]
    run_along = [d for own in dims for d in own]
    order = [run_along.index(d) for d in sorted(run_along)]

    plain = not takes and not scope.absolute and order == [*range(len(order))]

    def run(arrays: Arrays) -> Array:
        array = _absolute(arrays[name], scope, memory)
        for axis, place in takes:
            array = array.take(place, axis=axis)
        found: Array = array.reshape(apart).transpose(order).reshape(shape)
        return found

    return Node(shape, run, array=name if plain else "")


def _absolute(array: Array, scope: Scope, memory: str) -> Array:
    return np.abs(array, out=scratch(f"{memory} absolute", array.size, array.dtype).reshape(array.shape)) if scope.absolute else array


def _place(index: Array, base: int, values: int) -> Array:
    """Where along an axis an array is read, of length one in every dimension along which that is the same."""
    place = index // base % max(values, 1)
    for dim in range(place.ndim):
        first = place[tuple(slice(0, 1) if d == dim else slice(None) for d in range(place.ndim))]
        if place.shape[dim] > 1 and (place == first).all():
            place = first
    return place


def _index(expr: Expr, scope: Scope) -> Array:
    """The index of a pick: integers over the letters of axes."""
    match expr:
        case Name(name) if name in scope.context.axes:
            return scope.index(scope.context.axes[name])
        case Binary("+" | "-" | "*" | "//" | "%" as op, left, right):
            functions: dict[str, Callable[..., Array]] = {"+": np.add, "-": np.subtract, "*": np.multiply, "//": np.floor_divide, "%": np.mod}
            return functions[op](_index(left, scope), _index(right, scope))
    return np.full([1] * len(scope.loops), scope.number(integer(expr, scope.context)), np.int64)


# ---- weighed sums ---------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Weighed:
    """The one sum of an expression that reads an array: over its numbers, each times what other arrays hold. parts: so many sums for each row. run: so many
    numbers along a row are multiplied by the same; above, below: by these, and by one over these."""

    sum: Sum
    parts: int
    run: int
    above: tuple[Expr, ...]
    below: tuple[Expr, ...]


def weighed_sum(body: Expr, entries: Sequence[Entry], name: str, rows: str, scope: Scope) -> Weighed | None:
    """That sum, if there is one for each row of the array, or for each of equal parts of every row, in order; None if more is read than that.

    rows: the axis of the rows.
    """
    sums = [node for node in nodes(_opened(body, scope)) if isinstance(node, Sum) and name in reads(node, scope)]
    if len(sums) != 1 or name not in reads(body, scope):
        return None
    digits = [digit for entry in sums[0].entries if (digit := scope.context.digit(entry)) is not None]
    above, below = factors(sums[0].body, scope)
    own = [factor for factor in above if name in reads(factor, scope)]
    others = [factor for factor in (*above, *below) if name not in reads(factor, scope)]
    plain = (Index, Name, Constant)
    if len(digits) != 1 or len(own) != 1 or len(above) + len(below) != 1 + len(others) or not all(isinstance(factor, plain) for factor in (*own, *others)):
        return None
    if any(isinstance(node, Pick) for factor in (*others, *own) for node in nodes(factor)):
        return None
    inner = scope.loop(digits[0])
    outer = [loop for entry in entries if (digit := scope.context.digit(entry)) is not None and (loop := scope.loop(digit)).ext > 1]
    parts = scope.extents[inner.axis] // inner.ext
    wanted = [Loop(rows, 1, scope.extents.get(rows, 1)), Loop(inner.axis, inner.ext, parts)]
    if inner.div != 1 or outer != [loop for loop in wanted if loop.ext > 1] or inner.ext * parts != scope.extents[inner.axis]:
        return None
    bases = [base for read in others for own_name in reads(read, scope) for base in _bases(scope.held[own_name], inner.axis)]
    same = gcd(inner.ext, *bases)
    run = next(run for run in range(min(same, LONGEST), 0, -1) if same % run == 0)
    return Weighed(sums[0], parts, run, tuple(factor for factor in above if factor is not own[0]), tuple(below))


def _bases(shape: Shape, axis: str) -> list[int]:
    return [base for own, base in zip(shape.axes, shape.bases) if own == axis]


def weights(of: Weighed, entries: Sequence[Entry], rows: int, scope: Scope) -> Run:
    """What each run of numbers is multiplied by: float64 [rows, runs]. entries: what the expression with the sum is evaluated over. Raises: Unsupported."""
    whole = [scope.loop(digit) for entry in entries if (digit := scope.context.digit(entry)) is not None]
    inner = [scope.loop(digit) for entry in of.sum.entries if (digit := scope.context.digit(entry)) is not None]
    runs = [Loop(loop.axis, of.run, loop.ext // of.run) for loop in inner]
    scope = replace(scope, loops=_cut([*whole, *runs], of.sum.body, scope), products=count())
    parts = [*((_node(factor, scope), False) for factor in of.above), *((_node(factor, scope), True) for factor in of.below)]
    full = tuple(loop.ext for loop in scope.loops)

    def run(arrays: Arrays) -> Array:
        found = reduce(lambda found, part: _times(found, part[0].run(arrays), part[1]), parts, np.ones([1] * len(full)))
        return np.ascontiguousarray(np.broadcast_to(found, full), np.float64).reshape(rows, -1)

    return run


def _opened(expr: Expr, scope: Scope) -> tuple[Expr, ...]:
    """An expression and the named results that it reads."""
    found = [expr]
    for node in nodes(expr):
        if isinstance(node, Index) and scope.context.member.expand(node.name) in scope.bodies:
            found += _opened(scope.bodies[scope.context.member.expand(node.name)], scope)
    return tuple(found)
