"""vllm-ascend's own unit tests of its quantization package, unmodified, with the plugin in mode ``override``: no new failure, and our code ran.

``upstream`` runs them, each time in a process of its own; ``plugged_in`` is what is put into that process.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from layoutdsl.bundled import bundled
from tests_vllm_ascend import upstream

MOCKED, REAL = upstream.PARTS
RAN = {
    (MOCKED, "A2"): {"W8A8_DYNAMIC.moe": 0},
    (MOCKED, "A5"): {"W4A4_MXFP4.linear": 1, "W8A8_MXFP8.linear": 6, "W8A8_MXFP8.moe": 3},
    (REAL, "A2"): {"W4A16.moe": 1, "W8A8_DYNAMIC.moe": 1},
}
"""How often at least, by the tests and the chip: layers that are real modules with the shapes of real layers. To the others, mostly mocks, no plan fits."""
WRONG = {
    "weights not contiguous": ("transpose(k, n) | contiguous when later", "transpose(k, n)", 2),
    "scales not contiguous": ("transpose(k//64, n) | contiguous when later", "transpose(k//64, n)", 2),
}
"""By what is wrong with W8A8_MXFP8.linear: the text, the text instead, and how many tests must notice. The compiler might notice too, by what the kernels of
the forward want, so the forward is left out."""


@dataclass(frozen=True)
class Run:
    outcomes: dict[str, upstream.Outcome]
    counts: dict[str, int]

    @property
    def failed(self) -> set[str]:
        return {name for name, outcome in self.outcomes.items() if outcome == "failed"}


@cache
def run(part: str, chip: str, mode: str, spec: str = "") -> Run:
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder, "counts.json")
        environment = {"LAYOUTDSL_MODE": mode, "LAYOUTDSL_SPECS": spec, "LAYOUTDSL_TEST_CHIP": chip, "LAYOUTDSL_TEST_COUNTS": os.fspath(counts)}
        outcomes = upstream.run(part, ["tests_vllm_ascend.plugged_in"], environment)
        return Run(outcomes, json.loads(counts.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("part", "chip"), RAN)
def test_no_new_failure_and_our_code_ran(part: str, chip: str) -> None:
    without, with_plugin = run(part, chip, "off"), run(part, chip, "override")
    assert without.counts == {}
    assert with_plugin.outcomes == without.outcomes
    wanted = RAN[part, chip]
    assert {name: min(with_plugin.counts.get(name, 0), count) for name, count in wanted.items()} == wanted


def test_named_spec_breaks_nothing() -> None:
    assert not broken(run(MOCKED, "A5", "override", "W8A8_MXFP8.linear"))


@pytest.mark.parametrize(("right", "wrong", "failures"), WRONG.values(), ids=WRONG)
def test_wrong_plan_makes_tests_fail(tmp_path: Path, right: str, wrong: str, failures: int) -> None:
    text = bundled()["w8a8_mxfp8.linear"].read_text(encoding="utf-8")
    assert text.count(right) == 1
    path = tmp_path / "w8a8_mxfp8.linear.yaml"
    path.write_text(text.replace(right, wrong).partition("forward:")[0] + "forward: external\n", encoding="utf-8")
    found = run(MOCKED, "A5", "override", str(path))
    assert len(broken(found)) >= failures
    assert found.counts["W8A8_MXFP8.linear"] >= 1


def broken(found: Run) -> set[str]:
    return found.failed - run(MOCKED, "A5", "off").failed
