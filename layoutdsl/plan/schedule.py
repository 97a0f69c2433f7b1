"""The schedule: in which order, in whose memory and how much at a time a bound plan is executed.

Between ``layoutdsl.plan.bind`` and ``layoutdsl.runtime.execute``. Made for every run, never serialised: a plan says what, a schedule says how.

Invariants: the outputs are those of the plan, bit for bit (movement never changes the logical tensor, so moves compose and a read may take an earlier version;
the order of a float sum is fixed in its node). Every value is freed after its last use. Where experts stream, an intermediate is one expert large, however many
there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Union

from layoutdsl.ir.dtypes import carriage_of
from layoutdsl.plan.model import ND, Compute, Digit, Instruction, Move, Opaque, Plan, TensorType

MOST_PASSES = 1024
"""An axis longer than this is no axis of experts (the largest models have some 400)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One instruction on whole values, or on one slice of each inside a loop (its types are then those of the slice).

    share: the result is a view of its source's memory. free: values that nothing reads after this step.
    """

    node: Instruction
    share: bool
    free: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """The same steps once per index of an axis.

    sliced: whole values of which each pass sees one slice. written: values allocated whole before the first pass, of which each pass writes one slice.
    gathered: lists, to which each pass adds one tensor. Everything else that the steps make lives for one pass. free: as in :class:`Step`, after the last pass.
    """

    axis: str
    count: int
    sliced: tuple[str, ...]
    written: tuple[str, ...]
    gathered: tuple[str, ...]
    steps: tuple[Step, ...]
    free: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What to do, in order; ``types`` of the whole values; ``outputs`` (name, value) in the plan's order. unused: inputs that nothing reads."""

    stages: tuple[Union[Step, Loop], ...]
    types: Mapping[str, TensorType]
    outputs: tuple[tuple[str, str], ...]
    unused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """The middle form of this file: nodes in order with alias decided (``share``), types of all values, the values that must exist at the end."""

    nodes: tuple[Instruction, ...]
    share: frozenset[str]
    types: Mapping[str, TensorType]
    wanted: tuple[str, ...]


def schedule(plan: Plan, device_formats: bool = False) -> Schedule:
    """The schedule of a bound plan. device_formats: the device knows FRACTAL_NZ, so format casts are kept and run on whole values; else they vanish."""
    code, renamed = _code(plan, device_formats)
    code = _live(_with_early_reads(code))
    code = _live(_with_composed_moves(code))
    axes = {axis: extent for axis, extent in plan.axes if isinstance(extent, int)}
    axis = stream_axis(code, axes)
    outputs = tuple((output.name, renamed.get(output.value, output.value)) for output in plan.outputs)
    stages, used = _with_frees(_stages(code, axes, axis), {value for _, value in outputs})
    unused = tuple(node.id for node in plan.inputs if node.id not in used)
    return Schedule(stages=stages, types=code.types, outputs=outputs, unused=unused)


# ---- nodes ---------------------------------------------------------------------------------------------------------------------------------------------------


def reads(node: Instruction) -> tuple[str, ...]:
    """The values that an instruction reads, each once."""
    if not isinstance(node, Compute):
        return (node.of,)
    return tuple(dict.fromkeys(_values_in(node.expr)))


def _values_in(expr: tuple[Any, ...]) -> list[str]:
    return [expr[1]] if expr[0] == "at" else [value for part in _operands(expr) for value in _values_in(part)]


def _operands(expr: tuple[Any, ...]) -> tuple[Any, ...]:
    """The expressions directly inside an expression."""
    match expr:
        case ("at" | "const", *_):
            return ()
        case ("sum", _, _, body):
            return (body,)
    return tuple(part for part in expr[1:] if isinstance(part, tuple))


def _with_values(expr: tuple[Any, ...], names: Callable[[str], str]) -> tuple[Any, ...]:
    """An expression that reads other values."""
    match expr:
        case ("at", value, picks):
            return ("at", names(value), picks)
        case ("const", *_):
            return expr
        case ("sum", loops, order, body):
            return ("sum", loops, order, _with_values(body, names))
    return (expr[0], *(_with_values(part, names) if isinstance(part, tuple) else part for part in expr[1:]))


def _code(plan: Plan, device_formats: bool) -> tuple[Code, dict[str, str]]:
    """The plan's nodes with alias decided; without device formats the casts to them are gone, and ``renamed`` says what stands for their results."""

    def plain(kind: TensorType) -> TensorType:
        return kind if device_formats else replace(kind, format=ND)

    types: dict[str, TensorType] = {node.id: plain(node.type) for node in plan.inputs}
    renamed: dict[str, str] = {}
    nodes: list[Instruction] = []
    share: set[str] = set()
    for node in plan.code:
        node = _renamed(replace(node, type=plain(node.type)), renamed)
        if isinstance(node, Opaque) and node.function == "format_cast" and not device_formats:
            renamed[node.id] = node.of
            continue
        if isinstance(node, Move) and (node.alias == "must" or (node.alias == "may" and same_memory(types[node.of], node.type))):
            share.add(node.id)
        types[node.id] = node.type
        nodes.append(node)
    wanted = tuple(dict.fromkeys(renamed.get(output.value, output.value) for output in plan.outputs))
    return Code(tuple(nodes), frozenset(share), types, wanted), renamed


def _renamed(node: Instruction, names: Mapping[str, str]) -> Instruction:
    if isinstance(node, Compute):
        return replace(node, expr=_with_values(node.expr, lambda value: names.get(value, value)))
    return replace(node, of=names.get(node.of, node.of))


def _live(code: Code) -> Code:
    """Without the nodes that no output needs."""
    needed = set(code.wanted)
    kept: list[Instruction] = []
    for node in reversed(code.nodes):
        if node.id in needed:
            kept.append(node)
            needed.update(reads(node))
    return replace(code, nodes=tuple(reversed(kept)))


# ---- memory of types -----------------------------------------------------------------------------------------------------------------------------------------


def same_memory(source: TensorType, target: TensorType) -> bool:
    """Are the bytes of two layouts of one logical tensor the same, whatever their dims and storage dtype?"""
    plain = (source.format, source.pads, source.listed, source.excess) == (target.format, target.pads, target.listed, target.excess)
    return plain and _code_of(source) == _code_of(target) and _memory(source) == _memory(target)


def _code_of(kind: TensorType) -> tuple[Any, ...]:
    """How an element's bits fill its slot: its bare code, or the code in a wider slot in one of the ways to widen it."""
    if kind.slot_bits == kind.element_bits:
        return (kind.slot_bits,)
    return (kind.slot_bits, kind.storage, kind.extension, carriage_of(kind.element, kind.storage, bool(kind.lanes)))


def _memory(kind: TensorType) -> list[Digit]:
    """The digits from the slowest in memory to the lowest bits, neighbours merged."""
    merged: list[Digit] = []
    for digit in (*(digit for dim in kind.order for digit in kind.dims[dim]), *kind.lanes):
        if digit.ext == 1:
            continue
        last = merged[-1] if merged else None
        if last is not None and last.axis == digit.axis and last.div == _reach(digit):
            merged[-1] = Digit(digit.axis, digit.div, _int(last.ext) * _int(digit.ext))
        else:
            merged.append(digit)
    return merged


def _reach(digit: Digit) -> int:
    return _int(digit.div) * _int(digit.ext)


def _int(size: Any) -> int:
    assert isinstance(size, int)
    return size


# ---- fewer and shorter moves ---------------------------------------------------------------------------------------------------------------------------------


def _with_early_reads(code: Code) -> Code:
    """Let math read the earliest version of a tensor that it can, so that the moves in between need not exist for it."""
    moves = {node.id: node.of for node in code.nodes if isinstance(node, Move) or (isinstance(node, Opaque) and node.function == "format_cast")}

    def earliest(value: str) -> str:
        best, kind = value, code.types[value]
        while value in moves:
            value = moves[value]
            if _readable(code.types[value], kind):
                best = value
        return best

    nodes = tuple(replace(node, expr=_with_values(node.expr, earliest)) if isinstance(node, Compute) else node for node in code.nodes)
    return replace(code, nodes=nodes)


def _readable(version: TensorType, wanted: TensorType) -> bool:
    """May math read this version instead: elements as numbers in their own storage, and the same holes?"""
    numbers = carriage_of(version.element, version.storage, bool(version.lanes)) in ("native", "value") and not version.extension and not version.excess
    return numbers and version.element == wanted.element and version.pads == wanted.pads and version.listed == wanted.listed and version.format == ND


def _with_composed_moves(code: Code) -> Code:
    """``move(move(a, T1), T2)`` as ``move(a, T2)`` wherever that leaves out the value in the middle, or at least a link of a chain of views."""
    nodes = {node.id: node for node in code.nodes}
    share = set(code.share)
    for node in code.nodes:
        while isinstance(move := nodes[node.id], Move) and isinstance(middle := nodes.get(move.of), Move):
            if not _composable(code.types, middle, move) or not _worthwhile(nodes.values(), share, code.wanted, middle, move):
                break
            if middle.id not in share:
                share.discard(move.id)
            nodes[move.id] = replace(move, of=middle.of)
    return replace(code, nodes=tuple(nodes.values()), share=frozenset(share))


def _composable(types: Mapping[str, TensorType], first: Move, second: Move) -> bool:
    """Padding, and turning a tensor into a list, are not undone or merged."""
    source = types[first.of]
    return source.pads == first.type.pads == second.type.pads and source.listed == first.type.listed == second.type.listed


def _worthwhile(nodes: Iterable[Instruction], share: set[str], wanted: Sequence[str], middle: Move, move: Move) -> bool:
    """A view in the middle costs nothing to leave out. A copy is left out only if nobody needs it: several views of it must stay views of one memory."""
    if middle.id in share:
        return True
    users = [node for node in nodes if middle.id in reads(node)]
    if middle.id in wanted or not all(isinstance(user, Move) for user in users):
        return False
    return len(users) == 1 or not any(user.id in share for user in users)


# ---- the stream axis -----------------------------------------------------------------------------------------------------------------------------------------


def lead(kind: TensorType, axis: str) -> int | None:
    """The dim that the axis leads, if slices along the axis lie one behind the other in memory; else None."""
    for dim in kind.order:
        digits = kind.dims[dim]
        if digits and digits[0].axis == axis and digits[0].div == 1:
            return dim
        if any(digit.ext != 1 for digit in digits):
            return None
    return None


def has_axis(kind: TensorType, axis: str) -> bool:
    return kind.listed == axis or any(digit.axis == axis for digit in _type_digits(kind))


def _type_digits(kind: TensorType) -> tuple[Digit, ...]:
    return (*(digit for dim in kind.dims for digit in dim), *kind.lanes)


def stream_axis(code: Code, axes: Mapping[str, int]) -> str | None:
    """The axis (in practice the experts) along which all that has it can be done one index after the other; None if there is none.

    A slice must still be a matrix, and there must not be too many: going through the rows of one matrix would cost more time than the memory is worth.
    """
    used = [code.types[name] for name in dict.fromkeys(name for node in code.nodes for name in (*reads(node), node.id))]
    candidates = [axis for axis, extent in axes.items() if 1 < extent <= MOST_PASSES and _streams(code.nodes, used, axis, extent)]
    return max(candidates, key=lambda axis: sum(has_axis(kind, axis) for kind in used), default=None)


def _streams(nodes: Sequence[Instruction], used: Sequence[TensorType], axis: str, extent: int) -> bool:
    having = [kind for kind in used if has_axis(kind, axis)]
    if not all(sliceable(kind, axis, extent) for kind in having):
        return False
    if any(axis in _bound_axes(node.expr) for node in nodes if isinstance(node, Compute)):
        return False
    return any(len({digit.axis for digit in _type_digits(kind) if digit.ext != 1} - {axis}) >= 2 for kind in having)


def sliceable(kind: TensorType, axis: str, extent: int) -> bool:
    """Is the value a list along the axis, or do its slices along the axis, unpadded and uncut, lie one behind the other?"""
    if any(pad.axis == axis for pad in kind.pads) or kind.listed not in ("", axis):
        return False
    digits = [digit for digit in _type_digits(kind) if digit.axis == axis]
    if kind.listed == axis:
        return not digits
    return digits == [Digit(axis, 1, extent)] and lead(kind, axis) is not None


def _bound_axes(expr: tuple[Any, ...]) -> set[str]:
    """The axes that an expression sums over, or reads elsewhere than at the index of the result."""
    own: set[str] = set()
    match expr:
        case ("at", _, picks):
            own = {name for axis, index in picks for name in (axis, *_axes_in(index))}
        case ("sum", loops, _, _):
            own = {digit.axis for digit in loops}
    return own.union(*map(_bound_axes, _operands(expr)))


def _axes_in(index: Any) -> list[str]:
    match index:
        case ("loop", axis, _):
            return [axis]
        case (_, *operands):
            return [axis for operand in operands for axis in _axes_in(operand)]
    return []


def slice_type(kind: TensorType, axis: str) -> TensorType:
    """The type of what one pass sees of a value: an element of a list, or a slice in which the axis has one index."""
    if not has_axis(kind, axis):
        return kind
    return replace(kind, dims=tuple(tuple(_sliced(digit, axis) for digit in dim) for dim in kind.dims), listed="")


def _sliced(digit: Digit, axis: str) -> Digit:
    return Digit(axis, digit.div, 1) if digit.axis == axis else digit


# ---- stages --------------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Parts:
    """The nodes by when they run: ``early`` whole, ``inside`` a loop, ``late`` whole. demanded: results of loops that must exist whole."""

    early: tuple[Instruction, ...]
    inside: tuple[Instruction, ...]
    late: tuple[Instruction, ...]
    demanded: frozenset[str]


def _stages(code: Code, axes: Mapping[str, int], axis: str | None) -> list[Step | Loop]:
    """First what has no stream axis, then the loops, then what needs whole results of the loops."""
    if axis is None:
        return [_whole(node, code, axes) for node in code.nodes]
    parts = _parts(code, axis)
    loops = [_loop(group, parts, code, axis, axes[axis]) for group in _groups(parts.inside, code, axis)]
    return [*(_whole(node, code, axes) for node in parts.early), *loops, *(_whole(node, code, axes) for node in parts.late)]


def _parts(code: Code, axis: str) -> _Parts:
    having = {node.id: node for node in code.nodes if has_axis(node.type, axis)}
    opaque: set[str] = set()
    for node in having.values():
        if isinstance(node, Opaque) or not opaque.isdisjoint(reads(node)):
            opaque.add(node.id)
    stream = {name: node for name, node in having.items() if name not in opaque}
    demanded = _demanded({*code.wanted, *(name for node in opaque for name in reads(having[node]))}, stream, code.share)
    late = tuple(node for node in having.values() if node.id in opaque or (node.id in demanded and node.id in code.share))
    inside = _ancestors({name for name in demanded if name not in code.share}, stream)
    early = tuple(node for node in code.nodes if node.id not in having)
    return _Parts(early, inside, late, frozenset(demanded))


def _demanded(names: set[str], stream: Mapping[str, Instruction], share: frozenset[str]) -> set[str]:
    """Results of loops that must exist whole. A view is made after the loop, of a source that must then be whole."""
    demanded: set[str] = set()
    for node in reversed(list(stream.values())):
        if node.id in names or node.id in demanded:
            demanded.add(node.id)
            demanded.update(name for name in reads(node) if node.id in share and name in stream)
    return demanded


def _ancestors(names: set[str], stream: Mapping[str, Instruction]) -> tuple[Instruction, ...]:
    """The nodes that make these values, in order. A view that is also made whole is made here once more, of the slice."""
    needed = set(names)
    for node in reversed(list(stream.values())):
        if node.id in needed:
            needed.update(reads(node))
    return tuple(node for node in stream.values() if node.id in needed)


def _whole(node: Instruction, code: Code, axes: Mapping[str, int]) -> Step | Loop:
    """A node on whole values. One that makes a list is a loop over the list."""
    if not node.type.listed:
        return Step(node=node, share=node.id in code.share)
    axis = node.type.listed
    step = Step(node=replace(node, type=slice_type(node.type, axis)), share=node.id in code.share)
    return Loop(axis=axis, count=axes[axis], sliced=reads(node), written=(), gathered=(node.id,), steps=(step,))


def _groups(nodes: Sequence[Instruction], code: Code, axis: str) -> list[list[Instruction]]:
    """Nodes that share a sliced value run in one loop; others do not wait for each other, so that a donated input goes as early as it can."""
    groups: list[tuple[set[str], list[Instruction]]] = []
    for node in nodes:
        names = {name for name in (node.id, *reads(node)) if has_axis(code.types[name], axis)}
        touched = [group for group in groups if not names.isdisjoint(group[0])]
        groups = [group for group in groups if names.isdisjoint(group[0])]
        groups.append((names.union(*(group[0] for group in touched)), [*(member for group in touched for member in group[1]), node]))
    order = {node.id: place for place, node in enumerate(nodes)}
    members = [sorted(group[1], key=lambda node: order[node.id]) for group in groups]
    return sorted(members, key=lambda group: order[group[0].id])


def _loop(nodes: Sequence[Instruction], parts: _Parts, code: Code, axis: str, count: int) -> Loop:
    results = [node for node in nodes if node.id in parts.demanded and node.id not in code.share]
    inner = _slices(nodes, [node.id for node in results], code, axis)
    made = [node.id for node in inner.nodes]
    outside = dict.fromkeys(name for node in inner.nodes for name in reads(node) if name not in made)
    return Loop(
        axis=axis,
        count=count,
        sliced=tuple(name for name in outside if has_axis(code.types[name], axis)),
        written=tuple(node.id for node in results if not node.type.listed),
        gathered=tuple(node.id for node in results if node.type.listed),
        steps=tuple(Step(node=node, share=node.id in inner.share) for node in inner.nodes),
    )


def _slices(nodes: Sequence[Instruction], wanted: Sequence[str], code: Code, axis: str) -> Code:
    """The nodes as one pass sees them. An element of a list and a slice are the same there, so more moves compose."""
    types = {name: slice_type(kind, axis) for name, kind in code.types.items()}
    sliced = tuple(replace(node, type=types[node.id]) for node in nodes)
    return _live(_with_composed_moves(Code(sliced, code.share & {node.id for node in nodes}, types, tuple(wanted))))


# ---- last uses -----------------------------------------------------------------------------------------------------------------------------------------------


def _with_frees(stages: Sequence[Step | Loop], wanted: set[str]) -> tuple[tuple[Step | Loop, ...], set[str]]:
    """The stages with their ``free`` filled in, and all values that they read or that are wanted."""
    alive, freed = set(wanted), []
    for stage in reversed(stages):
        touched = _touched(stage)
        freed.append(_with_inner_frees(replace(stage, free=tuple(name for name in touched if name not in alive))))
        alive.update(touched)
    return tuple(reversed(freed)), alive


def _touched(stage: Step | Loop) -> tuple[str, ...]:
    if isinstance(stage, Step):
        return tuple(dict.fromkeys((*reads(stage.node), stage.node.id)))
    own = {step.node.id for step in stage.steps} - {*stage.written, *stage.gathered}
    names = (name for step in stage.steps for name in (*reads(step.node), step.node.id))
    return tuple(name for name in dict.fromkeys(names) if name not in own)


def _with_inner_frees(stage: Step | Loop) -> Step | Loop:
    """In a loop: each value that lives for one pass is freed after its last use, and a view keeps what it looks at."""
    if isinstance(stage, Step):
        return stage
    own = {step.node.id for step in stage.steps}
    base: dict[str, str] = {}
    for step in stage.steps:
        source = reads(step.node)[0] if step.share else step.node.id
        base[step.node.id] = base.get(source, source)
    last = {name: place for place, step in enumerate(stage.steps) for read in (*reads(step.node), step.node.id) for name in {read, base.get(read, read)} & own}
    return replace(stage, steps=tuple(replace(step, free=tuple(name for name in last if last[name] == place)) for place, step in enumerate(stage.steps)))
