"""`layoutdsl diff A B`: the table, the formats, the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoint.filled import change, dense, swapped, w4a8_experts
from tests.checkpoint.folders import Draft
from tests.cli.conftest import Ran

EXPERT = "model.layers.0.mlp.experts.1.up_proj.weight"
Cli = Callable[..., Ran]


@pytest.fixture
def two(tmp_path: Path) -> Callable[[Draft, Draft], list[str]]:
    return lambda one, other: [str(one.write(tmp_path / "a")), str(other.write(tmp_path / "b"))]


def wrong() -> Draft:
    draft = w4a8_experts()
    change(draft, EXPERT, swapped)
    return draft


def test_the_table_is_sorted_and_cut(cli: Cli, two: Callable[[Draft, Draft], list[str]]) -> None:
    ran = cli("diff", *two(wrong(), w4a8_experts()), "--top", "3")
    head, first, *rest = ran.out.splitlines()
    assert ran.code == 0
    assert head.split() == ["SQNR,", "dB", "max", "error", "at", "stored", "as", "tensor"]
    assert first.split()[-1] == EXPERT
    assert float(first.split()[0]) < 5
    assert len(rest) == 2
    assert "1 more" not in ran.err
    assert "with --top 0)" in ran.err


def test_a_threshold_makes_findings(cli: Cli, two: Callable[[Draft, Draft], list[str]]) -> None:
    folders = two(wrong(), w4a8_experts())
    cli("diff", *folders, "--min-sqnr", "15").refused("values-differ", EXPERT)
    assert cli("diff", *folders, "--min-sqnr", "-40").code == 0


def test_json_holds_the_rows(cli: Cli, two: Callable[[Draft, Draft], list[str]]) -> None:
    ran = cli("diff", *two(wrong(), w4a8_experts()), "--format", "json", "--min_sqnr", "15", "--top", "2")
    found = json.loads(ran.out)
    assert ran.code == 1
    assert [(finding["code"], finding["file"]) for finding in found][:2] == [("values-differ", EXPERT), ("tensor-difference", EXPERT)]
    assert len(found) == 3


def test_only_some_layers(cli: Cli, two: Callable[[Draft, Draft], list[str]]) -> None:
    ran = cli("diff", *two(wrong(), w4a8_experts()), "--layers", "model.layers.0.mlp.experts.1.*", "--top", "0")
    assert len(ran.out.splitlines()) == 1 + 3


def test_schemes_of_other_devices_are_decoded_without_naming_one(cli: Cli, two: Callable[[Draft, Draft], list[str]]) -> None:
    other = dense("W8A8_MXFP8")
    change(other, "model.layers.0.mlp.up_proj.weight_scale", lambda array: np.clip(array + 1, 0, 254))
    ran = cli("diff", *two(dense("W8A8_MXFP8"), other), "--top", "1")
    assert ran.code == 0
    # Twice the weight: the noise is the signal.
    assert ran.out.splitlines()[1].split()[0] in ("0.00", "-0.00")


def test_a_folder_that_is_none(cli: Cli, tmp_path: Path) -> None:
    right = dense("W8A8_DYNAMIC").write(tmp_path / "a")
    assert cli("diff", str(right), str(tmp_path / "none")).code == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--top", "many"], "`many` is not a whole number"),
        (["--min-sqnr", "good"], "`good` is not a number"),
        (["--max-memory", "some"], "some"),
        (["--consumer", "vllm"], "vllm"),
        (["--device", "gpu"], "gpu"),
    ],
)
def test_misuse(cli: Cli, tmp_path: Path, options: list[str], text: str) -> None:
    cli("diff", str(tmp_path), str(tmp_path), *options).misused(text)


def test_a_glob_that_names_nothing(cli: Cli, two: Callable[[Draft, Draft], list[str]]) -> None:
    """Nothing compared is no success: a typo in a script would pass for ever."""
    folders = two(dense("W8A8_DYNAMIC"), dense("W8A8_DYNAMIC"))
    cli("diff", *folders, "--layers", "layers.9.*").misused("`layers.9.*`")


def test_which_folder_is_wrong(cli: Cli, two: Callable[[Draft, Draft], list[str]]) -> None:
    """Both folders have files of the same names."""
    one, other = two(dense("W8A8_DYNAMIC"), dense("W8A8_DYNAMIC"))
    (Path(other) / "config.json").write_text("{")
    ran = cli("diff", one, other)
    assert ran.code == 1
    assert f"in {other}" in ran.out
    assert f"in {one}" not in ran.out
