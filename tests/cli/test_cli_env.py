"""``layoutdsl env``: it tells, and never fails."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from layoutdsl.bundled import bundled
from layoutdsl.cli import env
from layoutdsl.compiler.consumers import CONSUMERS, DEVICES, SOC_NAMES, consumer_of, device_of
from tests.cli.conftest import Cli


def test_text_and_json_say_the_same(cli: Cli) -> None:
    facts = json.loads(cli("env", "--format", "json").out)
    text = " ".join(cli("env").out.split())
    assert facts["packages"]["numpy"] == metadata.version("numpy") and facts["specs"] == len(bundled())
    for name, version in facts["packages"].items():
        assert f"{name} {version}" in text
    assert f"cache {facts['cache']}" in text


def test_nothing_heavy_is_imported() -> None:
    code = "import sys; from layoutdsl.cli import main; main(['env']); print([m for m in ('torch', 'numpy', 'safetensors', 'torch_npu') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("0.16.0", "vllm-ascend-0.16"),
        ("0.16.0rc1", "vllm-ascend-0.16"),
        ("0.23.0.post1", "vllm-ascend-0.23"),
        ("0.24.0.dev12+g182b75ea84", "vllm-ascend-main"),
        ("1.2", "vllm-ascend-main"),
        ("0.17.0rc1", None),
        ("0.15.9", None),
        ("0.100.1", "vllm-ascend-main"),
        ("unknown", None),
        ("", None),
    ],
)
def test_consumer(version: str, name: str | None) -> None:
    assert getattr(consumer_of(version), "name", None) == name


def test_no_version_has_two_consumers() -> None:
    for minor in range(40):
        assert sum(consumer_of(f"0.{minor}") is consumer for consumer in CONSUMERS.values()) <= 1


@pytest.mark.parametrize(
    ("soc", "device"), [("Ascend910B3", "a2"), ("Ascend910_9362", "a3"), ("Ascend910_9589", "a5"), ("Ascend310P3", "310p"), ("H100", None)]
)
def test_device(soc: str, device: str | None) -> None:
    assert device_of(soc) == device


def test_every_device_has_a_name_and_no_other() -> None:
    assert set(SOC_NAMES.values()) == set(DEVICES)


def _fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch_npu: str) -> None:
    """Packages of this name that do nothing but this, here and in the process that is asked."""
    (tmp_path / "torch_npu.py").write_text(torch_npu)
    (tmp_path / "torch.py").write_text("class npu:\n    get_device_name = staticmethod(lambda index: 'Ascend910B3')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.parametrize(
    ("torch_npu", "told"),
    [
        ("", "device a2: torch_npu calls it Ascend910B3"),
        ("import os; os.kill(os.getpid(), 11)", "device unknown: torch_npu is installed, but names no device: exit code -11"),
        ("raise ImportError('libascendcl.so: no such file')", "libascendcl.so"),
        ("import time; time.sleep(60)", "did not answer within 1 second"),
    ],
)
def test_torch_npu_is_asked_elsewhere(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch_npu: str, told: str) -> None:
    _fake(tmp_path, monkeypatch, torch_npu)
    monkeypatch.setattr(env, "PATIENCE", 1 if "sleep" in torch_npu else 60)
    ran = cli("env")
    assert ran.code == 0 and told in " ".join(ran.out.split()), ran


def test_metadata_without_a_version(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> str:
        raise KeyError(name)

    monkeypatch.setattr(metadata, "version", broken)
    assert cli("env").code == 0
