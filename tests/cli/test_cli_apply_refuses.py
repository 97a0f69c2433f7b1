"""``layoutdsl apply`` on what it must refuse: a finding, nothing half-written, nothing lost; never a traceback."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from layoutdsl.cli import tensor_file
from layoutdsl.diagnostics import DiagnosticError
from tests.cli.conftest import Cli, Ran
from tests.golden.recorded import recorded

COMMON = ("--scheme", "W4A8_DYNAMIC.linear", "--set", "group_size=32")
Apply = Callable[..., Ran]


@pytest.fixture
def apply(cli: Cli, tmp_path: Path) -> Apply:
    """Apply to an OUT that exists: refused or not, the folder holds nothing new, and a refusal leaves OUT as it was."""
    out = tmp_path / "kept" / "out.safetensors"
    out.parent.mkdir()

    def run(source: Path, *options: str) -> Ran:
        out.write_bytes(b"old")
        ran = cli("apply", source, "-o", out, *(options or COMMON))
        assert os.listdir(out.parent) == [out.name]
        assert (out.read_bytes() == b"old") == (ran.code != 0)
        return ran

    return run


def small() -> bytes:
    """The bytes of a right file, as small as can be: 8 x 32, one group."""
    case = recorded("release/w4a8_dynamic.linear.unpacked").inputs
    cut = {"weight": (8, 32), "weight_scale": (8, 1), "weight_offset": (8, 1), "weight_scale_second": (8, 1), "weight_offset_second": (8, 1)}
    from safetensors.torch import save

    return save({name: case[name][:rows, :columns].contiguous() for name, (rows, columns) in cut.items()})


# ---- files that are none -----------------------------------------------------------------------------------------------------------------------------------


def test_every_prefix_of_a_file(tmp_path: Path) -> None:
    data, path = small(), tmp_path / "cut.safetensors"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(DiagnosticError) as caught, tensor_file.opened(str(path)):
            pass
        (finding,) = caught.value.diagnostics
        assert finding.code == "file-not-safetensors"
        assert finding.message == "the file is empty" if length == 0 else "the file is cut" in finding.message, length


def test_prefixes_through_the_command(apply: Apply, tmp_path: Path) -> None:
    data, path = small(), tmp_path / "cut.safetensors"
    header = 8 + int.from_bytes(data[:8], "little")
    for length in (0, 1, 7, 8, 9, header - 1, header, header + 1, len(data) - 1):
        path.write_bytes(data[:length])
        apply(path).refused("file-not-safetensors")
    path.write_bytes(data)
    assert apply(path).code == 0
    path.write_bytes(data + b"\0")
    apply(path).refused("file-not-safetensors", "damaged")


def test_flipped_bytes_of_the_header(apply: Apply, tmp_path: Path) -> None:
    """Whatever a flip makes of the header: a finding, or a file that the library itself reads as the same tensors."""
    data, path, chance = small(), tmp_path / "flipped.safetensors", random.Random(1)
    path.write_bytes(data)
    right = load_file(path)
    for _ in range(150):
        flipped = bytearray(data)
        place = chance.randrange(8 + int.from_bytes(data[:8], "little"))
        flipped[place] ^= chance.choice([1, 2, 4, 8, 16, 32, 64, 128, 255])
        path.write_bytes(flipped)
        ran = apply(path)
        if ran.code == 0:
            again = load_file(path)
            assert again.keys() == right.keys() and all(torch.equal(again[name], right[name]) for name in right)
        else:
            ran.refused()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "the file is empty"),
        (b"\x80\x02}q\x00.pickle, not safetensors", "this is not a safetensors file"),
        (b"PK\x03\x04" + bytes(200), "this is not a safetensors file"),
        (struct.pack("<Q", 1 << 62) + b"{}", "this is not a safetensors file"),
        (struct.pack("<Q", 40000) + b"{" * 40000, "damaged"),
        (struct.pack("<Q", 40000) + b'{"a":' + b"[" * 39995, "damaged"),
        (struct.pack("<Q", 8) + b"[1,2,3] ", "this is not a safetensors file"),
        (struct.pack("<Q", 8) + b'{"\xff\xfe":1}', "damaged"),
    ],
)
def test_other_files(apply: Apply, tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(data)
    apply(path).refused("file-not-safetensors", text)


def test_no_file_and_folder(apply: Apply, tmp_path: Path) -> None:
    apply(tmp_path / "none.safetensors").refused("file-missing")
    apply(tmp_path).refused("file-unreadable", "this is a directory")
    apply(tmp_path / "a\0b").refused("file-unreadable", "null character")
    apply(tmp_path / ("x" * 5000)).refused("file-unreadable", "too long")


def header_only(entries: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("code", ["F4", "F6_E2M3", "C64", "F8_E5M2"])
def test_dtypes_that_no_layer_has(apply: Apply, tmp_path: Path, code: str) -> None:
    tensors = load_file_bytes(tmp_path)
    width = {"F4": 4, "F6_E2M3": 6, "C64": 64, "F8_E5M2": 8}[code]
    entries, data = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if name != "weight" else bytes(tensor.numel() * width // 8)
        kind = {"weight": code}.get(name, "BF16")
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    path = tmp_path / "odd.safetensors"
    path.write_bytes(header_only(entries, data))
    apply(path).refused("tensor-dtype", "`weight`", "expected int8")


def load_file_bytes(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "small.safetensors"
    path.write_bytes(small())
    return load_file(path)


# ---- tensors that do not fit -------------------------------------------------------------------------------------------------------------------------------


def changed(folder: Path, **tensors: torch.Tensor | None) -> Path:
    """The recorded inputs with some replaced, added or (None) left out."""
    found = {**recorded("release/w4a8_dynamic.linear.unpacked").inputs, **tensors}
    save_file({name: tensor for name, tensor in found.items() if tensor is not None}, folder / "changed.safetensors")
    return folder / "changed.safetensors"


def test_missing(apply: Apply, tmp_path: Path) -> None:
    apply(changed(tmp_path, weight_scale=None)).refused("tensor-missing", "`weight_scale` is missing", "expected bfloat16[64, 1]")
    apply(changed(tmp_path, weight=None)).refused("tensor-missing", "`weight` is missing", "expected int8[")
    save_file({}, tmp_path / "none.safetensors")
    apply(tmp_path / "none.safetensors").refused("`weight` is missing", "`weight_scale` is missing")


def test_unexpected(apply: Apply, tmp_path: Path) -> None:
    apply(changed(tmp_path, extra=torch.zeros(3))).refused("tensor-unexpected", "`extra`", "found float32[3]")
    ran = apply(changed(tmp_path, weight=None, wieght=torch.zeros(64, 128, dtype=torch.int8)))
    ran.refused("tensor-missing", "tensor-unexpected", "`wieght`")


def test_wrong_dtype(apply: Apply, tmp_path: Path) -> None:
    weight = torch.zeros(64, 128, dtype=torch.uint8)
    apply(changed(tmp_path, weight=weight)).refused("tensor-dtype", "`weight` is uint8, not int8", "expected int8[64, 128]", "found uint8[64, 128]")


def test_wrong_shape(apply: Apply, tmp_path: Path) -> None:
    apply(changed(tmp_path, weight=torch.zeros(64, 64, dtype=torch.int8))).refused("tensor-shape")
    apply(changed(tmp_path, weight=torch.zeros(64, dtype=torch.int8))).refused("tensor-shape", "1 dims")
    apply(changed(tmp_path, weight=torch.zeros(0, 128, dtype=torch.int8))).refused("tensor-shape")


def test_hostile_tensor_names(apply: Apply, tmp_path: Path) -> None:
    ran = apply(changed(tmp_path, **{"\x1b[31mred\n": torch.zeros(1)}))
    ran.refused(r"\x1b[31mred\n")
    assert "\x1b" not in ran.out


def test_wrong_configuration(apply: Apply, linear: Path) -> None:
    scheme = ("--scheme", "W4A8_DYNAMIC.linear")
    apply(linear, *scheme, "--set", "group_sise=32").refused("config-unknown", "`group_size`")
    apply(linear, *scheme, "--set", "group_size=x").refused("config-type")
    apply(linear, *scheme).refused("tensor-shape", "weight_scale_second")
    apply(linear, "--scheme", "W4A9.linear").refused("spec-unknown")
    apply(linear, *COMMON, "--params-dtype", "float16").refused("tensor-dtype")


def test_wrong_sizes(apply: Apply, linear: Path) -> None:
    apply(linear, *COMMON, "--sizes", "input_size=128", "output_size=32").refused("tensor-shape", "`weight` has shape [64, 128], not [32, 128]")
    apply(linear, *COMMON, "--sizes", "input_size=128").refused("size-missing")
    apply(linear, *COMMON, "--sizes", "input_size=128", "output_size=64", "width=2").refused("size-unknown")
    apply(linear, *COMMON, "--sizes", "input_size=128", "output_size=0").refused("size-invalid")
    apply(linear, *COMMON, "--sizes", "input_size=9999999999999999999", "output_size=9999999999999999999").refused()
    apply(linear, *COMMON, "--sizes", "input_size=100", "output_size=64").refused("requirement-failed")


def test_random_sizes_of_headers(apply: Apply, tmp_path: Path) -> None:
    """Tensors of any shape and dtype under the right names."""
    chance = random.Random(2)
    dtypes = [torch.int8, torch.bfloat16, torch.float32, torch.bool, torch.uint16]
    names = list(recorded("release/w4a8_dynamic.linear.unpacked").inputs)
    for _ in range(30):
        tensors = {
            name: torch.zeros([chance.choice([0, 1, 3, 8, 32, 64]) for _ in range(chance.choice([0, 1, 2, 2, 2, 3]))], dtype=chance.choice(dtypes))
            for name in names
        }
        save_file(tensors, tmp_path / "random.safetensors")
        apply(tmp_path / "random.safetensors").refused()


# ---- outputs that cannot be written ------------------------------------------------------------------------------------------------------------------------


def test_output_places(cli: Cli, linear: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    before = sorted(os.listdir(tmp_path))
    for out, text in [
        (tmp_path, "it is a directory"),
        (tmp_path / "none" / "out.safetensors", "its folder does not exist"),
        (tmp_path / "file" / "out.safetensors", "not a directory"),
        (tmp_path / ("x" * 300), "file name too long"),
        (tmp_path / "a\0b", "null character"),
    ]:
        cli("apply", linear, "-o", out, *COMMON).refused("file-unwritable", text)
        assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(cli: Cli, linear: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    cli("apply", linear, "-o", folder / "out.safetensors", *COMMON).refused("file-unwritable", "permission denied")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), RuntimeError("boom"), KeyboardInterrupt(), MemoryError()])
def test_failure_half_way(cli: Cli, linear: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException) -> None:
    real = tensor_file.write

    def write(file: Any, *rest: Any) -> int:
        real(file, *rest)
        raise failure

    before, names = linear.read_bytes(), os.listdir(linear.parent)
    monkeypatch.setattr(tensor_file, "write", write)
    ran = cli("apply", linear, "-o", linear, *COMMON)
    assert ran.code == {OSError: 1, RuntimeError: 3, KeyboardInterrupt: 130, MemoryError: 1}[type(failure)]
    assert linear.read_bytes() == before and os.listdir(linear.parent) == names
    assert "Traceback" not in ran.out + ran.err


def test_too_little_memory(cli: Cli, linear: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr("layoutdsl.api.Plan.run", run)
    cli("apply", linear, "-o", tmp_path / "out.safetensors", *COMMON).refused("memory-exhausted", "--donate")


def test_without_torch(cli: Cli, linear: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    cli("apply", linear, "-o", tmp_path / "out.safetensors", *COMMON).refused("torch-missing", "layoutdsl[torch]")
