# ruff: noqa: N806, E741 - sizes are capitals, as everywhere in this field
"""What the replaced system does at load time for W4A8_DYNAMIC, in plain torch, step by step and as slowly as it does it.

Written from a description of that system's code, not from our specs, and sharing no code with ``layoutdsl``: it is the oracle for sizes that nobody recorded.
``test_reference.py`` proves it against every recorded file.

K, N: input and output size; E experts, H hidden, I intermediate size; g: group size (0: per channel), G: number of groups. Casts to FRACTAL_NZ keep values on a
CPU, so here they only leave a note. Inputs are never written to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Union

import numpy as np
import torch

Tensors = Mapping[str, torch.Tensor]
Consumer = Literal["vllm-ascend-0.16", "vllm-ascend-0.23", "vllm-ascend-main"]
SEED, RELEASE, HEAD = "vllm-ascend-0.16", "vllm-ascend-0.23", "vllm-ascend-main"
f32, f16, i8, i32, i64 = torch.float32, torch.float16, torch.int8, torch.int32, torch.int64
Declared = dict[str, tuple[tuple[int, ...], torch.dtype]]


@dataclass(frozen=True)
class LinearCase:
    """A linear layer of this partition. packed: version 1.0.0 of the writer. params: the dtype of scales and offsets."""

    K: int
    N: int
    g: int
    packed: bool = False
    row: bool = False
    params: torch.dtype = torch.bfloat16


@dataclass(frozen=True)
class MoeCase:
    """The experts of one rank. g = 0: per channel; ct: compressed-tensors; lists: one tensor per expert; mega: the MegaMoE layout."""

    E: int
    H: int
    I: int
    g: int
    consumer: Consumer = SEED
    packed: bool = False
    ct: bool = False
    tp: int = 1
    lists: bool = False
    mega: bool = False


@dataclass
class Layer:
    """The layer afterwards. casts: shape and dtype of every cast to FRACTAL_NZ, in order."""

    tensors: dict[str, Union[torch.Tensor, list[torch.Tensor]]]
    casts: list[tuple[list[int], torch.dtype]] = field(default_factory=list)

    def nz(self, name: str) -> None:
        tensor = self.tensors[name]
        assert isinstance(tensor, torch.Tensor)
        self.casts.append((list(tensor.shape), tensor.dtype))


# ---- primitives ---------------------------------------------------------------------------------------------------------------------------------------------


def pack4(values: torch.Tensor) -> torch.Tensor:
    """PACK4 and Q4: eight int4 of the last dim in an int32, the first in the lowest nibble."""
    values = values.to(i32).contiguous()
    eights = values.reshape(*values.shape[:-1], values.shape[-1] // 8, 8) & 0xF
    word = torch.zeros_like(eights[..., 0])
    for lane in range(8):
        word = word | (eights[..., lane] << (4 * lane))
    return word


def nib8(values: torch.Tensor) -> torch.Tensor:
    """NIB8: two int4 of the last dim in an int8, the even one in the low nibble."""
    even, odd = values[..., 0::2], values[..., 1::2]
    return ((odd << 4) | (even & 0xF)).clone()


def bytes_as_words(values: torch.Tensor) -> torch.Tensor:
    """I8->I32."""
    assert values.shape[-1] % 4 == 0
    return values.view(i32).contiguous()


def bits_in_int64(scale: torch.Tensor) -> torch.Tensor:
    """U32->I64: the bits of a float32, zero-extended."""
    return torch.from_numpy(scale.detach().contiguous().numpy().view(np.uint32).astype(np.int64))


def bits_in_even_words(scale: torch.Tensor) -> torch.Tensor:
    """U32 interleave, as the replaced system writes it: even words of a zeroed array, reinterpreted."""
    E, G, N = scale.shape
    words = np.zeros((E, G, 2 * N), dtype=np.uint32)
    words[..., ::2] = scale.contiguous().numpy().view(np.uint32)
    return torch.from_numpy(words.view(np.int64).copy())


# ---- linear -------------------------------------------------------------------------------------------------------------------------------------------------


def linear_parameters(case: LinearCase) -> Declared:
    K, N, G, p = case.K, case.N, case.K // case.g, case.params
    declared: Declared = {"weight": ((N // 2 if case.packed else N, K), i8)}
    declared |= {"weight_scale": ((N, 1), p), "weight_offset": ((N, 1), p)}
    declared |= {"weight_scale_second": ((N, G), p), "weight_offset_second": ((N, G), p)}
    if case.packed:
        declared["scale_bias"] = ((N, 16 if case.row else 1), f32)
    return declared


def linear(case: LinearCase, given: Tensors) -> Layer:
    layer = Layer(dict(given))
    out = layer.tensors
    K, N, G = case.K, case.N, case.K // case.g
    weight = given["weight"].transpose(0, 1).contiguous()
    out["weight"] = weight
    layer.nz("weight")
    scale = given["weight_scale"].flatten().to(f32)
    out["weight_scale"] = scale
    out["weight_offset"] = given["weight_offset"].flatten()
    second = given["weight_scale_second"].transpose(0, 1).contiguous()
    if not case.packed:
        terms = weight.to(f32).reshape(G, case.g, N) * second.reshape(G, 1, N)
        terms = terms.reshape(K, N) * scale
        out["weight_scale_bias"] = 8 * terms.sum(0)
    out["weight_scale_second"] = (scale * second).reshape(G, N)
    if case.packed:
        bias = given["scale_bias"]
        out["scale_bias"] = bias.flatten() if bias.shape[1] == 1 else bias.contiguous()
    out["weight"] = bytes_as_words(weight) if case.packed else pack4(weight)
    return layer


# ---- MoE ----------------------------------------------------------------------------------------------------------------------------------------------------


def moe_parameters(case: MoeCase) -> Declared:
    E, H, I, g = case.E, case.H, case.I, case.g
    packed = case.packed and not case.ct
    declared: Declared = {"w13_weight": ((E, I if packed else 2 * I, H), i8), "w2_weight": ((E, H // 2 if packed else H, I), i8)}
    for name, rows, width in (("w13", 2 * I, H), ("w2", H, I)):
        if case.ct:
            declared[f"{name}_weight_scale"] = ((E, rows, width // g if g else 1), torch.bfloat16)
            continue
        declared |= {f"{name}_weight_scale": ((E, rows, 1), f32), f"{name}_weight_offset": ((E, rows, 1), f32)}
        if g:
            declared |= {f"{name}_weight_{what}_second": ((E, rows, width // g), f32) for what in ("scale", "offset")}
        if packed:
            declared[f"{name}_scale_bias"] = ((E, rows, 1 if name == "w13" else 16 // case.tp), f32)
    return declared


def moe(case: MoeCase, given: Tensors) -> Layer:
    layer = Layer(dict(given))
    for name in ("w13", "w2"):
        if case.ct:
            _compressed_tensors(case, name, given, layer)
        else:
            _modelslim(case, name, given, layer)
    # The newest release takes the later path for channel scales and for compressed-tensors, the earlier one for ModelSlim's group scales (seen in its files).
    if case.consumer == SEED or (case.consumer == RELEASE and case.g and not case.ct):
        _finish_early(case, layer)
    else:
        _finish_late(case, layer)
    return layer


def _modelslim(case: MoeCase, name: str, given: Tensors, layer: Layer) -> None:
    out = layer.tensors
    weight = given[f"{name}_weight"].transpose(1, 2).contiguous()
    scale = given[f"{name}_weight_scale"].transpose(1, 2).contiguous()
    E, K, _ = weight.shape
    N = scale.shape[2]
    out[f"{name}_weight"] = weight
    bias = torch.empty(0, dtype=f32)  # per channel and one int4 per byte: the parameter exists, and is empty
    if not case.g:
        out[f"{name}_weight_scale"] = bits_in_int64(scale)
    else:
        G = K // case.g
        second = given[f"{name}_weight_scale_second"].transpose(1, 2).contiguous().reshape(E, G, N)
        if not case.packed:
            terms = weight.to(f32).reshape(E, G, case.g, N) * second.reshape(E, G, 1, N)
            bias = 8 * (terms.reshape(E, K, N) * scale).sum(1)
        out[f"{name}_weight_scale"] = bits_in_even_words((scale * second).to(f16).to(f32))
        del out[f"{name}_weight_scale_second"], out[f"{name}_weight_offset_second"]
    if case.packed:
        bias = given[f"{name}_scale_bias"].transpose(1, 2).contiguous().sum(1)
    out[f"{name}_scale_bias"] = bias


def _compressed_tensors(case: MoeCase, name: str, given: Tensors, layer: Layer) -> None:
    out = layer.tensors
    weight = given[f"{name}_weight"].transpose(1, 2).contiguous()
    scale = given[f"{name}_weight_scale"].transpose(1, 2).contiguous()
    E, K, N = weight.shape
    if case.g:
        G = K // case.g
        terms = (weight.to(f32).reshape(E, G, case.g, N) * scale.reshape(E, G, 1, N)).reshape(E, K, N)
    else:
        terms = weight.to(f32) * scale
    out[f"{name}_weight"] = weight
    out[f"{name}_weight_scale"] = bits_in_int64(given[f"{name}_weight_scale"].transpose(1, 2).to(f32).contiguous())
    out[f"{name}_scale_bias"] = 8 * terms.sum(1)


def _finish_early(case: MoeCase, layer: Layer) -> None:
    """NZ for ModelSlim, then one int32 per eight values; one int4 per byte goes through the device's quantizer."""
    out = layer.tensors
    if not case.ct:
        layer.nz("w13_weight")
        layer.nz("w2_weight")
    for name in ("w13_weight", "w2_weight"):
        out[name] = bytes_as_words(out[name]) if case.packed and not case.ct else pack4(out[name])


def _finish_late(case: MoeCase, layer: Layer) -> None:
    """Nibbles are packed into bytes, NZ for all, then one of three layouts."""
    out = layer.tensors
    if out["w13_weight_scale"].shape[1] == 1 and not case.g:
        out["w13_weight_scale"] = out["w13_weight_scale"].squeeze(1)
    for name in ("w13_weight", "w2_weight"):
        if case.ct:
            out[name] = nib8(out[name])
    layer.nz("w13_weight")
    layer.nz("w2_weight")
    names = [f"{name}_{what}" for what in ("weight", "weight_scale", "scale_bias") for name in ("w13", "w2")]
    if case.lists:
        for name in names:
            out[f"{name}_list"] = [tensor.clone() for tensor in out.pop(name).unbind(0)]
    elif case.mega:
        for name in names:
            parts = out.pop(name).unbind(0)
            out[f"cann_mega_moe_{name}_list"] = [part.clone() if name.endswith("_weight") else part.flatten() for part in parts]
    else:
        for name in ("w13_weight", "w2_weight"):
            out[name] = bytes_as_words(out[name])
