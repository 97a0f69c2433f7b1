"""Says what to do where torch_npu cannot be imported, and prints at the end what it says of the bundled specs."""

from __future__ import annotations

import pytest


def pytest_configure() -> None:
    try:
        import torch_npu  # noqa: F401  registers the ops
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise pytest.UsageError(f"torch_npu cannot be imported ({reason}): `make test-npu` installs it and builds stand-ins for CANN's libraries") from None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    from tests_npu.wheel import REPORT

    if REPORT:
        terminalreporter.section("what torch_npu says of the bundled specs")
        terminalreporter.write_line("\n".join(REPORT))
