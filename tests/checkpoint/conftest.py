"""Both ways that values are computed."""

from __future__ import annotations

from typing import Any

import pytest

from layoutdsl.checkpoint import decoded


@pytest.fixture(params=["numpy", "compiled"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The compiled loops or None, and whatever is read uses these."""
    if request.param == "numpy":
        monkeypatch.setattr(decoded, "WORTH", 1 << 62)
        return None
    pytest.importorskip("numba")
    monkeypatch.setattr(decoded, "WORTH", 0)
    return decoded.Programs().kernels
