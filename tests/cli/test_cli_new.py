"""``layoutdsl new``: the command around the draft of a spec."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoint.folders import modelslim
from tests.cli.conftest import Cli

PREFIX = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return modelslim(scheme="W8A16").write(tmp_path / "model")


def test_to_a_file_and_to_standard_output(cli: Cli, folder: Path, tmp_path: Path) -> None:
    shown = cli("new", "--from", folder, "--layer", PREFIX)
    assert shown.code == 0 and shown.out.startswith("layoutdsl: 1\nscheme: W8A16\n")
    file = tmp_path / "mine.yaml"
    ran = cli("new", "--from", folder, "--layer", PREFIX, "--scheme", "W8A16", "-o", file)
    assert (ran.code, ran.out) == (0, "") and "layoutdsl validate" in ran.err
    assert file.read_text() == shown.out
    cli("validate", file).refused("`TODO`", "mine.yaml")


def test_it_replaces_nothing(cli: Cli, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("my work")
    cli("new", "--from", folder, "--layer", PREFIX, "-o", file).refused("file-unwritable", "exists")
    assert file.read_text() == "my work"


def test_refusals(cli: Cli, folder: Path, tmp_path: Path) -> None:
    cli("new", "--from", folder, "--layer", "model.layers.0.self_attn.q_porj").refused("layer-not-stored", f"`{PREFIX}`")
    cli("new", "--from", tmp_path / "none", "--layer", PREFIX).refused()
    cli("new", "--from", folder, "--layer", PREFIX, "--scheme", "a: b").misused("`a: b`")
    cli("new", "--layer", PREFIX).misused("--from")
