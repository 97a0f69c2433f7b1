"""One layer run: a checkpoint put on a module, the plan applied, the forward called and traced.

Between the made-up checkpoints and the checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import torch

from layoutdsl.api import Plan
from layoutdsl.plan.forward import walk
from layoutdsl.verify.activation import Grid
from layoutdsl.verify.configurations import Configuration
from layoutdsl.verify.decode import Array, Logical
from layoutdsl.verify.trace import Matmul, Tracer, matmuls, quantizes_statically

_MOST_STEPS = 60.0
"""Of a grid, from zero to the largest number of a row: a few roundings in 16 bit move that by less than half a step."""
_LARGEST_SUM = 24000.0
"""What the largest row times the weights may come to: with offset and bias still a float16."""


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """x: the rows of a layer, [m, inputs]. counts: rows per expert, None of a linear layer. grid: what they are quantized to, where the layer holds that."""

    x: torch.Tensor
    counts: list[int] | None = None
    grid: Grid | None = None

    @property
    def exact(self) -> Array:
        """What the rows stand for, float64."""
        found: Array = self.x.double().numpy()
        return found if self.grid is None else self.grid.nearest(found)

    def part(self, which: int, ranks: int) -> Inputs:
        """A rank's share of the inputs."""
        return replace(self, x=self.x.chunk(ranks, dim=1)[which].contiguous())


@dataclass(frozen=True, slots=True, eq=False)
class Ran:
    """A forward that ran. module: what ``apply`` left. matmuls: the products among its kernel calls."""

    plan: Plan
    module: torch.nn.Module
    result: torch.Tensor
    matmuls: list[Matmul]


def with_parameters(tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """A module with copies of these tensors as parameters; a name with dots is that of a submodule's parameter."""
    module = torch.nn.Module()
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        inner = module
        for part in filter(None, owner.split(".")):
            if part not in dict(inner.named_children()):
                inner.add_module(part, torch.nn.Module())
            inner = inner.get_submodule(part)
        inner.register_parameter(leaf, torch.nn.Parameter(tensor.clone(), requires_grad=False))
    return module


def applied(plan: Plan, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """A module with these parameters, and the bound plan applied to it. Raises: DiagnosticError."""
    module = with_parameters(tensors)
    plan.apply(module)
    return module


def left_on(module: torch.nn.Module, plan: Plan) -> dict[str, Any]:
    """What a plan left on a module, by name: tensors, lists of them, numbers."""
    return {output.name: reduce(getattr, output.name.split("."), module) for output in plan.bound.outputs}


def run(plan: Plan, tracer: Tracer, module: torch.nn.Module, rows: Inputs, **inputs: torch.Tensor) -> Ran:
    """The forward of a bound plan on rows [m, inputs], sorted by expert where there are several. inputs: what else it is called with; ``x`` in place of the
    rows. Raises: DiagnosticError."""
    listed = {} if rows.counts is None else {"group_list": torch.tensor(rows.counts)}
    result, calls = tracer(module, **{"x": rows.x, **listed, **inputs})
    return Ran(plan, module, result, matmuls(calls, rows.grid))


def grid_of(plan: Plan, stored: Mapping[str, Logical]) -> Grid | None:
    """What the numbers of a statically quantized activation stand for, by the checkpoint: its ``input_scale`` and ``input_offset``; None for other plans."""
    scale, offset = (next((stored[name].values for name in stored if name.endswith(end)), None) for end in ("input_scale", "input_offset"))
    if not quantizes_statically(plan.bound) or scale is None or scale.size != 1:
        return None
    return Grid(float(scale.reshape(())), 0.0 if offset is None else float(offset.reshape(())))


def quantized_before(ran: Ran) -> dict[str, torch.Tensor]:
    """What a layer is called with where the rows of a run are quantized already; nothing, if its forward does not ask for that."""
    assert ran.plan.bound.forward != "external"
    parts = [part for call in ran.plan.bound.forward for part in (*walk(call.expr), *walk(call.when))]
    first = ran.matmuls[0]
    x, scale = first.given.clone(), first.rows_scale
    if ("input", "x_scale") in parts and scale is not None:
        return {"x": x, "x_scale": scale}
    asked = [part for part in parts if part[0] == "==" and part[1] == ("dtype_of", ("input", "x")) and part[2] == ("dtype", "int8")]
    return {"x": x} if asked and first.grid is not None else {}


def bias_of(plan: Plan, outputs: int, dtype: torch.dtype) -> torch.Tensor | None:
    """A bias of the model's dtype, nowhere zero, for a forward that may be given one; else None."""
    assert plan.bound.forward != "external"
    if ("input", "bias") not in (part for call in plan.bound.forward for part in (*walk(call.expr), *walk(call.when))):
        return None
    return torch.from_numpy(np.random.default_rng(outputs).uniform(0.5, 2, outputs)).to(dtype)


def inputs_for(count: int, weights: Array, dtype: torch.dtype, grid: Grid | None = None, counts: list[int] | None = None) -> Inputs:
    """Rows for weights [experts, outputs, inputs], on the grid that they will be quantized to, if it is known."""
    rows = rows_of(count, weights, dtype)
    if grid is None:
        return Inputs(rows, counts)
    plain: Array = rows.double().numpy()
    largest = np.clip(np.rint(_LARGEST_SUM / max(abs(grid.scale) * _norm(weights), 2.0**-14)), 1, _MOST_STEPS)
    return Inputs(torch.from_numpy(np.rint(plain / np.abs(plain).max() * largest) * grid.scale).to(dtype), counts, grid)


def rows_of(count: int, weights: Array, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Activations for weights [experts, outputs, inputs]: normal numbers, one row four times as large, one all zero but for one input.

    As large as makes products of about one in the largest row, so that no 16-bit result overflows and no limit of an activation is met.
    """
    inputs = weights.shape[2]
    random = np.random.default_rng([seed, count, inputs])
    rows = random.standard_normal((count, inputs)) / max(4 * _norm(weights), 2.0**-14)
    rows[0] *= 4
    if count > 2:
        rows[2] = 0
        rows[2, inputs // 3] = np.abs(rows[1]).max()
    return torch.from_numpy(rows).to(dtype)


def _norm(weights: Array) -> float:
    return float(np.sqrt(np.square(weights).sum(2)).max())


def counts_of(experts: int) -> list[int]:
    """Rows per expert: all differ in a row of four, and some have none."""
    return [(3, 1, 0, 2)[i % 4] for i in range(experts)]


def dtype_of(configuration: Configuration) -> torch.dtype:
    """The dtype of the activations: that of the model, bfloat16 where the spec does not ask."""
    return torch.float16 if configuration.given.get("params_dtype") == "float16" else torch.bfloat16
