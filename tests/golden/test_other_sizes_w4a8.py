# ruff: noqa: E741, N803 - sizes are capitals, as everywhere in this field
"""W4A8 at sizes, seeds and values that nobody recorded: what ``test_other_sizes.py`` does for all schemes, with float sums, and ``fast`` within its bound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

import layoutdsl
from tests.golden.compare import assert_same, flat
from tests.golden.reference import HEAD, RELEASE, SEED, Case, load
from tests.golden.values import KINDS, Kind, assert_as_the_oracle, plan_of, values

PACKED, CT = {"version": "1.0.0"}, {"quant_method": "compressed-tensors"}
LISTS, MEGA = {"expert_lists": True}, {"mega_moe": True, "fused_mc2": 1}


def linear(K: int, N: int, g: int, *, params: torch.dtype = torch.bfloat16, **config: Any) -> Case:
    return Case("w4a8_dynamic", "linear", {"input_size": K, "output_size": N}, {"consumer": SEED, "group_size": g, **config}, params)


def moe(E: int, H: int, I: int, g: int, *, consumer: str = SEED, **config: Any) -> Case:
    if config.get("quant_method"):
        config["weight_strategy"] = "group" if g else "channel"
    sizes = {"num_experts": E, "hidden_size": H, "intermediate_size_per_partition": I}
    return Case("w4a8_dynamic", "moe", sizes, {"consumer": consumer, "group_size": g, **config})


# ---- tables --------------------------------------------------------------------------------------------------------------------------------------------------

LINEAR_SIZES = [
    # K, N, g
    (32, 8, 32),  # the least N, one group
    (16, 8, 16),
    (64, 8, 16),
    (96, 24, 32),
    (112, 56, 16),  # no powers of two
    (192, 96, 64),
    (384, 40, 128),
    (128, 128, 32),  # a square
    (256, 256, 256),  # a square of one group, the default group size
    (208, 1000, 16),
    (768, 72, 256),
]
LARGE_LINEAR_SIZES = [
    (2048, 1024, 128),
    (2048, 1000, 256),  # columns that no tile divides
    (8192, 136, 64),  # a rest of 8 columns
    (4096, 328, 32),
    (16448, 72, 64),  # one tile of columns is all
    (1024, 2056, 16),
]
MOE_SIZES = [
    # E, H, I, g
    (1, 32, 16, 16),
    (2, 64, 32, 32),  # H = 2I: w13 is a square; one group in w2
    (5, 96, 48, 16),
    (3, 64, 64, 64),  # one group everywhere; w2 is a square
    (2, 256, 128, 128),
    (1, 512, 256, 256),
    (4, 160, 112, 16),
]
LARGE_MOE_SIZES = [(2, 2048, 512, 128), (1, 1032, 1040, 8), (3, 1024, 768, 256)]
LINEAR_KINDS: dict[str, dict[str, Any]] = {
    "unpacked": {},
    "unpacked-fp16": {"params": torch.float16},
    "packed-row": {**PACKED, "layer_type": "row"},
    "packed-column": PACKED,
}
MOE_KINDS: dict[str, dict[str, Any]] = {
    "seed-group-unpacked": {},
    "seed-group-packed": PACKED,
    "seed-channel-unpacked": {"g": 0},
    "seed-channel-packed": {"g": 0, **PACKED},
    "seed-ct-group": CT,
    "seed-ct-channel": {"g": 0, **CT},
    "release-group-unpacked": {"consumer": RELEASE},
    "release-group-packed": {"consumer": RELEASE, **PACKED},
    "release-channel": {"consumer": RELEASE, "g": 0, **PACKED},
    "release-channel-lists": {"consumer": RELEASE, "g": 0, **PACKED, **LISTS},
    "release-ct-group": {"consumer": RELEASE, **CT},
    "release-ct-channel": {"consumer": RELEASE, "g": 0, **CT},
    "main-channel": {"consumer": HEAD, "g": 0, **PACKED},
    "main-channel-lists": {"consumer": HEAD, "g": 0, **PACKED, **LISTS},
    "main-channel-mega": {"consumer": HEAD, "g": 0, **PACKED, **MEGA},
    "main-ct": {"consumer": HEAD, "g": 0, **CT},
    "main-ct-lists": {"consumer": HEAD, "g": 0, **CT, **LISTS},
    "main-ct-mega": {"consumer": HEAD, "g": 0, **CT, **MEGA},
}


def linear_case(sizes: tuple[int, int, int], kind: str, **config: Any) -> Case:
    return linear(*sizes, **LINEAR_KINDS[kind], **config)


def moe_case(sizes: tuple[int, int, int, int], kind: str, **config: Any) -> Case:
    return moe(**{**dict(zip(("E", "H", "I", "g"), sizes)), **MOE_KINDS[kind], **config})


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


# ---- exact ---------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LINEAR_KINDS)
@pytest.mark.parametrize("sizes", LINEAR_SIZES, ids=str)
def test_linear(sizes: tuple[int, int, int], kind: str) -> None:
    case = linear_case(sizes, kind)
    for seed in range(2):
        assert_as_the_oracle(case, values(case, seed=seed))


@pytest.mark.parametrize("kind", ["unpacked", "packed-row"])
@pytest.mark.parametrize("sizes", LARGE_LINEAR_SIZES, ids=str)
def test_large_linear(sizes: tuple[int, int, int], kind: str, threads: int) -> None:
    case = linear_case(sizes, kind)
    assert_as_the_oracle(case, values(case))


@pytest.mark.parametrize("kind", MOE_KINDS)
@pytest.mark.parametrize("sizes", MOE_SIZES, ids=str)
def test_moe(sizes: tuple[int, int, int, int], kind: str) -> None:
    case = moe_case(sizes, kind)
    if kind == "release-ct-group" and case.config["group_size"] == case.H:
        pytest.skip("nobody recorded whether the release keeps the axis of a single group")
    assert_as_the_oracle(case, values(case))


@pytest.mark.parametrize("kind", ["seed-group-unpacked", "seed-ct-channel", "release-ct-group", "main-channel-mega", "main-ct-lists"])
@pytest.mark.parametrize("sizes", LARGE_MOE_SIZES, ids=str)
def test_large_moe(sizes: tuple[int, int, int, int], kind: str, threads: int) -> None:
    case = moe_case(sizes, kind)
    assert_as_the_oracle(case, values(case))


@pytest.mark.parametrize("kind", ["seed-group-packed", "seed-channel-packed", "release-channel", "release-group-packed", "main-channel", "main-channel-mega"])
@pytest.mark.parametrize("tp", [1, 2, 4, 8, 16])
def test_partial_sums_of_every_tensor_parallel_size(tp: int, kind: str) -> None:
    case = moe_case((2, 64, 48, 16), kind, tp_size=tp)
    assert_as_the_oracle(case, values(case, "negative"))


@pytest.mark.parametrize(("I", "tp"), [(24, 2), (8, 2), (20, 4), (4, 4), (12, 16)])
def test_sizes_that_only_a_split_allows(I: int, tp: int) -> None:
    case = moe(2, 32, I, 0, consumer=HEAD, tp_size=tp)
    assert_as_the_oracle(case, values(case))


# ---- values that are easily lost -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LINEAR_KINDS)
@pytest.mark.parametrize("content", KINDS)
def test_linear_values(content: Kind, kind: str) -> None:
    case = linear_case((96, 40, 32), kind)
    assert_as_the_oracle(case, values(case, content), exact=content not in ("extreme", "special"))


@pytest.mark.parametrize("kind", MOE_KINDS)
@pytest.mark.parametrize("content", KINDS)
def test_moe_values(content: Kind, kind: str) -> None:
    case = moe_case((3, 96, 48, 16), kind)
    assert_as_the_oracle(case, values(case, content), exact=content not in ("extreme", "special"))


@pytest.mark.parametrize(
    "kind", ["seed-channel-packed", "seed-ct-channel", "seed-ct-group", "release-channel-lists", "release-ct-group", "main-channel-mega", "main-ct"]
)
def test_scales_become_int64_with_all_their_bits(kind: str) -> None:
    case = moe_case((2, 96, 48, 16), kind)
    given = values(case, "special")
    got, want = (flat(results) for results in (plan_of(case).run(dict(given)), load(case, given).tensors))
    scales = [name for name in want if "weight_scale" in name]
    assert scales
    for name in scales:
        assert want[name].dtype == torch.int64
        assert torch.equal(got[name], want[name]), name
        assert int(got[name].min()) >= 0, name


# ---- fast ----------------------------------------------------------------------------------------------------------------------------------------------------


def exact_sum(case: Case, given: Mapping[str, torch.Tensor], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """8 * sum and 8 * sum of absolute terms in float64, in which every term is exact enough to count as real."""
    weight = given[f"{name}weight"].double()
    scale = given[f"{name}weight_scale"].double()
    if f"{name}weight_scale_second" in given:
        scale = scale * given[f"{name}weight_scale_second"].double()
    terms = 8 * weight * scale.repeat_interleave(weight.shape[-1] // scale.shape[-1], -1)
    return terms.sum(-1), terms.abs().sum(-1)


FAST = [
    *(linear_case(sizes, "unpacked") for sizes in [(96, 24, 32), (256, 256, 256), (2048, 1000, 128), (8192, 136, 64)]),
    *(moe_case(sizes, kind) for sizes in [(2, 64, 32, 32), (3, 1024, 768, 256)] for kind in ("seed-group-unpacked", "seed-ct-group", "main-ct-lists")),
]


@pytest.mark.parametrize("content", ["plain", "negative"])
@pytest.mark.parametrize("case", FAST, ids=str)
def test_fast_is_within_its_bound(case: Case, content: Kind) -> None:
    """|got - exact| <= gamma(n) * 8 * sum|terms|, n: the additions of a sum and the three roundings of a term; all else has the bits of ``exact``."""
    given = values(case, content)
    want, got = (flat(plan_of(case).run(dict(given), math=mode)) for mode in ("exact", "fast"))
    sums = {("", "weight_scale_bias")} if case.layer == "linear" else {("w13_", "w13_scale_bias"), ("w2_", "w2_scale_bias")}
    for prefix, output in sums:
        names = sorted((name for name in got if name.split(".")[0].removesuffix("_list") == output), key=lambda name: int(name.partition(".")[2] or 0))
        total = torch.cat([got[name].reshape(-1) for name in names]).double()
        real, size = (part.reshape(-1) for part in exact_sum(case, given, prefix))
        n = given[f"{prefix}weight"].shape[-1] + 3
        gamma = n * 2.0**-24 / (1 - n * 2.0**-24)
        assert bool(((total - real).abs() <= gamma * size).all())
        want, got = ({name: tensor for name, tensor in results.items() if name not in names} for results in (want, got))
    assert_same(got, want)


def test_fast_keeps_partial_sums_within_their_bound() -> None:
    case = moe_case((2, 64, 32, 32), "seed-group-packed")
    given = values(case, "negative")
    got = plan_of(case).run(given, math="fast")
    for name in ("w13_scale_bias", "w2_scale_bias"):
        partial = given[name].double()
        n = partial.shape[-1]
        assert bool(((got[name].double() - partial.sum(-1)).abs() <= n * 2.0**-24 * partial.abs().sum(-1)).all())


# ---- sizes that cannot be ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        moe(2, 32, 24, 0, consumer=HEAD),  # 16 partial sums over 24
        moe(2, 32, 20, 0, consumer=RELEASE, tp_size=2, **PACKED),
        moe(2, 32, 8, 8, **PACKED),
        moe(2, 32, 32, 0, tp_size=3, **PACKED),  # a tp that does not divide 16
        moe(2, 36, 16, 0, consumer=HEAD),  # H not a multiple of 8
        moe(2, 32, 18, 0, consumer=HEAD, **CT),  # 2I not a multiple of 8
        moe(2, 64, 32, 48),  # groups that do not divide
        linear(64, 12, 32),
        linear(64, 12, 32, **PACKED),
        linear(80, 16, 32),
    ],
    ids=str,
)
def test_impossible_sizes_are_diagnosed(case: Case) -> None:
    with pytest.raises(layoutdsl.DiagnosticError) as caught:
        plan_of(case)
    found = {diagnostic.code for diagnostic in caught.value.diagnostics}
    assert found == {"requirement-failed"}
