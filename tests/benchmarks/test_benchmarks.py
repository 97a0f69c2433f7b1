"""The commands that ``benchmarks/values.py`` times run, on folders that take no time."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.values import Case, quantized
from layoutdsl.cli import main

MAKE = quantized("W8A8_DYNAMIC", hidden=256, intermediate=256, heads=4, kv_heads=2)


@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("command", ["check", "diff"])
def test_commands_run(command: str, values: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = Case(command, (MAKE, MAKE))
    paths = [make(2).write(tmp_path / name) for make, name in zip(case.folders, "ab" if command == "diff" else "a")]
    assert main(case.argv(paths, "1GiB", values=values)) == 0, capsys.readouterr().err
