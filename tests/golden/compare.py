"""What "the same" means for the results of a layer: names, dtypes, shapes, strides, places in storage, and bits."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import torch

INTS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().contiguous()
    return tensor.view(INTS[tensor.element_size()])


def flat(results: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Every tensor by name; element i of a list ``x`` is ``x.i``."""
    found: dict[str, torch.Tensor] = {}
    for name, value in results.items():
        found |= {f"{name}.{i}": element for i, element in enumerate(value)} if isinstance(value, list) else {name: value}
    return found


def digest(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: hashlib.sha256(bits(tensor).numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}


def strides(tensor: torch.Tensor) -> list[int]:
    """Those that mean something: torch keeps any stride for a dim of one index."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape) if size > 1]


def assert_alike(name: str, got: torch.Tensor, want: torch.Tensor) -> None:
    assert (got.dtype, got.shape) == (want.dtype, want.shape), name
    assert strides(got) == strides(want) or not got.numel(), name
    assert got.storage_offset() == want.storage_offset(), name


def assert_same(got: Mapping[str, Any], want: Mapping[str, Any], computed: Collection[str] = ()) -> None:
    """Bit for bit. Of results called ``computed`` a NaN is a NaN whatever its payload; an int64 is looked at as the float32 in its low word."""
    ours, theirs = flat(got), flat(want)
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert_alike(name, ours[name], tensor)
        left, right = bits(ours[name]), bits(tensor)
        if name in computed or name.rpartition(".")[0] in computed:
            both = _nan(ours[name]) & _nan(tensor)
            left, right = left.masked_fill(both, 0), right.masked_fill(both, 0)
        assert torch.equal(left, right), f"{name}: {int((left != right).sum())} of {left.numel()} differ"


def _nan(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype == torch.int64:
        tensor = tensor.to(torch.int32).view(torch.float32)
    return tensor.isnan() if tensor.is_floating_point() else torch.zeros(tensor.shape, dtype=torch.bool)
