"""A pytest plugin for upstream's tests: their conftest keeps the real torch_npu, and its device functions are stand-ins for the whole run."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests_vllm_ascend import stand_ins

_run = subprocess.run


def _with_npu_smi(command: Any, *arguments: Any, **options: Any) -> Any:
    """``npu-smi info`` succeeds: that is how the conftest asks for an NPU."""
    if command == ["npu-smi", "info"]:
        return subprocess.CompletedProcess(command, 0)
    return _run(command, *arguments, **options)


def pytest_load_initial_conftests() -> None:
    subprocess.run = _with_npu_smi  # type: ignore[assignment]


def pytest_configure(config: pytest.Config) -> None:
    subprocess.run = _run
    functions = stand_ins.device_functions()
    functions.__enter__()
    config.add_cleanup(lambda: functions.__exit__(None, None, None))
