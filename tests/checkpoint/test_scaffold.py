"""``layoutdsl new``: the draft of a spec says of every tensor what its header says, and validates when the meaning is filled in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from layoutdsl.api import compile_spec, validate
from layoutdsl.checkpoint.folder import read_folder
from layoutdsl.checkpoint.model import Folder, StoredTensor
from layoutdsl.checkpoint.scaffold import GROUP_SIZES, scaffold
from layoutdsl.diagnostics import DiagnosticError
from tests.checkpoint.folders import Draft, compressed_tensors, fp8_block, modelslim

SIZES = {"hidden": 512, "intermediate": 768, "moe_intermediate": 384}
LINEAR = "model.layers.1.mlp.down_proj"
EXPERTS = "model.layers.1.mlp.experts"
W8A16_FILLED = {
    "W[n, k]: TODO": "W[n, k]: (weight[n, k] + weight_offset[n]) * weight_scale[n]",
    "steps: []": """\
steps:
  - weight: transpose(k, n) | contiguous | nz when weight_nz_mode != 0
  - weight_scale: view [n]
  - weight_offset: view [n]""",
    "return: TODO": """\
return: npu_weight_quant_batchmatmul(x, weight, antiquant_scale=weight_scale, antiquant_offset=weight_offset,
      bias=float32(bias) if x.dtype == bfloat16 else bias)""",
}
Write = Callable[[Draft], Folder]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return lambda draft: read_folder(draft.write(tmp_path / "model"))


def folder_of(**shapes: tuple[str, tuple[int, ...]]) -> Folder:
    """A folder that is only headers: the tensors of the layer `l`."""
    tensors = {f"l.{name}": StoredTensor(f"l.{name}", dtype, shape, Path("model.safetensors"), 0, 0) for name, (dtype, shape) in shapes.items()}
    return Folder(Path("model"), tensors)


def line_of(text: str, name: str) -> str:
    return next(line.split("#")[0].split(":", 1)[1].strip() for line in text.splitlines() if line.strip().startswith(name + ":"))


def test_filled_in_it_is_a_spec(write: Write, tmp_path: Path) -> None:
    text = scaffold(write(modelslim(scheme="W8A16", **SIZES)), LINEAR)
    for todo, filled in W8A16_FILLED.items():
        assert text.count(todo) == 1
        text = text.replace(todo, filled)
    path = tmp_path / "w8a16.linear.yaml"
    path.write_text(text)
    assert validate(path) == []


@pytest.mark.parametrize(
    ("draft", "prefix"),
    [
        *[
            (modelslim(scheme=scheme, **SIZES), LINEAR)
            for scheme in ("W8A16", "W8A8", "W8A8_MIX", "W4A8_DYNAMIC", "W8A8_MXFP8", "W4A4_MXFP4", "W8A8FP8_DYNAMIC")
        ],
        (modelslim(scheme="W4A8_DYNAMIC", version="0", **SIZES), LINEAR),
        (modelslim(scheme="W8A8", dtype="float16", **SIZES), LINEAR),
        (modelslim(scheme="W4A4_FLATQUANT_DYNAMIC", **SIZES), LINEAR),
        (modelslim(experts=2, expert_scheme="W4A8_DYNAMIC", group_size=128, **SIZES), EXPERTS),
        (compressed_tensors(experts=2, scheme="W4A16", **SIZES), EXPERTS),
        (fp8_block(), "layers.0.attn.wo_b"),
        (fp8_block(), "layers.0.ffn.experts"),
    ],
)
def test_shapes_and_dtypes_are_those_of_the_headers(write: Write, tmp_path: Path, draft: Draft, prefix: str) -> None:
    """With the least value that the comments offer, the draft compiles, and its parameters are the stored tensors."""
    folder = write(draft)
    text = scaffold(folder, prefix)
    least = re.search(r"# The least it can be: (.*)", text)
    assert least
    path = tmp_path / "draft.yaml"
    path.write_text(text.replace("]: TODO", f"]: {least[1]}").replace("forward:\n  - return: TODO", "forward: external"))
    assert [finding for finding in validate(path) if finding.severity == "error"] == []
    here = [int(number) for number in re.search(r"  n: .*# here (?:2 \* )?(\d+)", text).groups()]
    inputs = int(re.search(r"  k: .*# here (\d+)", text)[1])
    moe = "num_experts" in text
    sizes = {"num_experts": 2, "intermediate_size_per_partition": here[0], "hidden_size": inputs} if moe else {"output_size": here[0], "input_size": inputs}
    parameters = compile_spec(path, sizes=sizes, params_dtype=folder.config["torch_dtype"]).parameters
    stored = {name.removeprefix(prefix + "."): tensor for name, tensor in folder.tensors.items() if name.startswith(prefix + ".")}
    assert parameters
    for name, parameter in parameters.items():
        tensor, shape = stored[_file_name(name, moe, stored)], parameter.shape
        if moe:
            rows = shape[1] // (2 if name.startswith("w13") and tensor.shape[0] > 2 else 1)
            shape = (rows, *shape[2:]) if len(shape) > 2 else shape[1:]
        assert (parameter.dtype, shape) == (tensor.dtype, tensor.shape), name


def _file_name(name: str, moe: bool, stored: dict[str, StoredTensor]) -> str:
    if not moe:
        return name
    member, _, rest = name.partition("_")
    names = ("gate_proj", "w1") if member == "w13" else ("down_proj", "w2")
    return next(f"0.{module}.{rest}" for module in names if f"0.{module}.{rest}" in stored)


def test_a_fresh_draft_names_what_is_left_to_do(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "draft.yaml"
    path.write_text(scaffold(write(modelslim(scheme="W8A16")), LINEAR, "MINE"))
    found = validate(path)
    assert [(finding.code, finding.span.text) for finding in found if finding.span] == [("name-unknown", "TODO")] * 2
    assert "scheme: MINE\n" in path.read_text()


@pytest.mark.parametrize("group", GROUP_SIZES)
def test_group_sizes(group: int) -> None:
    text = scaffold(folder_of(weight=("int8", (96, 4096)), weight_scale=("float32", (96, 4096 // group))), "l")
    assert line_of(text, "weight_scale") == "float32[n, k//group_size]"
    assert f"default: {group}" in text


def test_a_partial_group_is_a_group() -> None:
    text = scaffold(folder_of(weight=("int8", (96, 200)), weight_scale=("float32", (96, 4))), "l")
    assert line_of(text, "weight_scale") == "float32[n, k//group_size]" and "default: 64" in text


def test_what_fits_no_group_is_an_axis() -> None:
    text = scaffold(folder_of(weight=("int8", (96, 200)), weight_scale=("float32", (96, 3)), scale_bias=("float32", (96, 16))), "l")
    assert line_of(text, "weight_scale") == "float32[n, s]"
    assert line_of(text, "scale_bias") == "float32[n, r]"
    assert "  s: 3  #" in text and "  r: 16  #" in text and "group_size" not in text


def test_a_bias_is_no_parameter() -> None:
    text = scaffold(folder_of(weight=("int8", (96, 200)), bias=("float32", (96,))), "l")
    assert "# Left out: bias" in text and "\n  bias" not in text


def test_nothing_stored_there(write: Write) -> None:
    folder = write(modelslim(experts=2))
    for wrong, near in (("model.layers.1.mlp.expert", EXPERTS), ("layers.1.self_attn.o_proj", "model.layers.1.self_attn.o_proj")):
        with pytest.raises(DiagnosticError) as refused:
            scaffold(folder, wrong)
        (finding,) = refused.value.diagnostics
        assert finding.code == "layer-not-stored" and f"`{near}`" in finding.helps[0]


@pytest.mark.parametrize(
    ("prefix", "named"), [("model.layers.0.mlp.experts.1", "`model.layers.0.mlp.experts`"), ("model.layers.0.self_attn", "self_attn.q_proj`")]
)
def test_several_layers(write: Write, prefix: str, named: str) -> None:
    with pytest.raises(DiagnosticError) as refused:
        scaffold(write(modelslim(experts=2)), prefix)
    (finding,) = refused.value.diagnostics
    assert finding.code == "layer-ambiguous" and named in finding.helps[0]


@pytest.mark.parametrize("name", ["a\nvalue: [", "weight\x1b[31m", "é", "a: b", "", "<p>", "0"])
def test_names_of_any_text(name: str, tmp_path: Path) -> None:
    """Whatever the files call a tensor, the draft parses."""
    tensors = {f"l.{n}": StoredTensor(f"l.{n}", "int8", (4, 8), Path("f"), 0, 0) for n in ("weight", name)}
    text = scaffold(Folder(Path("model"), tensors), "l", "S")
    assert text.isascii() and all(line.isprintable() for line in text.splitlines())
    path = tmp_path / "draft.yaml"
    path.write_text(text)
    assert {finding.code for finding in validate(path)} == {"name-unknown"}


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 5, 7), (2,) * 64])
def test_tensors_of_any_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "draft.yaml"
    path.write_text(scaffold(folder_of(k_scale=("bfloat16", shape), other=("float8_e5m2", (3,))), "l", "S"))
    assert [finding.code for finding in validate(path) if finding.severity == "error"] == []
