"""Plans written by hand against the golden vectors of the system we replace: bit for bit, strides included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from handwritten import experts, linear
from safetensors import safe_open

from layoutdsl.plan.bind import bind
from layoutdsl.plan.codec import decode, encode
from layoutdsl.plan.model import Plan
from layoutdsl.plan.solve import solve_sizes
from layoutdsl.runtime.execute import run

GOLDEN = Path(__file__).parent.parent / "data" / "golden"


def golden(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Metadata, inputs and outputs of one recorded case."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        meta = json.loads(file.metadata()["golden"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    inputs = {key.removeprefix("in."): value for key, value in tensors.items() if key.startswith("in.")}
    return meta, inputs, {key.removeprefix("out."): value for key, value in tensors.items() if key.startswith("out.")}


def check(plan: Plan, name: str) -> None:
    meta, inputs, outputs = golden(name)
    sizes = solve_sizes(plan, {key: tuple(value.shape) for key, value in inputs.items()})
    before = {key: value.clone() for key, value in inputs.items()}
    found = run(bind(decode(encode(plan)), sizes), inputs)
    assert found.keys() == outputs.keys()
    for key, want in outputs.items():
        got = found[key]
        assert isinstance(got, torch.Tensor)
        recorded = meta["outputs"][key]
        assert (list(got.shape), list(got.stride()), got.storage_offset()) == (recorded["shape"], recorded["stride"], recorded["offset"]), key
        assert got.dtype == want.dtype, key
        assert torch.equal(got.contiguous().view(torch.uint8), want.view(torch.uint8)), key
    assert all(torch.equal(before[key], inputs[key]) for key in inputs)


@pytest.mark.parametrize("consumer", ["seed", "release"])
@pytest.mark.parametrize(("case", "dtype"), [("unpacked", "bfloat16"), ("unpacked.fp16", "float16")])
def test_linear(consumer: str, case: str, dtype: str) -> None:
    check(linear(dtype), f"{consumer}/w4a8_dynamic.linear.{case}")


@pytest.mark.parametrize("consumer", ["seed", "release"])
def test_experts(consumer: str) -> None:
    check(experts(), f"{consumer}/w4a8_dynamic.moe.per_group.unpacked")
