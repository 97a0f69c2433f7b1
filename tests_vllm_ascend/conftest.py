"""Says what to do where vllm-ascend cannot be imported; collects what the tests found and writes docs/vllm_ascend.md from it (``--report PATH``)."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

NEEDED = {"vllm": "0.23.0", "vllm-ascend": "0.23.0.post1"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--report", type=Path, help="write what was found to this file; only for a run of all tests")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "ignore")  # upstream's, of importing a torch that it does not know
    for name, version in NEEDED.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise pytest.UsageError(f"{name} {version} is not on the path: `make test-vllm-ascend` fetches it") from None
        if found != version:
            raise pytest.UsageError(f"{name} {found} is on the path, not {version}: `make test-vllm-ascend` fetches it")
    if not config.pluginmanager.has_plugin("tests_vllm_ascend.stand_ins"):
        raise pytest.UsageError("run it with `-p tests_vllm_ascend.stand_ins`, as `make test-vllm-ascend` does")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path: Path | None = session.config.getoption("--report")
    if path is not None and exitstatus == 0:
        from tests_vllm_ascend import report

        path.write_text(report.page(), encoding="utf-8")
