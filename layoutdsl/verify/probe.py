"""What a kernel multiplies with, seen from outside: rows with a single one go in, the weights come out.

Between a recorded kernel call and the weights check. So the processed tensors are decoded by the kernel itself, by its contract as its reference implements
it, and not by an inverse of the steps.

Invariants: nothing of a call changes but the rows; a row of zeros shows what the kernel adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.kernels import CONTRACTS
from layoutdsl.plan.groups import schema_of
from layoutdsl.runtime.kernels import find_kernel
from layoutdsl.verify.decode import Array
from layoutdsl.verify.trace import KernelCall, Matmul

_ONES = {torch.int8: 127, torch.int32: 7}
"""Large ones of int8, and of int4 in int32: the sum over all other inputs, which an int4 kernel subtracts, rounds less."""
_E2M1_ONE, _E8M0_ONE = 2, 127
"""The codes of one."""
_E8M0 = 293
"""torch_npu's number of that dtype (source: torch_npu 2.13.0)."""
_PROBED = (torch.int8, torch.int32, torch.uint8, torch.float8_e4m3fn, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Effective:
    """weights: float64 [experts, outputs, inputs probed]; added: float64 [experts, outputs], what comes of a row of zeros; of a linear layer, one expert.

    dtype: of the results. error: the absolute error that their rounding leaves in ``weights``.
    """

    weights: Array
    added: Array
    dtype: str
    error: Array

    def per_unit(self, unit: float) -> Effective:
        """The same, where a one stands for so much."""
        return replace(self, weights=self.weights / unit, error=self.error / abs(unit))


def probed(matmul: Matmul, inputs: int, experts: int | None, places: Array) -> Effective:
    """The weights of a call at these inputs. experts: None of a linear layer. Raises: DiagnosticError (``kernel-arguments``)."""
    call = _unfused(matmul) if matmul.fused else matmul
    count = experts or 1
    rows, one = _single_ones(call.given, inputs, places)
    arguments = dict(call.call.arguments)
    arguments[call.activation] = [rows.repeat(count, 1)] if call.listed else rows.repeat(count, 1)
    if call.scale is not None and call.rows_scale is not None:
        ones = _ones(call.rows_scale, count * len(rows))
        arguments[call.scale] = [ones] if isinstance(arguments[call.scale], (list, tuple)) else ones
    if experts is not None:
        arguments["group_list"] = _group_list(call.call.op, arguments, count, len(rows))
    result = find_kernel(call.call.op, "cpu")(**arguments)
    result = result[0] if isinstance(result, (list, tuple)) else result
    found = result.double().numpy().reshape(count, len(rows), -1)
    with np.errstate(invalid="ignore"):
        weights = (found[:, :-1] - found[:, -1:]) / one
    name = str(result.dtype).removeprefix("torch.")
    element = ELEMENTS[name]
    least = 2.0 ** (2 - (1 << (element.exponent - 1)) - element.mantissa)
    error = ((np.abs(found[:, :-1]) + np.abs(found[:, -1:])) * 2.0 ** -(element.mantissa + 1) + least) / one
    return Effective(weights.transpose(0, 2, 1), found[:, -1], name, error.transpose(0, 2, 1))


def _single_ones(given: torch.Tensor, inputs: int, places: Array) -> tuple[torch.Tensor, int]:
    """Rows with a one at a place each, and a row of zeros, as this activation holds them; what the one is worth."""
    rows, columns, lanes = np.arange(len(places)), torch.from_numpy(places), inputs // given.shape[1]
    one = _ONES.get(given.dtype, 1)
    if lanes == 1:
        plain = torch.zeros(len(places) + 1, inputs, dtype=torch.float32)
        plain[torch.from_numpy(rows), columns] = one
        return plain.to(given.dtype), one
    code = _E2M1_ONE if given.dtype == torch.uint8 else one
    words = np.zeros((len(places) + 1, given.shape[1]), np.int64)
    words[rows, places // lanes] = code << (4 * (places % lanes))
    return torch.from_numpy(np.where(words >= 2**31, words - 2**32, words)).to(given.dtype), one


def _ones(scale: torch.Tensor, rows: int) -> torch.Tensor:
    """The scale of so many rows that leaves them as they are."""
    shape = (rows, *scale.shape[1:])
    if scale.dtype.itemsize == 1:
        return torch.full(shape, _E8M0_ONE, dtype=torch.uint8).view(scale.dtype)
    return torch.ones(shape, dtype=scale.dtype)


def _group_list(op: str, arguments: Mapping[str, Any], experts: int, rows: int) -> torch.Tensor:
    """As many rows for every expert, said in the way of the op."""
    schema = schema_of(op)
    parameter = schema.parameter("group_list_type") if schema is not None else None
    kind = arguments.get("group_list_type", parameter.default_value if parameter else None)
    counts = torch.full((experts,), rows, dtype=torch.int64)
    return counts.cumsum(0) if kind == 0 or CONTRACTS[op].group_list == "cumsum" else counts


def _unfused(matmul: Matmul) -> Matmul:
    """The products inside a call that goes on to swiglu: npu_grouped_matmul takes the same weights, scales and sums (source: the documents of both)."""
    given = matmul.call.arguments
    scales = given["weight_scale"] if matmul.scaled is None else matmul.scaled.arguments["weight_scale"]
    tokens = matmul.rows_scale
    assert tokens is not None
    arguments: dict[str, Any] = {
        "x": [matmul.given],
        "weight": _listed(given["weight"]),
        "scale": _listed(scales),
        "per_token_scale": [tokens],
        "group_list": None,
        "group_list_type": 1,
        "split_item": 2,
        "group_type": 0,
        "output_dtype": torch.float16,
    }
    bias = given.get("weight_assist_matrix", given.get("bias")) if matmul.scaled is None else None
    if bias is not None:
        # int4: the scales of channels have a dim of groups there.
        wide = [scale if scale.dim() > own.dim() else scale.unsqueeze(-2) for scale, own in zip(_listed(scales), _listed(bias))]
        arguments |= {"bias": _listed(bias), "scale": wide}
    if tokens.dtype.itemsize == 1:
        lanes = {"x_dtype": given.get("x_dtype"), "weight_dtype": given.get("weight_dtype")}
        arguments |= {"scale_dtype": _E8M0, "per_token_scale_dtype": _E8M0, **lanes}
    return Matmul(KernelCall("npu::npu_grouped_matmul", arguments, None), matmul.row, "weight", "x", "per_token_scale")


def _listed(value: Any) -> list[torch.Tensor]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def can_probe(matmul: Matmul) -> bool:
    """Are there rows for this call, and products to see?"""
    return matmul.given.dtype in _PROBED and (not matmul.fused or matmul.rows_scale is not None)


def places_of(inputs: int, groups: int, random: np.random.Generator) -> Array:
    """Inputs to probe: all of a few, else the ends, both sides of every border of a group, and some between."""
    if inputs <= 160:
        return np.arange(inputs)
    borders = np.arange(groups, inputs, groups)[:32] if groups else np.empty(0, np.int64)
    some = random.choice(inputs, 48, replace=False)
    return np.unique(np.concatenate([np.arange(8), np.arange(inputs - 8, inputs), borders, borders - 1, some]))
