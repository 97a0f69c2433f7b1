"""``layoutdsl explain``: a configuration as a straight pipeline, and the pages of rules and ops."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from layoutdsl.bundled import bundled
from layoutdsl.cli.forward_text import expr_text
from layoutdsl.cli.output import WIDTH
from layoutdsl.diagnostics.rules import RULES
from layoutdsl.kernels import CONTRACTS
from layoutdsl.ops import OPS
from layoutdsl.plan.model import Digit, TensorType
from tests.cli.conftest import Cli

SECTIONS = ("parameters", "steps", "results", "requirements", "conditions of use", "forward", "memory")
MOE_SIZES = ("num_experts=8", "intermediate_size_per_partition=256", "hidden_size=512")


def section(text: str, title: str) -> list[str]:
    """The lines of one section."""
    body = next(part for part in text.split("\n\n") if part.startswith(title))
    return body.splitlines()[1:]


def words(lines: list[str]) -> list[str]:
    return [" ".join(line.split()) for line in lines]


def test_linear(cli: Cli) -> None:
    ran = cli("explain", "W4A8_DYNAMIC.linear", "--set", "group_size=64")
    assert (ran.code, ran.err) == (0, "")
    assert [title for title in SECTIONS if any(line.startswith(title) for line in ran.out.splitlines())] == list(SECTIONS)
    head = words(ran.out.split("\n\n")[0].splitlines())
    assert "config group_size = 64" in head and 'version = "0" (default)' in head
    assert "cases source: unpacked" in head and "split: other" in head
    assert "weight required int4[n, k] in int8[n, k]" in words(section(ran.out, "parameters"))
    steps = words(section(ran.out, "steps"))
    assert "transpose(k, n) int4[n, k] in int8[k, n] over [n, k]" in steps
    assert "pack(n, int32) int4[n, k] in int32[k, n//8 | n%8] over nz[k, n//8]" in steps
    assert "float sum in the order k, n: it decides the bits" in steps
    results = words(section(ran.out, "results"))
    bias = next(line for line in results if line.startswith("weight_scale_bias"))
    assert bias.startswith("weight_scale_bias parameter ") and bias.endswith(" float sum float32[n]")
    assert "N % 8 == 0 depends on the sizes" in words(section(ran.out, "requirements"))
    conditions = words(section(ran.out, "conditions of use"))
    assert conditions[0] == "npu::npu_weight_quant_batchmatmul" and "g in [64, 128] (64 == 64) or (64 == 128) holds" in conditions
    assert "return npu::npu_weight_quant_batchmatmul(x, layer.weight," in words(section(ran.out, "forward"))[0]
    assert "in weight input_size*output_size" in words(section(ran.out, "memory"))


def test_numbers(cli: Cli) -> None:
    ran = cli("explain", "W4A8_DYNAMIC.linear", "--set", "group_size=32", "--sizes", "input_size=128", "output_size=64")
    memory = words(section(ran.out, "memory"))
    assert "in weight 8,192" in memory and "out weight 4,096" in memory
    assert "K % group_size == 0 holds" in words(section(ran.out, "requirements"))
    assert any(line.startswith("g in [64, 128]") and line.endswith("BROKEN") for line in words(section(ran.out, "conditions of use")))


def test_sums_of_partial_sums(cli: Cli) -> None:
    ran = cli("explain", "W4A8_DYNAMIC.moe", "--set", "version=1.0.0", "group_size=none", "-tp", "4")
    assert "float sum in the order e, k//(K//4), n: it decides the bits" in ran.out


def test_deletes(cli: Cli) -> None:
    ran = cli("explain", "W4A8_DYNAMIC.moe")
    assert "delete w13_weight_scale_second, w2_weight_scale_second, w13_weight_offset_second, w2_weight_offset_second" in ran.out
    assert "kernels without a contract" not in ran.out


@pytest.mark.parametrize("op", CONTRACTS)
def test_a_kernel_shows_its_rows_and_who_says_so(cli: Cli, op: str) -> None:
    ran = cli("explain", op.partition("::")[2])
    assert ran.code == 0, ran
    for row in CONTRACTS[op].rows:
        assert f"{row.name}: {', '.join(row.devices)}" in ran.out
        assert all(text in ran.out for text in (*row.arguments.values(), *row.results))
        assert " ".join(row.source.split()) in " ".join(ran.out.split())


def test_what_is_accepted_on_purpose_is_shown_with_its_reason(cli: Cli, tmp_path: Path) -> None:
    """Of a step and of a line of `forward`; not where the step is not taken."""
    (line, *more) = words(section(cli("explain", "W4A8_DYNAMIC.linear").out, "accepted on purpose"))
    assert line.startswith("nz-group-size weight at its own default of 256 the reference casts") and more
    text = bundled()["w4a8_dynamic.linear"].read_text(encoding="utf-8")
    moved = (
        re.sub(r"\n    accept: nz-group-size\n    why: .*", "", text)
        + "    accept: nz-group-size\n    why: because\n    when: packed\n  - return: x\n    when: unpacked\n"
    )
    path = tmp_path / "moved.yaml"
    path.write_text(moved, encoding="utf-8")
    assert words(section(cli("explain", path, "--set", "version=1.0.0").out, "accepted on purpose")) == ["nz-group-size forward because"]
    assert "accepted on purpose" not in cli("explain", path).out


def test_what_decides_nothing_is_said_so(cli: Cli) -> None:
    assert "tp_rank = 3  (nothing depends on it here)" in cli("explain", "W4A8_DYNAMIC.linear", "--set", "tp_rank=3").out


def test_numbers_lists_and_constants(cli: Cli, tiny: Path) -> None:
    ran = cli("explain", tiny, "--set", "tp_size=4", "--sizes", "input_size=3", "output_size=4")
    assert ran.code == 0, ran
    assert "scale default 1 float32[n]" in words(section(ran.out, "parameters"))
    steps = words(section(ran.out, "steps"))
    assert steps[steps.index("18 ranks") + 1] == "4"
    assert words(section(ran.out, "forward")) == ["external: the consumer calls the kernels"]
    assert "out rows 12" in words(section(ran.out, "memory"))


@pytest.mark.parametrize("consumer", ["vllm-ascend-0.16", "vllm-ascend-0.23", "vllm-ascend-main"])
@pytest.mark.parametrize("source", ["", "version=1.0.0", "quant_method=compressed-tensors"])
@pytest.mark.parametrize("result", ["", "expert_lists=true", "fused_mc2=1 mega_moe=true"])
@pytest.mark.parametrize("sizes", [False, True])
def test_every_moe_configuration(cli: Cli, consumer: str, source: str, result: str, sizes: bool) -> None:
    ran = cli("explain", "W4A8_DYNAMIC.moe", "--set", f"consumer={consumer}", *source.split(), *result.split(), *(("--sizes", *MOE_SIZES) if sizes else ()))
    assert ran.code == 0, ran
    long = [line for line in ran.out.splitlines() if len(line) > WIDTH]
    assert not long


def test_wrong_sizes(cli: Cli) -> None:
    cli("explain", "W4A8_DYNAMIC.linear", "--sizes", "input_size=128").refused("size-missing", "output_size")
    cli("explain", "W4A8_DYNAMIC.linear", "--sizes", "input_size=128", "output_size=64", "x=1").refused("size-unknown")
    cli("explain", "W4A8_DYNAMIC.linear", "--sizes", "input_size=256", "output_size=63").refused("requirement-failed")


def test_wrong_spec(cli: Cli, tmp_path: Path, tiny: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(tiny.read_text().replace("transpose(k, n)", "transpse(k, n)"))
    for command in (("explain", bad), ("describe", bad), ("compile", bad, "-o", "-")):
        cli(*command).refused("op-unknown")


# ---- pages -------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", RULES)
def test_rule_pages(cli: Cli, code: str) -> None:
    ran = cli("explain", code)
    assert ran.code == 0 and ran.out.startswith(f"{code}: {RULES[code].title}\n")


@pytest.mark.parametrize("name", OPS)
def test_op_pages(cli: Cli, name: str) -> None:
    ran = cli("explain", name)
    assert ran.code == 0 and ran.out.startswith(name)
    op = OPS[name]
    assert op.summary in ran.out and all(parameter.name in ran.out for parameter in op.parameters)
    flat = " ".join(ran.out.split())
    assert all(f"{e.before} | {e.stage} gives {e.after}" in flat for e in op.examples)
    assert all(f"{r.before} | {r.stage} by {r.code}" in flat for r in op.rejected)


@pytest.mark.parametrize(
    ("word", "like"), [("pakc", "pack"), ("yaml-cutt", "yaml-cut"), ("W4A8_DYNAMC", "W4A8_DYNAMIC"), ("w4a8_dynamic.liner", "W4A8_DYNAMIC.LINEAR")]
)
def test_unknown_words(cli: Cli, word: str, like: str) -> None:
    cli("explain", word).refused("subject-unknown", f"one like it is `{like}`")


def test_nothing_like_it(cli: Cli) -> None:
    cli("explain", "zzzzzzzz").refused("subject-unknown", "ops: ")


def test_forward_expressions() -> None:
    given = ("given", ("input", "bias"))
    same = ("==", ("dtype_of", ("input", "x")), ("dtype", "float16"))
    assert expr_text(("if", given, ("layer", "bias"), ("const", None))) == "layer.bias if given(bias) else None"
    assert expr_text(("and", ("not", given), same)) == "(not given(bias)) and (x.dtype == float16)"
    assert expr_text(("call", "npu::f", (("list", ("local", "h")),), (("scale", ("neg", ("size", ("*", 2, "n")))),))) == "npu::f([h], scale=-(2 * n))"
    rows = TensorType("int8", 0, "int8", "", ((Digit("rows", 1, "rows"),), (Digit("k", 2, 4), Digit("k", 1, 2))), (), (0, 1), 0, (), "")
    assert expr_text(("call", "npu::f", (("view", ("local", "h"), rows, rows), ("size", ("*", 2, "rows"))), ())) == "npu::f(h as int8[rows, 4 * 2], 2 * rows)"


def test_a_long_size_goes_by_its_name(cli: Cli) -> None:
    """What a size function gives is called what `let` calls it, and said once."""
    text = cli("explain", "W4A4_FLATQUANT_DYNAMIC.linear").out
    assert "bfloat16[k//R, q//R]" in text and "R = input_size//near_square(input_size)" in " ".join(text.split())
