"""Folders of `folders` with values that fit one another, computed here with plain numpy from the formats' rules and not from our specs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.checkpoint.folders import Draft, Tensor, modelslim

GROUP = 128


def w4a8_experts(*, experts: int = 3, layers: int = 1, group_size: int = GROUP, seed: int = 0, **options: Any) -> Draft:
    """A right ModelSlim folder whose experts are W4A8_DYNAMIC of version 1.0.0: packed int4, scale_bias of 16 partial sums in down_proj."""
    sizes = {"hidden": 256, "moe_intermediate": 256, "heads": 2, "kv_heads": 1, **options}
    return filled(modelslim(layers=layers, experts=experts, expert_scheme="W4A8_DYNAMIC", group_size=group_size, **sizes), group_size, seed)


def dense(scheme: str, *, seed: int = 0, **options: Any) -> Draft:
    """A right folder of one layer without experts."""
    sizes = {"hidden": 256, "intermediate": 512, "heads": 2, "kv_heads": 1, **options}
    group_size = 32 if "MX" in scheme else GROUP
    return filled(modelslim(layers=1, scheme=scheme, group_size=group_size, **sizes), group_size, seed)


def filled(draft: Draft, group_size: int = GROUP, seed: int = 0) -> Draft:
    source = np.random.default_rng(seed)
    draft.fill(seed)
    for name in [name for name in draft.tensors if name.endswith(".weight")]:
        module, tensor = name.removesuffix(".weight"), draft.tensors[name]
        scheme = (draft.description or {}).get(name)
        if scheme == "W4A8_DYNAMIC":
            _w4a8(draft, module, group_size, source)
        elif tensor.dtype == "I8":
            low = 8 if scheme.startswith("W4") else 128
            draft.tensors[name] = Tensor.of(source.integers(-low, low, tensor.shape).astype(np.int8))
        if f"{module}.deq_scale" in draft.tensors:
            _static(draft, module, source)
    return draft


def _static(draft: Draft, module: str, source: np.random.Generator) -> None:
    """deq_scale is the product of the two scales before these were rounded to 16 bits."""
    dtype, deq = draft.tensors[f"{module}.input_scale"].dtype, draft.tensors[f"{module}.deq_scale"]
    given, own = source.uniform(0.01, 0.02, 1).astype(np.float32), source.uniform(0.01, 0.1, deq.shape).astype(np.float32)
    draft.tensors[f"{module}.input_scale"] = rounded(given, dtype)
    if f"{module}.weight_scale" in draft.tensors:
        draft.tensors[f"{module}.weight_scale"] = rounded(own.reshape(-1, 1), dtype)
    product = given * own
    draft.tensors[f"{module}.deq_scale"] = Tensor.of(product.view(np.int32).astype(np.int64) if deq.dtype == "I64" else product)


def _w4a8(draft: Draft, module: str, group_size: int, source: np.random.Generator) -> None:
    """scale_bias, of packed weights, is made of the scales before these were rounded, and with the sums of float32."""
    stored, k = draft.tensors[f"{module}.weight"].shape
    bias = draft.tensors.get(f"{module}.scale_bias")
    n = stored if bias is None else 2 * stored
    codes = source.integers(-8, 8, (n, k))
    dtype = draft.tensors[f"{module}.weight_scale"].dtype
    scale = source.uniform(0.01, 0.1, (n, 1)).astype(np.float32)
    weight = codes.astype(np.float32) * scale
    draft.tensors[f"{module}.weight"] = Tensor.of(codes.astype(np.int8) if bias is None else pack(codes))
    draft.tensors[f"{module}.weight_scale"] = rounded(scale, dtype)
    if f"{module}.weight_scale_second" in draft.tensors:
        second = source.uniform(0.01, 0.1, (n, k // group_size)).astype(np.float32)
        draft.tensors[f"{module}.weight_scale_second"] = rounded(second, dtype)
        weight = weight * np.repeat(second, group_size, axis=1)
    if bias is not None:
        draft.tensors[f"{module}.scale_bias"] = Tensor.of(8 * weight.reshape(n, bias.shape[1], -1).sum(axis=2, dtype=np.float32))


def rounded(array: np.ndarray, dtype: str) -> Tensor:
    return Tensor.of(array.astype(np.float16)) if dtype == "F16" else Tensor.of(array, dtype)


def pack(codes: np.ndarray) -> np.ndarray:
    """Two int4 of neighbouring outputs in a byte, the first in the lower half."""
    return (codes[0::2] & 15 | (codes[1::2] & 15) << 4).astype(np.uint8).view(np.int8)


def unpack(packed: np.ndarray) -> np.ndarray:
    raw = packed.view(np.uint8).astype(np.int64)
    codes = np.stack([raw & 15, raw >> 4], axis=1).reshape(-1, raw.shape[1])
    return (codes ^ 8) - 8


def change(draft: Draft, name: str, edit: Callable[[np.ndarray], np.ndarray | None]) -> None:
    """Replace a tensor's values; of float8 and e8m0 the bytes."""
    tensor = draft.tensors[name]
    array = tensor.array()
    found = edit(array)
    array = array if found is None else found
    draft.tensors[name] = rounded(array, tensor.dtype) if tensor.dtype in ("BF16", "F16") else Tensor.of(array.astype(tensor.array().dtype), tensor.dtype)


def exchange(draft: Draft, one: str, other: str) -> None:
    draft.tensors[one], draft.tensors[other] = draft.tensors[other], draft.tensors[one]


def swapped(packed: np.ndarray) -> np.ndarray:
    """The two int4 of each byte exchanged."""
    raw = packed.view(np.uint8)
    return (raw >> 4 | raw << 4).astype(np.uint8).view(np.int8)
