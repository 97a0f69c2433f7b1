"""Splitting layers over ranks: what a boundary cuts, what a loader does not fill, and for how many ranks nothing is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from layoutdsl.checkpoint.fit import Fit
from layoutdsl.checkpoint.model import Layer
from layoutdsl.checkpoint.plans import Plans
from layoutdsl.checkpoint.topology import Splits, Topology
from layoutdsl.diagnostics import Diagnostic
from tests.checkpoint.made import changed, of, right_layers

EVEN = [1, 2, 4, 8, 16, 32]


def findings(one: Layer, plans: Plans, **topology: Any) -> list[Diagnostic]:
    return list(Splits(Fit(plans)).findings([one], Topology(**topology)))


def errors(one: Layer, plans: Plans, **topology: Any) -> list[Diagnostic]:
    return [finding for finding in findings(one, plans, **topology) if finding.severity == "error"]


def legal(one: Layer, plans: Plans, **topology: Any) -> tuple[list[int], list[int] | None]:
    sizes, left_out = Splits(Fit(plans)).legal([one], Topology(**topology))
    assert sizes is not None and left_out == 0
    return sizes


@pytest.mark.parametrize(("one", "plans"), [pytest.param(one, plans, id=f"{one.scheme}.{one.kind}") for one, plans in right_layers()])
def test_one_rank_holds_every_layer_of_every_scheme(one: Layer, plans: Plans) -> None:
    assert errors(one, plans) == []
    assert errors(one, plans, tp=1, expert_parallel=True) == []


def test_three_ranks() -> None:
    one, plans = of("W8A8_DYNAMIC")
    (found,) = errors(one, plans, tp=3)
    assert (found.code, found.where, found.message) == ("split-uneven", one.prefix, "`output_size` 512 cannot be split over 3 ranks")
    assert found.helps == ("this layer can be split with `-tp` 1, 2, 4, 8, 16, 32",)


def test_rows_and_columns_are_split_where_loaders_split_them() -> None:
    one, plans = of("W8A8_DYNAMIC", input_size=768, output_size=500)
    assert legal(one, plans)[0] == [1, 2, 4, 5, 10, 20, 25]
    row = replace(one, prefix="model.layers.0.self_attn.o_proj")
    assert legal(row, plans)[0] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    whole = replace(one, prefix="model.layers.0.self_attn.kv_a_proj_with_mqa")
    assert legal(whole, plans)[0] == list(range(1, 33))


def test_a_group_that_a_boundary_would_cut() -> None:
    """K = 1408 and groups of 32: on four ranks 352, 11 groups; on eight 176, five and a half."""
    one, plans = of("W4A16", "moe", group_size=32, intermediate_size_per_partition=1408, hidden_size=2048)
    assert errors(one, plans, tp=4) == []
    found = errors(one, plans, tp=8)
    assert {finding.code for finding in found} == {"requirement-failed"}
    assert any("intermediate_size_per_partition = 176" in note for finding in found for note in finding.notes)
    assert legal(one, plans) == ([1, 2, 4, 11, 22], [1, 2, 4])


def test_a_packed_row_that_a_boundary_would_cut() -> None:
    one, plans = of("W4A8_DYNAMIC", group_size=64, version="1.0.0", output_size=8 * 3)
    assert legal(one, plans)[0] == [1, 3]  # each rank needs a multiple of 8 outputs


def test_the_text_of_a_condition_has_the_number_of_ranks() -> None:
    one, plans = of("W4A8_DYNAMIC", group_size=256, version="1.0.0", layer_type="row", input_size=1024)
    (found,) = errors(one, plans, tp=8)
    assert "on each of 8 ranks" in found.message


@pytest.mark.parametrize("consumer", ["vllm-ascend-0.16", "vllm-ascend-0.23"])
def test_channel_scales_that_a_loader_takes_for_group_scales(consumer: str) -> None:
    """Experts of W4A8 with groups: `w2_weight_scale` [H, 1] is narrowed as if it had a column per rank."""
    one, plans = of("W4A8_DYNAMIC", "moe", consumer=consumer, group_size=256, version="1.0.0")
    found = errors(one, plans, tp=2)
    assert {finding.code for finding in found} == {"partial-load"}
    assert any("0 of 3072 values of `w2_weight_scale`" in finding.message for finding in found)
    assert found[0].helps[-1] == "this layer can be split with `--enable-expert-parallel` with `-tp` 1, 2, 4"


def test_partial_sums_declared_for_the_tensor_parallel_size_alone() -> None:
    one, plans = of("W4A8_DYNAMIC", "moe", group_size=0, version="1.0.0")
    assert errors(one, plans, tp=4) == []
    (found,) = errors(one, plans, tp=2, dp=2)
    assert found.code == "partial-load" and "`w2_scale_bias`" in found.message
    assert errors(one, plans, tp=2, dp=2, expert_parallel=True) == []
    older, plans = of("W4A8_DYNAMIC", "moe", consumer="vllm-ascend-0.16", group_size=0, version="1.0.0")
    assert errors(older, plans, tp=2, dp=2) == []  # it counts the ranks of both


def test_rotations_are_made_for_the_whole_layer() -> None:
    one, plans = of("W4A4_FLATQUANT_DYNAMIC", input_size=1024)
    row = replace(one, prefix="model.layers.0.mlp.down_proj")
    assert legal(one, plans)[0] == EVEN
    (found, *_) = errors(row, plans, tp=2)
    assert found.code in ("tensor-shape", "partial-load") and "_trans" in found.message
    assert legal(row, plans)[0] == [1]


def test_experts_are_dealt_out() -> None:
    one, plans = of("W8A8_DYNAMIC", "moe")
    assert legal(one, plans) == (EVEN, [1, 2, 4])
    assert legal(one, plans, redundant=2) == (EVEN, [1, 2, 3, 6])
    (found,) = errors(one, plans, tp=2, dp=4, expert_parallel=True)
    assert found.message == "4 experts cannot be dealt out evenly to 8 ranks"


def test_heads() -> None:
    one, plans = of("W8A8_DYNAMIC", output_size=1024)
    assert legal(one, plans, heads=16, kv_heads=4)[0] == [1, 2, 4, 8, 16]
    keys = replace(one, prefix="model.layers.0.self_attn.k_proj")
    narrow, _ = of("W8A8_DYNAMIC", output_size=4, prefix=keys.prefix)
    assert legal(narrow, plans, heads=16, kv_heads=4)[0] == [1, 2, 4, 8, 16]  # four heads are repeated on sixteen ranks
    assert [finding.where for finding in errors(one, plans, tp=3, heads=16, kv_heads=4)[:2]] == ["config.json", "config.json"]


def test_kernels_see_the_fused_module() -> None:
    one, plans = of("W8A8_DYNAMIC", output_size=40960)
    half = [replace(one, prefix=f"mlp.{name}", fused="mlp.gate_up_proj") for name in ("gate_proj", "up_proj")]
    assert findings(one, plans, tp=1) == []
    (found,) = Splits(Fit(plans)).findings(half, Topology())
    assert (found.code, found.severity, found.where) == ("limit-broken", "warning", "mlp.gate_up_proj")
    assert "output_size = 81920" in " ".join(found.notes)
    assert list(Splits(Fit(plans)).findings(half, Topology(tp=2))) == []


def test_a_way_out_of_a_kernels_limit() -> None:
    one, plans = of("W4A8_DYNAMIC", group_size=256, version="0")
    (found,) = [finding for finding in findings(one, plans) if "g in [64, 128]" in finding.message]
    assert found.helps == ("without FRACTAL_NZ it holds: `--set weight_nz_mode=0`",)


def test_layers_with_wrong_shapes_are_counted() -> None:
    one, plans = of("W8A8_DYNAMIC")
    wrong = changed(one, "weight", shape=(300, 700))
    assert Splits(Fit(plans)).legal([one, wrong], Topology()) == ((EVEN, None), 1)
    assert Splits(Fit(plans)).legal([wrong], Topology()) == (None, 1)
