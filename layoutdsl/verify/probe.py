"""What a kernel multiplies with, seen from outside: rows with a single one go in, the weights come out.

Between a recorded kernel call and the weights check. So the processed tensors are decoded by the kernel itself, by its contract as its reference implements
it, and not by an inverse of the steps.

Invariants: nothing of a call changes but the rows; a row of zeros shows what the kernel adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.kernels import CONTRACTS
from layoutdsl.plan.groups import schema_of
from layoutdsl.runtime.kernels import find_kernel
from layoutdsl.verify.decode import Array
from layoutdsl.verify.trace import KernelCall, Matmul

_ONE = {torch.int8: 127}
"""A large one: the sum over all other inputs, which an int4 kernel subtracts, rounds less."""


@dataclass(frozen=True, slots=True)
class Effective:
    """weights: float64 [experts, outputs, inputs probed]; added: float64 [experts, outputs], what comes of a row of zeros; of a linear layer, one expert.

    dtype: of the results. error: the absolute error that their rounding leaves in ``weights``.
    """

    weights: Array
    added: Array
    dtype: str
    error: Array


def probed(matmul: Matmul, inputs: int, experts: int | None, places: Array) -> Effective:
    """The weights of a call at these inputs. experts: None of a linear layer. Raises: DiagnosticError (``kernel-arguments``)."""
    call = _UNFUSED[matmul.call.op](matmul) if matmul.fused else matmul
    given = call.call.arguments[call.activation]
    dtype = given[0].dtype if call.listed else given.dtype
    one, count = _ONE.get(dtype, 1), experts or 1
    rows = torch.zeros(len(places) + 1, inputs, dtype=dtype)
    rows[torch.arange(len(places)), torch.from_numpy(places)] = one
    arguments = dict(call.call.arguments)
    arguments[call.activation] = [rows.repeat(count, 1)] if call.listed else rows.repeat(count, 1)
    if call.scale is not None:
        ones = torch.ones(count * len(rows), dtype=torch.float32)
        arguments[call.scale] = [ones] if isinstance(arguments[call.scale], (list, tuple)) else ones
    if experts is not None:
        arguments["group_list"] = _group_list(call.call.op, arguments, count, len(rows))
    result = find_kernel(call.call.op, "cpu")(**arguments)
    result = result[0] if isinstance(result, (list, tuple)) else result
    found = result.double().numpy().reshape(count, len(rows), -1)
    weights = (found[:, :-1] - found[:, -1:]) / one
    name = str(result.dtype).removeprefix("torch.")
    error = (np.abs(found[:, :-1]) + np.abs(found[:, -1:])) / one * 2.0 ** -(ELEMENTS[name].mantissa + 1)
    return Effective(weights.transpose(0, 2, 1), found[:, -1], name, error.transpose(0, 2, 1))


def _group_list(op: str, arguments: Mapping[str, Any], experts: int, rows: int) -> torch.Tensor:
    """As many rows for every expert, said in the way of the op."""
    schema = schema_of(op)
    parameter = schema.parameter("group_list_type") if schema is not None else None
    kind = arguments.get("group_list_type", parameter.default_value if parameter else None)
    counts = torch.full((experts,), rows, dtype=torch.int64)
    return counts.cumsum(0) if kind == 0 or CONTRACTS[op].group_list == "cumsum" else counts


def _grouped_matmul(matmul: Matmul) -> Matmul:
    """The products inside a fused A8W4 call: npu_grouped_matmul takes the same weights and sums, and the scales with a dim of groups."""
    given = matmul.call.arguments
    scales = [scale.unsqueeze(-2) for scale in given["weight_scale"]]
    arguments = {
        "x": [given["x"]],
        "weight": given["weight"],
        "scale": scales,
        "bias": given["weight_assist_matrix"],
        "per_token_scale": [given["x_scale"]],
        "group_list": given["group_list"],
        "group_list_type": 1,
        "split_item": 2,
        "group_type": 0,
        "output_dtype": torch.float16,
    }
    return Matmul(KernelCall("npu::npu_grouped_matmul", arguments, None), matmul.row, "weight", "x", "per_token_scale")


_UNFUSED: Mapping[str, Callable[[Matmul], Matmul]] = {"_C_ascend::grouped_matmul_swiglu_quant_v2": _grouped_matmul}
"""The unfused kernel that computes what a fused one starts with (source: ops-transformer, grouped_matmul_swiglu_quant_v2 document)."""


def can_probe(matmul: Matmul) -> bool:
    """Are there rows for this call, and products to see?"""
    given = matmul.call.arguments[matmul.activation]
    tensor = given[0] if isinstance(given, (list, tuple)) else given
    return tensor.dtype in (torch.int8, torch.float16, torch.bfloat16) and (not matmul.fused or matmul.call.op in _UNFUSED)


def places_of(inputs: int, groups: int, random: np.random.Generator) -> Array:
    """Inputs to probe: all of a few, else the ends, both sides of every border of a group, and some between."""
    if inputs <= 160:
        return np.arange(inputs)
    borders = np.arange(groups, inputs, groups)[:32] if groups else np.empty(0, np.int64)
    some = random.choice(inputs, 48, replace=False)
    return np.unique(np.concatenate([np.arange(8), np.arange(inputs - 8, inputs), borders, borders - 1, some]))
