# ruff: noqa: N806 - sizes are capitals, as everywhere in this field
"""What an attentive engineer would write by hand for W4A8_DYNAMIC: the honest rival.

One expert at a time; nibbles are packed along rows before the (halved) bytes are transposed; the sum is taken over exact integer sums of groups, so that no
float tensor is as large as a weight. Integers and scales have the bits of the replaced system, sums are as close as float32 allows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tests.golden.reference import HEAD, Case
from tests.golden.reference.w4a8 import group_size, packed

Results = dict[str, torch.Tensor]
ROWS = 256
"""Rows per integer sum: torch casts the whole operand first, so a tile keeps that copy in the cache."""


def linear(case: Case, given: Mapping[str, torch.Tensor]) -> Results:
    out = dict(given)
    scale = given["weight_scale"].flatten().float()
    out["weight_scale"], out["weight_offset"] = scale, given["weight_offset"].flatten()
    second = given["weight_scale_second"].t().contiguous()
    out["weight_scale_second"] = scale * second
    weight = given["weight"]
    if packed(case):
        out["scale_bias"] = given["scale_bias"] if case.row else given["scale_bias"].flatten()
    else:
        out["weight_scale_bias"] = (group_sums(weight, group_size(case)) * second.float()).sum(0) * scale * 8
    nibbles = weight if packed(case) else pack_rows(weight)
    out["weight"] = nibbles.t().contiguous().view(torch.int32)
    return out


def moe(case: Case, given: Mapping[str, torch.Tensor]) -> Results:
    out, g = dict(given), group_size(case)
    late = case.consumer != "vllm-ascend-0.16" and not g
    for name in ("w13", "w2"):
        weight, scale = given[f"{name}_weight"], given[f"{name}_weight_scale"]
        N, K = scale.shape[1], weight.shape[2]
        whole = not packed(case)
        words = torch.empty(case.E, K, N // 8, dtype=torch.int32)
        bias = torch.empty(case.E, N)
        factors = scale.transpose(1, 2).float()
        if g and not case.ct:
            factors = factors * given[f"{name}_weight_scale_second"].transpose(1, 2)
            del out[f"{name}_weight_scale_second"], out[f"{name}_weight_offset_second"]
        for expert in range(case.E):
            rows = weight[expert]
            if whole:
                bias[expert] = (group_sums(rows, g or K) * factors[expert]).sum(0) * 8
            words.view(torch.int8)[expert].copy_((pack_rows(rows) if whole else rows).t())
        if not whole:
            bias = given[f"{name}_scale_bias"].transpose(1, 2).contiguous().sum(1)
        if g and not case.ct:
            factors = factors.half().float()
        wide = factors.contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF
        out[f"{name}_weight"], out[f"{name}_scale_bias"] = words, bias
        out[f"{name}_weight_scale"] = wide.squeeze(1) if late and name == "w13" else wide
    assert case.consumer != HEAD or not (case.lists or case.mega)
    return out


def pack_rows(weight: torch.Tensor) -> torch.Tensor:
    """Two int4 of neighbouring rows in an int8; the sum never leaves its range."""
    return torch.add(weight[0::2] & 15, weight[1::2], alpha=16)


def group_sums(weight: torch.Tensor, group: int) -> torch.Tensor:
    """[G, N] exact sums over groups of columns."""
    N, K = weight.shape
    sums = torch.empty(K // group, N, dtype=torch.int32)
    for start in range(0, N, ROWS):
        rows = weight[start : start + ROWS]
        sums[:, start : start + ROWS] = rows.view(-1, K // group, group).sum(-1, dtype=torch.int32).t()
    return sums
