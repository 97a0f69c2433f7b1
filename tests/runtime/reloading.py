"""Layers of every bundled scheme that are loaded more than once, and what a serving framework does to them meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch.nn import Module, Parameter

import layoutdsl
from layoutdsl.runtime.places import place_of
from tests.golden.cases import TABLE, cases, small_cases
from tests.golden.compare import flat, strides
from tests.golden.reference import Case
from tests.golden.test_other_sizes_w4a8 import LINEAR_KINDS, MOE_KINDS, linear, moe
from tests.golden.values import plan_of, values

Tensors = dict[str, torch.Tensor]
SCHEMES = sorted([*TABLE, "w4a8_dynamic.linear", "w4a8_dynamic.moe"])


@cache
def layers(name: str) -> tuple[Case, ...]:
    """Every config of a scheme at small sizes, and squares, whose shapes are the same in both forms."""
    if name == "w4a8_dynamic.linear":
        return tuple(linear(K, N, 16, **config) for config in LINEAR_KINDS.values() for K, N in ((32, 24), (32, 32)))
    if name == "w4a8_dynamic.moe":
        return tuple(moe(2, 32, 16, **{"g": 16, **config}) for config in MOE_KINDS.values())
    squares = [case for case in cases(name) if square(case)][:4]
    return (*small_cases(name), *squares)


def square(case: Case) -> bool:
    sizes = case.sizes
    wide = (sizes.get("hidden_size"), 2 * sizes.get("intermediate_size_per_partition", 0))
    return max(sizes.values()) <= 128 and (sizes.get("input_size") == sizes.get("output_size", -1) or wide[0] == wide[1])


class Layer(Module):
    """A layer whose parameters are loaded by a method of its own, as in vLLM."""

    def load(self, param: Parameter, loaded_weight: torch.Tensor) -> None:
        param.data.copy_(loaded_weight)


def created(plan: layoutdsl.Plan) -> Layer:
    layer = Layer()
    plan.create_parameters(layer, weight_loader=layer.load)
    return layer


def fill(layer: Module, load: Load) -> None:
    for name, tensor in load.given.items():
        parameter = layer.get_parameter(name)
        parameter.weight_loader(parameter, tensor)


def contents(case: Case, seed: int) -> Tensors:
    """Random values. In floats of 8 bits none is the NaN 0xff, which is what nobody loaded."""
    given = values(case, seed=seed)
    for tensor in given.values():
        if tensor.element_size() == 1:
            raw = tensor.view(torch.uint8)
            raw[raw == 0xFF] = 0x70
    return given


def held(plan: layoutdsl.Plan, layer: Module) -> dict[str, Any]:
    """What the layer has now, as ``run`` gives it."""
    places = {output.name: place_of(layer, output.name) for output in plan.data.outputs}
    return {name: place.held for name, place in places.items() if place is not None}


def where(plan: layoutdsl.Plan, layer: Module) -> dict[str, Any]:
    """The memory of every output."""
    tensors = flat({name: value for name, value in held(plan, layer).items() if isinstance(value, (list, torch.Tensor))})
    return {name: (tensor.data_ptr(), strides(tensor), tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Load:
    """What is loaded, and what a fresh load of it gives."""

    given: Tensors
    results: dict[str, Any]


@cache
def scheme_layers(name: str) -> list[tuple[layoutdsl.Plan, Load, Load]]:
    """The plan of every layer, with two loads of it."""
    found = []
    for case in layers(name):
        plan = plan_of(case)
        loads = [Load(given, plan.run(given)) for given in (contents(case, 1), contents(case, 2))]
        found.append((plan, loads[0], loads[1]))
    return found


def some_layers(name: str) -> list[tuple[layoutdsl.Plan, Load, Load]]:
    """Four of them, the last for sure."""
    found = scheme_layers(name)
    return found[:: -max(len(found) // 4, 1)][:4]


def move(layer: Module) -> None:
    """Every parameter to other memory, as offloading does it."""
    for parameter in layer.parameters():
        parameter.data = parameter.data.clone()


def spoil(layer: Module) -> None:
    """The contents of all memory are lost."""
    for parameter in layer.parameters():
        parameter.untyped_storage().fill_(0xA5)


# ---- the layerwise protocol ----------------------------------------------------------------------------------------------------------------------------------

_NOBODY = object()


class Layerwise:
    """One layer under a reload that goes layer by layer, as vLLM 0.23 does it (model_loader/reload), seen from the layer.

    Before the first load: copies of all Parameters on the meta device, with their classes and attributes; loaders bound to the layer are unbound. A reload puts
    the Parameters of the layer aside, gives it the copies, and gathers what loaders are called with. Once all is there: memory for the copies, the gathered
    calls, processing, a copy of every result into the Parameter of its name that was put aside, and those back into the layer.
    """

    def __init__(self, layer: Module) -> None:
        self.layer = layer
        self.declared = {key: _unbound(_with_attributes(tensor.data.to("meta"), tensor), layer) for key, tensor in _parameters(layer).items()}
        self.aside: dict[tuple[Module, str], Any] = {}
        self.calls: list[tuple[tuple[Module, str], torch.Tensor]] = []

    def reload(self, load: Load, process: Callable[[Module], None]) -> None:
        self.begin()
        for name, tensor in load.given.items():
            self.load(name, tensor)
        self.finish(process)

    def begin(self) -> None:
        self.aside, self.calls = _parameters(self.layer), []
        _replace(self.layer, {key: _bound(tensor, self.layer) for key, tensor in self.declared.items()})

    def load(self, name: str, tensor: torch.Tensor) -> None:
        owner, _, leaf = name.rpartition(".")
        key = (self.layer.get_submodule(owner), leaf)
        meta = _parameters(self.layer)[key]
        meta.weight_loader(meta, tensor)  # counts the elements, without memory
        self.calls.append((key, tensor))

    def finish(self, process: Callable[[Module], None]) -> None:
        for key, meta in _parameters(self.layer).items():
            memory = torch.empty_strided(meta.size(), meta.stride(), dtype=meta.dtype)
            _put(key, _with_attributes(memory, meta))
        for key, tensor in self.calls:
            parameter = _parameters(self.layer)[key]
            parameter.weight_loader(param=parameter, loaded_weight=tensor)
        process(self.layer)
        made = _parameters(self.layer)
        for key, old in self.aside.items():
            old.data.copy_(made[key])
        self.give_up()

    def give_up(self) -> None:
        _replace(self.layer, self.aside)
        self.aside, self.calls = {}, []


def _parameters(layer: Module) -> dict[tuple[Module, str], Any]:
    return {(child, name): tensor for child in layer.modules() for name, tensor in child._parameters.items()}


def _replace(layer: Module, tensors: dict[tuple[Module, str], Any]) -> None:
    for child, name in _parameters(layer):
        delattr(child, name)
    for key, tensor in tensors.items():
        _put(key, tensor)


def _put(key: tuple[Module, str], tensor: Any) -> None:
    child, name = key
    child.register_parameter(name, tensor)


def _with_attributes(data: torch.Tensor, like: torch.Tensor) -> Any:
    data.__class__ = like.__class__  # type: ignore[assignment]
    data.__dict__ = like.__dict__.copy()
    return data


def _unbound(tensor: Any, layer: Module) -> Any:
    return _rebound(tensor, layer, _NOBODY)


def _bound(tensor: Any, layer: Module) -> Any:
    return _rebound(tensor, _NOBODY, layer)


def _rebound(tensor: Any, before: object, after: object) -> Any:
    for name, value in tensor.__dict__.items():
        if isinstance(value, MethodType) and value.__self__ is before:
            tensor.__dict__[name] = value.__func__.__get__(after)
    return tensor
