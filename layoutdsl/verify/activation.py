"""What a kernel is given for its rows: numbers and their scales put together, and how far quantization may have moved them.

Between a recorded kernel call and the checks. A scale is one float per row, one per tile of a row, or exponents (e8m0) of blocks of 32, in pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.verify.decode import Array, number_of, words_of

MX_BLOCK = 32
"""Elements that share an exponent (source: OCP Microscaling Formats 1.0)."""
_LARGEST = {"e4m3": 448.0, "e2m1": 6.0}


@dataclass(frozen=True, slots=True)
class Rows:
    """values: float64 [rows, inputs]. step: what one unit of the element is worth at every place. element: int8, int4, e4m3, e2m1, or float32 for any float."""

    values: Array
    step: Array
    element: str

    def error(self, exact: Array) -> Array:
        """How far these values may be from what was quantized: half a step, and what lies beyond the largest number of the element."""
        if self.element not in _LARGEST:
            return 0.5 * self.step if self.element.startswith("int") else np.zeros_like(self.step)
        element, largest = ELEMENTS[self.element], _LARGEST[self.element] * self.step
        smallest = 2.0 ** (1 - ((1 << (element.exponent - 1)) - 1) - element.mantissa)
        rounded: Array = np.abs(exact) * 2.0 ** -(element.mantissa + 1) + 0.5 * smallest * self.step
        return np.maximum(rounded, np.abs(exact) - largest)


def rows_of(activation: torch.Tensor, scale: torch.Tensor | None) -> Rows:
    """The rows of a kernel's activation, dequantized."""
    element, numbers = _numbers(activation)
    if scale is None:
        return Rows(numbers, np.ones_like(numbers), element)
    step = np.broadcast_to(_steps(scale, numbers.shape[1]), numbers.shape)
    with np.errstate(invalid="ignore"):  # rows behind the last group hold anything
        return Rows(numbers * step, step, element)


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
