"""How stored tensors are split: over the named parts of an axis (gate and up, q and k and v), and over the ranks of tensor parallelism.

After ``layoutdsl.compiler.elaborate``, whose parameters it reads; the conditions go into the plan. A slice of an axis is a slice of a stored tensor only where
the divisor of the axis's top digit divides it: no byte, no group, no word may straddle a boundary.
"""

from __future__ import annotations

from collections.abc import Iterator

from layoutdsl.compiler.elaborate import Elaboration
from layoutdsl.compiler.emit import size_expr
from layoutdsl.compiler.evaluate import size_of
from layoutdsl.compiler.scope import Context
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.ir.layout import Digit, TensorType, letter
from layoutdsl.ir.program import Condition, Parameter
from layoutdsl.ir.symbolic import Proved, Refuted, Size, Verdict
from layoutdsl.plan.sizes import layer_kind
from layoutdsl.syntax.document import SegmentDecl


def check_sharding(state: Elaboration) -> list[Diagnostic]:
    """Findings of one world: segments that are no parts of their axis, stored units that straddle two of them, whole tensors with sizes of a rank."""
    found: list[Diagnostic] = []
    for segment, context, axis in _segments(state):
        found += _check_parts(segment, context, axis) or _check_straddling(state, segment, context, axis)
    return [*found, *_check_whole(state)]


def _segments(state: Elaboration) -> Iterator[tuple[SegmentDecl, Context, str]]:
    for segment in state.world.document.segments:
        for context in state.contexts.values():
            if segment.axis.value in context.axes.values():
                yield segment, context, segment.axis.value
                break


def _parts(segment: SegmentDecl, context: Context, axis: str) -> list[Size]:
    """The size of every part."""
    if segment.sizes:
        return [size_of(size, context) for size in segment.sizes]
    count = len(segment.names)
    return [context.facts.div(context.space.extents[axis], Size.of(count))] * count


def _check_parts(segment: SegmentDecl, context: Context, axis: str) -> list[Diagnostic]:
    extent, facts, name = context.space.extents[axis], context.facts, letter(axis)
    try:
        if segment.sizes:
            total = sum((size_of(size, context) for size in segment.sizes), Size.of(0))
            verdict, message = facts.equals(total, extent), f"the parts of `{name}` are {context.space.text(total)} together, not {context.space.text(extent)}"
        else:
            verdict, message = facts.divisible(extent, Size.of(len(segment.names))), f"`{name}` does not have {len(segment.names)} equal parts for all sizes"
    except DiagnosticError as error:
        return list(error.diagnostics)
    if isinstance(verdict, Proved):
        return []
    helps = ("give the parts their sizes: `{q: ..., k: ..., v: ...}`", f"or add `{name.upper()} % {len(segment.names)} == 0` to `require`")
    return [Diagnostic(code="segments-differ", message=message, span=segment.span, notes=_witness(verdict), helps=helps[: 1 + (not segment.sizes)])]


def _check_straddling(state: Elaboration, segment: SegmentDecl, context: Context, axis: str) -> list[Diagnostic]:
    """Loaders write part by part, so no stored unit may hold two parts: its size divides every part."""
    found, facts = [], context.facts
    for name, parameter in state.parameters.items():
        top = _top(parameter.value.type, axis)
        if top is None or top.div == 1:
            continue
        for part, size in zip(segment.names, _parts(segment, context, axis)):
            verdict = facts.divisible(size, top.div)
            if isinstance(verdict, Proved):
                continue
            unit, shown = context.space.text(top.div), context.space.text(size)
            message = f"`{name}` holds {unit} values of `{letter(axis)}` in one unit, and a unit may belong to `{part.value}` and to the part beside it"
            helps = (f"add `{shown} % {unit} == 0` to `require`",)
            found.append(Diagnostic(code="segment-straddled", message=message, span=parameter.value.span, where=name, notes=_witness(verdict), helps=helps))
            break
    return found


def _check_whole(state: Elaboration) -> list[Diagnostic]:
    """A tensor that every rank loads whole has the same size on every number of ranks."""
    found = []
    for name, parameter in state.parameters.items():
        digits = (*(digit for dim in parameter.value.type.dims for digit in dim), *parameter.value.type.lanes)
        if not parameter.sharded and any("tp_size" in (digit.div.symbols | digit.ext.symbols) for digit in digits):
            message = f"every rank loads `{name}` whole, but its size depends on the number of ranks"
            helps = ("drop `shard: none`: the digits say how it is split",)
            found.append(Diagnostic(code="shard-none-tp", message=message, span=parameter.value.span, where=name, helps=helps))
    return found


def shard_conditions(state: Elaboration) -> list[Condition]:
    """What a rank's part must be a multiple of, as conditions to check at bind: only where this configuration splits an axis."""
    config, layer = state.world.config, state.world.document.layer.value
    tp_size, size = config.get("tp_size"), layer_kind(layer).split.get(str(config.get("layer_type", "column")))
    if not isinstance(tp_size, int) or tp_size < 2 or size is None:
        return []
    known = state.world.facts.symbol(size)  # what `require` says that the size is
    named = {axis: _parts(segment, context, axis) for segment, context, axis in _segments(state)}
    found: dict[str, Condition] = {}
    for name, parameter in state.parameters.items():
        for context in state.contexts.values():
            for axis in context.axes.values():
                if (extent := context.space.extents[axis]) == known or size in extent.symbols:
                    found |= _condition(name, parameter, axis, named.get(axis, [extent]), context, tp_size)
    return list(found.values())


def _condition(name: str, parameter: Parameter, axis: str, parts: list[Size], context: Context, tp_size: int) -> dict[str, Condition]:
    top = _top(parameter.value.type, axis)
    if not parameter.sharded or top is None or top.div == 1 or top.div.constant is None:
        return {}
    found = {}
    for part in dict.fromkeys(parts):
        if not isinstance(context.facts.divisible(part, top.div), Proved):
            shown, unit = context.space.text(part), top.div.constant
            text = f"{shown} % {unit} == 0 on each of {tp_size} ranks (`{name}` has {unit} values of `{letter(axis)}` in one unit)"
            found[f"{axis} {unit} {shown}"] = Condition(text, ("==", ("%", size_expr(part), unit), 0))
    return found


def _top(kind: TensorType, axis: str) -> Digit | None:
    """The highest digit of an axis that a tensor stores, if it stores more than one value of it."""
    digits = [digit for dim in (*kind.dims, kind.lanes) for digit in dim if digit.axis == axis and digit.top and not digit.unit]
    return digits[0] if digits else None


def _witness(verdict: Verdict) -> tuple[str, ...]:
    if not isinstance(verdict, Refuted) or not verdict.sizes:
        return ()
    return (f"fails for {', '.join(f'{name} = {value}' for name, value in verdict.sizes)}",)
