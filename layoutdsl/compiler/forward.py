"""The forward: straight-line kernel calls, resolved against the layer's results and checked against contracts; encoded for the plan.

Call-time conditions (``given(bias)``, ``x.dtype``) stay in the plan; everything that config decides is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from layoutdsl.compiler.contracts import Operand, broken_by_defaults, check_call, rows_for
from layoutdsl.compiler.elaborate import Accept, Elaboration, Silenced, op_name, view_inline
from layoutdsl.compiler.emit import plan_type, size_expr
from layoutdsl.compiler.evaluate import DtypeName, evaluate, fail
from layoutdsl.compiler.scope import Context
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Span
from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.ir.layout import Element, TensorType
from layoutdsl.ir.program import Limit, Value
from layoutdsl.ir.symbolic import Size
from layoutdsl.kernels import CONTRACTS, Row
from layoutdsl.plan.model import Call as PlanCall
from layoutdsl.syntax.document import ForwardBlock, ForwardLine, ForwardWord
from layoutdsl.syntax.tree import Binary, Call, Conditional, Constant, Expr, Index, Inline, Items, Name, Sum, Unary
from layoutdsl.syntax.walk import nodes

INPUTS = ("x", "bias", "x_scale", "group_list", "group_list_type", "topk_ids", "topk_weights")
"""What a layer is called with, besides its own tensors."""


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
    walker = _Walker(state, next(iter(state.contexts.values())), result)
    for item in section:
        lines = item.lines if isinstance(item, ForwardBlock) else (item,)
        when = item.when if isinstance(item, ForwardBlock) else None
        for line in lines:
            state.guarded(line.span, lambda line=line, when=when: walker.line(line, when))  # type: ignore[misc]
    if result.calls and all(call.expr == ("external",) for call in result.calls if not call.targets) and any(not call.targets for call in result.calls):
        result.calls = None
    elif len(ends := [call for call in result.calls or () if not call.targets and call.when == ("const", True)]) > 1:
        span = section[-1].span
        message = f"{len(ends)} lines return in: {state.world.describe() or 'this spec'}"
        helps = ("give them conditions that exclude each other",)
        result.problems.append(Diagnostic(code="forward-returns-twice", message=message, span=span, helps=helps))
    elif not any(not call.targets for call in result.calls or ()) and not state.problems and not result.problems:
        span = section[-1].span if section else state.world.document.span
        message = f"nothing is returned in: {state.world.describe() or 'this spec'}"
        result.problems.append(Diagnostic(code="forward-returns-nothing", message=message, span=span, helps=("add `- return: ...`",)))
    return result


class _Walker:
    def __init__(self, state: Elaboration, context: Context, result: Forward) -> None:
        self.state, self.context, self.result = state, context, result
        self.locals: set[str] = set()
        self.failed: set[str] = set()
        self.here = ""

    # -- lines

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
        self.here = f"forward line {line.span.start}"
        self.state.accepts += [Accept(text.value, text.span, self.here) for text in line.accept]
        when: Any = ("const", True)
        for condition in open_conditions:
            encoded = self.encode(condition)
            when = encoded if when == ("const", True) else ("and", when, encoded)
        expr = ("external",) if isinstance(body, Name) and body.id == "external" else self.encode(body)
        names = tuple(self.context.member.expand(target.name) for target in line.targets)
        self.locals |= {name for name in names if name != "_"}
        self.failed -= self.locals
        assert self.result.calls is not None
        self.result.calls.append(PlanCall(names, expr, when))

    def _at_call_time(self, expr: Expr) -> bool:
        return self.context.memo.once((_at_call_time, expr), lambda: _at_call_time(expr))

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
                return self._inline(expr)
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

    def _inline(self, expr: Inline) -> Any:
        name = self.context.member.expand(expr.name.id)
        base = self._name(name, expr.name.span)
        if base[0] != "layer":
            return ("stages", base, " | ".join(" ".join(stage.span.text.split()) for stage in expr.stages))
        value = self._tensor(name, expr.name.span)
        made = self.context.memo.once((expr, value.type), lambda: plan_type(view_inline(self.context, name, value, expr.stages)))
        return ("view", base, made)

    def _tensor(self, name: str, span: Span) -> Value:
        value = self.state.bindings[name].value
        if not isinstance(value, Value):
            if value is None:
                raise Silenced
            fail("not-a-tensor", span, f"`{name}` is a number, not a tensor")
        return value

    def _call(self, expr: Call) -> Any:
        if expr.name == "given":
            return ("given", *(self.encode(a.value) for a in expr.arguments))
        if expr.name == "cast" or expr.name in ELEMENTS:
            return self._cast(expr)
        args = tuple(self.encode(a.value) for a in expr.arguments if a.keyword is None)
        kwargs = tuple((a.keyword, self.encode(a.value)) for a in expr.arguments if a.keyword is not None)
        op = op_name(expr.name)
        _check_kernel_name(expr)
        self._check(op, expr)
        return ("call", op, args, kwargs)

    def _cast(self, expr: Call) -> Any:
        values = [a.value for a in expr.arguments]
        if len(values) != (2 if expr.name == "cast" else 1):
            fail("argument-count", expr.span, "a cast takes a dtype and a value", helps=("write `cast(x.dtype, scale)` or `float32(scale)`",))
        dtype = self.encode(values[0]) if expr.name == "cast" else ("dtype", expr.name)
        return ("cast", dtype, self.encode(values[-1]))

    # -- contracts

    def _check(self, op: str, expr: Call) -> None:
        contract = CONTRACTS.get(op)
        if contract is None:
            self.result.unknown.setdefault(op, expr.name_span)
            return
        positional = [a for a in expr.arguments if a.keyword is None]
        given = {name: a.value for name, a in zip(contract.parameters, positional)} | {a.keyword: a.value for a in expr.arguments if a.keyword is not None}
        for argument in expr.arguments:
            if argument.keyword is not None and argument.keyword not in contract.parameters:
                close = get_close_matches(argument.keyword, contract.parameters, 1)
                helps = (f"a name like it is `{close[0]}`",) if close else ()
                fail("argument-unknown", argument.span, f"`{expr.name}` has no argument `{argument.keyword}`", helps=helps)
        if len(positional) > len(contract.parameters):
            fail("argument-count", expr.span, f"`{expr.name}` takes {len(contract.parameters)} arguments")
        operands = {name: operand for name, value in given.items() if (operand := self._operand(value)) is not None}
        x_dtype = str(evaluate(Name("params_dtype", expr.span), self.context)) if self._uses_x_dtype(op) else ""
        # Devices with the same rows are one case.
        for rows in {rows_for(op, device): None for device in self._devices()}:
            problems, limits = self._checked(op, expr.name_span, operands, frozenset(given), x_dtype, rows)
            if problems is None:
                self.result.unknown.setdefault(op, expr.name_span)
                continue
            names = {self.here, *self._names_in(expr)}
            self.result.problems += [problem for problem in problems if not self.state.accept(problem.code, names)]
            self.result.limits += [limit for limit in limits if all(limit.test != known.test or limit.kernel != known.kernel for known in self.result.limits)]
            if not self.context.world.concrete:
                broken = [(limit, values) for limit in limits if (values := broken_by_defaults(limit, self.context))]
                self.result.problems += [self._broken(limit, values, expr) for limit, values in broken if not self.state.accept(limit.slug, names)]

    def _names_in(self, expr: Expr) -> set[str]:
        return {self.context.member.expand(node.id) for node in nodes(expr) if isinstance(node, Name)}

    def _checked(
        self, op: str, span: Span, operands: dict[str, Operand], given: frozenset[str], x_dtype: str, rows: tuple[Row, ...]
    ) -> tuple[list[Diagnostic] | None, list[Limit]]:
        """The verdict on one call, made once for all worlds in which its operands have the same types."""
        context = self._context_of(operands)
        key: Any = (op, span.start, tuple((n, o.type, o.integer) for n, o in operands.items()), given, x_dtype, tuple(row.name for row in rows))
        return context.memo.by_value(key, lambda: check_call(op, span, operands, given, context, x_dtype, rows))

    def _devices(self) -> tuple[str, ...]:
        """The device of this world, or all that the spec holds for where no case asks."""
        world = self.context.world
        decided = world.config.get("device")
        return (str(decided),) if decided is not None else tuple(map(str, world.settings["device"].values or ()))

    def _uses_x_dtype(self, op: str) -> bool:
        return any("x_dtype" in text for row in CONTRACTS[op].rows for text in row.arguments.values())

    def _broken(self, limit: Limit, values: str, expr: Call) -> Diagnostic:
        message = f"`{expr.name}` wants `{limit.text}`, which the spec's own default breaks: {values}"
        return Diagnostic(
            code=limit.slug,
            message=message,
            span=expr.name_span,
            where=expr.name,
            notes=(f"by the contract row {limit.source}",),
            helps=(f"change the default or the step, or write `accept: {limit.slug}` with a `why`",),
        )

    def _context_of(self, operands: dict[str, Operand]) -> Context:
        """The member whose axes the operands have: messages then use its letters."""
        axes = {d.axis for o in operands.values() if o.type is not None for dim in o.type.dims for d in dim}
        for context in self.state.contexts.values():
            if axes <= set(context.axes.values()):
                return context
        return self.context

    def _operand(self, expr: Expr) -> Operand | None:
        """The type or integer of an argument, where it is known."""
        match expr:
            case Items((item,)):
                return self._operand(item)
            case Name(name, span):
                binding = self.state.bindings.get(self.context.member.expand(name))
                if binding is not None and isinstance(binding.value, Value):
                    return Operand(binding.value.type, None, span)
                if binding is None and name not in self.locals and name not in INPUTS and not name.endswith(".dtype"):
                    value = evaluate(expr, self.context)
                    if isinstance(value, (int, Size)) and not isinstance(value, bool):
                        return Operand(None, value, span)
            case Constant(int(value), span) if not isinstance(value, bool):
                return Operand(None, value, span)
            case Inline(name, stages, span):
                binding = self.state.bindings.get(self.context.member.expand(name.id))
                if binding is not None and isinstance(binding.value, Value):
                    return Operand(view_inline(self.context, name.id, binding.value, stages), None, span)
            case Call("cast", arguments=(dtype, value)):
                return self._cast_operand(dtype.value, value.value)
            case Call(name, name_span, arguments=(value,)) if name in ELEMENTS:
                return self._cast_operand(Name(name, name_span), value.value)
        return None

    def _cast_operand(self, dtype: Expr, value: Expr) -> Operand | None:
        inner = self._operand(value)
        if inner is None or inner.type is None:
            return inner
        return replace(inner, type=self._casted(inner.type, dtype))

    def _casted(self, kind: TensorType, dtype: Expr) -> TensorType:
        name = dtype.id if isinstance(dtype, Name) else dtype.span.text
        element = evaluate(Name("params_dtype" if name == "x.dtype" else name, dtype.span), self.context)
        if not isinstance(element, DtypeName):
            fail("not-a-dtype", dtype.span, f"`{name}` is not a dtype", helps=("write `x.dtype`, or a dtype",))
        return replace(kind, element=Element(str(element)), storage=ELEMENTS[element].native or kind.storage)


def _check_kernel_name(expr: Call) -> None:
    """A kernel is ``npu_...``, or of a namespace that torch knows operators by: a slip of the pen must not become a kernel."""
    namespace, _, name = expr.name.rpartition(".")
    if namespace in ("torch_npu", "npu", "torch.ops.npu"):
        fail("kernel-unknown", expr.name_span, f"`{expr.name}` is Python's name of a kernel", helps=(f"write `{name}(...)`",))
    if not namespace and not name.startswith("npu_"):
        help_ = "write `x.dtype`" if name == "dtype" else "a kernel is written `npu_...`, or with its namespace as in `_C_ascend.name`"
        fail("kernel-unknown", expr.name_span, f"`{name}` is not a kernel", helps=(help_,))


def _at_call_time(expr: Expr) -> bool:
    """Does a condition ask what only a call knows: is an input given, which dtype has it?"""
    return any((isinstance(n, Call) and n.name == "given") or (isinstance(n, Name) and n.id.endswith(".dtype")) for n in nodes(expr))
