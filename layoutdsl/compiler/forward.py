"""The forward: straight-line kernel calls, resolved against the layer's results, checked by ``layoutdsl.compiler.forward_types``, encoded for the plan.

Call-time conditions (``given(bias)``, ``x.dtype``) stay in the plan; everything that config decides is decided here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from layoutdsl.compiler.elaborate import Accept, Elaboration, Silenced, op_name
from layoutdsl.compiler.emit import plan_type, size_expr
from layoutdsl.compiler.evaluate import DtypeName, evaluate, fail
from layoutdsl.compiler.forward_types import ForwardTypes, Line, at_call_time
from layoutdsl.compiler.scope import Context
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Span
from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.ir.program import Limit
from layoutdsl.ir.symbolic import Size
from layoutdsl.plan.forward import INPUTS, fault
from layoutdsl.plan.groups import group_list_kind
from layoutdsl.plan.model import Call as PlanCall
from layoutdsl.syntax.document import ForwardBlock, ForwardLine, ForwardWord
from layoutdsl.syntax.tree import Binary, Call, Conditional, Constant, Expr, Index, Inline, Items, Name, Sum, Unary

_LOCAL = re.compile(r"(?!__)[A-Za-z_]\w*", re.ASCII)


@dataclass(slots=True)
class Forward:
    """The calls of one world, or None where the consumer calls the kernels."""

    calls: list[PlanCall] | None = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)
    problems: list[Diagnostic] = field(default_factory=list)
    unknown: dict[str, Span] = field(default_factory=dict)


def elaborate_forward(state: Elaboration) -> Forward:
    """Resolve and check the forward of one world. Raises Undecided."""
    result, section = Forward(), state.world.document.forward
    if isinstance(section, ForwardWord):
        if section.word.value != "external":
            message = f"`{section.word.value}` is not a forward"
            result.problems.append(Diagnostic(code="forward-unknown", message=message, span=section.word.span, helps=("write `external` or a list of calls",)))
        result.calls = None
        return result
    walker, before = _Walker(state, next(iter(state.contexts.values()))), len(state.problems)
    for item in section:
        lines = item.lines if isinstance(item, ForwardBlock) else (item,)
        when = item.when if isinstance(item, ForwardBlock) else None
        for line in lines:
            state.guarded(line.span, lambda line=line, when=when: walker.line(line, when))  # type: ignore[misc]
    result.calls = walker.calls
    _check_returns(state, result)
    # A step whose target nobody knows was meant for another tensor, which is now not what the calls expect.
    if len(state.problems) == before and result.calls is not None and not any(problem.code == "tensor-unknown" for problem in state.problems):
        types = _typed(state, walker.lines)
        result.problems += types.problems
        result.limits, result.unknown = types.limits, types.unknown
        result.calls = [PlanCall(call.targets, _with_views(call.expr, types), _with_views(call.when, types)) for call in result.calls]
        result.problems += _check_paths(state, result.calls) if not (result.problems or state.problems) else []
    return result


def _typed(state: Elaboration, lines: list[Line]) -> ForwardTypes:
    """The lines, typed; within the limits of the kernels where they are right only there, since what a kernel gives may have a type only there."""
    facts, assumed = state.world.facts, set[tuple[Size, Size]]()
    first = types = ForwardTypes(state, facts)
    types.check(lines)
    while types.problems and not assumed >= (limits := {pair for limit in types.limits for pair in limit.divides}):
        assumed |= limits
        types = ForwardTypes(state, facts.with_divides(sorted(assumed, key=str)))
        types.check(lines)
    return first if types.problems else types


def _check_paths(state: Elaboration, calls: list[PlanCall]) -> list[Diagnostic]:
    """What no single line shows: names without a value for some inputs, inputs for which nothing is returned, two wishes for one group list."""
    section = state.world.document.forward
    assert not isinstance(section, ForwardWord)
    found, problem = [], fault(calls)
    if problem is not None:
        code = "forward-returns-nothing" if "returns" in problem else "forward-path"
        helps = ("bind it, or return, on every way through the lines: `when: given(x_scale)` beside `when: not given(x_scale)`",)
        found.append(Diagnostic(code=code, message=problem, span=section[-1].span, helps=helps))
    try:
        group_list_kind(calls)
    except DiagnosticError as error:
        found += [replace(diagnostic, span=section[-1].span) for diagnostic in error.diagnostics]
    return found


def _check_returns(state: Elaboration, result: Forward) -> None:
    section, returns = state.world.document.forward, [call for call in result.calls or () if not call.targets]
    assert not isinstance(section, ForwardWord)
    span = section[-1].span if section else state.world.document.span
    if returns and all(call.expr == ("external",) for call in returns):
        result.calls = None
    elif len([call for call in returns if call.when == ("const", True)]) > 1:
        message = f"{len(returns)} lines return in: {state.world.describe() or 'this spec'}"
        helps = ("give them conditions that exclude each other",)
        result.problems.append(Diagnostic(code="forward-returns-twice", message=message, span=span, helps=helps))
    elif not returns and not state.problems:
        message = f"nothing is returned in: {state.world.describe() or 'this spec'}"
        result.problems.append(Diagnostic(code="forward-returns-nothing", message=message, span=span, helps=("add `- return: ...`",)))


def _with_views(expr: Any, types: ForwardTypes) -> Any:
    """Views get the types between which they go, which are known once the lines are typed."""
    match expr:
        case ("view", base, Inline() as inline):
            source, target = types.views.get(id(inline), (None, None))
            if source is None or target is None:
                return _with_views(base, types)  # its line is never reached, or has a finding
            return ("view", _with_views(base, types), plan_type(source), plan_type(target))
        case tuple():
            return tuple(_with_views(part, types) for part in expr)
    return expr


class _Walker:
    """Resolves names, line by line, and encodes what they mean."""

    def __init__(self, state: Elaboration, context: Context) -> None:
        self.state, self.context = state, context
        self.calls: list[PlanCall] = []
        self.lines: list[Line] = []
        self.locals: set[str] = set()
        self.failed: set[str] = set()

    def line(self, line: ForwardLine, block: Expr | None) -> None:
        """Check and encode one line. Names that a failed line would bind silence what uses them."""
        try:
            self._line(line, block)
        except (DiagnosticError, Silenced):
            self.failed |= {self.context.member.expand(target.name) for target in line.targets}
            raise

    def _line(self, line: ForwardLine, block: Expr | None) -> None:
        conditions = [c for c in (block, line.when) if c is not None]
        open_conditions = [c for c in conditions if self._at_call_time(c)]
        if not all(self.context.holds(c) for c in conditions if c not in open_conditions):
            return
        body = self.context.expr(line.body)
        if body is None:
            return
        here = f"forward line {line.span.start}"
        self.state.accepts += [Accept(text.value, text.span, here) for text in line.accept]
        when: Any = ("const", True)
        for condition in open_conditions:
            encoded = self.encode(condition)
            when = encoded if when == ("const", True) else ("and", when, encoded)
        external = isinstance(body, Name) and body.id == "external"
        expr = ("external",) if external else self.encode(body)
        names = tuple(self.context.member.expand(target.name) for target in line.targets)
        for name, target in zip(names, line.targets):
            if not _LOCAL.fullmatch(name):
                fail("name-reserved", target.span, f"`{name}` cannot be the name of a result", helps=("write letters, digits and `_`, and no dot",))
        self.locals |= {name for name in names if name != "_"}
        self.failed -= self.locals
        self.calls.append(PlanCall(names, expr, when))
        if not external:
            self.lines.append(Line(names, body, tuple(open_conditions), here, line.span))

    def _at_call_time(self, expr: Expr) -> bool:
        return self.context.memo.once((at_call_time, expr), lambda: at_call_time(expr))

    # -- expressions

    def encode(self, expr: Expr) -> Any:
        """An expression for the plan. Raises DiagnosticError for names that are nowhere."""
        match expr:
            case Constant(value):
                return ("const", value)
            case Name(name, span):
                return self._name(name, span)
            case Items(items):
                return ("list", *map(self.encode, items))
            case Conditional(condition, then, otherwise):
                if not self._at_call_time(condition):
                    return self.encode(then if self.context.holds(condition) else otherwise)
                return ("if", self.encode(condition), self.encode(then), self.encode(otherwise))
            case Unary(op, operand):
                return ("not" if op == "not" else "neg", self.encode(operand))
            case Binary(op, left, right):
                return (op, self.encode(left), self.encode(right))
            case Inline():
                return ("view", self._name(expr.name.id, expr.name.span), expr)
            case Call():
                return self._call(expr)
            case Index(span=span) | Sum(span=span):
                fail("not-forward", span, "index math belongs into `steps`, forward only calls kernels")

    def _name(self, name: str, span: Span) -> Any:
        name = self.context.member.expand(name)
        base = name[: -len(".dtype")] if name.endswith(".dtype") else name
        if base in self.failed:
            raise Silenced
        if base in self.locals:
            found: Any = ("local", base)
        elif base in self.state.bindings or base in self.state.deleted:
            self.state.read_output(base, span)
            if self.state.bindings[base].value is None:
                raise Silenced
            found = ("layer", base)
        elif base in INPUTS:
            found = ("input", base)
        else:
            return self._config(name, span)
        return ("dtype_of", found) if base != name else found

    def _config(self, name: str, span: Span) -> Any:
        try:
            value = evaluate(Name(name, span), self.context)
        except DiagnosticError as error:
            known = [*self.state.bindings, *self.locals, *INPUTS]
            close = get_close_matches(name, known, 1)
            helps = (f"a name like it is `{close[0]}`",) if close else error.diagnostics[0].helps
            fail("name-unknown", span, f"`{name}` is neither a tensor of the layer, nor an input, nor config", helps=helps)
        if isinstance(value, DtypeName):
            return ("dtype", str(value))
        return ("size", size_expr(value)) if isinstance(value, Size) else ("const", value)

    def _call(self, expr: Call) -> Any:
        if expr.name == "given":
            return ("given", *(self.encode(a.value) for a in expr.arguments))
        if expr.name == "cast" or expr.name in ELEMENTS:
            return self._cast(expr)
        args = tuple(self.encode(a.value) for a in expr.arguments if a.keyword is None)
        kwargs = tuple((a.keyword, self.encode(a.value)) for a in expr.arguments if a.keyword is not None)
        _check_kernel_name(expr)
        return ("call", op_name(expr.name), args, kwargs)

    def _cast(self, expr: Call) -> Any:
        values = [a.value for a in expr.arguments]
        if len(values) != (2 if expr.name == "cast" else 1):
            fail("argument-count", expr.span, "a cast takes a dtype and a value", helps=("write `cast(x.dtype, scale)` or `float32(scale)`",))
        dtype = self.encode(values[0]) if expr.name == "cast" else ("dtype", expr.name)
        return ("cast", dtype, self.encode(values[-1]))


def _check_kernel_name(expr: Call) -> None:
    """A kernel is ``npu_...``, or of a namespace that torch knows operators by: a slip of the pen must not become a kernel."""
    namespace, _, name = expr.name.rpartition(".")
    if namespace in ("torch_npu", "npu", "torch.ops.npu"):
        fail("kernel-unknown", expr.name_span, f"`{expr.name}` is Python's name of a kernel", helps=(f"write `{name}(...)`",))
    if not namespace and not name.startswith("npu_"):
        help_ = "write `x.dtype`" if name == "dtype" else "a kernel is written `npu_...`, or with its namespace as in `_C_ascend.name`"
        fail("kernel-unknown", expr.name_span, f"`{name}` is not a kernel", helps=(help_,))
