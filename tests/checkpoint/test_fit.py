"""Tensors against the specs: nothing on what a spec declares, a finding for every tensor that is not so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from layoutdsl.checkpoint import shapes
from layoutdsl.checkpoint.fit import Fit
from layoutdsl.checkpoint.fused import disagreements
from layoutdsl.checkpoint.model import Layer, Part
from layoutdsl.checkpoint.plans import Plans
from layoutdsl.checkpoint.shapes import uninitialised
from layoutdsl.diagnostics import Diagnostic
from tests.checkpoint.made import changed, of, right_layers, tensor, without

ALL = [pytest.param(one, plans, id=f"{one.scheme}.{one.kind}") for one, plans in right_layers()]
STRANGER = tensor("stranger", "int8", (1,))


def findings(one: Layer, plans: Plans, experts: int | None = None) -> list[Diagnostic]:
    return list(Fit(plans, experts).findings([one]))


def only(one: Layer, plans: Plans) -> Diagnostic:
    (found,) = findings(one, plans)
    return found


# ---- every spec ------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "plans"), ALL)
def test_what_a_spec_declares_fits(one: Layer, plans: Plans) -> None:
    fit = Fit(plans)
    assert list(fit.findings([one])) == []
    assert fit.verdict(one).sizes is not None or one.kind == "attention"


@pytest.mark.parametrize(("one", "plans"), ALL)
def test_every_missing_tensor_is_named(one: Layer, plans: Plans) -> None:
    inputs = plans.of(one.scheme, one.kind, {}).inputs
    for name, node in inputs.items():
        part = list(one.stored[name])[-1]
        found = findings(without(one, name, part), plans)
        wanted = [] if node.default is not None else [("tensor-missing", one.stored[name][part].name)]
        assert [(finding.code, finding.where) for finding in found] == wanted


@pytest.mark.parametrize(("one", "plans"), ALL)
def test_every_tensor_too_many_is_named(one: Layer, plans: Plans) -> None:
    found = only(replace(one, stored={**one.stored, "stranger": {Part(): STRANGER}}), plans)
    assert (found.code, found.where) == ("tensor-unexpected", "stranger")


@pytest.mark.parametrize(("one", "plans"), ALL)
def test_every_dim_counts(one: Layer, plans: Plans) -> None:
    """One more in any dim is found, at the tensor or in the config that it contradicts, unless the dim says the size by itself."""
    for name, parts in one.stored.items():
        shape = next(iter(parts.values())).shape
        for dim in range(len(shape)):
            found = findings(changed(one, name, shape=tuple(extent + (place == dim) for place, extent in enumerate(shape))), plans)
            others = [finding for finding in found if finding.severity == "error"]
            assert others or one.kind == "attention" or _alone(one, plans, name, dim), (name, dim)


def _alone(one: Layer, plans: Plans, name: str, dim: int) -> bool:
    """Is this the one tensor that has this axis? Then any extent is right."""
    inputs = plans.of(one.scheme, one.kind, {}).inputs
    axes = {digit.axis for digit in inputs[name].type.dims[dim + one.prefix.endswith("experts")]}
    others = {digit.axis for other, node in inputs.items() for place, d in enumerate(node.type.dims) if (other, place) != (name, dim) for digit in d}
    return not axes & others


@pytest.mark.parametrize(("one", "plans"), ALL)
def test_a_complex_number_is_no_dtype_of_anything(one: Layer, plans: Plans) -> None:
    for name in one.stored:
        codes = {finding.code for finding in findings(changed(one, name, dtype="complex64"), plans)}
        assert codes == {"tensor-dtype"}, name


# ---- dtypes ----------------------------------------------------------------------------------------------------------------------------------------------

DTYPES = [
    ("W8A8_DYNAMIC", "weight", "bfloat16", "tensor-dtype"),
    ("W8A8_DYNAMIC", "weight", "uint8", "tensor-dtype"),
    ("W8A8_DYNAMIC", "weight_scale", "float32", "narrowing"),
    ("W8A8_DYNAMIC", "weight_scale", "float16", "narrowing"),
    ("W8A8_DYNAMIC", "weight_offset", "int8", None),
    ("W8A8", "deq_scale", "bfloat16", None),
    ("W8A8", "deq_scale", "int64", "tensor-dtype"),
    ("W8A8", "input_offset", "float32", "narrowing"),
    ("W8A8", "quant_bias", "float32", "tensor-dtype"),
    ("W8A8_MXFP8", "weight_scale", "float8_e8m0fnu", "tensor-dtype"),
    ("W4A8_MXFP", "weight", "int8", None),
    ("FP8", "weight_scale", "float8_e8m0fnu", None),
    ("FP8", "weight_scale", "bfloat16", None),
    ("FP8", "weight_scale", "uint8", "tensor-dtype"),
]


@pytest.mark.parametrize(("scheme", "name", "dtype", "code"), DTYPES)
def test_dtypes(scheme: str, name: str, dtype: str, code: str | None) -> None:
    kind, consumer = ("ds_linear", "vllm-ascend-main") if scheme == "FP8" else ("linear", "vllm-ascend-0.23")
    one, plans = of(scheme, kind, consumer=consumer, device="a5" if "MX" in scheme or scheme == "FP8" else "a2")
    assert [finding.code for finding in findings(changed(one, name, dtype=dtype), plans)] == ([code] if code else [])


def test_the_other_dtype_of_the_model_is_offered() -> None:
    one, plans = of("W8A8")
    assert only(changed(one, "deq_scale", dtype="int64"), plans).helps == ("a float16 model has int64 here: `--params-dtype float16`",)


def test_narrowing_is_said_once() -> None:
    one, plans = of("W8A8_DYNAMIC")
    rounded = changed(one, "weight_scale", dtype="float32")
    found = list(Fit(plans).findings([rounded, replace(rounded, prefix="model.layers.1.self_attn.q_proj")]))
    assert [(finding.severity, finding.where, finding.notes) for finding in found] == [("note", "W8A8_DYNAMIC.linear", ("in 2 layers",))]


# ---- shapes ----------------------------------------------------------------------------------------------------------------------------------------------


def test_a_transposed_weight_is_called_so() -> None:
    one, plans = of("W8A8_DYNAMIC")
    found = only(changed(one, "weight", shape=(768, 512)), plans)
    assert "looks transposed: [768, 512], where [512, 768] fits" in found.message
    assert found.notes  # nothing else says how many inputs there are
    grouped, plans = of("W4A8_DYNAMIC", group_size=64)
    found = only(changed(grouped, "weight", shape=(768, 512)), plans)
    assert "looks transposed" in found.message and not found.notes


def test_missing_rows_are_counted() -> None:
    one, plans = of("W8A8_DYNAMIC", input_size=1024)
    found = only(changed(one, "weight", shape=(256, 1024)), plans)
    assert (found.code, found.where) == ("partial-load", "model.layers.0.self_attn.q_proj.weight")
    assert "256 of 512 rows would stay uninitialised" in found.message


@pytest.mark.parametrize(
    ("stored", "wanted", "text"),
    [
        ((64, 8), (128, 8), "64 of 128 rows"),
        ((128, 1), (128, 16), "15 of 16 columns"),
        ((64, 4), (128, 8), "768 of 1024 values"),
        ((3,), (4,), "1 of 4 values"),
        ((64, 16), (128, 8), ""),
        ((4,), (4,), ""),
        ((4,), (4, 1), ""),
    ],
)
def test_uninitialised(stored: tuple[int, ...], wanted: tuple[int, ...], text: str) -> None:
    assert uninitialised(stored, wanted) == text


def test_a_number_is_a_vector_of_one() -> None:
    one, plans = of("W8A8")
    assert findings(changed(one, "input_scale", shape=()), plans) == []


def test_a_partial_group_is_no_other_group_size() -> None:
    """224 inputs in 4 columns are groups of 64 with a partial one, though 56 would divide them."""
    one, plans = of("W4A8_DYNAMIC", input_size=256, group_size=64)
    one = changed(one, "weight", shape=(512, 224))
    (found,) = findings(one, plans)
    assert found.code == "requirement-failed" and "input_size = 224" in " ".join(found.notes)


# ---- config ----------------------------------------------------------------------------------------------------------------------------------------------

LIES = [
    ("linear", {"group_size": 64, "version": "1.0.0"}, {"version": "0"}, '"version": "1.0.0"', "256 of 512 rows"),
    ("linear", {"group_size": 64, "version": "0"}, {"version": "1.0.0"}, '"version": "0"', ""),
    ("linear", {"group_size": 64, "version": "0"}, {"group_size": 128}, '"group_size": 64', ""),
    ("linear", {"group_size": 128, "version": "0"}, {"group_size": 64}, '"group_size": 128', "6 of 12 columns"),
    ("linear", {"group_size": 64, "version": "0"}, {"group_size": 100}, '"group_size": 64', ""),
    ("moe", {"group_size": 256, "version": "1.0.0"}, {"version": "0"}, '"version": "1.0.0"', "rows"),
    ("moe", {"group_size": 256, "version": "1.0.0"}, {"group_size": 128}, '"group_size": 256', "columns"),
    ("moe", {"group_size": 256, "version": "1.0.0"}, {"group_size": 0}, '"group_size": 256', ""),
    ("moe", {"group_size": None, "version": "1.0.0"}, {"group_size": 256}, '"group_size": 0', ""),
]


@pytest.mark.parametrize(("kind", "config", "stated", "key", "left"), LIES)
def test_the_one_value_that_fits_is_named(kind: str, config: dict[str, object], stated: dict[str, object], key: str, left: str) -> None:
    one, plans = of("W4A8_DYNAMIC", kind, **config)
    assert findings(one, plans) == []
    found = only(replace(one, config={**config, **stated}), plans)
    assert (found.code, found.where) == ("config-contradicts-shapes", "quant_model_description.json")
    ((_, wrong),) = stated.items()
    assert f"is {'none' if wrong == 0 else wrong} here" in found.message
    assert found.helps == (f"write `{key}` in quant_model_description.json",)
    assert left in " ".join(found.notes) and bool(left) == ("uninitialised" in " ".join(found.notes))


def test_of_two_values_that_fit_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    one, plans = of("W4A8_DYNAMIC", group_size=64, version="0")
    monkeypatch.setattr(shapes, "_alternatives", lambda *_: iter([("group_size", 64), ("group_size", 64)]))
    found = findings(replace(one, config={"group_size": 128, "version": "0"}), plans)
    assert {(finding.code, finding.where.rpartition(".")[2]) for finding in found} == {
        ("tensor-shape", "weight_scale_second"),
        ("tensor-shape", "weight_offset_second"),
    }


def test_rows_are_no_inputs_of_a_group() -> None:
    """912 outputs in 3 columns would be groups of 304, which fit 768 inputs as well."""
    one, plans = of("W4A8_DYNAMIC", group_size=256, version="1.0.0", output_size=912)
    found = only(replace(one, config={"group_size": 100, "version": "1.0.0"}), plans)
    assert found.helps == ('write `"group_size": 256` in quant_model_description.json',)


def test_one_layer_unlike_the_others_is_not_the_configs_fault() -> None:
    config = {"group_size": 64, "version": "1.0.0"}
    one, plans = of("W4A8_DYNAMIC", **config)
    (found,) = Fit(plans).findings([one, changed(replace(one, prefix="b"), "weight", shape=(512, 768), name="b.weight")])
    assert (found.code, found.where) == ("config-contradicts-shapes", "b.weight")
    assert "[512, 768] in the files, and `version` 1.0.0 makes it [256, 768]" in found.message
    assert found.helps == ("1 other layer of W4A8_DYNAMIC.linear fit `version` 1.0.0: store these tensors as those are",)


@pytest.mark.parametrize(("row", "columns", "code"), [("column", 16, "tensor-shape"), ("row", 1, "partial-load")])
def test_partial_sums_of_the_other_kind_of_layer(row: str, columns: int, code: str) -> None:
    one, plans = of("W4A8_DYNAMIC", version="1.0.0", layer_type=row)
    found = only(changed(one, "scale_bias", shape=(512, columns)), plans)
    assert (found.code, found.where) == (code, "model.layers.0.self_attn.q_proj.scale_bias")


def test_a_config_that_a_scheme_refuses_is_one_finding() -> None:
    one, plans = of("W8A8_MXFP8", device="a5")
    wrong = replace(one, config={"group_size": 256})
    (found,) = Fit(plans).findings([wrong, replace(wrong, prefix="b")])
    assert (found.code, found.where) == ("config-value", "quant_model_description.json")
    assert found.notes[0] == "said of 2 layers, the first is model.layers.0.self_attn.q_proj"


# ---- experts ---------------------------------------------------------------------------------------------------------------------------------------------


def _without_expert(one: Layer, expert: int) -> Layer:
    return replace(one, stored={name: {part: t for part, t in parts.items() if part.expert != expert} for name, parts in one.stored.items()})


def test_an_expert_in_the_middle_is_missed_and_the_last_one_too() -> None:
    one, plans = of("W8A8_DYNAMIC", "moe")
    assert only(_without_expert(one, 1), plans).where == "model.layers.0.mlp.experts.1"
    assert findings(_without_expert(one, 3), plans) == []  # nothing says how many there are
    (found,) = findings(_without_expert(one, 3), plans, experts=4)
    assert (found.code, found.where) == ("tensor-missing", "model.layers.0.mlp.experts.3")


def test_an_expert_unlike_the_others() -> None:
    one, plans = of("W8A8_DYNAMIC", "moe")
    found = only(changed(one, "w13_weight", Part(2, "up"), shape=(768, 512)), plans)
    assert found.message == "this looks transposed: it is int8 [768, 512], and that of 3 other experts int8 [512, 768]"
    codes = [finding.code for finding in findings(changed(one, "w2_weight_scale", Part(0), dtype="float32"), plans)]
    assert codes == ["tensor-dtype", "narrowing"]


def test_gate_and_up_of_different_inputs() -> None:
    one, plans = of("W8A8_DYNAMIC", "moe")
    for expert in range(4):
        one = changed(one, "w13_weight", Part(expert, "gate"), shape=(512, 700))
    assert "do not go together: gate [512, 700], up [512, 768]" in findings(one, plans)[0].message


# ---- fused modules ---------------------------------------------------------------------------------------------------------------------------------------


def _qkv(plans: Plans, *members: Layer) -> list[Diagnostic]:
    names = ("q_proj", "k_proj", "v_proj")
    layers = [replace(member, prefix=f"at.{name}", fused="at.qkv_proj") for name, member in zip(names, members)]
    return list(disagreements(layers, Fit(plans)))


def test_members_may_differ_in_outputs_only() -> None:
    one, plans = of("W4A8_DYNAMIC", group_size=64, version="0")
    fewer, _ = of("W4A8_DYNAMIC", group_size=64, version="0", output_size=128)
    assert _qkv(plans, one, fewer, fewer) == []
    narrow, _ = of("W4A8_DYNAMIC", group_size=64, version="0", input_size=512)
    (found,) = _qkv(plans, one, narrow, one)
    assert (found.code, found.where) == ("fused-differ", "at.qkv_proj")
    assert found.notes == ("`q_proj`: 768 inputs", "`k_proj`: 512 inputs", "`v_proj`: 768 inputs")
    coarse, _ = of("W4A8_DYNAMIC", group_size=128, version="0")
    (found,) = _qkv(plans, one, coarse, one)
    assert found.notes == ("`q_proj`: group_size 64", "`k_proj`: group_size 128", "`v_proj`: group_size 64")
    assert _qkv(plans, one, one, without(one, "weight_offset_second")) == []  # a required tensor that is missing has a finding of its own


def test_members_with_an_optional_tensor_more() -> None:
    one, plans = of("W8A8_DYNAMIC")
    (found,) = _qkv(plans, one, one, without(one, "weight_offset"))
    assert found.message == "the members of a fused module differ in tensors"
    assert found.notes == ("`q_proj`: weight_offset", "`k_proj`: weight_offset", "`v_proj`: nothing of these")
