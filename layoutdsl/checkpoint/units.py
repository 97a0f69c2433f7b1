"""The smallest parts of a layer whose tensors mean something together: a linear module, or one projection of one expert.

Between ``model``, whose layers they are cut from, and ``values`` and ``diff``, which evaluate ``value`` and ``invariants`` over them.

Invariants: units of equal config and shapes share one :class:`Meaning`; a tensor that does not have the shape or width that its spec gives it has no type here
(``fit`` reports it), and what would need it has no meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from math import lcm, prod
from typing import Any

from layoutdsl.checkpoint.evaluate import Scope, bodies_of, factors, reads
from layoutdsl.checkpoint.model import Layer, Part, StoredTensor
from layoutdsl.checkpoint.numbers import Reader, Shape, by_bytes, shape_of
from layoutdsl.checkpoint.plans import LayerPlan, Plans
from layoutdsl.compiler.emit import size_expr
from layoutdsl.compiler.scope import Context
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.ir.dtypes import ELEMENTS, STORAGES, carriage_of
from layoutdsl.plan.model import Digit, TensorType
from layoutdsl.plan.sizes import evaluate, layer_kind
from layoutdsl.plan.solve import solve_sizes
from layoutdsl.syntax.tree import Binary, Entry, Expr, Index
from layoutdsl.syntax.walk import nodes


@dataclass(frozen=True, slots=True)
class Result:
    """A result of ``value``: what is evaluated, and over which digits."""

    body: Expr
    entries: tuple[Entry, ...]


@dataclass(frozen=True, eq=False)
class Meaning:
    """What units of one kind mean. kinds: by parameter the type of what is stored, bound, its words as bytes; dtypes: as the files name them. absent: what
    stands for a parameter that is not stored. extents: of the axes. results: of ``value`` whose tensors are all there, the first being what the layer
    multiplies with."""

    plan: LayerPlan
    context: Context
    sizes: Mapping[str, int]
    extents: Mapping[str, int]
    kinds: Mapping[str, TensorType]
    dtypes: Mapping[str, str]
    absent: Mapping[str, float]
    results: Mapping[str, Result]

    @cached_property
    def weight(self) -> str:
        """The parameter that has most of the elements of what the layer multiplies with; "" where nothing is known of that."""
        for name, result in self.results.items():
            if len(self.result_shapes[name]) == 2:
                return max(reads(result.body, self.scope()), key=lambda read: prod(self.held[read].counts))
        return ""

    @cached_property
    def row_axis(self) -> str:
        """The axis of the weight's rows, as they lie in the file; "" where one row is not of one index or some neighbouring indices."""
        if not self.weight:
            return ""
        kind = self.kinds[self.weight]
        dims = [tuple(digit for digit in dim if digit.ext != 1) for dim in kind.dims]
        first = next((dim for dim in dims if dim), ())
        return first[0].axis if len(first) == 1 else ""

    @cached_property
    def held(self) -> Mapping[str, Shape]:
        """The shapes of the arrays, the axes in any order."""
        return {name: shape_of(kind) for name, kind in self.kinds.items()}

    @cached_property
    def readers(self) -> Mapping[str, Reader]:
        """Of every tensor, rows first."""
        return {name: Reader.of(kind, self.row_axis) for name, kind in self.kinds.items()}

    @cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of the arrays, rows first."""
        return {name: reader.shape for name, reader in self.readers.items()}

    @cached_property
    def row_bases(self) -> Mapping[str, int]:
        """The arrays that have rows, and how many rows share one value."""
        return {name: shape.bases[0] for name, shape in self.shapes.items() if self.row_axis and shape.axes and shape.axes[0] == self.row_axis}

    @cached_property
    def step(self) -> int:
        """How many rows belong together: no array has a base that straddles a multiple of it."""
        return lcm(*(base for shape in self.shapes.values() for axis, base in zip(shape.axes, shape.bases) if axis == self.row_axis), self.packed_rows)

    @cached_property
    def packed_rows(self) -> int:
        """Rows of the weight in one row of its words."""
        units = self.kinds[self.weight].units if self.weight else {}
        return units.get(self.row_axis, 1)

    @property
    def rows(self) -> int:
        return self.extents.get(self.row_axis, 1)

    def scope(self, rows: int | None = None, **changes: Any) -> Scope:
        """What expressions may read: everything, or a block of so many rows."""
        bodies = {name: result.body for name, result in self.results.items()}
        if rows is None:
            return Scope(self.context, self.sizes, self.extents, self.held, bodies, self.absent, **changes)
        held = {name: _cut_rows(shape, self.row_axis, rows) for name, shape in self.shapes.items()}
        return Scope(self.context, self.sizes, {**self.extents, self.row_axis: rows} if self.row_axis else self.extents, held, bodies, self.absent, **changes)

    def loops(self, result: str, scope: Scope) -> tuple[int, ...]:
        """How far the digits of a result's left side go."""
        digits = [digit for entry in self.results[result].entries if (digit := self.context.digit(entry)) is not None]
        return tuple(scope.loop(digit).ext for digit in digits)

    def axes(self, result: str) -> tuple[str, ...]:
        """The axes of a result's left side."""
        return tuple(digit.axis for entry in self.results[result].entries if (digit := self.context.digit(entry)) is not None)

    @cached_property
    def result_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of the results of ``value``, without the axis of experts."""
        scope = self.scope()
        pairs = {name: zip(self.axes(name), self.loops(name, scope)) for name in self.results}
        return {name: tuple(extent for axis, extent in found if axis not in self.expert_axes) for name, found in pairs.items()}

    @cached_property
    def expert_axes(self) -> frozenset[str]:
        """The axis of experts, of which a unit has one."""
        return frozenset(axis for axis, extent in self.plan.plan.data.axes if extent == "num_experts")

    @cached_property
    def ranges(self) -> Mapping[str, str]:
        """What the spec promises of values, by parameter."""
        expand = self.context.member.expand
        return {expand(param.name.value): param.range.value for param in self.plan.document.params if param.range is not None}

    @cached_property
    def scales(self) -> frozenset[str]:
        """The parameters that a weight is multiplied with or divided by: factors of a product that vary along no other axis than the weight does, and are not
        it.

        In ``value``, and where an invariant says that a tensor is a product of such factors, that tensor too.
        """
        scope, found = self.scope(), set()
        products = [node for result in self.results.values() for node in nodes(result.body) if _is_product(node)]
        for node in products:
            found |= {name for name in _factors(node, scope) if self._may_scale(name)}
        for rule in self.plan.document.invariants:
            match rule.expr:
                case Binary("==", Index(left), right) if self.context.holds(rule.condition) and _is_product(right):
                    names = _factors(right, scope)
                    if names and all(self._may_scale(name) for name in names):
                        found |= {*names, *({self.context.member.expand(left)} & self.kinds.keys())}
        return frozenset(found)

    def _may_scale(self, name: str) -> bool:
        element = ELEMENTS[self.kinds[name].element]
        if name == self.weight or not (element.kind == "scale" or (element.kind == "float" and element.bits >= 16)):
            return False
        if not self.weight:
            return True
        varying = {axis for axis, count in zip(self.held[name].axes, self.held[name].counts) if count > 1}
        return varying <= set(self.held[self.weight].axes)


def _cut_rows(shape: Shape, axis: str, rows: int) -> Shape:
    counts = tuple(-(-rows // base) if name == axis else count for name, base, count in zip(shape.axes, shape.bases, shape.counts))
    return Shape(shape.axes, shape.bases, counts)


def _is_product(node: Any) -> bool:
    return isinstance(node, Binary) and node.op in ("*", "/")


def _factors(product: Expr, scope: Scope) -> set[str]:
    """The arrays that a product reads as factors."""
    names = (scope.context.member.expand(factor.name) for factor in chain(*factors(product, scope)) if isinstance(factor, Index))
    return {name for name in names if name in scope.held}


@dataclass(frozen=True, slots=True)
class Unit:
    """One module. name: of the module in the files. tensors: by parameter. meaning: None where its tensors do not fit its spec, or it has none."""

    name: str
    layer: Layer
    expert: int | None
    tensors: Mapping[str, StoredTensor]
    meaning: Meaning | None


# ---- layers to units ------------------------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Units:
    """Cuts layers into units; the meaning of equal ones is made once."""

    plans: Plans
    _known: dict[Any, Meaning | None] = field(default_factory=dict)

    def of(self, layer: Layer) -> Iterator[Unit]:
        """Every stored tensor of the layer is in one unit, or in several where experts or segments share it."""
        try:
            plan = self.plans.of(layer.scheme, layer.kind, {**layer.config, "tp_size": 1, "tp_rank": 0})
        except DiagnosticError:
            plan = None
        covered: set[tuple[str, Part]] = set()
        for context in plan.contexts.values() if plan is not None else ():
            assert plan is not None
            names = [name for name in plan.inputs if name in layer.stored and _is_of(name, context, plan)]
            for expert, segment in _places(names, layer):
                found = {name: part for name in names if (part := _found(layer.stored[name], expert, segment)) is not None}
                tensors = {name: _of_expert(layer.stored[name][part], part, expert) for name, part in found.items()}
                covered |= {*found.items()}
                yield Unit(_module(tensors, layer), layer, expert, tensors, self._meaning(plan, context, tensors, layer, expert, segment))
        for name, parts in layer.stored.items():
            for part, tensor in parts.items():
                if (name, part) not in covered:
                    yield Unit(_module({name: tensor}, layer), layer, part.expert, {name: tensor}, None)

    def _meaning(
        self, plan: LayerPlan | None, context: Context, tensors: Mapping[str, StoredTensor], layer: Layer, expert: int | None, segment: str
    ) -> Meaning | None:
        assert plan is not None
        wholes = {name: _whole(plan, name, layer.stored[name], expert, segment, tensor) for name, tensor in tensors.items()}
        dtypes = tuple((name, tensor.dtype, tensor.shape) for name, tensor in tensors.items())
        key = (id(plan), context.member, segment, dtypes, tuple(wholes.items()))
        if key not in self._known:
            self._known[key] = _made(plan, context, {name: shape for name, shape in wholes.items() if shape is not None}, tensors, segment)
        return self._known[key]


def _is_of(name: str, context: Context, plan: LayerPlan) -> bool:
    """Does a parameter belong to this member of the templates: by its name, where the spec has templates."""
    texts = [param.name.value for param in plan.document.params]
    return any(context.member.expand(text) == name for text in texts)


def _places(names: Iterable[str], layer: Layer) -> list[tuple[int | None, str]]:
    """Every expert and segment that some parameter is stored for; those of one parameter that covers all of them are not apart."""
    parts = {part for name in names for part in layer.stored[name]}
    experts = sorted({part.expert for part in parts if part.expert is not None})
    if not experts and layer_kind(layer.kind).experts:
        experts = list(range(max((tensor.shape[0] for name in names for tensor in layer.stored[name].values() if tensor.shape), default=1)))
    found: list[tuple[int | None, str]] = []
    for expert in experts or (None,):
        segments = sorted({part.segment for part in parts if part.expert in (expert, None) and part.segment})
        found += [(expert, segment) for segment in segments or [""]]
    return found


def _found(parts: Mapping[Part, StoredTensor], expert: int | None, segment: str) -> Part | None:
    """Which part of a parameter an expert's segment is, or is in."""
    wanted = (Part(expert, segment), Part(expert, ""), Part(None, segment), Part(None, ""))
    return next((part for part in wanted if part in parts), None)


def _of_expert(tensor: StoredTensor, part: Part, expert: int | None) -> StoredTensor:
    """One expert of a tensor that holds all; any other tensor as it is."""
    if expert is None or part.expert is not None or not tensor.shape or expert >= tensor.shape[0]:
        return tensor
    size = (tensor.end - tensor.begin) // tensor.shape[0]
    name, begin = f"{tensor.name}[{expert}]", tensor.begin + expert * size
    return replace(tensor, name=name, shape=tensor.shape[1:], begin=begin, end=begin + size)


def _module(tensors: Mapping[str, StoredTensor], layer: Layer) -> str:
    names = [tensor.name for tensor in tensors.values()]
    return names[0].rpartition(".")[0] if names else layer.prefix


def _whole(plan: LayerPlan, name: str, parts: Mapping[Part, StoredTensor], expert: int | None, segment: str, tensor: StoredTensor) -> tuple[int, ...] | None:
    """The shape that this parameter would have for this expert alone, its segments together."""
    rank, segmented = len(plan.inputs[name].type.dims), plan.segmented(name)
    shape = (1,) * (rank - len(tensor.shape)) + tensor.shape if len(tensor.shape) in (rank, rank - 1) else tensor.shape
    if segmented is None or not segment or segment not in segmented[1] or len(shape) != rank:
        return shape if len(shape) == rank else None
    place, names = segmented
    extents = list(shape)
    extents[place] = 0
    for other in names:
        part = parts.get(Part(expert, other))
        if part is None or len(part.shape) != len(tensor.shape):
            return None
        extents[place] += part.shape[place - (rank - len(part.shape))]
    return tuple(extents)


# ---- meaning --------------------------------------------------------------------------------------------------------------------------------------------


def _made(plan: LayerPlan, context: Context, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, StoredTensor], segment: str) -> Meaning | None:
    try:
        sizes = solve_sizes(plan.plan.data, shapes)
        extents = {axis: evaluate(size_expr(extent), sizes) for axis, extent in context.space.extents.items()}
    except (DiagnosticError, KeyError, ValueError, ZeroDivisionError):
        return None
    for axis, names in plan.segments.items():
        if segment in names and axis in extents:
            extents[axis] //= len(names)
    kinds = {name: by_bytes(kind) for name, tensor in tensors.items() if (kind := _bound(plan.inputs[name].type, sizes, extents, tensor)) is not None}
    absent = {
        name: float(node.default)
        for name, node in plan.inputs.items()
        if name not in tensors and not isinstance(node.default, str) and node.default is not None
    }
    results: dict[str, Result] = {}
    for name, (owner, body, entries) in bodies_of(plan.document, plan.contexts.values()).items():
        if owner is context and _names(body, context) <= {*kinds, *absent, *results}:
            results[name] = Result(body, entries)
    return Meaning(plan, context, sizes, extents, kinds, {name: tensor.dtype for name, tensor in tensors.items()}, absent, results)


def _names(body: Expr, context: Context) -> set[str]:
    """What an expression reads at indices."""
    return {context.member.expand(node.name) for node in nodes(body) if isinstance(node, Index)}


def _bound(kind: TensorType, sizes: Mapping[str, int], extents: Mapping[str, int], tensor: StoredTensor) -> TensorType | None:
    """The type of a stored part: digits as far as the axes go here, read as what the file holds. None where shape or width are others."""

    def digit(one: Digit) -> Digit:
        div, ext = evaluate(one.div, sizes), evaluate(one.ext, sizes)
        reach = extents.get(one.axis, div * ext)
        return Digit(one.axis, div, -(-reach // div) if div * ext >= reach else ext)

    try:
        bound = replace(kind, dims=tuple(tuple(map(digit, dim)) for dim in kind.dims), lanes=tuple(map(digit, kind.lanes)))
    except (KeyError, ValueError, ZeroDivisionError):
        return None
    shape = bound.shape
    if bound.pads or bound.listed or [e for e in shape if e != 1] != [e for e in tensor.shape if e != 1] or tensor.dtype not in STORAGES:
        return None
    return _as_stored(bound, tensor.dtype)


def _as_stored(kind: TensorType, dtype: str) -> TensorType | None:
    """A number that is stored in another dtype is the number that it is; of anything packed only the width must be the same."""
    if dtype == kind.storage:
        return kind
    if carriage_of(kind.element, kind.storage, bool(kind.lanes)) == "native" and STORAGES[dtype].kind in ("float", "scale", "int", "uint"):
        same_width = ELEMENTS[kind.element].kind == "scale" and STORAGES[dtype].bits == 8 and STORAGES[dtype].kind != "scale"
        return replace(kind, element="e8m0", storage=dtype, extension="zero") if same_width else replace(kind, element=dtype, storage=dtype)
    return replace(kind, storage=dtype) if STORAGES[dtype].bits == STORAGES[kind.storage].bits and not _moved(kind, dtype) else None


def _moved(kind: TensorType, dtype: str) -> bool:
    """Would the other storage carry the element in another way."""
    return carriage_of(kind.element, kind.storage, bool(kind.lanes)) != carriage_of(kind.element, dtype, bool(kind.lanes))
