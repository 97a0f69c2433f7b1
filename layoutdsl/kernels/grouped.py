"""What the grouped kernels share, in torch: which rows belong to which expert, one tensor for all experts or one for each, int8 and int4 products, swiglu.

Read by the reference kernels of grouped ops, and by nothing else.

Invariants: groups are consecutive rows in the order of ``group_list``; rows after the last group stay poisoned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layoutdsl.kernels.numerics import FLOATS, Checks, elements, poisoned, quantize_rows, scale_of_bits, scale_values, silu

CUMULATED, COUNTS, PAIRS = 0, 1, 2
"""``group_list_type``: last row of each group, rows of each group, or (expert, rows) per group."""


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive rows of x and the expert that they are for."""

    expert: int
    rows: slice


def row_groups(checks: Checks, group_list: Tensor | None, kind: int | None, experts: int, rows: int, name: str = "group_list") -> list[Group]:
    """The groups that are not empty, in the order of rows. name: what the kernel calls ``group_list``."""
    kind = kind or CUMULATED
    checks.expect(kind in (CUMULATED, COUNTS, PAIRS), "group_list_type", "0 (cumulated), 1 (counts) or 2 (expert and count)", kind)
    if kind == PAIRS:
        length = group_list.shape[0] if group_list is not None and group_list.dim() else 0
        pairs = checks.tensor(name, group_list, (torch.int64,), (min(length, experts), 2)).tolist()
    else:
        numbers = checks.tensor(name, group_list, (torch.int64,), (experts,)).tolist()
        counts = [after - before for before, after in zip([0, *numbers], numbers)] if kind == CUMULATED else numbers
        pairs = list(enumerate(counts))
    sparse = kind == PAIRS and len({expert for expert, _ in pairs}) < len(pairs)
    legal = all(0 <= expert < experts and count >= 0 for expert, count in pairs) and not sparse and sum(count for _, count in pairs) <= rows
    checks.expect(legal, name, f"groups of at most {rows} rows in all, each expert once", group_list.tolist() if group_list is not None else None)
    return list(_consecutive(pairs))


def _consecutive(pairs: Sequence[Sequence[int]]) -> Iterator[Group]:
    start = 0
    for expert, count in pairs:
        if count:
            yield Group(expert, slice(start, start + count))
        start += count


@dataclass(frozen=True, slots=True)
class Experts:
    """The weights per expert, each [k, n] as torch shows it. stacked: they came as one tensor [e, k, n], and so must what belongs to them."""

    checks: Checks
    weights: tuple[Tensor, ...]
    stacked: bool

    def each(self, argument: str, tensors: Sequence[Tensor] | None) -> tuple[Tensor, ...]:
        """An argument that goes with the weights, per expert."""
        count = len(self.weights)
        if tensors is None:
            self.checks.refuse(argument, "one tensor for all experts" if self.stacked else f"{count} tensors, one for each expert", None)
        if self.stacked:
            whole = len(tensors) == 1 and tensors[0].dim() > 0 and tensors[0].shape[0] == count
            self.checks.expect(whole, argument, f"one tensor of {count} experts", tensors)
            return tensors[0].unbind(0)
        self.checks.expect(len(tensors) == count, argument, f"{count} tensors, one for each expert", tensors)
        return tuple(tensors)


def experts(checks: Checks, weight: Sequence[Tensor]) -> Experts:
    """``weight`` as one tensor [e, k, n], or as a list of e tensors [k, n] of one shape and dtype."""
    if len(weight) == 1 and weight[0].dim() == 3:
        return Experts(checks, weight[0].unbind(0), stacked=True)
    alike = len(weight) > 0 and all(part.dim() == 2 and part.shape == weight[0].shape and part.dtype == weight[0].dtype for part in weight)
    checks.expect(alike, "weight", "one tensor [e, k, n], or e tensors [k, n]", list(weight))
    return Experts(checks, tuple(weight), stacked=False)


def run_groups(output: Tensor, found: Sequence[Group], product: Callable[[Group], Tensor]) -> Tensor:
    """``output`` with the rows of every group set to its product."""
    for group in found:
        output[group.rows] = product(group).to(output.dtype)
    return output


# ---- products ---------------------------------------------------------------------------------------------------------------------------------------


def weight_of(checks: Checks, weight: Tensor, element: str, k: int) -> Tensor:
    """The values [k, n] of one expert's weight."""
    values = elements(weight, element)
    checks.expect(values.shape[0] == k, "weight", f"{k} rows, as x has columns", weight)
    return values


def int8_times_int4(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """16 * C_hi + C_lo as float64 [m, n]: x * weight * scale but for the 8 in x = 16 * hi + lo + 8, which the caller adds.

    weight: [k, n] values. scale: int64 [groups, n]; every group's product is an integer before it is scaled.
    Source: ops-transformer 3a280bcc, grouped_matmul_antiquant_a8w4_msd.h. The device sums the groups in float16; here the sum is ideal.
    """
    numbers = x.to(torch.int64)
    high, low = (numbers >> 4).to(torch.float64), ((numbers & 15) - 8).to(torch.float64)
    size = weight.shape[0] // scale.shape[0]
    total = torch.zeros(x.shape[0], weight.shape[1], dtype=torch.float64, device=x.device)
    for index, row in enumerate(scale_of_bits(scale)):
        part = slice(index * size, (index + 1) * size)
        total += (16 * (high[:, part] @ weight[part]) + low[:, part] @ weight[part]) * row
    return total


def group_scales(checks: Checks, argument: str, scale: Tensor, k: int, n: int) -> Tensor:
    """int64 [groups, n] of a whole number of groups in k."""
    fits = scale.dim() == 2 and scale.shape[0] > 0 and k % scale.shape[0] == 0
    checks.expect(fits, argument, f"[groups, {n}] with {k} rows in groups of one size", scale)
    return checks.tensor(argument, scale, (torch.int64, torch.uint64), (scale.shape[0], n))


# ---- grouped product, swiglu, requantization ------------------------------------------------------------------------------------------------------


def int_products(
    checks: Checks, x: Tensor, weights: Experts, scale: Sequence[Tensor], bias: Sequence[Tensor] | None, bias_name: str = "bias"
) -> Callable[[Group], Tensor]:
    """The products of int8 rows with int8 or int4 experts, scaled per channel (int4: per group too), before the scale of the rows.

    ``bias``: what compensates the split of x for int4 (8 * sum_k weight * scale), float32 [n] per expert; required there, and nowhere else allowed.
    ``bias_name``: what the kernel calls it.
    """
    k = x.shape[1]
    if weights.weights[0].dtype == torch.int32:
        scales, biases = weights.each("weight_scale", scale), weights.each(bias_name, bias)

        def product(group: Group) -> Tensor:
            weight = weight_of(checks, weights.weights[group.expert], "int4", k)
            n = weight.shape[1]
            own = scales[group.expert]
            own = group_scales(checks, "weight_scale", own[None] if own.dim() == 1 else own, k, n)
            return int8_times_int4(x[group.rows], weight, own) + checks.tensor(bias_name, biases[group.expert], (torch.float32,), (n,))

        return product
    checks.absent("where the weight is int8", **{bias_name: bias})
    scales = weights.each("weight_scale", scale)

    def plain(group: Group) -> Tensor:
        weight = weight_of(checks, weights.weights[group.expert], "int8", k)
        own = checks.tensor("weight_scale", scales[group.expert], FLOATS, (weight.shape[1],))
        return (x[group.rows].to(torch.float64) @ weight) * scale_values(own)

    return plain


def swiglu(values: Tensor, limit: float = 0.0) -> Tensor:
    """silu(first half) * second half; a limit above 0 caps the first from above and the second on both sides (vllm-ascend 001c5b567b, a8w4_msd_post.h)."""
    gate, up = values.chunk(2, dim=-1)
    if limit > 0:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return silu(gate) * up


def swiglu_quant(
    x_scale: Tensor, found: Sequence[Group], product: Callable[[Group], Tensor], n: int, *, limit: float = 0.0, element: str = "int8"
) -> tuple[Tensor, Tensor]:
    """q [m, n / 2] and its float32 scale [m]: each row of a group scaled by x_scale [m], through swiglu, and quantized by its own maximum."""
    output = poisoned((x_scale.shape[0], n // 2), torch.int8 if element == "int8" else torch.float8_e4m3fn, x_scale.device)
    scale = poisoned((x_scale.shape[0],), torch.float32, x_scale.device)
    for group in found:
        values = swiglu(product(group) * x_scale[group.rows, None].to(torch.float64), limit)
        output[group.rows], scale[group.rows] = quantize_rows(values, element)
    return output, scale
