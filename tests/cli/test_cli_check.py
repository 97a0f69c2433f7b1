"""`layoutdsl check`: every planted fault is found, and nothing on a right folder of any kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layoutdsl.cli import main
from tests.checkpoint.folders import Draft, Tensor, compressed_tensors, float_model, fp8_block, modelslim
from tests.cli.test_cli_process import loaded_by

ATTENTION, MLP, EXPERTS = "model.layers.0.self_attn.", "model.layers.0.mlp.", "model.layers.1.mlp.experts."
MAIN = ["--consumer", "vllm-ascend-main"]
A5 = ["--device", "a5"]


def check(folder: Path, *options: str) -> list[str]:
    return ["check", str(folder), *options]


@pytest.fixture
def found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    """The findings on a draft, as JSON gives them; the exit code follows from them."""

    def run(draft: Draft, *options: str) -> list[dict[str, Any]]:
        code = main(check(draft.write(tmp_path / "model"), "--format", "json", *options))
        findings: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        assert code == any(finding["severity"] == "error" for finding in findings)
        return findings

    return run


# ---- right folders ---------------------------------------------------------------------------------------------------------------------------------------

RIGHT: dict[str, tuple[Draft, list[str]]] = {
    "W8A8_DYNAMIC": (modelslim(), []),
    "W8A8": (modelslim(scheme="W8A8"), []),
    "W8A8, float16": (modelslim(scheme="W8A8", dtype="float16"), []),
    "W8A16": (modelslim(scheme="W8A16"), []),
    "W8A8_MIX": (modelslim(scheme="W8A8_MIX"), []),
    "W4A4_DYNAMIC": (modelslim(scheme="W4A4_DYNAMIC"), []),
    "W4A4_FLATQUANT_DYNAMIC": (modelslim(scheme="W4A4_FLATQUANT_DYNAMIC"), []),
    "W4A8_DYNAMIC": (modelslim(scheme="W4A8_DYNAMIC"), []),
    "W4A8_DYNAMIC, unpacked": (modelslim(scheme="W4A8_DYNAMIC", version="0"), []),
    "experts of W4A8_DYNAMIC": (modelslim(expert_scheme="W4A8_DYNAMIC", experts=4), []),
    "experts of W4A8_DYNAMIC per channel": (modelslim(expert_scheme="W4A8_DYNAMIC", experts=4, group_size=0), MAIN),
    "W8A8_MXFP8": (modelslim(scheme="W8A8_MXFP8", experts=4, group_size=32), A5),
    "W4A4_MXFP4": (modelslim(scheme="W4A4_MXFP4", experts=4, group_size=32), A5),
    "W4A8_MXFP": (modelslim(scheme="W4A8_MXFP", experts=4, group_size=32), A5),
    "W8A8FP8_DYNAMIC": (modelslim(scheme="W8A8FP8_DYNAMIC", experts=4), A5),
    "deepseek_v3": (modelslim(model_type="deepseek_v3", attention_scheme="W8A8", experts=4, dense_layers=1, shared_experts=True), []),
    "no index": (modelslim(index=""), []),
    "the index of msModelSlim": (modelslim(index="quant_model_weights.safetensors.index.json"), []),
    "description in config.json": (modelslim(in_config=True), []),
    "compressed-tensors W8A8_DYNAMIC": (compressed_tensors(), []),
    "compressed-tensors W8A8": (compressed_tensors(scheme="W8A8"), []),
    "fp8": (fp8_block(), [*A5, *MAIN]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_nothing_on_a_right_folder(name: str, found: Callable[..., list[dict[str, Any]]]) -> None:
    draft, options = RIGHT[name]
    (table,) = found(draft, "--notes", *options)
    assert table["message"].startswith("every layer can be split with -tp 1")
    # Of kernels there may be a warning: that they do not take groups of 256.
    assert {finding["severity"] for finding in found(draft, *options, "-tp", "1")} <= {"warning"}


def test_a_float_folder(found: Callable[..., list[dict[str, Any]]]) -> None:
    assert [finding["code"] for finding in found(float_model(), "--notes")] == ["not-quantized"]


# ---- planted faults --------------------------------------------------------------------------------------------------------------------------------------

Edit = Callable[[Draft], Any]


def drop(*parts: str) -> Edit:
    return lambda draft: [draft.tensors.pop(name) for part in parts for name in draft.names(part)]


def reshape(name: str, *shape: int) -> Edit:
    return lambda draft: draft.reshape(name, *shape)


def w4a8(**options: Any) -> Draft:
    return modelslim(scheme="W4A8_DYNAMIC", **options)


def moe(**options: Any) -> Draft:
    return modelslim(experts=4, **options)


FAULTS: dict[str, tuple[Callable[[], Draft], Edit | None, list[str], str, str]] = {
    "a missing scale": (modelslim, drop(ATTENTION + "q_proj.weight_scale"), [], "tensor-missing", ATTENTION + "q_proj.weight_scale"),
    "a transposed weight": (modelslim, reshape(MLP + "gate_proj.weight", 512, 1024), [], "tensor-shape", MLP + "gate_proj.weight"),
    "an unpacked weight under version 1.0.0": (
        w4a8,
        reshape(ATTENTION + "q_proj.weight", 512, 512),
        [],
        "config-contradicts-shapes",
        ATTENTION + "q_proj.weight",
    ),
    "packed weights under version 0": (
        w4a8,
        lambda draft: draft.description.update(version="0"),
        [],
        "config-contradicts-shapes",
        "quant_model_description.json",
    ),
    "another group size": (
        lambda: modelslim(expert_scheme="W4A8_DYNAMIC", experts=4),
        lambda draft: draft.description.update(group_size=128),
        [],
        "config-contradicts-shapes",
        "quant_model_description.json",
    ),
    "16 columns on a column-parallel layer": (
        w4a8,
        reshape(ATTENTION + "q_proj.scale_bias", 512, 16),
        [],
        "tensor-shape",
        ATTENTION + "q_proj.scale_bias",
    ),
    "one column on a row-parallel layer": (
        w4a8,
        reshape(ATTENTION + "o_proj.scale_bias", 512, 1),
        [],
        "partial-load",
        ATTENTION + "o_proj.scale_bias",
    ),
    "an expert is missing": (moe, drop(EXPERTS + "2."), [], "tensor-missing", EXPERTS + "2"),
    "the last expert is missing": (moe, drop(EXPERTS + "3."), [], "tensor-missing", EXPERTS + "3"),
    "a float weight": (modelslim, lambda draft: draft.retype(ATTENTION + "o_proj.weight", "BF16"), [], "tensor-dtype", ATTENTION + "o_proj.weight"),
    "other inputs of k": (modelslim, reshape(ATTENTION + "k_proj.weight", 256, 448), [], "fused-differ", ATTENTION + "qkv_proj"),
    "a tensor too many": (
        modelslim,
        lambda draft: draft.tensors.update({ATTENTION + "q_proj.zeros": Tensor("I8", (4,))}),
        [],
        "tensor-unexpected",
        ATTENTION + "q_proj.zeros",
    ),
    "an index without a file": (
        modelslim,
        lambda draft: setattr(draft, "edit_index", lambda index: index["weight_map"].update({MLP + "x": "model-00009-of-00009.safetensors"})),
        [],
        "index-file-missing",
        "model-00009-of-00009.safetensors",
    ),
    "JSON that is none": (modelslim, lambda draft: setattr(draft, "config", '{"model_type": }'), [], "json-syntax", "config.json"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults(name: str, found: Callable[..., list[dict[str, Any]]]) -> None:
    make, edit, options, code, where = FAULTS[name]
    draft = make()
    if edit is not None:
        edit(draft)
    findings = [finding for finding in found(draft, *options) if finding["severity"] != "note"]
    assert [(finding["code"], finding["file"]) for finding in findings] == [(code, where)]


def test_a_partial_group(found: Callable[..., list[dict[str, Any]]]) -> None:
    findings = [finding for finding in found(w4a8(hidden=640, version="0")) if finding["severity"] == "error"]
    assert {finding["code"] for finding in findings} == {"requirement-failed"}
    assert "input_size = 640" in json.dumps(findings) and "group_size" in json.dumps(findings)


def test_mixed_schemes_in_one_module(found: Callable[..., list[dict[str, Any]]]) -> None:
    findings = found(modelslim(schemes={ATTENTION + "k_proj": "W8A8"}))
    assert ("mixed-schemes", ATTENTION + "qkv_proj") in [(finding["code"], finding["file"]) for finding in findings]


def test_tp_3(found: Callable[..., list[dict[str, Any]]]) -> None:
    findings = found(modelslim(), "-tp", "3")
    assert {finding["code"] for finding in findings if finding["severity"] == "error"} == {"split-uneven"}
    (table,) = [finding["message"] for finding in findings if finding["severity"] == "note"]
    assert table == "every layer can be split with -tp 1, 2, 4"


def test_a_lost_file_is_one_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not one per tensor that was in it."""
    folder = modelslim(shards=4).write(tmp_path / "model")
    (folder / "model-00002-of-00004.safetensors").unlink()
    assert main(check(folder, "--format", "json")) == 1
    errors = [finding for finding in json.loads(capsys.readouterr().out) if finding["severity"] == "error"]
    assert [finding["code"] for finding in errors] == ["index-file-missing"]


# ---- the command -----------------------------------------------------------------------------------------------------------------------------------------


def test_folded_over_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draft = modelslim(layers=5)
    drop("down_proj.weight_scale", ".o_proj.weight_scale")(draft)
    folder = draft.write(tmp_path / "model")
    assert main(check(folder, "--format", "concise")) == 1
    printed = capsys.readouterr()
    lines = ["model.layers.{0..4}.{self_attn.o_proj,mlp.down_proj}.weight_scale: error[tensor-missing]: the files have no such tensor"]
    assert printed.out.splitlines() == [*lines, "every layer can be split with -tp 1, 2, 4"]
    assert printed.err == "118 tensors; 35 x W8A8_DYNAMIC.linear; 1 error, 0 warnings, 0 notes\n"


def test_notes_are_shown_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draft = modelslim()
    for name in draft.names("weight_scale"):
        draft.retype(name, "F32")
    folder = draft.write(tmp_path / "model")
    assert main(check(folder)) == 0
    printed = capsys.readouterr()
    assert "narrowing" not in printed.out and printed.err.endswith("0 errors, 0 warnings, 1 note (shown with --notes)\n")
    assert main(check(folder, "--notes")) == 0
    assert "note[narrowing]: `weight_scale` is float32 in the files and bfloat16 in the layer" in capsys.readouterr().out


def test_values_of_the_command_line_win(found: Callable[..., list[dict[str, Any]]]) -> None:
    draft = w4a8()
    draft.description["version"] = "0"
    assert [finding["code"] for finding in found(draft, "--set", "version=1.0.0")] == ["topology-legal"]
    halves = modelslim(scheme="W8A8", dtype="float16")
    assert [finding["code"] for finding in found(halves, "--params-dtype", "bfloat16")][:1] == ["tensor-dtype"]


def test_some_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draft = modelslim()
    drop("layers.0.mlp.down_proj.weight_scale")(draft)
    folder = draft.write(tmp_path / "model")
    assert main(check(folder, "--layers", "model.layers.1.*")) == 0
    assert "7 x W8A8_DYNAMIC.linear" in capsys.readouterr().err
    assert main(check(folder, "--layers", "*.mlp.*")) == 1


def test_values_are_read_on_request(found: Callable[..., list[dict[str, Any]]]) -> None:
    """A scale of zeros is right as far as headers go."""
    draft = modelslim(layers=1).fill()
    name = ATTENTION + "q_proj.weight_scale"
    assert [finding["code"] for finding in found(draft)] == ["topology-legal"]
    draft.tensors[name] = Tensor("BF16", draft.tensors[name].shape)
    assert [finding["code"] for finding in found(draft)] == ["topology-legal"]
    findings = found(draft, "--data", "--max-memory", "64MiB")
    assert name in [finding["file"] for finding in findings if finding["severity"] == "error"]
    assert name not in [finding["file"] for finding in found(draft, "--data", "--layers", "*.mlp.*")]


USAGE = [
    ([], "missing: DIR"),
    (["DIR", "--consumer", "vllm"], "`--consumer vllm` is not known"),
    (["DIR", "--device", "h100"], "`--device h100` is not known"),
    (["DIR", "-tp", "0"], "`-tp 0`: `0` is not a whole number from 1 to 65536"),
    (["DIR", "--redundant-experts", "-1"], "`--redundant-experts -1`: `-1` is not a whole number from 0"),
    (["DIR", "--expert-placement", "random"], "neither `linear` nor `round_robin`"),
    (["DIR", "--max-memory", "much"], "`--max-memory much` is not a size such as 4GiB"),
    (["DIR", "--layers", "layers.9.*"], "no quantized layer is called `layers.9.*`; there are `model.layers.0.self_attn.q_proj`"),
    (["DIR", "--set", "grop_size=1"], "no scheme of this folder reads `grop_size`"),
    (["DIR", "--params-dtype", "float8"], "`--params-dtype float8` is neither bfloat16 nor float16"),
]


@pytest.mark.parametrize(("argv", "text"), USAGE, ids=[text for _, text in USAGE])
def test_usage(argv: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(modelslim().write(tmp_path / "model"))
    assert main(["check", *(folder if word == "DIR" else word for word in argv)]) == 2
    assert text in capsys.readouterr().err


def test_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(check(tmp_path / "nothing")) == 1
    assert "error[file-missing]" in capsys.readouterr().out


def test_flags_as_vllm_spells_them(tmp_path: Path) -> None:
    folder = moe().write(tmp_path / "model")
    assert main(check(folder, "--tensor_parallel_size=2", "--data_parallel_size", "2", "--enable_expert_parallel", "--expert_placement", "linear")) == 0


def test_no_torch_is_imported(tmp_path: Path) -> None:
    folder = moe().write(tmp_path / "model")
    assert not {"torch", "numpy", "safetensors"} & loaded_by("check", str(folder), "-tp", "2")
