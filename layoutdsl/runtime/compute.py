"""Expressions over digits, evaluated with torch: broadcasts, gathers, elementwise arithmetic, sums.

Runs a plan's ``Compute``. Every loop of an expression (the digits of its type, and those that a ``sum`` binds) becomes one or more atoms, one tensor dimension
each, cut where the operands' digits are; an operand is a strided view over the atoms (extent 1 where it does not depend on one), so ``scale[n, k//32]`` is
broadcast, not repeated. Operands whose digits do not nest with the loops (a partial last group) are gathered by index.

Invariants: no full-size intermediate: bodies of sums and elementwise expressions are evaluated in tiles; only sums and operands are whole. Movement,
elementwise arithmetic and integer sums give the same bits in any tile. A float ``sum`` in exact mode has the bits of one torch.sum over the whole C-contiguous
body (see ``_blocks``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import gcd, prod
from typing import Any, Literal

import torch

from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.plan.model import BINARY, CONVERSIONS, Compute, Digit, Expr, TensorType
from layoutdsl.runtime.dtypes import SIGNED, torch_dtype
from layoutdsl.runtime.move import fill_holes

Mode = Literal["exact", "fast"]
# Elements of a tile: 4 MiB of float32, measured best for sums over 4096 to 16384 rows.
TILE = 1 << 20
# Torch sums columns in vectors from the left: parts of a multiple of this many columns have the bits of the whole (32 do for float32).
COLUMNS = 64

_BINARY: dict[str, Callable[..., torch.Tensor]] = {
    "+": torch.add,
    "-": torch.sub,
    "*": torch.mul,
    "/": torch.div,
    "%": torch.remainder,
    "&": torch.bitwise_and,
    "<<": torch.bitwise_left_shift,
    ">>": torch.bitwise_right_shift,
}


# --- data -------------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """A digit and its stride in storage elements."""

    axis: str
    div: int
    ext: int
    stride: int


@dataclass(frozen=True, slots=True)
class _Operand:
    """A value that expressions read. excess: what the stored number has too much."""

    tensor: torch.Tensor
    places: tuple[_Place, ...]
    excess: int


@dataclass(frozen=True, slots=True)
class _Loop:
    """A digit that is iterated over, or the part of it that a tile sees."""

    axis: str
    div: int
    ext: int
    start: int
    count: int

    @property
    def key(self) -> tuple[str, int]:
        return self.axis, self.div


@dataclass(frozen=True, slots=True)
class _Atom:
    """A part of a loop: one dimension. span: its extent when no tile cuts it; loop_div: the divisor of its loop."""

    axis: str
    div: int
    span: int
    start: int
    count: int
    loop_div: int


@dataclass(frozen=True, slots=True)
class _Scope:
    """The dimensions that an expression is evaluated over, and what it can read."""

    atoms: tuple[_Atom, ...]
    operands: Mapping[str, _Operand]
    extents: Mapping[str, int]
    device: torch.device

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(atom.count for atom in self.atoms)


# --- entry ------------------------------------------------------------------------------------------------------------------------------------------------


def compute(instruction: Compute, values: Mapping[str, tuple[torch.Tensor, TensorType]], extents: Mapping[str, int], out: torch.Tensor, mode: Mode) -> None:
    """Evaluate an expression into ``out`` (allocated as ``instruction.type``).

    values: by id, each with its type (no lanes). extents: true extents of the axes; loops beyond them are holes and get the fill.
    mode: ``exact``, or ``fast``, where a sum of a weight times scales is taken group by group, exact within a group.
    Raises: ValueError for an expression that is not well typed (operands of two dtypes, an index that no loop determines, a result that ``out`` cannot hold).
    """
    kind = instruction.type
    if out.numel():
        operands = {name: _operand(tensor, type_) for name, (tensor, type_) in values.items()}
        loops = _loops([digit for dim in kind.dims for digit in dim], extents)
        job = _Job(operands, extents, out.device, mode)
        expr = job.with_sums(instruction.expr, loops)
        job.elementwise(expr, loops, _operand(out, replace(kind, excess=0)))
        if kind.pads:
            fill_holes(out, kind, extents)


def _operand(tensor: torch.Tensor, kind: TensorType) -> _Operand:
    if any(lane.ext != 1 for lane in kind.lanes):
        raise ValueError("compute reads one element per storage element; lanes are moved apart first")
    places = []
    for dim, stride in zip(kind.dims, tensor.stride()):
        for digit in reversed(dim):
            if digit.ext != 1:
                places.append(_Place(digit.axis, _int(digit.div), _int(digit.ext), stride))
            stride *= _int(digit.ext)
    return _Operand(tensor.detach(), tuple(places), kind.excess)


def _int(size: Any) -> int:
    assert isinstance(size, int)
    return size


def _loops(digits: Sequence[Digit], extents: Mapping[str, int]) -> list[_Loop]:
    """Loops over digits, the top one of an axis no further than valid indices go; a digit of one value is no loop."""
    loops = []
    for digit in digits:
        div, ext = _int(digit.div), _int(digit.ext)
        top = not any(other.axis == digit.axis and _int(other.div) > div for other in digits)
        if top and digit.axis in extents:
            ext = min(ext, -(-extents[digit.axis] // div))
        if ext != 1:
            loops.append(_Loop(digit.axis, div, ext, 0, ext))
    return loops


@dataclass
class _Job:
    """One instruction: its operands, to which the results of sums are added as they are made."""

    operands: dict[str, _Operand]
    extents: Mapping[str, int]
    device: torch.device
    mode: Mode
    sums: Iterator[int] = field(default_factory=itertools.count)

    def scope(self, expr: Expr, loops: Sequence[_Loop]) -> _Scope:
        reads = [(self.operands[name], {axis for axis, _ in picks}) for name, picks in _reads(expr)]
        atoms = tuple(atom for loop in loops for atom in _atoms(loop, loops, reads))
        return _Scope(atoms, self.operands, self.extents, self.device)

    def elementwise(self, expr: Expr, loops: Sequence[_Loop], out: _Operand) -> None:
        """Evaluate an expression without sums into ``out``, in tiles along its memory."""
        stride = {(place.axis, place.div): place.stride for place in out.places}
        ordered = sorted(loops, key=lambda loop: -stride[loop.key])
        for tile in _chunks(ordered, TILE):
            scope = self.scope(expr, tile)
            result, _ = _evaluate(expr, scope)
            if result.dtype != out.tensor.dtype:
                raise ValueError(f"an expression of {result.dtype} cannot be written into {out.tensor.dtype}")
            view = _read(out, (), scope)
            view.copy_(result)

    def with_sums(self, expr: Expr, outer: Sequence[_Loop]) -> Expr:
        """The expression with its sums done: each is a read of its result."""
        if expr[0] in ("at", "const"):
            return expr
        if expr[0] != "sum":
            return tuple(self.with_sums(part, outer) if isinstance(part, tuple) else part for part in expr)
        _, bound, order, body = expr
        grouped = self.grouped(bound, body, outer) if self.mode == "fast" else None
        if grouped is not None:
            return self.with_sums(grouped, outer)
        digits = [Digit(loop.axis, loop.div, loop.ext) for loop in outer]
        loops = _loops([*digits, *bound], self.extents)
        rank = {(entry.axis, entry.div) if isinstance(entry, Digit) else tuple(entry): place for place, entry in enumerate(order)}
        ordered = sorted(loops, key=lambda loop: rank.get(loop.key, -1))
        summed = {(digit.axis, _int(digit.div)) for digit in bound if digit.ext != 1}
        name = f"sum:{next(self.sums)}"
        self.operands[name] = self.sum(self.with_sums(body, ordered), ordered, summed)
        return ("at", name, ())

    def grouped(self, bound: Sequence[Digit], body: Expr, outer: Sequence[_Loop]) -> Expr | None:
        """A sum of a product of one integer tensor and scales that are constant over groups, as a sum over groups of exact integer sums; None for all others.

        At most as many float additions as groups are left, and none inside a group rounds.
        """
        summed = [digit for digit in bound if digit.ext != 1]
        split = _split(body, summed[0], self.operands) if len(summed) == 1 else None
        if split is None:
            return None
        digit, (name, dtype), group = summed[0], split.weight, split.group
        count = _int(digit.ext) * _int(digit.div) // group
        groups, within = Digit(digit.axis, group, count), Digit(digit.axis, digit.div, group // _int(digit.div))
        weight = self.operands[name]
        axes = {place.axis for place in weight.places}
        loops = _loops([*(Digit(loop.axis, loop.div, loop.ext) for loop in outer if loop.axis in axes), groups, within], self.extents)
        chains = {loop.key: max((p.stride for p in weight.places if p.axis == loop.axis and p.div <= loop.div), default=0) * loop.div for loop in loops}
        total = f"sum:{next(self.sums)}"
        ordered = sorted(loops, key=lambda loop: -chains[loop.key])
        self.operands[total] = self.sum(("cast", "int32", ("at", name, ())), ordered, {(within.axis, _int(within.div))} if within.ext != 1 else set())
        inner: Expr = ("cast", dtype, ("at", total, ()))
        for factor in split.coarse:
            inner = ("*", inner, factor)
        if count != 1:
            inner = ("sum", (groups,), ((groups.axis, group), *(loop.key for loop in outer)), inner)
        for factor in split.constant:
            inner = ("*", inner, factor)
        return inner

    def sum(self, body: Expr, loops: Sequence[_Loop], bound: set[tuple[str, int]]) -> _Operand:
        """The sum of a body over the bound loops; ``loops`` in the order in which it is materialised."""
        free = [loop for loop in loops if loop.key not in bound]
        shape = [loop.ext for loop in free]
        places, stride = [], 1
        for loop in reversed(free):
            places.append(_Place(loop.axis, loop.div, loop.ext, stride))
            stride *= loop.ext
        result: torch.Tensor | None = None
        for tile in _blocks(loops, bound):
            part = self.tile_sum(body, tile, bound)
            if result is None:
                result = torch.empty(shape, dtype=part.dtype, device=self.device)
            here = tuple(slice(loop.start, loop.start + loop.count) for loop in tile if loop.key not in bound)
            result[here] = part
        if result is None:
            result = torch.zeros(shape, dtype=self.tile_sum(body, loops, bound).dtype, device=self.device)
        return _Operand(result, tuple(place for place in places if place.ext != 1), 0)

    def tile_sum(self, body: Expr, loops: Sequence[_Loop], bound: set[tuple[str, int]]) -> torch.Tensor:
        scope = self.scope(body, loops)
        terms, _ = _evaluate(body, scope)
        terms = _without_holes(terms, scope, bound)
        terms = terms.expand(scope.shape).contiguous()
        runs = [(key, prod(loop.count for loop in group)) for key, group in itertools.groupby(loops, lambda loop: loop.key in bound)]
        dims = [dim for dim, (summed, _) in enumerate(runs) if summed]
        if not dims:  # a sum of one term is still a sum: torch makes 0.0 of -0.0, and quiet NaNs of signalling ones
            terms, dims, runs = terms.unsqueeze(0), [0], [(True, 1), *runs]
        total = terms.view([size for _, size in runs]).sum(dims, dtype=terms.dtype)
        return total.view([loop.count for loop in loops if loop.key not in bound])


@dataclass(frozen=True, slots=True)
class _Split:
    """The factors of a product under a sum: an integer tensor (name, dtype it is cast to), those constant over ``group`` indices, those constant over all."""

    weight: tuple[str, str]
    coarse: tuple[Expr, ...]
    constant: tuple[Expr, ...]
    group: int


def _split(body: Expr, digit: Digit, operands: Mapping[str, _Operand]) -> _Split | None:
    levels: list[tuple[int, Expr]] = []
    end = _int(digit.div) * _int(digit.ext)
    for factor in _factors(body):
        reads = _reads(factor)
        if any(picks for _, picks in reads) or _has_sum(factor):
            return None
        levels.append((min((p.div for name, _ in reads for p in operands[name].places if p.axis == digit.axis), default=end), factor))
    fine = [factor for level, factor in levels if level == digit.div]
    group = min((level for level, _ in levels if level != digit.div), default=end)
    nested = end % group == 0 and group % _int(digit.div) == 0 and all(level % group == 0 for level, _ in levels if level != digit.div)
    match fine:
        case [("cast", "float32" | "float64" as dtype, ("at", name, ()))] if nested:
            operand = operands[name]
            # A sum of bytes over a group must fit 32 bits.
            if operand.tensor.dtype in (torch.int8, torch.uint8) and not operand.excess and group // _int(digit.div) <= 1 << 22:
                coarse = tuple(factor for level, factor in levels if digit.div != level != end)
                return _Split((name, dtype), coarse, tuple(factor for level, factor in levels if level == end), group)
    return None


def _has_sum(expr: Any) -> bool:
    return isinstance(expr, tuple) and bool(expr) and (expr[0] == "sum" or any(map(_has_sum, expr[1:])))


def _factors(expr: Expr) -> list[Expr]:
    return [*_factors(expr[1]), *_factors(expr[2])] if expr[0] == "*" else [expr]


# --- tiles ------------------------------------------------------------------------------------------------------------------------------------------------


def _chunks(loops: Sequence[_Loop], budget: int) -> Iterator[list[_Loop]]:
    """Tiles of at most ``budget`` elements (if one row fits), outer loops cut first."""
    cut, rows = 0, prod(loop.ext for loop in loops)
    while cut < len(loops) and rows > budget:
        rows //= loops[cut].ext
        cut += 1
    if not cut:
        yield list(loops)
        return
    step = max(1, budget // max(rows, 1))
    for starts in itertools.product(*(range(loop.ext) for loop in loops[: cut - 1])):
        fixed = [replace(loop, start=start, count=1) for loop, start in zip(loops, starts)]
        for part in _parts(loops[cut - 1], step, 1):
            yield [*fixed, part, *loops[cut:]]


def _parts(loop: _Loop, step: int, least: int) -> Iterator[_Loop]:
    """A loop in parts of ``step``; a rest of less than ``least`` goes to the last part."""
    start = 0
    while start < loop.ext:
        count = step if loop.ext - start - step >= least else loop.ext - start
        yield replace(loop, start=start, count=count)
        start += count


def _blocks(loops: Sequence[_Loop], bound: set[tuple[str, int]]) -> Iterator[list[_Loop]]:
    """Tiles of a sum's body, such that the sum of each has the bits that it has in the sum of the whole (checked over thousands of shapes: tests/runtime).

    torch sums each output by itself, but columns (loops after the last bound one) in vectors from the left: so columns are cut at multiples of ``COLUMNS``, and
    the rest stays with the last tile. A tile with one output would be summed by several threads in parts, which the whole is not: so no tile has one output.
    Loops between bound ones are not cut; a body whose loops cannot be cut is summed whole.
    """
    places = [place for place, loop in enumerate(loops) if loop.key in bound and loop.ext != 1]
    if not places or prod(loop.ext for loop in loops) <= TILE:
        yield list(loops)
        return
    before, inner, after = loops[: places[0]], loops[places[0] : places[-1] + 1], loops[places[-1] + 1 :]
    inner_size, outputs = prod(loop.ext for loop in inner), prod(loop.ext for loop in inner if loop.key not in bound)
    columns = list(_columns(after, max(COLUMNS, TILE // inner_size)))
    width = prod(loop.count for loop in columns[0]) * outputs if columns else 1
    for rows in _rows(before, max(1, TILE // max(1, inner_size * width)), 1 if width > 1 else 2):
        for tile in columns:
            yield [*rows, *inner, *tile]


def _rows(loops: Sequence[_Loop], step: int, least: int) -> Iterator[list[_Loop]]:
    """Leading loops in tiles of about ``step`` combinations, none of less than ``least`` unless there are no more."""
    for place, loop in enumerate(loops):
        inside = prod(other.ext for other in loops[place + 1 :])
        if inside >= max(least, step) and inside > 1:
            continue
        outer = itertools.product(*(range(other.ext) for other in loops[:place]))
        for starts in outer:
            fixed = [replace(other, start=start, count=1) for other, start in zip(loops, starts)]
            for part in _parts(loop, max(step // inside, -(-least // inside)), -(-least // inside)):
                yield [*fixed, part, *loops[place + 1 :]]
        return
    yield list(loops)


def _columns(loops: Sequence[_Loop], width: int) -> Iterator[list[_Loop]]:
    """Trailing loops in tiles of about ``width`` columns that begin and, but for the last, end at multiples of ``COLUMNS``."""
    if not loops or prod(loop.ext for loop in loops) <= width:
        yield list(loops)
        return
    first, *rest = loops
    inside = prod(loop.ext for loop in rest)
    if inside > width and inside % COLUMNS == 0:
        for start in range(first.ext):
            for tile in _columns(rest, width):
                yield [replace(first, start=start, count=1), *tile]
        return
    unit = COLUMNS // gcd(COLUMNS, inside)
    step = max(unit, width // inside // unit * unit)
    for part in _parts(first, step, unit):
        yield [part, *rest]


# --- atoms ------------------------------------------------------------------------------------------------------------------------------------------------


def _reads(expr: Expr) -> list[tuple[str, tuple[Any, ...]]]:
    if expr[0] == "at":
        return [(expr[1], expr[2])]
    return [read for part in expr[1:] if isinstance(part, tuple) and part and isinstance(part[0], str) for read in _reads(part)]


def _atoms(loop: _Loop, loops: Sequence[_Loop], reads: Sequence[tuple[_Operand, set[str]]]) -> list[_Atom]:
    """A loop cut where the operands' digits end, as far as the cuts nest; a loop that a tile cuts stays whole."""
    whole = _Atom(loop.axis, loop.div, loop.ext, loop.start, loop.count, loop.div)
    if loop.count != loop.ext or loop.ext <= 1:
        return [whole]
    end = loop.div * loop.ext
    cuts = [loop.div, end]
    for operand, picked in reads:
        own = [place for place in operand.places if place.axis == loop.axis and loop.axis not in picked]
        for cut in sorted({bound for place in own for bound in (place.div, place.div * place.ext)}):
            if loop.div < cut < end and all(cut % c == 0 or c % cut == 0 for c in cuts):
                cuts.append(cut)
    cuts.sort()
    return [_Atom(loop.axis, low, high // low, 0, high // low, loop.div) for low, high in reversed(list(zip(cuts, cuts[1:])))]


def _chain(axis: str, scope: _Scope) -> list[tuple[int, _Atom]]:
    """The atoms of an axis with their dimensions, lowest first."""
    return sorted(((dim, atom) for dim, atom in enumerate(scope.atoms) if atom.axis == axis), key=lambda pair: (pair[1].div, pair[1].span))


def _nested(place: _Place, chain: Sequence[tuple[int, _Atom]]) -> list[tuple[int, _Atom]] | None:
    """The atoms that together are a digit; None if its boundaries are not theirs."""
    bounds = [atom.div for _, atom in chain]
    end = max((atom.div * atom.span for _, atom in chain), default=0)
    gaps = any(below.div * below.span != above.div for (_, below), (_, above) in zip(chain, chain[1:]))
    top = place.div * place.ext
    if gaps or (place.div < end and place.div not in bounds) or (top < end and top not in bounds):
        return None
    return [(dim, atom) for dim, atom in chain if place.div <= atom.div < top]


# --- reads ------------------------------------------------------------------------------------------------------------------------------------------------


def _read(operand: _Operand, picks: Sequence[tuple[str, Any]], scope: _Scope) -> torch.Tensor:
    """An operand over the atoms of a scope: a view where strides can say it, else gathered."""
    if not operand.tensor.numel() and not prod(scope.shape):
        return operand.tensor.new_empty(scope.shape)
    strides, offset = [0] * len(scope.atoms), 0
    gathered: list[tuple[_Place, torch.Tensor]] = []
    wanted = dict(picks)
    for place in operand.places:
        steps = _steps(place, wanted, operand, scope)
        if isinstance(steps, torch.Tensor):
            gathered.append((place, steps))
            continue
        start, by_dim = steps
        offset += place.stride * start
        for dim, step in by_dim.items():
            strides[dim] += place.stride * step
            offset += place.stride * step * scope.atoms[dim].start
    if not gathered:
        shape = [count if stride else 1 for count, stride in zip(scope.shape, strides)]
        return operand.tensor.as_strided(shape, strides, operand.tensor.storage_offset() + offset)
    return _gather(operand.tensor, strides, offset, gathered, scope)


def _steps(place: _Place, picks: Mapping[str, Any], operand: _Operand, scope: _Scope) -> tuple[int, dict[int, int]] | torch.Tensor:
    """How a digit of an operand follows from the atoms: a start and a step per dimension, or its values as an index tensor over the atoms."""
    if place.axis in picks:
        affine = _affine(picks[place.axis], scope)
        single = sum(other.axis == place.axis for other in operand.places) == 1
        if affine is not None and place.div == 1 and single:
            _check_range(affine, place, scope)
            if all(step >= 0 for step in affine[1].values()):  # torch has no views that run backwards
                return affine
        return _digit_of(_index(picks[place.axis], scope), place)
    chain = _chain(place.axis, scope)
    atoms = _nested(place, chain)
    if atoms is not None and (chain or scope.extents.get(place.axis, place.div + 1) <= place.div):
        return 0, {dim: atom.div // place.div for dim, atom in atoms}
    if not chain or chain[0][1].div > place.div:
        raise ValueError(f"no loop determines the index of axis `{place.axis}` per {place.div}")
    index = torch.zeros((), dtype=torch.int64, device=scope.device)
    for dim, atom in chain:
        index = index + _range(dim, scope) * atom.div
    if place.axis in scope.extents:
        index = index.clamp(max=max(scope.extents[place.axis] - 1, 0))
    return _digit_of(index, place)


def _digit_of(index: torch.Tensor, place: _Place) -> torch.Tensor:
    return torch.remainder(torch.div(index, place.div, rounding_mode="floor"), place.ext)


def _range(dim: int, scope: _Scope) -> torch.Tensor:
    """The values of an atom, along its dimension."""
    atom, shape = scope.atoms[dim], [1] * len(scope.atoms)
    shape[dim] = atom.count
    return torch.arange(atom.start, atom.start + atom.count, device=scope.device).view(shape)


def _affine(index: Any, scope: _Scope) -> tuple[int, dict[int, int]] | None:
    """An index expression as start and step per dimension; None where it is not linear."""
    if isinstance(index, int):
        return index, {}
    if index[0] == "loop":
        _, axis, div = index
        found = {dim: atom.div // div for dim, atom in enumerate(scope.atoms) if (atom.axis, atom.loop_div) == (axis, div)}
        if not found and any(atom.axis == axis for atom in scope.atoms):
            raise ValueError(f"no loop runs over axis `{axis}` per {div}")
        return 0, found
    parts = [_affine(part, scope) for part in index[1:]]
    if parts[0] is None or parts[1] is None:
        return None
    (left, ours), (right, theirs) = parts[0], parts[1]
    match index[0]:
        case "+" | "-" as sign:
            factor = 1 if sign == "+" else -1
            return left + factor * right, {dim: ours.get(dim, 0) + factor * theirs.get(dim, 0) for dim in ours.keys() | theirs.keys()}
        case "*" if not ours or not theirs:
            steps, factor = (ours, right) if not theirs else (theirs, left)
            return left * right, {dim: step * factor for dim, step in steps.items()}
    return None


def _check_range(affine: tuple[int, dict[int, int]], place: _Place, scope: _Scope) -> None:
    start, steps = affine
    ends = [(step * scope.atoms[dim].start, step * (scope.atoms[dim].start + scope.atoms[dim].count - 1)) for dim, step in steps.items()]
    low, high = start + sum(min(end) for end in ends), start + sum(max(end) for end in ends)
    if prod(scope.shape) and not 0 <= low <= high < place.ext:
        raise ValueError(f"indices {low} to {high} of axis `{place.axis}` leave 0 to {place.ext - 1}")


def _index(index: Any, scope: _Scope) -> torch.Tensor:
    """An index expression as a tensor over the atoms."""
    affine = _affine(index, scope)
    if affine is not None:
        start, steps = affine
        total = torch.full([1] * len(scope.atoms), start, dtype=torch.int64, device=scope.device)
        for dim, step in steps.items():
            total = total + _range(dim, scope) * step
        return total
    left, right = (_index(part, scope) for part in index[1:])
    if index[0] == "//":
        return torch.div(left, right, rounding_mode="floor")
    return _BINARY[index[0]](left, right)


def _gather(tensor: torch.Tensor, strides: Sequence[int], offset: int, gathered: Sequence[tuple[_Place, torch.Tensor]], scope: _Scope) -> torch.Tensor:
    """An operand of which some digits are index tensors: those are gathered over the dimensions they depend on, the others stay views."""
    indices = [(place.ext, place.stride, index) for place, index in gathered]
    rest = [dim for dim, stride in enumerate(strides) if stride]
    if any(index.shape[dim] != 1 for _, _, index in indices for dim in rest):
        indices += [(scope.atoms[dim].count, strides[dim], _range(dim, scope) - scope.atoms[dim].start) for dim in rest]
        rest = []
    common = _common([index.shape for _, _, index in indices])
    along = [dim for dim, count in enumerate(common) if count != 1]
    shape = [*(ext for ext, _, _ in indices), *(scope.atoms[dim].count for dim in rest)]
    steps = [*(stride for _, stride, _ in indices), *(strides[dim] for dim in rest)]
    # Bits, not floats: torch cannot index every dtype, and NaN payloads must survive.
    memory = tensor.view(SIGNED[8 * tensor.element_size()]).as_strided(shape, steps, tensor.storage_offset() + offset)
    flat = [index.expand(common).reshape([common[dim] for dim in along]) for _, _, index in indices]
    found = memory.index_select(0, flat[0]) if len(flat) == len(along) == 1 else memory[tuple(flat)]
    dims = [*along, *rest]
    found = found.permute(sorted(range(len(dims)), key=lambda place: dims[place]))
    return found[tuple(slice(None) if dim in dims else None for dim in range(len(strides)))].view(tensor.dtype)


def _common(shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The shape that shapes of one rank broadcast to."""
    return tuple(next((count for count in counts if count != 1), 1) for counts in zip(*shapes))


# --- arithmetic -------------------------------------------------------------------------------------------------------------------------------------------


def _evaluate(expr: Expr, scope: _Scope) -> tuple[torch.Tensor, bool]:
    """An expression over the atoms (extent 1 where it does not depend on one), and whether its memory is ours to write to."""
    name, *rest = expr
    if name == "at":
        operand = scope.operands[rest[0]]
        found = _read(operand, rest[1], scope)
        return (found - operand.excess, True) if operand.excess else (found, False)
    if name == "const":
        return torch.tensor(rest[1], dtype=torch_dtype(rest[0]), device=scope.device).view([1] * len(scope.atoms)), False
    if name in CONVERSIONS:
        return _convert(name, rest[0], *_evaluate(rest[1], scope))
    if name == "neg":
        number, owned = _evaluate(rest[0], scope)
        return torch.neg(number, out=number) if owned else torch.neg(number), True
    if name in BINARY:
        return _combine(name, _evaluate(rest[0], scope), _evaluate(rest[1], scope)), True
    raise ValueError(f"unknown expression `{name}`")


def _convert(name: str, dtype: str, operand: torch.Tensor, owned: bool) -> tuple[torch.Tensor, bool]:
    wanted = torch_dtype(dtype) if ELEMENTS[dtype].native else None
    if wanted is None:
        raise ValueError(f"an expression cannot have dtype {dtype}")
    if name == "bits":
        if wanted.itemsize != operand.element_size():
            raise ValueError(f"the bits of {operand.dtype} are not those of a {dtype}")
        return operand.view(wanted), owned
    if name in ("rint", "trunc"):
        operand, owned = (operand.round() if name == "rint" else operand.trunc()), True
    if operand.dtype == wanted:
        return operand, owned
    # In the order of the atoms, whatever the order in memory: later results, and the body of a sum above all, take their strides from here.
    return operand.to(wanted, memory_format=torch.contiguous_format), True


def _combine(name: str, left: tuple[torch.Tensor, bool], right: tuple[torch.Tensor, bool]) -> torch.Tensor:
    """A binary operation, in an operand's memory where that is ours and large enough."""
    (a, ours), (b, theirs) = left, right
    if a.dtype != b.dtype:
        raise ValueError(f"`{name}` of {a.dtype} and {b.dtype}")
    if name == "/" and not a.dtype.is_floating_point:
        raise ValueError(f"`/` of {a.dtype}")
    shape = _common([a.shape, b.shape])
    out = a if ours and a.shape == shape else b if theirs and b.shape == shape else None
    if name == "//":
        return torch.div(a, b, rounding_mode="floor", out=out) if out is not None else torch.div(a, b, rounding_mode="floor")
    return _BINARY[name](a, b, out=out)


def _without_holes(terms: torch.Tensor, scope: _Scope, bound: set[tuple[str, int]]) -> torch.Tensor:
    """Zero for indices beyond the extent of an axis that is summed over in several digits."""
    for axis in {axis for axis, _ in bound} & set(scope.extents):
        chain = _chain(axis, scope)
        if sum((atom.start + atom.count - 1) * atom.div for _, atom in chain) >= scope.extents[axis]:
            index = torch.zeros((), dtype=torch.int64, device=scope.device)
            for dim, atom in chain:
                index = index + _range(dim, scope) * atom.div
            terms = torch.where(index < scope.extents[axis], terms, torch.zeros((), dtype=terms.dtype, device=scope.device))
    return terms
