"""Registers the plugin before vllm-ascend's own tests are collected, and writes how often a plan ran: a pytest plugin for ``test_unit_tests``.

``LAYOUTDSL_TEST_CHIP`` names the chip, ``LAYOUTDSL_TEST_COUNTS`` the file for the counts; modes and specs come from the plugin's own variables.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from layoutdsl.integrations.vllm_ascend import register

sys.modules["vllm_ascend._build_info"].__device_type__ = os.environ["LAYOUTDSL_TEST_CHIP"]  # type: ignore[attr-defined]
register()


def pytest_sessionfinish() -> None:
    override = sys.modules.get("layoutdsl.integrations.vllm_ascend.override")
    counts = {".".join(key): count for key, count in override.COUNTS.items()} if override is not None else {}
    Path(os.environ["LAYOUTDSL_TEST_COUNTS"]).write_text(json.dumps(counts), encoding="utf-8")
