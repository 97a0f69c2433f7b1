"""Mistakes in the bundled specs, and the check that finds each: a rule of ``validate``, or a check of ``verify`` with the tensor that it names.

The names M.. are those of mutants of the code that these specs replace; most that ``validate`` refuses are in ``tests/wrong``. What means the same (Q..)
passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from layoutdsl.api import load_spec
from layoutdsl.bundled import bundled
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.verify.verify import verify

SEED, RELEASE, MAIN = "vllm-ascend-0.16", "vllm-ascend-0.23", "vllm-ascend-main"
PACKED, UNPACKED = {"version": "1.0.0"}, {"version": "0"}
COMPRESSED = {"quant_method": "compressed-tensors"}
GROUPED_PACKED = {"consumer": SEED, "quant_method": "ascend", "group_size": 64, **PACKED}
OF_A_VECTOR = {"consumer": SEED, "quant_method": "ascend", "group_size": 8, "tp_size": 2, **PACKED}
GROUPED_UNPACKED = {"consumer": SEED, "quant_method": "ascend", "group_size": 64, **UNPACKED}
CHANNEL_PACKED = {"consumer": SEED, "quant_method": "ascend", "group_size": None, "weight_nz_mode": 0, **PACKED}


@dataclass(frozen=True)
class Mutation:
    """``old`` of the spec becomes ``new``. given: the config under which it is run. found: the first finding, as the rule and what it is about.

    ranks: the layer is split over ranks too.
    """

    name: str
    layer: str
    old: str
    new: str
    found: tuple[str, str] | None
    given: Mapping[str, Any] = field(default_factory=dict)
    ranks: bool = False


def linear(name: str, old: str, new: str, found: tuple[str, str] | None, given: Mapping[str, Any] = UNPACKED, ranks: bool = False) -> Mutation:
    return Mutation(name, "linear", old, new, found, given, ranks)


def moe(name: str, old: str, new: str, found: tuple[str, str] | None, given: Mapping[str, Any] = GROUPED_PACKED, ranks: bool = False) -> Mutation:
    return Mutation(name, "moe", old, new, found, given, ranks)


SUM = "8 * sum[k](float32(weight[n, k]) * float32(weight_scale_second[n, k//group_size]) * weight_scale[n])"
SCALE = "weight_scale_second[k//group_size, n]: weight_scale[n] * float32(weight_scale_second[n, k//group_size])"
GROUP_SUM = "8 * sum[k](float32(<p>_weight[e, n, k]) * <p>_weight_scale_second[e, n, k//g] * <p>_weight_scale[e, n])"
COMPRESSED_SUM = "8 * sum[k](float32(<p>_weight[e, n, k]) * float32(<p>_weight_scale[e, n, k//g]))"
ROUNDED = "float32(float16(<p>_weight_scale[e, n] * <p>_weight_scale_second[e, n, k//g]))"
ROUNDED_STEP = f"  - <p>_weight_scale[e, k//g, n]: {ROUNDED}\n"
VALUE = "<p>_weight[e, n, k] * <p>_weight_scale[e, n] * <p>_weight_scale_second[e, n, k//g]"
EXCHANGED = "_scale[e, n = half - n//half * half + n%half]"
EXCHANGE_STEP = "  - w13_weight_scale[e, n, k//K]: w13_weight_scale[e, n = n%(N//2) + N//2 * (1 - n//(N//2)), k//K]\n    when: not ct\n"
PARTIAL_SUMS = "sum[k//chunk](<p>_scale_bias[e, n, k//chunk])"
PARTIAL_STEP = "  - <p>_scale_bias: transpose(k//chunk, n) | contiguous\n    when: packed\n"
DELETE = "  - delete: <p>_weight_scale_second, <p>_weight_offset_second\n    when: grouped and not ct\n"
H = "h: npu_grouped_matmul([xq], [w13_weight], scale=[w13_weight_scale], bias=[w13_scale_bias]"
RETURN = "return: npu_grouped_matmul([hq], [w2_weight], scale=[w2_weight_scale], bias=[w2_scale_bias], per_token_scale=[hs]"
LISTS = {"consumer": RELEASE, "quant_method": "ascend", "group_size": None, "expert_lists": True, **PACKED}

MUTATIONS = (
    # ---- linear
    linear("bias without the factor 8", SUM, SUM.removeprefix("8 * "), ("verify-vectors", "weight_scale_bias")),
    linear("bias with the factor 16", SUM, SUM.replace("8 *", "16 *"), ("verify-vectors", "weight_scale_bias")),
    linear(
        "bias with one scale twice",
        SUM,
        SUM.replace("float32(weight_scale_second[n, k//group_size])", "weight_scale[n]"),
        ("verify-vectors", "weight_scale_bias"),
    ),
    linear("bias of offsets", SUM, SUM.replace("weight_scale_second", "weight_offset_second"), ("verify-vectors", "weight_scale_bias")),
    linear("bias of another kind", "    as: parameter\n", "", ("verify-vectors", "weight_scale_bias")),
    linear("M31 sum over n", SUM, SUM.replace("sum[k]", "sum[n]"), ("sum-bound-twice", "")),
    linear(
        "M31 a bias per input",
        f"weight_scale_bias[n]: {SUM}",
        f"weight_scale_bias[k]: {SUM.replace('sum[k]', 'sum[n]')}",
        ("verify-vectors", "weight_scale_bias"),
    ),
    linear("scale without the first", SCALE, SCALE.replace("weight_scale[n] * ", ""), ("verify-vectors", "weight_scale_second")),
    linear(
        "scale with the first twice",
        SCALE,
        SCALE.replace(": weight_scale[n]", ": weight_scale[n] * weight_scale[n]"),
        ("verify-vectors", "weight_scale_second"),
    ),
    linear("scales added", SCALE, SCALE.replace("] * ", "] + "), ("verify-vectors", "weight_scale_second")),
    linear("scale negated", SCALE, SCALE.replace(": weight", ": -weight"), ("verify-vectors", "weight_scale_second")),
    linear("scale rounded late", SCALE, SCALE.replace(": ", ": float32(bfloat16(") + "))", ("verify-vectors", "weight_scale_second")),
    linear("scale of another group", SCALE, SCALE.replace("[n, k//group_size])", "[n, k//group_size = 0])"), ("verify-vectors", "weight_scale_second")),
    linear("scale of another channel", SCALE, SCALE.replace(": weight_scale[n]", ": weight_scale[n = 0]"), ("verify-vectors", "weight_scale_second")),
    linear("value without a scale", " * weight_scale_second[n, k//group_size]\ninvariants", "\ninvariants", ("verify-weights", "weight_scale_second")),
    linear("value with an offset", "W[n, k]: weight[n, k]", "W[n, k]: (weight[n, k] + weight_offset[n])", ("verify-weights", "weight")),
    linear("no nz", " | nz when weight_nz_mode != 0\n    accept: nz-group-size\n", "\n", ("verify-vectors", "weight")),
    linear(
        "nibbles swapped",
        "nz when weight_nz_mode != 0\n    accept: nz-group-size",
        "relayout int4[n, k] in int32[k, n//8 | n//2%4, n%2] when unpacked | nz when weight_nz_mode != 0\n    accept: nz-group-size",
        ("pack-packed", ""),
    ),
    linear(
        "nibbles in another order",
        "      unpacked: pack(n, int32)\n",
        "      unpacked: pack(n, int32)\n  - weight: relayout int4[n, k] in int32[k, n//8 | n%2, n//2%4] when unpacked\n",
        ("movement-on-nz", ""),
    ),
    linear("scale_bias not flat", "  - scale_bias: view [n]\n    when: packed and other\n", "", ("verify-vectors", "scale_bias"), PACKED),
    # ---- experts: values
    moe("bias without the factor 8", GROUP_SUM, GROUP_SUM.removeprefix("8 * "), ("verify-weights", "w13_scale_bias"), GROUPED_UNPACKED),
    moe(
        "bias without the factor 8, compressed",
        COMPRESSED_SUM,
        COMPRESSED_SUM.removeprefix("8 * "),
        ("verify-weights", "w13_scale_bias"),
        {"consumer": SEED, **COMPRESSED, "group_size": 64},
    ),
    moe("bias with one scale", GROUP_SUM, GROUP_SUM.replace(" * <p>_weight_scale[e, n]", ""), ("verify-weights", "w13_scale_bias"), GROUPED_UNPACKED),
    moe("bias of another expert", GROUP_SUM, GROUP_SUM.replace("_scale[e, n])", "_scale[e = 0, n])"), ("verify-weights", "w13_scale_bias"), GROUPED_UNPACKED),
    moe("M31 sum over n", GROUP_SUM, GROUP_SUM.replace("sum[k]", "sum[n]"), ("sum-bound-twice", ""), GROUPED_UNPACKED),
    moe("partial sums scaled again", PARTIAL_SUMS, f"8 * {PARTIAL_SUMS}", ("verify-weights", "w13_scale_bias")),
    moe("the invariant without its factor", "== 8 * sum", "== sum", ("verify-weights", "w13_scale_bias")),
    moe(
        "M34 no rounding to float16",
        ROUNDED,
        ROUNDED.removeprefix("float32(float16(").removesuffix("))"),
        ("verify-vectors", "w13_weight_scale"),
        {"consumer": SEED},
    ),
    moe("rounded to bfloat16", ROUNDED, ROUNDED.replace("float16", "bfloat16"), ("verify-vectors", "w13_weight_scale"), OF_A_VECTOR),
    moe(
        "scale with one level twice",
        ROUNDED,
        ROUNDED.replace("_weight_scale_second[e, n, k//g]", "_weight_scale[e, n]"),
        ("verify-weights", "w13_weight_scale"),
    ),
    moe("scale of the first group", ROUNDED, ROUNDED.replace("k//g]", "k//g = 0]"), ("verify-weights", "w13_weight_scale")),
    moe("scale of the first expert", ROUNDED, ROUNDED.replace("_scale[e,", "_scale[e = 0,"), ("verify-weights", "w13_weight_scale")),
    moe(
        "value with the scales of the channels backwards",
        VALUE,
        VALUE.replace("_scale[e, n]", "_scale[e, n = N - 1 - n]"),
        ("verify-weights", "w13_weight_scale"),
    ),
    moe("M29 the scales of gate and up exchanged", ROUNDED_STEP, EXCHANGE_STEP + ROUNDED_STEP, ("verify-weights", "w13_weight_scale")),
    moe("value with the scales of gate and up exchanged", VALUE, VALUE.replace("_scale[e, n]", EXCHANGED), ("verify-weights", "w13_weight_scale")),
    moe(
        "scale through float16, compressed",
        "cast(float32) when ct",
        "cast(float16) when ct | cast(float32) when ct",
        ("verify-vectors", "w13_weight_scale"),
        {"consumer": SEED, **COMPRESSED},
    ),
    moe("Q1 sign-extended scale, which may be negative", "widen(int64, zero)", "widen(int64, sign)", ("contract-layout", "scale")),
    moe("value without a scale", " * <p>_weight_scale_second[e, n, k//g]\n    channel", "\n    channel", ("verify-weights", "w13_weight_scale")),
    moe(
        "no value of a case",
        "    ct:                 <p>_weight[e, n, k] * <p>_weight_scale[e, n, k//g]\n",
        "",
        ("verify-value", ""),
        {"consumer": SEED, **COMPRESSED, "group_size": 64},
    ),
    # ---- experts: movement
    moe("M69 consumed scales kept", DELETE, "", ("verify-vectors", "w13_weight_offset_second"), {"consumer": SEED, **PACKED}),
    moe("lists without copies", "<p>_weight_scale | unbind(e) | clone", "<p>_weight_scale | unbind(e)", ("verify-vectors", "w13_weight_scale_list"), LISTS),
    # ---- experts: forward
    moe("gate|up with the scale of down", H, H.replace("scale=[w13_weight_scale]", "scale=[w2_weight_scale]"), ("contract-layout", "scale")),
    moe("down with the scale of the tokens", RETURN, RETURN.replace("[hs]", "[xs]"), ("scale-of-another", "")),
    # ---- ranks
    moe(
        "M59 partial sums that no axis splits",
        "packed: float32[e, n, k//chunk]",
        "packed: float32[e, n, s]",
        ("replicated-addend", "w2_scale_bias"),
        CHANNEL_PACKED,
        ranks=True,
    ),
    moe("partial sums of the whole layer on every rank", "K * tp_size // 16}", "K // 16}", ("verify-tp", "w2_scale_bias"), CHANNEL_PACKED, ranks=True),
    moe("bias of every rank", PARTIAL_SUMS, f"{PARTIAL_SUMS} / tp_size", ("verify-tp", "w13_scale_bias"), CHANNEL_PACKED, ranks=True),
)
EXTRA = {
    "value with the scales of gate and up exchanged": [
        ("let:\n", "let:\n  half: intermediate_size_per_partition\n"),
        (
            "    channel and not ct: <p>_weight[",
            f"    grouped and w2 and not ct: {VALUE}\n    channel and not ct: <p>_weight[",
        ),
        ("    grouped and not ct: <p>_weight[", "    grouped and w13 and not ct: <p>_weight["),
    ],
    "M59 partial sums that no axis splits": [
        ("  z: 0\n", "  z: 0\n  s: {w13: 1, w2: 16 // tp_size}\n"),
        (PARTIAL_STEP, "  - <p>_scale_bias: transpose(s, n) | contiguous\n    when: packed\n"),
        (PARTIAL_SUMS, "sum[s](<p>_scale_bias[e, n, s])"),
        (
            "  - <p>_scale_bias[e, n, k//chunk] == 8 * sum[k%chunk](<p>[e, n, k]) when packed",
            "  - <p>_scale_bias[e, n, s] == 8 * sum[k](<p>[e, n, k]) / 16 * tp_size when packed and w2",
        ),
    ],
}
"""Further changes that belong to a mutation."""

SAME = (
    linear("Q3 contiguous twice", "| contiguous |", "| contiguous | contiguous |", None),
    linear("Q5 another flatten", "weight_offset: view [n]", "weight_offset: relayout params_dtype[n]", None),
    linear(
        "scales multiplied the other way round",
        SCALE,
        SCALE.replace("weight_scale[n] * float32(weight_scale_second[n, k//group_size])", "float32(weight_scale_second[n, k//group_size]) * weight_scale[n]"),
        None,
    ),
    linear("8 inside the sum", SUM, SUM.replace("8 * sum[k](", "sum[k](8 * "), None),
    moe(
        "Q2 packed in one step or in two",
        "      unpacked or ct and seed:            pack(n, int32)",
        "      unpacked and not ct:                pack(n, int32)\n      ct and seed:                        pack(n, int8) | bitcast(int32)",
        None,
        {"consumer": SEED, **COMPRESSED},
    ),
    moe(
        "nibbles by relayout",
        ": pack(n, int8)\n    when: ct and not seed",
        ": relayout int4[e, n, k] in int8[e, k, n//2 | n%2]\n    when: ct and not seed",
        None,
        {"consumer": RELEASE, **COMPRESSED},
    ),
    moe("Q9 a cast that is there", "<p>_weight_scale: widen(int64, zero)", "<p>_weight_scale: contiguous | widen(int64, zero)", None),
)


def mutated(mutation: Mutation, folder: Path) -> Path:
    text = bundled()[f"w4a8_dynamic.{mutation.layer}"].read_text()
    for old, new in [(mutation.old, mutation.new), *EXTRA.get(mutation.name, ())]:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / f"w4a8_dynamic.{mutation.layer}.yaml"
    path.write_text(text)
    return path


def first_finding(mutation: Mutation, folder: Path) -> tuple[str, str] | None:
    """The rule and what it is about, of the first finding in the order of the checks."""
    try:
        found = verify(load_spec(mutated(mutation, folder)), mutation.given, quick=not mutation.ranks).findings
    except DiagnosticError as error:
        found = list(error.diagnostics)
    return (found[0].code, found[0].where) if found else None


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.layer}: {m.name}")
def test_a_mistake_is_found(mutation: Mutation, tmp_path: Path) -> None:
    assert first_finding(mutation, tmp_path) == mutation.found


@pytest.mark.parametrize("mutation", SAME, ids=lambda m: f"{m.layer}: {m.name}")
def test_what_means_the_same_passes(mutation: Mutation, tmp_path: Path) -> None:
    assert first_finding(mutation, tmp_path) is None
