"""The types of a forward: inputs, results of calls, views; every call checked against its schema and its contract.

Between ``layoutdsl.compiler.forward``, which resolves names, and ``layoutdsl.compiler.contracts``, which unifies a call with a row. What is known only at the
call (is an input given, which dtype has ``x``) is finite: every such case is typed on its own.

Invariants: the rows of ``x`` are the axis ``rows``; a result is over axes of the layer, that axis, and axes that its call makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import product, zip_longest
from typing import Any

from layoutdsl.compiler.contracts import Operand, Verdict, broken_by_defaults, check_call, rows_for
from layoutdsl.compiler.elaborate import Elaboration, Silenced, op_name, view_inline
from layoutdsl.compiler.evaluate import DtypeName, evaluate, fail
from layoutdsl.compiler.partial_sums import is_part, split_axes
from layoutdsl.compiler.scope import Context
from layoutdsl.compiler.types import native_type
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Label, Span
from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.ir.layout import ROWS, Digit, Element, Space, TensorType, type_text
from layoutdsl.ir.program import Limit, Move, Opaque, Value
from layoutdsl.ir.symbolic import Facts, Size
from layoutdsl.kernels import CONTRACTS
from layoutdsl.kernels.schemas import Schema, SchemaParameter, parse_schema, schema_text, wheel
from layoutdsl.plan.forward import INPUTS
from layoutdsl.plan.sizes import layer_kind
from layoutdsl.syntax.tree import Binary, Call, Conditional, Constant, Expr, Index, Inline, Items, Name, Sum, Unary
from layoutdsl.syntax.walk import nodes


@dataclass(frozen=True, slots=True)
class Line:
    """A line that config has chosen. conditions: what is asked at the call."""

    targets: tuple[str, ...]
    body: Expr
    conditions: tuple[Expr, ...]
    here: str
    span: Span


@dataclass(frozen=True, slots=True)
class Case:
    """One way to call a layer: which optional inputs are given, and the dtype of ``x``."""

    given: Mapping[str, bool]
    x_dtype: str
    x_quantized: bool


def at_call_time(expr: Expr) -> bool:
    """Does a condition ask what only a call knows: is an input given, which dtype has it?"""
    return any((isinstance(n, Call) and n.name == "given") or (isinstance(n, Name) and n.id.endswith(".dtype")) for n in nodes(expr))


@dataclass(slots=True)
class _Scope:
    """The names of one case. spent: locals that a kernel has overwritten, with the call."""

    case: Case
    locals: dict[str, Operand] = field(default_factory=dict)
    spent: dict[str, Span] = field(default_factory=dict)


class ForwardTypes:
    """Checks the lines of one world; findings, conditions of use, kernels that nothing is known of, and the types of inline views are its fields."""

    def __init__(self, state: Elaboration, facts: Facts) -> None:
        self.state, self.facts = state, facts
        self.problems: list[Diagnostic] = []
        self.limits: list[Limit] = []
        self.unknown: dict[str, Span] = {}
        self.views: dict[int, tuple[TensorType, TensorType]] = {}
        self.extents: dict[str, Size] = {axis: extent for context in state.contexts.values() for axis, extent in context.space.extents.items()}
        self.extents[ROWS] = facts.symbol(ROWS)
        self.kind = layer_kind(state.world.document.layer.value)
        self.columns = tuple(self._axis_of(facts.symbol(size)) for size in self.kind.columns) if self.kind.columns else None
        self.contexts = {name: self._forward_context(context) for name, context in state.contexts.items()}
        self.scope = _Scope(Case({}, "", False))
        self.names: set[str] = set()
        self.here = ""

    def _axis_of(self, size: Size) -> str:
        """The first axis of the spec that has this extent; an axis of the forward's own if there is none."""
        axis = next((axis for axis, extent in self.extents.items() if extent == size), None)
        if axis is None:
            axis = f"x.{size}"
            self.extents[axis] = size
        return axis

    def _forward_context(self, context: Context) -> Context:
        """The member's names, and ``m`` for the rows of ``x``."""
        made = Context(context.world, context.member, self.facts)
        made._axes = {"m": ROWS, **context.axes}
        names = {**context.space.names, self.extents[ROWS]: ROWS}
        made._space = Space(self.facts, self.extents, names)
        return made

    @property
    def context(self) -> Context:
        return next(iter(self.contexts.values()))

    # -- cases

    def check(self, lines: list[Line]) -> None:
        """Type all lines in every case. Raises Undecided."""
        self.names = {name for line in lines for name in line.targets}
        for case in self._cases(lines):
            self.scope = _Scope(case)
            before = len(self.problems)
            for line in lines:
                self._guarded(line)
                if len(self.problems) > before:
                    break  # what follows would only say it again

    def _guarded(self, line: Line) -> None:
        """Type one line; its problems are collected."""
        try:
            if all(self._holds(condition) for condition in line.conditions):
                self._line(line)
        except DiagnosticError as error:
            self.problems += error.diagnostics
        except Silenced:
            pass

    def _cases(self, lines: list[Line]) -> Iterator[Case]:
        """Every way to call the layer that the lines tell apart."""
        asked = [node for line in lines for part in (line.body, *line.conditions) for node in nodes(part)]
        given = dict.fromkeys(name.value.id for n in asked if isinstance(n, Call) and n.name == "given" for name in n.arguments if isinstance(name.value, Name))
        compared = [n for n in asked if isinstance(n, Binary) and isinstance(n.left, Name) and n.left.id == "x.dtype"]
        quantized = dict.fromkeys(node.id for n in compared for node in nodes(n.right) if isinstance(node, Name) and node.id in ELEMENTS)
        wide = self._params_dtypes()
        for flags in product((False, True), repeat=len(given)):
            chosen = dict(zip(given, flags))
            for dtype in dict.fromkeys((*wide, *quantized)):
                if chosen.get("x_scale") and quantized and dtype in wide:
                    continue  # a scale comes with a quantized x
                yield Case(chosen, dtype, bool(chosen.get("x_scale")) or dtype not in wide)

    def _params_dtypes(self) -> tuple[str, ...]:
        world = self.state.world
        decided = world.config.get("params_dtype")
        return (str(decided),) if decided is not None else tuple(map(str, world.settings["params_dtype"].values or ()))

    def _holds(self, expr: Expr) -> bool:
        """A condition, in this case."""
        if not at_call_time(expr):
            return self.context.holds(expr)
        match expr:
            case Unary("not", operand):
                return not self._holds(operand)
            case Binary("and", left, right):
                return self._holds(left) and self._holds(right)
            case Binary("or", left, right):
                return self._holds(left) or self._holds(right)
            case Call("given", arguments=arguments):
                return all(self._given(argument.value) for argument in arguments)
            case Binary("==" | "!=" as op, left, right):
                return bool(self._constant(left) == self._constant(right)) == (op == "==")
            case Binary("in", left, Items(items)):
                return self._constant(left) in [self._constant(item) for item in items]
        fail("not-a-condition", expr.span, f"`{expr.span.text}` cannot be asked at a call", helps=("ask `given(x_scale)` or compare `x.dtype` with a dtype",))

    def _given(self, expr: Expr) -> bool:
        return not isinstance(expr, Name) or self.scope.case.given.get(expr.id, True)

    def _constant(self, expr: Expr) -> Any:
        operand = self.typed(expr)
        return operand.value if isinstance(operand, Operand) else None

    # -- lines

    def _line(self, line: Line) -> None:
        self.here = line.here
        results = self._results(line.body)
        if not line.targets:
            self._check_returned(results, line)
            return
        if len(line.targets) != len(results):
            message = f"this gives {_count(len(results), 'result')}, and {_count(len(line.targets), 'name')} stand before it"
            fail("targets-differ", line.span, message, helps=("`_` drops a result",))
        for name, operand in zip(line.targets, results):
            self.scope.locals[name] = operand
            self.scope.spent.pop(name, None)

    def _check_returned(self, results: tuple[Operand, ...], line: Line) -> None:
        """One row per row of ``x``, as wide as the layer's output."""
        if len(results) != 1:
            fail("targets-differ", line.span, f"this gives {_count(len(results), 'result')}; a layer returns one", helps=("give them names, and return one",))
        kind = results[0].type
        if kind is None or self.columns is None:
            return
        extents = [self._extent(dim) for dim in kind.dims]
        if extents != [self.extents[ROWS], self.extents[self.columns[1]]] or ELEMENTS[kind.element.name].kind != "float":
            shown = type_text(self.context.space, self._native("bfloat16", ROWS, self.columns[1]))
            message = f"the layer returns `{type_text(self.context.space, kind)}`, not rows of its output such as `{shown}`"
            fail("forward-result", line.body.span, message, helps=("return the result of the last matmul",))

    def _extent(self, dim: tuple[Digit, ...]) -> Size:
        extent = Size.of(1)
        for digit in dim:
            extent = extent * digit.ext
        return extent

    # -- expressions

    def _results(self, expr: Expr) -> tuple[Operand, ...]:
        """The results of a line: several only of a kernel call."""
        if isinstance(expr, Conditional):
            return self._results(expr.then if self._holds(expr.condition) else expr.otherwise)
        if isinstance(expr, Call) and expr.name not in ("given", "cast") and expr.name not in ELEMENTS:
            return self._kernel(expr)
        return (self.typed(expr),)

    def typed(self, expr: Expr) -> Operand:
        """What is known of an expression in this case."""
        match expr:
            case Constant(value, span):
                return Operand(span, value=value)
            case Name(name, span):
                return self._name(self.context.member.expand(name), span)
            case Items():
                return self._items(expr)
            case Conditional():
                return self.typed(expr.then if self._holds(expr.condition) else expr.otherwise)
            case Unary():
                return Operand(expr.span, value=evaluate(expr, self.context)) if not at_call_time(expr) else Operand(expr.span, known=False)
            case Binary():
                return self._operator(expr)
            case Inline():
                return self._inline(expr)
            case Call("given", span=span):
                return Operand(span, value=self._holds(expr))
            case Call("cast", arguments=(dtype, value)):
                return self._cast(dtype.value, value.value, expr.span)
            case Call(name, name_span, arguments=(value,)) if name in ELEMENTS:
                return self._cast(Name(name, name_span), value.value, expr.span)
            case Call():
                results = self._kernel(expr)
                if len(results) != 1:
                    fail("targets-differ", expr.span, f"this gives {_count(len(results), 'result')}, and one is used", helps=("give them names first",))
                return results[0]
            case Index() | Sum():
                return Operand(expr.span, known=False)

    def _name(self, name: str, span: Span) -> Operand:
        if name.endswith(".dtype"):
            operand = self._name(name[: -len(".dtype")], span)
            return Operand(span, value=DtypeName(operand.type.element.name)) if operand.type is not None else Operand(span, known=False)
        if name in self.scope.spent:
            label = Label(self.scope.spent[name], "overwritten here")
            message = f"`{name}` is read after a kernel has overwritten it"
            helps = ("make it again, or read it before that call",)
            raise DiagnosticError(Diagnostic(code="read-after-mutation", message=message, span=span, labels=(label,), helps=helps))
        if name in self.scope.locals:
            return replace(self.scope.locals[name], span=span)
        binding = self.state.bindings.get(name)
        if binding is not None:
            if not isinstance(binding.value, Value):
                return Operand(span, known=False) if binding.value is None else Operand(span, value=binding.value.value)
            if binding.kind == "value":
                return Operand(span, known=False)  # a number of the layer
            return Operand(span, binding.value.type, layer=binding.value)
        if name in INPUTS:
            return self._input(name, span)
        if name in self.names:
            fail("forward-path", span, f"`{name}` has no value {self._case_text()}", helps=("bind it there too, or read it only where it is bound",))
        value = evaluate(Name(name, span), self.context)
        return Operand(span, value=value)

    def _case_text(self) -> str:
        """The case, as a person would say it."""
        given = [f"`{name}` is {'' if flag else 'not '}given" for name, flag in self.scope.case.given.items()]
        return f"where {' and '.join(given)}" if given else f"where x is {self.scope.case.x_dtype}"

    def _input(self, name: str, span: Span) -> Operand:
        """The type that a caller's tensor has; unknown for a quantized ``x`` and its scale, which only the kernels tell apart."""
        if not self.scope.case.given.get(name, True):
            return Operand(span)
        if self.columns is None:
            return Operand(span, known=False)
        dtype = self.scope.case.x_dtype
        if name == "x" and (not self.scope.case.x_quantized or dtype in ("int8", "e4m3", "float8_e4m3fn")):  # others hold several values in one
            return Operand(span, self._native(dtype, ROWS, self.columns[0]))
        if name == "bias" and not self.kind.experts and dtype in self._params_dtypes():
            return Operand(span, self._native(dtype, self.columns[1]))
        if name == "group_list":
            return Operand(span, self._native("int64", self._axis_of(self.state.world.facts.symbol("num_experts"))))
        return Operand(span, known=False)

    def _native(self, element: str, *axes: str) -> TensorType:
        return native_type(element, tuple((Digit(axis, Size.of(1), self.extents[axis]),) for axis in axes))

    def _items(self, expr: Items) -> Operand:
        items = [self.typed(item) for item in expr.items]
        if all(item.known and item.type is None for item in items):
            return Operand(expr.span, value=tuple(item.value for item in items))
        return replace(items[0], span=expr.span) if len(items) == 1 else Operand(expr.span, known=False)

    def _operator(self, expr: Binary) -> Operand:
        left, right = self.typed(expr.left), self.typed(expr.right)
        if left.type is not None and right.type is not None and left.type.element != right.type.element:
            ours, theirs = left.type.element.name, right.type.element.name
            message = f"`{expr.op}` of {ours} and {theirs}: nothing is promoted in silence"
            fail("operator-dtype", expr.span, message, helps=("cast one of them: `cast(x.dtype, ...)`",))
        if left.type is not None:
            return Operand(expr.span, left.type)
        return Operand(expr.span, right.type, known=right.type is not None)

    def _inline(self, expr: Inline) -> Operand:
        name = self.context.member.expand(expr.name.id)
        operand = self._name(name, expr.name.span)
        if operand.absent:
            return operand
        if operand.type is None:
            fail("not-a-tensor", expr.name.span, f"the type of `{name}` is not known here, so it cannot be seen in another way")
        context, kind = self._context_of([operand]), operand.type
        made = context.memo.once((expr, kind), lambda: view_inline(context, kind, expr.stages))
        self.views[id(expr)] = (kind, made)
        return replace(operand, span=expr.span, type=made)

    def _cast(self, dtype: Expr, value: Expr, span: Span) -> Operand:
        inner = self.typed(value)
        if inner.type is None:
            return replace(inner, span=span)
        target = self.typed(dtype)
        if not target.known:
            return Operand(span, known=False)
        if not isinstance(target.value, DtypeName):
            fail("not-a-dtype", dtype.span, f"`{dtype.span.text}` is not a dtype", helps=("write `x.dtype`, or a dtype",))
        element = str(target.value)
        if inner.type.carriage not in ("native", "value") or ELEMENTS[element].native is None:
            fail("cast-of-bits", span, f"`{type_text(self.context.space, inner.type)}` cannot be cast to {element} at a call")
        return replace(inner, span=span, type=replace(inner.type, element=Element(element), storage=ELEMENTS[element].native or inner.type.storage))

    # -- kernels

    def _kernel(self, expr: Call) -> tuple[Operand, ...]:
        op = op_name(expr.name)
        contract = CONTRACTS.get(op)
        text = None if contract is not None else schema_text(op)
        if contract is None and text is None:
            if op.startswith("npu::"):
                fail("kernel-unknown", expr.name_span, f"{wheel()} has no `{expr.name}`", helps=_close(op, [c for c in CONTRACTS if c.startswith("npu::")]))
            self.unknown.setdefault(op, expr.name_span)
            for argument in expr.arguments:
                self.typed(argument.value)
            return (Operand(expr.span, known=False),)
        schema = contract.schema if contract is not None else parse_schema(text or "")
        operands = self._arguments(schema, expr)
        if contract is None:
            self.unknown.setdefault(op, expr.name_span)
            return tuple(Operand(expr.span, known=False) for _ in schema.returns)
        verdict = self._verdict(op, expr, operands)
        self.extents.update(verdict.extents)
        for name in verdict.mutated:
            self._spend(name, expr, schema)
        self._check_addends(verdict, operands)
        self._check_scales(verdict, operands)
        origins = [f"call{expr.span.start}"] * 2 if verdict.quantizes else []
        return tuple(Operand(expr.span, kind, known=kind is not None, origin=origin) for kind, origin in zip_longest(verdict.results, origins, fillvalue=""))  # type: ignore[arg-type]

    def _arguments(self, schema: Schema, expr: Call) -> dict[str, Operand]:
        """Every argument by name, checked against the schema: positions, names, kinds; what is left out has its default."""
        positional = [parameter for parameter in schema.parameters if not parameter.keyword_only]
        given: dict[str, Expr] = {}
        for place, argument in enumerate(expr.arguments):
            name = argument.keyword
            if name is None and place >= len(positional):
                spare = schema.parameters[place].name if place < len(schema.parameters) else None
                helps = (f"write `{spare}={argument.value.span.text}`",) if spare else ()
                fail("argument-count", argument.span, f"`{expr.name}` takes {_count(len(positional), 'argument')} by position", helps=helps)
            name = name or positional[place].name
            if schema.parameter(name) is None:
                known = [parameter.name for parameter in schema.parameters]
                fail("argument-unknown", argument.span, f"`{expr.name}` has no argument `{name}`", helps=_close(name, known))
            if name in given:
                fail("argument-twice", argument.span, f"`{name}` of `{expr.name}` is given twice", helps=("drop one of them",))
            given[name] = argument.value
        operands: dict[str, Operand] = {}
        for parameter in schema.parameters:
            if parameter.name not in given:
                if parameter.default is None and not parameter.optional:
                    fail("argument-missing", expr.span, f"`{expr.name}` needs `{parameter.name}`", helps=(f"pass `{parameter.name}=...`",))
                operands[parameter.name] = Operand(expr.name_span, value=None if parameter.tensors else parameter.default_value)
                continue
            operands[parameter.name] = self._argument(parameter, given[parameter.name], expr)
        return operands

    def _argument(self, parameter: SchemaParameter, value: Expr, expr: Call) -> Operand:
        operand = self.typed(value)
        wrong = _misfit(parameter, operand, isinstance(value, Items))
        if wrong:
            message = f"`{parameter.name}` of `{expr.name}` is {_WORDS.get(parameter.type, parameter.type)}, and this is {wrong}"
            helps = (f"write `[{value.span.text}]`",) if parameter.type == "Tensor[]" and operand.type is not None else ()
            layer = operand.layer
            where, cause = ("", None) if layer is None else (layer.name, self._origin(layer))
            raise DiagnosticError(Diagnostic(code="argument-kind", message=message, span=value.span, where=where, helps=helps, cause=cause))
        return operand

    def _verdict(self, op: str, expr: Call, operands: dict[str, Operand]) -> Verdict:
        """The first verdict, of the devices and consumers of this world; findings of all."""
        context, found, here = self._context_of(operands.values()), None, f"call{expr.span.start}"
        names = {self.here, *(self.context.member.expand(node.id) for node in nodes(expr) if isinstance(node, Name))}
        # Devices and consumers with the same rows are one case.
        for rows, device in {rows_for(op, device, consumer): device for device, consumer in self.state.world.platforms}.items():
            if not rows:
                known = ", ".join(dict.fromkeys(d for row in CONTRACTS[op].rows for d in row.devices))
                fail("contract-device", expr.name_span, f"no contract row of `{expr.name}` holds for device {device}", helps=(f"rows hold for: {known}",))
            types = tuple((name, o.type, o.value, o.known) for name, o in operands.items())
            key: Any = (op, expr.span.start, types, tuple(row.name for row in rows), self.extents.get(ROWS))
            verdict = context.memo.by_value(key, lambda rows=rows: check_call(CONTRACTS[op], rows, operands, context, expr.name_span, here))  # type: ignore[misc]
            found = found or verdict
            self._take(verdict, operands, names, expr)
        assert found is not None
        return found

    def _take(self, verdict: Verdict, operands: dict[str, Operand], names: set[str], expr: Call) -> None:
        for problem in verdict.problems:
            if not self.state.accept(problem.code, names):
                layer = operands[problem.where].layer
                notes = (*problem.notes, *([f"where x is {self.scope.case.x_dtype}"] if len(self._params_dtypes()) > 1 else []))
                self.problems.append(replace(problem, notes=notes, cause=None if layer is None else self._origin(layer)))
        self.limits += [limit for limit in verdict.limits if all(limit.test != known.test or limit.kernel != known.kernel for known in self.limits)]
        if self.state.world.concrete:
            return
        for limit in verdict.limits:
            values = broken_by_defaults(limit, next(iter(self.state.contexts.values())))
            if values and not self.state.accept(limit.slug, names):
                self.problems.append(_broken(limit, values, expr))

    def _origin(self, value: Value) -> int:
        """Where a tensor of the layer was computed or declared, before it was moved: one mistake there shows in every call that takes it."""
        makers = {instruction.result.number: instruction for instruction in self.state.code}
        while isinstance(instruction := makers.get(value.number), (Move, Opaque)):
            value = instruction.of
        return value.span.start

    def _context_of(self, operands: Any) -> Context:
        """The member whose axes the operands have: messages then use its letters."""
        axes = {d.axis for o in operands if o.type is not None for dim in o.type.dims for d in dim}
        return max(self.contexts.values(), key=lambda context: len(axes & set(context.axes.values())))

    def _spend(self, argument: str, expr: Call, schema: Schema) -> None:
        """The kernel overwrites this argument, so the local that it is must not be read again."""
        positions = {parameter.name: place for place, parameter in enumerate(schema.parameters)}
        for place, given in enumerate(expr.arguments):
            if given.keyword != argument and (given.keyword is not None or place != positions[argument]):
                continue
            for node in nodes(given.value):
                if not isinstance(node, Name):
                    continue
                name = self.context.member.expand(node.id)
                if name in self.scope.locals:
                    self.scope.spent[name] = expr.name_span

    def _check_addends(self, verdict: Verdict, operands: dict[str, Operand]) -> None:
        """On a layer whose sum is split over ranks, what is added on every rank is added that many times."""
        if verdict.sums not in split_axes(self.state):
            return
        for name in verdict.addends:
            operand = operands[name]
            value = operand.layer
            if value is None or is_part(self.state, value, verdict.sums):
                continue
            message = f"every rank adds `{value.name}` to its part of the sum over `{verdict.sums}`, so it is added once per rank"
            helps = (f"write `{operand.span.text} if tp_rank == 0 else none`",)
            self.problems.append(Diagnostic(code="replicated-addend", message=message, span=operand.span, where=value.name, helps=helps))

    def _check_scales(self, verdict: Verdict, operands: dict[str, Operand]) -> None:
        """A scale of rows belongs to the tensor that it was made with."""
        for scale, quantized in verdict.scales:
            ours, theirs = operands[scale], operands[quantized]
            if ours.origin and theirs.origin and ours.origin != theirs.origin:
                message = f"`{ours.span.text}` is not the scale of `{theirs.span.text}`: another call made it"
                self.problems.append(Diagnostic(code="scale-of-another", message=message, span=ours.span, helps=("pass the scale that was made with it",)))


def _broken(limit: Limit, values: str, expr: Call) -> Diagnostic:
    return Diagnostic(
        code=limit.slug,
        message=f"`{expr.name}` wants `{limit.text}`, which the spec's own default breaks: {values}",
        span=expr.name_span,
        where=expr.name,
        notes=(f"by the contract row {limit.source}",),
        helps=(f"change the default or the step, or write `accept: {limit.slug}` with a `why`",),
    )


_WORDS = {"Tensor": "a tensor", "Tensor[]": "a list of tensors", "int": "an integer or a dtype", "int[]": "a list of integers", "ScalarType": "a dtype"}
_WORDS |= {"bool": "a truth value", "float": "a number", "str": "a text"}


def _misfit(parameter: SchemaParameter, operand: Operand, bracketed: bool) -> str:
    """Why an operand cannot be this argument; empty if it can."""
    if not operand.known or (operand.absent and (parameter.optional or not bracketed)):
        return "" if not operand.absent or parameter.optional else "none"
    if parameter.tensors:
        if operand.type is None:
            return "no tensor"
        many = bracketed or operand.type.listed is not None
        return "" if many == (parameter.type == "Tensor[]") else "a list" if many else "one tensor"
    if operand.type is not None:
        return "a tensor"
    value = operand.value
    fits: dict[str, bool] = {
        "int": (isinstance(value, (int, Size)) and not isinstance(value, bool)) or isinstance(value, DtypeName),
        "ScalarType": isinstance(value, DtypeName),
        "bool": isinstance(value, bool),
        "float": isinstance(value, (int, float)) and not isinstance(value, bool),
        "str": isinstance(value, str) and not isinstance(value, DtypeName),
        "int[]": isinstance(value, tuple) and all(isinstance(item, (int, Size)) for item in value),
    }
    return "" if fits.get(parameter.type, True) else f"`{value}`"


def _close(name: str, known: list[str]) -> tuple[str, ...]:
    close = get_close_matches(name, known, 1)
    return (f"a name like it is `{close[0].rpartition(':')[2]}`",) if close else ()


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
