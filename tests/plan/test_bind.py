"""Binding: right sizes give integers everywhere, wrong ones a diagnostic that says which, and a plan that lies about its types does not pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from small_plans import BODY, GROUPS, K, N, kind, small_plan

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.plan.bind import bind, broken_limits
from layoutdsl.plan.inputs import check_inputs
from layoutdsl.plan.model import Compute, Digit, Input, Move, Output, Pad, Plan

PLAN = small_plan()


def diagnostics(plan: Plan, sizes: dict[str, Any]) -> tuple[Diagnostic, ...]:
    with pytest.raises(DiagnosticError) as caught:
        bind(plan, sizes)
    return caught.value.diagnostics


def codes(plan: Plan, sizes: dict[str, Any]) -> list[str]:
    return [diagnostic.code for diagnostic in diagnostics(plan, sizes)]


def test_everything_is_a_number() -> None:
    bound = bind(PLAN, {"N": 64, "K": 100})
    assert bound.sizes == ()
    assert bound.axes == (("n", 64), ("k", 100), ("z", 0), ("two", 2))
    assert [node.type.shape for node in (*bound.inputs, *bound.code)] == [(64, 100), (64, 4), (64,), (64,), (100, 64), (100, 8), (100, 8), (64,), (64,), (64,)]
    assert bound.code[0].type.strides == (1, 100)
    turned = bound.code[4]
    assert isinstance(turned, Compute)
    assert turned.expr[1][1] == ("at", "v7", (("n", ("-", 63, ("loop", "n", 1))),))
    total = bound.code[3]
    assert isinstance(total, Compute)
    assert total.expr[2] == ("sum", (Digit("k", 1, 100),), (Digit("k", 1, 100), Digit("n", 1, 64)), BODY)
    assert bind(bound, {}) == bound


def test_forward_is_bound() -> None:
    bound = bind(PLAN, {"N": 64, "K": 100})
    assert bound.forward != "external"
    _, _, (_, weight, turned), keywords = bound.forward[2].expr
    assert dict(keywords)["size"] == ("size", 8)
    assert dict(keywords)["rows"] == ("size", ("*", 32, "rows"))
    assert [kind.shape for kind in weight[2:]] == [(100, 8), (100, 32)]
    assert [dim[0].ext for kind in turned[2:] for dim in kind.dims] == ["rows", 100, 100, "rows"]


def test_views_of_a_forward_keep_the_memory() -> None:
    assert PLAN.forward != "external"
    call = PLAN.forward[2]
    name, op, (q, (view, base, source, target), turned), keywords = call.expr
    longer = (view, base, source, replace(target, dims=(*target.dims, (Digit("n", 1, 2),))))
    forward = (*PLAN.forward[:2], replace(call, expr=(name, op, (q, longer, turned), keywords)), *PLAN.forward[3:])
    (found,) = diagnostics(replace(PLAN, forward=forward), {"N": 64, "K": 100})
    assert (found.code, found.where) == ("plan-invalid", "forward")
    assert "3200 bytes are not 6400" in found.message


def test_sizes() -> None:
    missing = diagnostics(PLAN, {"N": 64})
    assert [d.code for d in missing] == ["size-missing"]
    assert "`K`" in missing[0].message
    assert "given are N = 64" in missing[0].notes
    plan = replace(PLAN, sizes=(*PLAN.sizes, "input_size"))
    unknown = diagnostics(plan, {"N": 64, "K": 100, "inputs_size": 3, "Q": 1})
    assert [d.code for d in unknown] == ["size-unknown", "size-unknown", "size-missing"]
    assert "the nearest is `input_size`" in unknown[0].notes
    assert codes(PLAN, {"N": 0, "K": 100}) == ["size-invalid"]
    assert codes(PLAN, {"N": -8, "K": 1.5}) == ["size-invalid", "size-invalid"]
    assert codes(PLAN, {"N": True, "K": "100"}) == ["size-invalid", "size-invalid"]


def test_requirements() -> None:
    (failed,) = diagnostics(PLAN, {"N": 100, "K": 64})
    assert failed.code == "requirement-failed"
    assert "N % 8 == 0" in failed.message
    assert "here N = 100" in failed.notes
    assert codes(PLAN, {"N": 100, "K": 16}) == ["requirement-failed"] * 2


def test_limits_warn() -> None:
    assert broken_limits(PLAN, {"N": 64, "K": 100}) == []
    (warning,) = broken_limits(PLAN, {"N": 64, "K": 70000})
    assert (warning.code, warning.severity) == ("limit-broken", "warning")
    assert "npu_small" in warning.message
    assert "source: op document" in warning.notes
    bind(PLAN, {"N": 64, "K": 70000})


def with_type(plan: Plan, **fields: Any) -> Plan:
    first, *others = plan.inputs
    return replace(plan, inputs=(replace(first, type=replace(first.type, **fields)), *others), code=(), outputs=())


LIST = Move("v4", "v0", kind("int4", (K,), storage="int8", listed="n"), "must", "")


@pytest.mark.parametrize(
    "plan",
    [
        with_type(PLAN, lanes=(Digit("n", 1, 4),)),
        with_type(PLAN, element="float32"),
        with_type(PLAN, storage="int32", element="float16"),
        with_type(PLAN, dims=((Digit("n", 2, ("/", "N", 2)),), (K,), (Digit("n", 1, 3),))),
        with_type(PLAN, dims=((Digit("n", 1, ("+", "N", 1)),), (K,))),
        with_type(PLAN, dims=((Digit("n", ("-", "N", 70), "N"),), (K,))),
        with_type(PLAN, dims=((Digit("n", 1, ("-", "N", 64)),), (K,))),
        with_type(PLAN, dims=((Digit("n", ("/", "N", 7), 2),), (K,))),
        with_type(PLAN, dims=((Digit("n", 1, ("//", "N", ("-", "N", 64))),), (K,))),
        with_type(PLAN, dims=((Digit("n", 1, ("-", "N", 64)), N), (K,))),
        replace(PLAN, axes=(("n", ("-", "N", 100)), *PLAN.axes[1:])),
        replace(PLAN, code=(Compute("v4", kind("float32", (N,)), ("sum", (K,), (GROUPS,), BODY), ""),), outputs=()),
        replace(PLAN, code=(Move("v4", "v0", kind("int4", (N,), storage="int8"), "never", ""),), outputs=()),
        replace(PLAN, code=(Move("v4", "v0", kind("int4", (N,), storage="int8", listed="k"), "must", ""),), outputs=()),
        replace(PLAN, code=(LIST, Move("v5", "v4", kind("int4", (N,), (K,), storage="int8"), "never", "")), outputs=()),
        replace(PLAN, code=(LIST, Compute("v5", kind("float32", (N,)), ("cast", "float32", ("at", "v4", ())), "")), outputs=()),
        replace(PLAN, outputs=(Output("number", "v2", "value", "exact", ""),)),
        replace(PLAN, code=(Move("v4", "v2", kind("float32", listed="n"), "must", ""),), outputs=(Output("list", "v4", "parameter", "exact", ""),)),
        replace(PLAN, code=(Move("v4", "v0", kind("int4", (N,), (GROUPS,), storage="int8"), "never", ""),), outputs=()),
        replace(PLAN, code=(Move("v4", "v0", kind("int4", (N,), (K,), storage="int16"), "must", ""),), outputs=()),
        replace(PLAN, code=(Move("v4", "v0", kind("int4", (K,), storage="int8", listed="two"), "must", ""),), outputs=()),
    ],
)
def test_types_that_lie(plan: Plan) -> None:
    assert codes(plan, {"N": 64, "K": 64}) == ["plan-invalid"]


def test_pads_lists_and_empty_axes_pass() -> None:
    padded = kind("float32", (Digit("n", 1, 96),), pads=(Pad("n", 96, 0),))
    rows = kind("int4", (K,), storage="int8", listed="n")
    empty = Input("v4", "empty", kind("float32", (Digit("z", 1, 0),)), None, ())
    code = (Move("v5", "v2", padded, "never", ""), Move("v6", "v0", rows, "must", ""))
    bound = bind(replace(PLAN, inputs=(*PLAN.inputs, empty), code=code, outputs=()), {"N": 64, "K": 64})
    assert bound.inputs[-1].type.shape == (0,)


# ---- inputs --------------------------------------------------------------------------------------------------------------------------------------------------

BOUND = bind(PLAN, {"N": 64, "K": 64})
RIGHT = {"weight": ("int8", (64, 64)), "scale": ("bfloat16", (64, 2))}


def test_inputs_that_fit() -> None:
    assert check_inputs(BOUND, RIGHT) == []
    assert check_inputs(BOUND, {**RIGHT, "offset": ("float32", (64,))}) == []


def test_inputs_that_do_not_fit() -> None:
    findings = check_inputs(BOUND, {"wieght": ("int8", (64, 64)), "scale": ("float32", (64, 1)), "offset": ("float32", (64,))})
    assert [(finding.code, finding.where) for finding in findings] == [
        ("tensor-unexpected", "wieght"),
        ("tensor-missing", "weight"),
        ("tensor-dtype", "scale"),
        ("tensor-shape", "scale"),
    ]
    assert "the nearest name is `weight`" in findings[0].notes
    assert "the nearest name given is `wieght`" in findings[1].notes
    assert "expected bfloat16[64, 2]" in findings[2].notes
    assert "found float32[64, 1]" in findings[3].notes
    assert all(finding.helps for finding in findings)
