"""A plan in place on a module: the right things are there afterwards, however often it is applied, or nothing has changed. Plans written by hand."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from handwritten import Writer, at, experts, f32, kind, linear
from torch.nn import Module, Parameter

from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.plan.bind import bind
from layoutdsl.plan.model import Digit, Plan
from layoutdsl.runtime import commit as runtime_commit
from layoutdsl.runtime.apply import Policy, apply
from layoutdsl.runtime.dtypes import TORCH
from layoutdsl.runtime.execute import run
from layoutdsl.runtime.marks import kernel_form
from layoutdsl.runtime.record import RECORD
from layoutdsl.runtime.restore import restore

N, E = Digit("n", 1, 8), Digit("e", 1, 3)
AXES = (("n", 8), ("e", 3))


def loaded(plan: Plan, module: Module | None = None) -> Module:
    """A module with the plan's parameters, loaded with random numbers and hung with a loader attribute."""
    torch.manual_seed(0)
    module = module or Module()
    for node in plan.inputs:
        *path, leaf = node.name.split(".")
        owner = module
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, Module())
            owner = owner.get_submodule(part)
        drawn = torch.randint(-8, 8, node.type.shape) if node.type.storage.startswith("int") else torch.rand(node.type.shape) + 0.1
        parameter = Parameter(drawn.to(TORCH[node.type.storage]), requires_grad=False)
        parameter.output_dim = 0  # type: ignore[attr-defined]
        owner.register_parameter(leaf, parameter)
    return module


def snapshot(module: Module) -> dict[str, Any]:
    """Everything that a caller could see."""
    seen: dict[str, Any] = {}
    for name, child in module.named_modules():
        plain = {key: value for key, value in child.__dict__.items() if not key.startswith("_") or key == RECORD}
        tensors = {**child._parameters, **child._buffers}
        seen[name] = (list(child._parameters), list(child._buffers), set(child._non_persistent_buffers_set), plain)
        for key, tensor in tensors.items():
            assert tensor is not None
            state = (id(tensor), tensor.data_ptr(), tensor.shape, tensor.dtype, tensor.stride(), tensor.requires_grad, dict(tensor.__dict__))
            seen[f"{name}.{key}"] = (*state, tensor.detach().clone().flatten().tolist())
    return seen


def refused(plan: Plan, module: Module) -> str:
    before = snapshot(module)
    with pytest.raises(DiagnosticError) as caught:
        apply(plan, module)
    assert snapshot(module) == before
    return caught.value.diagnostics[0].code


LINEAR = bind(linear(), {"N": 64, "K": 128})
EXPERTS = bind(experts(lists=True), {"E": 3, "I": 64, "H": 128})


def test_linear() -> None:
    module = loaded(LINEAR)
    given = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    objects = dict(module.named_parameters())
    expected = run(LINEAR, given)
    apply(LINEAR, module)
    found = dict(module.named_parameters())
    assert set(found) == set(expected)
    for name, want in expected.items():
        assert isinstance(want, torch.Tensor)
        assert torch.equal(found[name].view(torch.uint8), want.view(torch.uint8))
        assert found[name].stride() == want.stride()
        assert not found[name].requires_grad
    for name in objects.keys() & found.keys():
        assert found[name] is objects[name]
        assert found[name].output_dim == 0  # type: ignore[attr-defined]
    assert set(module.state_dict()) == set(expected)
    assert copy.deepcopy(module).weight.shape == (128, 8)
    assert set(pickle.loads(pickle.dumps(module)).state_dict()) == set(expected)


def test_experts_with_lists() -> None:
    module = loaded(EXPERTS)
    apply(EXPERTS, module)
    assert type(module.w13_weight_list) is list
    assert [part.shape for part in module.w13_weight_list] == [(128, 16)] * 3
    assert all(part is module.get_parameter(f"w13_weight_list_{i}") for i, part in enumerate(module.w13_weight_list))
    assert module.w13_scale_bias_list[1].data_ptr() == module.w13_scale_bias[1].data_ptr()
    assert not hasattr(module, "w13_weight_scale_second")
    assert {"w13_weight_list_0", "w13_weight_list_2"} <= set(module.state_dict())


def test_lists_follow_a_reloader_that_registers_other_parameters() -> None:
    module = loaded(EXPERTS)
    apply(EXPERTS, module)
    other = Parameter(module.w13_weight_list_1.data + 1, requires_grad=False)
    module.w13_weight_list_1 = other
    with pytest.raises(DiagnosticError, match="torn"):
        apply(EXPERTS, module)
    other.__dict__.update(module.w13_weight_list_0.__dict__)  # a mark of another tensor's
    with pytest.raises(DiagnosticError, match="torn"):
        apply(EXPERTS, module)


def kinds_plan() -> Plan:
    w = Writer()
    scale, spare = w.input("fa_k.scale", kind("bfloat16", (N,))), w.input("spare", kind("bfloat16", (N,)))
    wide = w.compute(kind("float32", (N,)), f32(at(scale)))
    w.output("fa_k.scale", wide, "attribute")
    w.output("fa_k.wide", wide)
    w.output("spare", spare, "buffer")
    w.output("fresh", wide, "buffer")
    w.output("one", wide, "list")
    w.output("number", w.compute(kind("float32", ()), ("const", "float32", 0.5)), "value")
    return bind(w.plan((), AXES), {})


def test_kinds_and_dotted_names() -> None:
    """Every tensor is a Parameter, whatever the kind: generic reloaders look at nothing else."""
    plan = kinds_plan()
    module = loaded(plan)
    spare, scale = module.spare, module.fa_k.scale
    apply(plan, module)
    child = module.fa_k
    assert isinstance(child, Module)
    assert list(child._parameters) == ["scale", "wide"]
    assert child.scale is scale
    assert child.scale.dtype == torch.float32
    assert set(module._parameters) == {"spare", "fresh", "one_0"}
    assert not module._buffers
    assert module.spare is spare
    assert type(module.one) is list
    assert module.one[0] is module.one_0
    assert module.number == 0.5


def test_inputs_may_be_buffers_or_plain_attributes() -> None:
    plan = kinds_plan()
    module = loaded(plan)
    del module.spare
    module.spare = torch.ones(8, dtype=torch.bfloat16)
    scale = module.fa_k.scale.detach()
    del module.fa_k.scale
    module.fa_k.register_buffer("scale", scale)
    apply(plan, module)
    assert not module._buffers and not module.fa_k._buffers
    assert isinstance(module.spare, Parameter) and isinstance(module.fa_k.scale, Parameter)
    before = snapshot(module)
    apply(plan, module)
    assert snapshot(module) == before


def test_gradients_do_not_stand_in_the_way() -> None:
    module = loaded(LINEAR)
    module.weight_scale.requires_grad_(True)
    apply(LINEAR, module)
    assert not module.weight_scale.requires_grad
    assert module.weight_scale.dtype == torch.float32


# ---- once ----------------------------------------------------------------------------------------------------------------------------------------------------


def square_plan() -> Plan:
    """A square int8 matrix looks the same before and after: only the mark tells."""
    w = Writer()
    n, k = Digit("n", 1, 8), Digit("k", 1, 8)
    w.output("weight", w.move(w.input("weight", kind("int8", (n,), (k,))), kind("int8", (k,), (n,)), "never"))
    return bind(w.plan((), (("n", 8), ("k", 8))), {})


@pytest.mark.parametrize("plan", [LINEAR, EXPERTS, kinds_plan(), square_plan()])
def test_a_second_time_changes_nothing(plan: Plan) -> None:
    module = loaded(plan)
    apply(plan, module)
    before = snapshot(module)
    apply(plan, module)
    assert snapshot(module) == before


def test_another_plan_on_the_same_tensors_is_refused() -> None:
    plan = square_plan()
    module = loaded(plan)
    apply(plan, module)
    assert refused(replace(plan, scheme="OTHER"), module) == "torn"
    other = Module()
    other.register_parameter("weight", module.weight)
    before = module.weight.clone()
    apply(plan, other)
    assert torch.equal(other.weight, before)


def test_another_plan_on_tensors_created_anew() -> None:
    plan, other = square_plan(), replace(square_plan(), scheme="OTHER")
    module = loaded(plan)
    apply(plan, module)
    module.weight = Parameter(torch.arange(64, dtype=torch.int8).view(8, 8), requires_grad=False)
    apply(other, module)
    assert torch.equal(module.weight, torch.arange(64, dtype=torch.int8).view(8, 8).T)
    assert refused(plan, module) == "torn"


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "twice": lambda module: copy.deepcopy(pickle.loads(pickle.dumps(copy.deepcopy(module)))),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("plan", [square_plan(), LINEAR, EXPERTS])
def test_a_copy_knows_that_it_was_applied(plan: Plan, copied: Callable[[Module], Module]) -> None:
    """torch drops the attributes of Parameters when it copies deeply."""
    module = loaded(plan)
    apply(plan, module)
    twin = copied(module)
    before = snapshot(twin)
    apply(plan, twin)
    assert snapshot(twin) == before
    loaded(plan, twin)
    apply(plan, twin)
    for name, tensor in module.named_parameters():
        assert torch.equal(tensor, twin.get_parameter(name))


def test_what_a_loader_makes_anew_is_applied_again() -> None:
    module = loaded(LINEAR)
    apply(LINEAR, module)
    first = module.weight.clone()
    loaded(LINEAR, module)
    apply(LINEAR, module)
    assert torch.equal(module.weight, first)


# ---- or nothing ----------------------------------------------------------------------------------------------------------------------------------------------


def test_missing_and_wrong_parameters() -> None:
    module = loaded(LINEAR)
    del module.weight_scale
    assert refused(LINEAR, module) == "tensor-missing"
    module.weight_scale = Parameter(torch.ones(3, 1, dtype=torch.bfloat16))
    assert refused(LINEAR, module) == "tensor-shape"
    assert refused(LINEAR, Module()) == "tensor-missing"


def test_outputs_without_a_place() -> None:
    w = Writer()
    value = w.input("spare", kind("float32", (N,)))
    for name in ("forward", "nowhere.scale", "child"):
        w.outputs = []
        w.output(name, value, "attribute")
        plan = bind(w.plan((), AXES), {})
        module = loaded(plan)
        module.child = Module()
        assert refused(plan, module) == "plan-invalid"


@pytest.mark.parametrize("step", range(12))
def test_a_failure_in_the_middle_leaves_the_module_as_it_was(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = kinds_plan()
    module = loaded(plan)
    before = snapshot(module)
    calls = 0

    def failing(function: Any) -> Any:
        def wrapped(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > step:
                raise RuntimeError("out of memory")
            return function(*args)

        return wrapped

    for name in ("_put", "_put_plain", "_parameter"):
        monkeypatch.setattr(runtime_commit, name, failing(getattr(runtime_commit, name)))
    with pytest.raises(RuntimeError, match="out of memory"):
        apply(plan, module)
    assert snapshot(module) == before
    monkeypatch.undo()
    apply(plan, module)
    assert module.number == 0.5


@pytest.mark.parametrize("policy", ["stage", "stream"])
def test_some_of_an_output_is_loaded_anew(policy: Policy) -> None:
    module = loaded(LINEAR)
    apply(LINEAR, module)
    module.weight = Parameter(torch.ones(64, 128, dtype=torch.int8), requires_grad=False)
    with pytest.raises(DiagnosticError) as caught:
        apply(LINEAR, module, policy=policy)
    found = {one.where: one.notes for one in caught.value.diagnostics}
    assert {one.code for one in caught.value.diagnostics} == {"torn"}
    assert found["weight_scale_bias"][0] == "`weight` was loaded"
    assert "`weight_scale` is in the kernel's form, or was consumed" in found["weight_scale_bias"]
    assert "weight" not in found


def test_what_stays_in_place_may_be_loaded_at_any_time() -> None:
    """And what is made of nothing else is made anew."""
    plan = kinds_plan()
    w = Writer()
    scale = w.input("scale", kind("bfloat16", (N,)))
    w.output("scale", scale)
    w.output("wide", w.compute(kind("float32", (N,)), f32(at(scale))))
    plan = bind(w.plan((), AXES), {})
    module = loaded(plan)
    apply(plan, module)
    wide, place = module.wide, module.wide.data_ptr()
    assert kernel_form(module.scale) is None
    module.scale.data.fill_(3)
    apply(plan, module)
    assert module.wide is wide and module.wide.data_ptr() == place
    assert torch.equal(module.wide, torch.full((8,), 3.0))


@pytest.mark.parametrize("policy", ["stage", "stream"])
@pytest.mark.parametrize("order", [("weight", "seen"), ("seen", "weight")])
def test_a_view_of_what_is_written_over(order: tuple[str, str], policy: Policy) -> None:
    """After ``restore`` the input lies where the output of its name will be, and another output is a view of it."""
    w = Writer()
    n, k = Digit("n", 1, 8), Digit("k", 1, 8)
    weight = w.input("weight", kind("int8", (n,), (k,)))
    made = {"weight": w.move(weight, kind("int8", (k,), (n,)), "never"), "seen": w.move(weight, kind("int8", (n, k)), "must")}
    for name in order:
        w.output(name, made[name])
    plan = bind(w.plan((), (("n", 8), ("k", 8))), {})
    module = loaded(plan)
    given = module.weight.clone()
    apply(plan, module)
    places = [module.get_parameter(name).data_ptr() for name in order]
    for turn in range(3):
        restore(plan, module)
        module.weight.data.copy_(given + turn)
        apply(plan, module, policy=policy)
        assert torch.equal(module.weight, (given + turn).t())
        assert torch.equal(module.seen, (given + turn).flatten())
        assert [module.get_parameter(name).data_ptr() for name in order] == places


def test_donate_is_for_the_first_load() -> None:
    module = loaded(LINEAR)
    apply(LINEAR, module, policy="donate")
    restore(LINEAR, module)
    with pytest.raises(DiagnosticError, match="policy-invalid"):
        apply(LINEAR, module, policy="donate")
