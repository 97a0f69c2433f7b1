"""Every bundled forward, in every configuration that differs, through torch_npu's schemas and meta functions: as it is generated, on meta tensors.

The layer's tensors are made as the plan says the load leaves them. What the wheel cannot say anything about is counted, by op.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import layoutdsl
from layoutdsl.bundled import bundled
from layoutdsl.plan.forward import walk
from layoutdsl.plan.model import Output, Plan, TensorType
from layoutdsl.plan.sizes import layer_kind
from layoutdsl.runtime.dtypes import TORCH
from layoutdsl.runtime.forward import generate
from layoutdsl.runtime.python_source import python_source
from layoutdsl.verify import sizes
from layoutdsl.verify.configurations import Configuration, configurations
from tests_npu.wheel import META, NOTHING, Wheel, report

ROWS, CHOICES = 6, 2
"""Tokens, and experts per token."""
CONFIGURATIONS = [configuration for path in bundled().values() for configuration in configurations(layoutdsl.load_spec(path), {})]
OWN = [configuration for configuration in CONFIGURATIONS if configuration.plan.data.forward != "external"]

WHEEL = Wheel()
OWN_LIBRARY = ("grouped_matmul_swiglu_quant_v2", "grouped_matmul_swiglu_quant_weight_nz_tensor_list", "npu_swiglu_group_quant")
UNCHECKED = {f"_C_ascend::{name}": NOTHING for name in OWN_LIBRARY}
"""Every op of a forward of which torch_npu has no meta function, and why: ops of vllm-ascend's own library are in no wheel.

A scheme that calls the ops of others adds nothing here. What meta functions let pass is shown in ``test_wrong_calls.py``.
"""


def name(configuration: Configuration) -> str:
    return f"{configuration.spec.scheme}.{configuration.spec.layer}"


def title(configuration: Configuration) -> str:
    return f"{name(configuration)}: {configuration.title}"


# ---- what a forward is called with -------------------------------------------------------------------------------------------------------------------------


def layer_of(plan: Plan) -> SimpleNamespace:
    """A module in the state that the plan leaves it in; a dot in a name is a module inside."""
    layer, types = SimpleNamespace(), {node.id: node.type for node in (*plan.inputs, *plan.code)}
    for output in plan.outputs:
        *parts, name = output.name.split(".")
        module = layer
        for part in parts:
            module = module.__dict__.setdefault(part, SimpleNamespace())
        setattr(module, name, value_of(plan, output, types[output.value]))
    return layer


def value_of(plan: Plan, output: Output, kind: TensorType) -> Any:
    if output.kind == "value":
        return 1
    made = [torch.empty_strided(kind.shape, kind.strides, dtype=TORCH[kind.storage], device="meta") for _ in range(length_of(plan, kind))]
    return made if output.kind == "list" else made[0]


def length_of(plan: Plan, kind: TensorType) -> int:
    length = dict(plan.axes)[kind.listed] if kind.listed else 1
    assert isinstance(length, int)
    return length


def calls_of(configuration: Configuration, plan: Plan, given: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Arguments of a forward: with and without the optional ones, rows in one and in two dims, and both ways to say which expert has which rows."""
    dtype = getattr(torch, str(configuration.compiled.state.world.config.get("params_dtype", "bfloat16")))
    wanted = set(python_source(plan).inputs)
    width, height = columns(configuration, given)
    routing = {"group_list", "group_list_type", "topk_ids", "topk_weights"}
    for lead in ((ROWS,), (2, ROWS)):
        x = torch.empty(*lead, width, dtype=dtype, device="meta")
        optional = {"bias": {"bias": torch.empty(height, dtype=dtype, device="meta")}, "x_scale": quantized(x)}
        assert wanted <= {*optional, *routing}, "say here how this input is made"
        for extra in ({}, *(optional[name] for name in wanted & {*optional})):
            for how in routings(lead, given["num_experts"]) if wanted & routing else [{}]:
                yield {"x": x, **extra, **how}


def columns(configuration: Configuration, given: Mapping[str, int]) -> tuple[int, int]:
    """Of what goes into a layer, and of what comes out of it."""
    sizes = layer_kind(configuration.spec.layer).columns
    assert sizes is not None
    return given[sizes[0]], given[sizes[1]]


def quantized(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """An x that comes with its scale: e4m3 with an exponent per 32 columns, in pairs."""
    *lead, width = x.shape
    return {"x": x.to(torch.float8_e4m3fn), "x_scale": torch.empty(*lead, -(-width // 64), 2, dtype=torch.uint8, device="meta")}


def routings(lead: tuple[int, ...], experts: int) -> list[dict[str, Any]]:
    ids = torch.empty(*lead, CHOICES, dtype=torch.int32, device="meta")
    listed = torch.empty(experts, dtype=torch.int64, device="meta")
    return [
        {"group_list": listed, "group_list_type": 1},
        {"group_list": listed, "group_list_type": 0},
        {"topk_ids": ids, "topk_weights": ids.to(torch.float32)},
    ]


# ---- through the wheel -------------------------------------------------------------------------------------------------------------------------------------


def forms(configuration: Configuration) -> set[tuple[str, str, str]]:
    """The calls of a forward: op, spec, and the call without its numbers, which config and sizes decide."""
    lines = configuration.plan.data.forward
    assert lines != "external"
    calls = [expr for line in lines for expr in (*walk(line.expr), *walk(line.when)) if expr[0] == "call"]
    return {(call[1], name(configuration), re.sub(r"\b\d+\b", "", repr(call))) for call in calls}


FORMS = Counter(op for op, _, _ in set().union(*map(forms, OWN)))


@pytest.mark.parametrize("configuration", OWN, ids=title)
def test_a_forward_runs_through_the_wheel(configuration: Configuration) -> None:
    """No call is refused, every kernel is called, and the result has the rows of ``x`` and the width of the layer."""
    before = WHEEL.calls.copy()
    for given in sizes.chosen(configuration.plan.data).values():
        plan = configuration.plan.bind(given).bound
        forward, layer = generate(plan, WHEEL.resolve), layer_of(plan)
        for arguments in calls_of(configuration, plan, given):
            result = forward(layer, **arguments)
            assert result.shape == (*arguments["x"].shape[:-1], columns(configuration, given)[1])
    assert set(WHEEL.calls - before) == {op for op, _, _ in forms(configuration)}


def test_what_is_not_checked_is_known(request: pytest.FixtureRequest) -> None:
    """Whoever calls an op that torch_npu cannot check says so above; how many calls that are is printed."""
    ran = [item for item in request.session.items if getattr(item, "originalname", "") == test_a_forward_runs_through_the_wheel.__name__]
    if len(ran) != len(OWN):
        pytest.skip("only some forwards were run")
    report("forwards", {op: (verdict, FORMS[op]) for op, verdict in WHEEL.verdicts.items()})
    assert {op: verdict for op, verdict in WHEEL.verdicts.items() if verdict != META} == UNCHECKED
    assert len(UNCHECKED) == 3, "one more op that nobody checks"
