"""Every bundled scheme through every reload protocol: what a fresh load gives, in the memory that was there."""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import torch
from reloading import SCHEMES, Layerwise, Load, created, fill, held, move, scheme_layers, some_layers, spoil, where
from torch.nn import Module, Parameter

from layoutdsl.api import Plan, Policy
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.runtime import commit as runtime_commit
from tests.golden.compare import assert_same

Mode = Literal["alias", "fresh"]
MODES: tuple[Mode, ...] = ("alias", "fresh")
POLICIES: tuple[Policy, ...] = ("stage", "stream")
each_scheme = pytest.mark.parametrize("name", SCHEMES)
each_policy = pytest.mark.parametrize("policy", POLICIES)


def assert_loaded(plan: Plan, layer: Module, load: Load, moved: bool = False) -> None:
    """moved: what was a part of another tensor's memory need not be one any more."""
    got, want = held(plan, layer), load.results
    numbers = {name: value for name, value in want.items() if isinstance(value, (bool, int, float))}
    assert {name: got.pop(name) for name in numbers} == numbers
    tensors = {name: value for name, value in want.items() if name not in numbers}
    assert_same(*((alone(got), alone(tensors)) if moved else (got, tensors)))
    parameters = {id(parameter) for parameter in layer.parameters()}
    for value in got.values():
        assert all(id(one) in parameters and not one.requires_grad for one in (value if isinstance(value, list) else [value]))


def alone(values: dict[str, Any]) -> dict[str, Any]:
    return {name: [one.clone() for one in value] if isinstance(value, list) else value.clone() for name, value in values.items()}


# ---- once, and twice -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [*POLICIES, "donate"])
@each_scheme
def test_the_first_time(name: str, policy: Policy) -> None:
    for plan, given, _ in some_layers(name):
        layer = created(plan)
        before = {key: (id(parameter), dict(parameter.__dict__)) for key, parameter in layer.named_parameters()}
        fill(layer, given)
        plan.apply(layer, policy=policy)
        assert_loaded(plan, layer, given)
        for key, parameter in layer.named_parameters():
            if key in before:
                assert id(parameter) == before[key][0]
                assert before[key][1].keys() - {"_layoutdsl_poison"} <= parameter.__dict__.keys()
        assert not given.given.keys() & dict(layer.named_parameters()).keys() - {output.name for output in plan.data.outputs}


@each_policy
@each_scheme
def test_a_second_time_changes_nothing(name: str, policy: Policy) -> None:
    for plan, given, _ in some_layers(name):
        layer = created(plan)
        fill(layer, given)
        plan.apply(layer, policy=policy)
        places, objects = where(plan, layer), {key: id(parameter) for key, parameter in layer.named_parameters()}
        plan.apply(layer, policy=policy)
        assert_loaded(plan, layer, given)
        assert where(plan, layer) == places
        assert {key: id(parameter) for key, parameter in layer.named_parameters()} == objects


# ---- protocols -----------------------------------------------------------------------------------------------------------------------------------------------


@each_policy
@pytest.mark.parametrize("mode", MODES)
@each_scheme
def test_restore_load_apply(name: str, mode: Mode, policy: Policy) -> None:
    for plan, first, second in scheme_layers(name) if (mode, policy) == ("alias", "stage") else some_layers(name):
        layer = created(plan)
        objects = dict(layer.named_parameters())
        fill(layer, first)
        plan.apply(layer)
        places = where(plan, layer)
        for given in (second, first, second):
            plan.restore(layer, mode=mode)
            assert all(layer.get_parameter(key) is parameter for key, parameter in objects.items())
            assert {key: (tuple(p.shape), str(p.dtype)) for key, p in objects.items()} == {
                key: (declared.shape, f"torch.{declared.dtype}") for key, declared in plan.parameters.items()
            }
            fill(layer, given)
            plan.apply(layer, policy=policy)
            assert_loaded(plan, layer, given)
            assert where(plan, layer) == places


@each_policy
@each_scheme
def test_layerwise(name: str, policy: Policy) -> None:
    for plan, first, second in some_layers(name):
        layer = created(plan)
        protocol = Layerwise(layer)
        fill(layer, first)
        plan.apply(layer)
        places, objects = where(plan, layer), {key: id(parameter) for key, parameter in layer.named_parameters()}
        for given in (second, first, second):
            protocol.reload(given, lambda module, plan=plan: plan.apply(module, policy=policy))
            assert_loaded(plan, layer, given)
            assert where(plan, layer) == places
            assert {key: id(parameter) for key, parameter in layer.named_parameters()} == objects


@each_scheme
def test_addresses_stay_and_contents_are_lost(name: str) -> None:
    for plan, first, second in some_layers(name):
        layer = created(plan)
        fill(layer, first)
        plan.apply(layer)
        places = where(plan, layer)
        spoil(layer)
        plan.restore(layer)
        spoil(layer)
        fill(layer, second)
        plan.apply(layer)
        assert_loaded(plan, layer, second)
        assert where(plan, layer) == places


@pytest.mark.parametrize("mode", MODES)
@each_scheme
def test_parameters_are_created_anew(name: str, mode: Mode) -> None:
    """A loader that builds the layer's parameters again, and another that lets the old ones live."""
    for plan, first, second in some_layers(name):
        layer = created(plan)
        fill(layer, first)
        plan.apply(layer)
        places, old = where(plan, layer), list(layer.parameters()) if mode == "alias" else []
        for key in plan.parameters:
            owner = layer.get_submodule(key.rpartition(".")[0])
            owner._parameters.pop(key.rpartition(".")[2], None)
        plan.create_parameters(layer, weight_loader=layer.load)
        fill(layer, second)
        plan.apply(layer)
        assert_loaded(plan, layer, second)
        assert not old or where(plan, layer) == places


@each_scheme
def test_data_is_moved(name: str) -> None:
    for plan, first, second in some_layers(name):
        layer = created(plan)
        protocol = Layerwise(layer)
        move(layer)
        fill(layer, first)
        move(layer)
        plan.apply(layer)
        move(layer)
        plan.apply(layer)
        assert_loaded(plan, layer, first, moved=True)
        for mode in MODES:
            move(layer)
            places = where(plan, layer)
            plan.restore(layer, mode=mode)
            fill(layer, second)
            move(layer)
            plan.apply(layer)
            assert_loaded(plan, layer, second, moved=True)
            for key in places.keys() & plan.parameters.keys():
                assert where(plan, layer)[key] == places[key]
        move(layer)
        places = where(plan, layer)
        protocol.reload(first, plan.apply)
        assert_loaded(plan, layer, first, moved=True)
        assert where(plan, layer) == places


# ---- exceptions half-way -------------------------------------------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


@each_scheme
def test_a_load_stops_half_way(name: str) -> None:
    for plan, first, second in some_layers(name):
        layer = created(plan)
        protocol = Layerwise(layer)
        half = Load(dict(list(second.given.items())[: len(second.given) // 2]), {})
        fill(layer, half)
        if any(declared.required for key, declared in plan.parameters.items() if key not in half.given):
            with pytest.raises(DiagnosticError, match="partial-load"):
                plan.apply(layer)
        fill(layer, first)
        plan.apply(layer)
        places = where(plan, layer)
        plan.restore(layer)
        fill(layer, half)
        plan.restore(layer)
        fill(layer, second)
        plan.apply(layer)
        assert_loaded(plan, layer, second)
        protocol.begin()
        for key, tensor in half.given.items():
            protocol.load(key, tensor)
        protocol.give_up()
        plan.apply(layer)
        assert_loaded(plan, layer, second)
        protocol.reload(first, plan.apply)
        assert_loaded(plan, layer, first)
        assert where(plan, layer) == places


@pytest.mark.parametrize("at", [0, 1, 3])
@each_policy
@each_scheme
def test_apply_stops_half_way(name: str, policy: Policy, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under each protocol: as it was, or named as torn; and loaded again, as ever."""
    for plan, first, second in some_layers(name):
        layer = created(plan)
        protocol = Layerwise(layer)
        fill(layer, first)
        with monkeypatch.context() as broken:
            stopping(broken, at)
            stopped = stops(lambda plan=plan, layer=layer: plan.apply(layer, policy=policy))
        if stopped:
            plan.apply(layer, policy=policy)
        assert_loaded(plan, layer, first)
        places = where(plan, layer)
        for mode in MODES:
            plan.restore(layer, mode=mode)
            fill(layer, second)
            with monkeypatch.context() as broken:
                stopping(broken, at)
                stopped = stops(lambda plan=plan, layer=layer: plan.apply(layer, policy=policy))
            if stopped:
                again(plan, layer, mode, policy, second)
            assert_loaded(plan, layer, second)
            assert where(plan, layer) == places
        with monkeypatch.context() as broken:
            stopping(broken, at)
            if stops(lambda plan=plan, protocol=protocol, first=first: protocol.reload(first, lambda module: plan.apply(module, policy=policy))):
                protocol.give_up()
        protocol.reload(first, lambda module, plan=plan: plan.apply(module, policy=policy))
        assert_loaded(plan, layer, first)
        assert where(plan, layer) == places


def again(plan: Plan, layer: Module, mode: Mode, policy: Policy, load: Load) -> None:
    """From the same inputs, unless these were being written over."""
    try:
        plan.apply(layer, policy=policy)
        return
    except DiagnosticError as error:
        codes = {diagnostic.code for diagnostic in error.diagnostics}
    assert (codes, mode) == ({"torn"}, "alias")
    plan.restore(layer)
    fill(layer, load)
    plan.apply(layer, policy=policy)


def stopping(patch: pytest.MonkeyPatch, at: int) -> None:
    """The commit of a tensor fails: that after ``at`` others."""
    put, left = runtime_commit._put, [at]

    def stop(*args: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        put(*args)

    patch.setattr(runtime_commit, "_put", stop)


def stops(work: Callable[[], None]) -> bool:
    try:
        work()
    except Stop:
        return True
    return False


# ---- memory --------------------------------------------------------------------------------------------------------------------------------------------------


def alive() -> tuple[int, int]:
    """Tensors made since ``gc.freeze``, and bytes of their storages."""
    gc.collect()
    found = [one for one in gc.get_objects() if type(one) in (torch.Tensor, Parameter) and not one.is_meta]
    return len(found), sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in found}.values())


@pytest.fixture
def frozen() -> Iterator[None]:
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("protocol", ["alias", "fresh", "layerwise"])
@each_scheme
@pytest.mark.usefixtures("frozen")
def test_nothing_grows(name: str, protocol: str) -> None:
    plan, first, _second = scheme_layers(name)[-1]
    layer = created(plan)
    layerwise = Layerwise(layer)
    fill(layer, first)
    plan.apply(layer)

    def reload() -> None:
        if protocol == "layerwise":
            layerwise.reload(first, plan.apply)
            return
        plan.restore(layer, mode=protocol)
        fill(layer, first)
        plan.apply(layer)

    reload()
    reload()
    before = alive()
    for _ in range(5):
        reload()
    assert alive() == before


# ---- copies --------------------------------------------------------------------------------------------------------------------------------------------------


def written_and_read(module: Module) -> Module:
    """Not with ``pickle`` itself, which cannot read the 8-bit floats of torch."""
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    twin: Module = torch.load(file, weights_only=False)
    return twin


COPIES: dict[str, Callable[[Module], Module]] = {"deepcopy": copy.deepcopy, "saved": written_and_read}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
@each_scheme
def test_a_copy_is_in_the_same_form(name: str, copied: Callable[[Module], Module]) -> None:
    for plan, first, second in some_layers(name):
        layer = created(plan)
        fill(layer, first)
        plan.apply(layer)
        twin = copied(layer)
        plan.apply(twin)
        assert_loaded(plan, twin, first, moved=True)
        places = where(plan, twin)
        plan.restore(twin)
        twin = copied(twin)
        for key, tensor in second.given.items():
            twin.get_parameter(key).data.copy_(tensor)
        plan.apply(twin)
        assert_loaded(plan, twin, second, moved=True)
        assert not {ptr for ptr, *_ in places.values() if ptr} & {ptr for ptr, *_ in where(plan, layer).values()}
        assert_loaded(plan, layer, first)
