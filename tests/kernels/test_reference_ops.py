"""Reference kernels as operators: schemas, tracing, what they write to, and what they refuse; all derived from the tables of cases and of schemas."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from reference_cases import CASES, TABLES, Case, case, given
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.kernels import CONTRACTS
from layoutdsl.runtime.reference_ops import reference_names, reference_op

UNREADABLE = "npu::npu_matmul_compress_dequant"
"""Has a reference that refuses everything."""


def module(op: str) -> Any:
    return import_module(f"layoutdsl.kernels.{op.partition('::')[2]}.reference")


def bits(tree: Any) -> list[Any]:
    """What can be compared: tensors as bytes, with their dims."""
    return [
        (leaf.dtype, leaf.shape, leaf.stride(), leaf.contiguous().view(torch.uint8).tolist() if leaf.dim() else leaf.isnan().item())
        for leaf in pytree.tree_leaves(tree)
        if isinstance(leaf, torch.Tensor)
    ]


# ---- registration -----------------------------------------------------------------------------------------------------------------------------------------


def test_every_reference_has_cases() -> None:
    assert set(reference_names()) == {*TABLES, UNREADABLE}


@pytest.mark.parametrize("op", reference_names())
def test_signatures_are_those_of_the_schema(op: str) -> None:
    """Names, order, defaults, and which are by keyword only, of the reference and of what stands for it in traces."""
    schema = CONTRACTS[op].schema
    found = module(op)
    for function in (found.reference, found.fake) if op == found.OP else found.ALSO[op]:
        parameters = inspect.signature(function).parameters.values()
        assert [parameter.name for parameter in parameters] == [parameter.name for parameter in schema.parameters]
        for parameter, wanted in zip(parameters, schema.parameters):
            assert (parameter.kind is parameter.KEYWORD_ONLY) == wanted.keyword_only, parameter.name
            default = None if wanted.default is None else () if wanted.default == "[]" else wanted.default_value
            assert parameter.default == (parameter.empty if wanted.default is None else default), parameter.name


def test_nothing_is_imported_or_registered_before_it_is_needed() -> None:
    script = """
import sys
import layoutdsl, layoutdsl.kernels
assert "torch" not in sys.modules, "kernels are data without torch"
from layoutdsl.runtime import reference_ops
import torch
names = lambda: sorted(s.name for s in torch._C._jit_get_all_schemas() if s.name.split("::")[0] in ("npu", "vllm", "_C_ascend", "layoutdsl_ref"))
assert names() == []
assert reference_ops.reference_op("npu::npu_swiglu") is reference_ops.reference_op("npu::npu_swiglu")
reference_ops.reference_op("_C_ascend::npu_dequant_swiglu_quant")
assert names() == ["layoutdsl_ref::C_ascend__npu_dequant_swiglu_quant", "layoutdsl_ref::npu__npu_swiglu"], names()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_kernel_without_a_reference_is_named() -> None:
    with pytest.raises(DiagnosticError) as caught:
        reference_op("npu::npu_moe_gating_top_k")
    (found,) = caught.value.diagnostics
    assert (found.code, found.where) == ("kernel-missing", "npu::npu_moe_gating_top_k")
    assert "npu::npu_swiglu" in found.notes[0]


# ---- tracing --------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", CASES, ids=str)
def test_what_stands_for_a_kernel_in_traces_has_its_dims(entry: Case) -> None:
    op, operands, twins = reference_op(entry.op), entry.operands(), entry.operands()
    with FakeTensorMode() as mode:
        fake = op(**pytree.tree_map_only(torch.Tensor, mode.from_tensor, twins))
    shown = [(leaf.dtype, leaf.shape, leaf.stride()) for leaf in pytree.tree_leaves(fake)]
    assert shown == [found[:3] for found in bits(op(**operands))]


@pytest.mark.parametrize("op", TABLES)
def test_a_compiled_call_gives_the_same_bits_and_writes_the_same(op: str) -> None:
    """All cases of an op in one graph: a graph for each takes three times as long."""
    run, entries = reference_op(op), [entry for entry in CASES if entry.op == op]

    def calls(operands: list[dict[str, Any]]) -> list[Any]:
        return [run(**given) for given in operands]

    torch._dynamo.reset()
    eager, traced = ([entry.operands() for entry in entries] for _ in range(2))
    compiled = torch.compile(calls, fullgraph=True, backend="aot_eager")
    for entry, found, expected in zip(entries, compiled(traced), calls(eager)):
        assert bits(found) == bits(expected), entry
    assert bits(eager) == bits(traced)


@pytest.mark.parametrize("entry", CASES, ids=str)
def test_a_kernel_writes_to_what_it_says_and_to_nothing_else(entry: Case) -> None:
    before, after = entry.operands(), entry.operands()
    reference_op(entry.op)(**after)
    changed = {name for name in before if bits(before[name]) != bits(after[name])}
    assert changed == ({"x"} if entry.op == "npu::npu_grouped_matmul" and entry.name.startswith("A8W4") else set())
    assert changed <= set(getattr(module(entry.op), "MUTATES", ()))


def test_one_trace_serves_any_number_of_rows() -> None:
    """Quantization, two grouped matmuls and swiglu between them, in one graph with symbolic rows."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    quant, swiglu, gmm = (reference_op(f"npu::{name}") for name in ("npu_dynamic_quant", "npu_grouped_matmul_swiglu_quant", "npu_grouped_matmul"))
    w13, w2 = case("npu::npu_grouped_matmul_swiglu_quant", "A8W4 per group").operands(), case("npu::npu_grouped_matmul", "W8A8").operands()

    def layer(x: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        q, scale = quant(x)
        h, h_scale, _ = swiglu(q, w13["weight"], counts.cumsum(0), w13["weight_scale"], scale, bias=w13["bias"])
        options = given(group_list=counts, group_list_type=1, split_item=2, group_type=0, output_dtype=torch.bfloat16)
        return gmm([h], [w2["weight"][0][:, :8].contiguous()], scale=w2["scale"], per_token_scale=[h_scale], **options)[0]

    compiled = torch.compile(layer, fullgraph=True, backend=backend, dynamic=True)
    for rows in (7, 4, 11):
        x, counts = torch.randn(rows, 80, generator=torch.Generator().manual_seed(rows)).bfloat16(), torch.tensor([1, rows - 2, 1])
        assert bits(compiled(x, counts)) == bits(layer(x, counts))
    assert len(graphs) == 1


def test_rows_that_a_kernel_overwrote_stay_overwritten_in_a_graph() -> None:
    """The order of two calls with the same rows is kept, and the caller's tensor is written to."""
    op, make = reference_op("npu::npu_grouped_matmul"), case("npu::npu_grouped_matmul", "A8W4 per group").operands

    def twice(operands: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return op(**operands)[0], op(**operands)[0]

    eager, traced = make(), make()
    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    first, second = compiled(traced)
    assert bits((first, second)) == bits(twice(eager))
    assert not torch.equal(first.nan_to_num(), second.nan_to_num())
    assert (traced["x"][0] == -128).all()


def test_a_parameter_needs_no_gradient_here() -> None:
    """Consumers keep some operands as parameters with requires_grad; quantized kernels have no derivative, and ask for none."""
    op = reference_op("npu::npu_kronecker_quant")
    operands = case("npu::npu_kronecker_quant", "int4").operands()
    operands["kronecker_p1"] = torch.nn.Parameter(operands["kronecker_p1"])
    compiled = torch.compile(lambda given: op(**given), fullgraph=True, backend="aot_eager")
    assert not op(**operands)[1].requires_grad
    assert bits(compiled(operands)) == bits(op(**operands))


# ---- refusal --------------------------------------------------------------------------------------------------------------------------------------------

ANY_RANK = {
    *(("npu::npu_quant_matmul", name) for name in ("x1", "x2")),
    *((f"npu::{name}", "input") for name in ("npu_swiglu", "npu_dynamic_quant", "npu_dynamic_mx_quant", "npu_quantize", "npu_format_cast")),
    ("vllm::quantize", "in_tensor"),
}
UNREAD = {("npu::npu_format_cast", "input"), ("vllm::quantize", "input_scale")}
"""Operands that may be anything."""


def tensors(operands: dict[str, Any]) -> Iterator[str]:
    yield from (name for name, value in operands.items() if any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value)))


def refused(op: str, operands: dict[str, Any], names: set[str]) -> None:
    with pytest.raises(DiagnosticError) as caught:
        reference_op(op)(**operands)
    (found,) = caught.value.diagnostics
    assert (found.code, found.where) == ("kernel-arguments", op)
    assert [note.partition(" ")[0] for note in found.notes] == ["expected", "found"]
    assert any(f"`{name}`" in found.message or name in found.notes[0] for name in names), found


def words(name: str) -> set[str]:
    """How a refusal may name an argument: as the op that it calls does, or by what belongs together."""
    return {name, "weight", "x", "x1", "x2", "scale", "output_dtype", "input", "scales", "zero_points", "bias", "per_token_scale", "quant_dtype", "group_list"}


@pytest.mark.parametrize("entry", CASES, ids=str)
def test_a_tensor_of_another_dtype_or_rank_is_refused(entry: Case) -> None:
    for name in tensors(entry.operands()):
        changes: list[Callable[[torch.Tensor], torch.Tensor]] = []
        if (entry.op, name) not in UNREAD:
            changes.append(lambda tensor: tensor.to(torch.int16))
            changes += [] if (entry.op, name) in ANY_RANK else [lambda tensor: tensor[None, None]]
        for change in changes:
            operands = entry.operands()
            operands[name] = pytree.tree_map_only(torch.Tensor, change, operands[name])
            refused(entry.op, operands, words(name))


@pytest.mark.parametrize("entry", CASES, ids=str)
def test_a_list_with_a_tensor_too_many_is_refused(entry: Case) -> None:
    for name, value in entry.operands().items():
        if isinstance(value, list) and isinstance(value[0], torch.Tensor):
            refused(entry.op, entry.operands() | {name: [*value, value[0].clone()]}, words(name))


@pytest.mark.parametrize("entry", [entry for entry in CASES if any(name.endswith("dtype") for name in entry.operands())], ids=str)
@pytest.mark.parametrize("number", [290, 44, 45, 7])
def test_dtype_numbers_without_a_meaning_are_refused(entry: Case, number: int) -> None:
    """hifloat8, torch's own numbers for e8m0 and e2m1 (the wheel wants 293 and 296), and float64."""
    for name in entry.operands():
        if name.endswith("dtype") and entry.op != "npu::npu_format_cast":
            refused(entry.op, entry.operands() | {name: number}, {name})


GROUPED = "npu::npu_grouped_matmul"
MATMUL = "npu::npu_quant_matmul"
WEIGHT_ONLY = "npu::npu_weight_quant_batchmatmul"
WRONG: list[tuple[str, str, dict[str, Any]]] = [
    (GROUPED, "W8A8", given(group_type=None)),
    (GROUPED, "W8A8", given(split_item=0)),
    (GROUPED, "W8A8", given(act_type=1)),
    (GROUPED, "W8A8", given(group_list=torch.tensor([3, 3, 3]))),
    (GROUPED, "W8A8", given(group_list=torch.tensor([-1, 1, 1]))),
    (GROUPED, "W8A8", given(group_list=torch.tensor([3, 1, 2]), group_list_type=0)),
    (GROUPED, "W8A8", given(group_list=torch.tensor([[0, 1], [0, 1]]), group_list_type=2)),
    (GROUPED, "W8A8", given(group_list_type=3)),
    (GROUPED, "W8A8", given(output_dtype=None)),
    (GROUPED, "W8A8 to int32", given(output_dtype=None)),
    (GROUPED, "W8A8 to int8", given(scale=[torch.ones(3, 16, dtype=torch.int64)])),
    (GROUPED, "A8W4 per group", given(bias=None)),
    (GROUPED, "A8W4 per group", given(per_token_scale=None)),
    (GROUPED, "A8W4 per group", given(scale=[torch.zeros(3, 3, 16, dtype=torch.int64)])),
    (GROUPED, "A8W4 per group", given(offset=[torch.zeros(3, 1, 16)])),
    (GROUPED, "mx e4m3 * e2m1", given(x_dtype=torch.float8_e4m3fn)),
    (GROUPED, "mx e4m3", given(scale_dtype=None)),
    (GROUPED, "mx e4m3", given(scale=[torch.zeros(3, 2, 16, 2, dtype=torch.uint8)])),
    (MATMUL, "static bfloat16", given(scale=torch.ones(16, dtype=torch.int64), bias=None)),
    (MATMUL, "static bfloat16", given(output_dtype=None, bias=None, scale=torch.ones(16, dtype=torch.bfloat16))),
    (MATMUL, "to int8, packed scale", given(scale=torch.ones(16, dtype=torch.int64))),
    (MATMUL, "to int8, packed scale", given(offset=torch.zeros(16))),
    (MATMUL, "dynamic", given(scale=torch.ones(1, 16))),
    (MATMUL, "int4 per token", given(pertoken_scale=None)),
    (MATMUL, "int8 * int4", given(offset=None)),
    (MATMUL, "mx e4m3", given(group_sizes=None)),
    (MATMUL, "mx e4m3", given(scale=torch.zeros(2, 16, 2, dtype=torch.uint8))),
    (MATMUL, "mx e2m1", given(x1_dtype=None)),
    (MATMUL, "mx e4m3", given(y_scale=torch.ones(1, 16, dtype=torch.int64))),
    (WEIGHT_ONLY, "int4 per group", given(antiquant_group_size=0)),
    (WEIGHT_ONLY, "int4 per group", given(antiquant_group_size=24)),
    (WEIGHT_ONLY, "int4 per group, transposed", given(antiquant_scale=torch.ones(3, 16).bfloat16(), antiquant_offset=None)),
    (WEIGHT_ONLY, "int8 per channel", given(quant_scale=torch.ones(16))),
    ("npu::npu_grouped_matmul_swiglu_quant", "A8W4 per group", given(bias=None)),
    ("npu::npu_grouped_matmul_swiglu_quant", "A8W8", given(bias=torch.zeros(3, 16))),
    ("_C_ascend::grouped_matmul_swiglu_quant_v2", "A8W4 per channel", given(dequant_mode=1)),
    ("_C_ascend::grouped_matmul_swiglu_quant_v2", "A8W4 per channel", given(weight_assist_matrix=None)),
    ("npu::npu_grouped_matmul_swiglu_quant_v2", "mx e4m3", given(quant_mode=0)),
    ("npu::npu_dynamic_quant", "int8", given(quant_mode="pertensor")),
    ("npu::npu_dynamic_mx_quant", "e4m3", given(round_mode="round")),
    ("npu::npu_dynamic_mx_quant", "e2m1", given(axis=0)),
    ("npu::npu_quantize", "multiplied", given(dtype=torch.quint8)),
    ("npu::npu_format_cast", "view", given(acl_format=3)),
    ("npu::npu_swiglu", "last dim", given(dim=2)),
    ("_C_ascend::npu_dequant_swiglu_quant", "groups", given(quant_mode=0)),
    ("_C_ascend::npu_dequant_swiglu_quant", "groups", given(weight_scale=None)),
]


@pytest.mark.parametrize(("op", "name", "change"), WRONG, ids=[f"{op.partition('::')[2]}-{name}-{'-'.join(change)}" for op, name, change in WRONG])
def test_what_the_kernel_does_not_speak_of_is_refused(op: str, name: str, change: dict[str, Any]) -> None:
    refused(op, case(op, name).operands() | change, {*change, "antiquant_scale", "x1", "output_dtype", "offset", "weight", "scale", "x2"})


def test_compressed_weights_cannot_be_read() -> None:
    data = torch.zeros(64, dtype=torch.int8)
    with pytest.raises(DiagnosticError, match="not public"):
        reference_op(UNREADABLE)(torch.zeros(2, 64, dtype=torch.int8), data, data, torch.zeros(1, 64, dtype=torch.int32), torch.zeros(1, 64).to(torch.uint64))
