"""``layoutdsl apply``: the recorded layers through files, and what the file says."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.cli.conftest import Cli
from tests.golden.compare import bits
from tests.golden.recorded import FILES, recorded


def settings(config: dict[str, Any]) -> list[str]:
    return [word for name, value in config.items() for word in ("--set", f"{name}={value}")]


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


@pytest.mark.parametrize("name", FILES)
def test_recorded(cli: Cli, tmp_path: Path, name: str) -> None:
    case = recorded(name)
    save_file(case.inputs, tmp_path / "in.safetensors")
    options = ["--scheme", case.scheme, "--layer", case.layer, "--params-dtype", case.params_dtype, *settings(case.config)]
    sizes = [f"{size}={value}" for size, value in case.sizes.items()] if case.layer == "attention" else []  # their tensors do not tell all of them
    ran = cli("apply", tmp_path / "in.safetensors", "-o", tmp_path / "out.safetensors", *options, *(["--sizes", *sizes] if sizes else []))
    assert (ran.code, ran.out) == (0, ""), ran
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == case.outputs.keys()
    for key, want in case.outputs.items():
        assert (str(found[key].dtype), found[key].shape) == (f"torch.{case.meta['outputs'][key]['dtype']}", want.shape)
        assert torch.equal(bits(found[key]), bits(want)), key
    said = metadata(tmp_path / "out.safetensors")
    assert (said["scheme"].lower(), said["layer"], said["consumer"]) == (case.scheme, case.layer, case.consumer)
    assert json.loads(said.get("values", "{}")) == case.numbers
    assert said["plan"] == case.unbound.hash and str(tmp_path) not in str(said)


COMMON = ("--scheme", "W4A8_DYNAMIC.linear", "--set", "group_size=32")


def test_same_bytes_whatever_the_way(cli: Cli, linear: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.safetensors"
    assert cli("apply", linear, "-o", first, *COMMON).code == 0
    before = linear.read_bytes()
    for i, extra in enumerate([(), ("--donate",), ("--sizes", "input_size=128", "output_size=64"), ("--set", "version=0")]):
        other = tmp_path / "sub" / f"{i}.safetensors"
        other.parent.mkdir(exist_ok=True)
        assert cli("apply", linear, "-o", other, *COMMON, *extra).code == 0
        assert other.read_bytes() == first.read_bytes()
    assert linear.read_bytes() == before


def test_the_format_is_that_of_the_library(cli: Cli, linear: Path, tmp_path: Path) -> None:
    """Sorted, aligned, without gaps: the library reads it, and writes the same tensors."""
    out = tmp_path / "out.safetensors"
    cli("apply", linear, "-o", out, *COMMON)
    length = int.from_bytes(out.read_bytes()[:8], "little")
    header = json.loads(out.read_bytes()[8 : 8 + length])
    header.pop("__metadata__")
    assert length % 8 == 0
    spans = [entry["data_offsets"] for entry in header.values()]
    assert spans[0][0] == 0 and all(a[1] == b[0] for a, b in zip(spans, spans[1:])) and 8 + length + spans[-1][1] == out.stat().st_size


def test_fast_math_is_recorded(cli: Cli, linear: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    assert cli("apply", linear, "-o", out, *COMMON, "--math", "fast").code == 0
    assert metadata(out)["math"] == "fast"


def test_warns_of_broken_limits(cli: Cli, linear: Path, tmp_path: Path) -> None:
    ran = cli("apply", linear, "-o", tmp_path / "out.safetensors", *COMMON)
    assert "warning[limit-broken]" in ran.err and ran.out == ""


def test_json_success_is_an_empty_list(cli: Cli, linear: Path, tmp_path: Path) -> None:
    assert json.loads(cli("apply", linear, "-o", tmp_path / "out.safetensors", *COMMON, "--format", "json").out) == []


def test_in_place(cli: Cli, linear: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    cli("apply", linear, "-o", other, *COMMON)
    assert cli("apply", linear, "-o", linear, *COMMON).code == 0
    assert linear.read_bytes() == other.read_bytes()


def test_mode_and_link_of_an_old_output_stay(cli: Cli, linear: Path, tmp_path: Path) -> None:
    old, link = tmp_path / "old.safetensors", tmp_path / "link.safetensors"
    old.write_bytes(b"old")
    old.chmod(0o640)
    link.symlink_to(old)
    assert cli("apply", linear, "-o", link, *COMMON).code == 0
    assert link.is_symlink() and stat.S_IMODE(old.stat().st_mode) == 0o640 and old.stat().st_size > 3


def test_mode_of_a_new_output(cli: Cli, linear: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        cli("apply", linear, "-o", tmp_path / "new.safetensors", *COMMON)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new.safetensors").stat().st_mode) == 0o640


def test_lists_numbers_and_defaults(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    weight = torch.arange(-6, 6, dtype=torch.int8).reshape(4, 3)
    save_file({"weight": weight}, tmp_path / "in.safetensors")
    out = tmp_path / "out.safetensors"
    ran = cli("apply", tmp_path / "in.safetensors", "-o", out, "--scheme", tiny, "-tp", "4")
    assert ran.code == 0, ran
    found = load_file(out)
    assert set(found) == {"weight", "scale", "rows.0", "rows.1", "rows.2", "rows.3", "turned", "total"}
    assert all(torch.equal(found[f"rows.{i}"], weight[i]) for i in range(4))
    assert torch.equal(found["turned"], weight.T) and torch.equal(found["scale"], torch.ones(4))
    assert json.loads(metadata(out)["values"]) == {"ranks": 4}


def test_devices_and_pipes_are_written_directly(cli: Cli, linear: Path) -> None:
    assert cli("apply", linear, "-o", os.devnull, *COMMON).code == 0
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
def test_full_device(cli: Cli, linear: Path) -> None:
    cli("apply", linear, "-o", "/dev/full", *COMMON).refused("file-unwritable", "no space left on device")
