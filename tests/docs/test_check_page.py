"""docs/check.md shows what the command prints, and every command on it runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from layoutdsl import cli
from layoutdsl.cli import diff, new
from layoutdsl.cli.arguments import Parser
from layoutdsl.cli.check import options
from layoutdsl.diagnostics.rules import RULES
from tests.checkpoint.filled import change, swapped, w4a8_experts
from tests.checkpoint.folders import modelslim

PAGE = Path(__file__).resolve().parents[2] / "docs" / "check.md"
TEXT = PAGE.read_text(encoding="utf-8")


def block(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return found


def test_every_block_is_run() -> None:
    assert re.findall(r"^```(.+)$", TEXT, re.MULTILINE) == ["sh", "text", "text data", "sh diff", "text diff"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draft = modelslim(layers=4, experts=8, expert_scheme="W4A8_DYNAMIC")
    for name in draft.names("o_proj.weight_scale"):
        del draft.tensors[name]
    draft.description["version"] = "0"
    draft.write(tmp_path / "model")


@pytest.mark.usefixtures("model")
def test_the_commands_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    """All find something; the first prints what the page shows, to the letter."""
    printed = []
    for line in block("sh").splitlines():
        program, *arguments = shlex.split(line)
        assert program == "layoutdsl"
        assert cli.main(arguments) == 1
        printed.append(capsys.readouterr().out)
    assert printed[0] == block("text")


@pytest.fixture
def exchanged_nibbles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = w4a8_experts()
    change(wrong, "model.layers.0.mlp.experts.1.up_proj.weight", swapped)
    wrong.write(tmp_path / "model")
    w4a8_experts().write(tmp_path / "before")


@pytest.mark.usefixtures("exchanged_nibbles")
def test_the_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert "layoutdsl check model --data" in TEXT
    assert cli.main(["check", "model", "--data", "--consumer", "vllm-ascend-0.16"]) == 1
    assert capsys.readouterr().out.startswith(block("text data"))


@pytest.mark.usefixtures("exchanged_nibbles")
def test_two_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    _, *arguments = shlex.split(block("sh diff"))
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == block("text diff")
    assert cli.main([*arguments, "--min-sqnr", "15"]) == 1


@pytest.mark.usefixtures("exchanged_nibbles")
def test_the_draft(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = re.findall(r"`layoutdsl (new [^`]+)`", TEXT)
    assert cli.main(shlex.split(command.replace("mlp.up_proj", "self_attn.q_proj"))) == 0
    assert "params:" in capsys.readouterr().out


def test_words_of_the_page_exist() -> None:
    parser = Parser("check", "")
    options(parser)
    for command in (diff, new):
        other = Parser("other", "")
        command.options(other)
        parser._option_string_actions |= other._option_string_actions
    words = [word for text in re.findall(r"`([^`\n]+)`", TEXT) for word in text.split()]
    assert all(word in parser._option_string_actions for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word))
    assert {"partial-load", "narrowing"} <= {word for word in words if word in RULES}
    assert all((PAGE.parents[1] / word).is_file() for word in words if word.startswith("benchmarks/"))
