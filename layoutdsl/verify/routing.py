"""The forward as a model calls it: leading dims, and the routing of tokens to experts, against a loop over tokens in float64.

A check of ``verify``, run once per combination of cases; the others call the kernels with rows that are sorted already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from layoutdsl.diagnostics import Diagnostic
from layoutdsl.verify import checks, tolerance
from layoutdsl.verify.configurations import Configuration
from layoutdsl.verify.decode import Array
from layoutdsl.verify.findings import numeric
from layoutdsl.verify.layers import layer_of
from layoutdsl.verify.run import Inputs, Ran, applied, dtype_of, grid_of, inputs_for
from layoutdsl.verify.tensors import checkpoint
from layoutdsl.verify.trace import Tracer, matmuls

_BATCH, _LENGTH = 2, 3


def check(configuration: Configuration, chosen: Mapping[str, int]) -> Diagnostic | None:
    """x with three dims through ``plan.forward``; of experts with a routing, one choice of which is an expert of another rank. Raises: DiagnosticError."""
    plan = configuration.plan.bind(chosen)
    made = checkpoint(configuration, plan.bound, chosen, "short")
    layer = layer_of(configuration.spec.document, configuration.plan.data, made)
    if layer is None:
        return None
    # Where nothing depends on the dtype of the model, all other checks are run with bfloat16.
    dtype = dtype_of(configuration) if "params_dtype" in configuration.given else torch.float16
    rows = inputs_for(_BATCH * _LENGTH, layer.products[0].whole, dtype, grid_of(plan, made.stored))
    module, title = applied(plan, made.tensors), f"in: {configuration.title}; x of three dims"
    inputs = _routing(chosen["num_experts"]) if layer.experts else {}
    batch = rows.x.reshape(_BATCH, _LENGTH, -1)
    result, calls = Tracer(plan.bound)(module, batch, **inputs)
    plain = plan.forward(module, batch, **inputs)
    if plain.shape[:-1] != (_BATCH, _LENGTH) or not torch.equal(plain.nan_to_num(), result.nan_to_num()):
        return Diagnostic(code="verify-forward", message="`x` of three dims does not give a result of three dims, twice the same", where="x", notes=(title,))
    ran = Ran(plan, module, result.flatten(0, 1), matmuls(calls, rows.grid))
    case = checks.Case(configuration, made, layer, ran, rows, title, checks.short_bits(configuration))
    if checks.not_comparable(case) is not None:
        return None
    if not layer.experts:
        return checks.forward(case)
    order, counts = _sorted(inputs["topk_ids"].reshape(len(rows.x), -1).numpy(), chosen["num_experts"])
    tokens = rows.x[torch.from_numpy(order // inputs["topk_ids"].shape[-1])]
    return _combined(replace(case, inputs=Inputs(tokens, counts, rows.grid)), inputs, order)


def _routing(experts: int) -> dict[str, torch.Tensor]:
    """Two choices per token; the last token's second is an expert of another rank."""
    random = np.random.default_rng(experts)
    ids = np.stack([random.permutation(max(experts, 2))[:2] % experts for _ in range(_BATCH * _LENGTH)])
    ids[-1, 1] = experts
    weights = random.uniform(0.1, 0.9, ids.shape)
    shape = (_BATCH, _LENGTH, 2)
    return {"topk_ids": torch.from_numpy(ids).reshape(shape), "topk_weights": torch.from_numpy(weights.astype(np.float32)).reshape(shape)}


def _sorted(ids: Array, experts: int) -> tuple[Array, list[int]]:
    """The pairs (token, choice) by expert, in order of tokens within one, without those of other ranks; and the rows per expert."""
    pairs = [(int(expert), place) for place, expert in enumerate(ids.reshape(-1)) if expert < experts]
    order = np.array([place for _, place in sorted(pairs)])
    return order, [sum(expert == e for expert, _ in pairs) for e in range(experts)]


def _combined(case: checks.Case, inputs: Mapping[str, torch.Tensor], order: Array) -> Diagnostic | None:
    """The weighted sum of every token's rows."""
    last, count, product = case.matmuls[-1], len(order), case.layer.products[-1]
    first, second = case.matmuls[0].rows, last.rows
    if min(len(first.values), len(second.values)) < count:
        return Diagnostic(code="verify-forward", message="the kernels get fewer rows than were routed", where="topk_ids", notes=(case.title,))
    tokens, own = first.first(count), second.first(count)
    rows, terms, blurred = product(own.values, case.counts), product.absolute(own.values, case.counts), checks.blurred(product, own, case.counts)
    weights = inputs["topk_weights"].double().numpy().reshape(-1)[order]
    wanted, absolute = np.zeros(case.ran.result.shape), np.zeros(case.ran.result.shape)
    choices = inputs["topk_ids"].shape[-1]
    relative = checks.SUMS * 8 + tolerance.total(case.roundings(last))
    for place, weight, row, term, unseen in zip(order, weights, rows, terms, np.broadcast_to(blurred, rows.shape)):
        wanted[place // choices] += weight * row
        absolute[place // choices] += weight * (checks.cast_error(row, last.result.dtype) + relative * term + unseen)
    exact, message = case.inputs.exact, "`x`: tokens are not the rows of their experts"
    found = numeric("verify-forward", "x", message, tokens.values, exact, tokens.error(exact) * 1.001, f"the nearest {tokens.element}", (case.title,))
    if found is not None:
        return found
    allowed = absolute * 1.01 + checks.cast_error(wanted, case.ran.result.dtype)
    guilty = case.names(last).get(last.weight, product.name)
    message = f"`{guilty}`: tokens are not the weighted sums of their experts' rows"
    why = f"each row and the sum rounded to {str(case.ran.result.dtype).removeprefix('torch.')}"
    return numeric("verify-forward", guilty, message, case.ran.result.double().numpy(), wanted, allowed, why, (case.title,), ("token", product.letters[0]))
