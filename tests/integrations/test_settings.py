"""What the switches mean, and which of them counts."""

from __future__ import annotations

from typing import Any

import pytest

from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.integrations.vllm_ascend.modes import MODES as TABLE
from layoutdsl.integrations.vllm_ascend.settings import MODES, Named, Settings, read_settings

READ = [
    ({}, {}, Settings()),
    (None, {}, Settings()),
    (object(), {"LAYOUTDSL_MODE": "guard"}, Settings(("guard",))),
    ({"layoutdsl": {"mode": "off"}}, {"LAYOUTDSL_MODE": "guard"}, Settings()),
    ({"layoutdsl": {"mode": "shadow"}}, {"LAYOUTDSL_MODE": "guard"}, Settings(("shadow",))),
    ({"layoutdsl": {"specs": ["W8A8.linear"]}}, {"LAYOUTDSL_MODE": "guard", "LAYOUTDSL_SPECS": "x"}, Settings(("guard",), (Named("W8A8.linear"),))),
    ({"layoutdsl": {"mode": ["add", "guard"]}}, {}, Settings(("guard", "add"))),
    ({"other": 1}, {"LAYOUTDSL_MODE": " Override, guard "}, Settings(("guard", "override"))),
    ({}, {"LAYOUTDSL_MODE": "off,guard"}, Settings()),
    ({}, {"LAYOUTDSL_MODE": "add", "LAYOUTDSL_SPECS": "a.yaml, b.yaml"}, Settings(("add",), (Named("a.yaml"), Named("b.yaml")))),
    ({}, {"LAYOUTDSL_MODE": "add", "LAYOUTDSL_SPECS": '[{"spec": "a.yaml", "like": "W8A8"}]'}, Settings(("add",), (Named("a.yaml", "W8A8"),))),
]


@pytest.mark.parametrize(("additional", "environ", "wanted"), READ)
def test_read(additional: Any, environ: dict[str, str], wanted: Settings) -> None:
    assert read_settings(additional, environ) == wanted


REFUSED = [
    ({"layoutdsl": "guard"}, {}, "`layoutdsl` in additional_config is str"),
    ({"layoutdsl": {"mode": "on"}}, {}, "`on` is no mode"),
    ({"layoutdsl": {"mode": True}}, {}, "`True` is no mode"),
    ({}, {"LAYOUTDSL_MODE": "grd"}, "`grd` is no mode"),
    ({"layoutdsl": {"modes": "guard"}}, {}, "`modes` is no setting"),
    ({"layoutdsl": {"mode": "shadow,override"}}, {}, "`shadow` keeps the results"),
    ({"layoutdsl": {"specs": "W8A8"}}, {}, "`specs` is str, not a list"),
    ({"layoutdsl": {"specs": [3]}}, {}, "3 names no spec"),
    ({"layoutdsl": {"specs": [{"spec": "a", "as": "b"}]}}, {}, "names no spec"),
    ({}, {"LAYOUTDSL_SPECS": "[a"}, "LAYOUTDSL_SPECS is no JSON"),
]


@pytest.mark.parametrize(("additional", "environ", "message"), REFUSED)
def test_refused(additional: Any, environ: dict[str, str], message: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        read_settings(additional, environ)
    (found,) = caught.value.diagnostics
    assert found.code == "plugin-settings"
    assert message in found.message
    assert found.helps


def test_settings_survive_the_config() -> None:
    settings = Settings(("guard", "add"), (Named("a.yaml"), Named("b.yaml", "W8A8")), (("A.linear", "12"),))
    assert read_settings({"layoutdsl": settings.as_config()}, {"LAYOUTDSL_MODE": "shadow"}) == settings


def test_every_mode_has_a_row() -> None:
    assert tuple(TABLE) == MODES
