"""Tensor parallelism, simulated: one checkpoint cut for every rank, the ranks run one after the other, and their results put together.

The last check of ``verify``. How a parameter is cut follows from its type alone: along the axis whose extent is the size that is split, each part of a
segmented axis for itself. So a type that hides the axis, or a sum that was made over the whole axis and is kept by every rank, does not pass.

Invariants: what the ranks give together is compared with the layer of one rank, in float64; a split that loses part of a tensor must be refused by the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import torch

from layoutdsl.api import Plan
from layoutdsl.compiler.emit import size_expr
from layoutdsl.compiler.evaluate import size_of
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.ir.symbolic import Size
from layoutdsl.plan.model import Input
from layoutdsl.plan.sizes import evaluate, layer_kind, names_in
from layoutdsl.verify import checks, layers, sizes, tensors, tolerance
from layoutdsl.verify.configurations import RANKS as ALONE
from layoutdsl.verify.configurations import REFUSED, Configuration, same_plan
from layoutdsl.verify.decode import Array, digits_of
from layoutdsl.verify.findings import numeric
from layoutdsl.verify.layers import INTERMEDIATE, Product
from layoutdsl.verify.run import Inputs, Ran, applied, counts_of, dtype_of, grid_of, inputs_for, run
from layoutdsl.verify.tensors import Checkpoint
from layoutdsl.verify.trace import Tracer

RANKS = (1, 2, 4, 8, 16)
ODD = 3
"""Does not divide the power of two that writers cut partial sums into."""
ALL: tuple[tuple[int, ...], ...] = (RANKS, (ODD,))
SOME: tuple[tuple[int, ...], ...] = ((2, 16), (ODD,))
ONE: tuple[tuple[int, ...], ...] = ((4,),)
"""Numbers of ranks that split layers of one size, by the size: all, the least and the most, or one of them."""
_LARGE = 2**23
"""Weights of all experts beyond which a split layer is not run."""


@dataclass(frozen=True, slots=True)
class Split:
    """How a layer is split: the size that a rank has a part of, and whether the results of the ranks are added."""

    size: str
    added: bool


def splits(configuration: Configuration) -> list[tuple[Configuration, Split]]:
    """The splits of a kind of layer that a configuration stands for; where the plan does not depend on how the layer is split, both."""
    kind, found = layer_kind(configuration.spec.layer), []
    if kind.experts:
        return [(configuration, Split(INTERMEDIATE, added=True))]
    for name, size in kind.split.items():
        split = Split(size, added=name == "row")
        own = configuration if configuration.given.get("layer_type") == name else configuration.with_config(layer_type=name)
        if own is configuration or same_plan(own, configuration):
            found.append((own, split))
    return found


class Lost(Exception):
    """A parameter of which the ranks together hold less than the checkpoint."""

    def __init__(self, finding: Diagnostic) -> None:
        super().__init__(finding.message)
        self.finding = finding


class NotDivisible(Exception):
    """Sizes that cannot be split over so many ranks: a loader would refuse them."""


# ---- cutting --------------------------------------------------------------------------------------------------------------------------------------------


Parts = Mapping[str, list[int]]
"""Extents of the parts of every segmented axis."""


def parts_of(configuration: Configuration, layer_sizes: Mapping[str, int]) -> dict[str, list[int]]:
    """The parts of every segmented axis at these sizes."""
    found = {}
    for segment in configuration.spec.document.segments:
        for context in configuration.contexts.values():
            axis = segment.axis.value
            if axis not in context.axes.values():
                continue
            extent = _number(context.space.extents[axis], layer_sizes)
            equal = [extent // len(segment.names)] * len(segment.names)
            found[axis] = [_number(size_of(size, context), layer_sizes) for size in segment.sizes] or equal
    return found


def _number(size: Size, layer_sizes: Mapping[str, int]) -> int:
    return evaluate(size_expr(size), layer_sizes)


@dataclass(frozen=True, slots=True)
class Cut:
    """How one rank's tensors come out of the checkpoint. axes: those that are split; whole, own: the parts of segmented axes, of the layer and of the rank."""

    axes: frozenset[str]
    whole: Parts
    own: Parts
    ranks: int
    which: int

    def tensors(self, full: Plan, rank: Plan, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A rank's part of every parameter. Raises: Lost, NotDivisible."""
        stored = {node.name: node for node in full.bound.inputs}
        return {node.name: self._part(stored[node.name], node, given[node.name]) for node in rank.bound.inputs if node.name in given}

    def product(self, product: Product) -> Product:
        """A rank's part of a product of the layer. What is added to a sum over ranks is nobody's in particular, so it is left out."""
        matrix, added = product.matrix, product.added
        for dim, letter in zip((1, 2), product.letters):
            if letter in self.axes:
                indices = self._indices(letter, matrix.shape[dim])
                matrix = matrix.take(indices, axis=dim)
                added = None if dim == 2 or added is None else added[indices]
        return replace(product, matrix=matrix, added=added)

    def _indices(self, axis: str, length: int) -> Array:
        whole = self.whole.get(axis, [length])
        own = [size // self.ranks for size in whole]
        return np.concatenate([sum(whole[:i]) + self.which * size + np.arange(size) for i, size in enumerate(own)])

    def _part(self, full: Input, rank: Input, tensor: torch.Tensor) -> torch.Tensor:
        ours, theirs = (digits_of(node.type)[: sum(map(len, node.type.dims))] for node in (full, rank))
        if len(ours) != len(theirs):
            raise NotDivisible
        part = tensor.reshape([int(digit.ext) for digit in ours])  # type: ignore[arg-type]
        for dim, (whole, own) in enumerate(zip(ours, theirs)):
            length, kept = int(whole.ext), int(own.ext)  # type: ignore[arg-type]
            if length == kept:
                continue
            if whole.axis not in self.axes or length > self.ranks * kept:
                raise Lost(_lost(rank, whole.axis, length, kept, self.ranks))
            part = self._pieces(part, dim, whole.axis, int(whole.div), (length, kept))  # type: ignore[arg-type]
        return part.reshape(rank.type.shape).contiguous()

    def _pieces(self, tensor: torch.Tensor, dim: int, axis: str, div: int, lengths: tuple[int, int]) -> torch.Tensor:
        """A rank's share of each part along a dim, side by side again."""
        whole, own = ([size // div for size in parts.get(axis, [length * div])] for parts, length in zip((self.whole, self.own), lengths))
        if [self.ranks * size for size in own] != whole or (sum(whole), sum(own)) != lengths:
            raise NotDivisible
        starts = [sum(whole[:i]) + self.which * size for i, size in enumerate(own)]
        return torch.cat([tensor.narrow(dim, start, size) for start, size in zip(starts, own)], dim)


def _lost(node: Input, axis: str, length: int, kept: int, ranks: int) -> Diagnostic:
    message = f"`{node.name}` cannot be split over {ranks} ranks, and no requirement says so"
    letter = axis.rpartition(".")[2]
    notes = (
        f"the checkpoint holds {length} along `{letter}`, a rank of {ranks} takes {kept}",
        f"{ranks} ranks together hold {ranks * kept} of {length}, or each holds its own",
    )
    helps = ("tie the dim to the axis that is split, or add the requirement under which the ranks hold all of it",)
    return Diagnostic(code="verify-tp", message=message, where=node.name, notes=notes, helps=helps)


# ---- running --------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ranks:
    """The plans of one configuration for numbers of ranks, and their forwards; a plan that does not read which rank it is for serves all."""

    configuration: Configuration
    plans: dict[tuple[int, int], Configuration] = field(default_factory=dict)
    bound: dict[Any, tuple[Plan, Tracer]] = field(default_factory=dict)

    def of(self, ranks: int, which: int) -> Configuration:
        """Raises DiagnosticError where the spec refuses the number of ranks."""
        names, given = self.configuration.spec.config_names, self.configuration.given
        if ranks == 1 and all(given.get(name, alone) == alone for name, alone in ALONE.items()):
            return self.configuration
        key = (ranks if "tp_size" in names or "tp_rank" in names else 1, which if "tp_rank" in names else 0)
        if key not in self.plans:
            self.plans[key] = self.configuration.with_config(tp_size=ranks, tp_rank=which)
        return self.plans[key]

    def runnable(self, ranks: int, which: int, own_sizes: Mapping[str, int]) -> tuple[Plan, Tracer]:
        """The plan bound to the sizes of a rank, and its forward. Raises DiagnosticError where the sizes break a requirement."""
        configuration = self.of(ranks, which)
        key = (id(configuration), tuple(own_sizes.items()))
        if key not in self.bound:
            plan = configuration.plan.bind(own_sizes)
            self.bound[key] = plan, Tracer(plan.bound)
        return self.bound[key]

    def accepted(self, counts: tuple[int, ...]) -> tuple[int, ...]:
        """These numbers of ranks without the largest that the spec refuses."""
        return next((counts[:i] for i in range(len(counts), 0, -1) if self._accepts(counts[i - 1])), ())

    def _accepts(self, count: int) -> bool:
        try:
            self.of(count, 0)
        except DiagnosticError:
            return False
        return True

    def sizes(self, split: Split, counts: tuple[int, ...]) -> dict[str, int] | None:
        """Sizes of the whole layer that each of these numbers of ranks may split, or the last if no other may; None where there are none."""
        if not counts:
            return None
        full = sizes.for_ranks(self.of(counts[-1], 0).plan.data, split.size, counts[-1])
        return full if full is not None and prod(full.values()) <= _LARGE and sizes.meets(self.of(1, 0).plan.data, full) else None


def most(ranks: Ranks, split: Split) -> int:
    """The most ranks that the spec takes and for which there are sizes, 0 for none."""
    counts = ranks.accepted(RANKS)
    return counts[-1] if ranks.sizes(split, counts) is not None else 0


def check(ranks: Ranks, split: Split, numbers: tuple[tuple[int, ...], ...] = ALL) -> Iterator[tuple[int, Diagnostic | None]]:
    """Every number of ranks that ran: how many, and the first finding. Raises DiagnosticError where a kernel refuses."""
    for counts in map(ranks.accepted, numbers):
        full_sizes = ranks.sizes(split, counts)
        if full_sizes is not None:
            yield from _check(ranks, split, full_sizes, counts)


def _check(plans: Ranks, split: Split, full_sizes: Mapping[str, int], counts: tuple[int, ...]) -> Iterator[tuple[int, Diagnostic | None]]:
    one = plans.of(1, 0)
    full = one.plan.bind(full_sizes)
    made = tensors.checkpoint(one, full.bound, full_sizes, "short")
    layer = layers.layer_of(one.spec.document, one.plan.data, made)
    if layer is None:
        return
    if layer.products[0].rotation is not None and split.added:
        yield from _alone(plans, split, full_sizes, counts)
        return
    experts = _counts(full_sizes)
    inputs = inputs_for(sum(experts or [5]), layer.products[0].whole, dtype_of(one), grid_of(full, made.stored), experts)
    title = f"{one.title}; {', '.join(f'{name} = {size}' for name, size in full_sizes.items())}"
    for ranks in counts:
        try:
            runs = [_rank(plans, full, made, split, full_sizes, inputs, ranks, which) for which in range(ranks)]
        except NotDivisible:
            continue
        except Lost as lost:
            yield ranks, replace(lost.finding, notes=(*lost.finding.notes, title))
            continue
        except DiagnosticError as error:
            # What is refused needs no check: a size that a rank may not have, or a number of ranks that the spec does not hold for.
            if {finding.code for finding in error.diagnostics} & REFUSED:
                continue
            raise
        case = checks.Case(one, made, layer, runs[0], inputs, f"{ranks} ranks; {title}", checks.short_bits(one))
        if checks.not_comparable(case) is not None:
            return
        different = _together(case, runs, split)
        if different is not None:
            cuts = [_cut(plans, full, split, full_sizes, ranks, which) for which in range(ranks)]
            closer = _guilty(case, runs, cuts, split)
            different = different if closer is None else replace(closer, code="verify-tp")
        yield ranks, different


def _alone(plans: Ranks, split: Split, full_sizes: Mapping[str, int], counts: tuple[int, ...]) -> Iterator[tuple[int, Diagnostic | None]]:
    """Inputs that are rotated belong to one rank: every rank against its own ``value``."""
    for ranks, which in [(count, which) for count in counts for which in range(count)]:
        own, own_sizes = plans.of(ranks, which), _own_sizes(split, full_sizes, ranks)
        try:
            plan, tracer = plans.runnable(ranks, which, own_sizes)
        except DiagnosticError:
            continue
        made = tensors.checkpoint(own, plan.bound, own_sizes, "short")
        layer = layers.layer_of(own.spec.document, own.plan.data, made)
        assert layer is not None
        inputs = inputs_for(5, layer.products[0].whole, dtype_of(own), grid_of(plan, made.stored))
        title = f"rank {which} of {ranks}; {own.title}"
        case = checks.Case(own, made, layer, run(plan, tracer, applied(plan, made.tensors), inputs), inputs, title, checks.short_bits(own))
        different = None if checks.not_comparable(case) is not None else checks.forward(case)
        yield ranks, different if different is None else replace(different, code="verify-tp")


def _counts(full_sizes: Mapping[str, int]) -> list[int] | None:
    return counts_of(full_sizes["num_experts"]) if "num_experts" in full_sizes else None


def _guilty(case: checks.Case, runs: list[Ran], cuts: list[Cut], split: Split) -> Diagnostic | None:
    """The tensor of a rank that is wrong, where that can be seen at a kernel: its weights against its part of the layer's."""
    for ran, cut in zip(runs, cuts):
        layer = replace(case.layer, products=tuple(cut.product(product) for product in case.layer.products))
        found = checks.weights(replace(case, layer=layer, ran=ran), added=not split.added or case.layer.products[-1].added is None)
        if found is not None:
            return found
    return None


def _rank(plans: Ranks, full: Plan, made: Checkpoint, split: Split, full_sizes: Mapping[str, int], inputs: Inputs, ranks: int, which: int) -> Ran:
    own, tracer = plans.runnable(ranks, which, _own_sizes(split, full_sizes, ranks))
    part = _cut(plans, full, split, full_sizes, ranks, which).tensors(full, own, made.tensors)
    return run(own, tracer, applied(own, part), inputs.part(which, ranks) if split.size == "input_size" else inputs)


def _own_sizes(split: Split, full_sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    return {**full_sizes, split.size: full_sizes[split.size] // ranks}


def _cut(plans: Ranks, full: Plan, split: Split, full_sizes: Mapping[str, int], ranks: int, which: int) -> Cut:
    axes = frozenset(axis for axis, extent in full.data.axes if split.size in names_in(extent))
    return Cut(axes, parts_of(plans.of(1, 0), full_sizes), parts_of(plans.of(ranks, which), _own_sizes(split, full_sizes, ranks)), ranks, which)


def _together(case: checks.Case, runs: list[Ran], split: Split) -> Diagnostic | None:
    """The activations of all ranks side by side, then the sum of their results, or their results side by side."""
    different = checks.activations(case, runs)
    if different is not None:
        return replace(different, code="verify-tp")
    lasts = [ran.matmuls[-1] for ran in runs]
    product = case.layer.products[-1]
    rows = np.concatenate([matmul.rows.values for matmul in lasts], axis=1) if split.added else lasts[0].rows.values
    wanted = product(rows, case.counts)
    found = [ran.result.double().numpy() for ran in runs]
    relative = tolerance.total(case.roundings(lasts[0])) + checks.SUMS * (8 if lasts[0].row.addends else 1)
    # Every rank rounds its own result.
    casts = [checks.result_error(ran, part) for ran, part in zip(runs, found)]
    cast: Array = np.stack(casts).sum(0) if split.added else np.concatenate(casts, axis=1)
    allowed = 1.01 * cast + relative * product.absolute(rows, case.counts)
    together: Array = np.stack(found).sum(0) if split.added else np.concatenate(found, axis=1)
    names = case.names(lasts[0])
    guilty = names.get(lasts[0].weight, product.name)
    verb = "the sum of the ranks" if split.added else "the ranks side by side"
    why = f"{tolerance.reason(case.roundings(lasts[0]))}; each rank's result in {str(runs[0].result.dtype).removeprefix('torch.')}"
    message = f"`{guilty}`: {verb} is not what one rank gives"
    return numeric("verify-tp", guilty, message, together, wanted, allowed, why, (case.title,), ("row", product.letters[0]))
