"""What a layer computes, in float64, from the values of a spec: a product for a linear layer; gate, up and down per expert for a mixture of experts.

Between the oracle and the checks of the forward. Naive on purpose: one loop over the experts, one matmul each.

Invariants: which axis of a value is summed over follows from the sizes that the spec's axes are tied to, never from shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from layoutdsl.plan.model import Plan
from layoutdsl.plan.sizes import layer_kind, names_in
from layoutdsl.syntax.document import Document
from layoutdsl.verify.decode import Array, Logical
from layoutdsl.verify.oracle import Rotated
from layoutdsl.verify.tensors import Checkpoint

EXPERTS, HIDDEN, INTERMEDIATE = "num_experts", "hidden_size", "intermediate_size_per_partition"


@dataclass(frozen=True, slots=True)
class Product:
    """One product of a layer. matrix: [experts, outputs, inputs] (one expert in a linear layer); added: [outputs], or None. letters: axes of outputs and
    inputs. rotation: [inputs of the layer, inputs of the product], what the rows are multiplied by before, or None."""

    name: str
    matrix: Array
    letters: tuple[str, str]
    added: Array | None = None
    rotation: Array | None = None

    @property
    def whole(self) -> Array:
        """The weights of the rows as they come: [experts, outputs, inputs of the layer]."""
        if self.rotation is None:
            return self.matrix
        found: Array = self.matrix @ self.rotation.T
        return found

    def __call__(self, rows: Array, counts: Sequence[int] | None = None) -> Array:
        """rows [m, inputs], sorted by expert where there are several, times the weights: [m, outputs]."""
        if counts is None:
            result: Array = rows @ self.matrix[0].T
            return result if self.added is None else result + self.added
        ends = np.cumsum(counts)
        return np.concatenate([rows[end - count : end] @ self.matrix[expert].T for expert, (count, end) in enumerate(zip(counts, ends))])

    def absolute(self, rows: Array, counts: Sequence[int] | None = None) -> Array:
        """The sum of the absolute values of all terms."""
        return replace(self, matrix=np.abs(self.matrix), added=None if self.added is None else np.abs(self.added))(np.abs(rows), counts)


def with_bias(layer: Layer, bias: Array) -> Layer:
    """The layer with the bias that it is called with: [outputs]."""
    last = layer.products[-1]
    total = bias if last.added is None else last.added + bias
    return replace(layer, products=(*layer.products[:-1], replace(last, added=total)))


@dataclass(frozen=True, slots=True)
class Layer:
    """products: one, or gate|up and down. parts: the names of the segments of gate|up."""

    products: tuple[Product, ...]
    parts: tuple[str, ...] = ()

    @property
    def experts(self) -> bool:
        return len(self.products) == 2

    def halves(self, gate_up: Array) -> tuple[Array, Array]:
        """Gate and up of [m, 2 * intermediate]."""
        first, second = np.split(gate_up, 2, axis=1)
        return (second, first) if self.parts == ("up", "gate") else (first, second)

    def activated(self, gate_up: Array) -> tuple[Array, Array, Array]:
        """silu(gate) * up, and gate and up: float64 [m, intermediate]."""
        gate, up = self.halves(gate_up)
        with np.errstate(over="ignore"):
            return gate / (1 + np.exp(-gate)) * up, gate, up


def layer_of(document: Document, plan: Plan, made: Checkpoint) -> Layer | None:
    """The layer that a checkpoint makes; plan: not bound, for the sizes behind the axes. None for a kind of layer whose computation is not known here."""
    axes = dict(plan.axes)
    values = {name: value.weight if isinstance(value, Rotated) else value for name, value in made.values.items()}
    kind = layer_kind(document.layer.value)
    if kind.columns and not kind.experts and values:
        name, weight = next(iter(values.items()))
        added = next((value.values for other, value in values.items() if other != name and _is_vector(value, axes)), None)
        product = _product(name, weight, axes, ("output_size",), ("input_size",), added)
        if product is None:
            return None
        whole = made.values[name]
        return Layer((replace(product, rotation=whole.rotation.values) if isinstance(whole, Rotated) else product,))
    if not kind.experts:
        return None
    gate_up = [(name, value) for name, value in values.items() if _doubled(value, axes)]
    down = [(name, value) for name, value in values.items() if not _doubled(value, axes)]
    if len(gate_up) != 1 or len(down) != 1:
        return None
    first = _product(*gate_up[0], axes, (INTERMEDIATE,), (HIDDEN,))
    second = _product(*down[0], axes, (HIDDEN,), (INTERMEDIATE,))
    if first is None or second is None:
        return None
    parts = {segment.axis.value: tuple(name.value for name in segment.names) for segment in document.segments}
    return Layer((first, second), parts.get(first.letters[0], ()))


def _doubled(value: Logical, axes: Mapping[str, object]) -> bool:
    return any(axes.get(axis) == ("*", 2, INTERMEDIATE) for axis in value.axes)


def _product(
    name: str, value: Logical, axes: Mapping[str, object], outputs: tuple[str, ...], inputs: tuple[str, ...], added: Array | None = None
) -> Product | None:
    """The value as [experts, outputs, inputs]; None where its axes are not these."""
    found = [_axis_over(value, axes, names) for names in ((EXPERTS,), outputs, inputs)]
    present = [place for place in found if place is not None]
    if None in found[1:] or sorted(present) != list(range(len(value.axes))):
        return None
    matrix = value.values.transpose(present)
    letters = (value.axes[present[-2]], value.axes[present[-1]])
    return Product(name, matrix if found[0] is not None else matrix[None], letters, added)


def _axis_over(value: Logical, axes: Mapping[str, object], sizes: tuple[str, ...]) -> int | None:
    return next((i for i, axis in enumerate(value.axes) if names_in(axes.get(axis, 0)) == set(sizes)), None)  # type: ignore[arg-type]


def _is_vector(value: Logical, axes: Mapping[str, object]) -> bool:
    return len(value.axes) == 1 and axes.get(value.axes[0]) == "output_size"
