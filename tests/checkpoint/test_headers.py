"""Headers: each planted fault makes its one finding, and a file is refused exactly where the safetensors library refuses it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from folders import Tensor, write_safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from layoutdsl.checkpoint.headers import DTYPES, read_header
from layoutdsl.checkpoint.model import StoredTensor

GOOD: dict[str, Any] = {
    "a": {"dtype": "I8", "shape": [2, 3], "data_offsets": [0, 6]},
    "b": {"dtype": "F32", "shape": [2], "data_offsets": [6, 14]},
    "c": {"dtype": "BF16", "shape": [], "data_offsets": [14, 16]},
}


def stored(path: Path, header: Any, data: int = 16) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return {**GOOD, name: {**GOOD[name], **fields}}


def text(*entries: str) -> bytes:
    return ("{" + ", ".join(entries) + "}").encode()


A = '"a": {"dtype": "I8", "shape": [16], "data_offsets": [0, 16]}'

FAULTS: dict[str, tuple[Any, str, str]] = {
    "dtype unknown": (changed("a", dtype="I4"), "header-dtype", "a"),
    "dtype not a text": (changed("a", dtype=8), "header-entry", "a"),
    "shape missing": ({**GOOD, "b": {"dtype": "F32", "data_offsets": [6, 14]}}, "header-entry", "b"),
    "shape of texts": (changed("b", shape=["2"]), "header-entry", "b"),
    "shape of truth values": (changed("b", shape=[True, 2]), "header-entry", "b"),
    "shape negative": (changed("b", shape=[-2]), "header-entry", "b"),
    "shape huge": (changed("b", shape=[1 << 70]), "header-entry", "b"),
    "rank huge": (changed("b", shape=[1] * 65), "header-entry", "b"),
    "entry not an object": ({**GOOD, "b": [2]}, "header-entry", "b"),
    "metadata of numbers": ({**GOOD, "__metadata__": {"n": 1}}, "header-entry", "__metadata__"),
    "one offset": (changed("b", data_offsets=[6]), "header-entry", "b"),
    "offsets of floats": (changed("b", data_offsets=[6.0, 14.0]), "header-entry", "b"),
    "offsets reversed": (changed("b", data_offsets=[14, 6]), "header-offsets", "b"),
    "offsets negative": (changed("a", data_offsets=[-6, 0]), "header-offsets", "a"),
    "offsets behind the end": (changed("c", data_offsets=[1000, 1002]), "header-offsets", "c"),
    "shape transposed and grown": (changed("a", shape=[3, 3]), "header-size", "a"),
    "dtype wider": (changed("b", dtype="F64"), "header-size", "b"),
    "half bytes": ({"a": {"dtype": "F4", "shape": [33], "data_offsets": [0, 16]}}, "header-size", "a"),
    "overlap": (changed("b", data_offsets=[4, 12]), "header-overlap", "b"),
    "same bytes": (changed("b", dtype="I8", shape=[6], data_offsets=[0, 6]), "header-overlap", "b"),
    "hole": ({name: GOOD[name] for name in "ac"}, "header-hole", "c"),
    "rest": ({name: GOOD[name] for name in "ab"}, "header-hole", "x.safetensors"),
    "not JSON": (b'{"a": ', "json-syntax", "x.safetensors"),
    "not UTF-8": (b'{"\xff": 1}', "json-syntax", "x.safetensors"),
    "a number without end": (text('"a": ' + "1" * 5000), "json-syntax", "x.safetensors"),
    "nested": (text('"a": ' + "[" * 5000 + "]" * 5000), "json-too-deep", "x.safetensors"),
    "nested a little": (text('"a": ' + "[" * 100 + "]" * 100), "json-too-deep", "x.safetensors"),
    "NaN": (text(A.replace("}", ', "extra": NaN}')), "json-constant", "x.safetensors"),
    "twice": (text(A, A), "json-duplicate", "x.safetensors"),
    "a list": (b"[1, 2]", "file-not-safetensors", "x.safetensors"),
}


@pytest.mark.parametrize(("header", "code", "where"), FAULTS.values(), ids=FAULTS)
def test_each_fault_makes_one_finding(tmp_path: Path, header: Any, code: str, where: str) -> None:
    _, findings = read_header(stored(tmp_path / "x.safetensors", header))
    assert [(finding.code, finding.where) for finding in findings] == [(code, where)]


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "file-empty"),
    "five bytes": (b"12345", "shard-truncated"),
    "a pickle": (b"PK\x03\x04" + bytes(60), "file-not-safetensors"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4995584424\n", "lfs-pointer"),
    "header behind the end": ((1000).to_bytes(8, "little") + b'{"a": 1}', "shard-truncated"),
    "header of 2**60 bytes": ((1 << 60).to_bytes(8, "little") + b'{"a": 1}', "header-too-long"),
}


@pytest.mark.parametrize(("content", "code"), FILES.values(), ids=FILES)
def test_files_that_have_no_header(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    tensors, findings = read_header(path)
    assert not tensors
    assert [(finding.code, finding.where) for finding in findings] == [(code, "x.safetensors")]


def test_places_that_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "link.safetensors").symlink_to("../blobs/0000")
    (tmp_path / "loop.safetensors").symlink_to("loop.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    codes = {name: read_header(tmp_path / f"{name}.safetensors")[1][0].code for name in ("folder", "link", "loop", "pipe", "none")}
    assert codes == {"folder": "file-unreadable", "link": "file-missing", "loop": "file-unreadable", "pipe": "file-unreadable", "none": "file-missing"}


def test_what_is_read(tmp_path: Path) -> None:
    path = stored(tmp_path / "x.safetensors", GOOD)
    tensors, findings = read_header(path)
    start = path.stat().st_size - 16
    assert not findings
    assert tensors == [
        StoredTensor("a", "int8", (2, 3), path, start, start + 6),
        StoredTensor("b", "float32", (2,), path, start + 6, start + 14),
        StoredTensor("c", "bfloat16", (), path, start + 14, start + 16),
    ]


def test_a_cut_file_still_has_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": Tensor("I8", (4, 4)), "b": Tensor("F32", (8,))})
    os.truncate(path, path.stat().st_size - 1)
    tensors, findings = read_header(path)
    assert [tensor.name for tensor in tensors] == ["a", "b"]
    assert [(finding.code, finding.where) for finding in findings] == [("shard-truncated", path.name)]
    assert "`b`" in findings[0].notes[1]


def test_no_tensor_byte_is_read(tmp_path: Path) -> None:
    """A file of 1 TiB, nearly all of it a hole."""
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": Tensor("F32", (1 << 38,))})
    assert path.stat().st_size > 1 << 40
    assert read_header(path)[0][0].shape == (1 << 38,)


def test_every_hole_is_told(tmp_path: Path) -> None:
    _, findings = read_header(stored(tmp_path / "x.safetensors", {"b": GOOD["b"]}))
    assert [(finding.code, finding.where) for finding in findings] == [("header-hole", "b"), ("header-hole", "x.safetensors")]


def test_findings_of_a_file_are_bounded(tmp_path: Path) -> None:
    _, findings = read_header(stored(tmp_path / "x.safetensors", {str(number): 0 for number in range(5000)}))
    assert len(findings) == 101
    assert findings[-1].message.startswith("4900 more")


@pytest.mark.parametrize("code", DTYPES)
def test_dtypes_are_torchs(tmp_path: Path, code: str) -> None:
    bits = DTYPES[code][1]
    path = stored(tmp_path / "x.safetensors", {"a": {"dtype": code, "shape": [3, 8], "data_offsets": [0, 3 * bits]}}, 3 * bits)
    tensors, findings = read_header(path)
    assert not findings
    if code.startswith("F6"):
        return  # torch has none
    with safe_open(path, "pt") as file:
        tensor = file.get_tensor("a")
    assert (f"torch.{tensors[0].dtype}", tensors[0].shape) == (str(tensor.dtype), tuple(tensor.shape))


# --- against the library ------------------------------------------------------------------------------------------------------------------------------------

NUMBERS = st.integers(-3, 24) | st.sampled_from([1 << 40, 1 << 63, 1 << 64, True, None, 2.0, "4"])
ENTRIES = st.fixed_dictionaries(
    {}, optional={"dtype": st.sampled_from([*DTYPES, "I4", "f32", 1]), "shape": st.lists(NUMBERS, max_size=3), "data_offsets": st.lists(NUMBERS, max_size=3)}
)
HEADERS = st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), ENTRIES | st.none() | st.integers(), max_size=3)
SIZES = st.lists(st.tuples(st.sampled_from(["I8", "F32", "F4", "C64"]), st.integers(0, 3), st.integers(0, 2)), max_size=4)


@settings(max_examples=150, deadline=None)
@given(header=HEADERS, data=st.integers(0, 24))
def test_any_header(tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], data: int) -> None:
    agree_with_library(stored(tmp_path_factory.getbasetemp() / "any.safetensors", header, data))


@settings(max_examples=150, deadline=None)
@given(sizes=SIZES, shift=st.integers(-4, 4), which=st.integers(0, 7), rest=st.integers(-3, 3))
def test_nearly_right_headers(tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[str, int, int]], shift: int, which: int, rest: int) -> None:
    """Tensors one behind the other, one offset moved by a few bytes, the file a few bytes longer or shorter."""
    header, end = {}, 0
    for at, (code, n, k) in enumerate(sizes):
        size = -(-DTYPES[code][1] * n * k // 8)
        moved = [end + (shift if which == 2 * at else 0), end + size + (shift if which == 2 * at + 1 else 0)]
        header[f"t{at}"], end = {"dtype": code, "shape": [n, k], "data_offsets": moved}, end + size
    agree_with_library(stored(tmp_path_factory.getbasetemp() / "near.safetensors", header, max(0, end + rest)))


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=64), start=st.booleans())
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + b"{" + content if start else content)
    agree_with_library(path)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 250), byte=st.integers(0, 255))
def test_any_changed_byte(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int) -> None:
    path = stored(tmp_path_factory.getbasetemp() / "changed.safetensors", GOOD)
    content = bytearray(path.read_bytes())
    content[at % len(content)] = byte
    path.write_bytes(content)
    agree_with_library(path)


def agree_with_library(path: Path) -> None:
    """What the library refuses has a finding, and what it takes has none."""
    _, findings = read_header(path)
    try:
        with safe_open(path, "np") as file:
            file.keys()
        accepted = True
    except (SafetensorError, OSError, RuntimeError):
        accepted = False
    stricter = {"json-duplicate"}
    assert accepted == (not findings) or {finding.code for finding in findings} <= stricter, findings
