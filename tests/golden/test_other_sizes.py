# ruff: noqa: E741 - sizes are capitals, as everywhere in this field
"""Sizes, seeds and values that nobody recorded, against the oracle in ``reference.py``: bit for bit, float sums included, and ``fast`` within its bound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import pytest
import torch

import layoutdsl
from tests.golden.compare import assert_same, bits, digest, flat
from tests.golden.reference import HEAD, RELEASE, SEED, Declared, Layer, LinearCase, MoeCase, linear, linear_parameters, moe, moe_parameters

Case = LinearCase | MoeCase
Values = Literal["plain", "extreme", "negative", "zero", "special"]
ARITHMETIC = {"linear": ("weight_scale_bias", "weight_scale_second"), "moe": ("scale_bias", "weight_scale")}
"""Endings of the names of results of float arithmetic: there a NaN is a NaN, whatever its payload. Everything else is movement."""


# ---- a case through both -------------------------------------------------------------------------------------------------------------------------------------


def spec_of(case: Case) -> tuple[str, dict[str, Any], dict[str, int], torch.dtype]:
    version = {"version": "1.0.0"} if case.packed else {}
    if isinstance(case, LinearCase):
        config = {"consumer": SEED, "group_size": case.g, "layer_type": "row" if case.row else "column", **version}
        return "linear", config, {"input_size": case.K, "output_size": case.N}, case.params
    config = {"consumer": case.consumer, "group_size": case.g, "tp_size": case.tp, **version}
    if case.ct:
        config |= {"quant_method": "compressed-tensors", "weight_strategy": "group" if case.g else "channel"}
    if case.lists:
        config["expert_lists"] = True
    if case.mega:
        config |= {"mega_moe": True, "fused_mc2": 1}
    return "moe", config, {"num_experts": case.E, "intermediate_size_per_partition": case.I, "hidden_size": case.H}, torch.bfloat16


@cache
def _unbound(layer: str, config: tuple[tuple[str, Any], ...], dtype: torch.dtype) -> layoutdsl.Plan:
    return layoutdsl.compile_spec("W4A8_DYNAMIC", layer=layer, config=dict(config), params_dtype=dtype)


def plan_of(case: Case) -> layoutdsl.Plan:
    layer, config, sizes, dtype = spec_of(case)
    return _unbound(layer, tuple(sorted(config.items())), dtype).bind(sizes)


def declared(case: Case) -> Declared:
    return linear_parameters(case) if isinstance(case, LinearCase) else moe_parameters(case)


def oracle(case: Case, given: Mapping[str, torch.Tensor]) -> Layer:
    return linear(case, given) if isinstance(case, LinearCase) else moe(case, given)


def assert_as_the_oracle(case: Case, given: dict[str, torch.Tensor], exact: bool = True) -> None:
    plan, want, before = plan_of(case), oracle(case, given), digest(given)
    assert {name: (p.shape, p.dtype) for name, p in plan.parameters.items()} == {
        name: (shape, str(dtype).removeprefix("torch.")) for name, (shape, dtype) in declared(case).items()
    }
    got = plan.run(given)
    assert digest(given) == before
    assert_same(got, want.tensors, () if exact else ARITHMETIC[plan.layer])
    assert [(cast["shape"], cast["dtype"]) for cast in plan.format_casts] == [(shape, str(dtype).removeprefix("torch.")) for shape, dtype in want.casts]


# ---- values --------------------------------------------------------------------------------------------------------------------------------------------------


def values(case: Case, kind: Values = "plain", seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    packed = case.packed and not getattr(case, "ct", False)
    return {
        name: _weight(shape, packed, kind, generator) if name.endswith("weight") else _scale(shape, dtype, kind, generator)
        for name, (shape, dtype) in declared(case).items()
    }


def _weight(shape: tuple[int, ...], packed: bool, kind: Values, generator: torch.Generator) -> torch.Tensor:
    if packed:
        return torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)
    if kind == "extreme":
        return torch.randint(0, 2, shape, dtype=torch.int8, generator=generator) * 15 - 8
    return torch.randint(-8, 8, shape, dtype=torch.int8, generator=generator)


def _scale(shape: tuple[int, ...], dtype: torch.dtype, kind: Values, generator: torch.Generator) -> torch.Tensor:
    scale = torch.rand(shape, generator=generator) * 0.1 + 1e-3
    if kind == "negative":
        scale = scale * (torch.randint(0, 2, shape, generator=generator) * 2 - 1)
    if kind == "zero":
        zero = torch.where(torch.rand(shape, generator=generator) < 0.5, 0.0, -0.0)
        scale = torch.where(torch.rand(shape, generator=generator) < 0.5, zero, scale)
    if kind == "extreme":
        scale = 10.0 ** torch.randint(-30, 30, shape, generator=generator).float()
    scale = scale.to(dtype)
    return _with_specials(scale, generator) if kind == "special" else scale


SPECIALS = {
    torch.float32: [0x7FC12345, 0xFFC54321 - (1 << 32), 0x7F812345, 0x7F800000, 0xFF800000 - (1 << 32), -(1 << 31), 0, 1, 0x7F7FFFFF],
    torch.bfloat16: [0x7FC5, 0xFFC3 - (1 << 16), 0x7F85, 0x7F80, 0xFF80 - (1 << 16), -(1 << 15), 0, 1, 0x7F7F],
    torch.float16: [0x7E05, 0xFE03 - (1 << 16), 0x7C05, 0x7C00, 0xFC00 - (1 << 16), -(1 << 15), 0, 1, 0x7BFF],
}
"""Bit patterns: NaN with payloads, quiet and signalling, both infinities, -0.0, 0.0, the least and the greatest number."""


def _with_specials(scale: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    patterns = bits(torch.tensor(SPECIALS[scale.dtype], dtype=torch.int32 if scale.dtype == torch.float32 else torch.int16).view(scale.dtype))
    chosen = patterns[torch.randint(0, len(patterns), scale.shape, generator=generator)]
    return torch.where(torch.rand(scale.shape, generator=generator) < 0.2, chosen, bits(scale)).view(scale.dtype)


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
LINEAR_KINDS = {
    "unpacked": {},
    "unpacked-fp16": {"params": torch.float16},
    "packed-row": {"packed": True, "row": True},
    "packed-column": {"packed": True},
}
MOE_KINDS = {
    "seed-group-unpacked": {},
    "seed-group-packed": {"packed": True},
    "seed-channel-unpacked": {"g": 0},
    "seed-channel-packed": {"g": 0, "packed": True},
    "seed-ct-group": {"ct": True},
    "seed-ct-channel": {"ct": True, "g": 0},
    "release-group-unpacked": {"consumer": RELEASE},
    "release-group-packed": {"consumer": RELEASE, "packed": True},
    "release-channel": {"consumer": RELEASE, "g": 0, "packed": True},
    "release-channel-lists": {"consumer": RELEASE, "g": 0, "packed": True, "lists": True},
    "release-ct-group": {"consumer": RELEASE, "ct": True},
    "release-ct-channel": {"consumer": RELEASE, "g": 0, "ct": True},
    "main-channel": {"consumer": HEAD, "g": 0, "packed": True},
    "main-channel-lists": {"consumer": HEAD, "g": 0, "packed": True, "lists": True},
    "main-channel-mega": {"consumer": HEAD, "g": 0, "packed": True, "mega": True},
    "main-ct": {"consumer": HEAD, "g": 0, "ct": True},
    "main-ct-lists": {"consumer": HEAD, "g": 0, "ct": True, "lists": True},
    "main-ct-mega": {"consumer": HEAD, "g": 0, "ct": True, "mega": True},
}


def linear_case(sizes: tuple[int, int, int], kind: str) -> LinearCase:
    return replace(LinearCase(*sizes), **LINEAR_KINDS[kind])


def moe_case(sizes: tuple[int, int, int, int], kind: str) -> MoeCase:
    return replace(MoeCase(*sizes), **MOE_KINDS[kind])


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
    if kind == "release-ct-group" and case.g == case.H:
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
    case = replace(moe_case((2, 64, 48, 16), kind), tp=tp)
    assert_as_the_oracle(case, values(case, "negative"))


@pytest.mark.parametrize(("I", "tp"), [(24, 2), (8, 2), (20, 4), (4, 4), (12, 16)])
def test_sizes_that_only_a_split_allows(I: int, tp: int) -> None:  # noqa: N803
    case = MoeCase(2, 32, I, 0, HEAD, packed=True, tp=tp)
    assert_as_the_oracle(case, values(case))


# ---- values that are easily lost -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LINEAR_KINDS)
@pytest.mark.parametrize("content", ["extreme", "negative", "zero", "special"])
def test_linear_values(content: Values, kind: str) -> None:
    case = linear_case((96, 40, 32), kind)
    assert_as_the_oracle(case, values(case, content), exact=content not in ("extreme", "special"))


@pytest.mark.parametrize("kind", MOE_KINDS)
@pytest.mark.parametrize("content", ["extreme", "negative", "zero", "special"])
def test_moe_values(content: Values, kind: str) -> None:
    case = moe_case((3, 96, 48, 16), kind)
    assert_as_the_oracle(case, values(case, content), exact=content not in ("extreme", "special"))


@pytest.mark.parametrize(
    "kind", ["seed-channel-packed", "seed-ct-channel", "seed-ct-group", "release-channel-lists", "release-ct-group", "main-channel-mega", "main-ct"]
)
def test_scales_become_int64_with_all_their_bits(kind: str) -> None:
    case = moe_case((2, 96, 48, 16), kind)
    given = values(case, "special")
    got, want = (flat(results) for results in (plan_of(case).run(dict(given)), oracle(case, given).tensors))
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
def test_fast_is_within_its_bound(case: Case, content: Values) -> None:
    """|got - exact| <= gamma(n) * 8 * sum|terms|, n: the additions of a sum and the three roundings of a term; all else has the bits of ``exact``."""
    given = values(case, content)
    want, got = (flat(plan_of(case).run(dict(given), math=mode)) for mode in ("exact", "fast"))
    sums = {("", "weight_scale_bias")} if isinstance(case, LinearCase) else {("w13_", "w13_scale_bias"), ("w2_", "w2_scale_bias")}
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
        MoeCase(2, 32, 24, 0, HEAD, packed=True),  # 16 partial sums over 24
        MoeCase(2, 32, 20, 0, RELEASE, packed=True, tp=2),
        MoeCase(2, 32, 8, 8, SEED, packed=True),
        MoeCase(2, 32, 32, 0, SEED, packed=True, tp=3),  # a tp that does not divide 16
        MoeCase(2, 36, 16, 0, HEAD, packed=True),  # H not a multiple of 8
        MoeCase(2, 32, 18, 0, HEAD, ct=True),  # 2I not a multiple of 8
        MoeCase(2, 64, 32, 48, SEED),  # groups that do not divide
        LinearCase(64, 12, 32),
        LinearCase(64, 12, 32, packed=True),
        LinearCase(80, 16, 32),
    ],
    ids=str,
)
def test_impossible_sizes_are_diagnosed(case: Case) -> None:
    with pytest.raises(layoutdsl.DiagnosticError) as caught:
        plan_of(case)
    found = {diagnostic.code for diagnostic in caught.value.diagnostics}
    assert found == {"requirement-failed"}
