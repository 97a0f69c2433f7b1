"""Slips of the hand in the bundled specs: each is refused, by the right rule at the right line; and what means the same is not.

The names M.. and A.. are those of real bugs and of mutants that passed in the code that these specs replace.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest

from layoutdsl.bundled import bundled
from layoutdsl.compiler.driver import validate
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Source
from layoutdsl.diagnostics.render import render
from layoutdsl.syntax.reader import read_document

SPECS = {layer: bundled()[f"w4a8_dynamic.{layer}"] for layer in ("linear", "moe")}


@dataclass(frozen=True)
class Mutation:
    """``old`` of the spec becomes ``new``; ``found``: every finding, as the rule and the beginning of the line that it stands on."""

    name: str
    layer: str
    old: str
    new: str
    found: tuple[tuple[str, str], ...]


def linear(name: str, old: str, new: str, *found: tuple[str, str]) -> Mutation:
    return Mutation(name, "linear", old, new, found)


def moe(name: str, old: str, new: str, *found: tuple[str, str]) -> Mutation:
    return Mutation(name, "moe", old, new, found)


ACCEPT = """    accept: nz-group-size
    why: at its own default of 256 the reference casts to FRACTAL_NZ, which the kernel takes for groups of 64 and 128 only
"""
CALL = "- return: npu_weight_quant_batchmatmul"
H = "- h: npu_grouped_matmul([xq], [w13_weight]"
RETURN = "- return: npu_grouped_matmul([hq], ["
PACK_INT8 = """  - <p>_weight: pack(n, int8)
    when: ct and not seed
"""
NZ = """  - <p>_weight: nz when weight_nz_mode != 0
    when: not ct or not seed
"""
SUM = "8 * sum[k](float32(weight[n, k]) * float32(weight_scale_second[n, k//group_size]) * weight_scale[n])"
DELETE_SECOND = """  - delete: <p>_weight_scale_second, <p>_weight_offset_second
    when: grouped and not ct
"""

MUTATIONS = (
    # ---- linear: what is stored
    linear("M01 groups counted with a floor", "[n, k//group_size]\n  weight_off", "[n, K//group_size]\n  weight_off", ("not-an-axis", "weight_scale_second:")),
    linear("scale by the wrong group size", "second:  params_dtype[n, k//group_size]", "second:  params_dtype[n, k//256]", ("read-digits", "W[n, k]:")),
    linear("scale of the wrong group axis", "second:  params_dtype[n, k//group_size]", "second:  params_dtype[n//group_size, k]", ("read-digits", "W[n, k]:")),
    linear("scale per channel", "second:  params_dtype[n, k//group_size]", "second:  params_dtype[n, 0]", ("read-digits", "W[n, k]:")),
    linear("lanes that do not fill", "int8[n//2, k | n%2]", "int8[n//2, k | n%4]", ("lanes-do-not-fill", "packed:   int4")),
    linear("lanes along the other axis", "int8[n//2, k | n%2]", "int8[n//2, k | k%2]", ("digits-differ", "packed:   int4")),
    linear("lanes forgotten", "int8[n//2, k | n%2]", "int8[n//2, k]", ("digits-differ", "packed:   int4")),
    linear("a case of a parameter forgotten", "    unpacked: int4[n, k] in int8[n, k]\n", "", ("tensor-not-in-case", "W[n, k]:")),
    linear("a case renamed", "    packed:   version", "    paired:   version", ("name-unknown", "packed:   int4")),
    linear("a facet with a hole", "other: otherwise", 'column: layer_type == "col"', ("facet-not-exhaustive", "split:")),
    linear(
        "otherwise first",
        '    packed:   version == "1.0.0"\n    unpacked: otherwise',
        '    unpacked: otherwise\n    packed:   version == "1.0.0"',
        ("case-unreachable", "packed:   version"),
    ),
    linear("requirements that exclude everything", "  - N % 8 == 0\n", "  - N % 8 == 0\n  - packed\n  - unpacked\n", ("require-excludes-all", "- N % 8")),
    # ---- linear: steps
    linear(
        "M15 no fact about n",
        "  - N % 8 == 0\n",
        "",
        ("layout-has-holes", "packed:   int4"),
        ("pack-indivisible", "unpacked: pack"),
    ),
    linear(
        "M13 bit view of a transposed view",
        "transpose(k, n) | contiguous | nz when weight_nz_mode != 0",
        "transpose(k, n)",
        ("bitcast-not-fastest", "packed:   bitcast"),
    ),
    linear(
        "M19 bit view before the transpose",
        "weight: transpose(k, n) |",
        "weight: bitcast(int32) when packed | transpose(k, n) |",
        ("bitcast-indivisible", "- weight: bitcast"),
    ),
    linear(
        "A13 nz of a view",
        "transpose(k, n) | contiguous | nz",
        "transpose(k, n) | nz",
        ("nz-not-contiguous", "- weight: transpose"),
        ("bitcast-not-fastest", "packed:   bitcast"),
    ),
    linear("M55 nz at the default group size", ACCEPT, "", ("nz-group-size", CALL)),
    linear("M49 squeeze without an axis", "weight_scale: view [n] |", "weight_scale: squeeze |", ("op-unknown", "- weight_scale: squeeze")),
    linear("transpose in the order that is there", "transpose(k, n)", "transpose(n, k)", ("transpose-done", "- weight: transpose")),
    linear("transposed twice", "transpose(k, n) |", "transpose(k, n) | transpose(k, n) |", ("transpose-done", "- weight: transpose")),
    linear(
        "not transposed",
        "transpose(k, n) | contiguous | ",
        "",
        ("bitcast-indivisible", "packed:   bitcast"),
        ("pack-axis-not-last", "unpacked: pack"),
    ),
    linear("packed along k", "pack(n, int32)", "pack(k, int32)", ("pack-axis-not-last", "unpacked: pack")),
    linear(
        "packed in pairs",
        "pack(n, int32)",
        "pack(n, int8)",
        ("movement-on-nz", "unpacked: pack"),
        ("contract-layout", CALL),
    ),
    linear("not packed at all", "      unpacked: pack(n, int32)\n", "", ("contract-layout", CALL)),
    linear("packed the packed", "packed:   bitcast(int32)", "packed:   pack(n, int32)", ("pack-packed", "packed:   pack")),
    linear("a bit view of values", "unpacked: pack(n, int32)", "unpacked: bitcast(int32)", ("bitcast-by-value", "unpacked: bitcast")),
    linear("M31 summed over the wrong axis", "8 * sum[k](float32", "8 * sum[n](float32", ("sum-bound-twice", "- weight_scale_bias")),
    linear("the sum forgotten", SUM, SUM.replace("sum[k]", ""), ("free-index", "- weight_scale_bias")),
    linear("int4 times float32", "sum[k](float32(weight[n, k])", "sum[k](weight[n, k]", ("dtype-mismatch", "- weight_scale_bias")),
    linear(
        "bfloat16 times float32",
        "* float32(weight_scale_second[n, k//group_size]) * weight",
        "* weight_scale_second[n, k//group_size] * weight",
        ("dtype-mismatch", "- weight_scale_bias"),
    ),
    linear(
        "M71 the offset for the scale",
        "* float32(weight_scale_second[n, k//group_size])\n",
        "* float32(weight_offset_second[n, k//group_size])\n",
        ("overwritten-unread", "- weight_scale_second"),
    ),
    linear("a case of the steps that is none", "packed:   bitcast", "paired:   bitcast", ("name-unknown", "paired:   bitcast")),
    linear("the bias of rows flattened", "when: packed and other", "when: packed", ("view-digits-differ", "- scale_bias: view")),
    # ---- linear: the call
    linear(
        "dims of the second scale swapped", "- weight_scale_second[k//group_size, n]:", "- weight_scale_second[n, k//group_size]:", ("contract-layout", CALL)
    ),
    linear("the scale not in the dtype of x", "cast(x.dtype, weight_scale_second)", "weight_scale_second", ("contract-layout", CALL)),
    linear("the scale in a fixed dtype", "cast(x.dtype, weight_scale_second)", "cast(float32, weight_scale_second)", ("contract-layout", CALL)),
    linear("no group size in the call", ", antiquant_group_size=group_size)", ")", ("contract-layout", CALL)),
    linear("another group size in the call", "antiquant_group_size=group_size", "antiquant_group_size=64", ("contract-layout", CALL)),
    linear("an argument that the kernel lacks", "antiquant_group_size=", "group_size=", ("argument-unknown", CALL)),
    linear("the weight misspelt", "(x, weight,", "(x, wieght,", ("name-unknown", CALL)),
    linear("the scale of the channels for that of the groups", "cast(x.dtype, weight_scale_second)", "cast(x.dtype, weight_scale)", ("contract-layout", CALL)),
    linear("accept misspelt", "accept: nz-group-size", "accept: nz-groupsize", ("accept-unused", "accept: nz-groupsize")),
    linear("accept of what is right", "accept: nz-group-size", "accept: contract-layout", ("nz-group-size", CALL)),
    # ---- moe: what is stored
    moe("A06 M59 an axis that is none", "packed: float32[e, n, k//chunk]", "packed: float32[e, n, 16//tp_size]", ("not-a-digit", "packed: float32")),
    moe("otherwise swallows the next release", 'main:    consumer == "vllm-ascend-main"', "main:    otherwise", ("open-world", "main:    otherwise")),
    moe("a release forgotten", '    release: consumer == "vllm-ascend-0.23"\n', "", ("facet-not-exhaustive", "system:")),
    moe("segments of no axis", "{w13.n: [gate, up]}", "{w13.q: [gate, up]}", ("not-an-axis", "segments:")),
    moe("an invariant over all of k", "8 * sum[k%chunk](", "8 * sum[k](", ("sum-bound-twice", "- <p>_scale_bias[e, n, k//chunk] ==")),
    moe("an invariant without a sum", "8 * sum[k%chunk](<p>[e, n, k])", "8 * <p>[e, n, k]", ("free-index", "- <p>_scale_bias[e, n, k//chunk] ==")),
    # ---- moe: steps
    moe(
        "M13 bit view of a transposed view",
        "<p>_weight: transpose(k, n) | contiguous",
        "<p>_weight: transpose(k, n)",
        ("nz-not-contiguous", "- <p>_weight: nz"),
        ("bitcast-not-fastest", "plain and packed:"),
    ),
    moe(
        "M19 bit view before the transpose",
        "<p>_weight: transpose(k, n) |",
        "<p>_weight: bitcast(int32) when packed | transpose(k, n) |",
        ("no-op", "plain and packed:"),
    ),
    moe(
        "M31 summed over the wrong axis", "ct:                   8 * sum[k]", "ct:                   8 * sum[n]", ("sum-bound-twice", "ct:                   8")
    ),
    moe("M33 the bias not summed", "      packed:               sum[k//chunk](<p>_scale_bias[e, n, k//chunk])\n", "", ("contract-layout", H)),
    moe(
        "M33 the sum forgotten",
        "sum[k//chunk](<p>_scale_bias[e, n, k//chunk])",
        "<p>_scale_bias[e, n, k//chunk]",
        ("free-index", "packed:               <p>_scale"),
    ),
    moe(
        "M37 a bit view for widened bits",
        "widen(int64, zero)",
        "bitcast(int64)",
        ("view-digits-differ", "- w13_weight_scale: view"),
        ("view-digits-differ", "- cann_mega_moe_<p>_weight_scale_list"),
        ("contract-layout", H),
    ),
    moe("sign for zero extension", "widen(int64, zero)", "widen(int64, sign)", ("contract-layout", H)),
    moe("not widened", "  - <p>_weight_scale: widen(int64, zero)\n", "", ("contract-layout", H)),
    moe("M39 bits of bfloat16", "cast(float32) when ct | ", "", ("contract-layout", H)),
    moe("a cast without its condition", "cast(float32) when ct |", "cast(float32) |", ("no-op", "- <p>_weight_scale: transpose")),
    moe("M53 nz before pack", PACK_INT8 + NZ, NZ + PACK_INT8, ("movement-on-nz", "- <p>_weight: pack(n, int8)")),
    moe("not packed in pairs", PACK_INT8, "", ("bitcast-by-value", "plain and ct and not seed:")),
    moe("M69 consumed and kept", DELETE_SECOND, "", ("consumed-kept", "<p>_weight_scale_second:")),
    moe(
        "M71 overwritten unread",
        "float16(<p>_weight_scale[e, n] * <p>_weight_scale_second[e, n, k//g])",
        "float16(<p>_weight_scale_second[e, n, k//g])",
        ("overwritten-unread", "- <p>_weight_scale[e, k//g, n]:"),
    ),
    moe(
        "A35 unbound along a split axis",
        "<p>_weight | unbind(e) | clone\n      - <p>_weight_scale_list",
        "<p>_weight | unbind(n) | clone\n      - <p>_weight_scale_list",
        ("unbind-not-a-dim", "- <p>_weight_list:"),
    ),
    moe(
        "A35 unbound from a merged dim",
        "<p>_scale_bias | unbind(e)\n",
        "<p>_scale_bias | view [(e, n)] | unbind(e)\n",
        ("unbind-not-a-dim", "- cann_mega_moe_<p>_scale_bias_list:"),
    ),
    moe("groups behind channels", "<p>_weight_scale[e, k//g, n]: float32", "<p>_weight_scale[e, n, k//g]: float32", ("contract-layout", H)),
    moe("scale not transposed", "transpose(k, n) | cast(float32) when ct | contiguous", "cast(float32) when ct", ("contract-layout", H)),
    moe("scale a view", "cast(float32) when ct | contiguous", "cast(float32) when ct", ("contract-layout", H)),
    moe("the unit axis of w2 dropped too", "- w13_weight_scale: view [e, n]", "- <p>_weight_scale: view [e, n]", ("contract-layout", RETURN)),
    moe("a member that is none", "- w13_weight_scale: view", "- w1_weight_scale: view", ("tensor-unknown", "- w1_weight_scale")),
    moe("deleted too early", "  - <p>_weight_scale: widen", "  - delete: w2_weight\n  - <p>_weight_scale: widen", ("read-after-delete", "- <p>_weight: pack")),
    moe(
        "a product without a cast", "* float32(<p>_weight_scale[e, n, k//g]))", "* <p>_weight_scale[e, n, k//g])", ("dtype-mismatch", "ct:                   8")
    ),
    moe(
        "the rounding dropped",
        "float32(float16(<p>_weight_scale[e, n] * <p>_weight_scale_second[e, n, k//g]))",
        "float32(<p>_weight_scale[e, n] * <p>_weight_scale_second[e, n, k//g])",
        ("no-op", "- <p>_weight_scale[e, k//g, n]:"),
    ),
    # ---- moe: the calls
    moe("a group size that the kernel does not take", "{not main: 256,", "{not main: 128,", ("a8w4-group-size", H)),
    moe(
        "a list for one tensor",
        "scale=[w13_weight_scale], bias=[w13_scale_bias]",
        "scale=w13_weight_scale_list, bias=[w13_scale_bias]",
        ("name-unknown", "- h: npu"),
    ),
    moe(
        "one tensor for a list",
        "(w2_weight_list | bitcast(int32) when not unpacked)",
        "[w2_weight]",
        ("read-after-delete", "- return: npu_grouped_matmul([hq], [w2_weight], scale=w2_weight_scale_list"),
    ),
    moe(
        "not unbound",
        "<p>_weight_scale | unbind(e) | clone",
        "<p>_weight_scale | clone",
        ("argument-kind", "- hq, hs: _C_ascend.grouped_matmul_swiglu_quant_v2(xq, (w13_weight_list"),
    ),
    moe(
        "elements of a list not viewed",
        "(w13_weight_list | bitcast(int32) when not unpacked), scale=w13",
        "w13_weight_list, scale=w13",
        ("contract-layout", "- h: npu_grouped_matmul([xq], w13_weight_list"),
    ),
    moe("no bias", "scale=[w2_weight_scale], bias=[w2_scale_bias], ", "scale=[w2_weight_scale], ", ("contract-layout", RETURN)),
    moe("the scale of the other member", "[w2_weight], scale=[w2_weight_scale]", "[w2_weight], scale=[w13_weight_scale]", ("contract-layout", RETURN)),
    moe("the weight of the other member", "[hq], [w2_weight], scale=[w2", "[hq], [w13_weight], scale=[w2", ("contract-layout", RETURN)),
    moe(
        "a local that is none",
        "hq, hs: npu_dynamic_quant(npu_swiglu(h))\n  - when: plain and channel",
        "hq, hs: npu_dynamic_quant(npu_swiglu(y))\n  - when: plain and channel",
        ("name-unknown", "- hq, hs: npu_dynamic_quant(npu_swiglu(y))"),
    ),
)

SAME = (
    # ---- Q3 Q5 Q6 Q9: what means the same
    linear("Q3 contiguous twice", "| contiguous |", "| contiguous | contiguous |"),
    linear("Q3 a view of a view", "- weight_offset: view [n]", "- weight_offset: view [n] | view [n, 0] | view [n]"),
    linear("Q5 index math for a view", "- scale_bias: view [n]", "- scale_bias[n]: scale_bias[n]"),
    linear(
        "Q5 the unit entry written out",
        "weight[n, k] * weight_scale[n] * weight_scale_second[n, k//group_size]\n",
        "weight[n, k] * weight_scale[n, 0] * weight_scale_second[k//group_size, n]\n",
    ),
    linear(
        "Q6 a number rounded down that is provably exact",
        "- weight_offset: view [n]",
        "- weight_offset: view [n]\n  - groups: K // group_size\n    as: value\n    when: unpacked",
    ),
    linear(
        "Q9 a cast where it is needed only", "- weight_scale: view [n] | cast(float32)", "- weight_scale: view [n] | cast(float32) when params_dtype != float32"
    ),
    linear("two steps for one", "transpose(k, n) | contiguous | nz", "transpose(k, n)\n  - weight: contiguous | nz"),
    linear("view for transpose", "weight: transpose(k, n) |", "weight: view [k, n] when unpacked | transpose(k, n) when packed |"),
    linear("a type stated on the way", "unpacked: pack(n, int32)", "unpacked: is int4[n, k] in int8[k, n] when weight_nz_mode == 0 | pack(n, int32)"),
    linear("the factor behind the sum", "8 * " + SUM[4:], SUM[4:] + " * 8"),
    linear("a stronger fact", "N % 8 == 0", "N % 64 == 0"),
    linear("facts about multiples", "N % 8 == 0", "N % 2 == 0\n  - N % 8 == 0"),
    linear("the negated case", "when: packed and other", "when: not unpacked and not row"),
    moe("Q3 contiguous twice", "<p>_weight: transpose(k, n) | contiguous", "<p>_weight: transpose(k, n) | contiguous | contiguous"),
    moe("clone of what is fresh", "cast(float32) when ct | contiguous", "cast(float32) when ct | contiguous | clone"),
    moe(
        "digits in another order",
        "<p>_weight_scale_second[e, n, k//g] * <p>_weight_scale[e, n])",
        "<p>_weight_scale_second[k//g, n, e] * <p>_weight_scale[n, e])",
    ),
    moe("the order of a delete", "delete: <p>_weight_scale_second, <p>_weight_offset_second", "delete: <p>_weight_offset_second, <p>_weight_scale_second"),
    moe("a template written out", "- <p>_weight_scale: widen(int64, zero)", "- w13_weight_scale: widen(int64, zero)\n  - w2_weight_scale: widen(int64, zero)"),
)


@cache
def text_of(layer: str) -> str:
    return SPECS[layer].read_text(encoding="utf-8")


def mutated(mutation: Mutation) -> Source:
    text = text_of(mutation.layer)
    assert text.count(mutation.old) >= 1, f"the spec has changed: {mutation.old!r} is gone"
    assert mutation.old != mutation.new
    return Source(f"{mutation.layer}.yaml", text.replace(mutation.old, mutation.new, 1))


def findings_of(source: Source) -> list[Diagnostic]:
    try:
        found = validate(read_document(source))
    except DiagnosticError as error:
        found = list(error.diagnostics)
    return [x for x in found if x.severity != "note"]


def place(finding: Diagnostic) -> tuple[str, str]:
    assert finding.span is not None
    source = finding.span.source
    return finding.code, source.line(source.position(finding.span.start)[0]).strip()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.layer} {mutation.name}")
def test_refused(mutation: Mutation) -> None:
    findings = findings_of(mutated(mutation))
    places = [place(finding) for finding in findings]
    assert [code for code, _ in places] == [code for code, _ in mutation.found], render(findings, "text")
    for (_, line), (_, start) in zip(places, mutation.found, strict=True):
        assert line.startswith(start), render(findings, "text")


@pytest.mark.parametrize("mutation", SAME, ids=lambda mutation: f"{mutation.layer} {mutation.name}")
def test_the_same_is_not_reported(mutation: Mutation) -> None:
    findings = findings_of(mutated(mutation))
    assert not findings, render(findings, "text")


@pytest.mark.parametrize("layer", SPECS)
def test_the_bundled_specs_are_right(layer: str) -> None:
    assert not findings_of(Source(f"{layer}.yaml", text_of(layer)))
