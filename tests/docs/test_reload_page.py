"""The example of docs/reload.md runs, and the page names every rule and policy of reloading."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from layoutdsl.api import Policy

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "reload.md").read_text(encoding="utf-8")


def test_the_example_runs() -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    exec(compile(example, "docs/reload.md", "exec"), {})


def test_every_word_is_there() -> None:
    for word in (*get_args(Policy), "partial-load", "torn", "loaded-into-kernel-form", "alias", "fresh", "roll_back"):
        assert word in TEXT
