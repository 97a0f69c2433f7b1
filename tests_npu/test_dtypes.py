"""The numbers that stand for dtypes and formats are the wheel's: those that forwards pass, those that reference kernels read, those that plans hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch_npu
from torch_npu.npu._format import Format as TheirFormat

import layoutdsl
from layoutdsl.kernels.numerics import Checks
from layoutdsl.plan import model
from layoutdsl.runtime.forward import generate
from layoutdsl.runtime.python_source import HELPERS, KERNEL_DTYPES
from tests_npu.calls import CALLS, E2M1, E8M0, Call
from tests_npu.wheel import Wheel, meta, shown

OURS = {
    "float8_e4m3fn": "e4m3",
    "float8_e8m0fnu": "e8m0",
    "float4_e2m1fn_x2": "e2m1",
    "qint8": "int8",
    "quint8": "uint8",
    "qint32": "int32",
    "quint4x2": "int4",
}
"""Names of torch and torch_npu that are not ours."""
NAMES = ("uint8", "int8", "int32", "int64", "float16", "bfloat16", "float32", "int4", "e4m3", "e8m0", "e2m1")
IN_THE_WHEEL = ("uint8", "int8", "int32", "int64", "float16", "bfloat16", "float32", "int4", "float8_e4m3fn", "float8_e8m0fnu", "float4_e2m1fn_x2")
IN_TORCH = ("uint8", "int8", "int32", "int64", "float16", "bfloat16", "float32", "float8_e4m3fn", "qint8", "quint8", "qint32", "quint4x2")


def read(number: int) -> str:
    """How reference kernels read the argument."""
    return Checks("npu::any").dtype("dtype", number, *NAMES)


@pytest.mark.parametrize("name", IN_THE_WHEEL)
def test_reference_kernels_read_the_wheels_numbers(name: str) -> None:
    assert read(getattr(torch_npu, name)) == OURS.get(name, name)


@pytest.fixture(scope="module")
def arrived() -> Iterator[Callable[[torch.dtype], int]]:
    """What arrives in an operator for a torch dtype that is given as ``int?``."""
    library, seen = torch.library.Library("layoutdsl_probe", "FRAGMENT"), list[int]()
    library.define("seen(int? dtype) -> ()")
    library.impl("seen", seen.append, "CompositeExplicitAutograd")

    def arrive(dtype: torch.dtype) -> int:
        torch.ops.layoutdsl_probe.seen(dtype)
        return seen.pop()

    yield arrive
    library._destroy()


@pytest.mark.parametrize("name", IN_TORCH)
def test_reference_kernels_read_torchs_numbers(arrived: Callable[[torch.dtype], int], name: str) -> None:
    assert read(arrived(getattr(torch, name))) == OURS.get(name, name)


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """The names that the text of a generated forward knows."""
    plan = layoutdsl.compile_spec("W4A8_DYNAMIC", layer="linear", sizes={"input_size": 512, "output_size": 64})
    return generate(plan.bound, Wheel().resolve).__globals__


def test_forwards_pass_the_wheels_numbers(names: dict[str, Any]) -> None:
    constants = [name for name in HELPERS if hasattr(torch_npu, name)]
    assert len(constants) == 2
    assert {name: names[name] for name in constants} == {name: getattr(torch_npu, name) for name in constants}
    assert (torch_npu.float8_e8m0fnu, torch_npu.float4_e2m1fn_x2) == (E8M0, E2M1)


@pytest.mark.parametrize(
    ("name", "op", "call", "argument"),
    [
        ("int4", "npu::npu_dynamic_quant", "int4", "dst_type"),
        ("e8m0", "npu::npu_quant_matmul", "mxfp8", "scale_dtype"),
        ("float8_e8m0fnu", "npu::npu_quant_matmul", "mxfp8", "pertoken_scale_dtype"),
        ("e2m1", "npu::npu_quant_matmul", "mxfp4", "x1_dtype"),
    ],
)
def test_the_wheel_takes_what_forwards_pass(names: dict[str, Any], name: str, op: str, call: str, argument: str) -> None:
    """A dtype of the language, as the text of a forward gives it to a kernel; every other dtype is torch's own."""
    right: Call = CALLS[op][call]
    passed = eval(KERNEL_DTYPES[name], names)
    assert shown(meta(op, right.args, {**right.kwargs, argument: passed})) == shown(meta(op, right.args, right.kwargs))


def test_every_dtype_of_its_own_is_tried() -> None:
    assert set(KERNEL_DTYPES) == {"int4", "e8m0", "float8_e8m0fnu", "e2m1"}


def test_formats_are_the_wheels() -> None:
    assert {name: int(value) for name, value in layoutdsl.Format.__members__.items()} == {name: int(TheirFormat[name]) for name in layoutdsl.Format.__members__}
    assert int(TheirFormat.FRACTAL_NZ) == model.FRACTAL_NZ
