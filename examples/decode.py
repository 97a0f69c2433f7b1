"""Decode W4A8 weights back to numbers: the stored form by ModelSlim's convention, the kernel-ready form by the kernel's contract.

Last stage of the demo, and its judge: written from the two contracts, it shares no code with layoutdsl or with the quantizer.

Invariant: every decoded number is code * scale in float64, where a code of 4 bits times a float32 scale is exact.
"""

import math

import torch
from torch import Tensor


def signed(nibbles: Tensor) -> Tensor:
    """Four bits, 0..15, read as two's complement, -8..7."""
    return torch.where(nibbles >= 8, nibbles - 16, nibbles)


def kernel_codes(weight: Tensor) -> Tensor:
    """The codes, int32 [K, N], in the kernel's weight, int32 [K, N//8].

    npu_weight_quant_batchmatmul takes what npu_convert_weight_to_int4pack makes: eight int4 per word along N, element n
    in bits [4*(n%8), 4*(n%8)+4) of word n//8.
    """
    lanes = [signed((weight >> 4 * lane) & 0xF) for lane in range(8)]
    return torch.stack(lanes, dim=2).flatten(start_dim=1)


def decode_kernel(weight: Tensor, antiquant_scale: Tensor) -> Tensor:
    """The weights, float64 [K, N], that npu_weight_quant_batchmatmul multiplies with: code * scale of its group.

    `weight` is int32 [K, N//8], `antiquant_scale` [K//g, N]; there is no offset. The layer keeps the scale in float32; its
    forward rounds it to the activation's dtype on each call, which is not part of the layout and not done here.
    """
    codes = kernel_codes(weight).double()
    group_size = codes.shape[0] // antiquant_scale.shape[0]
    return codes * antiquant_scale.double().repeat_interleave(group_size, dim=0)


def checkpoint_codes(weight: Tensor, *, packed: bool) -> Tensor:
    """The codes, int32 [N, K], in the stored weight: int8 [N, K], or packed int8 [N//2, K] with the even channel in the low nibble."""
    if not packed:
        return weight.int()
    low, high = signed(weight.int() & 0xF), signed((weight.int() >> 4) & 0xF)
    return torch.stack([low, high], dim=1).flatten(end_dim=1)


def dequantize_checkpoint(tensors: dict[str, Tensor], *, packed: bool) -> Tensor:
    """The weights, float64 [N, K], that the stored tensors stand for.

    weight[n, k] * (weight_scale[n] * weight_scale_second[n, k//g]), the product of the scales rounded once to float32, as
    the load-time code does.
    """
    codes = checkpoint_codes(tensors["weight"], packed=packed).double()
    scale = tensors["weight_scale"].float() * tensors["weight_scale_second"].float()
    group_size = codes.shape[1] // scale.shape[1]
    return codes * scale.double().repeat_interleave(group_size, dim=1)


def sqnr_db(weight: Tensor, decoded: Tensor) -> float:
    """Signal to quantization noise in decibels, summed in float64: 10*log10(sum(W^2) / sum((W - What)^2))."""
    signal = weight.double().square().sum().item()
    noise = (weight.double() - decoded.double()).square().sum().item()
    return 10 * math.log10(signal / noise) if noise else math.inf
