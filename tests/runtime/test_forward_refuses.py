"""What a caller of ``plan.forward`` gets wrong, on a bundled scheme and with the reference kernels: a diagnostic that names it, never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import layoutdsl
from layoutdsl.diagnostics import DiagnosticError

CONFIG = {"consumer": "vllm-ascend-0.23", "version": "1.0.0", "group_size": None}
SIZES = {"num_experts": 3, "intermediate_size_per_partition": 64, "hidden_size": 128}
X, IDS, WEIGHTS = torch.ones(5, 128, dtype=torch.bfloat16), torch.zeros(5, 2, dtype=torch.int64), torch.ones(5, 2)
ROUTED = {"topk_ids": IDS, "topk_weights": WEIGHTS}
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "x is no tensor": ({"x": [1.0], **ROUTED}, "forward-inputs", "`x` is of type list"),
    "x is one row": ({"x": X[0], **ROUTED}, "forward-inputs", "`x` has 1 dims"),
    "no routing": ({}, "forward-inputs", "neither"),
    "half a routing": ({"topk_ids": IDS}, "forward-inputs", "given are: topk_ids"),
    "both ways": ({**ROUTED, "group_list": torch.tensor([1, 2, 2])}, "forward-inputs", "given are: topk_ids, topk_weights, group_list"),
    "ids in floats": ({**ROUTED, "topk_ids": IDS.float()}, "forward-inputs", "`topk_ids` counts in float32"),
    "a list of numbers": ({"group_list": [1, 2, 2]}, "forward-inputs", "`group_list` is of type list"),
    "groups in floats": ({"group_list": torch.tensor([1.0, 2.0, 2.0])}, "forward-inputs", "`group_list` counts in float32"),
    "groups of another layer": ({"group_list": torch.tensor([1, 4])}, "forward-inputs", "3 experts"),
    "more rows than there are": ({"group_list": torch.tensor([1, 2, 9])}, "kernel-arguments", "`group_list`"),
    "a bias that nobody reads": ({**ROUTED, "bias": torch.zeros(128)}, "forward-inputs", "reads no `bias`"),
    "a name that is none": ({**ROUTED, "biass": torch.zeros(128)}, "forward-inputs", "`biass` is not an input"),
}


@pytest.fixture(scope="module")
def plan() -> layoutdsl.Plan:
    return layoutdsl.compile_spec("W4A8_DYNAMIC", layer="moe", config=CONFIG, sizes=SIZES)


def loaded(plan: layoutdsl.Plan) -> torch.nn.Module:
    module = torch.nn.Module()
    for name, parameter in plan.parameters.items():
        made = torch.ones(parameter.shape).to(getattr(torch, parameter.dtype))
        module.register_parameter(name, torch.nn.Parameter(made, requires_grad=False))
    return module


@pytest.fixture(scope="module")
def call(plan: layoutdsl.Plan) -> Callable[..., Any]:
    module = loaded(plan)
    plan.apply(module)
    return lambda x=X, **inputs: plan.forward(module, x, **inputs)


def test_the_right_calls(call: Callable[..., Any]) -> None:
    assert call(**ROUTED).shape == call(group_list=torch.tensor([1, 2, 2])).shape == X.shape


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_call(what: str, call: Callable[..., Any]) -> None:
    inputs, code, words = WRONG[what]
    with pytest.raises(DiagnosticError) as caught:
        call(**inputs)
    (finding,) = caught.value.diagnostics
    assert finding.code == code
    assert words in finding.message


def test_a_layer_as_it_was_loaded(plan: layoutdsl.Plan) -> None:
    """The shapes of the checkpoint are not those of the kernel: the layer is blamed, not the call."""
    with pytest.raises(DiagnosticError, match=r"`w13_weight` is int8.*the plan leaves int32") as caught:
        plan.forward(loaded(plan), X, **ROUTED)
    assert caught.value.diagnostics[0].code == "tensor-shape"


@pytest.mark.parametrize("restored", [False, True])
def test_a_layer_that_was_not_applied_since(restored: bool) -> None:
    """The square weight of W8A8_DYNAMIC has the same shape and dtype in both forms."""
    square = layoutdsl.compile_spec("W8A8_DYNAMIC", layer="linear", sizes={"input_size": 64, "output_size": 64}, params_dtype="bfloat16")
    module, x = torch.nn.Module(), torch.ones(2, 64, dtype=torch.bfloat16)

    def load() -> None:
        for parameter in module.parameters():
            parameter.data.copy_(torch.ones_like(parameter))

    square.create_parameters(module)
    load()
    if restored:
        square.apply(module)
        square.forward(module, x)
        square.restore(module)
        load()
    with pytest.raises(DiagnosticError, match="torn"):
        square.forward(module, x)
    square.apply(module)
    assert square.forward(module, x).shape == (2, 64)
