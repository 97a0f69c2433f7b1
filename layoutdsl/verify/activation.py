"""What a kernel is given for its rows: numbers and their scales put together, and how far quantization may have moved them.

Between a recorded kernel call and the checks. A scale is one float per row, one per tile of a row, exponents (e8m0) of blocks of 32, in pairs, or one number
that the checkpoint holds for all rows (a grid).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from layoutdsl.ir.dtypes import ELEMENTS, Dtype
from layoutdsl.verify.decode import Array, number_of, words_of

MX_BLOCK = 32
"""Elements that share an exponent (source: OCP Microscaling Formats 1.0)."""
_LARGEST = {"int8": (-128.0, 127.0), "int4": (-8.0, 7.0), "e4m3": (-448.0, 448.0), "e2m1": (-6.0, 6.0)}
_UNSURE = 1e-6
"""Relative to a number how near it may be to the middle of two others for the kernel's own float32 division to choose either."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What a number of a statically quantized activation stands for: (number - offset) * scale."""

    scale: float
    offset: float

    def nearest(self, rows: Array) -> Array:
        """Rows that were put on the grid and then rounded to the dtype of the model, exactly."""
        exact: Array = np.rint(rows / self.scale) * self.scale
        return exact


@dataclass(frozen=True, slots=True)
class Rows:
    """values: float64 [rows, inputs]. step: what one unit of the element is worth at every place. element: int8, int4, e4m3, e2m1, or float32 for any float.

    blur: how far what the kernel multiplied may be from values, where it quantizes by itself; 0 where it was seen.
    """

    values: Array
    step: Array
    element: str
    blur: Array | float = 0.0

    def first(self, count: int) -> Rows:
        """So many rows from the top."""
        return replace(self, values=self.values[:count], step=self.step[:count], blur=np.broadcast_to(self.blur, self.values.shape)[:count])

    def error(self, exact: Array, moved: Array | float = 0.0) -> Array:
        """How far these values may be from what was quantized: they must be the nearest that the element holds.

        moved: how far the exact numbers themselves may be off. Between two values either is right; beyond the largest, the largest.
        """
        if self.element not in _LARGEST:
            return np.broadcast_to(moved, exact.shape).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = _distance(exact / self.step, np.asarray(moved) / self.step, self.element) * np.abs(self.step)
        return np.where(self.step == 0, moved, found)


def _distance(units: Array, moved: Array, element: str) -> Array:
    """How far the nearest number of an element may be, where the units are only known to within moved."""
    spacing = _spacing(units, ELEMENTS[element])
    distance = np.abs(units - np.clip(np.rint(units / spacing) * spacing, *_LARGEST[element]))
    unsure = moved + _UNSURE * np.abs(units)
    far: Array = np.where(distance + unsure >= spacing / 2, np.maximum(distance, spacing / 2) + unsure, distance)
    return far


def _spacing(units: Array, element: Dtype) -> Array:
    """The distance of neighbours among the numbers of an element."""
    if element.kind == "int":
        return np.ones_like(units)
    lowest = 2 - (1 << (element.exponent - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.floor(np.log2(np.abs(units)))
    found: Array = np.exp2(np.maximum(exponent, lowest) - element.mantissa)
    return found


def rows_of(activation: torch.Tensor, scale: torch.Tensor | None, grid: Grid | None = None) -> Rows:
    """The rows of a kernel's activation, dequantized. grid: of integers without a scale of their own."""
    element, numbers = _numbers(activation)
    if scale is None and grid is not None and element.startswith("int"):
        return Rows((numbers - grid.offset) * grid.scale, np.full_like(numbers, abs(grid.scale)), element)
    if scale is None:
        return Rows(numbers, np.ones_like(numbers), element)
    step = np.broadcast_to(_steps(scale, numbers.shape[1]), numbers.shape)
    with np.errstate(invalid="ignore"):  # rows behind the last group hold anything
        return Rows(numbers * step, step, element)


def quantized_inside(activation: torch.Tensor) -> Rows:
    """The rows that a kernel makes of floats by itself: int8 with a scale of each row, its maximum / 127 as float32."""
    exact: Array = activation.double().numpy()
    scale = (np.abs(exact).max(axis=1, keepdims=True) / 127).astype(np.float32).astype(np.float64)
    step = np.broadcast_to(scale, exact.shape)
    rows = Rows(np.where(step == 0, 0.0, np.rint(exact / np.where(step == 0, 1.0, step)) * step), step, "int8")
    # Where the row is as near to another number, the kernel may have chosen that.
    between = rows.error(exact) > np.abs(rows.values - exact) * (1 + _UNSURE)
    return Rows(rows.values, step, "int8", np.where(between, step, 0.0))


def _numbers(activation: torch.Tensor) -> tuple[str, Array]:
    packed = {torch.int32: "int4", torch.uint8: "e2m1"}.get(activation.dtype)
    if packed is None:
        name = {torch.int8: "int8", torch.float8_e4m3fn: "e4m3"}.get(activation.dtype, "float32")
        found: Array = activation.double().numpy()
        return name, found
    words, count = words_of(activation).reshape(activation.shape), activation.element_size() * 2
    codes = words[..., None] >> (4 * np.arange(count, dtype=np.uint64)) & np.uint64(15)
    return packed, number_of(codes, ELEMENTS[packed]).astype(np.float64).reshape(len(activation), -1)


def _steps(scale: torch.Tensor, inputs: int) -> Array:
    """Per input what one unit is worth: [rows, inputs], or [rows, 1]."""
    if scale.dtype.itemsize == 1:
        exponents = number_of(words_of(scale), ELEMENTS["e8m0"]).reshape(len(scale), -1)
        return exponents.repeat(MX_BLOCK, axis=1)[:, :inputs]
    values: Array = scale.double().numpy().reshape(len(scale), -1)
    return values if values.shape[1] == 1 else values.repeat(-(-inputs // values.shape[1]), axis=1)[:, :inputs]
