"""`diff`: two checkpoints of one model by what their tensors mean, with faults that no header and no other tensor of the folder shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest

from layoutdsl.checkpoint.diff import Difference, diff
from layoutdsl.checkpoint.folder import read_folder
from layoutdsl.checkpoint.layers import layers_of
from layoutdsl.checkpoint.plans import Plans
from layoutdsl.checkpoint.sides import Model
from layoutdsl.checkpoint.values import check_values
from layoutdsl.diagnostics import Diagnostic
from tests.checkpoint.filled import GROUP, change, dense, exchange, swapped, unpack, w4a8_experts
from tests.checkpoint.folders import Draft, Tensor, float_model

pytestmark = pytest.mark.usefixtures("kernels")

EXPERT, ATTENTION, MLP = "model.layers.0.mlp.experts", "model.layers.0.self_attn", "model.layers.0.mlp"
CONSUMER, DEVICE = "vllm-ascend-0.16", "a2"


def model(draft: Draft, path: Path) -> Model:
    folder = read_folder(draft.write(path))
    layers, found = layers_of(folder, CONSUMER, DEVICE)
    assert not [finding for finding in (*folder.findings, *found) if finding.severity == "error"]
    return Model(folder.tensors, layers, CONSUMER, DEVICE)


def compared(one: Draft, other: Draft, path: Path, **options: object) -> tuple[dict[str, Difference], list[Diagnostic]]:
    """The rows in their order, by name."""
    folder = Path(mkdtemp(dir=path))
    pair = model(one, folder / "one"), model(other, folder / "other")
    rows, findings = diff(*pair, **{"max_memory": 1 << 28, "progress": print, **options})  # type: ignore[arg-type]
    return {row.name: row for row in rows}, findings


def as_float(draft: Draft, group_size: int = GROUP, dtype: str = "float32") -> Draft:
    """The float model that a folder means, decoded here with plain numpy: W4A8_DYNAMIC of version 1.0.0, and int8 with a scale per output."""
    plain: dict[str, Tensor] = {}
    for name, tensor in draft.tensors.items():
        module, _, suffix = name.rpartition(".")
        if f"{module}.weight_scale" not in draft.tensors:
            plain[name] = tensor
        elif suffix == "weight":
            weight = (unpack(tensor.array()) if f"{module}.scale_bias" in draft.tensors else tensor.array()) * draft.tensors[f"{module}.weight_scale"].array()
            if f"{module}.weight_scale_second" in draft.tensors:
                weight = weight * np.repeat(draft.tensors[f"{module}.weight_scale_second"].array(), group_size, axis=1)
            plain[name] = Tensor.of(weight.astype(np.float32), "BF16" if dtype == "bfloat16" else None)
    return Draft(plain, {key: value for key, value in draft.config.items() if key != "quantization_config"})


def quantized_modules(draft: Draft) -> set[str]:
    return {name.removesuffix("_scale") for name in draft.tensors if name.endswith(".weight_scale")}


@pytest.mark.parametrize("make", [w4a8_experts, lambda: dense("W4A8_DYNAMIC"), lambda: dense("W8A8_DYNAMIC")])
def test_a_folder_and_the_float_model_that_it_means(make: Callable[[], Draft], tmp_path: Path) -> None:
    draft = make()
    rows, findings = compared(draft, as_float(draft), tmp_path)
    assert findings == []
    assert rows.keys() == as_float(draft).tensors.keys()
    for name, row in rows.items():
        assert row.sqnr > 120 if name in quantized_modules(draft) else row.sqnr == math.inf, row


def test_what_rounding_to_bfloat16_costs(tmp_path: Path) -> None:
    """Eight bits of significand, rounded to nearest: about 20 * log10(2**9) + log10(3) dB, whatever the weights."""
    draft = dense("W8A8_DYNAMIC")
    rows, _ = compared(draft, as_float(draft, dtype="bfloat16"), tmp_path)
    assert all(50 < rows[name].sqnr < 60 for name in quantized_modules(draft))


def test_the_numbers(tmp_path: Path) -> None:
    """One element is off by a known amount; the signal is that of the float side."""
    draft = dense("W8A8_DYNAMIC")
    plain, name = as_float(draft), f"{MLP}.up_proj.weight"
    change(plain, name, lambda array: array.__setitem__((17, 200), array[17, 200] + 0.5))
    signal = float((plain.tensors[name].array().astype(np.float64) ** 2).sum())
    for pair in ((draft, plain), (plain, draft)):
        rows, _ = compared(*pair, tmp_path)
        row = rows[name]
        assert next(iter(rows)) == name
        assert (row.place, row.shape) == ((17, 200), (512, 256))
        assert row.error == pytest.approx(0.5, rel=1e-5)
        assert row.sqnr == pytest.approx(10 * math.log10(signal / 0.25), abs=0.01)


# ---- faults that only a comparison shows ---------------------------------------------------------------------------------------------------------------------


def exchange_experts(draft: Draft) -> None:
    """All of two experts, so that nothing contradicts anything."""
    for name in draft.names(f"{EXPERT}.0."):
        exchange(draft, name, name.replace(".experts.0.", ".experts.2."))


def group_scales_by_stride(draft: Draft) -> None:
    change(draft, f"{EXPERT}.1.up_proj.weight_scale_second", lambda array: array[:, ::-1].copy())


FAULTS: dict[str, tuple[Callable[[Draft], object], set[str]]] = {
    "nibbles": (lambda draft: change(draft, f"{EXPERT}.1.up_proj.weight", swapped), {f"{EXPERT}.1.up_proj.weight"}),
    "experts": (exchange_experts, {f"{EXPERT}.{expert}.{name}.weight" for expert in (0, 2) for name in ("gate_proj", "up_proj", "down_proj")}),
    "groups": (group_scales_by_stride, {f"{EXPERT}.1.up_proj.weight"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found_in_the_right_modules(name: str, tmp_path: Path) -> None:
    plant, places = FAULTS[name]
    right, wrong = w4a8_experts(), w4a8_experts()
    plant(wrong)
    for other in (right, as_float(right)):
        rows, findings = compared(wrong, other, tmp_path, min_sqnr=15.0)
        assert {finding.where for finding in findings} == places
        assert {finding.code for finding in findings} == {"values-differ"}
        assert set(list(rows)[: len(places)]) == places


def test_exchanged_experts_contradict_nothing(tmp_path: Path) -> None:
    """So that it is `diff` that must find them."""
    draft = w4a8_experts()
    exchange_experts(draft)
    layers = model(draft, tmp_path).layers
    assert list(check_values(layers, Plans(CONSUMER, DEVICE, "bfloat16"), max_memory=1 << 28, progress=print)) == []


# ---- sides ---------------------------------------------------------------------------------------------------------------------------------------------------


def test_equal_folders(tmp_path: Path) -> None:
    rows, findings = compared(w4a8_experts(), w4a8_experts(), tmp_path, min_sqnr=1000.0)
    assert findings == []
    assert rows
    assert all((row.sqnr, row.error) == (math.inf, 0) for row in rows.values())


def test_one_scheme_and_another(tmp_path: Path) -> None:
    """int8 with the codes of int4, and packed int4: the same values."""
    packed = dense("W4A8_DYNAMIC", version="1.0.0")
    unpacked = dense("W4A8_DYNAMIC", version="0")
    for name in quantized_modules(packed):
        unpacked.tensors[name] = Tensor.of(unpack(packed.tensors[name].array()).astype(np.int8))
        for suffix in ("_scale", "_scale_second"):
            unpacked.tensors[name + suffix] = packed.tensors[name + suffix]
    rows, findings = compared(packed, unpacked, tmp_path)
    assert findings == []
    assert all(rows[name].sqnr > 120 for name in quantized_modules(packed))


def test_a_folded_bias_is_compared_with_a_bias(tmp_path: Path) -> None:
    """Of static W8A8: deq_scale * (quant_bias + input_offset * the sum of the weights)."""
    draft, name = dense("W8A8"), f"{ATTENTION}.q_proj"
    change(draft, f"{name}.input_offset", lambda array: array + 7)
    tensors = {key.rpartition(".")[2]: tensor.array().astype(np.float64) for key, tensor in draft.tensors.items() if key.startswith(f"{name}.")}
    plain = float_model(dtype="float32", layers=1, hidden=256, intermediate=512, heads=2, kv_heads=1).fill()
    plain.tensors[f"{name}.weight"] = Tensor.of((tensors["weight"] * tensors["deq_scale"][:, None] / tensors["input_scale"]).astype(np.float32))
    plain.tensors[f"{name}.bias"] = Tensor.of((tensors["deq_scale"] * (tensors["quant_bias"] + 7 * tensors["weight"].sum(axis=1))).astype(np.float32))
    rows, findings = compared(draft, plain, tmp_path)
    # The other layers have no bias in the float model, which is no finding.
    assert findings == []
    assert rows[f"{name}.bias"].sqnr > 100
    assert rows[f"{name}.weight"].sqnr > 120


def test_missing_on_either_side(tmp_path: Path) -> None:
    draft = dense("W8A8_DYNAMIC")
    plain = as_float(draft)
    del plain.tensors[f"{MLP}.up_proj.weight"]
    plain.tensors["model.layers.0.extra.weight"] = Tensor("BF16", (2, 2))
    _, findings = compared(draft, plain, tmp_path)
    assert [(finding.code, finding.where, finding.message) for finding in findings] == [
        ("diff-unmatched", f"{MLP}.up_proj.weight", "only the first checkpoint has this tensor"),
        ("diff-unmatched", "model.layers.0.extra.weight", "only the second checkpoint has this tensor"),
    ]


def test_other_shapes(tmp_path: Path) -> None:
    draft = dense("W8A8_DYNAMIC")
    plain = as_float(draft)
    change(plain, f"{MLP}.up_proj.weight", lambda array: array.T.copy())
    _, (finding,) = compared(draft, plain, tmp_path)
    assert (finding.code, finding.where, finding.helps) == ("diff-shape", f"{MLP}.up_proj.weight", ("one of them is transposed",))


def test_nan_comes_first(tmp_path: Path) -> None:
    draft = dense("W8A8_DYNAMIC")
    plain, name = as_float(draft), f"{MLP}.down_proj.weight"
    change(plain, name, lambda array: array.__setitem__((4, 4), np.nan))
    rows, (finding,) = compared(draft, plain, tmp_path)
    assert next(iter(rows)) == name
    assert (finding.code, finding.where) == ("values-differ", name)


def test_what_does_not_fit_its_spec_is_not_decoded(tmp_path: Path) -> None:
    draft = dense("W8A8_DYNAMIC")
    plain = as_float(draft)
    draft.reshape(f"{ATTENTION}.q_proj.weight_scale", 2, 1)
    rows, (finding,) = compared(draft, plain, tmp_path)
    assert (finding.code, finding.where) == ("diff-undecoded", f"{ATTENTION}.q_proj.weight")
    assert f"{ATTENTION}.q_proj.weight" not in rows


def test_dtypes_that_nobody_reads_are_said(tmp_path: Path) -> None:
    one, other = dense("W8A8_DYNAMIC"), dense("W8A8_DYNAMIC")
    for draft in (one, other):
        draft.tensors["model.layers.0.extra.mask"] = Tensor("F8_E5M2", (2, 2))
    rows, findings = compared(one, other, tmp_path)
    assert {(finding.code, finding.where) for finding in findings} == {("diff-undecoded", "model.layers.0.extra.mask")}
    assert "it is float8_e5m2" in findings[0].message
    assert "model.layers.0.extra.mask" not in rows


def test_a_budget_that_is_too_small_is_said(tmp_path: Path) -> None:
    draft = dense("W8A8_DYNAMIC")
    rows, findings = compared(draft, as_float(draft), tmp_path, max_memory=1 << 10)
    assert rows == {}
    assert {finding.code for finding in findings} == {"memory-budget"}


def test_rotated_layers(tmp_path: Path) -> None:
    """FlatQuant: what the layer multiplies its input with, the rotations multiplied in."""
    draft = dense("W4A4_FLATQUANT_DYNAMIC")
    rows, findings = compared(draft, dense("W4A4_FLATQUANT_DYNAMIC"), tmp_path)
    assert findings == []
    plain = float_model(dtype="float32", layers=1, hidden=256, intermediate=512, heads=2, kv_heads=1).fill()
    name = f"{ATTENTION}.q_proj"
    parts = {suffix: draft.tensors[f"{name}.{suffix}"].array().astype(np.float64) for suffix in ("weight", "weight_scale", "left_trans", "right_trans")}
    weight = (parts["weight"] * parts["weight_scale"]) @ np.kron(parts["left_trans"], parts["right_trans"]).T
    plain.tensors[f"{name}.weight"] = Tensor.of(weight.astype(np.float32))
    rows, _ = compared(draft, plain, tmp_path)
    assert rows[f"{name}.weight"].sqnr > 100
