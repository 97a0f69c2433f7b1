"""Folders: right ones have no finding; each planted mistake makes one finding, about the right place; what is read is what loaders read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from folders import Draft, Tensor, compressed_tensors, float_model, fp8_block, modelslim, safetensors_header, write_modelslim, write_safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from layoutdsl.checkpoint.folder import read_folder
from layoutdsl.checkpoint.json_text import parse_object
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.diagnostics.render import render

WRITERS = "quant_model_weights.safetensors.index.json"
INDEX = "model.safetensors.index.json"
Q = "model.layers.0.self_attn.q_proj"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"

RIGHT: dict[str, Draft] = {
    "modelslim": modelslim(),
    "modelslim, its own index": modelslim(experts=4, expert_scheme="W4A8_DYNAMIC", index=WRITERS),
    "modelslim, no index": modelslim(index="", shards=3),
    "modelslim, one file": modelslim(index="", shards=1),
    "modelslim, description in config.json": modelslim(in_config=True),
    "modelslim, mla": modelslim(model_type="deepseek_v3", experts=4, dense_layers=1, shared_experts=True, attention_scheme="W8A8"),
    "compressed-tensors": compressed_tensors(experts=4, scheme="W4A16"),
    "fp8": fp8_block(),
    "float": float_model(),
}


@pytest.mark.parametrize("draft", RIGHT.values(), ids=RIGHT)
def test_right_folders(tmp_path: Path, draft: Draft) -> None:
    folder = read_folder(draft.write(tmp_path / "model"))
    assert not folder.findings, render(folder.findings, "text")
    assert {name: tensor.shape for name, tensor in folder.tensors.items()} == {name: tensor.shape for name, tensor in draft.tensors.items()}
    assert folder.config["hidden_size"] == 512
    assert bool(folder.description) == (draft.description is not None or "version" in draft.config.get("quantization_config", {}))
    assert not folder.lost


# --- one mistake, one finding -------------------------------------------------------------------------------------------------------------------------------

Plant = Callable[[Path], Any]


def weight_map(change: Callable[[dict[str, Any]], Any], index: str = INDEX) -> Plant:
    def plant(path: Path) -> None:
        content = json.loads((path / index).read_text())
        change(content["weight_map"])
        (path / index).write_text(json.dumps(content))

    return plant


def moved(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    """Everything that the index puts into one file stands in another."""
    return lambda names: names.update({name: new for name, file in names.items() if file == old})


def text(name: str, content: str | bytes) -> Plant:
    return lambda path: (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def edited(name: str, old: str, new: str) -> Plant:
    return lambda path: (path / name).write_text((path / name).read_text().replace(old, new, 1))


def copied(old: str, new: str) -> Plant:
    return lambda path: shutil.copy(path / old, path / new)


def cut(name: str, by: int) -> Plant:
    return lambda path: os.truncate(path / name, (path / name).stat().st_size - by)


def linked(name: str, target: str) -> Plant:
    def plant(path: Path) -> None:
        (path / name).unlink()
        (path / name).symlink_to(target)

    return plant


def removed(*names: str) -> Plant:
    return lambda path: [(path / name).unlink() for name in names]


def shard(name: str, *tensors: str) -> Plant:
    return lambda path: write_safetensors(path / name, dict.fromkeys(tensors, Tensor("BF16", (2,))))


SLIM = modelslim(layers=1)
OWN = modelslim(layers=1, index=WRITERS)
BARE = modelslim(layers=1, index="")
OWN_FIRST, OWN_SECOND = (name.replace("model", "quant_model_weights", 1) for name in (FIRST, SECOND))
LAST = list(SLIM.tensors)[-1]

FAULTS: dict[str, tuple[Draft, Plant, str, str, str]] = {
    # config.json and the description
    "no config": (SLIM, removed("config.json"), "file-missing", "error", "config.json"),
    "config is not JSON": (SLIM, text("config.json", "{'a': 1}"), "json-syntax", "error", "config.json"),
    "config is a list": (SLIM, text("config.json", "[]"), "json-not-an-object", "error", "config.json"),
    "config begins with a byte order mark": (SLIM, text("config.json", b"\xef\xbb\xbf{}"), "json-syntax", "error", "config.json"),
    "config is empty": (SLIM, text("config.json", ""), "file-empty", "error", "config.json"),
    "config is deep": (SLIM, text("config.json", '{"a":' * 3000 + "1" + "}" * 3000), "json-too-deep", "error", "config.json"),
    "config has NaN": (SLIM, edited("config.json", "64", "NaN"), "json-constant", "warning", "config.json"),
    "config is a Git LFS pointer": (SLIM, text("config.json", "version https://git-lfs.github.com/spec/v1\n"), "lfs-pointer", "error", "config.json"),
    "description is cut": (SLIM, cut("quant_model_description.json", 9), "json-syntax", "error", "quant_model_description.json"),
    "description says two things": (
        SLIM,
        edited("quant_model_description.json", "{", '{"lm_head.weight": "W8A8",'),
        "json-duplicate",
        "error",
        "quant_model_description.json",
    ),
    "description says a thing twice": (
        SLIM,
        edited("quant_model_description.json", "{", '{"lm_head.weight": "FLOAT",'),
        "json-duplicate",
        "warning",
        "quant_model_description.json",
    ),
    "description under an old name": (
        SLIM,
        lambda path: (path / "quant_model_description.json").rename(path / "quant_model_description_w8a8.json"),
        "description-name",
        "error",
        "quant_model_description_w8a8.json",
    ),
    "two descriptions": (
        SLIM,
        edited("config.json", "{", '{"quantization_config": {"lm_head.weight": "W8A8"},'),
        "description-twice",
        "error",
        "quant_model_description.json",
    ),
    "rotations that are not there": (
        SLIM,
        edited("quant_model_description.json", "{", '{"optional": {"quarot": {"rotation_map": {"global": "optional/quarot.safetensors"}}},'),
        "optional-missing",
        "warning",
        "optional/quarot.safetensors",
    ),
    "rotations elsewhere": (
        SLIM,
        edited("quant_model_description.json", "{", '{"optional": {"quarot": {"rotation_map": "../quarot.safetensors"}},'),
        "name-escapes",
        "error",
        "quant_model_description.json",
    ),
    # the index that loaders obey
    "index is not JSON": (SLIM, text(INDEX, "{"), "json-syntax", "error", INDEX),
    "index without a map": (SLIM, text(INDEX, '{"metadata": {}}'), "index-form", "error", INDEX),
    "index of numbers": (SLIM, weight_map(lambda names: names.update({LAST: 1})), "index-form", "error", INDEX),
    "index names a missing file": (SLIM, removed(SECOND), "index-file-missing", "error", SECOND),
    "index names two missing files": (SLIM, removed(FIRST, SECOND), "index-file-missing", "error", INDEX),
    "index names a sub-folder": (SLIM, weight_map(moved(SECOND, f"sub/{SECOND}")), "index-file-unread", "error", INDEX),
    "index names a pickle": (SLIM, weight_map(moved(SECOND, "model.bin")), "index-file-unread", "error", INDEX),
    "index names a parent": (SLIM, weight_map(moved(SECOND, f"../{SECOND}")), "name-escapes", "error", INDEX),
    "index names an absolute file": (SLIM, weight_map(moved(SECOND, "/etc/passwd.safetensors")), "name-escapes", "error", INDEX),
    "index names a drive": (SLIM, weight_map(moved(SECOND, "C:model.safetensors")), "name-escapes", "error", INDEX),
    "index has a backslash": (SLIM, weight_map(moved(SECOND, "..\\model.safetensors")), "name-escapes", "error", INDEX),
    "index has a null": (SLIM, weight_map(moved(SECOND, "model\0.safetensors")), "name-escapes", "error", INDEX),
    "index has half a character": (SLIM, weight_map(moved(SECOND, "\ud800.safetensors")), "name-escapes", "error", INDEX),
    "index names a missing tensor": (SLIM, weight_map(lambda names: names.update({f"{Q}.bias": FIRST})), "index-tensor-missing", "error", f"{Q}.bias"),
    "index names the wrong file": (SLIM, weight_map(lambda names: names.update({LAST: FIRST})), "index-tensor-elsewhere", "warning", LAST),
    "index names the wrong file often": (SLIM, weight_map(moved(SECOND, FIRST)), "index-tensor-missing", "error", INDEX),
    "index lacks a tensor": (SLIM, weight_map(lambda names: names.pop(LAST)), "index-tensor-unlisted", "warning", LAST),
    "index lacks a file": (
        SLIM,
        weight_map(lambda names: [names.pop(name) for name in [*names] if names[name] == SECOND]),
        "shard-unlisted",
        "error",
        SECOND,
    ),
    "a stray file that is ignored": (SLIM, shard("old.safetensors", "old.weight"), "shard-unlisted", "warning", "old.safetensors"),
    "a copy that is ignored": (SLIM, copied(SECOND, "copy.safetensors"), "shard-unlisted", "warning", "copy.safetensors"),
    "an empty file that is ignored": (SLIM, text("empty.safetensors", ""), "shard-unlisted", "warning", "empty.safetensors"),
    "a tensor in both files": (replace(SLIM, tensors={}), lambda path: two_shards_with(path, "x"), "tensor-twice", "error", "x"),
    # the index of the writer, which loaders do not know
    "own index names a missing file": (OWN, removed(OWN_SECOND), "index-file-missing", "error", OWN_SECOND),
    "own index names a missing tensor": (
        OWN,
        weight_map(lambda names: names.update({f"{Q}.bias": OWN_FIRST}), WRITERS),
        "index-tensor-missing",
        "error",
        f"{Q}.bias",
    ),
    "a stray file that is read": (OWN, shard("old.safetensors", "old.weight"), "shard-stray", "error", "old.safetensors"),
    "a copy that is read": (OWN, copied(OWN_SECOND, "copy.safetensors"), "tensor-twice", "error", "copy.safetensors"),
    # no index
    "a copy without an index": (BARE, copied(SECOND, "copy.safetensors"), "tensor-twice", "error", SECOND),
    "a shard of another series": (BARE, copied(SECOND, "model-00003-of-00003.safetensors"), "tensor-twice", "error", "model-00003-of-00003.safetensors"),
    "a missing shard": (BARE, removed(FIRST), "shard-missing", "error", FIRST),
    "one shard too many": (BARE, shard("model-00003-of-00002.safetensors", "old.weight"), "shard-stray", "error", "model-00003-of-00002.safetensors"),
    # shards
    "a cut shard": (SLIM, cut(SECOND, 5), "shard-truncated", "error", SECOND),
    "a shard cut in its header": (SLIM, lambda path: os.truncate(path / SECOND, 100), "shard-truncated", "error", SECOND),
    "an empty shard": (SLIM, text(SECOND, ""), "file-empty", "error", SECOND),
    "an empty shard without an index": (BARE, text(SECOND, ""), "file-empty", "error", SECOND),
    "a Git LFS pointer": (OWN, text(OWN_SECOND, "version https://git-lfs.github.com/spec/v1\n"), "lfs-pointer", "error", OWN_SECOND),
    "a broken link": (SLIM, linked(SECOND, "../../blobs/0123"), "file-missing", "error", SECOND),
    "overlapping offsets": (SLIM, lambda path: shift_offsets(path / SECOND, LAST), "header-overlap", "error", LAST),
    "pickles only": (replace(SLIM, tensors={}, index_name=""), text("pytorch_model.bin", b"PK"), "weights-not-safetensors", "error", "pytorch_model.bin"),
}


def two_shards_with(path: Path, name: str) -> None:
    """A folder of two listed files that both hold one tensor."""
    for file, own in ((FIRST, "a"), (SECOND, "b")):
        write_safetensors(path / file, {own: Tensor("BF16", (2,)), name: Tensor("BF16", (2,))})
    (path / INDEX).write_text(json.dumps({"weight_map": {"a": FIRST, "b": SECOND, name: SECOND}}))


def shift_offsets(path: Path, name: str) -> None:
    """One tensor begins and ends two bytes early; the header keeps its length."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header[name]["data_offsets"] = [offset - 2 for offset in header[name]["data_offsets"]]
    path.write_bytes(content[:8] + json.dumps(header).encode().ljust(length) + content[8 + length :])


@pytest.mark.parametrize(("draft", "plant", "code", "severity", "where"), FAULTS.values(), ids=FAULTS)
def test_each_mistake_makes_one_finding(tmp_path: Path, draft: Draft, plant: Plant, code: str, severity: str, where: str) -> None:
    path = draft.write(tmp_path / "model")
    plant(path)
    folder = read_folder(path)
    assert [(finding.code, finding.severity, finding.where) for finding in folder.findings] == [(code, severity, where)], render(folder.findings, "text")
    for form in ("text", "concise", "json", "github"):
        assert render(folder.findings, form)


def test_codes_are_all_planted() -> None:
    from layoutdsl.diagnostics.rules import CHECKPOINT_FILES

    elsewhere = {"weights-missing", "json-too-large"}
    of_headers = {"header-too-long", "header-entry", "header-dtype", "header-offsets", "header-size", "header-hole"}  # test_headers.py
    assert {rule.code for rule in CHECKPOINT_FILES} - elsewhere - of_headers == {code for _, _, code, _, _ in FAULTS.values()} & {
        r.code for r in CHECKPOINT_FILES
    }


# --- what is read -------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["index names a missing file", "an empty shard", "a broken link", "index lacks a file", "index names a parent"])
def test_lost_tensors_are_told_once(tmp_path: Path, fault: str) -> None:
    """What a lost shard held is known from the index, the description or the stray file, so that no other check need report it."""
    draft, plant, *_ = FAULTS[fault]
    path = draft.write(tmp_path / "model")
    plant(path)
    folder = read_folder(path)
    assert folder.lost == {name for name, file in draft.files.items() if file == SECOND}
    assert folder.lost.isdisjoint(folder.tensors)


def test_hugging_face_cache(tmp_path: Path) -> None:
    """Every file of a snapshot is a link into another folder."""
    blobs = write_modelslim(tmp_path / "blobs")
    snapshot = tmp_path / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    folder = read_folder(snapshot)
    assert not folder.findings
    assert len(folder.tensors) == len(modelslim().tensors)
    assert all(tensor.file.parent == snapshot for tensor in folder.tensors.values())


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    path = write_modelslim(tmp_path / "model", edit=lambda draft: draft.others.update({"optional/quarot.safetensors": b"", "original/x.safetensors": b""}))
    for name in ("params.json", ".hidden.safetensors", "consolidated.safetensors", "consolidated.00.pth", "tokenizer.json", "training_args.bin"):
        (path / name).write_text("")
    assert not read_folder(path).findings


def test_mistrals_own_file_beside_others(tmp_path: Path) -> None:
    path = write_modelslim(tmp_path / "model", index="")
    shutil.copy(path / FIRST, path / "consolidated.safetensors")
    folder = read_folder(path)
    assert not folder.findings
    assert {tensor.file.name for tensor in folder.tensors.values()} == {FIRST, SECOND}


def test_the_index_decides_between_two_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    two_shards_with(tmp_path, "x")
    assert read_folder(tmp_path).tensors["x"].file.name == SECOND


def test_sub_folders_are_named(tmp_path: Path) -> None:
    write_modelslim(tmp_path / "inner")
    (tmp_path / "config.json").write_text("{}")
    folder = read_folder(tmp_path)
    assert [finding.code for finding in folder.findings] == ["weights-missing"]
    assert "`inner`" in folder.findings[0].notes[0]


def test_json_that_is_too_large(tmp_path: Path) -> None:
    path = write_modelslim(tmp_path / "model")
    with open(path / "config.json", "wb") as file:
        file.truncate(1 << 40)
    assert [finding.code for finding in read_folder(path).findings] == ["json-too-large"]


@pytest.mark.parametrize(
    ("name", "code"), [("none", "file-missing"), ("file", "file-unreadable"), ("nu\0ll", "file-unreadable"), ("x" * 300, "file-unreadable")]
)
def test_what_is_no_folder(tmp_path: Path, name: str, code: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiagnosticError) as caught:
        read_folder(tmp_path / name)
    assert [finding.code for finding in caught.value.diagnostics] == [code]


def test_many_findings_stay_few(tmp_path: Path) -> None:
    """An index of another model: one finding for all tensors, not one for each."""
    path = SLIM.write(tmp_path / "model")
    weight_map(lambda names: [names.update({f"other.{name}": names.pop(name)}) for name in [*names]])(path)
    assert sorted(finding.code for finding in read_folder(path).findings) == ["index-tensor-missing", "index-tensor-unlisted"]


def test_no_torch_is_imported() -> None:
    import subprocess
    import sys

    code = "import sys, layoutdsl.checkpoint.folder; assert not {'torch', 'numpy', 'safetensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- fuzz ---------------------------------------------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["../x", FIRST, "x.safetensors", "weight_map", "ascend"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["weight_map", "optional", "quantization_config", "quant_method", "a"]), inner),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(index=JSON, config=JSON, description=JSON, own=st.booleans())
def test_any_json(tmp_path_factory: pytest.TempPathFactory, index: Any, config: Any, description: Any, own: bool) -> None:
    path = tmp_path_factory.mktemp("any", numbered=True)
    write_safetensors(path / FIRST, {"a": Tensor("I8", (2,))})
    for name, value in {WRITERS if own else INDEX: index, "config.json": config, "quant_model_description.json": description}.items():
        (path / name).write_text(json.dumps(value))
    render(read_folder(path).findings, "text")
    shutil.rmtree(path)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=40) | st.text('{}[]",:1aeN\\u', max_size=40).map(str.encode))
def test_any_json_text(content: bytes) -> None:
    value, findings = parse_object(content, "x.json")
    assert value is not None or findings


def test_the_writer_of_the_tests_is_right(tmp_path: Path) -> None:
    """`folders` and the library agree about a file."""
    from safetensors.numpy import load_file

    tensors = {"a": Tensor("I8", (2, 3), bytes(range(6))), "b": Tensor("F32", (2,))}
    write_safetensors(tmp_path / "x.safetensors", tensors)
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert loaded["b"].tolist() == [0, 0]
    assert len(safetensors_header(tensors)) % 8 == 0
