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

_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_TABLE = types.Array(types.float32, 2, "C", readonly=True)
_ROWS = types.Array(types.float64, 2, "C", readonly=True)
_PLACES = types.Array(types.int64, 1, "C", readonly=True)
_NUMBERS = types.Array(types.float64, 3, "A", readonly=True)
_SIDE = types.Tuple((_BYTES, types.int64, _TABLE, _TABLE))


@njit(types.void(_BYTES, types.int64, types.int64, types.float64[:, ::1]), nogil=True, cache=True)
def run_sums(raw: Any, code: int, run: int, out: Any) -> None:
    """The sums over every ``run`` numbers of the rows of ``out`` [rows, runs]. code: one of the integers."""
    rows, runs = out.shape
    if code == INT8:
        signed = raw.view(np.int8)
        for row in range(rows):
            for place in range(runs):
                total = np.int32(0)
                for byte in signed[(row * runs + place) * run : (row * runs + place + 1) * run]:
                    total = np.int32(total + np.int32(byte))
                out[row, place] = total
        return
    across = code == INT4_ACROSS
    size = run if across else run // 2
    for row in range(rows // 2 if across else rows):
        for place in range(runs):
            low, high = np.int32(0), np.int32(0)
            for byte in raw[(row * runs + place) * size : (row * runs + place + 1) * size]:
                low = np.int32(low + np.int32(byte & 15 ^ 8))
                high = np.int32(high + np.int32(byte >> 4 ^ 8))
            if across:
                out[2 * row, place], out[2 * row + 1, place] = low - 8 * run, high - 8 * run
            else:
                out[row, place] = low + high - 8 * run


@njit(types.void(_ROWS, _PLACES, types.float64[:, ::1]), nogil=True, cache=True)
def taken(array: Any, places: Any, out: Any) -> None:
    """These columns."""
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            out[row, column] = array[row, places[column]]


@njit(types.void(_NUMBERS, _NUMBERS, _NUMBERS, types.float64[:, ::1]), nogil=True, cache=True)
def sums_of_products(one: Any, other: Any, third: Any, out: Any) -> None:
    """Over the last dim."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            total = 0.0
            for k in range(one.shape[2]):
                total += one[i, j, k] * other[i, j, k] * third[i, j, k]
            out[i, j] = total


@njit(types.void(_SIDE, types.int64, types.float32[::1]), nogil=True, cache=True)
def _decode(side: Any, row: int, out: Any) -> None:
    """One row of numbers."""
    raw, code, table, factor = side
    columns = out.size
    if code == INT8:
        signed = raw.view(np.int8)[row * columns : (row + 1) * columns]
        for i in range(columns):
            out[i] = signed[i]
    elif code == INT4:
        packed = raw[row * columns // 2 : (row + 1) * columns // 2]
        for i in range(packed.size):
            out[2 * i] = np.float32(packed[i] & 15 ^ 8) - np.float32(8)
            out[2 * i + 1] = np.float32(packed[i] >> 4 ^ 8) - np.float32(8)
    elif code == INT4_ACROSS:
        packed, shift = raw[row // 2 * columns : (row // 2 + 1) * columns], np.uint8(4 * (row % 2))
        for i in range(columns):
            out[i] = np.float32(packed[i] >> shift & 15 ^ 8) - np.float32(8)
    elif code == BFLOAT16:
        short, bits = raw.view(np.uint16)[row * columns : (row + 1) * columns], out.view(np.uint32)
        for i in range(columns):
            bits[i] = np.uint32(short[i]) << np.uint32(16)
    elif code == FLOAT32:
        out[:] = raw.view(np.float32)[row * columns : (row + 1) * columns]
    elif code == TABLE_ACROSS:
        lanes = table.shape[0]
        packed = raw[row // lanes * columns : (row // lanes + 1) * columns]
        for i in range(columns):
            out[i] = table[row % lanes, packed[i]]
    else:
        lanes = table.shape[0]
        packed = raw[row * columns // lanes : (row + 1) * columns // lanes]
        for lane in range(lanes):
            for i in range(packed.size):
                out[lanes * i + lane] = table[lane, packed[i]]
    for run in range(factor.shape[1]):
        width = columns // factor.shape[1]
        scale, part = factor[row, run], out[run * width : (run + 1) * width]
        for i in range(width):
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
    one, two, apart = np.empty(columns, np.float32), np.empty(columns, np.float32), np.empty(columns, np.float32)
    bits = apart.view(np.int32)
    total, noise, worst, place = 0.0, 0.0, np.int32(0), 0
    for row in range(rows):
        _decode(signal, row, one)
        if same:
            total += _square(one)
            continue
        _decode(other, row, two)
        squares = _squares(one, two, apart)
        total, noise = total + squares[0], noise + squares[1]
        # Magnitudes of floats are in the order of their bits.
        largest = np.int32(0)
        for i in range(columns):
            largest = max(largest, np.int32(bits[i] & 0x7FFFFFFF))
        if largest > worst:
            worst = largest
            place = row * columns + np.argmax(np.abs(apart))
    bits[0] = worst
    return total, noise, np.float64(apart[0]), place
