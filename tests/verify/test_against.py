"""A spec against hand-written classes: one that does the same, and one for every kind of difference."""

from __future__ import annotations

import pytest

from layoutdsl.api import load_spec
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.verify.against import against, imported

SPEC = load_spec("W4A8_DYNAMIC.linear")
CLASSES = "tests.verify.schemes"


def test_the_same() -> None:
    report = against(SPEC, f"{CLASSES}:W4A8Linear", {})
    assert report.findings == []
    assert report.ran["configurations"] >= 48, "also those that do not differ for the spec"


@pytest.mark.parametrize(
    ("name", "code", "where", "words"),
    [
        ("WithoutTheFactor", "verify-against", "weight_scale_bias", "has other bits"),
        ("NeverFlat", "verify-against", "scale_bias", "shape or strides"),
        ("Forgetful", "verify-against", "weight_offset_second", "is not expected"),
        ("Talkative", "verify-against", "copies", "is missing"),
        ("Strided", "verify-against", "weight", "shape or strides"),
        ("Failing", "against-failed", f"{CLASSES}:Failing", "RuntimeError: no device"),
    ],
)
def test_differences(name: str, code: str, where: str, words: str) -> None:
    finding = against(SPEC, f"{CLASSES}:{name}", {"group_size": 64}).findings[0]
    assert (finding.code, finding.where) == (code, where)
    assert words in finding.message
    assert any("input_size = " in note for note in finding.notes)


@pytest.mark.parametrize("name", ["nowhere:Class", f"{CLASSES}:Missing", f"{CLASSES}:NoScheme", "no colon", ":Class", f"{CLASSES}:"])
def test_what_cannot_be_imported(name: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        imported(name)
    assert error.value.diagnostics[0].code == "against-import"
    assert name in error.value.diagnostics[0].message
