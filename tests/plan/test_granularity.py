"""What tensor parallelism may cut: the granularity that a plan states, and the conditions that a plan for several ranks has."""

from __future__ import annotations

import pytest

import layoutdsl
from layoutdsl.diagnostics import DiagnosticError

LINEAR = {"consumer": "vllm-ascend-0.16", "version": "1.0.0"}


def linear(**config: object) -> layoutdsl.Plan:
    return layoutdsl.compile_spec("W4A8_DYNAMIC", layer="linear", config={**LINEAR, **config})


@pytest.mark.parametrize("group_size", [32, 64, 256])
def test_units_of_storage_and_groups(group_size: int) -> None:
    plan = linear(group_size=group_size).bind({"input_size": 512, "output_size": 96})
    assert plan.granularity == {"input_size": group_size, "output_size": 2}


def test_one_group_is_not_cut() -> None:
    """A scale that exists once is on every rank."""
    plan = linear(group_size=256).bind({"input_size": 192, "output_size": 96})
    assert plan.granularity == {"input_size": 1, "output_size": 2}


@pytest.mark.parametrize(("layer_type", "tp_size", "sizes", "refused"), [
    ("row", 4, {"input_size": 176, "output_size": 96}, True),  # 5.5 groups of 32 on a rank
    ("row", 4, {"input_size": 192, "output_size": 96}, False),
    ("row", 1, {"input_size": 176, "output_size": 96}, False),  # a partial last group harms nobody who holds it whole
    ("column", 4, {"input_size": 176, "output_size": 96}, False),
])  # fmt: skip
def test_a_group_on_two_ranks_is_refused(layer_type: str, tp_size: int, sizes: dict[str, int], refused: bool) -> None:
    plan = linear(group_size=32, layer_type=layer_type, tp_size=tp_size)
    if not refused:
        plan.bind(sizes)
        return
    with pytest.raises(DiagnosticError) as caught:
        plan.bind(sizes)
    (finding,) = caught.value.diagnostics
    assert finding.code == "requirement-failed"
    assert "K % 32 == 0 on each of 4 ranks" in finding.message
