"""docs/check.md shows what the command prints, and every command on it runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from layoutdsl import cli
from layoutdsl.cli.arguments import Parser
from layoutdsl.cli.check import options
from layoutdsl.diagnostics.rules import RULES
from tests.checkpoint.folders import modelslim

PAGE = Path(__file__).resolve().parents[2] / "docs" / "check.md"
TEXT = PAGE.read_text(encoding="utf-8")


def block(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return found


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


def test_words_of_the_page_exist() -> None:
    parser = Parser("check", "")
    options(parser)
    words = [word for text in re.findall(r"`([^`\n]+)`", TEXT) for word in text.split()]
    assert all(word in parser._option_string_actions for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word))
    assert {"partial-load", "narrowing"} <= {word for word in words if word in RULES}
    assert all((PAGE.parents[1] / word).is_file() for word in words if word.startswith("benchmarks/"))
