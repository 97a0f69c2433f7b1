"""Which bytes a tensor occupies: do two share some, are they the same, can a tensor be laid over another's.

Used by ``layoutdsl.runtime.apply`` and ``restore``, which write into memory that is in use.

Invariants: nothing is written or read; tensors without memory (meta, empty) share nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch


def span(tensor: torch.Tensor) -> tuple[int, int]:
    """The first byte, and the one behind the last."""
    if tensor.numel() == 0 or tensor.is_meta:
        return (0, 0)
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    start = tensor.data_ptr()
    return (start, start + (last + 1) * tensor.element_size())


def overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    (first, end), (start, stop) = span(one), span(other)
    return one.device == other.device and max(first, start) < min(end, stop)


def overlaps_any(tensor: torch.Tensor, others: Iterable[torch.Tensor]) -> bool:
    return any(overlap(tensor, other) for other in others)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Are they the same elements of the same memory?"""
    return alike(one, other) and span(one) == span(other)


def alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Could one stand for the other: device, dtype, shape, and strides where they mean something?"""
    if (one.device, one.dtype, one.shape) != (other.device, other.dtype, other.shape):
        return False
    return one.numel() == 0 or all(size == 1 or a == b for size, a, b in zip(one.shape, one.stride(), other.stride()))


def laid_over(memory: torch.Tensor, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor | None:
    """A tensor of this type over the bytes of ``memory``; None where it has gaps, another number of bytes, or starts at an odd place."""
    first, end = span(memory)
    dense = end - first == memory.numel() * memory.element_size() and memory.numel() > 0
    wanted = torch.empty((), dtype=dtype).element_size()
    count = 1
    for size in shape:
        count *= size
    offset = memory.storage_offset() * memory.element_size()
    if not dense or count * wanted != end - first or offset % wanted:
        return None
    view = torch.empty(0, dtype=dtype, device=memory.device)
    return view.set_(memory.untyped_storage(), offset // wanted, shape, strides)
