"""Mode ``add`` on the stand-in: what is registered, what its layers hold, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from layoutdsl.diagnostics import DiagnosticError
from tests.integrations.conftest import METHODS, World, load

LINEAR = Path("specs/w4a16.linear.yaml").read_text(encoding="utf-8")
EXPERTS = Path("specs/w8a8_dynamic.moe.yaml").read_text(encoding="utf-8").replace("scheme: W8A8_DYNAMIC", "scheme: MY_EXPERTS")


class QuantConfig:
    """What compressed-tensors says of a layer's weights, as vllm-ascend's config tells it."""

    def __init__(self, group_size: int, symmetric: bool) -> None:
        self.weights = type("QuantizationArgs", (), {"group_size": group_size, "symmetric": symmetric, "strategy": "group"})

    def get_scheme_dict(self, layer: Any, name: str) -> dict[str, Any]:
        return {"weights": self.weights}


def registry(world: World) -> dict[tuple[str, str], type]:
    found: dict[tuple[str, str], type] = world.module(METHODS + ".registry")._SCHEME_REGISTRY
    return found


def w4a16(world: World, **more: Any) -> Any:
    return world.linear(world.scheme("W4A16"), quant_config=QuantConfig(32, more.pop("symmetric", True)), **more)


def test_bundled_specs_that_the_consumer_lacks_are_added(world: World) -> None:
    before = {("W8A8_DYNAMIC", "linear"), ("W8A16", "linear"), ("W8A8_DYNAMIC", "moe"), ("HOMEMADE", "linear")}
    world.start({"mode": "add"})
    assert registry(world).keys() == before | {("W4A16", "linear")}
    cls = registry(world)["W4A16", "linear"]
    assert issubclass(cls, world.module(METHODS + ".base").AscendLinearScheme)
    assert cls.__name__ == "LayoutdslW4a16LinearMethod"


def test_parameters_are_those_of_the_spec(world: World) -> None:
    world.start({"mode": "add"})
    layer, _ = w4a16(world, symmetric=False)
    found = {name: (tuple(one.shape), one.dtype, vars(one).get("input_dim"), vars(one).get("output_dim")) for name, one in layer.named_parameters()}
    assert found == {
        "weight_packed": ((32, 8), torch.int32, 1, 0),
        "weight_scale": ((32, 2), torch.bfloat16, 1, 0),
        "weight_zero_point": ((4, 2), torch.int32, 1, 0),
        "weight_shape": ((2,), torch.int64, None, None),
    }
    assert (layer.weight_zero_point.packed_dim, layer.weight_zero_point.packed_factor) == (0, 8)
    assert layer.weight_scale.isnan().all()


def test_other_schemes_are_created_as_before(world: World) -> None:
    world.start({"mode": "add"})
    layer, _ = world.linear(world.scheme("W8A8_DYNAMIC"))
    assert not hasattr(layer.weight, "_layoutdsl_poison")
    assert layer.weight_scale.output_dim == 0


def test_added_layer_multiplies_and_compiles_as_one_graph(world: World) -> None:
    world.start({"mode": "add"})
    layer, adapter = w4a16(world)
    load(layer)
    codes = torch.stack([(layer.weight_packed >> (4 * lane)) & 0xF for lane in range(8)], -1).flatten(1) - 8
    weight = codes.double() * layer.weight_scale.double().repeat_interleave(32, 1)
    adapter.process_weights_after_loading(layer)
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    bias = torch.ones(32, dtype=torch.bfloat16)
    result = adapter.apply(layer, x, bias)
    exact = x.double() @ weight.T + 1
    assert (result.double() - exact).abs().max() < 0.02 * exact.abs().max()
    compiled = torch.compile(lambda x: adapter.apply(layer, x, bias), fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), result)


def test_added_layer_refuses_a_partial_load(world: World) -> None:
    world.start({"mode": "add"})
    layer, adapter = w4a16(world)
    load(layer, "weight_scale")
    with pytest.raises(DiagnosticError, match="0 of 64 values"):
        adapter.process_weights_after_loading(layer)


def test_added_layer_refuses_parts_that_cut_words(world: World) -> None:
    world.start({"mode": "add"})
    with pytest.raises(DiagnosticError, match=r"parts of \[12, 20\] outputs are loaded one by one, and stored words hold 8"):
        w4a16(world, outputs=(12, 20), symmetric=False)


def test_added_layer_refuses_a_bias_that_no_forward_adds(world: World, tmp_path: Path) -> None:
    path = tmp_path / "my.linear.yaml"
    bias = ", bias=float32(bias) if x.dtype == bfloat16 else bias"
    assert bias in LINEAR
    path.write_text(LINEAR.replace(bias, "").replace("scheme: W4A16", "scheme: MY_LINEAR"), encoding="utf-8")
    world.start({"mode": "add", "specs": [str(path)]})
    layer, adapter = world.linear(world.scheme("MY_LINEAR"), quant_config=QuantConfig(32, True))
    load(layer)
    layer.bias = torch.nn.Parameter(torch.zeros(32))
    with pytest.raises(DiagnosticError, match="the layer has a bias"):
        adapter.process_weights_after_loading(layer)


def test_weights_without_a_layer(world: World) -> None:
    world.start({"mode": "add"})
    assert world.scheme("W4A16").get_weight(128, 64, torch.bfloat16)["weight_packed"].shape == (64, 16)


# ---- experts -------------------------------------------------------------------------------------------------------------------------------------------------


def start_with(world: World, path: Path, text: str, like: str | None = None) -> None:
    path = path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    world.start({"mode": "add", "specs": [{"spec": str(path), "like": like} if like else str(path)]})


def test_experts_borrow_the_forward(world: World, tmp_path: Path) -> None:
    start_with(world, tmp_path, EXPERTS, "W8A8_DYNAMIC")
    cls = registry(world)["MY_EXPERTS", "moe"]
    assert issubclass(cls, registry(world)["W8A8_DYNAMIC", "moe"])
    layers = []
    for name in ("MY_EXPERTS", "W8A8_DYNAMIC"):
        layer, adapter = world.experts(world.scheme(name, "moe"))
        load(layer)
        adapter.process_weights_after_loading(layer)
        layers.append(layer)
    assert adapter.quant_method.apply(layer, None) == "borrowed"
    assert torch.equal(layers[0].w13_weight, layers[1].w13_weight)
    assert torch.equal(layers[0].w13_weight_scale_fp32, layers[1].w13_weight_scale_fp32)
    assert layers[0].w2_weight_scale.quant_method == "channel"


def test_experts_that_leave_something_else_than_the_forward_reads(world: World, tmp_path: Path) -> None:
    start_with(world, tmp_path, EXPERTS.replace("weight_scale_fp32", "weight_scale_mine"), "W8A8_DYNAMIC")
    with pytest.raises(DiagnosticError, match=r"reads `w13_weight_scale_fp32`, .* and this spec leaves nothing of that name"):
        world.experts(world.scheme("MY_EXPERTS", "moe"))


REFUSED = [
    (EXPERTS, None, "a scheme for experts borrows its forward"),
    (EXPERTS, "W9A9", "vllm-ascend has no `W9A9`"),
    (EXPERTS.replace("MY_EXPERTS", "W8A8_DYNAMIC"), "W8A8_DYNAMIC", "vllm-ascend has this scheme already"),
    (LINEAR, "W8A8_DYNAMIC", "a linear scheme has a forward of its own"),
    (Path("specs/c8.attention.yaml").read_text(encoding="utf-8"), None, "have no generated forward"),
]


@pytest.mark.parametrize(("text", "like", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_refused(world: World, tmp_path: Path, text: str, like: str | None, message: str) -> None:
    with pytest.raises(DiagnosticError, match=message) as caught:
        start_with(world, tmp_path, text, like)
    assert caught.value.diagnostics[0].code == "plugin-scheme"
    assert caught.value.diagnostics[0].helps
