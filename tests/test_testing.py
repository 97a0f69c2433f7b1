"""``layoutdsl.testing``: hand-written code that is right is right, and each way to be wrong is seen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import Module, Parameter

import layoutdsl
from layoutdsl.testing import compare

PLAN = layoutdsl.compile_spec("w4a8_dynamic.linear", config={"group_size": 16}, sizes={"input_size": 64, "output_size": 24}, params_dtype="bfloat16")


def loaded() -> Module:
    torch.manual_seed(0)
    module = Module()
    PLAN.create_parameters(module)
    for parameter in module.parameters():
        parameter.data.copy_(torch.rand(parameter.shape) + 0.1 if parameter.is_floating_point() else torch.randint(-8, 8, parameter.shape))
    return module


def right(module: Module) -> None:
    results = PLAN.run({name: parameter.data for name, parameter in module.named_parameters()})
    for name in list(dict(module.named_parameters())):
        delattr(module, name)
    for name, tensor in results.items():
        setattr(module, name, tensor.clone())


def bits(module: Module) -> None:
    module.weight.view(torch.int8)[0, 0] += 1


def order(module: Module) -> None:
    module.weight = module.weight.t().contiguous().t()


def dtype(module: Module) -> None:
    module.weight_scale = module.weight_scale.bfloat16()


def gone(module: Module) -> None:
    del module.weight_offset


def far(module: Module) -> None:
    module.weight_scale_bias *= 1.001


WRONG: dict[str, Callable[[Module], None]] = {
    "weight": bits,
    "weight ": order,
    "weight_scale": dtype,
    "weight_offset": gone,
    "weight_scale_bias": far,
}


def test_right() -> None:
    module = loaded()
    before = {name: (parameter, parameter.clone()) for name, parameter in module.named_parameters()}
    assert compare(PLAN, module, right) == []
    assert all(module.get_parameter(name) is parameter and torch.equal(parameter, clone) for name, (parameter, clone) in before.items())


def test_a_float_sum_may_differ_a_little() -> None:
    def process(module: Module) -> None:
        right(module)
        module.weight_scale_bias *= 1 + 1e-7

    assert compare(PLAN, loaded(), process) == []


@pytest.mark.parametrize(("name", "wrong"), WRONG.items(), ids=WRONG)
def test_wrong(name: str, wrong: Callable[[Module], None]) -> None:
    def process(module: Module) -> None:
        right(module)
        wrong(module)

    assert [(one.code, one.where) for one in compare(PLAN, loaded(), process)] == [("process-differs", name.strip())]


def test_parameters_and_lists_are_alike() -> None:
    def process(module: Module) -> None:
        right(module)
        module.weight = Parameter(module.weight, requires_grad=False)

    assert compare(PLAN, loaded(), process) == []
