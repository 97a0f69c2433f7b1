"""``layoutdsl validate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import SPEC, Cli


def test_all_bundled_specs_are_right(cli: Cli) -> None:
    ran = cli("validate")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.splitlines()[-1].startswith(f"{len(list(Path('specs').glob('*.yaml')))} specs: 0 errors")


def test_notes_only_on_demand(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace("  scale:", "  unused: float32[n, k]\n  scale:"))
    quiet, loud = cli("validate", path), cli("validate", path, "--notes")
    assert (quiet.code, quiet.out, loud.code) == (0, "", 0)
    assert "note[loaded-unused]" in loud.out
    assert quiet.err == "1 spec: 0 errors, 0 warnings, 2 notes (shown with --notes)\n"
    assert loud.err == "1 spec: 0 errors, 0 warnings, 2 notes\n"


def test_bad_specs_do_not_stop_the_others(cli: Cli, tmp_path: Path, tiny: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(SPEC.replace("transpose(k, n)", "transpse(k, n)"))
    broken = tmp_path / "broken.yaml"
    broken.write_bytes(b"\xff\xfe")
    ran = cli("validate", bad, tmp_path / "none.yaml", tmp_path, "NOT_A_SCHEME", broken, tiny, tiny, "--format", "concise")
    assert ran.code == 1
    for code in ("op-unknown", "file-missing", "spec-unknown", "file-encoding"):
        assert f"error[{code}]" in ran.out
    assert ran.err.startswith("6 specs: ")


def test_formats(cli: Cli, tmp_path: Path, tiny: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(SPEC.replace("transpose(k, n)", "transpse(k, n)"))
    (finding,) = json.loads(cli("validate", bad, "--format", "json").out)
    assert (finding["code"], finding["line"], finding["severity"]) == ("op-unknown", 17, "error")
    assert json.loads(cli("validate", tiny, "--format", "json").out) == []
    assert cli("validate", bad, "--format", "github").out.startswith("::error file=")
    assert "^" in cli("validate", bad, "--format", "text").out


def test_layer(cli: Cli, tiny: Path) -> None:
    assert cli("validate", "W4A8_DYNAMIC", "--layer", "moe").err.startswith("1 spec: 0 errors")
    assert cli("validate", tiny, "--layer", "linear").code == 0
    cli("validate", tiny, "--layer", "moe").refused("layer-differs")
    cli("validate", "W4A8_DYNAMIC").refused("layer-missing")


@pytest.mark.parametrize("option", [(), ("--no-cache",)])
def test_the_cache_changes_nothing(cli: Cli, tmp_path: Path, option: tuple[str, ...]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(SPEC.replace("transpose(k, n)", "transpse(k, n)"))
    first = cli("validate", bad)
    assert cli("validate", bad, *option) == first


def test_what_a_spec_extends_is_part_of_it(cli: Cli, tmp_path: Path) -> None:
    """A result from the cache is one of the texts that are there now, and it points into the file that is wrong."""
    parent, child = tmp_path / "parent.linear.yaml", tmp_path / "child.linear.yaml"
    parent.write_text(SPEC)
    child.write_text(SPEC[: SPEC.index("axes:")] + "extends: PARENT.linear\n")
    assert (cli("validate", child).code, cli("validate", child).code) == (0, 0)
    parent.write_text(SPEC.replace("transpose(k, n)", "transpose(n, k)"))
    fresh, again = cli("validate", child), cli("validate", child)
    assert (fresh.code, again.code) == (1, 1)
    assert fresh.out == again.out == cli("validate", child, "--no-cache").out
    assert str(parent) in again.out
