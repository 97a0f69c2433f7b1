"""Each mode on the stand-in's schemes: what changes, what does not, what is refused, what is only said."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from layoutdsl.diagnostics import DiagnosticError
from tests.integrations.conftest import METHODS, World, load, values

KEY = ("W8A8_DYNAMIC", "linear")
WRONG = Path("specs/w8a8_dynamic.linear.yaml").read_text(encoding="utf-8").replace("transpose(k, n) | contiguous", "transpose(k, n) | contiguous | clone")


def attributes(world: World) -> dict[Any, Any]:
    """Every attribute of every class of the stand-in that the plugin could touch."""
    classes = [
        cls for name in (METHODS + ".schemes", METHODS + ".base", "vllm_ascend.quantization.method_adapters") for cls in vars(world.module(name)).values()
    ]
    return {(cls, name): value for cls in classes if isinstance(cls, type) for name, value in vars(cls).items() if not name.startswith("_abc")}


def tensors(layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    own = {name: value for name, value in vars(layer).items() if isinstance(value, torch.Tensor)}
    return {**dict(layer.named_parameters()), **dict(layer.named_buffers()), **own}


def same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert tensor.stride() == theirs[name].stride(), name
        assert torch.equal(tensor, theirs[name]), name


def expected(world: World, *leave_out: str) -> torch.nn.Module:
    """A layer that the stand-in's own code has prepared; call it before the plugin starts."""
    layer, adapter = world.linear(world.scheme(*KEY))
    load(layer, *leave_out)
    adapter.process_weights_after_loading(layer)
    return layer


# ---- off -----------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [None, {}, {"mode": "off"}])
def test_off_touches_no_scheme(world: World, settings: Any) -> None:
    world.module(METHODS)
    world.module("vllm_ascend.quantization.method_adapters")
    before = attributes(world)
    config = world.start(settings)
    assert attributes(world) == before
    assert config.additional_config == ({} if settings is None else {"layoutdsl": settings})


@pytest.mark.parametrize("mode", ["guard", "shadow", "override", "add"])
def test_another_config_takes_everything_back(world: World, mode: str) -> None:
    world.module(METHODS)
    world.module("vllm_ascend.quantization.method_adapters")
    before = attributes(world)
    registered = dict(world.module(METHODS + ".registry")._SCHEME_REGISTRY)
    world.start({"mode": mode})
    assert attributes(world) != before
    world.module("vllm_ascend.ascend_config").AscendConfig(world.config({"mode": "off"}))
    assert attributes(world) == before
    assert registered == world.module(METHODS + ".registry")._SCHEME_REGISTRY


# ---- settings ------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["guard", "shadow"])
def test_watching_modes_go_on_without_a_spec_that_does_not_load(world: World, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    world.start({"mode": mode, "specs": ["NO_SUCH.linear"]})
    assert "layoutdsl is off: no bundled spec is called `NO_SUCH.linear`" in caplog.text


@pytest.mark.parametrize("mode", ["override", "add", "guard,add"])
def test_working_modes_stop_without_a_spec_that_does_not_load(world: World, mode: str) -> None:
    with pytest.raises(DiagnosticError, match="NO_SUCH"):
        world.start({"mode": mode, "specs": ["NO_SUCH.linear"]})


def test_bad_mode_stops_the_start_and_no_import(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.monkeypatch.setenv("LAYOUTDSL_MODE", "grd")
    world.register()
    world.module(METHODS)
    assert "`grd` is no mode" in caplog.text
    with pytest.raises(DiagnosticError, match="`grd` is no mode"):
        world.module("vllm_ascend.ascend_config").AscendConfig(world.config())


def test_fault_of_ours_is_a_line_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.monkeypatch.setattr(world.module("layoutdsl.integrations.vllm_ascend.target"), "schemes", None)
    world.start({"mode": "override"})
    assert "layoutdsl is off: TypeError" in caplog.text


def test_environment_reaches_other_ranks_through_the_config(world: World) -> None:
    world.monkeypatch.setenv("LAYOUTDSL_MODE", "override")
    driver = world.start()
    world.monkeypatch.delenv("LAYOUTDSL_MODE")
    assert driver.additional_config["layoutdsl"]["mode"] == "override"
    assert list(driver.additional_config["layoutdsl"]["digests"]) == ["bundled"]
    world.module("vllm_ascend.ascend_config").AscendConfig(world.config(driver.additional_config["layoutdsl"]))
    assert world.module(METHODS).get_scheme_class(*KEY).restore_weights_for_rl_loading


@pytest.mark.parametrize("mode", ["guard", "shadow"])
def test_watching_modes_leave_the_cache_key(world: World, mode: str) -> None:
    assert world.start({"mode": mode}).additional_config == {"layoutdsl": {"mode": mode}}


def test_digest_follows_the_spec(world: World, tmp_path: Path) -> None:
    path = tmp_path / "w8a8_dynamic.linear.yaml"
    digests = []
    for text in (WRONG, WRONG, WRONG + "# another\n"):
        path.write_text(text, encoding="utf-8")
        digests.append(world.start({"mode": "override", "specs": [str(path)]}).additional_config["layoutdsl"]["digests"]["W8A8_DYNAMIC.linear"])
        world.module("layoutdsl.integrations.vllm_ascend.plugin").PLUGIN.plans = None
    assert digests[0] == digests[1] != digests[2]


def test_rank_with_another_spec_stops(world: World) -> None:
    with pytest.raises(DiagnosticError, match=r"`W8A8_DYNAMIC\.linear` is not the one that the first process read"):
        world.start({"mode": "override", "specs": ["W8A8_DYNAMIC.linear"], "digests": {"W8A8_DYNAMIC.linear": "123456789012"}})


def test_one_line_per_process(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        config = world.start({"mode": "override", "specs": ["W8A8_DYNAMIC.linear"]})
        world.module("vllm_ascend.ascend_config").AscendConfig(config)
    (line,) = [record.getMessage() for record in caplog.records if "rank 0" in record.getMessage()]
    digest = config.additional_config["layoutdsl"]["digests"]["W8A8_DYNAMIC.linear"]
    for part in ("vllm-ascend 0.23.0.post1 as vllm-ascend-0.23", "mode override", f"W8A8_DYNAMIC.linear@{digest}", "W8A8_DYNAMIC.moe"):
        assert part in line


@pytest.mark.parametrize("version", ["0.17.9", "", "nightly"])
@pytest.mark.parametrize("mode", ["override", "shadow", "guard,override"])
def test_unknown_version_is_never_overridden(world: World, version: str, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    world.module("vllm_ascend").__version__ = version
    with caplog.at_level("INFO"):
        world.start({"mode": mode})
    left_out = mode.rpartition(",")[2]
    assert f"{left_out} is left out: no spec was checked against this version" in caplog.text
    layer, adapter = world.linear(world.scheme(*KEY))
    load(layer)
    adapter.process_weights_after_loading(layer)
    assert type(adapter.quant_method).calls == 1
    assert not hasattr(adapter.quant_method, "restore_weights_for_rl_loading")


def test_unknown_version_may_guard(world: World) -> None:
    world.module("vllm_ascend").__version__ = "0.17.9"
    world.start({"mode": "guard,override"})
    layer, adapter = world.linear(world.scheme(*KEY))
    load(layer, "weight")
    with pytest.raises(DiagnosticError, match="0 of 2048 values"):
        adapter.process_weights_after_loading(layer)


# ---- guard ---------------------------------------------------------------------------------------------------------------------------------------------------


def test_guard_lets_a_loaded_layer_through(world: World) -> None:
    wanted = expected(world)
    world.start({"mode": "guard"})
    layer, adapter = world.linear(world.scheme(*KEY))
    load(layer)
    adapter.process_weights_after_loading(layer)
    same(layer, wanted)


@pytest.mark.parametrize("order", ["the schemes first", "the plugin first"])
def test_guard_refuses_a_partial_load(world: World, order: str) -> None:
    if order == "the schemes first":
        world.scheme(*KEY)
    world.start({"mode": "guard"})
    layer, adapter = world.linear(world.scheme(*KEY))
    load(layer, "weight", "weight_scale")
    layer.weight.data[:24] = values(layer.weight)[:24]
    with pytest.raises(DiagnosticError) as caught:
        adapter.process_weights_after_loading(layer)
    found = {one.where: one for one in caught.value.diagnostics}
    assert found.keys() == {"model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.down_proj.weight_scale"}
    assert "1536 of 2048 values were loaded" in found["model.layers.0.mlp.down_proj.weight"].message
    assert "its weight loader was never called" in " ".join(found["model.layers.0.mlp.down_proj.weight_scale"].notes)
    assert type(adapter.quant_method).calls == 0


def test_guard_leaves_what_the_checkpoint_may_lack(world: World) -> None:
    world.start({"mode": "guard"})
    layer, adapter = world.linear(world.scheme(*KEY))
    load(layer, "weight_offset")
    adapter.process_weights_after_loading(layer)
    assert torch.equal(layer.weight_offset, torch.zeros(32, dtype=torch.bfloat16))


def test_guard_fills_only_what_was_left_uninitialised(world: World) -> None:
    world.start({"mode": "guard"})
    layer, _ = world.linear(world.scheme("HOMEMADE"))
    assert torch.equal(layer.table, torch.zeros(16, dtype=torch.bfloat16))
    assert (layer.weight == -128).all()


def test_guard_of_a_scheme_without_a_spec(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.start({"mode": "guard"})
    layer, adapter = world.linear(world.scheme("HOMEMADE"))
    layer.weight.data[:3] = 1
    with pytest.raises(DiagnosticError, match="192 of 2048"):
        adapter.process_weights_after_loading(layer)
    layer, adapter = world.linear(world.scheme("HOMEMADE"))
    adapter.process_weights_after_loading(layer)
    assert "nothing was loaded into `weight` of a layer that no spec describes" in caplog.text


def test_guard_names_experts(world: World) -> None:
    world.start({"mode": "guard"})
    layer, adapter = world.experts(world.scheme("W8A8_DYNAMIC", "moe"))
    load(layer, "w13_weight_offset", "w2_weight_offset", "w2_weight")
    layer.w2_weight.data[0] = 3
    with pytest.raises(DiagnosticError, match=r"512 of 1024 values were loaded; missing are expert 1"):
        adapter.process_weights_after_loading(layer)


def test_guard_is_skipped_for_dummies(world: World) -> None:
    world.start({"mode": "guard"}, load_config=type("LoadConfig", (), {"load_format": "dummy"}))
    layer, adapter = world.linear(world.scheme(*KEY))
    adapter.process_weights_after_loading(layer)
    assert type(adapter.quant_method).calls == 1


def test_guard_judges_once(world: World) -> None:
    world.start({"mode": "guard"})
    layer, adapter = world.linear(world.scheme(*KEY))
    load(layer)
    adapter.process_weights_after_loading(layer)
    layer.weight.data.fill_(-128)
    layer.weight_scale.data = layer.weight_scale.data[:, None]
    adapter.process_weights_after_loading(layer)
    assert type(adapter.quant_method).calls == 2


# ---- override ------------------------------------------------------------------------------------------------------------------------------------------------


def counts(world: World) -> dict[Any, int]:
    found: dict[Any, int] = world.module("layoutdsl.integrations.vllm_ascend.override").COUNTS
    return found


@pytest.mark.parametrize("direct", [False, True], ids=["from the registry", "constructed directly"])
def test_override_runs_the_plan_on_the_class_that_is_there(world: World, direct: bool) -> None:
    wanted = expected(world)
    cls = world.module(METHODS).get_scheme_class(*KEY)
    cls.calls = 0
    before = dict(vars(cls))
    world.start({"mode": "override"})
    assert world.module(METHODS).get_scheme_class(*KEY) is cls
    changed = {name for name, value in vars(cls).items() if before.get(name) is not value}
    assert changed == {"process_weights_after_loading", "restore_weights_for_rl_loading"}
    assert cls.process_weights_after_loading.__name__ == "process_weights_after_loading"
    layer, adapter = world.linear(cls() if direct else world.scheme(*KEY))
    load(layer)
    adapter.process_weights_after_loading(layer)
    same(layer, wanted)
    assert cls.calls == 0
    assert counts(world) == {KEY: 1}


def test_override_of_a_class_that_calls_another(world: World) -> None:
    """W8A16 of the stand-in calls W8A8_DYNAMIC for its layer. Its tensors are those of the real W8A16, so the plan of W8A16 runs, once."""
    world.start({"mode": "override"})
    layer, adapter = world.linear(world.scheme("W8A16"))
    load(layer)
    adapter.process_weights_after_loading(layer)
    assert counts(world) == {("W8A16", "linear"): 1}
    assert not hasattr(layer, "weight_scale_fp32")


def test_override_leaves_the_inner_call_to_the_outer_scheme(world: World) -> None:
    world.start({"mode": "override", "specs": ["W8A8_DYNAMIC.linear"]})
    layer, adapter = world.linear(world.scheme("W8A16"))
    load(layer)
    adapter.process_weights_after_loading(layer)
    assert counts(world) == {}
    assert type(adapter.quant_method.inner).calls == 1


def test_override_of_a_subclass_that_nobody_registered(world: World) -> None:
    world.start({"mode": "override"})
    cls = world.module(METHODS + ".schemes").UnregisteredLinear
    layer, adapter = world.linear(cls())
    load(layer)
    adapter.process_weights_after_loading(layer)
    assert cls.calls == 1
    assert counts(world) == {}


def test_override_leaves_layers_that_no_plan_fits(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.start({"mode": "override"})
    with caplog.at_level("INFO"):
        for _ in range(2):
            layer, adapter = world.linear(world.scheme(*KEY), dtype=torch.float32)
            load(layer)
            adapter.process_weights_after_loading(layer)
    assert type(adapter.quant_method).calls == 2
    assert caplog.text.count("stays with vllm-ascend's own code: `weight_scale` is float32") == 1


def test_override_with_a_named_spec_that_fits_no_layer(world: World) -> None:
    world.start({"mode": "override", "specs": ["W8A8_DYNAMIC.linear"]})
    layer, adapter = world.linear(world.scheme(*KEY), dtype=torch.float32)
    load(layer)
    with pytest.raises(DiagnosticError) as caught:
        adapter.process_weights_after_loading(layer)
    assert caught.value.diagnostics[0].code == "plugin-misfit"


def test_override_with_float16(world: World) -> None:
    world.start({"mode": "override"})
    layer, adapter = world.linear(world.scheme(*KEY), dtype=torch.float16)
    load(layer)
    adapter.process_weights_after_loading(layer)
    assert counts(world) == {KEY: 1}


def test_override_restores_and_reloads(world: World) -> None:
    world.start({"mode": "override"})
    layer, adapter = world.linear(world.scheme(*KEY))
    load(layer)
    adapter.process_weights_after_loading(layer)
    address = layer.weight.data_ptr()
    for seed in (1, 2):
        adapter.quant_method.restore_weights_for_rl_loading(layer)
        load(layer, seed=seed)
        adapter.process_weights_after_loading(layer)
        fresh, other = world.linear(world.scheme(*KEY))
        load(fresh, seed=seed)
        other.process_weights_after_loading(fresh)
        same(layer, fresh)
        assert layer.weight.data_ptr() == address


def test_override_leaves_the_copy_of_a_prepared_layer(world: World) -> None:
    world.start({"mode": "override"})
    layer, adapter = world.linear(world.scheme(*KEY))
    load(layer)
    adapter.process_weights_after_loading(layer)
    copied = copy.deepcopy(layer)
    adapter.process_weights_after_loading(copied)
    same(copied, layer)
    assert type(adapter.quant_method).calls == 0


def test_override_runs_the_named_spec(world: World, tmp_path: Path) -> None:
    path = tmp_path / "mine.linear.yaml"
    path.write_text(Path("specs/w8a8_dynamic.linear.yaml").read_text(encoding="utf-8").replace("weight_scale_fp32", "weight_scale_mine"), encoding="utf-8")
    world.start({"mode": "override", "specs": [str(path)]})
    layer, adapter = world.linear(world.scheme(*KEY))
    load(layer)
    adapter.process_weights_after_loading(layer)
    assert hasattr(layer, "weight_scale_mine")


# ---- shadow --------------------------------------------------------------------------------------------------------------------------------------------------


def test_shadow_keeps_the_original(world: World, caplog: pytest.LogCaptureFixture) -> None:
    wanted = expected(world)
    world.start({"mode": "shadow"})
    layer, adapter = world.linear(world.scheme(*KEY))
    load(layer)
    adapter.process_weights_after_loading(layer)
    same(layer, wanted)
    shadow = world.module("layoutdsl.integrations.vllm_ascend.shadow")
    assert shadow.COMPARED == {KEY: 1}
    assert shadow.FINDINGS == {}


def test_shadow_says_what_differs_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    cls = world.module(METHODS).get_scheme_class(*KEY)
    original = cls.process_weights_after_loading

    def wrong(self: Any, layer: Any) -> None:
        original(self, layer)
        layer.weight.data[3, 4] += 1

    world.monkeypatch.setattr(cls, "process_weights_after_loading", wrong)
    world.start({"mode": "shadow"})
    for _ in range(3):
        layer, adapter = world.linear(world.scheme(*KEY))
        load(layer)
        adapter.process_weights_after_loading(layer)
    assert caplog.text.count("W8A8_DYNAMIC.linear differs from its spec") == 1
    assert layer.weight[3, 4] == values(torch.empty(32, 64, dtype=torch.int8))[4, 3] + 1
