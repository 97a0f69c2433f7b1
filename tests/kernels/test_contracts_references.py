"""Contract rows and reference kernels agree: a kernel takes tensors of a row's types, gives tensors of its results' types, and writes to what the row says."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from contract_calls import SIZES, Call, calls

from layoutdsl.compiler.evaluate import DtypeName
from layoutdsl.ir.layout import TensorType
from layoutdsl.kernels import CONTRACTS, Contract
from layoutdsl.runtime.reference_ops import reference_names, reference_op

GROUPS = torch.tensor([2, 0, 3])
UNREAD = {"npu::npu_matmul_compress_dequant": "the bytes of compressed weights are not public"}
CHECKED = [contract for op, contract in CONTRACTS.items() if op in reference_names() and op not in UNREAD]
NUMBERS = {"int4": torch.quint4x2, "e4m3": torch.float8_e4m3fn, "e8m0": 293, "e2m1": 296}
"""How dtypes are written that torch does not have, or not under that name."""


def sizes_of(kind: TensorType) -> tuple[int, ...]:
    """As torch shows it."""
    return tuple(prod(digit.ext.evaluate(SIZES) for digit in dim) for dim in kind.dims)


def tensor(kind: TensorType, random: torch.Generator) -> torch.Tensor:
    """In the strides of the type. FRACTAL_NZ is not visible on a CPU."""
    sizes = sizes_of(kind)
    stored = values(kind, prod(sizes), random).reshape([sizes[place] for place in kind.order])
    return stored.permute([kind.order.index(place) for place in range(len(sizes))])


def values(kind: TensorType, count: int, random: torch.Generator) -> torch.Tensor:
    """What a checkpoint might have: any bits for packed elements, scales near 1."""
    dtype, near_one = getattr(torch, kind.storage), torch.rand(count, generator=random) + 0.5
    if kind.lanes:
        bits = {"int32": torch.int32, "float32": torch.int32, "uint8": torch.uint8}[kind.storage]
        low = -(2**31) if bits == torch.int32 else 0
        return torch.randint(low, low + 2 ** torch.iinfo(bits).bits, (count,), generator=random).to(bits).view(dtype)
    if kind.storage in ("int64", "uint64") and kind.element.name != "int64":
        bits = near_one.view(torch.int32).to(torch.int64) & 0xFFFFE000
        return (bits | (1 << 46) if kind.element.name == "opaque" else bits).view(dtype)
    if kind.element.name == "e8m0":
        return torch.randint(120, 135, (count,), generator=random).to(dtype)
    if dtype.is_floating_point:
        return near_one.to(dtype)
    return torch.randint(-8, 8, (count,), generator=random).to(dtype)


def arguments(call: Call) -> dict[str, Any]:
    random, found = torch.Generator().manual_seed(1), {}
    for name, text in call.arguments.items():
        kind = call.type(text)
        tensors = [tensor(kind, random) for _ in range(SIZES["E"] if kind.listed else 1)]
        listed = call.contract.schema.parameter(name).type == "Tensor[]"
        found[name] = tensors if listed else tensors[0]
    counted = call.constants.get("group_list_type") == 1 or "group_index" in found
    found |= {name: GROUPS if counted else GROUPS.cumsum(0) for name in ("group_list", "group_index") if name in found}
    parameters = call.contract.schema.parameters
    found |= {p.name: None for p in parameters if p.tensors and p.default is None and p.name not in found}
    return {**found, **{p.name: dtype_of(call.constants[p.name]) for p in parameters if not p.tensors and call.constants[p.name] != p.default_value}}


def dtype_of(value: Any) -> Any:
    return (NUMBERS.get(value) or getattr(torch, value)) if isinstance(value, DtypeName) else value


def bits_of(given: Any) -> list[bytes]:
    tensors = given if isinstance(given, list) else [given]
    return [part.contiguous().view(torch.uint8).numpy().tobytes() for part in tensors]


@pytest.mark.parametrize("contract", CHECKED, ids=lambda contract: contract.op)
def test_row_and_reference_agree(contract: Contract) -> None:
    for row in contract.rows:
        for call in calls(contract, row):
            given = arguments(call)
            before = {name: bits_of(given[name]) for name in call.arguments}
            found = reference_op(contract.op)(**given)
            results = [found] if isinstance(found, torch.Tensor) else list(found)
            wanted = [call.type(text) if text else None for text in row.results]
            for result, kind in zip(results, wanted, strict=True):
                if kind is not None:
                    assert (tuple(result.shape), result.dtype) == (sizes_of(kind), getattr(torch, kind.storage)), call
            assert {name for name in call.arguments if bits_of(given[name]) != before[name]} == set(row.mutates), call


def test_every_op_has_a_reference() -> None:
    assert {op for op in CONTRACTS if op not in reference_names()} == set()
    assert set(UNREAD) <= set(CONTRACTS)
