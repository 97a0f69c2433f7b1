"""What the files hold of a layer, summed up: per parameter its parts, equal ones together, and the shape that they make as a whole.

Between ``model`` and ``fit``: layers with equal contents have equal faults, so each kind of contents is looked at once.

Invariants: contents name no layer; experts whose tensors have one shape and dtype are one group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Union

from layoutdsl.checkpoint.model import Layer, Part, StoredTensor
from layoutdsl.checkpoint.plans import LayerPlan
from layoutdsl.plan.model import Digit, Input
from layoutdsl.plan.sizes import evaluate

Shape = tuple[int, ...]
Experts = Union[range, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Group:
    """Stored tensors of one shape and dtype. experts: whose they are; None for a tensor that is not of one expert."""

    segment: str
    shape: Shape
    dtype: str
    experts: Experts | None

    @property
    def count(self) -> int:
        return 1 if self.experts is None else len(self.experts)

    @property
    def parts(self) -> Iterator[Part]:
        return iter([Part(None, self.segment)]) if self.experts is None else (Part(expert, self.segment) for expert in self.experts)


Contents = tuple[tuple[str, tuple[Group, ...]], ...]
Groups = Mapping[str, Sequence[Group]]


def contents_of(layer: Layer) -> Contents:
    """Every stored parameter of a layer with its groups."""
    return tuple((name, _groups(parts)) for name, parts in layer.stored.items())


def _groups(parts: Mapping[Part, StoredTensor]) -> tuple[Group, ...]:
    found: dict[tuple[str, Shape, str], list[int]] = {}
    for part, tensor in parts.items():
        experts = found.setdefault((part.segment, tensor.shape, tensor.dtype), [])
        if part.expert is not None:
            experts.append(part.expert)
    return tuple(Group(segment, shape, dtype, _ranged(experts) if experts else None) for (segment, shape, dtype), experts in found.items())


def _ranged(experts: list[int]) -> Experts:
    experts.sort()
    return range(experts[0], experts[-1] + 1) if experts[-1] - experts[0] + 1 == len(experts) else tuple(experts)


# ---- usual and whole --------------------------------------------------------------------------------------------------------------------------------------


def usual(groups: Sequence[Group]) -> dict[str, Group]:
    """By segment the group of most experts."""
    found: dict[str, Group] = {}
    for group in groups:
        if group.segment not in found or group.count > found[group.segment].count:
            found[group.segment] = group
    return found


def transposed(groups: Sequence[Group]) -> list[Group]:
    """The same with the last two dims exchanged."""
    return [replace(group, shape=(*group.shape[:-2], *group.shape[:-3:-1])) for group in groups]


def whole(plan: LayerPlan, name: str, groups: Sequence[Group], experts: int) -> Shape | None:
    """The shape of a parameter of the layer, made of its usual parts; None if these do not go together.

    A number is a vector of one: loaders take the one for the other.
    """
    parts, segmented = usual(groups), plan.segmented(name)
    of_experts = next(iter(parts.values())).experts is not None
    if segmented is None or not parts.keys() & set(segmented[1]):
        shape = next(iter(parts.values())).shape or (1,)
        return (experts, *shape) if of_experts else shape
    dim = segmented[0] - of_experts
    shapes = [parts[segment].shape for segment in segmented[1] if segment in parts]
    if any(not 0 <= dim < len(shape) for shape in shapes) or len({(*shape[:dim], *shape[dim + 1 :]) for shape in shapes}) > 1:
        return None
    # A part that is missing is reported; the others say how large it is.
    total = sum(shape[dim] for shape in shapes) * len(segmented[1]) // len(shapes)
    shape = (*shapes[0][:dim], total, *shapes[0][dim + 1 :])
    return (experts, *shape) if of_experts else shape


def part_of(plan: LayerPlan, name: str, shape: Shape, group: Group) -> Shape:
    """The shape of one stored part of a parameter of this shape."""
    segmented = plan.segmented(name)
    extents = list(shape)
    if segmented is not None and group.segment in segmented[1]:
        extents[segmented[0]] //= len(segmented[1])
    return tuple(extents[group.experts is not None :])


def declared(node: Input, sizes: Mapping[str, int]) -> Shape | None:
    """The shape that a plan gives a parameter; None where these sizes do not say, or where it has none."""
    extents = declared_dims(node, sizes)
    return tuple(extent for extent in extents if extent is not None) if None not in extents else None


def declared_dims(node: Input, sizes: Mapping[str, int]) -> tuple[int | None, ...]:
    """The extents of a parameter, as far as these sizes say."""
    return tuple(_extent(dim, sizes) for dim in node.type.dims)


def _extent(dim: Sequence[Digit], sizes: Mapping[str, int]) -> int | None:
    try:
        return evaluate(("*", *(digit.ext for digit in dim)), sizes)
    except (KeyError, ValueError, ZeroDivisionError):
        return None
