"""The numeric checks of one configuration at one set of sizes: the weights that the kernels see, and the whole forward, against ``value`` in float64.

Between a run and the findings.

Invariants: the expected numbers come from the oracle alone; what is allowed comes from ``tolerance`` with its reasons; the first wrong tensor is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from layoutdsl.diagnostics import Diagnostic
from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.plan.forward import walk
from layoutdsl.plan.model import TensorType
from layoutdsl.syntax.document import NoValue
from layoutdsl.syntax.tree import Index
from layoutdsl.syntax.walk import nodes
from layoutdsl.verify import tolerance
from layoutdsl.verify.activation import Rows
from layoutdsl.verify.configurations import Configuration
from layoutdsl.verify.decode import Array
from layoutdsl.verify.findings import numeric, worst
from layoutdsl.verify.layers import Layer, Product
from layoutdsl.verify.probe import Effective, can_probe, places_of, probed
from layoutdsl.verify.run import Inputs, Ran
from layoutdsl.verify.tensors import Checkpoint
from layoutdsl.verify.tolerance import Rounding
from layoutdsl.verify.trace import Matmul, layer_names

SHORT_BITS = 4
"""Significant bits of every scale of a checkpoint with short scales."""
SUMS = 2.0**-21
"""float32 sums of the steps (a bias) relative to the sum of absolute values: far above their bound for any layer here, far below one step of a 16-bit
result."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run and what it should have been.

    inputs: the rows that went in, sorted by expert. title: configuration and sizes, for messages. bits: significant bits of all scales together.
    """

    configuration: Configuration
    checkpoint: Checkpoint
    layer: Layer
    ran: Ran
    inputs: Inputs
    title: str
    bits: int

    @property
    def counts(self) -> list[int] | None:
        return self.inputs.counts

    @property
    def dtype(self) -> str:
        """The dtype of the rows that went in."""
        return str(self.inputs.x.dtype).removeprefix("torch.")

    @property
    def matmuls(self) -> list[Matmul]:
        return self.ran.matmuls

    def names(self, matmul: Matmul) -> dict[str, str]:
        """The layer's tensors behind the arguments of a call."""
        return layer_names(self.ran.plan.bound, matmul, self.ran.module)

    def roundings(self, matmul: Matmul) -> list[Rounding]:
        """What rounds weight * scale before it is summed."""
        plan, names = self.ran.plan.bound, self.names(matmul)
        tensors = [name for argument, name in names.items() if argument not in matmul.row.addends and argument != "weight_assist_matrix"]
        types = {node.id: node.type for node in (*plan.inputs, *plan.code)}
        outputs = {output.name: types[output.value] for output in plan.outputs}
        weight = outputs[names[matmul.weight]].element if matmul.weight in names else "int8"
        calls = [part for call in plan.forward for part in walk(call.expr) if part[0] == "call" and part[1] == matmul.call.op]  # type: ignore[union-attr]
        return [
            *tolerance.of_steps(plan, tensors, self.bits),
            *(tolerance.of_call(calls[0], self.dtype, self.bits) if calls else ()),
            *tolerance.of_kernel(matmul.call.op, self.dtype, weight, _cut(matmul, [outputs[name] for name in tensors]), self.bits),
        ]


def _cut(matmul: Matmul, kinds: Sequence[TensorType]) -> bool:
    """Does the cube unit read 19 bits of a scale: of one that comes as the bits of a float32 in an integer, or that torch_npu packs so itself?"""
    carried = any(kind.extension and ELEMENTS[kind.element].kind == "float" for kind in kinds)
    scale = matmul.call.arguments.get("scale")
    packed = isinstance(scale, torch.Tensor) and scale.dtype == torch.float32 and matmul.rows_scale is None and matmul.result.dtype == torch.float16
    return carried or packed


def short_bits(configuration: Configuration) -> int:
    """Significant bits of the product of all scales in a checkpoint with short scales: four of each that the results of ``value`` read."""
    floats = {name for name, parameter in configuration.compiled.state.parameters.items() if ELEMENTS[parameter.value.type.element.name].kind == "float"}
    document = configuration.spec.document
    if isinstance(document.value, NoValue):
        return tolerance.FULL
    counts = [0]
    for context in configuration.contexts.values():
        for body in filter(None, (context.expr(decl.body) for decl in document.value)):
            read = {context.member.expand(node.name) for node in nodes(body) if isinstance(node, Index)}
            counts.append(len(read & floats))
    return SHORT_BITS * max(counts)


def not_comparable(case: Case) -> str | None:
    """Why a run cannot be compared: there is no matmul for a product, or it is not known what its rows stand for. None if it can."""
    if len(case.matmuls) != len(case.layer.products):
        return "the kernels of the forward have no contract that says what they sum: the result was not compared"
    if not all(matmul.understood for matmul in case.matmuls):
        return "no parameter `input_scale` says what the rows are quantized with: the result was not compared"
    return None


# ---- weights --------------------------------------------------------------------------------------------------------------------------------------------


def not_probed(case: Case) -> list[str]:
    """The kernels whose weights ``weights`` does not see."""
    return [matmul.call.op for matmul in case.matmuls if not can_probe(matmul)]


def weights(case: Case, *, added: bool = True) -> Diagnostic | None:
    """Every kernel's weights, by rows with a single one, against ``value``; and what a row of zeros gives, where it is known what is added.

    Raises DiagnosticError where a kernel refuses.
    """
    pairs = zip(case.matmuls, case.layer.products)
    return next((found for matmul, product in pairs if can_probe(matmul) and (found := _weights(case, matmul, product, added)) is not None), None)


def _weights(case: Case, matmul: Matmul, product: Product, added: bool) -> Diagnostic | None:
    experts = len(product.matrix) if case.counts is not None else None
    inputs = product.matrix.shape[2]
    places = places_of(inputs, _group(case, product), np.random.default_rng(inputs))
    found = probed(matmul, inputs, experts, places)
    if matmul.grid is not None:
        found = found.per_unit(matmul.grid.scale)
    wanted, roundings = product.matrix[:, :, places], case.roundings(matmul)
    allowed = tolerance.total(roundings) * np.abs(wanted) + found.error
    if worst(found.weights, wanted, allowed) is None:
        return _added(case, matmul, product, found.added, found.dtype) if added else None
    first, second = (letter.rpartition(".")[2] for letter in product.letters)
    letters = ("e", first, f"{second} (of those probed)") if len(places) < inputs else ("e", first, second)
    guilty = _guilty(case, matmul, product, found, places)
    message = f"`{guilty}`: what `{matmul.call.op}` multiplies with is not `{product.name}` of the spec's `value`"
    why = f"{tolerance.reason(roundings)}; the kernel's result in {found.dtype}"
    notes = (f"the kernel `{matmul.call.op}` multiplies with {', '.join(case.names(matmul).values())}", case.title)
    return numeric("verify-weights", guilty, message, found.weights, wanted, allowed, why, notes, letters)


def _added(case: Case, matmul: Matmul, product: Product, found: Array, dtype: str) -> Diagnostic | None:
    """A row of zeros gives the bias of ``value``, or nothing; integers on a grid are zero at minus their offset."""
    # What is added behind the kernel is not seen here.
    own = matmul.adds or matmul.result.data_ptr() == case.ran.result.data_ptr()
    wanted = np.zeros_like(found) if product.added is None or not own else np.broadcast_to(product.added, found.shape)
    # An int4 kernel takes 8 * (the sum of the weights) away, and the steps' bias gives it back; both have been rounded on their own way.
    terms = 8 * np.abs(product.matrix).sum(2)
    if matmul.grid is not None:
        zero = matmul.grid.offset * matmul.grid.scale
        wanted, terms = wanted - zero * product.matrix.sum(2), np.abs(wanted) + abs(zero) * np.abs(product.matrix).sum(2)
    roundings = case.roundings(matmul)
    allowed = (tolerance.total(roundings) + SUMS) * terms + cast_error(found, getattr(torch, dtype))
    names = case.names(matmul)
    addends = [name for argument, name in names.items() if argument in (*matmul.row.addends, "weight_assist_matrix")]
    guilty = addends[0] if addends else next(iter(names.values()), product.name)
    message = f"`{guilty}`: a row of zeros does not give what `value` adds"
    why = f"{tolerance.reason(roundings)}, of the sum of 8 * |{product.name}|; float32 sums of the steps"
    notes = (f"the kernel is `{matmul.call.op}`", case.title)
    return numeric("verify-weights", guilty, message, found, wanted, allowed, why, notes, ("e", product.letters[0].rpartition(".")[2]))


def _group(case: Case, product: Product) -> int:
    """Indices per group along the inputs, of the finest scale; 0 where there is one for all."""
    axis = product.letters[1]
    bases = [base for logical in case.checkpoint.stored.values() for name, base in zip(logical.axes, logical.bases) if name == axis and base > 1]
    return min(bases, default=0)


def _guilty(case: Case, matmul: Matmul, product: Product, found: Effective, places: Array) -> str:
    """The tensor to name: the scale where all weights of a group are off by one factor, else the weight."""
    names = case.names(matmul)
    weight = names.get(matmul.weight, product.name)
    scales = [name for argument, name in names.items() if "scale" in argument and argument not in matmul.row.scales and argument not in matmul.row.addends]
    if not scales or matmul.weight not in names:
        return weight
    wanted = product.matrix[:, :, places]
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(wanted != 0, found.weights / wanted, np.nan)
        blur = np.where(wanted != 0, found.error / np.abs(wanted), np.nan)
    group = _group(case, product) or product.matrix.shape[2]
    for index in np.unique(places // group):
        part = places // group == index
        with np.errstate(all="ignore"):
            lowest = np.nanmin(np.nan_to_num(factor[:, :, part] + blur[:, :, part], nan=np.inf), 2)
            highest = np.nanmax(np.nan_to_num(factor[:, :, part] - blur[:, :, part], nan=-np.inf), 2)
            # All factors of a group agree, within what the kernel's result blurs and some hundredths.
            if (highest - lowest > 0.05 * np.abs(highest)).any():
                return weight
    return scales[0]


# ---- forward --------------------------------------------------------------------------------------------------------------------------------------------


def forward(case: Case) -> Diagnostic | None:
    """Every stage of the forward against the layer in float64: the activations that go into each product, and the result."""
    return activations(case, [case.ran]) or result(case)


def activations(case: Case, ranks: Sequence[Ran]) -> Diagnostic | None:
    """What goes into the products: x itself, perhaps rotated, and of experts silu(gate) * up, all perhaps quantized. ranks: the runs whose parts lie side by
    side."""
    firsts, wanted, layer = [ran.matmuls[0].rows for ran in ranks], case.inputs.exact, case.layer
    rotation = layer.products[0].rotation
    moved: Array | float = 0.0
    if rotation is not None:
        wanted = wanted @ rotation
        moved = cast_error(wanted, case.inputs.x.dtype)
    beside = not layer.experts and firsts[0].values.shape[1] != wanted.shape[1]
    message = "x is not what goes into the kernel" if rotation is None else "the rotated x is not what goes into the kernel"
    for found in [_side_by_side(firsts)] if beside else firsts:
        different = _activation(case, found, wanted, moved, "x", message)
        if different is not None or not layer.experts:
            return different
    gate_up, first = layer.products[0], case.matmuls[0]
    assert case.counts is not None
    products = gate_up(firsts[0].values, case.counts)
    wanted, gate, up = layer.activated(products)
    gate_error, up_error = layer.halves(_product_error(case, first, gate_up, products, firsts[0]))
    # |silu'| <= 1.1; then the result of swiglu is rounded too, where it is a tensor of its own.
    error = 1.1 * np.abs(up) * gate_error + np.abs(gate) * up_error + cast_error(wanted, case.ran.result.dtype)
    guilty = case.names(first).get(first.weight, gate_up.name)
    message = "silu(gate) * up is not what goes into the second product"
    return _activation(case, _side_by_side([ran.matmuls[-1].rows for ran in ranks]), wanted, error, guilty, message)


def _side_by_side(parts: Sequence[Rows]) -> Rows:
    return Rows(np.concatenate([part.values for part in parts], axis=1), np.concatenate([part.step for part in parts], axis=1), parts[0].element)


def _product_error(case: Case, matmul: Matmul, product: Product, exact: Array, rows: Rows) -> Array:
    """The error that a right kernel may make in a product, before its result is used."""
    relative = tolerance.total(case.roundings(matmul)) + SUMS * 8
    cast = np.zeros_like(exact) if matmul.fused else cast_error(exact, matmul.result.dtype)
    return cast + relative * product.absolute(rows.values, case.counts) + blurred(product, rows, case.counts)


def blurred(product: Product, rows: Rows, counts: Sequence[int] | None) -> Array | float:
    """The error of a product that comes of rows which nobody saw."""
    return replace(product, added=None).absolute(np.broadcast_to(rows.blur, rows.values.shape), counts) if np.any(rows.blur) else 0.0


def cast_error(exact: Array, *dtypes: torch.dtype) -> Array:
    """Half a step of each of these dtypes, one after the other; of small numbers half the least number."""
    error = np.zeros_like(exact)
    for dtype in dict.fromkeys(dtypes):
        element = ELEMENTS[str(dtype).removeprefix("torch.")]
        least = 2.0 ** (2 - (1 << (element.exponent - 1)) - element.mantissa)
        error = error + np.maximum(np.abs(exact) * 2.0 ** -(element.mantissa + 1), least / 2)
    return error


def result_error(ran: Ran, exact: Array) -> Array:
    """The roundings of the result: the last kernel's, and that of what the forward makes of it."""
    return cast_error(exact, ran.matmuls[-1].result.dtype, ran.result.dtype)


def _activation(case: Case, found: Rows, wanted: Array, error: Array | float, guilty: str, message: str) -> Diagnostic | None:
    if found.values.shape != wanted.shape:
        notes = (f"found {list(found.values.shape)}, expected {list(wanted.shape)}", case.title)
        return Diagnostic(code="verify-forward", message=f"`{guilty}`: {message}: another shape", where=guilty, notes=notes)
    allowed = found.error(wanted, error) * 1.001
    reasons = ["what was rounded before"] * bool(np.any(error)) + [f"the nearest {found.element}"] * (found.element != "float32")
    why = "; ".join(reasons) or "nothing is rounded on the way"
    return numeric("verify-forward", guilty, f"`{guilty}`: {message}", found.values, wanted, allowed, why, (case.title,), ("row", "input"))


def result(case: Case) -> Diagnostic | None:
    """The result against the last product of the activations that went into it."""
    matmul = case.matmuls[-1]
    product = case.layer.products[-1]
    rows = matmul.rows
    wanted = product(rows.values, case.counts)
    roundings = case.roundings(matmul)
    relative = tolerance.total(roundings) + SUMS * (8 if matmul.row.addends else 1)
    allowed = result_error(case.ran, wanted) + relative * product.absolute(rows.values, case.counts) + blurred(product, rows, case.counts)
    if product.added is not None and not matmul.adds:
        allowed = allowed + cast_error(np.abs(wanted) + np.abs(product.added), case.ran.result.dtype)  # to a result that is rounded already
    guilty = case.names(matmul).get(matmul.weight, product.name)
    why = f"{tolerance.reason(roundings)}; the result in {str(case.ran.result.dtype).removeprefix('torch.')}"
    message = f"`{guilty}`: the forward does not give rows times `{product.name}`"
    found = case.ran.result.double().numpy()
    return numeric("verify-forward", guilty, message, found, wanted, allowed, why, (case.title,), ("row", product.letters[0]))
