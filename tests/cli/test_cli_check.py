"""`layoutdsl check`: the command, its options and its output; what it finds is in test_cli_check_faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layoutdsl.cli import main
from tests.checkpoint.folders import Draft, Tensor, modelslim
from tests.cli.test_cli_process import loaded_by

ATTENTION = "model.layers.0.self_attn."


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


# ---- drafts -----------------------------------------------------------------------------------------------------------------------------------------------


def drop(*parts: str) -> Callable[[Draft], Any]:
    return lambda draft: [draft.tensors.pop(name) for part in parts for name in draft.names(part)]


def w4a8(**options: Any) -> Draft:
    return modelslim(scheme="W4A8_DYNAMIC", **options)


def moe(**options: Any) -> Draft:
    return modelslim(experts=4, **options)


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
