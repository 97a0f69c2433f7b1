"""Our declarations against what the adapter creates: names, shapes, dtypes, what the weight loaders look at, and what the loaders make of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import Module, Parameter

from tests.golden.compare import bits
from tests_vllm_ascend.cases import ALL, known
from tests_vllm_ascend.harness import Case, Engine, checkpoint, engine
from tests_vllm_ascend.partial import PARTIAL, Partial, left, never_whole
from tests_vllm_ascend.world import World

EVERYWHERE = [pytest.param(case, world, id=f"{case}/{world}") for case, world in ALL if case.scheme != "C8"]
"""C8 is declared by upstream with one element, which its loader replaces by whatever the checkpoint has."""
LOADER_ATTRIBUTES = ("output_dim", "input_dim", "packed_dim", "packed_factor", "quant_method", "is_transposed")


@pytest.mark.parametrize(("case", "world"), EVERYWHERE)
def test_declared_as_upstream_does(case: Case, world: World) -> None:
    with engine(case, world) as rank:
        layer = rank.layer()
        ours = {name: (parameter.shape, parameter.dtype) for name, parameter in rank.plan(layer).parameters.items()}
    theirs = {name: (tuple(parameter.shape), str(parameter.dtype).removeprefix("torch.")) for name, parameter in layer.named_parameters()}
    assert ours == theirs


@pytest.mark.parametrize(("case", "world"), EVERYWHERE)
def test_loaders_see_what_upstream_shows_them(case: Case, world: World) -> None:
    with engine(case, world) as rank:
        layer = rank.layer()
        plan = rank.plan(layer)
    for name, parameter in layer.named_parameters():
        theirs = {attribute: value for attribute in LOADER_ATTRIBUTES if (value := getattr(parameter, attribute, None)) is not None}
        assert plan.parameters[name].loader_attributes | _other(case, name) == theirs | _other(case, name), name


def _other(case: Case, name: str) -> dict[str, Any]:
    """Attributes in which ours is meant to differ."""
    if case.sharded:
        return {"output_dim": None, "input_dim": None}  # one dim, on which no rank can be cut; upstream says two
    if case.kind == "experts":
        return {"quant_method": None}  # ours says it of weights too, where no loader looks, and calls a channel scale of a grouped scheme by its name
    return {}


@pytest.mark.parametrize(("case", "world"), EVERYWHERE)
def test_loaded_as_upstream_loads(case: Case, world: World) -> None:
    """vllm's loaders fill our parameters with the bits that they fill upstream's with."""
    exception = known(case, world)
    if exception is not None and exception.stage == "load":
        pytest.skip(exception.reason)
    with engine(case, world) as rank:
        theirs, ours = rank.loaded(blank=True), rank.layer()
        _declare(rank, ours)
        rank.load(ours, checkpoint(case, world))
    created = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        if name not in never_whole(case, world):
            assert torch.equal(bits(created[name].data), bits(parameter.data)), name


@pytest.mark.parametrize("partial", [partial for partial in PARTIAL if partial.title == "a channel scale cut like a group scale"], ids=str)
def test_ours_are_whole_where_a_channel_scale_is_cut(partial: Partial) -> None:
    assert left(partial.case, partial.world, declare=_declare) == {}


def _declare(rank: Engine, layer: Module) -> None:
    """Our parameters in place of upstream's, with upstream's loader."""
    for name, declared in rank.plan(layer).parameters.items():
        path, _, leaf = name.rpartition(".")
        owner = layer.get_submodule(path)
        loader = getattr(owner._parameters[leaf], "weight_loader", None)
        created = Parameter(torch.zeros(declared.shape, dtype=getattr(torch, declared.dtype)), requires_grad=False)
        for attribute, value in declared.loader_attributes.items():
            setattr(created, attribute, value)
        if loader is not None:
            created.weight_loader = loader
        owner._parameters[leaf] = created
