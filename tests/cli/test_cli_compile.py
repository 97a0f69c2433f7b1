"""``layoutdsl compile`` and ``layoutdsl schema``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import layoutdsl
from layoutdsl.syntax.schema import SCHEMA
from tests.cli.conftest import Cli


def test_to_a_file(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    ran = cli("compile", "W4A8_DYNAMIC.linear", "-o", out, "--set", "group_size=64", "--params-dtype", "float16")
    plan = layoutdsl.compile_spec("W4A8_DYNAMIC.linear", config={"group_size": 64}, params_dtype="float16")
    assert (ran.code, ran.out) == (0, "") and plan.hash in ran.err
    assert out.read_text() == plan.to_json() + "\n"
    assert layoutdsl.load_plan(out).hash == plan.hash
    assert os.listdir(tmp_path) == ["plan.json"]


def test_to_stdout(cli: Cli) -> None:
    ran = cli("compile", "W4A8_DYNAMIC.linear", "-o", "-")
    assert ran.err == "" and ran.out == layoutdsl.compile_spec("W4A8_DYNAMIC.linear").to_json() + "\n"


def test_refused_output_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    out.write_text("old")
    cli("compile", "W4A8_DYNAMIC.linear", "-o", out, "--set", "group_size=x").refused("config-type")
    cli("compile", "W4A8_DYNAMIC.linear", "-o", out / "below").refused("file-unwritable")
    cli("compile", "W4A8_DYNAMIC.linear", "-o", tmp_path).refused("file-unwritable", "directory")
    assert out.read_text() == "old" and os.listdir(tmp_path) == ["plan.json"]


def test_unreachable_configuration(cli: Cli) -> None:
    cli("compile", "W4A8_DYNAMIC.moe", "-o", "-", "--set", "tp_size=3", "version=1.0.0").refused("requirement-failed", "16 % tp_size == 0")


def test_schema(cli: Cli) -> None:
    ran = cli("schema")
    assert ran.code == 0 and json.loads(ran.out) == SCHEMA
