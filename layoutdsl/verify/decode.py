"""What a tensor holds: the numbers over the digits of its type, read bit by bit with numpy.

Between tensors and the oracle, for what a checkpoint stores as well as for what a plan makes. It shares no code with the runtime that it judges: a fault of
packing there cannot cancel itself here.

Invariants: integers come out as int64, everything else as float64; holes of a padded axis are cut off; upper bits that are not what the type says are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from layoutdsl.ir.dtypes import ELEMENTS, STORAGES, Dtype, carriage_of
from layoutdsl.plan.model import Digit, TensorType

Array = np.ndarray[Any, np.dtype[Any]]


class BrokenBits(Exception):
    """A word whose upper bits are not the extension that its type states."""


@dataclass(frozen=True, slots=True)
class Logical:
    """A tensor without its layout: one dimension of ``values`` per axis, in units of the axis's base (64 for ``k//64``)."""

    axes: tuple[str, ...]
    bases: tuple[int, ...]
    values: Array

    def at(self, index: Mapping[str, Array | int]) -> Array:
        """The values at indices of the axes, which broadcast against one another; an axis of one value needs no index."""
        if not self.axes:
            return self.values
        whole = self._apart(index)
        if whole is not None:
            return whole
        place: Array = np.zeros((), np.int64)
        for axis, base, count in zip(self.axes, self.bases, self.values.shape):
            place = place * count + np.asarray(index.get(axis, 0)) // base % max(count, 1)
        found: Array = self.values.reshape(-1).take(place)
        return found

    def _apart(self, index: Mapping[str, Array | int]) -> Array | None:
        """The same axis by axis, which is faster: where each index runs along a dim of its own, in the order of the axes; else None."""
        indices = [np.asarray(index.get(axis, 0)) // base % max(count, 1) for axis, base, count in zip(self.axes, self.bases, self.values.shape)]
        dims = [[dim - one.ndim for dim, size in enumerate(one.shape) if size > 1] for one in indices]
        runs = [dim for own in dims for dim in own]
        if any(len(own) > 1 for own in dims) or runs != sorted(set(runs)):
            return None
        found = self.values
        for axis, one in enumerate(indices):
            places = one.reshape(-1)
            if not np.array_equal(places, np.arange(found.shape[axis])):
                found = found.take(places, axis=axis)
        shape = [1] * max((one.ndim for one in indices), default=0)
        for dim, size in zip((dim for own in dims for dim in own), (one.size for one in indices if one.size > 1)):
            shape[dim] = size
        return found.reshape(shape)


def decode(tensor: torch.Tensor | Sequence[torch.Tensor], kind: TensorType, extents: Mapping[str, int]) -> Logical:
    """The logical tensor of a bound type; a list gets its axis back. extents: of the axes. Raises: BrokenBits."""
    if isinstance(tensor, torch.Tensor):
        return _arranged(values_of(tensor, kind), kind, extents)
    parts = [decode(part, kind, extents) for part in tensor]
    return Logical((kind.listed, *parts[0].axes), (1, *parts[0].bases), np.stack([part.values for part in parts]))


# ---- bits -----------------------------------------------------------------------------------------------------------------------------------------------


def values_of(tensor: torch.Tensor, kind: TensorType) -> Array:
    """The elements by dims as seen and then lanes, both digit by digit."""
    words = words_of(tensor)
    slot, count = kind.slot_bits, prod(_ext(lane) for lane in kind.lanes)
    places = np.arange(count, dtype=np.uint64) * np.uint64(slot)
    codes = words[:, None] >> places
    if slot < 64:
        codes = codes & np.uint64((1 << slot) - 1)
    return _numbers(codes, kind).reshape([_ext(digit) for digit in digits_of(kind)])


def words_of(tensor: torch.Tensor) -> Array:
    """The storage elements as unsigned integers, in the order of the dims as seen."""
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    raw = plain.view(torch.uint8).numpy() if plain.numel() else np.empty(0, np.uint8)
    words: Array = raw.view(np.dtype(f"<u{plain.element_size()}")).astype(np.uint64)
    return words


def _numbers(codes: Array, kind: TensorType) -> Array:
    """The numbers that the codes of slots stand for."""
    element = ELEMENTS[kind.element]
    match carriage_of(kind.element, kind.storage, bool(kind.lanes)):
        case "native":
            return number_of(codes, STORAGES[kind.storage])
        case "value":
            return number_of(codes, STORAGES[kind.storage]) - kind.excess
        case "bits" if kind.element == "opaque":
            return codes.astype(np.int64)
        case "bits":
            codes = _without_extension(codes, kind, element.bits)
    if kind.excess:
        codes = (codes - np.uint64(kind.excess)) & np.uint64((1 << element.bits) - 1)
    return number_of(codes, element)


def _without_extension(codes: Array, kind: TensorType, bits: int) -> Array:
    low: Array = codes & np.uint64((1 << bits) - 1)
    upper = codes >> np.uint64(bits) if bits < 64 else np.zeros_like(codes)
    ones = np.uint64((1 << (kind.slot_bits - bits)) - 1)
    wanted = (low >> np.uint64(bits - 1)) * ones if kind.extension == "sign" else np.zeros_like(codes)
    if (upper != wanted).any():
        raise BrokenBits(f"{kind.element} in {kind.storage}: the upper bits are not {kind.extension or 'zero'}-extended")
    return low


def number_of(codes: Array, dtype: Dtype) -> Array:
    """The numbers that codes of a dtype, as unsigned integers, stand for."""
    match dtype.kind:
        case "int":
            sign = np.uint64(1 << (dtype.bits - 1))
            found: Array = ((codes ^ sign) - sign).astype(np.int64)
            return found
        case "uint" | "bool":
            return codes.astype(np.int64)
        case "scale":
            powers: Array = np.where(codes == 255, np.nan, np.exp2(codes.astype(np.float64) - 127))
            return powers
    return _float(codes, dtype)


def _float(codes: Array, dtype: Dtype) -> Array:
    """Sign, exponent and mantissa put together; float8_e4m3fn has no infinity and one NaN, e2m1 has neither."""
    bias, top = (1 << (dtype.exponent - 1)) - 1, (1 << dtype.exponent) - 1
    mantissa = (codes & np.uint64((1 << dtype.mantissa) - 1)).astype(np.int64)
    exponent = (codes >> np.uint64(dtype.mantissa) & np.uint64(top)).astype(np.int64)
    sign: Array = np.where(codes >> np.uint64(dtype.bits - 1) & np.uint64(1), -1.0, 1.0)
    significand = mantissa + np.where(exponent > 0, 1 << dtype.mantissa, 0)
    scale = np.clip(exponent, 1, top - 1 if dtype.bits >= 16 else top) - bias - dtype.mantissa
    size: Array = np.ldexp(significand.astype(np.float64), scale)
    if dtype.bits >= 16:
        size = np.where(exponent == top, np.where(mantissa == 0, np.inf, np.nan), size)
    elif dtype.bits == 8:
        size = np.where((exponent == top) & (mantissa == 7), np.nan, size)
    number: Array = sign * size
    return number


# ---- digits ---------------------------------------------------------------------------------------------------------------------------------------------


def digits_of(kind: TensorType) -> list[Digit]:
    """The digits of the dims as seen, then those of the lanes."""
    return [*(digit for dim in kind.dims for digit in dim), *kind.lanes]


def axes_of(kind: TensorType) -> dict[str, list[int]]:
    """Per axis the places of its digits in ``digits_of``, from the top digit down."""
    digits = digits_of(kind)
    names = dict.fromkeys(digit.axis for digit in digits)
    return {axis: sorted((i for i, digit in enumerate(digits) if digit.axis == axis), key=lambda i: (-_div(digits[i]), -_ext(digits[i]))) for axis in names}


def base_of(kind: TensorType, axis: str) -> int:
    """How many indices of the axis share one value."""
    digits = [digit for digit in digits_of(kind) if digit.axis == axis]
    return min((_div(digit) for digit in digits if _ext(digit) != 1), default=min(_div(digit) for digit in digits))


def _arranged(values: Array, kind: TensorType, extents: Mapping[str, int]) -> Logical:
    places, digits = axes_of(kind), digits_of(kind)
    axes, bases = tuple(places), tuple(base_of(kind, axis) for axis in places)
    shape = [prod(_ext(digits[i]) for i in places[axis]) for axis in axes]
    whole = values.transpose([i for axis in axes for i in places[axis]]).reshape(shape)
    cut = tuple(slice(0, min(size, -(-extents[axis] // base))) for axis, base, size in zip(axes, bases, shape))
    return Logical(axes, bases, whole[cut])


def indices_of(kind: TensorType) -> dict[str, Array]:
    """The index of every axis at every place of ``values_of``, to broadcast: holes are where it reaches the extent."""
    digits, found = digits_of(kind), {}
    for axis, places in axes_of(kind).items():
        total: Array = np.zeros([1] * len(digits), np.int64)
        for i in places:
            shape = [1] * len(digits)
            shape[i] = _ext(digits[i])
            total = total + (np.arange(_ext(digits[i])) * _div(digits[i])).reshape(shape)
        found[axis] = total
    return found


def encode(values: Logical, kind: TensorType) -> torch.Tensor:
    """A contiguous tensor with these values, rounded to nearest even: of a native type, or of one whose bits are extended to a wider integer."""
    native = ELEMENTS[kind.element].native
    assert native is not None and not kind.lanes
    shape = [_ext(digit) for digit in digits_of(kind)]
    placed = np.broadcast_to(values.at(indices_of(kind)), shape).reshape(kind.shape)
    plain = torch.from_numpy(np.array(placed)).to(getattr(torch, native))
    if native == kind.storage:
        return plain
    bits = plain.view(getattr(torch, f"int{plain.itemsize * 8}")).to(getattr(torch, kind.storage))
    return bits if kind.extension == "sign" else bits & ((1 << plain.itemsize * 8) - 1)


def _ext(digit: Digit) -> int:
    assert isinstance(digit.ext, int)
    return digit.ext


def _div(digit: Digit) -> int:
    assert isinstance(digit.div, int)
    return digit.div
