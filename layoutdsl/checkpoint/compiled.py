"""Loops over the bytes of weights that numpy needs many passes for, compiled by numba.

Under ``numbers``, ``evaluate`` and ``diff``, which do without where numba is not installed, or too little is read to pay for its import: see
``decoded.Programs``.

Invariants: arrays in, arrays or numbers out; the interpreter is left to other threads; numbers are those of the same code in numpy, sums up to their order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

TABLE, TABLE_ACROSS, INT8, INT4, INT4_ACROSS, BFLOAT16, FLOAT32 = range(7)
"""What bytes hold. TABLE: what a table of all bytes says, for each number in a byte; INT4: two numbers of one row in a byte; ACROSS: of two rows."""

AT_ONCE = 4096
"""Numbers that a loop takes before the next one does: three times so many stay in the cache next to the core."""

_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_TABLE = types.Array(types.float32, 2, "C", readonly=True)
_ROWS = types.Array(types.float64, 2, "C", readonly=True)
_SIDE = types.Tuple((_BYTES, types.int64, _TABLE, _TABLE))


@njit(types.void(_BYTES, types.int64, _ROWS, types.float64, types.float64[:, :, ::1]), nogil=True, cache=True)
def weighed_sums(raw: Any, code: int, weights: Any, largest: float, out: Any) -> None:
    """See ``numbers.WeighedSums``. code: one of the integers. out: [3, rows, parts]. Runs have up to ``LONGEST`` numbers."""
    rows, runs = weights.shape
    across = 2 if code == INT4_ACROSS else 1
    size, per_part = raw.size // (rows // across * runs), runs // out.shape[2]
    out[:] = 0
    for row in range(0, rows, across):
        part, at = 0, row // across * runs * size
        for place in range(runs):
            if place == (part + 1) * per_part:
                part += 1
            if code == INT8:
                total = np.int32(0)
                for byte in raw[at : at + size]:
                    total = np.int32(total + np.int32(np.int8(byte)))
                low, high = np.int64(total), 0
            else:
                # Narrow sums take many bytes at once.
                lows, highs = np.uint16(0), np.uint16(0)
                for byte in raw[at : at + size]:
                    lows = np.uint16(lows + np.uint16(byte & 15 ^ 8))
                    highs = np.uint16(highs + np.uint16(byte >> 4 ^ 8))
                low, high = np.int64(lows) - 8 * size, np.int64(highs) - 8 * size
            at += size
            weight = weights[row, place]
            added = weight * (low if across == 2 else low + high)
            out[0, row, part] += added
            out[1, row, part] += abs(added)
            out[2, row, part] += largest * abs(weight)
            if across == 2:
                weight = weights[row + 1, place]
                added = weight * high
                out[0, row + 1, part] += added
                out[1, row + 1, part] += abs(added)
                out[2, row + 1, part] += largest * abs(weight)


@njit(types.void(_SIDE, types.int64, types.int64, types.int64, types.float32[::1]), nogil=True, cache=True)
def _decode(side: Any, row: int, columns: int, first: int, out: Any) -> None:
    """Some numbers of a row: from ``first`` on, at a multiple of ``AT_ONCE``."""
    raw, code, table, factor = side
    size = out.size
    if code == INT8:
        at = row * columns + first
        signed = raw.view(np.int8)[at : at + size]
        for i in range(size):
            out[i] = signed[i]
    elif code == INT4:
        at = (row * columns + first) // 2
        packed = raw[at : at + size // 2]
        for i in range(packed.size):
            out[2 * i] = np.float32(packed[i] & 15 ^ 8) - np.float32(8)
            out[2 * i + 1] = np.float32(packed[i] >> 4 ^ 8) - np.float32(8)
    elif code == INT4_ACROSS:
        at = row // 2 * columns + first
        packed, shift = raw[at : at + size], np.uint8(4 * (row % 2))
        for i in range(size):
            out[i] = np.float32(packed[i] >> shift & 15 ^ 8) - np.float32(8)
    elif code == BFLOAT16:
        at = row * columns + first
        short, bits = raw.view(np.uint16)[at : at + size], out.view(np.uint32)
        for i in range(size):
            bits[i] = np.uint32(short[i]) << np.uint32(16)
    elif code == FLOAT32:
        at = row * columns + first
        out[:] = raw.view(np.float32)[at : at + size]
    elif code == TABLE_ACROSS:
        lanes = table.shape[0]
        at = row // lanes * columns + first
        packed = raw[at : at + size]
        for i in range(size):
            out[i] = table[row % lanes, packed[i]]
    else:
        lanes = table.shape[0]
        at = (row * columns + first) // lanes
        packed = raw[at : at + size // lanes]
        for lane in range(lanes):
            for i in range(packed.size):
                out[lanes * i + lane] = table[lane, packed[i]]
    if factor.shape[1]:
        width = columns // factor.shape[1]
        for run in range(first // width, (first + size - 1) // width + 1):
            scale, part = factor[row, run], out[max(run * width - first, 0) : min((run + 1) * width - first, size)]
            for i in range(part.size):
                part[i] *= scale


@njit(types.UniTuple(types.float64, 2)(types.float32[::1], types.float32[::1], types.float32[::1]), nogil=True, cache=True, fastmath={"reassoc"})
def _squares(signal: Any, other: Any, apart: Any) -> Any:
    """The squares of one, and those of the differences, which are left behind."""
    total, noise = np.float32(0), np.float32(0)
    for i in range(apart.size):
        difference = signal[i] - other[i]
        apart[i] = difference
        total += signal[i] * signal[i]
        noise += difference * difference
    return np.float64(total), np.float64(noise)


@njit(types.float64(types.float32[::1]), nogil=True, cache=True, fastmath={"reassoc"})
def _square(signal: Any) -> float:
    total = np.float32(0)
    for i in range(signal.size):
        total += signal[i] * signal[i]
    return np.float64(total)


@njit(types.Tuple((types.float64, types.float64, types.float64, types.int64))(_SIDE, _SIDE, types.int64, types.int64, types.boolean), nogil=True, cache=True)
def compared(signal: Any, other: Any, rows: int, columns: int, same: bool) -> Any:
    """The squares of the first, those of the differences, the largest difference and its place in these rows, which NaN is larger than anything for.

    A side: bytes, what they hold, its table, and what each row is multiplied by, [rows, runs], or without runs. same: no difference needs a look.
    """
    size = min(columns, AT_ONCE)
    ours, theirs, differences = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
    total, noise, worst, place = 0.0, 0.0, np.int32(0), 0
    for row in range(rows):
        for first in range(0, columns, AT_ONCE):
            size = min(AT_ONCE, columns - first)
            one, two, apart = ours[:size], theirs[:size], differences[:size]
            _decode(signal, row, columns, first, one)
            if same:
                total += _square(one)
                continue
            _decode(other, row, columns, first, two)
            squares = _squares(one, two, apart)
            total, noise = total + squares[0], noise + squares[1]
            # Magnitudes of floats are in the order of their bits.
            largest = np.int32(0)
            for bits in apart.view(np.int32):
                largest = max(largest, np.int32(bits & 0x7FFFFFFF))
            if largest > worst:
                worst = largest
                place = row * columns + first + np.argmax(np.abs(apart))
    differences.view(np.int32)[0] = worst
    return total, noise, np.float64(differences[0]), place
