"""Running plans: inputs are left alone, aliases are aliases, defaults are filled, and memory does not grow with the number of experts."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from handwritten import Writer, at, experts, f32, kind, linear
from hypothesis import given, settings
from hypothesis import strategies as st

from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.plan.bind import bind
from layoutdsl.plan.model import Compute, Digit, Move, Opaque, Plan
from layoutdsl.plan.schedule import reads, same_memory, schedule
from layoutdsl.runtime.compute import compute
from layoutdsl.runtime.dtypes import TORCH
from layoutdsl.runtime.execute import run
from layoutdsl.runtime.move import allocate, copy

N, K, E, Z = Digit("n", 1, 8), Digit("k", 1, 16), Digit("e", 1, 3), Digit("z", 1, 0)
AXES = (("n", 8), ("k", 16), ("e", 3), ("z", 0))
SIZES = {"E": 4, "I": 64, "H": 128}


def random_inputs(plan: Plan) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tensors = {}
    for node in plan.inputs:
        drawn = torch.randint(-8, 8, node.type.shape) if node.type.storage.startswith("int") else torch.rand(node.type.shape) + 0.1
        tensors[node.name] = drawn.to(TORCH[node.type.storage])
    return tensors


def tensor(value: Any) -> torch.Tensor:
    assert isinstance(value, torch.Tensor)
    return value


def same(left: Any, right: Any) -> bool:
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return torch.equal(left, right) and left.dtype == right.dtype and left.stride() == right.stride()


def bound(w: Writer) -> Plan:
    return bind(w.plan((), AXES), {})


# ---- results -------------------------------------------------------------------------------------------------------------------------------------------------


def test_streaming_gives_the_bits_of_whole_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = bind(experts(lists=True), SIZES)
    inputs = random_inputs(plan)
    streamed = run(plan, inputs)
    monkeypatch.setattr("layoutdsl.plan.schedule.stream_axis", lambda code, axes: None)
    whole = run(plan, inputs)
    assert list(streamed) == list(whole) == [output.name for output in plan.outputs]
    assert all(same(streamed[name], whole[name]) for name in whole)


def test_kept_formats_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = bind(experts(lists=True), SIZES)
    inputs = random_inputs(plan)
    expected = run(plan, inputs)
    monkeypatch.setattr("layoutdsl.runtime.execute.schedule", lambda plan, device_formats: schedule(plan, device_formats=True))
    found = run(plan, inputs)
    assert all(same(found[name], expected[name]) for name in expected)


LAYOUTS = [
    replace(kind("int4", *dims, storage="int8"), order=order)
    for dims in itertools.permutations([(E,), (N,), (K,)])
    for order in ((0, 1, 2), (0, 2, 1), (2, 0, 1))
] + [
    kind("int4", (E,), (K,), (Digit("n", 2, 4),), storage="int8", lanes=(Digit("n", 1, 2),)),
    kind("int4", (E,), (N,), (Digit("k", 8, 2),), storage="int32", lanes=(Digit("k", 1, 8),)),
    kind("int4", (E, N), (K,), storage="int8"),
    kind("int4", (N,), (E,), (Digit("k", 2, 8),), storage="uint8", lanes=(Digit("k", 1, 2),)),
]


@st.composite
def programs(draw: st.DrawFn) -> Writer:
    """Moves between layouts of one tensor, views where the bytes allow, sums, and outputs of some of it."""
    w = Writer()
    kinds = {w.input("t", draw(st.sampled_from(LAYOUTS))): w.inputs[0].type}
    numbers = set()
    for _ in range(draw(st.integers(1, 7))):
        source = draw(st.sampled_from([value for value in kinds if value not in numbers]))
        if draw(st.integers(0, 4)) == 0:
            readable = [value for value in kinds if value not in numbers and not kinds[value].lanes]
            if readable:
                body = f32(at(draw(st.sampled_from(readable))))
                numbers.add(value := w.compute(kind("float32", (E,), (N,)), ("sum", (K,), (E, N, K), body)))
                kinds[value] = w.code[-1].type
            continue
        target = draw(st.sampled_from(LAYOUTS))
        alias = draw(st.sampled_from(["never", "may", "must"] if same_memory(kinds[source], target) else ["never", "may"]))
        kinds[w.move(source, target, alias)] = target
    for index, value in enumerate(draw(st.lists(st.sampled_from(list(kinds)), min_size=1, max_size=4))):
        w.output(f"out{index}", value)
    return w


def naively(plan: Plan, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every node by itself, whole, in its own memory."""
    values = {node.id: inputs[node.name] for node in plan.inputs}
    types = {node.id: node.type for node in (*plan.inputs, *plan.code)}
    for node in plan.code:
        values[node.id] = allocate(node.type, "cpu")
        if isinstance(node, Compute):
            compute(node, {value: (values[value], types[value]) for value in reads(node)}, dict(AXES), values[node.id], "exact")
        elif isinstance(node, Move):
            copy(values[node.of], types[node.of], node.type, values[node.id])
    return {output.name: values[output.value] for output in plan.outputs}


@settings(max_examples=300, deadline=None)
@given(programs())
def test_a_schedule_changes_no_bits(w: Writer) -> None:
    plan = bound(w)
    given_type = plan.inputs[0].type
    drawn = torch.randint(-8, 8, given_type.shape) if not given_type.lanes else torch.randint(-128, 128, given_type.shape)
    inputs = {"t": torch.empty_strided(given_type.shape, given_type.strides, dtype=TORCH[given_type.storage]).copy_(drawn)}
    before = inputs["t"].clone()
    found, expected = run(plan, inputs), naively(plan, inputs)
    assert torch.equal(inputs["t"], before)
    for name, want in expected.items():
        assert torch.equal(tensor(found[name]), want)
        assert tensor(found[name]).stride() == want.stride()
    memory = {output.value: tensor(found[output.name]).untyped_storage().data_ptr() for output in plan.outputs}
    for node in plan.code:
        if isinstance(node, Move) and node.id in memory:
            if node.of in memory and node.alias != "may":
                assert (memory[node.id] == memory[node.of]) == (node.alias == "must")
            if node.alias == "never":
                assert memory[node.id] != inputs["t"].untyped_storage().data_ptr()


def test_lists() -> None:
    found = run(plan := bind(experts(lists=True), SIZES), random_inputs(plan))
    for p in ("w13", "w2"):
        weights, biases, bias = found[f"{p}_weight_list"], found[f"{p}_scale_bias_list"], tensor(found[f"{p}_scale_bias"])
        assert isinstance(weights, list)
        assert isinstance(biases, list)
        assert len(weights) == len(biases) == SIZES["E"]
        for index, (weight, view) in enumerate(zip(weights, biases)):
            assert torch.equal(weight, tensor(found[f"{p}_weight"])[index])
            assert (weight.storage_offset(), weight.untyped_storage().nbytes()) == (0, weight.numel() * 4)
            assert view.data_ptr() == bias[index].data_ptr()
            assert view.storage_offset() == index * view.numel()


def test_a_list_without_its_tensor() -> None:
    w = Writer()
    views = w.move(w.move(w.input("t", kind("int8", (E,), (N,), (K,))), kind("int8", (E,), (K,), (N,)), "never"), kind("int8", (K,), (N,), listed="e"), "must")
    w.output("own", w.move(views, kind("int8", (K,), (N,), listed="e"), "never"), "list")
    given = torch.randint(-128, 127, (3, 8, 16), dtype=torch.int8)
    found = run(bound(w), {"t": given})["own"]
    assert isinstance(found, list)
    assert same(found, [part.t().contiguous() for part in given])


def test_a_list_of_one() -> None:
    w = Writer()
    w.output("one", w.compute(kind("float32", (Z,)), ("const", "float32", 0)), "list")
    found = run(bound(w), {})["one"]
    assert isinstance(found, list)
    assert [part.shape for part in found] == [(0,)]


def test_numbers() -> None:
    w = Writer()
    ratio, flag = w.input("ratio", kind("float32", ())), w.input("flag", kind("bool", ()))
    w.output("ratio", ratio, "value")
    w.output("flag", flag, "value")
    w.output("count", w.compute(kind("int32", ()), ("const", "int32", 7)), "value")
    found = run(bound(w), {"ratio": torch.tensor([0.5]), "flag": torch.tensor([True])})
    assert found == {"ratio": 0.5, "flag": True, "count": 7}
    assert [type(value) for value in found.values()] == [float, bool, int]


# ---- inputs --------------------------------------------------------------------------------------------------------------------------------------------------


def test_inputs_are_not_changed_and_untouched_ones_come_back() -> None:
    plan = bind(linear(), {"N": 64, "K": 128})
    inputs = random_inputs(plan)
    before = {name: value.clone() for name, value in inputs.items()}
    found = run(plan, inputs)
    assert all(torch.equal(inputs[name], before[name]) for name in before)
    assert found["weight_offset_second"] is inputs["weight_offset_second"]
    assert tensor(found["weight_offset"]).data_ptr() == inputs["weight_offset"].data_ptr()
    assert tensor(found["weight"]).data_ptr() != inputs["weight"].data_ptr()


def test_parameters_with_gradients() -> None:
    plan = bind(linear(), {"N": 64, "K": 128})
    inputs = random_inputs(plan)
    plain = run(plan, inputs)
    grown = {name: torch.nn.Parameter(value, requires_grad=value.is_floating_point()) for name, value in inputs.items()}
    found = run(plan, grown)
    assert all(same(tensor(found[name]).detach(), tensor(plain[name])) for name in plain)
    assert not any(tensor(value).requires_grad for name, value in found.items() if name != "weight_offset_second")
    assert torch.is_grad_enabled()


def test_inputs_of_any_strides() -> None:
    plan = bind(experts(lists=True), SIZES)
    inputs = random_inputs(plan)
    wide = {name: torch.cat([value.flatten()[:1], value.flatten()])[1:].view(value.shape) for name, value in inputs.items()}
    turned = {name: value.transpose(0, 1).contiguous().transpose(0, 1) for name, value in inputs.items()}
    expected = run(plan, inputs)
    for tensors in (wide, turned):
        found = run(plan, tensors)
        outputs = [name for name in expected if name not in tensors or found[name] is not tensors[name]]
        assert len(outputs) == len(expected) - 2
        assert all(same(found[name], expected[name]) for name in outputs)


def test_defaults() -> None:
    w = Writer()
    plain = w.input("plain", kind("bfloat16", (N,)), 0.5)
    lanes = w.input("lanes", kind("int4", (N,), (Digit("k", 8, 2),), storage="int32", lanes=(Digit("k", 1, 8),)), -3)
    excess = w.input("excess", kind("int4", (N,), (Digit("k", 8, 2),), storage="int32", lanes=(Digit("k", 1, 8),), excess=8), 0)
    scale = w.input("scale", kind("float32", (N,), storage="int64", extension="zero"), 0)
    spare = w.input("spare", kind("int8", (N,)), "uninitialised")
    w.output("plain", plain)
    w.output("lanes", w.move(lanes, kind("int4", (N,), (K,), storage="int8"), "never"))
    w.output("excess", w.move(excess, kind("int4", (N,), (K,), storage="int8"), "never"))
    w.output("words", excess)
    w.output("scale", scale)
    w.output("spare", spare)
    found = run(bound(w), {"plain": torch.ones(8, dtype=torch.bfloat16)})
    assert torch.equal(tensor(found["plain"]), torch.ones(8, dtype=torch.bfloat16))
    found = run(bound(w), {})
    assert torch.equal(tensor(found["plain"]), torch.full((8,), 0.5, dtype=torch.bfloat16))
    assert torch.equal(tensor(found["lanes"]), torch.full((8, 16), -3, dtype=torch.int8))
    assert torch.equal(tensor(found["excess"]), torch.zeros(8, 16, dtype=torch.int8))
    assert torch.equal(tensor(found["words"]).view(torch.uint8), torch.full((8, 8), 0x88, dtype=torch.uint8))
    assert torch.equal(tensor(found["scale"]), torch.zeros(8, dtype=torch.int64))
    assert tensor(found["spare"]).shape == (8,)


def test_a_default_that_cannot_be_written() -> None:
    w = Writer()
    w.output("scale", w.input("scale", kind("float32", (N,), storage="int64", extension="zero"), 1))
    with pytest.raises(DiagnosticError) as caught:
        run(bound(w), {})
    assert caught.value.diagnostics[0].code == "plan-invalid"


def test_a_plan_that_cannot_be_executed() -> None:
    w = Writer()
    w.output("sum", w.compute(kind("float32", (N,)), ("+", at(w.input("a", kind("float32", (N,)))), ("const", "int8", 1))))
    with pytest.raises(DiagnosticError) as caught:
        run(bound(w), {"a": torch.ones(8)})
    assert [d.code for d in caught.value.diagnostics] == ["plan-invalid"]


@pytest.mark.parametrize(("type", "right"), [("int64", True), ("int32", False)])
def test_kernels(type: str, right: bool) -> None:
    w = Writer()
    w.input("a", kind("float32", (N,)))
    w.code.append(Opaque("v1", "kernel", "v0", kind(type, (N,)), (("kernel", "npu::npu_trans_quant_param"),), "packed"))
    w.output("out", "v1")
    given_a = {"a": torch.ones(8)}
    if right:
        assert torch.equal(tensor(run(bound(w), given_a)["out"]), torch.full((8,), 0x3F800000 | 1 << 46))
        return
    with pytest.raises(DiagnosticError) as caught:
        run(bound(w), given_a)
    assert [d.code for d in caught.value.diagnostics] == ["plan-invalid"]


def test_wrong_inputs() -> None:
    plan = bind(linear(), {"N": 64, "K": 128})
    inputs = random_inputs(plan)
    wrong = {**inputs, "weight": inputs["weight"].to(torch.complex64), "weight_scale": inputs["weight_scale"][:3], "extra": torch.ones(1)}
    del wrong["weight_offset"]
    with pytest.raises(DiagnosticError) as caught:
        run(plan, wrong, donate=True)
    assert sorted(d.code for d in caught.value.diagnostics) == ["tensor-dtype", "tensor-missing", "tensor-shape", "tensor-unexpected"]
    assert len(wrong) == 5
    with pytest.raises(DiagnosticError) as caught:
        run(plan, {**inputs, "weight": inputs["weight"].to("meta")})
    assert [d.code for d in caught.value.diagnostics] == ["tensor-device"]


# ---- memory --------------------------------------------------------------------------------------------------------------------------------------------------


def test_donated_inputs_go_as_soon_as_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = bind(experts(), SIZES)
    inputs = random_inputs(plan)
    expected = run(plan, dict(inputs))
    kept = {name: weakref.ref(value) for name, value in inputs.items()}
    seen: list[set[str]] = []
    monkeypatch.setattr("layoutdsl.runtime.execute._Job.loop", _spy("loop", kept, seen))
    found = run(plan, inputs, donate=True)
    assert inputs == {}
    assert all(same(found[name], expected[name]) for name in expected)
    assert "w13_weight" in seen[0]
    assert "w13_weight" not in seen[1]
    assert {"w13_weight_offset_second", "w2_weight_offset_second"}.isdisjoint(seen[0])
    assert {name for name, ref in kept.items() if ref() is not None} == {"w13_weight_offset", "w2_weight_offset"}


def _spy(method: str, kept: dict[str, Any], seen: list[set[str]]) -> Any:
    from layoutdsl.runtime.execute import _Job

    real = getattr(_Job, method)

    def wrapped(self: Any, *args: Any) -> Any:
        seen.append({name for name, ref in kept.items() if ref() is not None})
        return real(self, *args)

    return wrapped


def test_donation_needs_a_dict() -> None:
    plan = bind(linear(), {"N": 64, "K": 128})
    with pytest.raises(TypeError, match="dict"):
        run(plan, MappingProxyType(random_inputs(plan)), donate=True)


PEAK = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from handwritten import experts
from layoutdsl.plan.bind import bind
from layoutdsl.runtime.dtypes import TORCH
from layoutdsl.runtime.execute import run
from layoutdsl.runtime.move import allocate, copy

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

def tensors(count):
    plan = bind(experts(), {"E": count, "I": 512, "H": 1024})
    return plan, {node.name: torch.ones(node.type.shape, dtype=TORCH[node.type.storage]) for node in plan.inputs}

run(*tensors(1))
plan, inputs = tensors(int(sys.argv[2]))
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
out = run(plan, inputs)
made = sum(v.numel() * v.element_size() for k, v in out.items() if k not in inputs or v is not inputs[k])
print(status("VmHWM") - before - made)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_experts() -> None:
    # Every tensor in pages of its own, so that what is freed is gone and the peak does not depend on the allocator's mood.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PEAK, str(Path(__file__).parent)]
    jobs = {count: subprocess.Popen([*command, str(count)], env=environment, stdout=subprocess.PIPE, text=True) for count in (2, 8, 32)}
    peaks = {count: int(job.communicate(timeout=60)[0]) for count, job in jobs.items()}
    # One expert's w13 is 1 MiB of int8, and 4 MiB as floats; measured: 2.6, 1.6 and 1.7 MiB.
    assert max(peaks.values()) < 8 * 2**20, peaks
    assert peaks[32] < peaks[2] + 2**20, peaks
