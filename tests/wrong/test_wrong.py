"""The corpus of wrong specs: each file has one mistake, and says behind the guilty line what must be reported there.

``# error[code] name; name``: the severity, the rule, and what the message must name.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from layoutdsl import validate
from layoutdsl.diagnostics import Diagnostic
from layoutdsl.diagnostics.render import FORMATS, render
from layoutdsl.diagnostics.rules import GROUPS, RULES

FILES = sorted(Path(__file__).parent.glob("*.yaml"))
EXPECTED = re.compile(r"# (error|warning|note)\[([a-z0-9-]+)\](.*)")
STAGES = ("names and config", "cases", "types", "steps", "index math", "forward and contracts", "liveness")
ELSEWHERE = {
    **dict.fromkeys(("config-unknown", "config-missing", "requirement-failed"), "about what a caller gives"),
    **dict.fromkeys(
        ("nz-alignment", "a8w4-k", "a8w4-swiglu-k", "a8w4-swiglu-n", "kernel-size", "kernel-alignment"),
        "conditions on sizes, which a spec's defaults cannot break",
    ),
    "extends-cycle": "needs several files",
    "axis-name": "the shape of the file is checked first (`wrong-name`)",
}


def expected(path: Path) -> list[tuple[int, str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(number, severity, code) for number, line in enumerate(lines, 1) for severity, code, _ in EXPECTED.findall(line)]


def names(path: Path) -> list[str]:
    """What the message of the file's finding must name."""
    (found,) = EXPECTED.findall(path.read_text(encoding="utf-8"))
    return [name.strip() for name in found[2].split(";") if name.strip()]


def place(finding: Diagnostic) -> tuple[int, str, str]:
    assert finding.span is not None, finding
    return finding.span.source.position(finding.span.start)[0], finding.severity, finding.code


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_wrong(path: Path) -> None:
    findings = validate(path)
    assert [place(x) for x in findings] == expected(path), render(findings, "text")
    (finding,) = findings
    check_message(finding)
    for name in names(path):
        assert f"`{name}`" in finding.message
    check_formats(findings)


def check_message(finding: Diagnostic) -> None:
    """Lower case, no question, no full stop; names what was found; says what to write."""
    assert finding.span is not None
    for text in (finding.message, *finding.notes, *finding.helps):
        assert text
        assert "?" not in text
        assert "Size(" not in text
        assert "Digit(" not in text
        assert not text.endswith(".")
    first = re.split(r"\W", finding.message, maxsplit=1)[0]
    assert first == first.lower() or first.isupper()
    assert finding.helps or finding.severity == "note", "no help"


def check_formats(findings: list[Diagnostic]) -> None:
    for name in FORMATS:
        text = render(findings, name)
        assert all(x.code in text for x in findings)
        assert text.endswith("\n")
    data = json.loads(render(findings, "json"))
    assert [(x["line"], x["severity"], x["code"]) for x in data] == [place(x) for x in findings]


def test_every_rule_of_the_language_has_a_file() -> None:
    covered = {code for path in FILES for _, _, code in expected(path)}
    assert covered <= set(RULES)
    wanted = {rule.code for stage in STAGES for rule in GROUPS[stage]}
    assert not wanted - covered - set(ELSEWHERE)
    assert not covered & set(ELSEWHERE)


def test_one_mistake_per_file() -> None:
    assert all(len(expected(path)) == 1 for path in FILES)
