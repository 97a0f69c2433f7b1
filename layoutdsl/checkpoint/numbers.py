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


# ---- sums of runs -----------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunSums:
    """Makes, of the bytes of a bound type, the sums over every ``run`` indices of ``axis``, per index of ``rows``: float64 [rows, runs]. Exact for integers.

    along, across: of bytes that hold one int8, or two int4 of one row or of two, the lanes along the axis and across it; per: 64-bit words of a run, 0 for all
    other types.
    """

    reader: Reader
    run: int
    along: int
    across: int
    per: int

    @classmethod
    def of(cls, kind: TensorType, rows: str, axis: str, run: int) -> RunSums:
        """kind: has no other axes than these two, but such of one index; ``run`` divides the extent of ``axis``."""
        element, digits = ELEMENTS[kind.element], [digit for dim in kind.dims for digit in dim if digit.ext != 1]
        own = [digit for digit in digits if digit.axis == axis]
        # The bytes of a run lie side by side: the last dims are the axis, in falling order.
        falling = all(_int(a.div) == _int(b.div) * _int(b.ext) for a, b in zip(own, own[1:]))
        in_order = bool(own) and falling and digits[len(digits) - len(own) :] == own and len(digits) - len(own) <= 1
        count = prod(_int(lane.ext) for lane in kind.lanes)
        along = count if kind.lanes and kind.lanes[0].axis == axis else 1
        plain = STORAGES[kind.storage].bits == 8 and element.kind == "int" and element.bits * count == 8 and len(kind.lanes) < 2
        fits = plain and in_order and not kind.excess and not kind.pads and run % (along * 8) == 0
        return cls(Reader.of(kind, rows), run, along, count // along, run // along // 8 if fits else 0)

    def __call__(self, raw: Array) -> Array:
        rows = self.reader.shape.counts[0]
        if not self.per:
            added: Array = self.reader(raw).reshape(rows, -1, self.run).sum(axis=2, dtype=np.float64)
            return added
        parts = self._lanes(raw.view(np.uint64))
        if self.across == 1:
            return sum(parts[1:], parts[0]).reshape(rows, -1)
        # Lanes of neighbouring rows.
        return np.stack([part.reshape(rows // self.across, -1) for part in parts], axis=1).reshape(rows, -1)

    def _lanes(self, words: Array) -> list[Array]:
        """The sums of each lane. Elements are made positive for it: codes from 0."""
        ones, bits = np.uint64(0x0101010101010101), 8 // (self.along * self.across)
        bias = 1 << (bits - 1)
        codes, rest = scratch("codes", words.size), scratch("rest", words.size)
        np.bitwise_xor(words, ones * np.uint64(bias | bias << 4 if bits == 4 else bias), out=codes)
        if bits == 8:
            return [_sums_of_bytes(codes, rest, self.per, 255) - bias * self.per * 8]
        lane = scratch("lane", words.size)
        low = _sums_of_bytes(np.bitwise_and(codes, ones * np.uint64(15), out=lane), rest, self.per, 15)
        np.right_shift(codes, np.uint64(4), out=lane)
        high = _sums_of_bytes(np.bitwise_and(lane, ones * np.uint64(15), out=lane), rest, self.per, 15)
        return [low - bias * self.per * 8, high - bias * self.per * 8]


def _sums_of_bytes(words: Array, rest: Array, per: int, largest: int) -> Array:
    """The sum of the bytes of every ``per`` words: many at once in the lanes of a word, which are widened before they overflow. largest: of a byte.

    words is overwritten, and so is rest, which is as large.
    """
    width = 8
    while per > 1 or largest * (64 // width) >> width:
        most = ((1 << width) - 1) // largest
        at_once = next(count for count in range(min(per, most), 0, -1) if per % count == 0)
        if at_once == 2:
            words, per, largest = np.add(words[0::2], words[1::2], out=rest[: words.size // 2]), per // 2, largest * 2
            rest = np.empty_like(words)
        elif at_once > 1:
            # Of all sums of numpy over short runs this is by far the quickest.
            words, per, largest = np.einsum("ij->i", words.reshape(-1, at_once)), per // at_once, largest * at_once
        else:
            mask, upper = np.uint64(((1 << 64) - 1) // ((1 << width) + 1)), rest[: words.size]
            np.right_shift(words, np.uint64(width), out=upper)
            upper &= mask
            words &= mask
            words += upper
            width, largest = 2 * width, 2 * largest
    # Times one in every lane: the upper lane is then the sum of all.
    words *= np.uint64(((1 << 64) - 1) // ((1 << width) - 1))
    words >>= np.uint64(64 - width)
    return words.astype(np.float64)


_SCRATCH = local()


def scratch(name: str, size: int, dtype: Any = np.uint64) -> Array:
    """Memory of this thread under a name, as the last one that asked left it: new memory for every block would cost more than what is done with it."""
    found: Array | None = _SCRATCH.__dict__.get(name)
    if found is None or found.size < size or found.dtype != dtype:
        found = _SCRATCH.__dict__[name] = np.empty(size, dtype)
    return found[:size]
