"""How far a right result may be from the exact one, derived from the roundings on its way: those of the steps, of the call, of the kernel, of its result.

Read by the checks. Every rounding comes with its reason, so that a finding says why no more error is allowed; what is exact for the numbers at hand is left
out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.plan.forward import walk
from layoutdsl.plan.model import BINARY, Compute, Plan

FULL = 1000
"""Significant bits of a number that no dtype holds exactly."""
FP19_BITS = 11
"""Significant bits that the cube unit reads of a float32 scale (source: asc-devkit, quantization in passing: 1 sign, 8 exponent, 10 mantissa bits)."""
ANTIQUANT = ("npu::npu_weight_quant_batchmatmul",)
"""Kernels that round weight * scale to the dtype of x (source: ops-nn wqbmmv2_kernel_golden)."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """One rounding: the largest relative error, and what makes it."""

    relative: float
    reason: str


def rounding(dtype: str, what: str, bits: int = FULL) -> list[Rounding]:
    """To the nearest number of a dtype; none where so many significant bits fit."""
    element = ELEMENTS[dtype]
    held = element.mantissa + 1
    if element.kind != "float" or bits <= held:
        return []
    return [Rounding(2.0**-held, f"{what} in {dtype}, 2**-{held}")]


def total(roundings: Iterable[Rounding]) -> float:
    return sum(rounding.relative for rounding in roundings)


def reason(roundings: Iterable[Rounding]) -> str:
    """The reasons in one text."""
    return "; ".join(dict.fromkeys(rounding.reason for rounding in roundings)) or "nothing is rounded"


def of_steps(plan: Plan, names: Iterable[str], bits: int) -> list[Rounding]:
    """The float roundings between the parameters and these tensors of the layer, of numbers with so many significant bits. Sums are not counted."""
    wanted, found = {output.value for output in plan.outputs if output.name in set(names)}, []
    types = {node.id: node.type.element for node in (*plan.inputs, *plan.code)}
    for instruction in reversed(plan.code):
        if instruction.id not in wanted:
            continue
        if not isinstance(instruction, Compute):
            wanted.add(instruction.of)
            continue
        wanted |= {node[1] for node in _nodes(instruction.expr) if node[0] == "at"}
        found += [rounding for node in _nodes(instruction.expr) for rounding in _of_node(node, types, bits)]
    return found


def of_call(expr: Any, x_dtype: str, bits: int) -> list[Rounding]:
    """The casts of operands at call time."""
    casts = [part for part in walk(expr) if part[0] == "cast"]
    return [rounding for _, dtype, _ in casts for rounding in rounding_of_cast(dtype, x_dtype, bits)]


def rounding_of_cast(dtype: Any, x_dtype: str, bits: int) -> list[Rounding]:
    return rounding(dtype[1] if dtype[0] == "dtype" else x_dtype, "the cast of the scale at the call", bits)


def of_kernel(op: str, x_dtype: str, weight: str, carried: bool, bits: int) -> list[Rounding]:
    """What a kernel does to weight * scale. weight: its element. carried: the scale comes as the bits of a float32 in an integer. bits: of the scale."""
    found = [Rounding(2.0**-10, "the kernel reads 19 bits of a scale, 2**-10")] if carried and bits > FP19_BITS else []
    return found + (rounding(x_dtype, "the kernel's weight * scale", bits + significant(weight)) if op in ANTIQUANT else [])


def significant(element: str) -> int:
    """Significant bits of a number of an element: three of int4, whose 8 is a power of two."""
    dtype = ELEMENTS[element]
    return dtype.bits - (dtype.kind == "int") if dtype.kind in ("int", "uint") else dtype.mantissa + 1


def _of_node(node: Any, types: dict[str, str], bits: int) -> list[Rounding]:
    dtype = _dtype(node, types)
    if node[0] == "cast" and dtype is not None:
        return rounding(dtype, "a cast of the steps", bits)
    if node[0] in BINARY and dtype is not None:
        return rounding(dtype, "a product of the steps", bits)
    return []


def _dtype(node: Any, types: dict[str, str]) -> str | None:
    match node:
        case ("at", value, _):
            return types[value]
        case ("const", dtype, _) | ("cast" | "bits" | "rint" | "trunc", dtype, _):
            return str(dtype)
        case ("neg", operand):
            return _dtype(operand, types)
        case ("sum", _, _, body):
            return _dtype(body, types)
        case (_, left, _):
            return _dtype(left, types)
    return None


def _nodes(expr: Any) -> Iterator[Any]:
    yield expr
    for part in expr[1:]:
        if isinstance(part, tuple) and part and isinstance(part[0], str) and expr[0] not in ("at", "const"):
            yield from _nodes(part)
