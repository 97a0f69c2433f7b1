"""Do the tensors at hand fit the plan: names, dtypes and shapes, before any byte is read.

Used by ``layoutdsl.runtime`` before it runs, and by whoever has only headers.

Invariants: all findings are collected; a finding says what was expected, what was found and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from layoutdsl.diagnostics import Diagnostic
from layoutdsl.plan.model import Input, Plan

Found = tuple[str, tuple[int, ...]]
"""A tensor as a header shows it: dtype name, shape."""


def check_inputs(plan: Plan, found: Mapping[str, Found]) -> list[Diagnostic]:
    """The findings for a bound plan: ``tensor-missing``, ``tensor-unexpected``, ``tensor-dtype``, ``tensor-shape``. An input with a default may be absent."""
    names = [node.name for node in plan.inputs]
    findings = [_unexpected(name, names, found) for name in found if name not in names]
    for node in plan.inputs:
        if node.name in found:
            findings += _differences(node, found[node.name])
        elif node.default is None:
            findings.append(_missing(node, names, found))
    return findings


def _text(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype}[{', '.join(map(str, shape))}]"


def _missing(node: Input, names: list[str], found: Mapping[str, Found]) -> Diagnostic:
    close = get_close_matches(node.name, [name for name in found if name not in names], 1)
    return Diagnostic(
        code="tensor-missing",
        message=f"`{node.name}` is missing",
        where=node.name,
        notes=(f"expected {_text(node.type.storage, node.type.shape)}", *(f"the nearest name given is `{name}`" for name in close)),
        helps=(f"load `{node.name}`, or choose the `config` of a checkpoint without it",),
    )


def _unexpected(name: str, names: list[str], found: Mapping[str, Found]) -> Diagnostic:
    close = get_close_matches(name, names, 1)
    return Diagnostic(
        code="tensor-unexpected",
        message=f"`{name}` is not a tensor of this layer",
        where=name,
        notes=(f"found {_text(*found[name])}", f"the layer has {', '.join(names) or 'no tensors'}", *(f"the nearest name is `{match}`" for match in close)),
        helps=("leave it out, or choose the `config` of a checkpoint that has it",),
    )


def _differences(node: Input, found: Found) -> list[Diagnostic]:
    dtype, shape = found
    notes = (f"expected {_text(node.type.storage, node.type.shape)}", f"found {_text(dtype, shape)}")
    findings = []
    if dtype != node.type.storage:
        helps = (f"load it as {node.type.storage}, or choose the `config` (params_dtype, version) that stores it as {dtype}",)
        findings.append(
            Diagnostic(code="tensor-dtype", message=f"`{node.name}` is {dtype}, not {node.type.storage}", where=node.name, notes=notes, helps=helps)
        )
    if shape != node.type.shape:
        helps = ("check the sizes, the tensor-parallel slice and the `config` (group size, version) against the checkpoint",)
        message = f"`{node.name}` has shape {list(shape)}, not {list(node.type.shape)}"
        findings.append(Diagnostic(code="tensor-shape", message=message, where=node.name, notes=notes, helps=helps))
    return findings
