"""Schedules: what is left out, what streams, what is freed when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from handwritten import Writer, at, experts, f32, kind, linear

from layoutdsl.plan.bind import bind
from layoutdsl.plan.model import Compute, Digit, Move, Opaque, Pad, Plan, TensorType
from layoutdsl.plan.schedule import Loop, Schedule, Step, lead, reads, same_memory, schedule

N, K = Digit("n", 1, 64), Digit("k", 1, 96)
E = Digit("e", 1, 4)
AXES = (("n", 64), ("k", 96), ("e", 4), ("j", 4))
ROWS, COLUMNS = kind("int8", (N,), (K,)), kind("int8", (K,), (N,))
TURNED = replace(COLUMNS, order=(1, 0))


def bound(w: Writer) -> Plan:
    return bind(w.plan((), AXES), {})


def nodes(result: Schedule) -> list[Any]:
    return [step.node for stage in result.stages for step in (stage.steps if isinstance(stage, Loop) else (stage,))]


def loops(result: Schedule) -> list[Loop]:
    return [stage for stage in result.stages if isinstance(stage, Loop)]


# ---- moves ---------------------------------------------------------------------------------------------------------------------------------------------------


def chain(*moves: tuple[TensorType, Any]) -> Plan:
    w = Writer()
    value = w.input("weight", ROWS)
    for type, alias in moves:
        value = w.move(value, type, alias)
    w.output("weight", value)
    return bound(w)


@pytest.mark.parametrize(
    ("moves", "share"),
    [
        ([(TURNED, "must"), (COLUMNS, "never")], False),
        ([(TURNED, "must"), (ROWS, "must")], True),
        ([(COLUMNS, "never"), (ROWS, "never")], False),
        ([(COLUMNS, "never"), (replace(ROWS, order=(1, 0)), "must")], False),
        ([(TURNED, "may"), (ROWS, "may")], True),
        ([(COLUMNS, "may"), (ROWS, "may")], False),
        ([(TURNED, "must"), (COLUMNS, "may")], False),
    ],
)
def test_chains_become_one_move(moves: list[tuple[TensorType, Any]], share: bool) -> None:
    (stage,) = schedule(chain(*moves)).stages
    assert isinstance(stage, Step)
    assert isinstance(stage.node, Move)
    assert (stage.node.of, stage.node.type, stage.share) == ("v0", moves[-1][0], share)


def test_pads_are_kept() -> None:
    padded = kind("int8", (Digit("n", 1, 128),), (K,), pads=(Pad("n", 128, 0),))
    assert [node.id for node in nodes(schedule(chain((padded, "never"), (ROWS, "never"))))] == ["v1", "v2"]


def test_a_value_that_somebody_else_needs_is_kept() -> None:
    w = Writer()
    weight = w.input("weight", ROWS)
    middle = w.move(weight, COLUMNS, "never")
    w.output("middle", middle)
    w.output("view", w.move(middle, replace(ROWS, order=(1, 0)), "must"))
    w.output("own", w.move(middle, COLUMNS, "never"))
    result = schedule(bound(w))
    assert [(node.id, node.of) for node in nodes(result)] == [("v1", "v0"), ("v2", "v1"), ("v3", "v1")]


def test_two_views_stay_views_of_one_memory() -> None:
    w = Writer()
    middle = w.move(w.input("weight", ROWS), COLUMNS, "never")
    w.output("one", w.move(middle, replace(ROWS, order=(1, 0)), "must"))
    w.output("two", w.move(middle, COLUMNS, "must"))
    assert [node.of for node in nodes(schedule(bound(w)))] == ["v0", "v1", "v1"]


def test_copies_of_a_copy_read_the_first() -> None:
    w = Writer()
    middle = w.move(w.input("weight", ROWS), COLUMNS, "never")
    w.output("one", w.move(middle, ROWS, "never"))
    w.output("two", w.move(middle, COLUMNS, "never"))
    assert [node.of for node in nodes(schedule(bound(w)))] == ["v0", "v0"]


def test_format_casts_vanish_without_a_device() -> None:
    w = Writer()
    w.output("weight", w.nz(w.nz(w.input("weight", ROWS))))
    plan = bound(w)
    assert schedule(plan).stages == ()
    assert schedule(plan).outputs == (("weight", "v0"),)
    assert [type(node) for node in nodes(schedule(plan, device_formats=True))] == [Opaque, Opaque]


def test_kernels_run_on_whole_values() -> None:
    w = Writer()
    dense = w.move(w.input("weight", kind("int8", (E,), (N,), (K,))), kind("int8", (E,), (K,), (N,)), "never")
    w.code.append(Opaque("v2", "kernel", dense, kind("float32", (E,), (N,)), (), ""))
    w.output("out", w.move("v2", kind("float32", (E,), (N,)), "never"))
    first, kernel, last = schedule(bound(w)).stages
    assert isinstance(first, Loop)
    assert isinstance(kernel, Step)
    assert isinstance(kernel.node, Opaque)
    assert isinstance(last, Step)


def test_dead_code_is_gone() -> None:
    w = Writer()
    weight, unused = w.input("weight", ROWS), w.input("unused", ROWS)
    w.move(weight, COLUMNS, "never")
    w.compute(kind("float32", (N,), (K,)), f32(at(unused)))
    w.output("weight", weight)
    result = schedule(bound(w))
    assert result.stages == ()
    assert result.unused == ("v1",)


# ---- reads ---------------------------------------------------------------------------------------------------------------------------------------------------


def read_of(*types: TensorType) -> tuple[str, ...]:
    w = Writer()
    value = w.input("weight", types[0])
    for type in types[1:]:
        value = w.move(value, type, "never")
    w.output("sum", w.compute(kind("float32", (N,)), ("sum", (K,), (N, K), f32(at(value)))))
    (node,) = [node for node in nodes(schedule(bound(w))) if isinstance(node, Compute)]
    return reads(node)


INT4 = kind("int4", (N,), (K,), storage="int8")
PACKED = kind("int4", (N,), (Digit("k", 8, 12),), storage="int32", lanes=(Digit("k", 1, 8),))


def test_math_reads_the_earliest_version_it_can() -> None:
    assert read_of(INT4, PACKED, replace(PACKED, order=(1, 0))) == ("v0",)
    assert read_of(PACKED, INT4, replace(INT4, order=(1, 0))) == ("v1",)
    assert read_of(replace(INT4, excess=8, extension="zero"), INT4, INT4) == ("v1",)
    assert read_of(INT4, replace(INT4, dims=((Digit("n", 1, 128),), (K,)), pads=(Pad("n", 128, 0),)), INT4) == ("v0",)
    padded = replace(INT4, dims=((Digit("n", 1, 128),), (K,)), pads=(Pad("n", 128, 0),))
    assert read_of(INT4, padded) == ("v1",)


# ---- memory of types -----------------------------------------------------------------------------------------------------------------------------------------


def test_same_memory() -> None:
    words = kind("int4", (N,), (Digit("k", 8, 12),), storage="int32", lanes=(Digit("k", 1, 8),))
    bytes_ = kind("int4", (N,), (Digit("k", 2, 48),), storage="int8", lanes=(Digit("k", 1, 2),))
    assert same_memory(words, bytes_)
    assert same_memory(ROWS, TURNED)
    assert same_memory(kind("int8", (N,), (), (K,)), kind("int8", (Digit("n", 8, 8), Digit("n", 1, 8)), (K,)))
    assert not same_memory(ROWS, COLUMNS)
    assert not same_memory(words, INT4)
    assert not same_memory(words, replace(words, excess=8))
    assert not same_memory(kind("float32", (N,), storage="int64", extension="zero"), kind("float32", (N,), storage="int64", extension="sign"))


def test_lead() -> None:
    assert lead(kind("int8", (E,), (N,)), "e") == 0
    assert lead(kind("int8", (), (E, N)), "e") == 1
    assert lead(kind("int8", (N,), (E,), order=(1, 0)), "e") == 1
    assert lead(kind("int8", (N,), (E,)), "e") is None
    assert lead(kind("int8", (N,)), "e") is None


# ---- streaming -----------------------------------------------------------------------------------------------------------------------------------------------


def test_experts_stream() -> None:
    result = schedule(bind(experts(), {"E": 4, "I": 64, "H": 128}))
    first, second = result.stages
    assert isinstance(first, Loop)
    assert isinstance(second, Loop)
    assert (first.axis, first.count, first.gathered) == ("e", 4, ())
    assert set(result.unused) == {"v4", "v9"}
    # w13 is done, and may go, before w2 begins.
    assert set(first.sliced) == set(first.free) == {"v0", "v1", "v3"}
    assert set(second.sliced) == set(second.free) == {"v5", "v6", "v8"}
    # The transposed copy is never made: the weight is packed from the parameter, and the sum reads the parameter.
    assert [step.node.type.shape for step in first.steps] == [(1, 128), (1, 4, 128), (1, 4, 128), (1, 128, 16)]
    assert set(first.written) == {step.node.id for step in first.steps} - {"v13"}
    assert any("v13" in step.free for step in first.steps)


def test_lists() -> None:
    result = schedule(bind(experts(lists=True), {"E": 4, "I": 64, "H": 128}))
    first, second, *views = result.stages
    assert isinstance(first, Loop)
    assert len(first.gathered) == 1
    assert len(first.written) == 3
    assert isinstance(second, Loop)
    for view in views:
        assert isinstance(view, Loop)
        assert [step.share for step in view.steps] == [True]
        assert view.written == ()
        assert set(view.sliced) <= {*first.written, *second.written}


def test_lists_whose_tensor_is_deleted_never_have_it_whole() -> None:
    w = Writer()
    weight = w.input("weight", kind("int8", (E,), (N,), (K,)))
    dense = w.move(weight, kind("int8", (E,), (K,), (N,)), "never")
    views = w.move(dense, kind("int8", (K,), (N,), listed="e"), "must")
    w.output("list", w.move(views, kind("int8", (K,), (N,), listed="e"), "never"), "list")
    (loop,) = schedule(bound(w)).stages
    assert isinstance(loop, Loop)
    assert loop.written == ()
    assert loop.gathered == ("v3",)
    assert [reads(step.node) for step in loop.steps] == [("v0",)], "one copy, not two"


def stream_of(*types: TensorType, expr: tuple[Any, ...] | None = None, out: TensorType | None = None) -> list[Loop]:
    w = Writer()
    values = [w.input(f"t{i}", type) for i, type in enumerate(types)]
    w.output("out", w.compute(out or types[0], expr or at(values[0])))
    return loops(schedule(bound(w)))


WEIGHT = kind("float32", (E,), (N,), (K,))


def test_what_streams() -> None:
    assert [loop.axis for loop in stream_of(WEIGHT)] == ["e"]
    assert [loop.axis for loop in stream_of(WEIGHT, expr=("sum", (K,), (E, N, K), at("v0")), out=kind("float32", (E,), (N,)))] == ["e"]
    assert [loop.axis for loop in stream_of(kind("float32", (E, N), (K,)))] == ["e"]


def test_what_does_not() -> None:
    summed = ("sum", (E,), (E, N, K), at("v0"))
    assert stream_of(WEIGHT, expr=summed, out=kind("float32", (N,), (K,))) == []
    picked = ("at", "v0", (("e", ("-", 3, ("loop", "e", 1))),))
    assert stream_of(WEIGHT, expr=picked) == []
    assert [loop.axis for loop in stream_of(kind("float32", (N,), (E,), (K,)))] == ["n"], "not the slowest"
    assert stream_of(kind("float32", (Digit("e", 2, 2),), (Digit("e", 1, 2),), (N,), (K,))) == [], "cut in two"
    assert stream_of(kind("float32", (Digit("e", 1, 8),), (N,), (K,), pads=(Pad("e", 8, 0),))) == [], "padded"
    assert stream_of(kind("float32", (N,), (K,))) == [], "the rows of a matrix are no experts"


def test_a_long_axis_is_not_gone_through_one_by_one() -> None:
    w = Writer()
    w.output("out", w.compute(WEIGHT, at(w.input("t", WEIGHT))))
    plan = w.plan(("E",), (*AXES[:2], ("e", "E"), ("j", 4)))
    long = replace(plan, inputs=tuple(replace(i, type=_longer(i.type)) for i in plan.inputs), code=tuple(replace(i, type=_longer(i.type)) for i in plan.code))
    assert len(loops(schedule(bind(long, {"E": 384})))) == 1
    assert loops(schedule(bind(long, {"E": 4096}))) == []


def _longer(type: TensorType) -> TensorType:
    return replace(type, dims=((Digit("e", 1, "E"),), *type.dims[1:]))


def test_the_linear_layer_does_not_stream() -> None:
    result = schedule(bind(linear(), {"N": 64, "K": 128}))
    assert loops(result) == []
    assert [type(node) for node in nodes(result)] == [Compute, Move, Compute, Compute, Move]


def test_device_formats_run_on_whole_values() -> None:
    result = schedule(bind(experts(), {"E": 4, "I": 64, "H": 128}), device_formats=True)
    casts = [stage for stage in result.stages if isinstance(stage, Step) and isinstance(stage.node, Opaque)]
    assert len(casts) == 2
    after = result.stages[result.stages.index(casts[0]) :]
    assert not [stage for stage in after if isinstance(stage, Loop)]
    assert all(stage.node.of in {name for loop in loops(result) for name in loop.written} for stage in casts if isinstance(stage.node, Opaque))


def test_everything_is_freed_once() -> None:
    for plan in (experts(), experts(lists=True)):
        result = schedule(bind(plan, {"E": 4, "I": 64, "H": 128}))
        wanted = {value for _, value in result.outputs}
        freed = [name for stage in result.stages for name in stage.free] + list(result.unused)
        assert len(freed) == len(set(freed))
        assert wanted.isdisjoint(freed)
        assert {node.id for node in plan.inputs} - wanted <= set(freed)
