"""Binding: a plan for all sizes becomes a plan for these sizes.

Between ``layoutdsl.plan.codec`` or the compiler, which give plans, and ``layoutdsl.plan.schedule``, which takes bound ones.

Invariants: a bound plan holds no size names (``sizes`` is empty, every extent is an integer); its conditions hold; its types fit their storages, their digits
are chains, and a move keeps the logical tensor. So whoever wrote the plan, what runs it stays inside its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from math import prod
from typing import Any, Literal, NoReturn

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.ir.dtypes import STORAGES, carriage_of
from layoutdsl.plan.forward import ROWS, walk
from layoutdsl.plan.model import Call, Compute, Digit, Input, Instruction, Move, Opaque, Output, Pad, Plan, TensorType
from layoutdsl.plan.schedule import reads, sliceable
from layoutdsl.plan.sizes import SizeExpr, evaluate, names_in, reduced, size_text

Evaluate = Callable[[Any], Any]
LARGEST = 2**62
"""Most bytes of one value: beyond it no machine, and no 64-bit offset, can hold it."""
SAMPLE_ROWS = 256
"""Rows of x for which the views of a forward are checked: the sizes of both sides are proportional to it."""


def bind(plan: Plan, sizes: Mapping[str, int]) -> Plan:
    """The plan with every size expression evaluated.

    Raises: DiagnosticError with ``size-missing``, ``size-unknown``, ``size-invalid``, ``requirement-failed`` (all of a kind together) or ``plan-invalid``.
    """
    check_sizes(plan, sizes)
    known = {name: sizes[name] for name in plan.sizes}
    _raise(failed_requirements(plan, known))
    bound = _evaluated(replace(plan, forward="external"), known)
    _check(bound)
    return replace(bound, forward=_forward(plan, known))


def check_sizes(plan: Plan, sizes: Mapping[str, int], *, optional: Collection[str] = ()) -> None:
    """Are these all sizes of the plan, the optional ones left out or not? Raises: DiagnosticError with ``size-missing``, ``size-unknown``, ``size-invalid``."""
    _raise(_size_faults(plan, sizes, optional))


def broken_limits(plan: Plan, sizes: Mapping[str, int]) -> list[Diagnostic]:
    """A warning ``limit-broken`` for every condition of use that these sizes do not meet. ``sizes`` must name all sizes of the plan."""
    return [
        Diagnostic(
            code="limit-broken",
            message=f"`{limit.kernel}` is not made for these sizes: it wants {limit.text}",
            severity="warning",
            where=f"{plan.scheme}.{plan.layer}",
            notes=(*_facts(limit.test, sizes), f"source: {limit.source}"),
        )
        for limit in plan.limits
        if not _holds(limit.test, sizes)
    ]


# ---- sizes ---------------------------------------------------------------------------------------------------------------------------------------------------


def _raise(diagnostics: Iterable[Diagnostic]) -> None:
    found = tuple(diagnostics)
    if found:
        raise DiagnosticError(*found)


def _size_faults(plan: Plan, sizes: Mapping[str, int], optional: Collection[str]) -> Iterable[Diagnostic]:
    known = f"the sizes of {plan.scheme}.{plan.layer} are {', '.join(plan.sizes) or 'none'}"
    for name in sizes:
        if name not in plan.sizes:
            close = get_close_matches(name, plan.sizes, 1)
            yield Diagnostic(
                code="size-unknown", message=f"`{name}` is not a size of this plan", notes=(known, *(f"the nearest is `{match}`" for match in close))
            )
    for name in plan.sizes:
        if name not in sizes and name in optional:
            continue
        if name not in sizes:
            yield Diagnostic(
                code="size-missing", message=f"the size `{name}` has no value", notes=(known, _given(sizes)), helps=(f"give it: sizes={{'{name}': ...}}",)
            )
        elif type(sizes[name]) is not int or sizes[name] < 1:
            yield Diagnostic(code="size-invalid", message=f"the size `{name}` is {sizes[name]!r}, which is not a positive integer", notes=(known,))


def _given(sizes: Mapping[str, int]) -> str:
    return f"given are {', '.join(f'{name} = {value}' for name, value in sizes.items())}" if sizes else "no size is given"


def _facts(test: SizeExpr, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """What a failed test looks like with numbers in it."""
    names = sorted(names_in(test))
    values = ", ".join(f"{name} = {sizes[name]}" for name in names)
    return (*([f"here {values}"] if names else []), f"`{size_text(test)}` is false")


def _holds(test: SizeExpr, sizes: Mapping[str, int]) -> bool:
    try:
        return bool(evaluate(test, sizes))
    except (ValueError, ZeroDivisionError):
        return False  # what cannot be computed for these sizes does not hold for them


def failed_requirements(plan: Plan, sizes: Mapping[str, int]) -> Iterable[Diagnostic]:
    """A ``requirement-failed`` for every requirement that these sizes do not meet; what speaks of others is left out."""
    for condition in plan.require:
        if names_in(condition.test) <= sizes.keys() and not _holds(condition.test, sizes):
            yield Diagnostic(
                code="requirement-failed",
                message=f"the scheme needs {condition.text}, which these sizes do not meet",
                where=f"{plan.scheme}.{plan.layer}",
                notes=(*_facts(condition.test, sizes), _given(sizes)),
            )


# ---- evaluation ----------------------------------------------------------------------------------------------------------------------------------------------


def _evaluated(plan: Plan, sizes: Mapping[str, int]) -> Plan:
    def number(size: Any) -> int:
        try:
            return evaluate(size, sizes)
        except (ValueError, ZeroDivisionError) as error:
            _invalid("plan", f"`{size_text(size)}` has no value for these sizes", [str(error), _given(sizes)])

    return replace(
        plan,
        sizes=(),
        axes=tuple((axis, number(extent)) for axis, extent in plan.axes),
        require=tuple(replace(condition, test=int(_holds(condition.test, sizes))) for condition in plan.require),
        limits=tuple(replace(limit, test=int(_holds(limit.test, sizes))) for limit in plan.limits),
        inputs=tuple(replace(node, type=_type(node.type, number)) for node in plan.inputs),
        code=tuple(_instruction(node, number) for node in plan.code),
    )


def _forward(plan: Plan, sizes: Mapping[str, int]) -> tuple[Call, ...] | Literal["external"]:
    """The calls with their sizes evaluated; none where a kernel does not take these sizes and they mean nothing: the layer can still be loaded."""
    if plan.forward == "external":
        return "external"
    try:
        calls = tuple(replace(call, expr=_call(call.expr, sizes), when=_call(call.when, sizes)) for call in plan.forward)
        for expr in (part for call in calls for tree in (call.expr, call.when) for part in walk(tree)):
            if expr[0] == "view":
                _check_view(expr[2], expr[3])
    except DiagnosticError:
        if not broken_limits(plan, sizes):
            raise
        return "external"
    return calls


def _call(expr: Any, sizes: Mapping[str, int]) -> Any:
    """A forward expression with the sizes and types in it evaluated; the rows of x stay a name."""

    def number(size: Any) -> Any:
        try:
            return reduced(size, sizes)
        except (ValueError, ZeroDivisionError) as error:
            _invalid("forward", f"`{size_text(size)}` has no value for these sizes", [str(error), _given(sizes)])

    match expr:
        case ("const" | "layer" | "input" | "local" | "dtype" | "external", *_):
            return expr
        case ("size", size):
            return ("size", number(size))
        case ("view", base, source, target):
            return ("view", _call(base, sizes), _type(source, number), _type(target, number))
        case ("call", op, arguments, keywords):
            return ("call", op, tuple(_call(e, sizes) for e in arguments), tuple((name, _call(e, sizes)) for name, e in keywords))
    name, *operands = expr
    return (name, *(_call(operand, sizes) for operand in operands))


def _instruction(node: Instruction, number: Evaluate) -> Instruction:
    if isinstance(node, Compute):
        return replace(node, type=_type(node.type, number), expr=_expr(node.expr, number))
    return replace(node, type=_type(node.type, number))


def _type(kind: TensorType, number: Evaluate) -> TensorType:
    return replace(
        kind,
        dims=tuple(_digits(dim, number) for dim in kind.dims),
        lanes=_digits(kind.lanes, number),
        pads=tuple(Pad(pad.axis, number(pad.capacity), pad.fill) for pad in kind.pads),
    )


def _digits(digits: Iterable[Digit], number: Evaluate) -> tuple[Digit, ...]:
    return tuple(Digit(digit.axis, number(digit.div), number(digit.ext)) for digit in digits)


def _expr(expr: tuple[Any, ...], number: Evaluate) -> tuple[Any, ...]:
    match expr:
        case ("at", value, picks):
            return ("at", value, tuple((axis, _index(index, number)) for axis, index in picks))
        case ("const", dtype, constant):
            return ("const", dtype, constant if isinstance(constant, float) else number(constant))
        case ("sum", loops, order, body):
            return ("sum", _digits(loops, number), _digits(order, number), _expr(body, number))
    name, *operands = expr
    return (name, *(_expr(operand, number) if isinstance(operand, tuple) else operand for operand in operands))


def _index(index: Any, number: Evaluate) -> Any:
    """An index expression: its loops stay, what holds no loop becomes a number."""
    match index:
        case ("loop", axis, div):
            return ("loop", axis, number(div))
        case (name, *operands) if _has_loop(index):
            return (name, *(_index(operand, number) for operand in operands))
    return number(index)


def _has_loop(index: Any) -> bool:
    return isinstance(index, tuple) and (index[0] == "loop" or any(map(_has_loop, index[1:])))


# ---- invariants of a bound plan ------------------------------------------------------------------------------------------------------------------------------


def _invalid(place: str, message: str, notes: Iterable[str] = ()) -> NoReturn:
    raise DiagnosticError(Diagnostic(code="plan-invalid", message=message, where=place, notes=tuple(notes)))


def _check(plan: Plan) -> None:
    axes: dict[str, int] = {}
    for axis, extent in plan.axes:
        assert isinstance(extent, int)
        if extent < 0:
            _invalid(f"axis {axis}", f"its extent is {extent}")
        axes[axis] = extent
    types: dict[str, TensorType] = {}
    for node in (*plan.inputs, *plan.code):
        place = f"input {node.name}" if isinstance(node, Input) else f"value {node.id}"
        _check_type(node.type, axes, place)
        if isinstance(node, Compute):
            _check_sums(node.expr, _all_digits(node.type), place)
        if isinstance(node, Move) or (isinstance(node, Opaque) and node.function == "format_cast"):
            _check_same_tensor(types[node.of], node.type, axes, place)
        if not isinstance(node, Input):
            _check_lists(node, types, axes, place)
        if isinstance(node, Move) and node.alias == "must" and _bytes(types[node.of], axes) != _bytes(node.type, axes):
            _invalid(place, f"it must share the memory of `{node.of}`, which has {_bytes(types[node.of], axes)} bytes, but has {_bytes(node.type, axes)}")
        types[node.id] = node.type
    for output in plan.outputs:
        _check_output(output, types[output.value])


def _check_view(source: TensorType, target: TensorType) -> None:
    """The same memory seen twice, for a number of rows that packs into anything."""
    try:
        kinds = [_type(kind, lambda size: evaluate(size, {ROWS: SAMPLE_ROWS})) for kind in (source, target)]
    except (ValueError, ZeroDivisionError) as error:
        _invalid("forward", f"a view has no shape for {SAMPLE_ROWS} rows", [str(error)])
    if any(extent < 0 for kind in kinds for extent in kind.shape):
        _invalid("forward", "a view has a dim of negative extent")
    ours, theirs = (prod(kind.shape) * STORAGES[kind.storage].bits for kind in kinds)
    if ours != theirs:
        _invalid("forward", f"a view shows the memory that is there: {ours // 8} bytes are not {theirs // 8}")


def _check_output(output: Output, kind: TensorType) -> None:
    if kind.listed and output.kind != "list":
        _invalid(f"output {output.name}", f"a list cannot be a {output.kind}")
    if output.kind == "value" and (prod(kind.shape) != 1 or carriage_of(kind.element, kind.storage, bool(kind.lanes)) != "native"):
        _invalid(f"output {output.name}", f"a number is made of one element, not of {kind.element} {list(kind.shape)} in {kind.storage}")


def _check_type(kind: TensorType, axes: Mapping[str, int], place: str) -> None:
    lanes = [_int(lane.ext) for lane in kind.lanes]
    width, needed = STORAGES[kind.storage].bits, prod(lanes) * kind.element_bits
    if needed != width if kind.lanes else needed > width:
        _invalid(place, f"{prod(lanes)} x {kind.element} of {kind.element_bits} bits in one {kind.storage} of {width} bits")
    carriage = carriage_of(kind.element, kind.storage, bool(kind.lanes))
    if carriage == "bits" and kind.element != "opaque" and kind.element_bits < width and not kind.extension:
        _invalid(place, f"{kind.storage} is wider than {kind.element}, and no extension fills its upper bits")
    for axis in {digit.axis for digit in _all_digits(kind)}:
        _check_chain(kind, axis, axes, place)
    if _bytes(kind, axes) > LARGEST:
        _invalid(place, f"it would have {_bytes(kind, axes)} bytes")


def _check_chain(kind: TensorType, axis: str, axes: Mapping[str, int], place: str) -> None:
    """Per axis the digits, lowest first, each start where the one below ends, and reach no further than the axis or its pad."""
    for digit in _all_digits(kind):
        if digit.axis == axis and (_int(digit.div) < 1 or _int(digit.ext) < (0 if axes[axis] == 0 else 1)):
            _invalid(place, f"a digit of `{axis}` has the divisor {digit.div} and the extent {digit.ext}")
    chain = _chain(kind, axis)
    for below, above in zip(chain, chain[1:]):
        if _int(above.div) != _reach(below):
            _invalid(place, f"the digits of `{axis}` do not form a chain: one ends at {_reach(below)}, the next starts at {above.div}")
    if not chain:
        return
    base, capacity = _int(chain[0].div), next((_int(pad.capacity) for pad in kind.pads if pad.axis == axis), axes[axis])
    if _reach(chain[-1]) > base * -(-capacity // base):
        _invalid(place, f"the digits of `{axis}` reach {_reach(chain[-1])}, which is beyond its {capacity} indices")


def _check_sums(expr: tuple[Any, ...], loops: tuple[Digit, ...], place: str) -> None:
    """The order of a sum names loops that exist: digits of the result, or of a sum around it."""
    match expr:
        case ("at" | "const", *_):
            return
        case ("sum", bound, order, body):
            inner = (*loops, *bound)
            for loop in order:
                if loop not in inner:
                    _invalid(place, f"the order of a sum names `{loop.axis}` per {loop.div}, over which nothing runs")
            _check_sums(body, inner, place)
        case (_, *operands):
            for operand in operands:
                if isinstance(operand, tuple):
                    _check_sums(operand, loops, place)


def _check_lists(node: Instruction, types: Mapping[str, TensorType], axes: Mapping[str, int], place: str) -> None:
    """A move turns a tensor into the list of its slices, which lie one behind the other; nothing else makes a list, and a list stays one."""
    sources = [types[name] for name in reads(node)]
    if isinstance(node, Compute) or all(source.listed == node.type.listed for source in sources):
        if isinstance(node, Compute) and (node.type.listed or any(source.listed for source in sources)):
            _invalid(place, "an expression neither reads nor makes a list")
        return
    axis = node.type.listed
    if isinstance(node, Opaque) or sources[0].listed or (axes[axis] != 1 and not sliceable(sources[0], axis, axes[axis])):
        _invalid(place, f"its source is no tensor whose slices along `{axis or sources[0].listed}` lie one behind the other")


def _check_same_tensor(source: TensorType, target: TensorType, axes: Mapping[str, int], place: str) -> None:
    if source.element != target.element:
        _invalid(place, f"a move keeps the element: `{source.element}` does not become `{target.element}`")
    ours, theirs = _logical(source, axes), _logical(target, axes)
    if ours != theirs:
        axis = next(axis for axis in {**ours, **theirs} if ours.get(axis) != theirs.get(axis))
        _invalid(place, f"a move keeps the logical tensor, but `{axis}` is not the same on both sides")


def _logical(kind: TensorType, axes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Per axis that varies: at which granularity, and how many of its indices are covered. Padding is no part of it."""
    covered = {}
    for axis in {digit.axis for digit in _all_digits(kind)}:
        chain = _chain(kind, axis)
        if chain:
            base = _int(chain[0].div)
            covered[axis] = (base, min(_reach(chain[-1]), base * -(-axes[axis] // base)))
    if kind.listed and axes[kind.listed] != 1:
        covered[kind.listed] = (1, axes[kind.listed])
    return {axis: (base, reach) for axis, (base, reach) in covered.items() if reach != base}


def _all_digits(kind: TensorType) -> tuple[Digit, ...]:
    return (*(digit for dim in kind.dims for digit in dim), *kind.lanes)


def _chain(kind: TensorType, axis: str) -> list[Digit]:
    return sorted((digit for digit in _all_digits(kind) if digit.axis == axis and digit.ext != 1), key=lambda digit: _int(digit.div))


def _reach(digit: Digit) -> int:
    return _int(digit.div) * _int(digit.ext)


def _bytes(kind: TensorType, axes: Mapping[str, int]) -> int:
    return prod(kind.shape) * (axes[kind.listed] if kind.listed else 1) * STORAGES[kind.storage].bits // 8


def _int(size: SizeExpr) -> int:
    assert isinstance(size, int)
    return size
