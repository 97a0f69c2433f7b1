"""Kinds of layer that are computed alike are compiled alike, whatever they are called; a size that a requirement gives is still a size of the layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import layoutdsl
from layoutdsl.bundled import find_bundled
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.plan.sizes import LAYER_KINDS

ALIKE = [(first, other) for first in LAYER_KINDS for other in LAYER_KINDS if first != other and LAYER_KINDS[first] is LAYER_KINDS[other]]
SPECS = {"linear": "w8a8_mxfp8.linear", "moe": "w4a8_mxfp.moe"}
"""A bundled spec of a kind."""
WO_A = {"prefix": "model.layers.0.wo_a", "o_groups": 4, "o_lora_rank": 128}


@pytest.mark.parametrize(("kind", "other"), [pair for pair in ALIKE if pair[0] in SPECS])
def test_another_name_for_a_kind(kind: str, other: str, tmp_path: Path) -> None:
    """Loader attributes, forward, what ranks may cut: all but the name."""
    text = find_bundled(SPECS[kind]).read_text(encoding="utf-8")
    renamed = tmp_path / f"renamed.{other}.yaml"
    renamed.write_text(text.replace(f"layer: {kind}\n", f"layer: {other}\n"), encoding="utf-8")
    assert layoutdsl.validate(renamed) == []
    config = {"tp_size": 4, "layer_type": "row"}
    ours, theirs = (json.loads(layoutdsl.compile_spec(spec, config=config).to_json()) for spec in (find_bundled(SPECS[kind]), renamed))
    assert {name for name in ours if ours[name] != theirs[name]} == {"hash", "layer", "spec_hash"}


def test_every_kind_is_tried() -> None:
    assert {kind for pair in ALIKE for kind in pair} == {kind for kind, known in LAYER_KINDS.items() if known.columns}


def wo_a(**config: object) -> layoutdsl.Plan:
    return layoutdsl.compile_spec("fp8", layer="ds_linear", config={**WO_A, **config})


def test_a_size_that_a_requirement_gives() -> None:
    """The loader splits it, a wrong value is refused, and nobody has to give it."""
    plan = wo_a()
    assert plan.size_names == ("input_size", "output_size")
    scale = plan.bind({"input_size": 256, "output_size": 512}).parameters["weight_scale"]
    assert (scale.output_dim, scale.packed_dim, scale.packed_factor, scale.input_dim) == (0, 0, 128, 1)
    with pytest.raises(DiagnosticError) as caught:
        plan.bind({"input_size": 256, "output_size": 384})
    assert [finding.code for finding in caught.value.diagnostics] == ["requirement-failed"]


def test_a_block_on_two_ranks_is_refused() -> None:
    sizes = {"input_size": 256, "output_size": 192}
    wo_a(o_lora_rank=48).bind(sizes)
    with pytest.raises(DiagnosticError) as caught:
        wo_a(o_lora_rank=96, tp_size=2).bind(sizes)
    assert "`weight_scale` has 128 values of `n` in one unit" in caught.value.diagnostics[0].message
