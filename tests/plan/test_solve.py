"""Sizes from shapes: a determined system or a diagnostic, never a guess."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_plans import kind, small_plan

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.plan.bind import bind
from layoutdsl.plan.model import Condition, Digit, Input, Plan
from layoutdsl.plan.solve import solve_sizes

PLAN = small_plan()


def plan_of(sizes: tuple[str, ...], **tensors: Any) -> Plan:
    """A plan that has only inputs: tensor name -> extents."""
    inputs = tuple(
        Input(f"v{i}", name, kind("int8", *((Digit(f"a{i}_{d}", 1, extent),) for d, extent in enumerate(extents))), None, ())
        for i, (name, extents) in enumerate(tensors.items())
    )
    return replace(PLAN, sizes=sizes, inputs=inputs, code=(), outputs=())


def refused(plan: Plan, shapes: dict[str, tuple[int, ...]]) -> tuple[Diagnostic, ...]:
    with pytest.raises(DiagnosticError) as caught:
        solve_sizes(plan, shapes)
    return caught.value.diagnostics


def test_plain() -> None:
    assert solve_sizes(PLAN, {"weight": (64, 100), "scale": (64, 4)}) == {"N": 64, "K": 100}
    assert solve_sizes(PLAN, {"weight": (64, 100), "stranger": (3,)}) == {"N": 64, "K": 100}


def test_products_and_exact_quotients() -> None:
    plan = plan_of(("I", "N", "H"), w13=(("*", 2, "I"), "H"), packed=(("/", "N", 8), ("*", "I", "H")))
    assert solve_sizes(plan, {"w13": (128, 7), "packed": (3, 448)}) == {"I": 64, "N": 24, "H": 7}
    assert solve_sizes(plan, {"w13": (128, 7), "packed": (3, 448)}) == solve_sizes(plan, {"packed": (3, 448), "w13": (128, 7)})


def test_several_passes() -> None:
    plan = plan_of(("A", "B", "C"), x=(("*", "A", "B"),), y=(("*", "B", "C"),), z=("C",))
    assert solve_sizes(plan, {"x": (6,), "y": (15,), "z": (5,)}) == {"A": 2, "B": 3, "C": 5}


def test_rounded_extents_only_check() -> None:
    plan = plan_of(("K",), scale=(("cdiv", "K", 32),))
    (unsolved,) = refused(plan, {"scale": (4,)})
    assert unsolved.code == "size-unsolved"
    assert "`K`" in unsolved.message
    assert "sizes" in unsolved.helps[0]
    (wrong,) = refused(PLAN, {"weight": (64, 100), "scale": (64, 3)})
    assert wrong.code == "tensor-shape"
    assert "`scale`" in wrong.message
    assert "`weight`" in wrong.message


def test_contradictions_name_both_tensors() -> None:
    (conflict,) = refused(PLAN, {"weight": (64, 100), "scale": (32, 4)})
    assert conflict.code == "tensor-shape"
    assert "`scale`" in conflict.message
    assert "`weight`" in conflict.message
    assert "`weight` has shape [64, 100]" in conflict.notes


def test_shapes_that_no_size_gives() -> None:
    assert refused(plan_of(("I",), w13=(("*", 2, "I"),)), {"w13": (7,)})[0].code == "tensor-shape"
    assert refused(plan_of(("I",), w13=("I",)), {"w13": (0,)})[0].code == "tensor-shape"
    assert refused(plan_of(("I",), w13=("I", 16)), {"w13": (4, 15)})[0].code == "tensor-shape"
    assert refused(PLAN, {"weight": (64, 100, 1)})[0].code == "tensor-shape"


def test_nothing_given() -> None:
    assert [d.code for d in refused(PLAN, {})] == ["size-unsolved", "size-unsolved"]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 300), st.sets(st.sampled_from(["weight", "scale", "offset"])))
def test_shapes_of_a_bound_plan_give_its_sizes(eighths: int, k: int, names: set[str]) -> None:
    sizes = {"N": eighths * 8, "K": k + 31}
    shapes = {node.name: node.type.shape for node in bind(PLAN, sizes).inputs if node.name in names}
    if "weight" in names:
        assert solve_sizes(PLAN, shapes) == sizes
    else:
        assert {diagnostic.code for diagnostic in refused(PLAN, shapes)} == {"size-unsolved"}


def test_a_requirement_that_says_what_a_size_equals() -> None:
    stated = (Condition("N == 2 * K", ("==", "N", ("*", 2, "K"))), Condition("M > K", (">", "M", "K")))
    plan = replace(plan_of(("K", "N"), weight=("K",)), require=stated)
    assert solve_sizes(plan, {"weight": (100,)}) == {"K": 100, "N": 200}
    assert [d.code for d in refused(replace(plan, sizes=("K", "N", "M")), {"weight": (100,)})] == ["size-unsolved"]
    assert [d.code for d in refused(plan, {})] == ["size-unsolved", "size-unsolved"]
