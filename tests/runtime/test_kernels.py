"""Which callable a plan's kernel name becomes: the reference off the device, an operator of a known library on it, never anything else."""

from __future__ import annotations

import sys

import pytest
import torch

from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.runtime import kernels, npu
from layoutdsl.runtime.kernels import find_kernel


def refusal(name: str, device: str) -> str:
    with pytest.raises(DiagnosticError) as caught:
        find_kernel(name, device)
    return caught.value.diagnostics[0].code


@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
def test_references(device: str) -> None:
    assert find_kernel("npu::npu_swiglu", device) is torch.ops.layoutdsl_ref.npu__npu_swiglu
    assert refusal("npu::npu_nothing", device) == refusal("aten::neg", device) == "kernel-missing"


def test_operators_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu, "torch_npu", lambda: None)
    for name in ("npu::npu_nothing", "aten::from_file", "npu::name", "npu::npu_swiglu.default"):
        assert refusal(name, "npu") == "kernel-missing"
    monkeypatch.setattr(kernels, "NAMESPACES", ("aten",))
    assert find_kernel("aten::neg", "npu") is torch.ops.aten.neg


def test_without_torch_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    assert refusal("npu::npu_swiglu", "npu") == "torch-npu-missing"
