"""Schemes of vllm-ascend against the contracts: what each hands to its kernels is taken by a row for every device and consumer; one mistake is not.

``paths`` holds other ways through vllm-ascend's runtime than those that the bundled specs take (vllm-ascend 182b75ea84, ops/fused_moe).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import layoutdsl
from layoutdsl.compiler.driver import validate, worlds
from layoutdsl.diagnostics.render import render
from layoutdsl.kernels import CONTRACTS
from layoutdsl.plan.forward import walk
from layoutdsl.syntax.document import Document

PATHS = sorted((Path(__file__).parent / "paths").glob("*.yaml"))
BUNDLED = sorted((Path(__file__).resolve().parents[2] / "specs").glob("*.yaml"))


def read(path: Path) -> Document:
    return layoutdsl.load_spec(path).document


@pytest.mark.parametrize("path", [*BUNDLED, *PATHS], ids=lambda path: path.stem)
def test_a_scheme_is_taken(path: Path) -> None:
    findings = validate(read(path))
    # A checkpoint holds what a layer does not need, and a bias that rank 0 alone adds is not used on the others.
    assert [x for x in findings if x.code != "loaded-unused"] == [], render(findings, "text")


def test_every_op_with_a_contract_has_a_scheme() -> None:
    called = set()
    for path in [*BUNDLED, *PATHS]:
        for compiled in worlds(read(path)):
            called |= {expr[1] for line in compiled.forward.calls or () for expr in walk(line.expr) if expr[0] == "call"}
    loading = {"npu::npu_convert_weight_to_int4pack", "npu::npu_format_cast", "npu::npu_trans_quant_param"}
    assert set(CONTRACTS) - called == loading


@dataclass(frozen=True)
class Mistake:
    """A change of a spec, and the argument that the refusal must be about."""

    spec: str
    name: str
    old: str
    new: str
    about: str

    def __str__(self) -> str:
        return f"{self.spec}: {self.name}"


MISTAKES = (
    Mistake("w4a4_mxfp4.linear", "a view made contiguous", " | is e2m1[n, k] in uint8[k//2, n | k%2] over [n, k//2]", " | contiguous", "x2"),
    Mistake("w8a8_mxfp8.linear", "exponents contiguous, the weight a view", "transpose(k, n) | contiguous when later", "transpose(k, n)", "scale"),
    Mistake("w8a8_mxfp8.linear", "exponents not paired", " | view [n, k//64, k//32%2] | transpose(k//64, n)", " | transpose(k, n)", "scale"),
    Mistake("w8a8_mxfp8.linear", "pairs before columns", "transpose(k//64, n)", "transpose(k//32%2, n)", "scale"),
    Mistake("w8a8_mxfp8.linear", "groups of another form", "group_sizes=[1, 1, 32]", "group_sizes=[0, 0, 32]", "group_sizes"),
    Mistake("fp8.ds_linear", "the weight contiguous, its exponents a view", "plain: transpose(k, n)\n", "plain: transpose(k, n) | contiguous\n", "scale"),
    Mistake("w8a8.linear", "the scale for its reciprocal", "(x, aclnn_input_scale_reciprocal,", "(x, aclnn_input_scale,", "scales"),
    Mistake("w8a8.linear", "cast to FRACTAL_NZ after the transposition", "p310: nz | transpose(k, n)", "p310: transpose(k, n) | contiguous | nz", "x2"),
    Mistake("w8a8_dynamic.linear", "a float16 scale", "weight_scale_fp32 if params_dtype == float16 else weight_scale", "weight_scale", "scale"),
    Mistake("w8a8_dynamic.moe", "FRACTAL_NZ where the kernel takes nothing else", "contiguous | nz", "contiguous | nz when weight_nz_mode != 0", "weight"),
    Mistake("w8a8_dynamic.moe", "up before gate", "[gate, up]", "[up, gate]", "weight"),
    Mistake("w8a8_dynamic_unfused.moe", "silu of the other half", "activate_left=true", "activate_left=false", "weight_scale"),
    Mistake("w4a8_mxfp.linear", "blocks for e2m1 activations", "nz(e4m3)", "nz", "x2"),
    Mistake("w4a16_mxfp4.moe", "blocks for 8-bit activations", "nz(bfloat16)", "nz(e4m3)", "weight"),
    Mistake("w4a16.moe", "packed along k", "in int32[e, k, n//8 | n%8]", "in int32[e, k//8, n | k%8]", "weight"),
    Mistake("w4a4_flatquant_dynamic.linear", "a rotation transposed", "  - left_trans: transpose(q, k) | contiguous\n", "", "kronecker_p2"),
    Mistake("w8a8s.linear", "a weight not transposed", "(weight | transpose(k, n))", "weight", "x2"),
    Mistake("w8a8sc.linear", "a signed scale", "view [0, n] | bitcast(uint64)", "view [0, n]", "scale"),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_refused(mistake: Mistake, tmp_path: Path) -> None:
    (path,) = [path for path in [*BUNDLED, *PATHS] if path.stem == mistake.spec]
    text = path.read_text(encoding="utf-8")
    assert mistake.old in text
    changed = tmp_path / path.name
    changed.write_text(text.replace(mistake.old, mistake.new), encoding="utf-8")
    findings = [x for x in validate(read(changed)) if x.severity == "error"]
    assert {x.code for x in findings} == {"contract-layout"}, render(findings, "text")
    assert f"`{mistake.about}`" in findings[0].message, render(findings, "text")
