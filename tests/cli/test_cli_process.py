"""The command line as a process of its own: start-up, exit codes, pipes, encodings, limits of the system."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def command(*argv: str | Path, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    arguments = [sys.executable, "-m", "layoutdsl.cli", *map(str, argv)]
    return subprocess.run(arguments, env=environment, text=True, timeout=60, check=False, **{"capture_output": "stdout" not in options, **options})


def loaded_by(*argv: str) -> set[str]:
    """The modules that one command loads."""
    code = "import sys; from layoutdsl.cli import main; code = main(sys.argv[1:]); print(*sys.modules, file=sys.stderr); sys.exit(code)"
    arguments = [sys.executable, "-c", code, *argv]
    ran = subprocess.run(arguments, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True, timeout=60, check=True)
    return set(ran.stderr.splitlines()[-1].split())


def test_start_up_imports() -> None:
    """Cold, `validate` needs the parsers but neither torch nor numpy; warm, nor the parsers; `--help` nothing at all."""
    cold, warm, help_ = loaded_by("validate"), loaded_by("validate"), loaded_by("--help")
    assert "lark" in cold
    assert not {"torch", "numpy", "safetensors"} & (cold | warm | help_)
    assert not {"lark", "yaml", "jsonschema", "layoutdsl.compiler", "layoutdsl.api"} & (warm | help_)
    assert "layoutdsl.result_cache" not in help_


@pytest.mark.parametrize(
    "argv", [("explain", "W4A8_DYNAMIC.linear"), ("describe", "W4A8_DYNAMIC.linear"), ("compile", "W4A8_DYNAMIC.linear", "-o", "-"), ("schema",)]
)
def test_no_torch(argv: tuple[str, ...]) -> None:
    assert not {"torch", "numpy", "safetensors"} & loaded_by(*argv)


def test_exit_codes() -> None:
    assert command("--version").returncode == 0
    assert command("explain", "nothing").returncode == 1
    assert command("nothing").returncode == 2
    assert command("validate", env={"LAYOUTDSL_CACHE": "/dev/null/x"}).returncode == 0


def test_a_closed_pipe_is_quiet() -> None:
    ends = os.pipe()
    os.close(ends[0])
    ran = command("schema", stdout=ends[1], stderr=subprocess.PIPE)
    os.close(ends[1])
    assert (ran.returncode, ran.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
def test_a_full_stdout() -> None:
    with open("/dev/full", "w") as full:
        ran = command("schema", stdout=full, stderr=subprocess.PIPE)
    assert ran.returncode == 1
    assert ran.stderr == "layoutdsl: cannot write to standard output: no space left on device\n"


def test_no_stdout_at_all() -> None:
    ran = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m layoutdsl.cli schema >&-"], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True, check=False
    )
    assert "Traceback" not in ran.stderr and ran.returncode == 0


def test_ascii_terminals(tmp_path: Path) -> None:
    (tmp_path / "é.yaml").write_text("scheme: é\n", encoding="utf-8")
    ran = command("validate", tmp_path / "é.yaml", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"})
    assert ran.returncode == 1 and "\\xe9" in ran.stdout


def test_a_file_size_limit_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    out.write_text("old")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))  # noqa: E731
    ran = command("compile", "W4A8_DYNAMIC.linear", "-o", out, preexec_fn=limit, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert ran.returncode == 1 and "file-unwritable" in ran.stdout, ran
    assert out.read_text() == "old" and os.listdir(tmp_path) == ["plan.json"]
