"""Sizes that a kernel does not take: the layer can be loaded, and its calls are refused with the kernel's condition."""

from __future__ import annotations

import pytest
import torch

import layoutdsl
from layoutdsl.diagnostics import DiagnosticError


def plan(inputs: int) -> layoutdsl.Plan:
    return layoutdsl.compile_spec("W4A4_FLATQUANT_DYNAMIC", layer="linear", sizes={"input_size": inputs, "output_size": 16})


def test_a_layer_beyond_the_limits_is_loaded_and_not_called() -> None:
    """96 is 8 * 12, and the kernel wants eight columns in a word."""
    found = plan(96)
    assert [(d.code, d.severity) for d in found.warnings] == [("limit-broken", "warning")]
    drawn = {name: torch.ones(p.shape).to(getattr(torch, p.dtype)) for name, p in found.parameters.items()}
    assert found.run(drawn)["left_trans"].shape == (8, 8)
    with pytest.raises(DiagnosticError, match=r"npu_kronecker_quant.*r % 8 == 0") as caught:
        _ = found.forward_source
    assert [(d.code, d.severity) for d in caught.value.diagnostics] == [("limit-broken", "error")]


def test_within_the_limits_it_is_called() -> None:
    """The result of the kernel has a type only where its rows hold whole words: the lines behind it are proved there."""
    assert {finding.severity for finding in layoutdsl.validate("W4A4_FLATQUANT_DYNAMIC", "linear")} <= {"note"}
    found = plan(128)
    assert found.warnings == [] and "npu_kronecker_quant" in found.forward_source
