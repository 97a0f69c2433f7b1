"""`check --data`: each planted fault is found where it is, nothing is found in right folders, and memory does not grow with the tensors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from layoutdsl.checkpoint import invariants
from layoutdsl.checkpoint.evaluate import Unsupported
from layoutdsl.checkpoint.folder import read_folder
from layoutdsl.checkpoint.layers import layers_of
from layoutdsl.checkpoint.plans import Plans
from layoutdsl.checkpoint.values import check_values
from layoutdsl.diagnostics import Diagnostic
from tests.checkpoint.filled import GROUP, change, dense, exchange, filled, swapped, unpack, w4a8_experts
from tests.checkpoint.folders import Draft, Tensor, compressed_tensors, fp8_block

pytestmark = pytest.mark.usefixtures("kernels")

EXPERT, ATTENTION, MLP = "model.layers.0.mlp.experts", "model.layers.0.self_attn", "model.layers.0.mlp"
Plant = Callable[[Draft], object]


def findings(
    draft: Draft, path: Path, consumer: str = "vllm-ascend-0.16", device: str = "a2", dtype: str = "bfloat16", memory: int = 1 << 28
) -> list[Diagnostic]:
    folder = read_folder(draft.write(path / "model"))
    layers, found = layers_of(folder, consumer, device)
    assert [finding for finding in (*folder.findings, *found) if finding.severity == "error"] == []
    assert layers
    held = {tensor.name for layer in layers for parts in layer.stored.values() for tensor in parts.values()}
    others = [tensor for tensor in folder.tensors.values() if tensor.name not in held]
    return list(check_values(layers, Plans(consumer, device, dtype), max_memory=memory, progress=print, others=others))


# ---- right folders -------------------------------------------------------------------------------------------------------------------------------------------

RIGHT = {
    "w4a8 experts by groups": (w4a8_experts, "vllm-ascend-0.16", "a2"),
    "w4a8 experts by channels": (lambda: w4a8_experts(group_size=0), "vllm-ascend-main", "a2"),
    **{scheme: (lambda scheme=scheme: dense(scheme), "vllm-ascend-0.16", "a2") for scheme in ("W4A8_DYNAMIC", "W8A8", "W8A8_DYNAMIC", "W8A16", "W8A8_MIX")},
    **{scheme: (lambda scheme=scheme: dense(scheme), "vllm-ascend-0.16", "a2") for scheme in ("W4A4_DYNAMIC", "W4A4_FLATQUANT_DYNAMIC")},
    **{scheme: (lambda scheme=scheme: dense(scheme), "vllm-ascend-main", "a5") for scheme in ("W8A8_MXFP8", "W4A4_MXFP4", "W4A8_MXFP", "W8A8FP8_DYNAMIC")},
    "fp8 by blocks": (lambda: fp8_block(layers=1, experts=2).fill(), "vllm-ascend-main", "a5"),
    "pack-quantized experts": (
        lambda: compressed_tensors(scheme="W4A16", layers=1, experts=2, hidden=256, moe_intermediate=256, ignore=[]).fill(),
        "vllm-ascend-main",
        "a2",
    ),
}


@pytest.mark.parametrize("name", [name for name in RIGHT if name != "pack-quantized experts"])
def test_nothing_is_found_in_a_right_folder(name: str, tmp_path: Path) -> None:
    make, consumer, device = RIGHT[name]
    assert [(finding.code, finding.where, finding.notes) for finding in findings(make(), tmp_path, consumer, device)] == []


def test_nothing_is_found_where_deq_scale_is_carried_by_int64(tmp_path: Path) -> None:
    assert findings(dense("W8A8", dtype="float16"), tmp_path, dtype="float16") == []


# ---- contradictions ------------------------------------------------------------------------------------------------------------------------------------------


def scale_groups_by_stride(draft: Draft) -> None:
    """The groups of a writer that took every n-th input for one group: the shapes are right."""
    for name in draft.names("scale_bias"):
        module = name.removesuffix(".scale_bias")
        codes = unpack(draft.tensors[f"{module}.weight"].array())
        scales = draft.tensors[f"{module}.weight_scale"].array() * draft.tensors[f"{module}.weight_scale_second"].array()
        columns = draft.tensors[name].shape[1]
        weight = codes * np.tile(scales, codes.shape[1] // scales.shape[1])
        draft.tensors[name] = Tensor.of((8 * weight.reshape(len(codes), columns, -1).sum(axis=2)).astype(np.float32))


BROKEN: dict[str, tuple[Plant, list[str], str]] = {
    "nibbles of one module": (
        lambda draft: change(draft, f"{EXPERT}.1.up_proj.weight", swapped),
        [f"{EXPERT}.1.up_proj.scale_bias"],
        "in the other order: with them exchanged it holds everywhere",
    ),
    "one stale value": (
        lambda draft: change(draft, f"{EXPERT}.2.down_proj.scale_bias", lambda array: array.__setitem__((7, 3), array[7, 3] + 0.01)),
        [f"{EXPERT}.2.down_proj.scale_bias"],
        "the worst, [7, 3], is",
    ),
    "all of a stale tensor": (
        lambda draft: change(draft, f"{EXPERT}.0.gate_proj.scale_bias", lambda array: array * np.float32(1.01)),
        [f"{EXPERT}.0.gate_proj.scale_bias"],
        "256 of 256 values do not fit",
    ),
    "exchanged experts": (
        lambda draft: exchange(draft, f"{EXPERT}.0.gate_proj.weight", f"{EXPERT}.2.gate_proj.weight"),
        [f"{EXPERT}.0.gate_proj.scale_bias", f"{EXPERT}.2.gate_proj.scale_bias"],
        "from another quantization, or of another layer or expert",
    ),
    "groups of another size": (
        scale_groups_by_stride,
        [f"{EXPERT}.{expert}.{name}.scale_bias" for expert in range(3) for name in ("gate_proj", "up_proj", "down_proj")],
        "do not fit",
    ),
    "an offset in a symmetric scheme": (
        lambda draft: change(draft, f"{ATTENTION}.v_proj.weight_offset", lambda array: array.__setitem__((3, 0), 2)),
        [f"{ATTENTION}.v_proj.weight_offset"],
        "the worst, [3], is 2; the others give 0",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_contradictions(name: str, tmp_path: Path) -> None:
    plant, places, text = BROKEN[name]
    draft = w4a8_experts()
    plant(draft)
    found = findings(draft, tmp_path)
    assert {finding.code for finding in found} == {"invariant-broken"}
    assert sorted(finding.where for finding in found) == sorted(places)
    assert all(finding.severity == "error" for finding in found)
    assert any(text in line for finding in found for line in (*finding.notes, *finding.helps))


@pytest.mark.parametrize("name", ["", *BROKEN])
def test_element_by_element_the_same_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an equation needs more of a weight than a sum over each row. Such a block takes more memory, which the budget knows."""
    draft = w4a8_experts()
    if name:
        BROKEN[name][0](draft)
    wanted = findings(draft, tmp_path / "sums")
    monkeypatch.setattr(invariants, "weighed_sum", lambda *arguments: None)
    found = findings(draft, tmp_path / "elements", memory=1 << 29)
    assert [(one.code, one.where, one.notes[0], one.helps) for one in found] == [(one.code, one.where, one.notes[0], one.helps) for one in wanted]
    assert "memory-budget" in {finding.code for finding in findings(draft, tmp_path / "budget")}


@pytest.mark.parametrize("module", [f"{MLP}.down_proj", f"{MLP}.up_proj"])
def test_nibbles_of_a_linear_layer(module: str, tmp_path: Path) -> None:
    """Row layers keep 16 partial sums, the others one."""
    draft = dense("W4A8_DYNAMIC")
    change(draft, f"{module}.weight", swapped)
    (found,) = findings(draft, tmp_path)
    assert (found.code, found.where) == ("invariant-broken", f"{module}.scale_bias")
    assert "exchanged" in found.helps[0]


def test_a_stale_product_of_scales(tmp_path: Path) -> None:
    draft = dense("W8A8_MIX")
    change(draft, f"{ATTENTION}.q_proj.deq_scale", lambda array: array.__setitem__(5, array[5] * 1.02))
    (found,) = findings(draft, tmp_path)
    assert (found.code, found.where) == ("invariant-broken", f"{ATTENTION}.q_proj.deq_scale")
    assert "1 of 256 values do not fit" in found.notes


# ---- single values -------------------------------------------------------------------------------------------------------------------------------------------


def put(name: str, number: float, place: tuple[int, ...] = (3, 0)) -> Plant:
    return lambda draft: change(draft, name, lambda array: array.__setitem__(place, number))


SCALE = f"{ATTENTION}.q_proj.weight_scale"
SINGLE: dict[str, tuple[str, Plant, tuple[str, str, str], str]] = {
    "nan": ("W8A8_DYNAMIC", put(SCALE, np.nan), ("values-not-finite", SCALE, "error"), "`weight_scale` holds NaN"),
    "infinity": ("W8A8_DYNAMIC", put(SCALE, np.inf), ("values-not-finite", SCALE, "error"), "`weight_scale` holds infinities"),
    "zero": ("W8A8_DYNAMIC", put(SCALE, 0), ("scale-value", SCALE, "error"), "a scale in `weight_scale` is zero"),
    "denormal": ("W8A8_DYNAMIC", put(SCALE, 1e-39), ("scale-value", SCALE, "error"), "a scale in `weight_scale` is denormal"),
    "negative": ("W8A8_DYNAMIC", put(SCALE, -0.01), ("scale-value", SCALE, "warning"), "a scale in `weight_scale` is negative"),
    "negative deq_scale": (
        "W8A8",
        put(f"{ATTENTION}.q_proj.deq_scale", -0.01, (3,)),
        ("values-range", f"{ATTENTION}.q_proj.deq_scale", "error"),
        "`deq_scale` holds values that are not above zero",
    ),
    "int4 out of range": (
        "W4A4_DYNAMIC",
        put(f"{MLP}.up_proj.weight", 8, (1, 2)),
        ("values-range", f"{MLP}.up_proj.weight", "error"),
        "`weight` holds integers outside -8..7",
    ),
    "a norm": ("W8A8_DYNAMIC", put("model.norm.weight", np.nan, (3,)), ("values-not-finite", "model.norm.weight", "error"), "`weight` holds NaN"),
    "a constant row": ("W8A8_DYNAMIC", put(f"{MLP}.up_proj.weight", 5, (9,)), ("values-constant", f"{MLP}.up_proj.weight", "error"), "a row of `weight`"),
    "a constant layer": ("W8A8_DYNAMIC", put(f"{MLP}.up_proj.weight", 5, ()), ("values-constant", f"{MLP}.up_proj.weight", "error"), "the layer was not"),
}


@pytest.mark.parametrize("name", SINGLE)
def test_single_values(name: str, tmp_path: Path) -> None:
    scheme, plant, (code, where, severity), text = SINGLE[name]
    draft = dense(scheme)
    plant(draft)
    (found,) = findings(draft, tmp_path)
    assert (found.code, found.where, found.severity) == (code, where, severity)
    assert text in found.message
    if name == "int4 out of range":
        assert found.notes == ("1 of 131072 are outside, the first at [1, 2]", "the values go from -8 to 8")


def test_exponents(tmp_path: Path) -> None:
    draft = dense("W8A8_MXFP8")
    change(draft, SCALE, lambda array: array.__setitem__((2, 1), 255))
    change(draft, f"{ATTENTION}.k_proj.weight", lambda array: array.__setitem__((4, 7), 0x7F))
    found = findings(draft, tmp_path, "vllm-ascend-main", "a5")
    assert sorted((finding.code, finding.where) for finding in found) == [
        ("values-not-finite", f"{ATTENTION}.k_proj.weight"),
        ("values-not-finite", SCALE),
    ]
    assert "1 of 2048 are NaN, the first at [2, 1]" in {note for finding in found for note in finding.notes}


def test_one_row_of_a_packed_weight(tmp_path: Path) -> None:
    """The upper half of a row of bytes: the odd one of two outputs."""
    draft = w4a8_experts()
    change(draft, f"{EXPERT}.1.down_proj.weight", lambda array: array.__setitem__(4, array[4] & 15 | 0x30))
    found = {finding.code: finding for finding in findings(draft, tmp_path)}
    assert found.keys() == {"values-constant", "invariant-broken"}
    assert found["values-constant"].notes == ("1 of 256 rows do: 9",)


def test_an_expert_of_one_value(tmp_path: Path) -> None:
    draft = w4a8_experts()
    change(draft, f"{EXPERT}.1.down_proj.weight", lambda array: array.__setitem__((), 0x33))
    found = {finding.code: finding for finding in findings(draft, tmp_path)}
    assert found["values-constant"].where == f"{EXPERT}.1.down_proj.weight"
    assert "the expert was not written" in found["values-constant"].message


def test_broken_upper_bits(tmp_path: Path) -> None:
    """deq_scale is a float32 in the lower half of an int64, its sign above."""
    draft = dense("W8A8", dtype="float16")
    name = f"{ATTENTION}.q_proj.deq_scale"
    change(draft, name, lambda array: array.__setitem__(2, array[2] | 1 << 40))
    (found,) = findings(draft, tmp_path, dtype="float16")
    assert (found.code, found.where) == ("values-range", name)


# ---- memory and order ----------------------------------------------------------------------------------------------------------------------------------------


def test_a_budget_below_one_block_is_said(tmp_path: Path) -> None:
    found = findings(dense("W8A8_DYNAMIC"), tmp_path, memory=1 << 10)
    assert {finding.code for finding in found} == {"memory-budget"}
    assert f"{ATTENTION}.q_proj.weight" in {finding.where for finding in found}
    assert "allow " in found[0].helps[0]


def test_a_file_that_shrinks_is_a_finding(tmp_path: Path) -> None:
    draft = dense("W8A8_DYNAMIC", shards=1)
    path = draft.write(tmp_path / "model")
    folder = read_folder(path)
    layers, _ = layers_of(folder, "vllm-ascend-0.16", "a2")
    (shard,) = path.glob("*.safetensors")
    with open(shard, "rb+") as file:
        file.truncate(shard.stat().st_size - 100)
    plans = Plans("vllm-ascend-0.16", "a2", "bfloat16")
    assert {finding.code for finding in check_values(layers, plans, max_memory=1 << 28, progress=print)} == {"file-changed"}


PEAK = """
import resource, sys
from pathlib import Path
from layoutdsl.cli import main
main(["check", sys.argv[1], "--format", "json", "--consumer", "vllm-ascend-0.16", *sys.argv[2:]])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, "torch" in sys.modules, file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux gives it")
def test_memory_does_not_grow_with_the_tensors(tmp_path: Path) -> None:
    """Weights of 128 MiB; without their values the same command is the base. No torch."""
    draft = filled(dense("W8A8_DYNAMIC", hidden=512, intermediate=512), GROUP)
    name = f"{MLP}.up_proj"
    draft.tensors[f"{name}.weight"] = Tensor("I8", (1 << 18, 512))
    draft.tensors[f"{name}.weight_scale"] = Tensor("BF16", (1 << 18, 1))
    draft.tensors[f"{name}.weight_offset"] = Tensor("BF16", (1 << 18, 1))
    path = draft.write(tmp_path / "model")
    peaks = []
    for options in ([], ["--data", "--max-memory", "64M"]):
        ran = subprocess.run([sys.executable, "-c", PEAK, str(path), *options], capture_output=True, text=True, check=False)
        peak, torch = ran.stderr.split()[-2:]
        assert torch == "False"
        peaks.append(int(peak))
        assert ("values-constant" in ran.stdout) is bool(options)
    assert peaks[1] - peaks[0] < 64 + 48  # numpy itself


def test_an_equation_that_cannot_be_evaluated_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> None:
        raise Unsupported("`this`")

    monkeypatch.setattr(invariants, "program", never)
    found = findings(dense("W8A8_MIX"), tmp_path)
    assert {(finding.code, finding.severity) for finding in found} == {("invariant-unchecked", "warning")}
    assert f"{ATTENTION}.q_proj.deq_scale" in {finding.where for finding in found}
