"""Linear layers of W4A16 as compressed-tensors' own compressor packs them: groups and channels, with zero points and without.

What is compared: what `check` says of the folder; what the spec's `value` and the plan's results make of every layer with what the compressor decodes them to,
bit for bit; and what the forward gives with a float matmul of the decoded weight.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from layoutdsl.checkpoint.folder import read_folder
from layoutdsl.checkpoint.layers import layers_of
from layoutdsl.cli import main
from layoutdsl.verify.run import applied
from tests.checkpoint.test_real_producers import Loaded, loaded

SCRIPT = Path(__file__).parent / "producers" / "packed_linear.py"
RELEASE = "vllm-ascend-0.23"
LAYERS = {
    ("self_attn", 0): {"group_size": 64, "weight_strategy": "group", "symmetric": True},
    ("mlp", 0): {"group_size": 128, "weight_strategy": "group", "symmetric": False},
    ("self_attn", 1): {"group_size": 0, "weight_strategy": "channel", "symmetric": True},
    ("mlp", 1): {"group_size": 0, "weight_strategy": "channel", "symmetric": False},
    ("self_attn", 2): {"group_size": 32, "weight_strategy": "group", "symmetric": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed")
    ran = subprocess.run([sys.executable, str(SCRIPT), str(path)], capture_output=True, text=True, check=False, cwd=path)
    assert ran.returncode == 0, f"{SCRIPT.name} failed; `pip install -e .[torch,demo,dev]` installs what it needs:\n{ran.stderr[-4000:]}"
    return path / "packed-linear"


@pytest.fixture(scope="module")
def layers(folder: Path) -> list[Loaded]:
    found, findings = layers_of(read_folder(folder), RELEASE, "a2")
    assert [finding.code for finding in findings] == ["plugin-needed"]
    return [loaded(layer, "a2") for layer in found if layer.kind == "linear"]


@pytest.fixture(scope="module")
def decoded(folder: Path) -> dict[str, torch.Tensor]:
    """bfloat16 [outputs, inputs] by module, by the package's own decompression."""
    return load_file(folder.with_name("packed-linear.decoded.safetensors"))


def test_layers_are_recognised(layers: list[Loaded]) -> None:
    assert len(layers) == 3 * 4 + 2 * 3
    for one in layers:
        _, _, number, block, _ = one.layer.prefix.split(".")
        assert one.layer.scheme == "W4A16"
        assert {name: one.layer.config[name] for name in ("group_size", "weight_strategy", "symmetric")} == LAYERS[block, int(number)]
        assert set(one.exact) == {"weight_packed", "weight_scale", "weight_shape"} | ({"weight_zero_point"} if not one.layer.config["symmetric"] else set())


@pytest.mark.parametrize("consumer", ["vllm-ascend-0.16", RELEASE, "vllm-ascend-main"])
@pytest.mark.parametrize("options", [(), ("--data",), ("-tp", "2")], ids=" ".join)
def test_check_asks_for_the_plugin_and_for_nothing_else(folder: Path, consumer: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["check", str(folder), "--consumer", consumer, "--format", "json", *options])
    findings = [finding for finding in json.loads(capsys.readouterr().out) if finding["severity"] != "note"]
    assert (code, [(finding["code"], finding["severity"]) for finding in findings]) == (0, [("plugin-needed", "warning")])
    assert findings[0]["notes"] == ["in 18 layers"] and consumer in findings[0]["message"]


def test_an_order_of_activations_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`weight` sorts columns before rounding and puts them back; `group` leaves them sorted, and weight_g_idx says where each belongs."""
    shutil.copytree(folder, tmp_path / "ordered")
    path = tmp_path / "ordered" / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["actorder"] = "group"
    path.write_text(json.dumps(config))
    assert main(["check", str(tmp_path / "ordered")]) == 1
    assert "error[format-unsupported]: `actorder: group` reorders the inputs" in capsys.readouterr().out


def test_values_are_what_the_compressor_decodes(layers: list[Loaded], decoded: dict[str, torch.Tensor]) -> None:
    for one in layers:
        ours, theirs = torch.from_numpy(one.values(one.exact)["W"].values.copy()), decoded[one.layer.prefix]
        assert ours.shape == theirs.shape
        assert torch.equal(ours.to(theirs.dtype), theirs), one.layer.prefix


def weight(one: Loaded, results: dict[str, torch.Tensor]) -> torch.Tensor:
    """[inputs, outputs], rounded as the kernel's document says: the sum, then the product. Read off the words of the results by hand."""
    words, scale = results["weight_packed"], results["weight_scale"]
    codes = torch.stack([words << 28 - 4 * lane >> 28 for lane in range(8)], 2).flatten(1).to(scale.dtype)
    rows = codes.shape[0] // scale.shape[0]
    if "weight_offset" in results:
        codes = codes + results["weight_offset"].repeat_interleave(rows, 0)
    return codes * scale.repeat_interleave(rows, 0)


def test_results_are_what_the_compressor_decodes(layers: list[Loaded], decoded: dict[str, torch.Tensor]) -> None:
    for one in layers:
        assert torch.equal(weight(one, one.plan.run(dict(one.tensors))), decoded[one.layer.prefix].T), one.layer.prefix


@pytest.mark.parametrize("fault", ["nibbles", "scales", "zero points"])
def test_the_comparison_can_fail(layers: list[Loaded], decoded: dict[str, torch.Tensor], fault: str) -> None:
    one = next(one for one in layers if one.layer.prefix.endswith("0.mlp.down_proj"))
    tensors = {name: tensor.clone() for name, tensor in one.tensors.items()}
    name = {"nibbles": "weight_packed", "scales": "weight_scale", "zero points": "weight_zero_point"}[fault]
    tensors[name] = tensors[name].roll(4) if fault == "scales" else (tensors[name] & 0x0F0F0F0F) << 4 | tensors[name] >> 4 & 0x0F0F0F0F
    assert not torch.equal(weight(one, one.plan.run(tensors)), decoded[one.layer.prefix].T)


@pytest.mark.parametrize("with_bias", [False, True])
def test_the_forward_is_a_matmul_with_the_decoded_weight(layers: list[Loaded], decoded: dict[str, torch.Tensor], with_bias: bool) -> None:
    """Exactly: the weight is the same in bfloat16, and the kernel rounds once, at the end."""
    generator = torch.Generator().manual_seed(0)
    for one in layers:
        matrix = decoded[one.layer.prefix].double()
        x = torch.randn(3, matrix.shape[1], generator=generator).to(torch.bfloat16)
        bias = torch.randn(matrix.shape[0], generator=generator).to(torch.bfloat16) if with_bias else None
        wanted = x.double() @ matrix.T + (bias.double() if bias is not None else 0)
        assert torch.equal(one.plan.forward(applied(one.plan, one.tensors), x, bias=bias), wanted.to(torch.bfloat16)), one.layer.prefix
