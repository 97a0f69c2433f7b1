"""What unmodified vllm 0.23 loads silently although it leaves parts of parameters as they were, and that it loads everything else whole."""

from __future__ import annotations

import pytest

from tests_vllm_ascend import report
from tests_vllm_ascend.cases import ALL, known
from tests_vllm_ascend.harness import Case
from tests_vllm_ascend.partial import PARTIAL, Partial, left, never_whole
from tests_vllm_ascend.world import World


@pytest.mark.parametrize("partial", PARTIAL, ids=str)
def test_accepted_without_an_error(partial: Partial) -> None:
    assert left(partial.case, partial.world, partial.stored()) == partial.left
    report.PARTIAL.append(partial)


RIGHT = [(case, world) for case, world in ALL if (exception := known(case, world)) is None or exception.stage != "load"]


@pytest.mark.parametrize(("case", "world"), [pytest.param(case, world, id=f"{case}/{world}") for case, world in RIGHT])
def test_a_right_checkpoint_is_loaded_whole(case: Case, world: World) -> None:
    assert left(case, world).keys() == never_whole(case, world)
