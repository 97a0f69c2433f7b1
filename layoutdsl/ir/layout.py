"""Layouts as digits: the type of a tensor, and the small algorithms on it (cut, refine, normal form, equality, text).

Between the symbolic integers and the primitive ops. A digit is ``(index // div) % ext`` of one named axis; a dimension is a list of digits, major first;
so packing, tiling,
transposition and interleaving are all the same thing.

Invariants of a well-formed :class:`TensorType`: per axis the digits form a divisibility chain from the axis's base to its top; the top digit alone may be
padded; an
element is valid iff its index is below the extent; dims and lanes together cover the logical digits exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from layoutdsl.ir.dtypes import ELEMENTS, STORAGES, Carriage, carriage_of
from layoutdsl.ir.symbolic import Facts, Proved, Refuted, Size, Unknown, Verdict, format_size

ND = 0


@dataclass(frozen=True, slots=True)
class Digit:
    """``(index // div) % ext`` of an axis; ``top``: the highest digit, which needs no ``% ext``."""

    axis: str
    div: Size
    ext: Size
    top: bool = field(default=True, compare=False)

    @property
    def unit(self) -> bool:
        return self.ext == 1


Dim = tuple[Digit, ...]


@dataclass(frozen=True, slots=True)
class Pad:
    """The capacity that an axis was raised to (in index units) and what fills the holes."""

    axis: str
    capacity: Size
    fill: int


@dataclass(frozen=True, slots=True)
class Element:
    """excess: the stored code is the value plus this (compression formats store int4 as value + 8)."""

    name: str
    excess: int = 0


@dataclass(frozen=True, slots=True)
class TensorType:
    """The type of one tensor (or of a list of equal tensors).

    dims: as seen, each a list of digits, major first. lanes: the lane number inside one storage element, major digit first; lane j occupies bits [w*j,
    w*(j+1)).
    order: the dims from slowest to fastest in memory. format: ND, or the block width of FRACTAL_NZ in bytes. extension: ``zero`` or ``sign`` where a wider
    integer
    carries the element's bits. logical: the digits that a read lists. listed: the axis that an ``unbind`` turned into a list. view: shares memory with an
    earlier value. positive: no sign bit is set. reciprocal: one over what the checkpoint stores.
    """

    element: Element
    storage: str
    dims: tuple[Dim, ...]
    logical: tuple[Digit, ...]
    order: tuple[int, ...]
    lanes: Dim = ()
    extension: Literal["zero", "sign"] | None = None
    format: int = ND
    pads: tuple[Pad, ...] = ()
    listed: str | None = None
    view: bool = False
    initialised: bool = True
    positive: bool = False
    reciprocal: bool = False

    @property
    def carriage(self) -> Carriage:
        if self.element.name == "opaque":
            return "bits"
        return carriage_of(self.element.name, self.storage, bool(self.lanes))

    @property
    def contiguous(self) -> bool:
        """Do the dims lie in memory in the order seen? Dims of one index do not count."""
        order = [d for d in self.order if not all(digit.unit for digit in self.dims[d])]
        return order == sorted(order)

    @property
    def memory(self) -> tuple[Digit, ...]:
        """The digits of the dims from slowest to fastest in memory (ND)."""
        return tuple(digit for d in self.order for digit in self.dims[d])

    @property
    def itemsize(self) -> int:
        """Bytes of one storage element."""
        return STORAGES[self.storage].bits // 8

    @property
    def element_bits(self) -> int:
        if self.element.name == "opaque":
            return STORAGES[self.storage].bits
        return ELEMENTS[self.element.name].bits

    def capacity(self, axis: str, extent: Size) -> Size:
        return next((pad.capacity for pad in self.pads if pad.axis == axis), extent)


class Reject(Exception):
    """A type rule said no.

    code: rule slug. message, notes, helps: as in a diagnostic. Raised by the algebra and by ops; the compiler adds the place.
    """

    def __init__(self, code: str, message: str, notes: Sequence[str] = (), helps: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code, self.message, self.notes, self.helps = code, message, tuple(notes), tuple(helps)


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """What types are checked against: the extents of the axes and the facts about their symbols. ``names``: Sizes that print as a name."""

    facts: Facts
    extents: Mapping[str, Size]
    names: Mapping[Size, str]

    def text(self, size: Size) -> str:
        return format_size(size, self.names)

    def need(self, verdict: Verdict, code: str, message: str, helps: Sequence[str] = ()) -> None:
        """Raise :class:`Reject` unless proved; say why not."""
        match verdict:
            case Proved():
                return
            case Refuted(sizes):
                shown = ", ".join(f"{name} = {value}" for name, value in sizes)
                raise Reject(code, message, [f"fails for {shown}"] if shown else [], helps)
            case Unknown():
                raise Reject(code, message, ["no proof and no failing size was found"], helps)

    def top(self, axis: str, div: Size, capacity: Size | None = None) -> Digit:
        """The top digit of an axis at a divisor."""
        return Digit(axis, div, self.facts.cdiv(self.extents[axis] if capacity is None else capacity, div))


# --- digits -----------------------------------------------------------------------------------------------------------------------------------------------


def cut(space: Space, digit: Digit, ratio: Size) -> tuple[Digit, Digit] | None:
    """Cut a digit into its major part and a minor part of ``ratio`` values; None unless ``ratio`` provably divides the extent."""
    if not isinstance(space.facts.divisible(digit.ext, ratio), Proved):
        return None
    return Digit(digit.axis, digit.div * ratio, space.facts.div(digit.ext, ratio), digit.top), Digit(digit.axis, digit.div, ratio, False)


def merge(digits: Iterable[Digit]) -> list[Digit]:
    """Normal form of a run of digits: no extent 1, neighbours ``(a, d*e, E), (a, d, e)`` merged into ``(a, d, E*e)``."""
    merged: list[Digit] = []
    for digit in digits:
        if digit.unit:
            continue
        last = merged[-1] if merged else None
        if last is not None and last.axis == digit.axis and last.div == digit.div * digit.ext:
            merged[-1] = Digit(digit.axis, digit.div, last.ext * digit.ext, last.top)
        else:
            merged.append(digit)
    return merged


def refine(space: Space, digits: Iterable[Digit], others: Iterable[Digit]) -> list[Digit]:
    """Cut ``digits`` at every boundary of ``others``, as far as that is provable; extent-1 digits are dropped."""
    bounds: dict[str, list[Size]] = {}
    for other in others:
        if not other.unit:
            bounds.setdefault(other.axis, []).extend([other.div, other.div * other.ext])
    return [atom for digit in digits if not digit.unit for atom in _refine_one(space, digit, bounds.get(digit.axis, []))]


def _refine_one(space: Space, digit: Digit, bounds: Sequence[Size]) -> list[Digit]:
    facts = space.facts
    for bound in bounds:
        ratio = _quotient(facts, bound, digit.div)
        if ratio is None or ratio == 1 or ratio == digit.ext:
            continue
        parts = cut(space, digit, ratio)
        if parts is not None and parts[0].ext != 1:
            return _refine_one(space, parts[0], bounds) + _refine_one(space, parts[1], bounds)
    return [digit]


def _quotient(facts: Facts, size: Size, divisor: Size) -> Size | None:
    if size == divisor:
        return Size.of(1)
    if len(divisor.terms) != 1 or not isinstance(facts.divisible(size, divisor), Proved):
        return None
    return facts.div(size, divisor)


def same_logical(space: Space, left: TensorType, right: TensorType) -> bool:
    """Do two types hold the same logical digits? The logical list is a set."""
    ours = [d for d in left.logical if not d.unit]
    theirs = [d for d in right.logical if not d.unit]
    return set(refine(space, ours, theirs)) == set(refine(space, theirs, ours))


# --- types ------------------------------------------------------------------------------------------------------------------------------------------------


def dims_of(kind: TensorType) -> tuple[tuple[Digit, ...], ...]:
    """Normal dims: digits merged, extents of 1 dropped."""
    return tuple(tuple(merge(dim)) for dim in kind.dims)


def normal_order(kind: TensorType) -> tuple[int, ...]:
    dims = dims_of(kind)
    return tuple(d for d in kind.order if dims[d])


def difference(space: Space, found: TensorType, wanted: TensorType) -> str | None:
    """None if the types are equal for all sizes; else the first field that differs, as a phrase about ``found``."""
    if found.element != wanted.element:
        return f"the element is {element_text(found.element)}, not {element_text(wanted.element)}"
    if found.storage != wanted.storage:
        return f"stored as {found.storage}, not {wanted.storage}"
    if (found.extension or "") != (wanted.extension or "") and found.carriage == "bits":
        ours, theirs = (f"{kind.extension} extended" if kind.extension else "not extended" for kind in (found, wanted))
        return f"the bits are {ours}; wanted: {theirs}"
    if merge(found.lanes) != merge(wanted.lanes):
        ours, theirs = (", ".join(digit_text(space, d) for d in merge(lanes)) or "no lanes" for lanes in (found.lanes, wanted.lanes))
        return f"lanes run along {ours}, not {theirs}"
    if dims_of(found) != dims_of(wanted):
        return f"the dimensions are [{dims_text(space, found.dims)}], not [{dims_text(space, wanted.dims)}]"
    if normal_order(found) != normal_order(wanted):
        ours, theirs = (dims_text(space, [kind.dims[d] for d in kind.order]) for kind in (found, wanted))
        return f"it lies in memory as [{ours}], not as [{theirs}]"
    if found.format != wanted.format:
        return f"the format is {format_text(found)}, not {format_text(wanted)}"
    if _raised(space, found) != _raised(space, wanted):
        return "the padding differs"
    if found.listed != wanted.listed:
        return "one is a list of tensors, the other one tensor"
    return None


def _raised(space: Space, kind: TensorType) -> set[tuple[str, Size]]:
    """The axes that are really padded; a multiple that divides the extent anyway pads nothing."""
    return {(pad.axis, pad.capacity) for pad in kind.pads if pad.capacity != space.extents[pad.axis]}


def check_well_formed(space: Space, kind: TensorType) -> None:
    """Raise :class:`Reject` unless the type obeys the rules of docs/language.md: chain, tight, fit, same set."""
    element, storage = ELEMENTS[kind.element.name], STORAGES[kind.storage]
    width = Size.of(1)
    for lane in kind.lanes:
        width = width * lane.ext
    if kind.lanes and width * element.bits != storage.bits:
        raise Reject("lanes-do-not-fill", f"{space.text(width)} lanes of {element.bits} bits do not fill one {storage.name} of {storage.bits} bits")
    if kind.carriage == "bits" and kind.element.name != "opaque":
        _check_bits(kind, element.bits, storage.bits)
    elif kind.extension is not None:
        held = {"native": "as it is", "lanes": "in lanes", "value": "by value", "bits": "as opaque bytes"}[kind.carriage]
        raise Reject("extension-unneeded", f"{kind.storage} holds {kind.element.name} {held}, so nothing is extended", helps=["drop `zext` or `sext`"])
    for axis in dict.fromkeys(digit.axis for digit in (*kind.logical, *stored_digits(kind))):
        _check_chain(space, kind, axis)


def _check_bits(kind: TensorType, element: int, storage: int) -> None:
    if element > storage:
        raise Reject("storage-too-narrow", f"{kind.storage} is narrower than {kind.element.name}")
    if element < storage and kind.extension is None:
        raise Reject(
            "extension-missing",
            f"{kind.storage} is wider than {kind.element.name}, and nothing says how its upper bits are filled",
            helps=[f"write `zext {kind.storage}` or `sext {kind.storage}`"],
        )


def _check_chain(space: Space, kind: TensorType, axis: str) -> None:
    """Digits of one axis: sorted by divisor, each starts where the one below it ends; the part below the top has no holes."""
    facts = space.facts
    logical, stored = ([d for d in digits if d.axis == axis] for digits in (kind.logical, stored_digits(kind)))
    if all(digit.unit for digit in (*logical, *stored)):
        return
    wanted, found = sorted_chain(space, logical), sorted_chain(space, stored)
    if wanted is None or found is None:
        raise Reject("digits-not-a-chain", f"the divisors of `{letter(axis)}` do not form a divisibility chain")
    for below, above in zip(found, found[1:]):
        if above.div != below.div * below.ext:
            gap = "overlap" if isinstance(facts.at_least(below.div * below.ext, above.div), Proved) else "leave a gap"
            raise Reject("digits-not-a-chain", f"`{digit_text(space, below)}` and `{digit_text(space, above)}` {gap}")
    if not wanted or not found:
        raise Reject("digits-differ", f"axis `{letter(axis)}` stands on one side only")
    if wanted[0].div != found[0].div:
        raise Reject("digits-differ", f"`{letter(axis)}` is known per {space.text(wanted[0].div)} but stored per {space.text(found[0].div)}")
    _check_cover(space, kind, axis, wanted, found)


def _check_cover(space: Space, kind: TensorType, axis: str, wanted: list[Digit], found: list[Digit]) -> None:
    """The stored digits reach as far as the logical ones, and no further unless the type says ``pad``."""
    facts = space.facts
    stored, logical = (chain[-1].div * chain[-1].ext for chain in (found, wanted))
    if stored == logical or (any(pad.axis == axis for pad in kind.pads) and stored == kind.capacity(axis, space.extents[axis])):
        return
    name, unit = letter(axis), space.text(found[-1].div)
    if not isinstance(facts.at_least(stored, logical), Proved):
        raise Reject("digits-do-not-cover", f"the digits of `{name}` reach {space.text(stored)} of {space.text(logical)}")
    message = f"the layout has holes along `{name}` unless `{name.upper()} % {unit} == 0`"
    space.need(
        facts.equals(stored, logical), "layout-has-holes", message, [f"add `{name.upper()} % {unit} == 0` to `require`, or `pad {name} to {unit}` to the type"]
    )


def stored_digits(kind: TensorType) -> Dim:
    """The digits of the dims as seen, then of the lanes."""
    return (*(digit for dim in kind.dims for digit in dim), *kind.lanes)


def at_capacity(space: Space, kind: TensorType, digit: Digit) -> Digit:
    """A digit as named, in the extent that it has in this type: the top digit of a padded axis reaches the capacity."""
    pad = next((pad for pad in kind.pads if pad.axis == digit.axis), None)
    return replace(digit, ext=space.facts.cdiv(pad.capacity, digit.div)) if pad is not None and digit.top else digit


def sorted_chain(space: Space, digits: Sequence[Digit]) -> list[Digit] | None:
    """Digits of one axis from the lowest to the highest; None if their divisors are not ordered by divisibility. Extents of 1 are dropped unless nothing
    is left."""
    real = [digit for digit in digits if not digit.unit] or list(digits[:1])
    result: list[Digit] = []
    for digit in real:
        place = 0
        while place < len(result) and _quotient(space.facts, digit.div, result[place].div) is not None and digit.div != result[place].div:
            place += 1
        if place < len(result) and _quotient(space.facts, result[place].div, digit.div) is None:
            return None
        result.insert(place, digit)
    return result


def with_dims(kind: TensorType, dims: Sequence[Dim], order: Sequence[int] | None = None) -> TensorType:
    return replace(kind, dims=tuple(dims), order=tuple(range(len(dims))) if order is None else tuple(order))


def find_dim(space: Space, kind: TensorType, wanted: Digit) -> int | None:
    """The dim that a name in ``transpose(...)`` means: the one dim that holds the axis, or the one whose digits are exactly the named digit."""
    wanted = at_capacity(space, kind, wanted)
    exact = [i for i, dim in enumerate(kind.dims) if len(dim) == 1 and (dim[0].div, dim[0].ext) == (wanted.div, wanted.ext) and dim[0].axis == wanted.axis]
    if exact:
        return exact[0]
    holders = [i for i, dim in enumerate(kind.dims) if any(d.axis == wanted.axis for d in dim)]
    return holders[0] if len(holders) == 1 and wanted.top and wanted.div == 1 else None


# --- text -------------------------------------------------------------------------------------------------------------------------------------------------


ROWS = "rows"
"""The axis of the rows of ``x`` in a forward, and the size that is its extent; specs and contracts write it ``m``."""


def letter(axis: str) -> str:
    """The axis as the spec writes it: member axes are kept apart as ``w13.n`` but written ``n``."""
    return "m" if axis == ROWS else axis.rpartition(".")[2]


def digit_text(space: Space, digit: Digit) -> str:
    text = letter(digit.axis)
    if digit.div != 1:
        text += f"//{_divisor(space, digit.div)}"
    return text if digit.top else f"{text}%{_divisor(space, digit.ext)}"


def _divisor(space: Space, size: Size) -> str:
    text = space.text(size)
    return f"({text})" if any(mark in text for mark in " */") else text


def dims_text(space: Space, dims: Iterable[Dim]) -> str:
    return ", ".join(dim_text(space, dim) for dim in dims)


def dim_text(space: Space, dim: Dim) -> str:
    if not dim:
        return "0"
    text = ", ".join(digit_text(space, digit) for digit in dim)
    return f"({text})" if len(dim) > 1 else text


def element_text(element: Element) -> str:
    return f"{element.name}(excess {element.excess})" if element.excess else element.name


def format_text(kind: TensorType) -> str:
    if kind.format == ND:
        return "ND"
    return "FRACTAL_NZ" if kind.format == 32 else f"FRACTAL_NZ with blocks of {kind.format} bytes"


def type_text(space: Space, kind: TensorType) -> str:
    """A type in the notation of the language."""
    dims = dims_text(space, kind.dims)
    logical = ", ".join(digit_text(space, digit) for digit in kind.logical) if kind.logical else "0"
    # A native tensor of one digit per dim needs no `in`: its dims say both, entries of one element included.
    if kind.carriage == "native" and all(len(dim) <= 1 for dim in kind.dims) and tuple(d for dim in kind.dims for d in dim) == kind.logical:
        logical = dims or "0"
    text = f"{element_text(kind.element)}[{logical}]"
    nz = "" if kind.format == ND else "nz" if kind.format == 32 else f"nz({kind.format})"
    if kind.carriage != "native" or dims != logical or not kind.contiguous or nz:
        lanes = " | " + ", ".join(digit_text(space, digit) for digit in kind.lanes) if kind.lanes else ""
        extension = {"zero": "zext ", "sign": "sext ", None: ""}[kind.extension]
        text += f" in {extension}{kind.storage}[{dims}{lanes}]"
    if nz or not kind.contiguous:
        text += f" over {nz}[{dims_text(space, [kind.dims[d] for d in kind.order])}]"
    for pad in kind.pads:
        text += f" pad {letter(pad.axis)} to {space.text(pad.capacity)}" + (f" = {pad.fill}" if pad.fill else "")
    return f"list {letter(kind.listed)} of {text}" if kind.listed else text
