"""``layoutdsl verify``: exit codes, streams, formats, options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layoutdsl.bundled import bundled
from tests.cli.conftest import Cli, cli  # noqa: F401 - a fixture

QUICK = ("--quick", "--set", "version=1.0.0", "group_size=64")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYOUTDSL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    path = tmp_path / "w4a8_dynamic.linear.yaml"
    path.write_text(
        bundled()["w4a8_dynamic.linear"]
        .read_text()
        .replace("[n]: weight_scale[n] *", "[n]: 2 * weight_scale[n] *")
        .replace(", n]: weight_scale[n]", ", n]: 2 * weight_scale[n]")
    )
    return path


def test_a_right_spec(cli: Cli) -> None:  # noqa: F811
    ran = cli("verify", "W4A8_DYNAMIC", "--layer", "linear", *QUICK)
    assert (ran.code, ran.out) == (0, "")
    assert "configurations" in ran.err
    assert "0 findings in" in ran.err


def test_a_wrong_spec(cli: Cli, wrong: Path) -> None:  # noqa: F811
    ran = cli("verify", wrong, *QUICK)
    ran.refused("verify-weights", "weight_scale_second", "worst at", "allowed there is")
    assert "1 finding in" in ran.err


def test_formats(cli: Cli, wrong: Path) -> None:  # noqa: F811
    found = json.loads(cli("verify", wrong, *QUICK, "--format", "json").out)
    assert [finding["code"] for finding in found] == ["verify-weights"]
    assert cli("verify", wrong, *QUICK, "--format", "concise").out.count("\n") == 1
    assert cli("verify", wrong, *QUICK, "--format", "github").out.startswith("::error")
    assert cli("verify", "W4A8_DYNAMIC.linear", *QUICK, "--format", "json").out.strip() == "[]"


def test_what_is_named_wrongly(cli: Cli, tmp_path: Path) -> None:  # noqa: F811
    cli("verify", "NOTHING").refused("spec-unknown")
    cli("verify", "W4A8_DYNAMIC.linear", "--set", "group_size=many").refused("config-type")
    cli("verify", "W4A8_DYNAMIC.linear", "--set", "groupsize=1").refused("config-unknown")
    cli("verify", tmp_path / "none.linear.yaml").refused("file-missing")
    cli("verify", "W4A8_DYNAMIC.linear", "--against", "nowhere:Class").refused("against-import")


def test_what_is_no_command(cli: Cli) -> None:  # noqa: F811
    cli("verify", "--against", "a:B").misused("--against")
    cli("verify", "W4A8_DYNAMIC.linear", "--fast").misused("there is no option `--fast`")


def test_a_spec_with_errors_ends_there(cli: Cli, wrong: Path) -> None:  # noqa: F811
    wrong.write_text(wrong.read_text().replace("contiguous | nz", "nz"))
    ran = cli("verify", wrong)
    ran.refused("nz-not-contiguous")
    assert "nothing was run" in ran.err


def test_against(cli: Cli) -> None:  # noqa: F811
    same = cli("verify", "W4A8_DYNAMIC.linear", "--against", "tests.verify.schemes:W4A8Linear", "--set", "group_size=64")
    assert (same.code, same.out) == (0, "")
    cli("verify", "W4A8_DYNAMIC.linear", "--against", "tests.verify.schemes:NeverFlat", "--set", "group_size=64").refused("verify-against", "scale_bias")


def test_several_specs(cli: Cli) -> None:  # noqa: F811
    ran = cli("verify", "W4A8_DYNAMIC.linear", "W4A8_DYNAMIC.linear", *QUICK)
    assert ran.err.count("findings in") == 1
