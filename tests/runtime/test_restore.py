"""Back to the checkpoint's form: the same objects, over the same memory where it fits, and all the way back from ``fresh``."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from handwritten import Writer, kind
from reloading import SCHEMES, created, fill, held, scheme_layers, some_layers, where
from torch.nn import Module, Parameter

import layoutdsl
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.plan.bind import bind
from layoutdsl.plan.lifecycle import untouched
from layoutdsl.plan.model import Digit
from layoutdsl.runtime.apply import apply
from layoutdsl.runtime.marks import kernel_form
from layoutdsl.runtime.poison import judge
from layoutdsl.runtime.restore import create_parameters, restore
from tests.golden.compare import bits

Mode = Literal["alias", "fresh"]
MODES: tuple[Mode, ...] = ("alias", "fresh")
each_scheme = pytest.mark.parametrize("name", SCHEMES)


def applied(plan: Any, load: Any) -> Any:
    layer = created(plan)
    fill(layer, load)
    plan.apply(layer)
    return layer


@pytest.mark.parametrize("mode", MODES)
@each_scheme
def test_everything_is_poison(name: str, mode: Mode) -> None:
    for plan, load, _ in some_layers(name):
        layer = applied(plan, load)
        for _ in range(2):
            plan.restore(layer, mode=mode)
            for key, declared in plan.parameters.items():
                parameter = layer.get_parameter(key)
                assert judge(parameter).whole
                assert kernel_form(parameter) is None
                assert declared.loader_attributes.items() <= parameter.__dict__.items()
                assert parameter.weight_loader.__self__ is layer


@each_scheme
def test_alias_takes_memory_only_where_bytes_differ(name: str) -> None:
    for plan, load, _ in some_layers(name):
        layer = applied(plan, load)
        before = {key: (parameter.data_ptr(), parameter.nbytes) for key, parameter in layer.named_parameters()}
        plan.restore(layer)
        for key in plan.parameters:
            parameter = layer.get_parameter(key)
            if key in before and before[key][1] == parameter.nbytes:
                assert parameter.data_ptr() == before[key][0]
        plan.restore(layer, mode="fresh")
        places = {layer.get_parameter(key).data_ptr() for key in plan.parameters}
        assert not {place for place, size in before.values() if size} & places


@each_scheme
def test_loading_into_the_kernels_form_is_refused(name: str) -> None:
    for plan, load, _ in some_layers(name):
        layer = applied(plan, load)
        for key, tensor in load.given.items():
            if key not in dict(layer.named_parameters()):
                continue
            parameter = layer.get_parameter(key)
            if key in untouched(plan.bound):
                parameter.weight_loader(parameter, tensor)
                continue
            with pytest.raises(DiagnosticError, match="loaded-into-kernel-form"):
                parameter.weight_loader(parameter, tensor)


@each_scheme
def test_fresh_is_rolled_back(name: str) -> None:
    for plan, load, other in scheme_layers(name):
        layer = applied(plan, load)
        places, objects = where(plan, layer), dict(layer.named_parameters())
        plan.restore(layer, mode="fresh")
        fill(layer, other)
        plan.roll_back(layer)
        assert where(plan, layer) == places
        assert dict(layer.named_parameters()).keys() == objects.keys()
        plan.apply(layer)
        for key, value in held(plan, layer).items():
            for got, want in zip(*(one if isinstance(one, list) else [one] for one in (value, load.results[key]))):
                assert torch.equal(bits(got), bits(want)) if isinstance(got, torch.Tensor) else got == want
        with pytest.raises(DiagnosticError, match="torn"):
            plan.roll_back(layer)


def test_alias_cannot_be_rolled_back() -> None:
    plan, load, _ = scheme_layers("w8a8.linear")[0]
    layer = applied(plan, load)
    plan.restore(layer)
    with pytest.raises(DiagnosticError, match="torn"):
        plan.roll_back(layer)


@pytest.mark.parametrize("mode", MODES)
def test_a_tensor_that_somebody_took(mode: Mode) -> None:
    plan, load, _ = scheme_layers("w8a8.linear")[0]
    for name in ("weight", "deq_scale"):
        layer = applied(plan, load)
        layer._parameters[name] = None
        before = dict(layer._parameters)
        with pytest.raises(DiagnosticError) as caught:
            plan.restore(layer, mode=mode)
        assert [(one.code, one.where) for one in caught.value.diagnostics] == [("torn", name)]
        assert layer._parameters == before


def test_two_outputs_in_one_memory() -> None:
    """Their inputs need two."""
    w = Writer()
    n = Digit("n", 1, 8)
    one, _ = w.input("one", kind("int8", (n,))), w.input("two", kind("int8", (n,)))
    column = w.move(one, kind("int8", (n,), ()), "must")
    w.output("one", column)
    w.output("two", column)
    plan = bind(w.plan((), (("n", 8),)), {})
    layer = Module()
    create_parameters(plan, layer)
    for turn in range(3):
        for parameter, value in ((layer.one, turn), (layer.two, 9)):
            parameter.data.fill_(value)
        apply(plan, layer)
        assert layer.two.eq(turn).all()
        restore(plan, layer)
        assert layer.one.data_ptr() != layer.two.data_ptr()


def test_nothing_to_restore() -> None:
    plan, load, _ = scheme_layers("w8a8.linear")[0]
    layer = created(plan)
    fill(layer, load)
    plan.restore(layer)
    assert not any(judge(parameter).left for parameter in layer.parameters())
    plan.apply(layer)
    with pytest.raises(DiagnosticError, match="another plan"):
        scheme_layers("w8a16.linear")[0][0].restore(layer)


def test_a_plan_without_sizes_takes_those_it_ran_with() -> None:
    bound, load, other = scheme_layers("w8a8.linear")[0]
    plan = layoutdsl.api.Plan(bound.data)
    layer = created(bound)
    for one in (load, other):
        fill(layer, one)
        plan.apply(layer)
        plan.apply(layer)
        assert torch.equal(layer.weight, one.results["weight"])
        plan.restore(layer)


def test_words_are_checked() -> None:
    plan, _, _ = scheme_layers("w8a8.linear")[0]
    for call in (lambda: plan.restore(Module(), mode="new"), lambda: plan.apply(Module(), policy="fast")):  # type: ignore[arg-type]
        with pytest.raises(DiagnosticError, match="config-value"):
            call()


def test_parameters_are_created() -> None:
    plan, _, _ = scheme_layers("w8a8.linear")[0]
    layer = Module()
    plan.create_parameters(layer)
    for name, declared in plan.parameters.items():
        parameter = layer.get_parameter(name)
        assert type(parameter) is Parameter and not parameter.requires_grad
        assert (tuple(parameter.shape), str(parameter.dtype)) == (declared.shape, f"torch.{declared.dtype}")
        assert judge(parameter).whole and judge(declared.allocate()).whole
        assert not hasattr(parameter, "weight_loader")
