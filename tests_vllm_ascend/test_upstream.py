"""The unit tests of vllm-ascend's quantization package pass here as far as they can without an NPU: the ground for running them with the plugin."""

from __future__ import annotations

import pytest

from tests_vllm_ascend import report, upstream

FORWARDS = {
    f"tests.ut.quantization.methods.a2.{module}.{name}.test_apply_with_npu"
    for module, name in (
        ("test_w4a4_flatquant", "TestW4A4FlatQuantDynamicWithNpu"),
        ("test_w4a4_laos_dynamic", "TestAscendW4A4LaosDynamicLinearMethodWithNpu"),
        ("test_w4a8", "TestAscendW4A8DynamicLinearMethodWithNpu"),
        ("test_w8a16", "TestAscendW8A16LinearMethodWithNpu"),
        ("test_w8a8_dynamic", "TestAscendW8A8DynamicLinearMethodWithNpu"),
        ("test_w8a8_static", "TestAscendW8A8LinearMethodWithNpu"),
    )
}
"""They compute a forward on an NPU."""
WANTED = {"mocked torch_npu": (186, 5, set()), "real torch_npu, stand-ins for the device": (74, 0, FORWARDS)}
"""Passed, skipped by upstream, and failed."""


@pytest.mark.parametrize("part", upstream.PARTS)
def test_baseline(part: str) -> None:
    outcomes = upstream.run(part)
    passed, skipped = (sum(outcome == which for outcome in outcomes.values()) for which in ("passed", "skipped"))
    failed = {name for name, outcome in outcomes.items() if outcome == "failed"}
    report.UPSTREAM[part] = (passed, skipped, sorted(failed))
    assert (passed, skipped, failed) == WANTED[part]
