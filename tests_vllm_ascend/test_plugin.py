"""The plugin on the real classes: every key of the registries in every mode, switched by ``additional_config`` as a user does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import Module

from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.integrations.vllm_ascend import override, register, shadow
from tests_vllm_ascend.cases import ALL, CT, known
from tests_vllm_ascend.compare import differences, held
from tests_vllm_ascend.harness import Case, Engine, Tensors, checkpoint, engine
from tests_vllm_ascend.partial import PARTIAL, Partial
from tests_vllm_ascend.world import World

register()

FIRST = dict(reversed(ALL))
"""Every case with its first rank: of one, in the dtype that the chip takes."""
LAYERS = [pytest.param(case, world, id=f"{case}-{world}") for case, world in FIRST.items()]
RANKS = [pytest.param(case, world, id=f"{case}-{world}") for case, world in ALL]
UNLOADED = {"w13_input_offset"}
"""Of W8A8_MIX: vLLM slices one number into two halves and loads neither, and no forward reads them."""


@contextmanager
def plugged(case: Case, world: World, mode: str, **settings: Any) -> Iterator[Engine]:
    with engine(case, replace(world, additional={**world.additional, "layoutdsl": {"mode": mode, **settings}})) as rank:
        yield rank


def blank(rank: Engine) -> Module:
    """A new layer whose memory holds zeros, so that what nobody loads is no accident."""
    layer = rank.layer()
    for parameter in layer.parameters():
        parameter.data.zero_()
    return layer


def by_hand(case: Case, world: World) -> Module:
    with engine(case, world) as rank:
        layer = blank(rank)
        rank.load(layer, stored(case, world))
        rank.process(layer)
    return layer


def stored(case: Case, world: World) -> Tensors:
    """The same for every rank, but where every rank has files of its own."""
    return checkpoint(case, world if case.sharded else World(device=world.device, dtype=world.dtype))


def described(case: Case, world: World) -> bool:
    """Is there a spec for these layers of 0.23, one that fits what the checkpoint stores?"""
    return getattr(known(case, world), "stage", "") != "apply"


def skip(case: Case, world: World, *stages: str) -> None:
    found = known(case, world)
    if found is not None and found.stage in ("load", *stages):
        pytest.skip(found.reason)


def loaded(layer: Module) -> dict[str, Any]:
    return {name: value for name, value in held(layer).items() if name not in UNLOADED}


# ---- override ------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "world"), RANKS)
def test_override(case: Case, world: World) -> None:
    skip(case, world, "compare")
    wanted, values = by_hand(case, world), stored(case, world)
    with plugged(case, world, "override") as rank:
        before = override.COUNTS[case.scheme, case.layer]
        layer = blank(rank)
        rank.load(layer, values)
        rank.process(layer)
    assert override.COUNTS[case.scheme, case.layer] - before == described(case, world)
    assert not differences(held(layer), held(wanted))


@pytest.mark.parametrize(("case", "world"), LAYERS)
def test_override_reloads_into_the_same_memory(case: Case, world: World) -> None:
    skip(case, world)
    if not described(case, world):
        pytest.skip("no spec describes it")
    values = stored(case, world)
    with plugged(case, world, "override") as rank:
        layer = rank.layer()
        rank.load(layer, values)
        rank.process(layer)
        first, addresses = loaded(layer), {name: parameter.data_ptr() for name, parameter in layer.named_parameters()}
        first = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in first.items()}
        for _ in range(3):
            layer.quant_method.quant_method.restore_weights_for_rl_loading(layer)
            rank.load(layer, values)
            rank.process(layer)
    assert {name: parameter.data_ptr() for name, parameter in layer.named_parameters()} == addresses
    assert not differences(loaded(layer), first)


# ---- shadow --------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "world"), LAYERS)
def test_shadow(case: Case, world: World, caplog: pytest.LogCaptureFixture) -> None:
    skip(case, world)
    key, wanted, values = (case.scheme, case.layer), by_hand(case, world), stored(case, world)
    with plugged(case, world, "shadow") as rank:
        before = shadow.COMPARED.get(key, 0)
        layer = blank(rank)
        rank.load(layer, values)
        rank.process(layer)
    assert shadow.COMPARED.get(key, 0) - before == described(case, world)
    assert not [finding for (found, *_), finding in shadow.FINDINGS.items() if found == key]
    assert not differences(held(layer), held(wanted))


# ---- guard ---------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "world"), LAYERS)
def test_guard_lets_whole_checkpoints_through(case: Case, world: World) -> None:
    skip(case, world)
    wanted, values = by_hand(case, world), stored(case, world)
    with plugged(case, world, "guard") as rank:
        layer = rank.layer()
        rank.load(layer, values)
        rank.process(layer)
    assert not differences(loaded(layer), loaded(wanted))


@pytest.mark.parametrize(("case", "world"), LAYERS)
def test_guard_refuses_what_is_missing(case: Case, world: World) -> None:
    """Every parameter in turn: refused if the spec requires it, let through if it does not."""
    skip(case, world)
    if case.scheme == "C8":
        pytest.skip("no spec says what its checkpoints may lack, or they may lack all of it")
    values = stored(case, world)
    with plugged(case, world, "guard") as rank:
        plan = rank.plan(rank.layer())
        for name, parameter in plan.parameters.items():
            layer = rank.layer()
            rank.load(layer, {stored: tensor for stored, tensor in values.items() if not belongs(case, stored, name)})
            try:
                rank.process(layer)
                refused = ""
            except DiagnosticError as error:
                refused = error.diagnostics[0].message
            assert bool(refused) == parameter.required, (name, refused)
            assert not refused or f"`{name}`: 0 of " in refused


def belongs(case: Case, stored: str, name: str) -> bool:
    """Is a tensor of the checkpoint a part of this parameter?"""
    if case.kind != "experts":
        return stored.endswith(f".{name}")
    which, _, leaf = name.partition("_")
    return stored.endswith(f".{leaf}") and ("down_proj" in stored) == (which == "w2")


@pytest.mark.parametrize("partial", PARTIAL, ids=str)
def test_guard_refuses_every_partial_load_that_vllm_accepts(partial: Partial) -> None:
    """Each tensor by its name with how much of it was loaded, unless no forward reads it."""
    stored = partial.stored()
    with plugged(partial.case, partial.world, "guard") as rank:
        required = {name for name, parameter in rank.plan(rank.layer()).parameters.items() if parameter.required}
        layer = rank.layer()
        rank.load(layer, stored)
        try:
            rank.process(layer)
            found = set()
        except DiagnosticError as error:
            found = {one.message.partition(" were loaded")[0] for one in error.diagnostics}
    wanted = {f"`{name}`: {total - left} of {total} values" for name, (left, total) in partial.left.items() if name in required or left < total}
    assert found == wanted - {"`w13_input_offset`: 0 of 4 values"}


PACKED = Case("W4A8_DYNAMIC", "linear", "row", "w4a8_dynamic.linear", (512, 1024), {"group_size": 64, "version": "1.0.0"})


def test_guard_names_the_layer() -> None:
    with plugged(PACKED, World(), "guard") as rank:
        layer = rank.layer()
        with pytest.raises(DiagnosticError) as caught:
            rank.process(layer)
    assert {one.where for one in caught.value.diagnostics} >= {"model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.down_proj.scale_bias"}


def test_guard_is_off_for_dummies() -> None:
    with plugged(PACKED, World(), "guard") as rank:
        rank.vllm_config.load_config.load_format = "dummy"
        rank.process(rank.layer())


# ---- add -----------------------------------------------------------------------------------------------------------------------------------------------------


def w4a16(kind: Any, symmetric: bool, group_size: int = 64) -> Case:
    weights = {"num_bits": 4, "strategy": "group", "group_size": group_size, "type": "int", "symmetric": symmetric, "dynamic": False}
    return Case("W4A16", "linear", kind, "w4a16.linear", (512, 1024), {"weights": weights, "input_activations": None, "format": "pack-quantized"}, CT)


def nibbles(packed: torch.Tensor, dim: int) -> torch.Tensor:
    """Eight codes of an int32, the first lowest, along a dim; stored as value + 8."""
    lanes = [(packed.movedim(dim, -1) >> (4 * lane)) & 0xF for lane in range(8)]
    return (torch.stack(lanes, -1).flatten(-2) - 8).movedim(-1, dim)


def decoded(values: Tensors, group_size: int) -> torch.Tensor:
    """The float weights of a checkpoint's module, parts one after another."""
    found = []
    for part in dict.fromkeys(name.rpartition(".")[0] for name in values):
        weight = nibbles(values[f"{part}.weight_packed"], 1).double()
        zero = values.get(f"{part}.weight_zero_point")
        points = torch.zeros(()) if zero is None else nibbles(zero, 0).double().repeat_interleave(group_size, 1)
        found.append((weight - points) * values[f"{part}.weight_scale"].double().repeat_interleave(group_size, 1))
    return torch.cat(found)


def test_w4a16_is_missing_without_the_plugin() -> None:
    with engine(w4a16("column", True), World()) as rank, pytest.raises(NotImplementedError):
        rank.layer()


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("kind", ["column", "row", "merged", "qkv", "replicated"])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_dense_w4a16_loads_and_multiplies(kind: Any, tp: int, symmetric: bool) -> None:
    case = w4a16(kind, symmetric)
    settings = {"layoutdsl": {"mode": "add"}}
    values = checkpoint(case, World(additional=settings))
    weight = decoded(values, 64)
    x = torch.randn(5, 512, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    results = []
    for number in range(tp):
        with plugged(case, World(tp=tp, rank=number), "add") as rank:
            layer = rank.layer()
            rank.load(layer, values)
            rank.process(layer)
            columns = x.chunk(tp, 1)[number] if kind == "row" else x
            results.append(layer.quant_method.apply(layer, columns, None).double())
    exact = x.double() @ weight.T
    result = sum(results) if kind == "row" else results[0] if kind == "replicated" else ordered(results, kind, tp)
    assert (result - exact).abs().max() < 0.02 * exact.abs().max()


def ordered(results: list[torch.Tensor], kind: str, tp: int) -> torch.Tensor:
    """Every rank has its slice of every part; here the parts are whole again."""
    sizes = {"merged": [512, 512], "qkv": [512, 256, 256]}.get(kind, [1024])
    pieces = [result.split([size // tp for size in sizes], 1) for result in results]
    return torch.cat([piece for part in zip(*pieces, strict=True) for piece in part], 1)


@pytest.mark.parametrize("group_size", [32, 128])
def test_added_scheme_asks_the_layer_for_its_group_size(group_size: int) -> None:
    case = w4a16("row", True, group_size)
    with plugged(case, World(), "add") as rank:
        assert rank.layer().weight_scale.shape == (1024, 512 // group_size)


def test_added_scheme_is_guarded() -> None:
    case = w4a16("merged", False)
    values = checkpoint(case, World(additional={"layoutdsl": {"mode": "add"}}))
    with plugged(case, World(), "add") as rank:
        layer = rank.layer()
        rank.load(layer, {name: tensor for name, tensor in values.items() if not name.endswith("up_proj.weight_zero_point")})
        with pytest.raises(DiagnosticError, match=r"`weight_zero_point`: 512 of 1024 values"):
            rank.process(layer)


def test_added_scheme_refuses_groups_that_ranks_would_cut() -> None:
    case = w4a16("row", True, 128)
    with plugged(case, World(tp=8), "add") as rank, pytest.raises(DiagnosticError, match=r"K % g == 0"):
        rank.layer()


def test_added_scheme_reloads(caplog: pytest.LogCaptureFixture) -> None:
    case = w4a16("qkv", False)
    values = checkpoint(case, World(additional={"layoutdsl": {"mode": "add"}}))
    with plugged(case, World(), "add") as rank:
        layer = rank.layer()
        rank.load(layer, values)
        rank.process(layer)
        before = {name: (parameter.data_ptr(), parameter.clone()) for name, parameter in layer.named_parameters()}
        layer.quant_method.quant_method.restore_weights_for_rl_loading(layer)
        rank.load(layer, values)
        rank.process(layer)
    for name, parameter in layer.named_parameters():
        assert parameter.data_ptr() == before[name][0]
        assert torch.equal(parameter, before[name][1])


# ---- the whole -----------------------------------------------------------------------------------------------------------------------------------------------


def test_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("vllm.plugins.layoutdsl")
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level("INFO", logger.name), plugged(PACKED, World(), "guard,add") as rank:
            rank.layer()
    finally:
        logger.removeHandler(caplog.handler)
    (line,) = {record.getMessage() for record in caplog.records if "; mode " in record.getMessage()}
    assert line.startswith("layoutdsl: rank 0; vllm-ascend 0.23.0.post1 as vllm-ascend-0.23; mode guard,add; specs bundled@")
    assert line.endswith("; added W4A16.linear")


def test_digests_change_the_compile_cache_key() -> None:
    with plugged(PACKED, World(), "override") as rank:
        assert set(rank.vllm_config.additional_config["layoutdsl"]["digests"]) == {"bundled"}
