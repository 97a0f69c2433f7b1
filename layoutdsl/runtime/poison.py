"""Poison: what a parameter holds before anything is loaded into it, and how much of it is still there afterwards.

Written by whoever allocates parameters; read by ``layoutdsl.runtime.guard`` before a plan, or a hand-written scheme, works on them.

Invariants: one byte is all the poison of a tensor: 0xFF where the elements are floats or e8m0 (then every element is a NaN), 0x80 in integers and packed data.
A tensor is judged only if it is the very object that was filled: copies of its attributes mean nothing. What is looked at is the bits, so a NaN of the
checkpoint's own, which is 0x7FC0 or the like, is a loaded value (not in 8 bits, where there is no other NaN, and not if a loader's cast made it 0xFFFF).
Judging needs some MiB beside the tensor, however large it is.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

import torch

from layoutdsl.runtime.dtypes import SIGNED

MARK = "_layoutdsl_poison"
"""Attribute of a tensor that was filled: its :class:`Poison`."""
NAN, PATTERN = 0xFF, 0x80
RUN = 16
"""An integer may by chance be what poison is; a line, or a run, of so many is not. (-128 sixteen times over; in packed int4, 0 and -8 in turn.)"""
BLOCK = 1 << 20
"""Elements that are looked at in one go."""
_PACKED = ("float4_e2m1fn_x2",)
"""Floats of torch of which a byte holds two: no byte of theirs is a NaN."""


@dataclass(slots=True)
class Poison:
    """The mark of a filled tensor.

    byte: what it was filled with. seen: shapes of what a weight loader was given for it, each once, the first few. loaded: was it given anything. owner: the
    tensor that was filled; version: torch's count of changes to it, right after.
    """

    byte: int
    owner: weakref.ref[torch.Tensor] | None
    version: int
    seen: list[tuple[int, ...]] = field(default_factory=list)
    loaded: bool = False

    def note(self, shape: tuple[int, ...] | None) -> None:
        """A weight loader was called with a tensor of this shape."""
        self.loaded = True
        if shape is not None and shape not in self.seen and len(self.seen) < 4:
            self.seen.append(shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return Poison, (self.byte, None, self.version)  # a weak reference cannot be written; what is read back belongs to no tensor


class Judgement(NamedTuple):
    """What is left of the poison. left, total: in elements of the tensor. where: per dim the ranges (first, behind the last) of the indices that have some."""

    left: int
    total: int
    where: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def whole(self) -> bool:
        """Nothing was loaded."""
        return self.left == self.total

    @property
    def partial(self) -> bool:
        return 0 < self.left < self.total


CLEAN = Judgement(0, 1, ())


# ---- filling -------------------------------------------------------------------------------------------------------------------------------------------------


def byte_of(dtype: torch.dtype, element: str | None = None) -> int:
    """The poison of a tensor. element: what the plan says that it holds; without one, uint8 counts as packed data, though it may hold e8m0."""
    if element in ("e8m0", "float8_e8m0fnu"):
        return NAN
    return NAN if dtype.is_floating_point and str(dtype).removeprefix("torch.") not in _PACKED else PATTERN


def empty(shape: tuple[int, ...], dtype: torch.dtype, element: str | None = None, device: torch.device | str | None = None) -> torch.Tensor:
    """A new tensor, filled."""
    return fill(torch.empty(shape, dtype=dtype, device=device), element)


def fill(tensor: torch.Tensor, element: str | None = None) -> torch.Tensor:
    """Overwrites every element with poison, marks the tensor, and returns it. Complex and bool tensors, and tensors without memory, are left alone."""
    if not _can(tensor):
        return tensor
    byte = byte_of(tensor.dtype, element)
    _plain(tensor.data).fill_(_number(byte, tensor.element_size()))
    return mark(tensor, element)


def mark(tensor: torch.Tensor, element: str | None = None) -> torch.Tensor:
    """Says that a tensor has been filled (by copying poison into it, say), and returns it."""
    if _can(tensor):
        setattr(tensor, MARK, Poison(byte_of(tensor.dtype, element), weakref.ref(tensor), _version(tensor)))
    return tensor


def unmark(tensor: torch.Tensor) -> None:
    tensor.__dict__.pop(MARK, None)


def poison_of(tensor: torch.Tensor) -> Poison | None:
    """The mark, if it was made for this very object."""
    found = getattr(tensor, MARK, None)
    return found if isinstance(found, Poison) and found.owner is not None and found.owner() is tensor else None


def _can(tensor: torch.Tensor) -> bool:
    return not (tensor.is_meta or tensor.is_complex() or tensor.is_quantized or tensor.dtype == torch.bool)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """The bits, as signed integers of the elements' width."""
    return tensor.view(SIGNED[8 * tensor.element_size()])


def _number(byte: int, size: int) -> int:
    return int.from_bytes(bytes([byte]) * size, "little", signed=True)


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


# ---- judging -------------------------------------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def judge(tensor: torch.Tensor) -> Judgement:
    """How much poison is left in a tensor that was filled; none in any other.

    Floats and e8m0 count by element. Integers count by lines of 16 elements or more, whole ones along the last dim and whole ones along the dim before; where
    such a line is shorter, by 16 consecutive elements. An integer tensor of fewer than 16 elements is poison if all of it is, unless a load was noticed:
    a single -128 is a value like any other.
    """
    found = poison_of(tensor)
    if found is None or not _can(tensor) or tensor.numel() == 0:
        return CLEAN
    bits, poison = _plain(tensor.detach()), _number(found.byte, tensor.element_size())
    if found.byte == PATTERN and tensor.numel() < RUN:
        touched = found.loaded or _version(tensor) != found.version
        return CLEAN if touched or not bool((bits == poison).all()) else _all(tensor)
    tally = _Tally(tuple(tensor.shape))
    for lead in product(*map(range, tensor.shape[:-2])):
        matrix = bits[lead].reshape(1, -1) if tensor.dim() < 2 else bits[lead]
        masks = _elements(matrix, poison) if found.byte == NAN else _lines(matrix, poison)
        for row, mask in masks:
            tally.add(lead, row, mask)
    return tally.judgement()


def _all(tensor: torch.Tensor) -> Judgement:
    return Judgement(tensor.numel(), tensor.numel(), tuple(((0, size),) for size in tensor.shape))


Masks = Iterator[tuple[int, torch.Tensor]]
"""The first row of a block of rows, and which of its elements are poison: bool of the block's shape."""


def _blocks(matrix: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    rows = max(BLOCK // max(matrix.shape[1], 1), 1)
    return ((first, matrix[first : first + rows]) for first in range(0, matrix.shape[0], rows))


def _elements(matrix: torch.Tensor, poison: int) -> Masks:
    return ((first, block == poison) for first, block in _blocks(matrix))


def _lines(matrix: torch.Tensor, poison: int) -> Masks:
    """By whole rows and whole columns of 16 or more; by runs in reading order where rows or columns are shorter."""
    rows, columns, by_run = _whole(matrix, poison), _whole(matrix.T, poison), min(matrix.shape) < RUN
    if not by_run and not bool(rows.any()) and not bool(columns.any()):
        return
    for first, block in _blocks(matrix):
        mask = rows[first : first + block.shape[0], None] | columns
        yield first, mask | _runs(block == poison) if by_run else mask


def _whole(matrix: torch.Tensor, poison: int) -> torch.Tensor:
    """Which rows are nothing but poison; none if they are short. Only those are read whole whose ends and middle are, and of loaded tensors hardly any is."""
    rows, columns = matrix.shape
    hit = torch.zeros(rows, dtype=torch.bool, device=matrix.device)
    if columns < RUN:
        return hit
    probes = matrix[:, [0, columns // 2, columns - 1]] == poison
    for some in torch.split(probes.all(1).nonzero().flatten(), max(BLOCK // columns, 1)):
        hit[some] = (matrix[some] == poison).all(1)
    return hit


def _runs(mask: torch.Tensor) -> torch.Tensor:
    """Those elements that stand in a run of 16 in reading order. A run that a block's end cuts counts if one of its parts does."""
    flat = mask.flatten()
    if flat.numel() < RUN:
        return torch.zeros_like(mask)
    starts = flat.unfold(0, RUN, 1).all(1)
    padded = torch.nn.functional.pad(starts, (RUN - 1, RUN - 1))
    return padded.unfold(0, RUN, 1).any(1).view(mask.shape)


class _Tally:
    """Counts poison, and the indices per dim at which it is left."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.left = shape, 0
        self.hit = [torch.zeros(size, dtype=torch.bool) for size in shape]

    def add(self, lead: tuple[int, ...], row: int, mask: torch.Tensor) -> None:
        count = int(mask.sum())
        if not count:
            return
        self.left += count
        for dim, index in enumerate(lead):
            self.hit[dim][index] = True
        if len(self.shape) >= 2:
            self.hit[-2][row : row + mask.shape[0]] |= mask.any(1).cpu()
        if self.shape:
            self.hit[-1] |= mask.any(0).cpu()

    def judgement(self) -> Judgement:
        total = 1
        for size in self.shape:
            total *= size
        return Judgement(self.left, total, tuple(map(_ranges, self.hit)) if self.left else ())


def _ranges(hit: torch.Tensor) -> tuple[tuple[int, int], ...]:
    edges = torch.nn.functional.pad(hit.to(torch.int8), (1, 1)).diff().nonzero().flatten().tolist()
    return tuple(zip(edges[::2], edges[1::2]))
