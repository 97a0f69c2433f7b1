"""What the bytes of a stored tensor say, as numbers, a block of rows at a time and with numpy alone.

Between files and ``evaluate``. The whole checkpoint goes through here, so that no element is looked at alone: a block is a few operations over arrays that stay
in the cache. It shares no code with ``layoutdsl.verify.decode``, which reads bit by bit; the tests compare the two.

Invariants: numbers are exact in float32 (elements of up to 16 bits, and float32) or in float64 (the others); upper bits that extend an element are not looked
at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import prod
from threading import local
from typing import Any

import numpy as np

from layoutdsl.ir.dtypes import ELEMENTS, STORAGES, Dtype, carriage_of
from layoutdsl.plan.model import Digit, TensorType

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Shape:
    """The dims of an array of numbers: per axis how many values it has, each for ``base`` indices of the axis."""

    axes: tuple[str, ...]
    bases: tuple[int, ...]
    counts: tuple[int, ...]


# ---- types ----------------------------------------------------------------------------------------------------------------------------------------------


def by_bytes(kind: TensorType) -> TensorType:
    """The same bytes under a type whose words are bytes, where one digit is packed into wider words: bytes are quicker to take apart."""
    storage, lanes = STORAGES[kind.storage], kind.lanes
    if storage.bits == 8 or len(lanes) != 1 or 8 % kind.slot_bits or any(pad.axis == lanes[0].axis for pad in kind.pads):
        return kind
    lane, inner = lanes[0], 8 // kind.slot_bits
    upper = Digit(lane.axis, _int(lane.div) * inner, _int(lane.ext) // inner)
    dims = (*kind.dims, (upper,))
    return replace(kind, storage="uint8", dims=dims, lanes=(Digit(lane.axis, lane.div, inner),), order=tuple(range(len(dims))))


def shape_of(kind: TensorType, first: str = "") -> Shape:
    """The shape of what :func:`numbers` makes: the axes in the order of the dims, ``first`` before the others."""
    digits, axes = _digits(kind), _axes(kind, first)
    own = {axis: [digit for digit in digits if digit.axis == axis] for axis in axes}
    bases = tuple(min((_int(d.div) for d in own[axis] if d.ext != 1), default=min(_int(d.div) for d in own[axis])) for axis in axes)
    return Shape(axes, bases, tuple(prod(_int(digit.ext) for digit in own[axis]) for axis in axes))


def _digits(kind: TensorType) -> list[Digit]:
    return [*(digit for dim in kind.dims for digit in dim), *kind.lanes]


def _axes(kind: TensorType, first: str) -> tuple[str, ...]:
    names = dict.fromkeys(digit.axis for digit in _digits(kind))
    return tuple(sorted(names, key=lambda axis: axis != first))


def _int(size: Any) -> int:
    assert isinstance(size, int)
    return size


# ---- numbers ------------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reader:
    """Makes numbers of the bytes of one bound type. shape: of the numbers. digits: their extents, as they are put together; order: where each digit of the type
    goes among these."""

    kind: TensorType
    shape: Shape
    words: str
    dims: tuple[int, ...]
    lanes: tuple[int, ...]
    digits: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, kind: TensorType, first: str = "") -> Reader:
        digits, axes = _digits(kind), _axes(kind, first)
        places = sorted(range(len(digits)), key=lambda i: (axes.index(digits[i].axis), -_int(digits[i].div), -_int(digits[i].ext)))
        dims = tuple(_int(digit.ext) for dim in kind.dims for digit in dim)
        lanes = tuple(_int(lane.ext) for lane in kind.lanes)
        order = tuple(places.index(i) for i in range(len(digits)))
        words = f"<u{STORAGES[kind.storage].bits // 8}"
        return cls(kind, shape_of(kind, first), words, dims, lanes, tuple(_int(digits[i].ext) for i in places), order)

    def __call__(self, raw: Array, dtype: Any = np.float32, out: Array | None = None) -> Array:
        """raw: uint8, contiguous. dtype: float32 or float64. out: contiguous, of that dtype and this size; else the memory is new."""
        found = np.empty(self.digits, dtype) if out is None else out.reshape(self.digits)
        seen, words = found.transpose(self.order), raw.view(self.words).reshape(self.dims)
        if self._is_pairs and dtype is np.float32:
            _pairs().take(words.reshape(-1), out=found.reshape(-1, 2).view(np.complex64)[:, 0], mode="clip")
        else:
            for place in range(prod(self.lanes)):
                at: tuple[Any, ...] = (..., *np.unravel_index(place, self.lanes))
                _fill(seen[at], words, self.kind, place)
        return found.reshape(self.shape.counts)

    @property
    def _is_pairs(self) -> bool:
        """Two e2m1 in a byte that lie side by side afterwards too."""
        return self.kind.element == "e2m1" and self.lanes == (2,) and self.words == "<u1" and self.order == tuple(range(len(self.order)))


def numbers(raw: Array, kind: TensorType, first: str = "", dtype: Any = np.float32) -> Array:
    """The numbers of a bound type from its bytes (uint8, contiguous), as :func:`shape_of` says. dtype: float32 or float64."""
    return Reader.of(kind, first)(raw, dtype)


def _fill(target: Array, words: Array, kind: TensorType, lane: int) -> None:
    """The numbers of one lane of the words."""
    element, storage = ELEMENTS[kind.element], STORAGES[kind.storage]
    carriage = carriage_of(kind.element, kind.storage, bool(kind.lanes))
    if carriage == "lanes":
        target[...] = _lane(words, kind, lane, element) if element.kind in ("int", "uint") else _table(kind.element, lane * element.bits).take(words)
    elif carriage == "bits" and element.bits < 8:
        target[...] = _table(kind.element, 0).take(words.astype(np.intp) & 255)
    elif carriage == "bits":
        _fill_native(target, words.astype(f"<u{element.bits // 8}", copy=False), element)
    else:
        _fill_native(target, words, storage)
        if carriage == "value" and kind.excess:
            target -= kind.excess


def _fill_native(target: Array, words: Array, dtype: Dtype) -> None:
    """Words of the width of a dtype."""
    match dtype.kind:
        case "int":
            target[...] = words.view(f"<i{dtype.bits // 8}")
        case "float" if dtype.bits >= 32:
            target[...] = words.view(f"<f{dtype.bits // 8}")
        case "float" if target.dtype == np.float32:
            _fill_short_floats(target, words, dtype)
        case "float":
            short = np.empty(words.shape, np.float32)
            _fill_short_floats(short, words, dtype)
            target[...] = short
        case "scale":
            target[...] = _table("e8m0", 0).take(words)
        case _:
            target[...] = words


def _lane(words: Array, kind: TensorType, lane: int, element: Dtype) -> Array:
    """Integers of one lane: its bits moved to the top of the word, and back with their sign. A left shift is a product, which numpy does far quicker."""
    width, bits = STORAGES[kind.storage].bits, element.bits
    top = words * words.dtype.type(1 << (width - bits * (lane + 1))) if lane * bits + bits < width else words
    if kind.excess:
        top = top - words.dtype.type((kind.excess << (width - bits)) & ((1 << width) - 1))
    found: Array = (top.view(f"<i{width // 8}") if element.kind == "int" else top) >> (width - bits)
    return found


def _fill_short_floats(target: Array, words: Array, dtype: Dtype) -> None:
    """Floats of 8 or 16 bits in float32: exponent and mantissa moved to where that has them, which is off by a power of two. No NaN and no infinity survives
    this, so they are put back."""
    width, bits = dtype.bits, target.view(np.int32)
    bits[...] = words.view(f"<i{width // 8}")
    bits <<= 24 + dtype.exponent - width
    if dtype.exponent == 8:
        return
    bits &= np.int32(-(1 << 31) | ((1 << (dtype.exponent + dtype.mantissa)) - 1) << (23 - dtype.mantissa))
    target *= np.float32(2.0 ** (128 - (1 << (dtype.exponent - 1))))
    magnitude = words & words.dtype.type((1 << (width - 1)) - 1)
    first = 0x7F if width == 8 else ((1 << dtype.exponent) - 1) << dtype.mantissa
    if magnitude.size and magnitude.max() >= first:
        infinite = (magnitude == first) & (width == 16)
        target[magnitude >= first] = np.nan
        target[infinite] = np.where(words[infinite] >> (width - 1), -np.inf, np.inf)


@cache
def _table(element: str, shift: int) -> Array:
    """The numbers of all bytes, read at a shift: of e2m1 and e8m0."""
    codes = np.arange(256) >> shift
    if element == "e8m0":
        return np.where(codes == 255, np.nan, np.exp2(codes.astype(np.float64) - 127))
    assert element == "e2m1"
    sizes = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    found: Array = (np.where(codes & 8, -1, 1) * sizes[codes & 7]).astype(np.float32)
    return found


@cache
def _pairs() -> Array:
    """Both e2m1 of every byte, as one item of the size of two float32: taken at once."""
    return np.stack([_table("e2m1", 0), _table("e2m1", 4)], axis=1).view(np.complex64)[:, 0]


# ---- codes --------------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Codes:
    """Bytes, of which each holds one number, or neighbours of one row or of several, in rows that lie in order: what compiled loops read. across: rows in a
    byte. table: the numbers of all bytes, [lanes, 256]."""

    integers: bool
    lanes: int
    across: int
    table: Array

    @classmethod
    def of(cls, kind: TensorType, rows: str) -> Codes | None:
        """kind: has no other axes than ``rows`` and one more, but such of one index."""
        element, digits = ELEMENTS[kind.element], [digit for dim in kind.dims for digit in dim if digit.ext != 1]
        own, axes = [digit for digit in digits if digit.axis != rows], {digit.axis for digit in _digits(kind) if digit.ext != 1}
        # The bytes of a row lie side by side: the last dims are the other axis, in falling order.
        falling = all(_int(a.div) == _int(b.div) * _int(b.ext) for a, b in zip(own, own[1:]))
        in_order = bool(own) and falling and digits[len(digits) - len(own) :] == own and len(digits) - len(own) <= 1 and len(axes - {rows}) == 1
        if STORAGES[kind.storage].bits != 8 or len(kind.lanes) > 1 or any(lane.div != 1 for lane in kind.lanes) or kind.pads or not in_order:
            return None
        lanes = tuple(_int(lane.ext) for lane in kind.lanes)
        count = prod(lanes)
        every = replace(kind, dims=((Digit("byte", 1, 256),),), lanes=tuple(Digit("lane", 1, lane) for lane in lanes), order=(0,))
        table = Reader.of(every)(np.arange(256, dtype=np.uint8)).reshape(256, count).T
        integers = element.kind == "int" and element.bits * count == 8 and not kind.excess and count <= 2
        return cls(integers, count, count if kind.lanes and kind.lanes[0].axis == rows else 1, np.ascontiguousarray(table))

    def name(self, kernels: Any) -> int:
        """What compiled loops call it."""
        if not self.integers:
            code = kernels.TABLE if self.across == 1 else kernels.TABLE_ACROSS
        else:
            code = kernels.INT8 if self.lanes == 1 else kernels.INT4 if self.across == 1 else kernels.INT4_ACROSS
        return int(code)


LONGEST = 4096
"""Numbers in a run: 16 bits hold the sum of so many int4, 32 that of so many int8."""


@dataclass(frozen=True, slots=True)
class WeighedSums:
    """Makes sums of the bytes of a bound type: of its numbers along every row, or every part of one, each run of them times a weight.

    run: numbers that one weight is for. parts: of a row. largest: bounds the magnitude of the sum over a run, if the type alone does.
    """

    reader: Reader
    run: int
    parts: int
    largest: float | None
    codes: Codes | None
    kernels: Any

    @classmethod
    def of(cls, kind: TensorType, rows: str, run: int, parts: int = 1, kernels: Any = None) -> WeighedSums:
        """kind: has no other axes than ``rows`` and one more, whose extent ``run`` divides, but such of one index. run: up to ``LONGEST``. kernels: compiled
        loops."""
        element, codes = ELEMENTS[kind.element], Codes.of(kind, rows) if kernels is not None else None
        largest = float(run << (element.bits - 1)) if element.kind == "int" else None
        usable = codes is not None and codes.integers and run % (codes.lanes // codes.across) == 0
        return cls(Reader.of(kind, rows), run, parts, largest, codes if usable else None, kernels)

    def __call__(self, raw: Array, weights: Array) -> Array:
        """raw: uint8, contiguous. weights: float64 [rows, runs].

        Returns: float64 [3, rows, parts]: the sums; those of the magnitudes of what is added, run by run; and those as large as numbers of this type make them.
        """
        if self.codes is None or self.largest is None:
            return self.added(self.sums(raw), weights)
        found = np.empty((3, len(weights), self.parts))
        self.kernels.weighed_sums(raw, self.codes.name(self.kernels), weights, self.largest, found)
        return found

    def sums(self, raw: Array) -> Array:
        """The sums over every run, float64 [rows, runs]; exact for integers."""
        rows, size = self.reader.shape.counts[0], prod(self.reader.shape.counts)
        # Of numpy's sums over short runs this is the quickest; integers below 2**24 are exact in float32.
        short = ELEMENTS[self.reader.kind.element].kind in ("int", "uint") and self.run << (ELEMENTS[self.reader.kind.element].bits + 1) <= 1 << 24
        dtype = np.float32 if short else np.float64
        values = self.reader(raw, dtype, scratch("runs", size, dtype)).reshape(-1, self.run)
        summed: Array = np.einsum("ij->i", values).astype(np.float64, copy=False).reshape(rows, -1)
        return summed

    def added(self, sums: Array, weights: Array) -> Array:
        """The same as a call, of sums over runs."""
        largest = self.run * np.abs(sums).max(initial=0) if self.largest is None else self.largest
        added, sizes = sums * weights, np.abs(weights)
        return np.stack([part.reshape(len(sums), self.parts, -1).sum(axis=2) for part in (added, np.abs(added), largest * sizes)])


_SCRATCH = local()


def scratch(name: str, size: int, dtype: Any) -> Array:
    """Memory of this thread under a name, as the last one that asked left it: new memory for every block would cost more than what is done with it."""
    found: Array | None = _SCRATCH.__dict__.get(name)
    if found is None or found.size < size or found.dtype != dtype:
        found = _SCRATCH.__dict__[name] = np.empty(size, dtype)
    return found[:size]
