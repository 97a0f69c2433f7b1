"""One layer run: a checkpoint put on a module, the plan applied, the forward called and traced.

Between the made-up checkpoints and the checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from layoutdsl.api import Plan
from layoutdsl.plan.forward import walk
from layoutdsl.verify.configurations import Configuration
from layoutdsl.verify.decode import Array
from layoutdsl.verify.trace import KernelCall, Tracer


@dataclass(frozen=True, slots=True, eq=False)
class Ran:
    """A forward that ran. module: what ``apply`` left."""

    plan: Plan
    module: torch.nn.Module
    result: torch.Tensor
    calls: list[KernelCall]


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


def run(plan: Plan, tracer: Tracer, module: torch.nn.Module, x: torch.Tensor, counts: list[int] | None, bias: torch.Tensor | None = None) -> Ran:
    """The forward of a bound plan on rows [m, inputs], sorted by expert where there are several. bias: the layer's own. Raises: DiagnosticError."""
    inputs = {} if counts is None else {"group_list": torch.tensor(counts)}
    result, calls = tracer(module, x, **inputs, **({} if bias is None else {"bias": bias}))
    return Ran(plan, module, result, calls)


def bias_of(plan: Plan, outputs: int, dtype: torch.dtype) -> torch.Tensor | None:
    """A bias of the model's dtype, nowhere zero, for a forward that may be given one; else None."""
    assert plan.bound.forward != "external"
    if ("input", "bias") not in (part for call in plan.bound.forward for part in (*walk(call.expr), *walk(call.when))):
        return None
    return torch.from_numpy(np.random.default_rng(outputs).uniform(0.5, 2, outputs)).to(dtype)


def rows_of(count: int, weights: Array, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Activations for weights [experts, outputs, inputs]: normal numbers, one row four times as large, one all zero but for one input.

    As large as makes products of about one in the largest row, so that no 16-bit result overflows and no limit of an activation is met.
    """
    inputs = weights.shape[2]
    random = np.random.default_rng([seed, count, inputs])
    rows = random.standard_normal((count, inputs)) / max(4 * float(np.sqrt(np.square(weights).sum(2)).max()), 2.0**-14)
    rows[0] *= 4
    if count > 2:
        rows[2] = 0
        rows[2, inputs // 3] = np.abs(rows[1]).max()
    return torch.from_numpy(rows).to(dtype)


def counts_of(experts: int) -> list[int]:
    """Rows per expert: all differ in a row of four, and some have none."""
    return [(3, 1, 0, 2)[i % 4] for i in range(experts)]


def dtype_of(configuration: Configuration) -> torch.dtype:
    """The dtype of the activations: that of the model, bfloat16 where the spec does not ask."""
    return torch.float16 if configuration.given.get("params_dtype") == "float16" else torch.bfloat16
