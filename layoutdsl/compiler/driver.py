"""The two ways through the compiler: ``validate`` proves a spec in every reachable world, ``compile_document`` makes the plan of one configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from layoutdsl.compiler.config import Setting, check_declarations, resolve, settings_of
from layoutdsl.compiler.defaults import fill_defaults, why_excluded
from layoutdsl.compiler.elaborate import Elaboration, elaborate, outputs_of
from layoutdsl.compiler.emit import emit, test_expr
from layoutdsl.compiler.evaluate import Undecided
from layoutdsl.compiler.forward import Forward, elaborate_forward
from layoutdsl.compiler.liveness import check_liveness, used
from layoutdsl.compiler.load_calls import check_load_calls
from layoutdsl.compiler.loaders import loader_attributes
from layoutdsl.compiler.names import check_names
from layoutdsl.compiler.require import conditions_of, sizes_used
from layoutdsl.compiler.scope import World
from layoutdsl.compiler.sharding import check_sharding, shard_conditions
from layoutdsl.compiler.types import native_type
from layoutdsl.compiler.values import check_values
from layoutdsl.compiler.worlds import check_facets, decide, enumerate_worlds, fork
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Label, Span
from layoutdsl.ir.layout import TensorType
from layoutdsl.ir.program import Compute, Constant, Instruction, Output, Program
from layoutdsl.plan.forward import walk
from layoutdsl.plan.model import Plan
from layoutdsl.syntax.document import Document

__all__ = ["Compiled", "World", "compile_document", "plan_of", "validate", "worlds"]


@dataclass(slots=True)
class Compiled:
    """One world, elaborated: the state after the last step, and the forward."""

    state: Elaboration
    forward: Forward


def worlds(document: Document, given: Mapping[str, Any] | None = None) -> Iterator[Compiled]:
    """Every reachable world, elaborated; names in ``given`` have that value only. Raises DiagnosticError for problems that stop the enumeration."""
    settings = _settings(document)
    for name, value in (given or {}).items():
        settings[name] = replace(settings[name], values=(value,))
    enumeration = enumerate_worlds(document, settings)
    if enumeration.problems:
        raise DiagnosticError(*_distinct(enumeration.problems))
    if not enumeration.worlds:
        raise DiagnosticError(_nothing_reachable(document))
    pending = list(reversed(enumeration.worlds))
    while pending:
        world = pending.pop()
        try:
            yield _compiled(world)
        except Undecided as undecided:
            pending += reversed(fork(world, undecided.name))


def _nothing_reachable(document: Document) -> Diagnostic:
    """A spec that holds nowhere would be right in every case that there is."""
    span = document.require[0].span if document.require else document.span
    helps = ("drop the requirement that contradicts the others, or give it a `when`",)
    return Diagnostic(code="require-excludes-all", message="no configuration meets all of `require`", span=span, helps=helps)


def _settings(document: Document) -> dict[str, Setting]:
    problems = [*check_declarations(document), *check_facets(document), *check_names(document)]
    if problems:
        raise DiagnosticError(*_distinct(problems))
    return settings_of(document)


def _compiled(world: World) -> Compiled:
    state = elaborate(world)
    check_values(state)
    if not state.problems:
        state.problems += check_sharding(state)
    state.problems += check_load_calls(state)
    forward = elaborate_forward(state)
    return Compiled(state, forward)


def validate(document: Document) -> list[Diagnostic]:
    """Everything that is wrong with a spec in any reachable configuration, each finding once, in the order of the file."""
    found: list[Diagnostic] = []
    accepts: dict[int, tuple[str, Span, bool]] = {}
    needed: set[int] = set()
    try:
        for compiled in worlds(document):
            needed |= used(compiled.state)
            found += [*compiled.state.problems, *compiled.forward.problems] or [*check_liveness(compiled.state), *_unchecked(compiled.forward)]
            for accept in compiled.state.accepts:
                was_used = accept.used or accepts.get(accept.span.start, ("", accept.span, False))[2]
                accepts[accept.span.start] = (accept.code, accept.span, was_used)
    except DiagnosticError as error:
        found += error.diagnostics
    # What an error leaves unread or unaccepted follows from it.
    errors = [problem for problem in found if problem.severity == "error"]
    found = [problem for problem in found if problem.code != "loaded-unused" or problem.span is None or problem.span.start not in needed]
    return _distinct(errors or [*found, *(_unused_accept(code, span) for code, span, used in accepts.values() if not used)])


def _unchecked(forward: Forward) -> list[Diagnostic]:
    """Kernels without a contract row: nobody checks what they are given."""
    return [
        Diagnostic(
            code="kernel-unchecked",
            severity="note",
            message=f"no contract row speaks of this call of `{span.text}`, so its operands are not checked",
            span=span,
        )
        for span in forward.unknown.values()
    ]


def _unused_accept(code: str, span: Span) -> Diagnostic:
    from layoutdsl.diagnostics.rules import RULES  # the pages are long, and needed only here

    if code in RULES:
        return Diagnostic(code="accept-unused", message=f"nothing here is refused with `{code}`", span=span, helps=("drop the `accept`",))
    close = get_close_matches(code, RULES, 1)
    helps = (f"a rule like it is `{close[0]}`",) if close else ("write the code that stands in brackets behind `error`",)
    return Diagnostic(code="accept-unused", message=f"no rule is called `{code}`", span=span, helps=helps)


_SAID_ONCE = (
    *("name-unknown", "not-an-axis", "tensor-unknown", "tensor-not-in-case", "read-after-delete", "read-digits"),
    *("contract-layout", "bitcast-by-value", "bitcast-indivisible", "bitcast-not-fastest", "no-op"),
)
"""Rules whose findings of one text have one cause, wherever they stand."""


def _distinct(problems: list[Diagnostic]) -> list[Diagnostic]:
    """One finding per place and rule, and per cause: what is wrong in ten configurations, or goes wrong into ten calls, is wrong once."""
    seen: dict[Any, Diagnostic] = {}
    for problem in problems:
        key = (problem.code, problem.span.start if problem.span else problem.where, problem.message if problem.span is None else "")
        seen.setdefault(key, problem)
    found: list[Diagnostic] = []
    places: dict[Any, int] = {}
    for problem in sorted(seen.values(), key=lambda p: (p.span.start if p.span else -1, p.code)):
        causes = _causes(problem)
        place = next((places[cause] for cause in causes if cause in places), len(found))
        places.update(dict.fromkeys(causes, place))
        if place == len(found):
            found.append(problem)
        elif problem.span is not None and len(found[place].labels) < 4:
            found[place] = replace(found[place], labels=(*found[place].labels, Label(problem.span, problem.label or "here too")))
    return found


def _causes(problem: Diagnostic) -> list[Any]:
    """What two findings share that are one mistake: a cause that they name, the thing they are about, or their text."""
    named = [] if problem.cause is None else [(problem.code, "cause", problem.cause)]
    if problem.code in _SAID_ONCE or problem.where:
        return [*named, (problem.code, problem.where or problem.message)]
    return named or [id(problem)]


# --- one configuration ----------------------------------------------------------------------------------------------------------------------------------------


def compile_document(document: Document, given: Mapping[str, Any]) -> Plan:
    """The plan of one configuration.

    given: config values by name; what is missing takes the spec's default. Raises: DiagnosticError.
    """
    return plan_of(elaborate_one(document, given))


def plan_of(compiled: Compiled) -> Plan:
    """The plan of one elaborated configuration. Raises: DiagnosticError."""
    problems = [p for p in (*compiled.state.problems, *compiled.forward.problems) if p.severity == "error"]
    if problems:
        raise DiagnosticError(*_distinct(problems))
    program, world = program_of(compiled), compiled.state.world
    document = world.document
    loaders = {name: loader_attributes(parameter, document.layer.value, compiled.state) for name, parameter in compiled.state.parameters.items()}
    config = {name: value for name, value in world.config.items() if name in world.used}
    return emit(program, document.scheme.value, document.layer.value, document.source.text, config, loaders)


def elaborate_one(document: Document, given: Mapping[str, Any]) -> Compiled:
    """Elaborate one configuration; names that are not given take their defaults."""
    settings = _settings(document)
    world = World(document, settings, dict(resolve(settings, given)), {}, concrete=True)
    fill_defaults(world)
    if not decide(world):
        raise DiagnosticError(why_excluded(world))
    return _compiled(world)


def program_of(compiled: Compiled) -> Program:
    """The typed program of one configuration, with only what its results need."""
    state, forward = compiled.state, compiled.forward
    outputs, code = outputs_of(state), list(state.code)
    for name, binding in state.bindings.items():
        if isinstance(binding.value, Constant):
            outputs.append(_constant_output(name, binding.value, binding.kind, code, state, binding.span))
    axes = {axis: extent for context in state.contexts.values() for axis, extent in context.space.extents.items()}
    used = {digit.axis for kind in _types(state, code) for dim in (*kind.dims, kind.lanes, kind.logical) for digit in dim}
    axes = {axis: extent for axis, extent in axes.items() if axis in used}
    require = [*conditions_of(state.world, test_expr), *shard_conditions(state)]
    sizes = sizes_used(axes.values(), [*(c.test for c in require), *(limit.test for limit in forward.limits), *_forward_sizes(forward)])
    return Program(
        sizes=sizes,
        free=tuple(size for axis in state.world.document.axes if axis.free and (size := axis.name.value.upper()) in sizes),
        nominal={name: size for context in state.contexts.values() for name, size in context.nominal.items() if name in sizes},
        axes=axes,
        parameters=list(state.parameters.values()),
        code=code,
        outputs=outputs,
        require=require,
        limits=forward.limits,
        forward=forward.calls,
    )


def _forward_sizes(forward: Forward) -> Iterator[Any]:
    """Size expressions that the calls mention."""
    for call in forward.calls or ():
        yield from (expr[1] for tree in (call.expr, call.when) for expr in walk(tree) if expr[0] == "size")


def _types(state: Elaboration, code: list[Instruction]) -> Iterator[TensorType]:
    yield from (parameter.value.type for parameter in state.parameters.values())
    yield from (instruction.result.type for instruction in code)


def _constant_output(name: str, constant: Constant, kind: str, code: list[Instruction], state: Elaboration, span: Span) -> Output:
    dtypes: dict[type, str] = {bool: "bool", int: "int64", float: "float64"}
    dtype = dtypes.get(type(constant.value))
    if dtype is None:
        raise DiagnosticError(Diagnostic(code="not-a-tensor", message=f"`{name}` is neither a number nor a condition", span=span))
    result = state.value(name, native_type(dtype, ()), span)
    number = int(constant.value) if isinstance(constant.value, bool) else constant.value  # a plan's constants are numbers, the dtype says of what kind
    code.append(Compute(result, ("const", dtype, number), span))
    return Output(name, result, kind)
