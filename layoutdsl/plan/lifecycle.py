"""What becomes of every output of a plan when weights are loaded again, where its parts lie on the ranks of a layer, and where its experts are.

Derived from a symbolic plan; read by ``layoutdsl.runtime`` (apply, restore), by ``explain``, and by whoever gathers weights that are processed already.

Invariants: a fact is about ranks that all run this very plan (a spec that asks for ``tp_rank`` may have another for the next rank); what is not certain for all
sizes is not stated: ``own``, no expert axis.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from layoutdsl.plan.model import Compute, Digit, Input, Instruction, Move, Opaque, Output, Plan, TensorType
from layoutdsl.plan.schedule import reads
from layoutdsl.plan.sizes import SizeExpr, evaluate, layer_kind, names_in

Reload = Literal["alias", "view", "permute", "rebuild", "derived", "opaque"]
"""How an output follows from the checkpoint's tensors, and so what a reload may do with its memory.

- ``alias``: it is the input of that name, untouched. A loader may write into it at any time.
- ``view``: the memory of one input under another shape, name or order of dims. What is loaded into that memory is there at once.
- ``permute``: every byte (in packed tensors, every code) of one input, each in another place and, unless the sizes leave nothing to move, in memory of its
  own; codes may change their excess. The input itself is gone. Both have as many bytes, so the checkpoint's form can lie over the kernel's.
- ``rebuild``: it bears the name of an input and holds other bytes: computed, converted, padded, or packed more tightly.
- ``derived``: the same under a name that the checkpoint does not have; also a copy of what is still there, and a constant.
- ``opaque``: a device kernel made it, and only that kernel can make it again. A cast to FRACTAL_NZ is no such kernel: it
  moves, and that on the device alone.
"""

How = Literal["concat", "repeat", "own"]
EXPERTS = "num_experts"


@dataclass(frozen=True, slots=True)
class Gather:
    """How the tensors of the ranks that share ``size`` are put together; of a list, those of each element.

    how: ``concat``: along ``dim`` (as torch sees it), in the order of the ranks; ``repeat``: every rank has the same, that of the whole layer; ``own``: made
    from a rank's part of the axis, such as a partial sum, or nothing is known.
    parts: of a ``concat``, the equal parts of the dim that are concatenated each for itself and then side by side (2 for w13: gate, up).
    major: of a ``concat``, the extent of what the dim holds before the axis that is split: the dim is [major, parts, own].
    unit: the size of a rank must be a multiple of it, and of ``Plan.granularity``, or nothing is stated.
    """

    size: str
    how: How
    dim: int = 0
    parts: int = 1
    major: SizeExpr = 1
    unit: SizeExpr = 1


@dataclass(frozen=True, slots=True)
class OutputFacts:
    """sources: the inputs that it is made from, in the plan's order. from_alias: these are all outputs of class ``alias``, so it can be made again at any time.
    gathers: per size that ranks may share (``input_size`` of row layers, ``output_size`` of column layers), one.
    experts: ``first``: dim 0 is the expert axis and slowest in memory, so that ``output[i]`` is a dense view of expert i; ``list``: element i is expert i's."""

    reload: Reload
    sources: tuple[str, ...]
    from_alias: bool
    gathers: tuple[Gather, ...]
    experts: Literal["", "first", "list"]


def facts_of(plan: Plan) -> dict[str, OutputFacts]:
    """The facts of every output by name, in the plan's order. plan: symbolic; one that is bound no longer says which sizes its axes have, so nothing is known
    of its ranks and experts."""
    traces, sources, aliases = _traces(plan), sources_of(plan), untouched(plan)
    shares = [_Share(plan, size) for size in _split_sizes(plan)]
    inputs, names, found = {node.name: node for node in plan.inputs}, {output.name for output in plan.outputs}, {}
    for output in plan.outputs:
        trace = traces[output.value]
        found[output.name] = OutputFacts(
            reload="alias" if output.name in aliases else _reload(output, trace, sources[output.name], inputs, names),
            sources=tuple(name for name in inputs if name in sources[output.name]),
            from_alias=sources[output.name] <= aliases,
            gathers=tuple(share.gather(output.value) for share in shares),
            experts=_experts(plan, trace.type),
        )
    return found


def sources_of(plan: Plan) -> Mapping[str, frozenset[str]]:
    """By output, the names of the inputs that it is made from. plan: symbolic or bound."""
    found: dict[str, frozenset[str]] = {node.id: frozenset({node.name}) for node in plan.inputs}
    for node in plan.code:
        found[node.id] = frozenset[str]().union(*(found[value] for value in reads(node)))
    return {output.name: found[output.value] for output in plan.outputs}


def untouched(plan: Plan) -> frozenset[str]:
    """Outputs that are inputs of the same name, left as they are: both forms of such a parameter are one. plan: symbolic or bound."""
    ids = {node.name: node.id for node in plan.inputs}
    return frozenset(output.name for output in plan.outputs if ids.get(output.name) == output.value)


# ---- reloading -------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Trace:
    """Where a value comes from. form: of one input, the same memory or moved; computed; or made by a device kernel, here or on the way."""

    type: TensorType
    form: Literal["view", "moved", "made", "opaque"]


def _traces(plan: Plan) -> dict[str, _Trace]:
    found = {node.id: _Trace(node.type, "view") for node in plan.inputs}
    order = ("view", "moved", "made", "opaque")
    for instruction in plan.code:
        form = max([_form(instruction, found), *(found[value].form for value in reads(instruction))], key=order.index)
        found[instruction.id] = _Trace(instruction.type, form)  # type: ignore[arg-type]
    return found


def _nodes(expr: Any) -> Iterator[Any]:
    """The expression and all in it that is one: indices and digits are not."""
    yield expr
    operands = {"at": (), "const": (), "sum": expr[3:]}.get(expr[0], expr[1:])
    for operand in operands:
        if isinstance(operand, tuple):
            yield from _nodes(operand)


def _form(instruction: Instruction, found: Mapping[str, _Trace]) -> str:
    match instruction:
        case Move(alias="must"):
            return "view"
        case Opaque(function="kernel"):
            return "opaque"
        case Compute(type=kind, expr=("at", value, ())):
            return "moved" if _digits(kind) == _digits(found[value].type) else "made"
        case Compute():
            return "made"
    return "moved"


def _digits(kind: TensorType) -> set[tuple[str, SizeExpr]]:
    return {(digit.axis, digit.div) for digit in _varying(kind)}


def _reload(output: Output, trace: _Trace, sources: Collection[str], inputs: Mapping[str, Input], outputs: Collection[str]) -> Reload:
    if trace.form == "opaque":
        return "opaque"
    if trace.form == "view" and output.kind != "value":
        return "view"
    if trace.form == "moved" and output.kind != "value":
        (source,) = sources
        if _room(trace.type) == _room(inputs[source].type) and (output.name == source or source not in outputs):
            return "permute"
    return "rebuild" if output.name in inputs else "derived"


def _room(kind: TensorType) -> Any:
    """What decides how many bytes the elements of an axis take."""
    return kind.slot_bits, {(pad.axis, pad.capacity) for pad in kind.pads}


# ---- ranks -----------------------------------------------------------------------------------------------------------------------------------------------


def _split_sizes(plan: Plan) -> list[str]:
    """The sizes that ranks may share: one where the plan knows how the layer is split."""
    split, layer_type = layer_kind(plan.layer).split, dict(plan.config).get("layer_type")
    return list(dict.fromkeys(size for name, size in split.items() if layer_type in (None, name)))


class _Share:
    """How every value of a plan lies on ranks that share one size."""

    def __init__(self, plan: Plan, size: str) -> None:
        self.size = size
        self.split = {axis: extent for axis, extent in plan.axes if size in names_in(extent)}
        self.vague = {axis for axis, extent in plan.axes if names_in(extent) & {*plan.free}}
        # A size that a requirement gives stands in the types as a number, and so do all of a bound plan. Opaque bytes cannot be cut: each rank has files of its
        # own, with tensors of its own.
        given = not plan.sizes or any(_equates(condition.test, size) for condition in plan.require)
        self.hidden = given or any(node.type.element == "opaque" for node in plan.inputs)
        self.types = {node.id: node.type for node in (*plan.inputs, *plan.code)}
        self.how: dict[str, How] = {}
        for node in plan.inputs:
            self.how[node.id] = self._of_input(node, layer_kind(plan.layer).experts)
        for instruction in plan.code:
            self.how[instruction.id] = self._of_instruction(instruction)

    def gather(self, value: str) -> Gather:
        how = self.how[value]
        return (self._placed(self.types[value]) or Gather(self.size, "own")) if how == "concat" else Gather(self.size, how)

    def _of_input(self, node: Input, experts: bool) -> How:
        axes = {digit.axis for digit in _varying(node.type)}
        if self.hidden or axes & self.vague:
            return "own"
        if not axes & self.split.keys():
            return "repeat"
        # Of a tensor that every rank loads whole (`shard: none`) a loader is told nothing.
        told = dict(node.loader).keys() & ({"quant_method"} if experts else {"input_dim", "output_dim"})
        return "concat" if told else "own"

    def _of_instruction(self, instruction: Instruction) -> How:
        read = reads(instruction)
        if any(self.how[value] == "own" for value in read):
            return "own"
        if not isinstance(instruction, Compute):
            return self.how[instruction.of]
        tops = {digit.axis for digit in self._tops(instruction.type)}
        cut = {digit.axis for value in read if self.how[value] == "concat" for digit in _varying(self.types[value])} & self.split.keys()
        if cut - tops or any(map(self._strays, _nodes(instruction.expr))):
            return "own"
        return "concat" if tops else "repeat"

    def _strays(self, node: Any) -> bool:
        """Does it read along a split axis at another place than it writes?"""
        return node[0] == "at" and any(axis in self.split or self._mentioned(index) for axis, index in node[2])

    def _mentioned(self, index: Any) -> bool:
        if not isinstance(index, tuple):
            return bool(index == self.size)
        return index[1] in self.split if index[0] == "loop" else any(map(self._mentioned, index[1:]))

    def _tops(self, kind: TensorType) -> list[Digit]:
        """The digits of split axes whose extent is another on a rank."""
        return [digit for digit in _varying(kind) if digit.axis in self.split and self.size in names_in(digit.ext)]

    def _placed(self, kind: TensorType) -> Gather | None:
        """Where the top digit of the split axis is, if that is all that a rank's part decides."""
        tops = self._tops(kind)
        if len(tops) != 1 or any(self.size in names_in(digit.div) for digit in _varying(kind)):
            return None
        (top,), parts = tops, _parts(self.split[tops[0].axis])
        dim = next((place for place, digits in enumerate(kind.dims) if top in digits), None)
        if dim is None or parts is None or not self._tight(kind, top):
            return None
        return Gather(self.size, "concat", dim, parts, _product(kind.dims[dim], top), top.div)

    def _tight(self, kind: TensorType, top: Digit) -> bool:
        """Has a rank with whole units no holes?"""
        capacities = [pad.capacity for pad in kind.pads if pad.axis == top.axis]
        if not isinstance(top.div, int) or any(names_in(capacity) != {self.size} for capacity in capacities):
            return not capacities
        wholes = [top.div * i for i in range(1, 5)]
        return all(evaluate(capacity, {self.size: whole}) == whole for capacity in capacities for whole in wholes)


def _varying(kind: TensorType) -> list[Digit]:
    return [digit for dim in (*kind.dims, kind.lanes) for digit in dim if digit.ext != 1]


def _parts(extent: SizeExpr) -> int | None:
    """How many parts an axis has that is so many times as long as what ranks share."""
    match extent:
        case str():
            return 1
        case ("*", int() as parts, str()):
            return parts
    return None


def _equates(test: SizeExpr, size: str) -> bool:
    """Does a condition say what a size equals?"""
    if not isinstance(test, tuple):
        return False
    return (test[0] == "==" and size in test[1:]) or any(_equates(operand, size) for operand in test[1:])


def _product(dim: Iterable[Digit], until: Digit) -> SizeExpr:
    """The extent of the digits before one of them."""
    found: SizeExpr = 1
    for digit in dim:
        if digit == until:
            break
        found = digit.ext if found == 1 else ("*", found, digit.ext)
    return found


# ---- experts ---------------------------------------------------------------------------------------------------------------------------------------------


def _experts(plan: Plan, kind: TensorType) -> Literal["", "first", "list"]:
    axes = {axis for axis, extent in plan.axes if extent == EXPERTS}
    if kind.listed:
        return "list" if kind.listed in axes else ""
    first = kind.dims[0] if kind.dims else ()
    whole = len(first) == 1 and first[0].axis in axes and first[0].div == 1
    return "first" if whole and kind.order[0] == 0 else ""
