"""Sizes and checkpoints have what mistakes need to show: what a mistake exchanges differs."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from layoutdsl.api import load_spec
from layoutdsl.plan.sizes import evaluate, names_in
from layoutdsl.verify import sizes
from layoutdsl.verify.configurations import Configuration, configurations, configured
from layoutdsl.verify.tensors import Checkpoint, checkpoint


@cache
def found(layer: str) -> tuple[Configuration, ...]:
    return tuple(configurations(load_spec("W4A8_DYNAMIC", layer), {}))


# ---- configurations -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["linear", "moe"])
def test_every_case_is_run(layer: str) -> None:
    document = load_spec("W4A8_DYNAMIC", layer).document
    cases = {case.name.value for facet in document.variants for case in facet.cases}
    reached = {case for configuration in configurations(load_spec("W4A8_DYNAMIC", layer), {}, all=True) for case in configuration.cases}
    assert reached == cases


def test_both_dtypes_and_several_group_sizes() -> None:
    given = [configuration.given for configuration in found("linear")]
    assert {entry["params_dtype"] for entry in given} == {"bfloat16", "float16"}
    assert {64, 96, 256} <= {entry["group_size"] for entry in given}, "a small one, no power of two, the spec's default"
    assert {entry["group_size"] for entry in (c.given for c in found("moe")) if entry.get("group_size")} == {64, 256}, "the kernel's own, and a small one"


def test_what_is_given_is_fixed() -> None:
    fixed = configurations(load_spec("W4A8_DYNAMIC.linear"), {"group_size": 128, "version": "1.0.0"})
    assert {(c.given["group_size"], c.cases[0]) for c in fixed} == {(128, "packed")}


def test_no_plan_twice() -> None:
    everything = configurations(load_spec("W4A8_DYNAMIC.linear"), {}, all=True)
    assert len(everything) > len(found("linear"))


# ---- sizes --------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["linear", "moe"])
def test_sizes_tell_axes_apart(layer: str) -> None:
    for configuration in found(layer):
        plan = configuration.plan.data
        chosen = sizes.distinct(plan)
        assert chosen is not None
        configuration.plan.bind(chosen)
        extents = {extent: evaluate(extent, chosen) for _, extent in plan.axes if names_in(extent)}
        assert len(set(extents.values())) == len(extents), configuration.title
        lengths = [size for name, size in chosen.items() if name != "num_experts"]
        assert all(a % b for a in lengths for b in lengths if a != b), configuration.title
        assert chosen.get("num_experts", 3) not in (1, 2)


def test_limits_are_met_where_any_sizes_meet_them() -> None:
    for configuration in found("linear"):
        if configuration.given["group_size"] in (64, 128):
            chosen = sizes.chosen(configuration.plan.data)
            assert all(not configuration.plan.bind(entry).warnings for entry in chosen.values()), configuration.title


def test_odd_groups_one_group_and_a_partial_group() -> None:
    def groups(configuration: Configuration, purpose: str) -> set[float]:
        chosen = sizes.chosen(configuration.plan.data).get(purpose)
        return {chosen["input_size"] / configuration.given["group_size"]} if chosen else set()

    distinct = set().union(*(groups(configuration, "distinct") for configuration in found("linear")))
    assert all(-(-count // 1) % 2 == 1 and count > 2 for count in distinct)
    assert any(count % 1 for count in distinct), "packed layers may have a partial last group"
    channel = [c for c in found("moe") if "grouped" in c.cases and c.given["group_size"] == 64]
    assert all(sizes.one_group(c.plan.data) for c in channel)
    assert any((entry := sizes.smallest(c.plan.data)) and entry["num_experts"] == 1 for c in channel)


def test_sizes_of_real_models() -> None:
    linear = [entry for c in found("linear") for size in sizes.LARGE if (entry := sizes.large(c.plan.data, size))]
    assert {entry["input_size"] for entry in linear} >= set(sizes.LARGE)
    experts = [entry for c in found("moe") for size in sizes.LARGE if (entry := sizes.large(c.plan.data, size))]
    assert {size for entry in experts for size in entry.values()} >= set(sizes.LARGE)


# ---- checkpoints --------------------------------------------------------------------------------------------------------------------------------


def made(layer: str, cases: set[str], **options: object) -> dict[str, torch.Tensor]:
    configuration = next(c for c in found(layer) if cases <= set(c.cases))
    chosen = sizes.distinct(configuration.plan.data)
    assert chosen is not None
    return checkpoint(configuration, configuration.plan.bind(chosen).bound, chosen, **options).tensors  # type: ignore[arg-type]


def test_integers_cover_their_range() -> None:
    packed = made("linear", {"packed"})["weight"]
    low, high = (packed & 15).unique(), (packed >> 4).unique()
    assert (len(low), low.max(), int(high.min()), int(high.max())) == (16, 15, -8, 7), "both nibbles go negative"
    plain = made("linear", {"unpacked"})["weight"]
    assert (int(plain.min()), int(plain.max())) == (-8, 7)


def test_scales_differ_and_are_no_powers_of_two() -> None:
    for tensors in (made("linear", {"packed"}), made("moe", {"seed", "grouped", "unpacked"}), made("moe", {"ct", "channel"})):
        for name in [name for name in tensors if "_scale" in name]:
            scale = tensors[name].double().numpy()
            assert (np.frexp(np.abs(scale))[0] != 0.5).all(), name
            assert (scale < 0).any(), name
            assert (scale > 0).any(), name
            per_channel = scale.reshape(-1, scale.shape[-1])
            assert len(np.unique(per_channel, axis=0)) > 0.9 * len(per_channel), name


def test_offsets_and_biases_are_never_zero() -> None:
    tensors = made("linear", {"packed", "row"})
    for name in ("weight_offset", "weight_offset_second"):
        assert (tensors[name] != 0).all(), name
    # Sums of the weights, as the spec's invariants say: one may be zero.
    assert tensors["scale_bias"].unique().numel() > 0.9 * tensors["scale_bias"].numel()


def of(name: str, given: dict[str, object], **options: object) -> Checkpoint:
    configuration = configured(load_spec(name), given)
    chosen = sizes.distinct(configuration.plan.data)
    assert chosen is not None
    return checkpoint(configuration, configuration.plan.bind(chosen).bound, chosen, **options)  # type: ignore[arg-type]


def test_powers_of_two_where_the_spec_promises_them() -> None:
    scale = of("fp8.ds_linear", {"prefix": ""}).tensors["weight_scale"].double().numpy()
    assert (np.frexp(scale)[0] == 0.5).all(), "and so positive"
    biased = np.unique(np.log2(scale) + 127).astype(int)
    assert biased.min() < 127 < 128 < biased.max(), "every bit of the exponent is needed"


def test_what_the_checkpoint_does_not_hold_is_left_out() -> None:
    assert "input_offset" in of("W8A8.linear", {"quant_method": "ascend"}).tensors
    made = of("W8A8.linear", {"quant_method": "compressed-tensors"})
    assert "input_offset" not in made.tensors
    assert made.stored["input_offset"].values.item() == 0


@pytest.mark.parametrize("scales", ["full", "short"])
def test_what_follows_from_others_keeps_its_range_and_its_bits(scales: str) -> None:
    """deq_scale is a positive float32, in a float16 model carried by an int64."""
    made = of("W8A8_MIX.linear", {"params_dtype": "float16", "kv_role": "consumer"}, scales=scales)
    wanted = made.stored["input_scale"].values.item() * made.stored["weight_scale"].values.reshape(-1)
    assert (wanted > 0).all()
    assert np.array_equal(made.stored["deq_scale"].values, wanted.astype(np.float32).astype(np.float64))
    assert made.tensors["deq_scale"].dtype == torch.int64


def test_integers_of_the_config_are_not_all_one() -> None:
    found = [c.given for c in configurations(load_spec("fp8.ds_linear"), {}) if "wo_a" in c.cases]
    assert found and all(given["o_lora_rank"] > 1 or given["o_groups"] > 1 for given in found)
    assert all(sizes.distinct(configured(load_spec("fp8.ds_linear"), given).plan.data) for given in found)


def test_the_same_again_and_other_with_another_seed() -> None:
    first, again, other = (made("moe", {"seed", "packed", "channel"}, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if first[name].numel() > 9)


def test_short_scales_survive_every_cast() -> None:
    tensors = made("moe", {"seed", "grouped", "unpacked"}, scales="short")
    product = tensors["w2_weight_scale"] * tensors["w2_weight_scale_second"]
    assert torch.equal(product.to(torch.float16).to(torch.float32), product)
    assert torch.equal(product.to(torch.bfloat16).to(torch.float32), product)
