"""What steps only move must hold the same numbers afterwards: outputs decoded by their types against the parameters that they were made from.

Needs no kernel, so it also covers configurations whose forward is the consumer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from layoutdsl.diagnostics import Diagnostic
from layoutdsl.plan.model import Compute, Plan
from layoutdsl.verify.decode import BrokenBits, Logical, decode
from layoutdsl.verify.findings import EXACT, numeric
from layoutdsl.verify.tensors import Checkpoint


def check(plan: Plan, checkpoint: Checkpoint, results: Mapping[str, Any], title: str) -> Diagnostic | None:
    """The first output of a bound plan that movement changed. results: of ``plan.run`` on the checkpoint."""
    types = {node.id: node.type for node in (*plan.inputs, *plan.code)}
    extents = {axis: extent for axis, extent in plan.axes if isinstance(extent, int)}
    for output in plan.outputs:
        source = _source(plan, output.value)
        if source is None or output.kind == "value" or source not in checkpoint.stored:
            continue
        try:
            found = decode(results[output.name], types[output.value], extents)
        except BrokenBits as error:
            return Diagnostic(code="verify-weights", message=f"`{output.name}`: {error}", where=output.name, notes=(title,))
        different = _compared(output.name, source, found, checkpoint.stored[source], title)
        if different is not None:
            return different
    return None


def computed(plan: Plan) -> list[str]:
    """What the steps leave that is no movement of a parameter, numbers included."""
    return [output.name for output in plan.outputs if output.kind == "value" or _source(plan, output.value) is None]


def _source(plan: Plan, value: str) -> str | None:
    """The parameter that a value is a movement of; None where something was computed."""
    makers = {instruction.id: instruction for instruction in plan.code}
    while value in makers:
        instruction = makers[value]
        if isinstance(instruction, Compute) or getattr(instruction, "function", "format_cast") != "format_cast":
            return None
        value = instruction.of
    return next(node.name for node in plan.inputs if node.id == value)


def _compared(name: str, source: str, found: Logical, wanted: Logical, title: str) -> Diagnostic | None:
    axes = [axis for axis, size in zip(wanted.axes, wanted.values.shape) if size != 1]
    ours = [axis for axis, size in zip(found.axes, found.values.shape) if size != 1]
    if sorted(axes) != sorted(ours):
        return Diagnostic(code="verify-weights", message=f"`{name}` has not the axes of `{source}`", where=name, notes=(title,))
    left = found.values.reshape([size for size in found.values.shape if size != 1]).transpose([ours.index(axis) for axis in axes])
    right = wanted.values.reshape([size for size in wanted.values.shape if size != 1])
    message = f"`{name}` is only moved, but does not hold what `{source}` holds"
    return numeric("verify-weights", name, message, left.astype(np.float64), right.astype(np.float64), 0.0, EXACT, (title,), axes)
