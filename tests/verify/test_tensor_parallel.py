"""Cutting a checkpoint for ranks by the types alone, against the loader's slices written out; and what the ranks must give together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layoutdsl.api import load_spec
from layoutdsl.verify import tensor_parallel
from layoutdsl.verify.configurations import configured
from layoutdsl.verify.tensor_parallel import Cut, Lost, NotDivisible, Ranks, Split, parts_of
from layoutdsl.verify.tensors import checkpoint


def cut(
    name: str, config: dict[str, object], sizes: dict[str, int], split: str, ranks: int, which: int, *, told: bool = True
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The whole checkpoint and a rank's part. told: the rank's plan knows how many ranks there are."""
    spec = load_spec(name)
    one, own = (configured(spec, {**config, "tp_size": count}) for count in (1, ranks if told else 1))
    own_sizes = {**sizes, split: sizes[split] // ranks}
    full, rank = one.plan.bind(sizes), own.plan.bind(own_sizes)
    given = checkpoint(one, full.bound, sizes).tensors
    axes = frozenset(axis for axis, extent in full.data.axes if split in str(extent))
    return given, Cut(axes, parts_of(one, sizes), parts_of(own, own_sizes), ranks, which).tensors(full, rank, given)


def test_experts() -> None:
    """Gate and up each for themselves, whole bytes of nibbles, 16 partial sums as 16 / ranks of them."""
    sizes = {"num_experts": 2, "hidden_size": 24, "intermediate_size_per_partition": 32}
    config = {"consumer": "vllm-ascend-0.16", "version": "1.0.0", "group_size": 8}
    full, rank = cut("W4A8_DYNAMIC.moe", config, sizes, "intermediate_size_per_partition", 2, 1)
    gate, up = full["w13_weight"].chunk(2, dim=1)
    assert torch.equal(rank["w13_weight"], torch.cat([gate[:, 8:], up[:, 8:]], 1))
    gate, up = full["w13_weight_scale_second"].chunk(2, dim=1)
    assert torch.equal(rank["w13_weight_scale_second"], torch.cat([gate[:, 16:], up[:, 16:]], 1))
    assert torch.equal(rank["w2_weight"], full["w2_weight"][:, :, 16:])
    assert torch.equal(rank["w2_weight_scale"], full["w2_weight_scale"])
    assert torch.equal(rank["w2_weight_scale_second"], full["w2_weight_scale_second"][:, :, 2:])
    assert torch.equal(rank["w2_scale_bias"], full["w2_scale_bias"][:, :, 8:])


@pytest.mark.parametrize(("kind", "split"), [("row", "input_size"), ("column", "output_size")])
def test_linear(kind: str, split: str) -> None:
    sizes = {"input_size": 256, "output_size": 48}
    full, rank = cut("W4A8_DYNAMIC.linear", {"version": "1.0.0", "group_size": 32, "layer_type": kind}, sizes, split, 4 if kind == "row" else 3, 1)
    if kind == "row":
        assert torch.equal(rank["weight"], full["weight"][:, 64:128])
        assert torch.equal(rank["weight_scale_second"], full["weight_scale_second"][:, 2:4])
        assert torch.equal(rank["scale_bias"], full["scale_bias"]), "all ranks hold all partial sums"
    else:
        assert torch.equal(rank["weight"], full["weight"][8:16])
        assert torch.equal(rank["weight_scale"], full["weight_scale"][16:32])


def test_groups_that_straddle_ranks_cannot_be_cut() -> None:
    sizes = {"input_size": 192, "output_size": 16}
    with pytest.raises(NotDivisible):
        cut("W4A8_DYNAMIC.linear", {"version": "1.0.0", "group_size": 64, "layer_type": "row"}, sizes, "input_size", 2, 0, told=False)


SPEC = """\
layoutdsl: 1
scheme: PARTS
layer: linear
title: parts of different sizes, and a tensor of which ranks hold less and less
holds: {consumer: [vllm-ascend-0.23], device: [a2]}
config:
  width: {type: int, default: 8}
axes: {n: output_size, k: input_size, s: 12 // tp_size}
segments:
  n: {q: N // 2, k: N // 4, v: N // 4}
require:
  - N % 4 == 0
params:
  weight: int8[n, k]
  weight_scale: params_dtype[n]
  sums: float32[n, s]
value:
  W[n, k]: weight[n, k] * weight_scale[n]
steps:
  - weight: transpose(k, n) | contiguous
forward:
  - return: npu_weight_quant_batchmatmul(x, weight, antiquant_scale=weight_scale)
"""


@pytest.fixture
def parts(tmp_path: Path) -> str:
    (tmp_path / "parts.linear.yaml").write_text(SPEC)
    return str(tmp_path / "parts.linear.yaml")


def test_parts_of_different_sizes(parts: str) -> None:
    sizes = {"output_size": 16, "input_size": 6}
    assert parts_of(configured(load_spec(parts), {}), sizes) == {"n": [8, 4, 4]}
    full, part = cut(parts, {}, sizes, "output_size", 2, 1, told=False)
    weight = full["weight"]
    assert torch.equal(part["weight"], torch.cat([weight[4:8], weight[10:12], weight[14:16]]))


def test_a_tensor_of_which_ranks_lose_a_part_is_a_finding(parts: str) -> None:
    with pytest.raises(Lost) as lost:
        cut(parts, {}, {"output_size": 64, "input_size": 6}, "output_size", 2, 0)
    assert lost.value.finding.where == "sums"
    configuration = configured(load_spec(parts), {"layer_type": "column"})
    found = dict(tensor_parallel.check(Ranks(configuration), Split("output_size", added=False)))
    assert found[1] is None
    assert found[2] is not None
    assert (found[2].code, found[2].where) == ("verify-tp", "sums")


def test_numbers_of_ranks() -> None:
    """All powers of two, and three where the spec does not refuse it."""
    packed = {"consumer": "vllm-ascend-0.16", "version": "1.0.0", "weight_nz_mode": 0}
    (moe, split), *_ = tensor_parallel.splits(configured(load_spec("W4A8_DYNAMIC.moe"), {**packed, "group_size": None}))
    assert [count for count, finding in tensor_parallel.check(Ranks(moe), split) if finding is None] == [1, 2, 4, 8, 16], "16 partial sums"
    (row, split) = tensor_parallel.splits(configured(load_spec("W4A8_DYNAMIC.linear"), {**packed, "group_size": 64, "layer_type": "row"}))[0]
    assert [count for count, finding in tensor_parallel.check(Ranks(row), split) if finding is None] == [1, 2, 4, 8, 16, 3]


def test_a_plan_that_serves_rows_and_columns_is_split_both_ways() -> None:
    configuration = configured(load_spec("W4A8_DYNAMIC.linear"), {"group_size": 64})
    assert {split.size for _, split in tensor_parallel.splits(configuration)} == {"input_size", "output_size"}


def test_rotated_inputs_are_compared_rank_by_rank() -> None:
    """Every rank takes its block of a rotation that is loaded whole; more ranks than it is made for are refused."""
    configuration = configured(load_spec("W4A4_MXFP4_FLATQUANT.linear"), {"layer_type": "row", "max_supported_tp": 4})
    found = list(tensor_parallel.check(Ranks(configuration), Split("input_size", added=True), (tensor_parallel.RANKS,)))
    assert [count for count, _ in found] == [1, 2, 2, 4, 4, 4, 4]
    assert all(finding is None for _, finding in found)
