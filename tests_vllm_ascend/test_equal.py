"""Every key on every rank: a layer processed by the hand-written code and one processed by our plan are the same, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest

from layoutdsl.diagnostics import DiagnosticError
from tests_vllm_ascend import report
from tests_vllm_ascend.cases import ALL, known
from tests_vllm_ascend.compare import differences, held
from tests_vllm_ascend.harness import Case, Engine, engine
from tests_vllm_ascend.world import World


@pytest.mark.parametrize(("case", "world"), [pytest.param(case, world, id=f"{case}/{world}") for case, world in ALL])
def test_as_the_hand_written_code(case: Case, world: World) -> None:
    """Both are made and loaded by vllm; blank, since loaders leave some parameters unloaded (``test_partial_loads``)."""
    exception = known(case, world)
    with engine(case, world) as rank:
        if exception is not None and exception.stage == "load":
            with pytest.raises(AssertionError):
                rank.loaded()
        elif exception is not None and exception.stage == "apply":
            with pytest.raises(DiagnosticError):
                _both(rank)
        else:
            found = _both(rank)
            assert bool(found) == (exception is not None), found
    report.compared(case, world, exception)


def _both(rank: Engine) -> list[str]:
    theirs, ours = rank.loaded(blank=True), rank.loaded(blank=True)
    rank.casts.clear()
    rank.process(theirs)
    plan = rank.plan(ours)
    plan.apply(ours)
    casts = [{**cast, "arguments": _plain(cast["arguments"])} for cast in rank.casts]
    wanted = [{**cast, "format": int(cast["format"]), "arguments": _plain(cast["arguments"])} for cast in ({**cast} for cast in plan.format_casts)]
    for cast in wanted:
        cast.pop("name")
    return differences(held(ours), held(theirs)) + ([f"casts to FRACTAL_NZ: {wanted}, not {casts}"] if wanted != casts else [])


def _plain(arguments: dict[str, Any]) -> dict[str, str]:
    return {name: str(value).removeprefix("torch.") for name, value in arguments.items()}
