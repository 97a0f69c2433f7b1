"""`layoutdsl check DIR` end to end: every planted fault is found, in its place and nothing else with it; right folders of every kind have no finding."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.folders import Draft, Tensor, compressed_tensors, float_model, fp8_block, modelslim, write_safetensors
from tests.cli.conftest import Cli

ATTENTION, MLP, EXPERTS = "model.layers.0.self_attn.", "model.layers.0.mlp.", "model.layers.1.mlp.experts."
Q, OUT, GATE = f"{ATTENTION}q_proj", f"{ATTENTION}o_proj", f"{MLP}gate_proj"
DESCRIPTION, INDEX, SHARD, SECOND = (
    "quant_model_description.json",
    "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
)
MAIN, A5 = ("--consumer", "vllm-ascend-main"), ("--device", "a5")


def checked(cli: Cli, folder: Path, *options: str) -> list[dict[str, Any]]:
    """The findings as JSON gives them; the exit code follows from them, and nothing is a bug of ours."""
    ran = cli("check", folder, "--format", "json", *options)
    findings: list[dict[str, Any]] = json.loads(ran.out)
    assert ran.code == any(finding["severity"] == "error" for finding in findings)
    assert "internal error" not in ran.out + ran.err
    return findings


# ---- right folders ---------------------------------------------------------------------------------------------------------------------------------------


def moe(**options: Any) -> Draft:
    return modelslim(experts=4, **options)


def packed(**options: Any) -> Draft:
    """Packed int4 with groups of 256 and `scale_bias`."""
    return modelslim(scheme="W4A8_DYNAMIC", **options)


def packed_experts(**options: Any) -> Draft:
    return moe(expert_scheme="W4A8_DYNAMIC", **options)


def tied() -> Draft:
    draft = modelslim()
    del draft.tensors["lm_head.weight"]
    draft.config["tie_word_embeddings"] = True
    return draft


RIGHT: dict[str, tuple[Callable[[], Draft], tuple[str, ...]]] = {
    "W8A8_DYNAMIC": (modelslim, ()),
    "W8A8": (lambda: modelslim(scheme="W8A8"), ()),
    "W8A8, float16": (lambda: modelslim(scheme="W8A8", dtype="float16"), ()),
    "W8A16": (lambda: modelslim(scheme="W8A16"), ()),
    "W8A8_MIX": (lambda: modelslim(scheme="W8A8_MIX"), ()),
    "W4A4_DYNAMIC": (lambda: modelslim(scheme="W4A4_DYNAMIC"), ()),
    "W4A4_FLATQUANT_DYNAMIC": (lambda: modelslim(scheme="W4A4_FLATQUANT_DYNAMIC"), ()),
    "W4A8_DYNAMIC": (packed, ()),
    "W4A8_DYNAMIC, unpacked": (lambda: packed(version="0"), ()),
    "experts of W8A8_DYNAMIC": (moe, ()),
    "experts of W4A8_DYNAMIC": (packed_experts, ()),
    "experts of W4A8_DYNAMIC per channel": (lambda: packed_experts(group_size=0), MAIN),
    "W8A8_MXFP8": (lambda: moe(scheme="W8A8_MXFP8", group_size=32), A5),
    "W4A4_MXFP4": (lambda: moe(scheme="W4A4_MXFP4", group_size=32), A5),
    "W4A8_MXFP": (lambda: moe(scheme="W4A8_MXFP", group_size=32), A5),
    "W8A8FP8_DYNAMIC": (lambda: moe(scheme="W8A8FP8_DYNAMIC"), A5),
    "deepseek_v3": (lambda: moe(model_type="deepseek_v3", attention_scheme="W8A8", dense_layers=1, shared_experts=True), ()),
    "no index": (lambda: modelslim(index=""), ()),
    "one file": (lambda: modelslim(index="", shards=1), ()),
    "the index of msModelSlim": (lambda: modelslim(index="quant_model_weights.safetensors.index.json"), ()),
    "description in config.json": (lambda: modelslim(in_config=True), ()),
    "some modules float": (lambda: modelslim(schemes={OUT: "FLOAT"}), ()),
    "a tied head": (tied, ()),
    "compressed-tensors W8A8_DYNAMIC": (compressed_tensors, ()),
    "compressed-tensors W8A8": (lambda: compressed_tensors(scheme="W8A8"), ()),
    "fp8": (fp8_block, (*A5, *MAIN)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_nothing_on_a_right_folder(name: str, cli: Cli, tmp_path: Path) -> None:
    make, options = RIGHT[name]
    folder = make().write(tmp_path / "model")
    (table,) = checked(cli, folder, "--notes", *options)
    assert table["message"].startswith("every layer can be split with -tp 1")
    # Of kernels there may be a warning: that they do not take groups of 256.
    assert {finding["severity"] for finding in checked(cli, folder, *options, "-tp", "1")} <= {"warning"}


def test_a_float_folder(cli: Cli, tmp_path: Path) -> None:
    assert [finding["code"] for finding in checked(cli, float_model().write(tmp_path / "model"), "--notes")] == ["not-quantized"]


def test_pack_quantized_experts(cli: Cli, tmp_path: Path) -> None:
    folder = compressed_tensors(scheme="W4A16", experts=4).write(tmp_path / "model")
    assert {finding["code"] for finding in checked(cli, folder, *MAIN) if finding["severity"] == "warning"} <= {"plugin-needed"}
    assert [finding for finding in checked(cli, folder, *MAIN) if finding["severity"] == "error"] == []


# ---- edits of a folder -------------------------------------------------------------------------------------------------------------------------------------

Edit = Callable[[Draft], Any]
Spoil = Callable[[Path], Any]


def drop(*parts: str) -> Edit:
    return lambda draft: [draft.tensors.pop(name) for part in parts for name in draft.names(part)]


def forget(*parts: str) -> Edit:
    """Not in the files, nor in the description."""
    return lambda draft: (drop(*parts)(draft), [draft.description.pop(key) for part in parts for key in list(draft.description) if part in key])


def reshape(name: str, *shape: int) -> Edit:
    return lambda draft: draft.reshape(name, *shape)


def retype(name: str, dtype: str) -> Edit:
    return lambda draft: draft.retype(name, dtype)


def add(name: str, *shape: int) -> Edit:
    return lambda draft: draft.tensors.update({name: Tensor("I8", shape)})


def say(**values: Any) -> Edit:
    return lambda draft: draft.description.update(values)


def describe(name: str, value: Any) -> Edit:
    return lambda draft: draft.description.update({name: value})


def configure(**values: Any) -> Edit:
    return lambda draft: draft.config.update(values)


def indexed(name: str, file: Any) -> Edit:
    """The index says that a tensor is in this file."""
    return lambda draft: setattr(draft, "edit_index", lambda index: index["weight_map"].update({name: file}))


def wider_expert(draft: Draft) -> None:
    for name in draft.names(f"{EXPERTS}2."):
        tensor = draft.tensors[name]
        wide = ".down_proj" not in name
        draft.tensors[name] = Tensor(tensor.dtype, (1024 if wide else 512, 512 if wide else 1024) if name.endswith(".weight") else (1024 if wide else 512, 1))


def text(file: str, content: str) -> Spoil:
    return lambda folder: (folder / file).write_text(content)


def cut(count: int) -> Spoil:
    return lambda folder: os.truncate(folder / SHARD, (folder / SHARD).stat().st_size - count)


def stray(file: str, *tensors: str) -> Spoil:
    return lambda folder: write_safetensors(folder / file, {name: Tensor("BF16", (512,)) for name in tensors})


def length(change: Callable[[int], int]) -> Spoil:
    """What the first eight bytes of a shard say of the header."""

    def spoil(folder: Path) -> None:
        raw = (folder / SHARD).read_bytes()
        (folder / SHARD).write_bytes(change(int.from_bytes(raw[:8], "little")).to_bytes(8, "little") + raw[8:])

    return spoil


def offsets(number: int, change: Callable[[int, int], tuple[int, int]]) -> Spoil:
    """Those of one tensor of a shard."""

    def spoil(folder: Path) -> None:
        raw = (folder / SHARD).read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        entry = header[[name for name in header if name != "__metadata__"][number]]
        entry["data_offsets"] = change(*entry["data_offsets"])
        content = json.dumps(header).encode()
        (folder / SHARD).write_bytes(len(content).to_bytes(8, "little") + content + raw[8 + size :])

    return spoil


def twice(folder: Path) -> None:
    """The second shard again, with a tensor of the first."""
    draft = modelslim()
    names = [name for name, file in draft.files.items() if file == SECOND]
    write_safetensors(folder / SECOND, {name: draft.tensors[name] for name in (*names, "model.norm.weight")})


# ---- planted faults ----------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """found: code and place of all errors and warnings. says: what is in the text of the first, its notes or its help."""

    found: tuple[tuple[str, str], ...]
    make: Callable[[], Draft] = modelslim
    edit: Edit | None = None
    spoil: Spoil | None = None
    options: tuple[str, ...] = ()
    says: str = ""


def one(code: str, where: str, **options: Any) -> Fault:
    return Fault(((code, where),), **options)


EMBEDDING, NORM = "model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"
FAULTS: dict[str, Fault] = {
    # -- tensors
    "a missing scale": one("tensor-missing", f"{Q}.weight_scale", edit=drop(f"{Q}.weight_scale"), says="needs `weight_scale`"),
    "a missing scale of an expert": one("tensor-missing", f"{EXPERTS}1.up_proj.weight_scale", make=moe, edit=drop(f"{EXPERTS}1.up_proj.weight_scale")),
    "a missing scale of groups": one(
        "tensor-missing", f"{EXPERTS}1.up_proj.weight_scale_second", make=packed_experts, edit=drop(f"{EXPERTS}1.up_proj.weight_scale_second")
    ),
    "a missing scale of compressed-tensors": one("tensor-missing", f"{Q}.weight_scale", make=compressed_tensors, edit=drop(f"{Q}.weight_scale")),
    "a missing weight": one("tensor-missing", f"{OUT}.weight", edit=lambda draft: draft.tensors.pop(f"{OUT}.weight")),
    "a missing module": one("description-tensor-missing", OUT, edit=drop(f"{OUT}."), says="look for a file that was not copied"),
    "a scale under another name": Fault(
        (("tensor-missing", f"{Q}.weight_scale"), ("tensor-unexpected", f"{Q}.weight_scales")),
        edit=lambda draft: draft.rename(f"{Q}.weight_scale", f"{Q}.weight_scales"),
    ),
    "a tensor too many": one("tensor-unexpected", f"{Q}.zeros", edit=add(f"{Q}.zeros", 4)),
    "a transposed weight": one("tensor-shape", f"{GATE}.weight", edit=reshape(f"{GATE}.weight", 512, 1024), says="looks transposed"),
    "a transposed weight of an expert": one(
        "tensor-shape",
        f"{EXPERTS}1.down_proj.weight",
        make=lambda: moe(moe_intermediate=256),
        edit=reshape(f"{EXPERTS}1.down_proj.weight", 256, 512),
        says="looks transposed",
    ),
    "a transposed scale": one("tensor-shape", f"{Q}.weight_scale", edit=reshape(f"{Q}.weight_scale", 1, 512), says="looks transposed"),
    "a scale of zero rows": one("partial-load", f"{Q}.weight_scale", edit=reshape(f"{Q}.weight_scale", 0, 1), says="512 of 512 rows"),
    "a scale of one row": one("partial-load", f"{Q}.weight_scale", edit=reshape(f"{Q}.weight_scale", 1, 1), says="511 of 512 rows"),
    "a scale that is a vector": one("tensor-shape", f"{Q}.weight_scale", edit=reshape(f"{Q}.weight_scale", 512), says="1 dims"),
    "a weight of three dims": one("tensor-shape", f"{Q}.weight", edit=reshape(f"{Q}.weight", 1, 512, 512), says="3 dims"),
    "a float weight": one("tensor-dtype", f"{OUT}.weight", edit=retype(f"{OUT}.weight", "BF16")),
    "a weight without signs": one("tensor-dtype", f"{Q}.weight", edit=retype(f"{Q}.weight", "U8")),
    "a scale of integers": one("tensor-dtype", f"{Q}.weight_scale", edit=retype(f"{Q}.weight_scale", "I16"), says="neither values nor bits"),
    "exponents as numbers": one(
        "tensor-dtype",
        f"{Q}.weight_scale",
        make=lambda: modelslim(scheme="W8A8_MXFP8", group_size=32),
        edit=retype(f"{Q}.weight_scale", "BF16"),
        options=A5,
        says="holds e8m0",
    ),
    "deq_scale of a float16 model": one(
        "tensor-dtype", f"{Q}.deq_scale", make=lambda: modelslim(scheme="W8A8"), edit=retype(f"{Q}.deq_scale", "I64"), says="--params-dtype float16"
    ),
    "input_scale per row": one("tensor-shape", f"{Q}.input_scale", make=lambda: modelslim(scheme="W8A8"), edit=reshape(f"{Q}.input_scale", 512)),
    "a transposed scale of blocks": one(
        "tensor-shape",
        "layers.0.attn.wq_a.weight",
        make=fp8_block,
        edit=reshape("layers.0.attn.wq_a.scale", 4, 2),
        options=(*A5, *MAIN),
        says="or `weight_scale` is",
    ),
    "a layer is missing": one("tensor-missing", "model.layers.1", make=lambda: modelslim(layers=3), edit=forget("layers.1."), says="`num_hidden_layers`"),
    "the last layer is missing": one("tensor-missing", "model.layers.2", make=lambda: modelslim(layers=3), edit=forget("layers.2.")),
    # -- what config and description say of shapes
    "an unpacked weight under version 1.0.0": one(
        "config-contradicts-shapes", f"{Q}.weight", make=packed, edit=reshape(f"{Q}.weight", 512, 512), says="`version` 1.0.0 makes it [256, 512]"
    ),
    "unpacked experts under version 1.0.0": one(
        "config-contradicts-shapes",
        DESCRIPTION,
        make=packed_experts,
        edit=lambda draft: [draft.reshape(name, 512, 512) for name in draft.names(".experts.") if name.endswith("_proj.weight")],
        says='write `"version": "0"`',
    ),
    "packed weights under version 0": one("config-contradicts-shapes", DESCRIPTION, make=packed, edit=say(version="0"), says='write `"version": "1.0.0"`'),
    "another group size": one("config-contradicts-shapes", DESCRIPTION, make=packed_experts, edit=say(group_size=128), says='write `"group_size": 256`'),
    "a group size of zero": one("config-value", DESCRIPTION, make=packed, edit=say(group_size=0), says="cannot be 0"),
    "a group size that is a text": one("description-value", "group_size", make=packed, edit=say(group_size="256"), says="write 256"),
    "a partial group of experts": one(
        "requirement-failed",
        "model.layers.{0,1}.mlp.experts.{0..3}.down_proj.weight_scale_second",
        make=lambda: packed_experts(moe_intermediate=320),
        says="intermediate_size_per_partition = 320",
    ),
    "a partial group": one(
        "requirement-failed",
        "model.layers.{0,1}.{self_attn.q_proj,self_attn.k_proj,self_attn.v_proj,mlp.gate_proj,mlp.up_proj}.weight_scale_second",
        make=lambda: packed(hidden=640, version="0"),
        says="input_size = 640",
    ),
    "16 columns on a column-parallel layer": one(
        "tensor-shape", f"{Q}.scale_bias", make=packed, edit=reshape(f"{Q}.scale_bias", 512, 16), says="this one is column-parallel, with [512, 1]"
    ),
    "one column on a row-parallel layer": one("partial-load", f"{OUT}.scale_bias", make=packed, edit=reshape(f"{OUT}.scale_bias", 512, 1)),
    # -- fused modules and experts
    "mixed schemes": one("mixed-schemes", f"{ATTENTION}qkv_proj", make=lambda: modelslim(schemes={f"{ATTENTION}k_proj": "W8A8"}), says="`k_proj`: W8A8"),
    "a float member": one("mixed-schemes", f"{ATTENTION}qkv_proj", make=lambda: modelslim(schemes={f"{ATTENTION}v_proj": "FLOAT"})),
    "mixed experts": one("mixed-schemes", EXPERTS[:-1], make=lambda: moe(schemes={f"{EXPERTS}1.up_proj": "W4A8_DYNAMIC"})),
    "other inputs of k": one("fused-differ", f"{ATTENTION}qkv_proj", edit=reshape(f"{ATTENTION}k_proj.weight", 256, 448)),
    "an expert is missing": one("tensor-missing", f"{EXPERTS}2", make=moe, edit=drop(f"{EXPERTS}2."), says="4 experts, 3 of them"),
    "the last expert is missing": one("tensor-missing", f"{EXPERTS}3", make=moe, edit=forget(f"{EXPERTS}3.")),
    "an expert too many": one("tensor-unexpected", "model.layers.{0,1}.mlp.experts.3", make=moe, edit=configure(num_experts=3), says="3 experts"),
    "an expert of other sizes": Fault(
        (
            ("tensor-shape", f"{EXPERTS}2.{{gate_proj,up_proj}}.weight"),
            ("tensor-shape", f"{EXPERTS}2.{{gate_proj,up_proj}}.weight_scale"),
            ("tensor-shape", f"{EXPERTS}2.{{gate_proj,up_proj}}.weight_offset"),
            ("tensor-shape", f"{EXPERTS}2.down_proj.weight"),
        ),
        make=moe,
        edit=wider_expert,
    ),
    "an unpacked expert": one("tensor-shape", f"{EXPERTS}1.up_proj.weight", make=packed_experts, edit=reshape(f"{EXPERTS}1.up_proj.weight", 512, 512)),
    # -- the description and its JSON
    "a type that nobody knows": one("scheme-unknown", Q, edit=describe(f"{Q}.weight", "W8A8_DYNAMICS"), says="the nearest is `W8A8_DYNAMIC`"),
    "a type that is no word": one("description-value", f"{OUT}.weight", edit=describe(f"{OUT}.weight", 3)),
    "no type": one("description-key-missing", OUT, edit=lambda draft: draft.description.pop(f"{OUT}.weight")),
    "FLOAT of an int8 weight": one("float-but-quantized", OUT, edit=describe(f"{OUT}.weight", "FLOAT"), says="the files hold int8"),
    "a module that is not there": one("description-tensor-missing", "model.layers.7.mlp.up_proj", edit=describe("model.layers.7.mlp.up_proj.weight", "W8A8")),
    "no description": one("description-missing", DESCRIPTION, edit=lambda draft: setattr(draft, "description", None), says="14 modules look quantized"),
    "no config.json": one("file-missing", "config.json", edit=lambda draft: setattr(draft, "config", None)),
    "JSON that is none": one("json-syntax", "config.json", spoil=text("config.json", '{"model_type": }'), says="line 1, column 16"),
    "a description that is no JSON": one("json-syntax", DESCRIPTION, spoil=text(DESCRIPTION, "nothing")),
    "config.json of compressed-tensors that is no JSON": one("json-syntax", "config.json", make=compressed_tensors, spoil=text("config.json", "{")),
    "JSON that is a list": one("json-not-an-object", DESCRIPTION, spoil=text(DESCRIPTION, "[]")),
    "JSON that is deep": one("json-too-deep", DESCRIPTION, spoil=text(DESCRIPTION, "[" * 100_000)),
    "a pattern that is none": one(
        "config-pattern",
        "config.json: quantization_config.ignore",
        make=compressed_tensors,
        edit=lambda draft: draft.config["quantization_config"].update(ignore=["re:("]),
    ),
    "blocks of another size": one(
        "format-unsupported",
        "config.json: quantization_config",
        make=fp8_block,
        edit=lambda draft: draft.config["quantization_config"].update(weight_block_size=[64, 64]),
        options=(*A5, *MAIN),
        says="[64, 64]",
    ),
    # -- the index and the files
    "an index that names a missing file": one(
        "index-file-missing", "model-00009-of-00009.safetensors", edit=indexed(f"{MLP}x", "model-00009-of-00009.safetensors")
    ),
    "a missing file of many tensors": one("index-file-missing", SECOND, spoil=lambda folder: (folder / SECOND).unlink()),
    "an index of numbers": one("index-form", INDEX, edit=indexed("model.norm.weight", 7)),
    "an index that is no JSON": one("json-syntax", INDEX, spoil=text(INDEX, '{"weight_map": ')),
    "a name that escapes": one("name-escapes", INDEX, edit=indexed("model.norm.weight", "../other.safetensors"), says="`../other.safetensors`"),
    "a name from the root": one("name-escapes", INDEX, edit=indexed("model.norm.weight", "/etc/other.safetensors")),
    "a name of the description that escapes": one("name-escapes", DESCRIPTION, edit=say(optional={"quarot": {"map": "../../rotation.safetensors"}})),
    "a stray shard beside an index": one("shard-unlisted", "stray.safetensors", spoil=stray("stray.safetensors", "model.extra.weight"), says="do not read"),
    "a stray shard without an index": one(
        "shard-stray", "stray.safetensors", make=lambda: modelslim(index=""), spoil=stray("stray.safetensors", "model.extra.weight"), says="loaders read it"
    ),
    "a stray shard beside the writer's index": one(
        "shard-stray",
        "stray.safetensors",
        make=lambda: modelslim(index="quant_model_weights.safetensors.index.json"),
        spoil=stray("stray.safetensors", "model.extra.weight"),
        says="loaders read it",
    ),
    "a shard too many": one(
        "shard-stray", "model-00003-of-00002.safetensors", make=lambda: modelslim(index=""), spoil=stray("model-00003-of-00002.safetensors", "x")
    ),
    "a tensor in two shards": one("tensor-twice", "model.norm.weight", spoil=twice, says="the one read later counts"),
    "a tensor in a stray shard": one(
        "tensor-twice", "model.norm.weight", make=lambda: modelslim(index=""), spoil=stray("stray.safetensors", "model.norm.weight")
    ),
    "a link to nothing": one(
        "file-missing", SHARD, spoil=lambda folder: ((folder / SHARD).unlink(), (folder / SHARD).symlink_to("../blobs/none")), says="finish the download"
    ),
    "a folder for a shard": one("file-unreadable", SHARD, spoil=lambda folder: ((folder / SHARD).unlink(), (folder / SHARD).mkdir())),
    # -- headers
    "a truncated shard": one("shard-truncated", SHARD, spoil=cut(100), says="the file at byte"),
    "a shard of a header": one("shard-truncated", SHARD, spoil=lambda folder: os.truncate(folder / SHARD, 100), says="inside its header"),
    "an empty shard": one("file-empty", SHARD, spoil=lambda folder: os.truncate(folder / SHARD, 0)),
    "a shard that is something else": one("file-not-safetensors", SHARD, spoil=lambda folder: (folder / SHARD).write_bytes(b"PK\3\4" + bytes(100))),
    "overlapping offsets": one("header-overlap", NORM, spoil=offsets(1, lambda begin, end: (begin - 8, end - 8)), says=f"`{EMBEDDING}` ends at byte"),
    "negative offsets": one("header-offsets", EMBEDDING, spoil=offsets(0, lambda begin, end: (-8, end - 8)), says="bytes -8 to"),
    "offsets in the other order": one("header-offsets", EMBEDDING, spoil=offsets(0, lambda begin, end: (end, begin))),
    "offsets behind the end": one("header-offsets", EMBEDDING, spoil=offsets(0, lambda begin, end: (10**12, 10**12 + end))),
    "offsets that do not fit the shape": one("header-size", EMBEDDING, spoil=offsets(0, lambda begin, end: (begin, end - 8))),
    "a header that is shorter": one("json-syntax", SHARD, spoil=length(lambda size: size - 8)),
    "a header that is longer": one("json-syntax", SHARD, spoil=length(lambda size: size + 8)),
    "a header of nothing": one("json-syntax", SHARD, spoil=length(lambda size: 0)),
    "a header longer than memory": one("header-too-long", SHARD, spoil=length(lambda size: 1 << 63)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults(name: str, cli: Cli, tmp_path: Path) -> None:
    fault = FAULTS[name]
    draft = fault.make()
    if fault.edit is not None:
        fault.edit(draft)
    folder = draft.write(tmp_path / "model")
    if fault.spoil is not None:
        fault.spoil(folder)
    findings = [finding for finding in checked(cli, folder, *fault.options) if finding["severity"] != "note"]
    assert [(finding["code"], finding["file"]) for finding in findings] == [*fault.found]
    assert fault.says in "\n".join([findings[0]["message"], *findings[0]["notes"], *findings[0]["helps"]])


TP_3 = {
    "config.json": "4 attention heads cannot be dealt out to 3 ranks",
    "model.layers.{0,1}.self_attn.q_proj": "`output_size` 512 cannot be split over 3 ranks",
    "model.layers.{0,1}.self_attn.o_proj": "`input_size` 512 cannot be split over 3 ranks",
    "model.layers.{0,1}.mlp.down_proj": "`input_size` 1024 cannot be split over 3 ranks",
    "model.layers.{0,1}.mlp.experts": "`intermediate_size_per_partition` 512 cannot be split over 3 ranks",
}


@pytest.mark.parametrize("make", [modelslim, moe])
def test_tp_3(make: Callable[[], Draft], cli: Cli, tmp_path: Path) -> None:
    findings = checked(cli, make().write(tmp_path / "model"), "-tp", "3")
    errors = [(finding["file"], finding["message"]) for finding in findings if finding["severity"] == "error"]
    assert {finding["code"] for finding in findings if finding["severity"] == "error"} == {"split-uneven"}
    mlp = ["mlp.down_proj"] if make is modelslim else ["mlp.experts"]
    places = ["config.json", *(f"model.layers.{{0,1}}.{name}" for name in ("self_attn.q_proj", "self_attn.o_proj", *mlp))]
    assert {(place, TP_3[place]) for place in places} <= {*errors}
    assert findings[-1]["message"].startswith("every layer can be split with -tp 1, 2, 4")


# ---- what is no fault --------------------------------------------------------------------------------------------------------------------------------------


def as_links(folder: Path) -> None:
    """As a Hugging Face cache has it: the files elsewhere, under other names."""
    (folder.parent / "blobs").mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder.parent / "blobs" / str(number))
        file.symlink_to(f"../blobs/{number}")


def sub_folder(folder: Path) -> None:
    (folder / "optional").mkdir()
    stray("optional/rotation.safetensors", f"{Q}.weight")(folder)


NO_FAULT: dict[str, tuple[Edit | None, Spoil | None]] = {
    "links": (None, as_links),
    "a sub-folder": (None, sub_folder),
    "hidden files": (None, stray(".model.safetensors", f"{Q}.weight")),
    "a file of Mistral": (None, stray("consolidated.safetensors", "layers.0.attention.wq.weight")),
    "scales of another width": (lambda draft: [draft.retype(name, "F32") for name in draft.names("weight_scale")], None),
    "no group size for a scheme without groups": (lambda draft: draft.description.pop("group_size"), None),
    "layers of a draft model": (lambda draft: draft.tensors.update({"model.layers.2.eh_proj.weight": Tensor("BF16", (512, 1024))}), None),
}


@pytest.mark.parametrize("name", NO_FAULT)
def test_what_is_no_fault(name: str, cli: Cli, tmp_path: Path) -> None:
    edit, spoil = NO_FAULT[name]
    draft = modelslim()
    if edit is not None:
        edit(draft)
    folder = draft.write(tmp_path / "model")
    if spoil is not None:
        spoil(folder)
    assert [finding["code"] for finding in checked(cli, folder)] == ["topology-legal"]


def test_names_from_files_do_not_reach_the_terminal(cli: Cli, tmp_path: Path) -> None:
    folder = modelslim(layers=1)
    add(f"{Q}.\x1b[31m\n::error::x", 2)(folder)
    for format in ("text", "concise", "github"):
        ran = cli("check", folder.write(tmp_path / "model"), "--format", format)
        assert ran.code == 1
        assert "\x1b" not in ran.out
        assert not any(line.startswith("::error::x") for line in ran.out.splitlines())
