"""``layoutdsl describe``: the tensors that a checkpoint must hold."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import layoutdsl
from layoutdsl.bundled import bundled
from layoutdsl.checkpoint.headers import DTYPES
from layoutdsl.cli.describe import boxes
from layoutdsl.cli.output import WIDTH
from tests.checkpoint.folders import scheme_tensors
from tests.cli.conftest import Cli
from tests.golden.recorded import FILES, recorded

LANES = """\
layoutdsl: 1
scheme: LANES
layer: linear
title: ways to store
holds: {consumer: [vllm-ascend-0.23], device: [a2]}
axes: {n: output_size, k: input_size}
require:
  - N % 8 == 0
  - K % 8 == 0
params:
  awq: uint4[k, n] in int32[k, n//8 | n%2, n//2%4]
  plain: int4(excess 8)[n, k] in int32[n, k//8 | k%8]
  turned: int8[k, n] over [n, k]
  wide: float32[n] in zext int64[n]
  two: e8m0[n, k] in uint8[n//2, k, n%2]
  ones:
    type: float32[n]
    init: 1
    given: tp_size == 2
    range: positive
    shard: none
  powers:
    type: float32[n]
    range: power_of_two
value: none
steps:
  - awq: clone
forward: external
"""


def row(text: str, name: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [name])


def test_all_cases(cli: Cli) -> None:
    ran = cli("describe", "W4A8_DYNAMIC.linear")
    assert (ran.code, ran.err) == (0, "")
    assert [line for line in ran.out.splitlines() if line.startswith("case:")] == [
        "case: source: packed; split: other",
        "case: source: packed; split: row",
        "case: source: unpacked",
    ]
    assert row(ran.out, "weight")[:4] == ["weight", "int8", "[N//2,", "K]"]
    assert "element [n, k] in lane n%2 of byte [n//2, k]; lane 0 = low bits, 4 bits each" in ran.out
    assert "packed_dim = 0, packed_factor = 2" in " ".join(ran.out.split())
    assert "N = output_size, K = input_size" in ran.out
    assert "W[n, k] = weight[n, k] * weight_scale[n] * weight_scale_second[n, k//group_size]" in ran.out


def test_moe_cases_are_disjoint_and_fit_the_screen(cli: Cli) -> None:
    ran = cli("describe", "W4A8_DYNAMIC.moe")
    cases = [line for line in ran.out.splitlines() if line.startswith("case:")]
    assert len(cases) == len(set(cases)) == 6
    assert "w13: E = num_experts, N = 2*intermediate_size_per_partition, K = hidden_size" in ran.out
    assert "always: w2_scale_bias[e, n, k//chunk] == 8 * sum[k%chunk](w2[e, n, k])" in ran.out
    assert all(len(line) <= WIDTH for line in ran.out.splitlines())


@pytest.mark.parametrize("name", FILES)
def test_numbers_are_those_of_the_recorded_files(cli: Cli, name: str) -> None:
    case = recorded(name)
    config = {**case.config, "params_dtype": case.params_dtype}
    options = [f"--set={key}={value}" for key, value in config.items()] + [f"--sizes={key}={value}" for key, value in case.sizes.items()]
    ran = cli("describe", case.scheme, "--layer", case.layer, *options)
    assert ran.code == 0, ran
    for key, tensor in case.inputs.items():
        cells = row(ran.out, key)
        assert cells[1] == str(tensor.dtype).removeprefix("torch.")
        assert " ".join(cells[2 : 2 + tensor.dim()]) == str(list(tensor.shape))


def test_params_dtype(cli: Cli) -> None:
    ran = cli("describe", "W4A8_DYNAMIC.linear", "--params-dtype", "float16")
    assert "case: source: unpacked" in ran.out and "float16" in ran.out and "bfloat16" not in ran.out
    assert "params_dtype" not in cli("describe", "W4A8_DYNAMIC.moe").out


def test_sizes_for_all_cases(cli: Cli) -> None:
    ran = cli("describe", "W4A8_DYNAMIC.linear", "--sizes", "input_size=128", "output_size=64")
    assert row(ran.out, "weight")[:4] == ["weight", "int8", "[32,", "128]"]
    cli("describe", "W4A8_DYNAMIC.linear", "--sizes", "inptu_size=128").refused("size-unknown", "`input_size`")
    cli("describe", "W4A8_DYNAMIC.linear", "--sizes", "input_size=0").refused("size-invalid")
    cli("describe", "W4A8_DYNAMIC.linear", "--sizes", "output_size=7").refused("requirement-failed", "N % 8 == 0")
    cli("describe", "W4A8_DYNAMIC.linear", "--set", "version=0", "--sizes", "input_size=0").refused("size-invalid", "size-missing")


def test_storage_in_words(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "lanes.yaml"
    path.write_text(LANES)
    ran = cli("describe", path)
    assert ran.code == 0, ran
    text = " ".join(ran.out.split())
    assert (
        "element [k, n] in lane 4*(n%2) + n//2%4 of word [k, n//8]; lane 0 = low bits, 4 bits each; lanes 0, 1, ... hold n%8 = 0, 2, 4, 6, 1, 3, 5, 7" in text
    )
    assert "element [n, k] in lane k%8 of word [n, k//8]; lane 0 = low bits, 4 bits each stored is the value + 8" in text
    assert "in memory as [n, k]" in text
    assert "int64 holds the bits of float32, upper bits zero" in text
    assert "uint8 holds the bits of e8m0" in text
    assert row(ran.out, "ones")[3:7] == ["may", "be", "absent:", "1"]
    assert "values > 0" in text and "values are powers of two, > 0" in text and "every rank holds all of it" in text
    assert "meaning: none" in text


def test_awq_order_is_that_of_the_type() -> None:
    """The words are right: the lane of element n is where n's digits say."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    assert all(order[4 * (n % 2) + n // 2 % 4] == n for n in range(8))


@given(st.data())
def test_boxes_hold_the_group_and_nothing_else(data: st.DataObject) -> None:
    every = [{"a": a, "b": b, "c": c} for a, b, c in product("xyz", "uv", "st")]
    every = [world for world in every if data.draw(st.booleans())]
    group = [world for world in every if data.draw(st.booleans())]
    found = boxes(group, every)
    assert [world for world in every if any(all(world[name] in values for name, values in box.items()) for box in found)] == group
    assert len(found) <= len(group)


def test_agrees_with_the_plan(cli: Cli) -> None:
    plan = layoutdsl.compile_spec("W4A8_DYNAMIC.linear", config={"group_size": 64}, sizes={"input_size": 128, "output_size": 64})
    ran = cli("describe", "W4A8_DYNAMIC.linear", "--set", "group_size=64", "--sizes", "input_size=128", "output_size=64")
    for name, parameter in plan.parameters.items():
        assert " ".join(row(ran.out, name)[2:4]) == str(list(parameter.shape))


@pytest.mark.parametrize("name", bundled())
def test_every_spec_is_described(cli: Cli, name: str) -> None:
    """For people and for machines, and both say the same."""
    text, ran = cli("describe", name), cli("describe", name, "--format", "json")
    assert (text.code, ran.code) == (0, 0), text
    assert all(len(line) <= WIDTH for line in text.out.splitlines()[1:])
    assert "+ 30)" not in text.out and "+ 24)" not in text.out  # a number of groups, as the proofs know it
    found = json.loads(ran.out)
    shown = " ".join(text.out.split())
    for table in found["tables"]:
        assert len(table["parameters"]) > 0
        for parameter in table["parameters"]:
            assert f"{parameter['name']} {parameter['dtype']} [{', '.join(map(str, parameter['shape']))}]" in shown
            assert len(parameter["files"]) in (1, 2)
            if parameter["element"] in ("int4", "uint4", "e2m1", "e8m0"):
                assert any("value" in note or "code" in note for note in parameter["notes"])


EXPERT_SIZES = {"num_experts": 2, "intermediate_size_per_partition": 1024, "hidden_size": 512}


@pytest.mark.parametrize(
    ("scheme", "module", "config"),
    [
        *[
            (scheme, "model.layers.0.mlp.down_proj", {})
            for scheme in ("W8A8_DYNAMIC", "W8A8", "W8A16", "W4A4_DYNAMIC", "W8A8_MXFP8", "W4A8_MXFP", "W4A4_MXFP4")
        ],
        ("W4A8_DYNAMIC", "model.layers.0.mlp.down_proj", {"version": "1.0.0", "group_size": 256, "layer_type": "row"}),
        ("W4A8_DYNAMIC", "model.layers.0.mlp.up_proj", {"version": "1.0.0", "group_size": 256, "layer_type": "column"}),
        ("W4A8_DYNAMIC", "model.layers.0.mlp.down_proj", {"version": "0", "group_size": 256}),
        *[(scheme, f"model.layers.0.mlp.experts.0.{m}_proj", {}) for scheme in ("W8A8_DYNAMIC", "W8A8_MXFP8", "W4A8_MXFP") for m in ("gate", "down")],
        *[("W4A8_DYNAMIC", f"model.layers.0.mlp.experts.0.{m}_proj", {"version": "1.0.0", "group_size": 256}) for m in ("up", "down")],
        ("W4A8_DYNAMIC", "model.layers.0.mlp.experts.0.down_proj", {"version": "1.0.0", "group_size": 0}),
    ],
)
def test_files_are_those_of_the_formats(cli: Cli, scheme: str, module: str, config: dict[str, object]) -> None:
    """Names, dtypes and shapes in files against the rules of the format, which the makers of test folders have from elsewhere."""
    experts = ".experts." in module
    n, k = (512, 1024) if module.endswith("down_proj") else (1024, 512)
    sizes = EXPERT_SIZES if experts else {"output_size": n, "input_size": k}
    options = [f"--set={key}={value}" for key, value in {"device": "a5" if "MX" in scheme else "a2", **config}.items()]
    options += [f"--sizes={key}={value}" for key, value in sizes.items()]
    ran = cli("describe", scheme, "--layer", "moe" if experts else "linear", *options, "--format", "json")
    assert ran.code == 0, ran
    (table,) = json.loads(ran.out)["tables"]
    prefix = "experts.{e}." + module.rpartition(".")[2] + "." if experts else ""
    found = {
        file["name"].removeprefix(prefix): (parameter["file_dtype"], tuple(file["shape"]))
        for parameter in table["parameters"]
        if parameter["required"] or parameter["default"] == 0
        for file in parameter["files"]
        if file["name"].startswith(prefix)
    }
    made = scheme_tensors(scheme, module, n, k, int(config.get("group_size", 256)), str(config.get("version", "1.0.0")), "bfloat16")
    wanted = {name: (DTYPES[tensor.dtype][0], tensor.shape) for name, tensor in made.items()}
    assert found == wanted


def test_shapes_of_one_rank_are_no_shapes_of_files(cli: Cli) -> None:
    ran = cli("describe", "W4A8_DYNAMIC.moe", "--set", "tp_size=4", "--set", "version=1.0.0", "--format", "json")
    bias = next(p for p in json.loads(ran.out)["tables"][0]["parameters"] if p["name"] == "w2_scale_bias")
    assert bias["shape"][2] == 4 and bias["files"] == [{"name": "experts.{e}.down_proj.scale_bias", "shape": None}]


def test_a_spec_for_float16_alone(cli: Cli) -> None:
    ran = cli("describe", "W8A8S.linear")
    assert ran.code == 0 and "with params_dtype = float16" in ran.out
    assert row(ran.out, "deq_scale")[1] == "int64"


def test_axes_that_nothing_mentions_are_left_out(cli: Cli) -> None:
    unpacked = cli("describe", "W4A8_DYNAMIC.linear", "--set", "version=0").out
    assert "N = output_size" in unpacked and "S = 16" not in unpacked
    assert "H = as stored, else num_kv_heads" in cli("describe", "C8.attention").out


def test_findings_as_json_stay_findings(cli: Cli) -> None:
    ran = cli("describe", "W4A8_DYNAMIC.linear", "--sizes", "output_size=7", "--format", "json")
    assert ran.code == 1 and {finding["code"] for finding in json.loads(ran.out)} == {"requirement-failed"}
