"""From a document and a decided world to a typed program: cases picked, templates expanded, every stage typed and lowered.

Single assignment by text order: a right side sees the versions above it, its target is bound after it. Problems are collected; a value that failed
silences what
depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, NoReturn, cast

from layoutdsl.compiler.evaluate import evaluate, fail, integer
from layoutdsl.compiler.helps import help_for
from layoutdsl.compiler.math import Math, Typed
from layoutdsl.compiler.qualities import is_positive, is_reciprocal
from layoutdsl.compiler.scope import Context, Member, World, members_of
from layoutdsl.compiler.types import dtype_name, native_type, reject, tensor_type
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Label, Span
from layoutdsl.ir.dtypes import ELEMENTS, STORAGES, carriage_of
from layoutdsl.ir.layout import Dim, Reject, TensorType
from layoutdsl.ir.program import Compute, Constant, Instruction, Move, Opaque, Output, Parameter, Value
from layoutdsl.ops import OPS, Op
from layoutdsl.plan.model import FRACTAL_NZ
from layoutdsl.syntax.document import RANGES, CaseMap, Delete, ParamDecl, Step, StepBlock, Text
from layoutdsl.syntax.tree import Expr, Index, Name, Pipeline, Stage, Target

KINDS = ("parameter", "attribute", "buffer", "list", "value")


@dataclass(slots=True, eq=False)
class Binding:
    """What a name stands for now. value None: its step failed. kind: parameter, attribute, ... reads: was this version ever read."""

    value: Value | Constant | None
    kind: str
    span: Span
    member: Member
    read: bool = False
    stored: bool = False


@dataclass(slots=True, eq=False)
class Accept:
    """``accept: code`` on a step or a forward line: findings about it, or about a call that takes its result, are reproduced on purpose."""

    code: str
    span: Span
    name: str
    used: bool = False


class Silenced(Exception):
    """A value that failed was used; the failure is reported already."""


@dataclass(slots=True, eq=False)
class Elaboration:
    """The state of one elaboration; the result is read from its fields."""

    world: World
    contexts: dict[str, Context]
    bindings: dict[str, Binding] = field(default_factory=dict)
    deleted: dict[str, Span] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    code: list[Instruction] = field(default_factory=list)
    problems: list[Diagnostic] = field(default_factory=list)
    accepts: list[Accept] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)
    forward_names: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    creators: set[str] = field(default_factory=set)
    count: int = 0

    # -- tensors, as math sees them

    def read(self, name: str, span: Span) -> Value:
        """The current version of a tensor. Raises DiagnosticError for a name that is not there, Silenced for one that failed."""
        binding = self.bindings.get(name) or self.absent(name, span)
        binding.read = True
        if binding.value is None:
            raise Silenced
        if isinstance(binding.value, Constant):
            fail("not-a-tensor", span, f"`{name}` is a number, not a tensor")
        return binding.value

    def is_tensor(self, name: str) -> bool:
        return name in self.bindings or name in self.deleted

    def read_output(self, name: str, span: Span) -> None:
        """Forward uses what the layer has at the end."""
        if name not in self.bindings:
            self.absent(name, span)
        self.bindings[name].read = True
        self.forward_names.add(name)

    def absent(self, name: str, span: Span) -> NoReturn:
        """A name that is not there is reported where it is missed first; what reads it later is silenced."""
        if name in self.failed or name in self.broken:
            raise Silenced
        self.failed.add(name)
        if name in self.deleted:
            label = Label(self.deleted[name], "deleted here")
            helps = ("move the `delete` behind the last read, or give it a `when`",)
            raise DiagnosticError(Diagnostic(code="read-after-delete", message=f"`{name}` was deleted", span=span, labels=(label,), helps=helps))
        if name in self.creators:
            notes = (f"there is none in the case: {self.world.describe()}",)
            fail("tensor-not-in-case", span, f"`{name}` does not exist in every case in which it is read", notes=notes, helps=_GIVE_CASE)
        close = get_close_matches(name, self.bindings, 1)
        fail("tensor-unknown", span, f"no tensor is called `{name}`", helps=(f"a name like it is `{close[0]}`",) if close else ())

    def accept(self, code: str, names: set[str]) -> bool:
        """Is a finding about these names accepted? Marks the ``accept`` as used. A misspelt one silences all, for it is a finding itself."""
        found = [accept for accept in self.accepts if accept.name in names and (accept.code == code or not _is_rule(accept.code))]
        for accept in found:
            accept.used = accept.code == code
        return bool(found)

    # -- building

    def value(self, name: str, kind: TensorType, span: Span) -> Value:
        self.count += 1
        return Value(self.count - 1, name, kind, span)

    def bind(self, name: str, value: Value | Constant | None, kind: str | None, span: Span, member: Member) -> None:
        old = self.bindings.get(name)
        self.deleted.pop(name, None)
        self.failed.discard(name)
        self.bindings[name] = Binding(value, kind or (old.kind if old else "attribute"), span, member)

    def guarded(self, span: Span, action: Callable[[], None]) -> None:
        """Run one declaration or step; its problems are collected."""
        try:
            action()
        except DiagnosticError as error:
            self.problems += error.diagnostics
        except Silenced:
            pass


def _is_rule(code: str) -> bool:
    from layoutdsl.diagnostics.rules import RULES

    return code in RULES


_GIVE_CASE = ("give what reads it a `when`, or write the case that makes it",)


def contexts_of(world: World) -> dict[str, Context]:
    """One context per member, by the member's name."""
    return {member.name: Context(world, member, world.facts) for member in members_of(world.document)}


def elaborate(world: World) -> Elaboration:
    """Type the whole spec in one world. Raises Undecided; problems are in the result."""
    state = Elaboration(world, contexts_of(world))
    _name_everything(state)
    for param in world.document.params:
        for context in _members(state, param.name.value, param.name.span):
            state.guarded(param.span, lambda param=param, context=context: _parameter(state, param, context))  # type: ignore[misc]
    for item in world.document.steps:
        _item(state, item)
    return state


def _name_everything(state: Elaboration) -> None:
    """Names that exist in some case, with the member that owns them: outside a template, a step's axes are those of its target's owner."""
    document, memos = state.world.document, state.world.memos
    if "names" in memos:
        state.creators, state.named = memos["names"]
        return
    stored = [param.name.value for param in document.params]
    names = stored + [step.target.name for step in _flat(document.steps)]
    made = stored + [step.target.name for step in _flat(document.steps) if _creates(step)]
    state.creators = {member.member.expand(text) for text in made for member in state.contexts.values()}
    for text in names:
        for member in state.contexts.values():
            if "<" in text:
                state.named.setdefault(member.member.expand(text), member.member.name)
    for text in names:
        state.named.setdefault(text, next(iter(state.contexts)))
    memos["names"] = state.creators, state.named


def _flat(items: tuple[Any, ...]) -> Iterator[Step]:
    for item in items:
        if isinstance(item, StepBlock):
            yield from _flat(item.steps)
        elif isinstance(item, Step):
            yield item


def _creates(step: Step) -> bool:
    """Does a step make its name, rather than change what has it?"""
    bodies = [arm.value for arm in step.body.arms] if isinstance(step.body, CaseMap) else [step.body]
    return step.target.entries is not None or any(not isinstance(body, Pipeline) or _source(body) is not None for body in bodies)


def _source(body: Pipeline) -> Stage | None:
    """The first stage, if it names a tensor rather than an op."""
    first = body.stages[0]
    return first if not first.called and first.dims is None and first.type is None and first.op not in OPS else None


def _members(state: Elaboration, text: str, span: Span) -> list[Context]:
    """The contexts in which a declaration runs: every member of a template, else the owner of the name."""
    if "<" in text:
        return list(state.contexts.values())
    return [state.contexts[state.named.get(text, next(iter(state.contexts)))]]


# --- parameters -----------------------------------------------------------------------------------------------------------------------------------------


def _parameter(state: Elaboration, param: ParamDecl, context: Context) -> None:
    name = context.member.expand(param.name.value)
    if name in state.bindings:
        fail("name-clash", param.name.span, f"`{name}` is declared twice")
    try:
        _declare(state, param, name, context)
    except DiagnosticError:
        state.bind(name, None, "parameter", param.name.span, context.member)
        state.broken.add(name)
        raise


def _declare(state: Elaboration, param: ParamDecl, name: str, context: Context) -> None:
    text = context.arm(param.type)
    if text is None:
        return
    kind = tensor_type(text, context)
    given = param.given is None or _given(param, context)
    default = None if given else (param.init.value if param.init is not None else "uninitialised")
    if given and param.init is not None:
        default = param.init.value
    if param.range is not None and param.range.value not in RANGES:
        fail("unknown-value", param.range.span, f"`{param.range.value}` is not a range", helps=(f"known: {', '.join(RANGES)}",))
    kind = replace(kind, initialised=default != "uninitialised", positive=param.range is not None)
    value = state.value(name, kind, param.span)
    state.parameters[name] = Parameter(value, default, "" if param.range is None else param.range.value, param.shard is None)
    state.bind(name, value, "parameter", param.name.span, context.member)
    state.bindings[name].stored = True


def _given(param: ParamDecl, context: Context) -> bool:
    condition = context.expr(param.given)
    return condition is not None and context.holds(condition)


# --- steps ----------------------------------------------------------------------------------------------------------------------------------------------


def _item(state: Elaboration, item: Step | Delete | StepBlock, when: Expr | None = None) -> None:
    """One entry of ``steps``; the condition of a block is asked anew for every member, as if it stood on each of its steps."""
    if isinstance(item, StepBlock):
        for inner in item.steps:
            _item(state, inner, item.when)
        return
    if isinstance(item, Delete):
        for target in item.names:
            for context in _members(state, target.name, target.span):
                state.guarded(item.span, lambda target=target, context=context: _delete(state, item, target, when, context))  # type: ignore[misc]
        return
    for context in _members(state, item.target.name, item.target.span):
        state.guarded(item.span, lambda context=context: _step(state, item, when, context))  # type: ignore[misc]


def _delete(state: Elaboration, item: Delete, target: Target, when: Expr | None, context: Context) -> None:
    if not (context.holds(when) and context.holds(item.when)):
        return
    name = context.member.expand(target.name)
    if name not in state.bindings:
        state.absent(name, target.span)
    state.deleted[name] = target.span
    del state.bindings[name]


def _step(state: Elaboration, step: Step, when: Expr | None, context: Context) -> None:
    name, kind = context.member.expand(step.target.name), None
    try:
        if not (context.holds(when) and context.holds(step.when)):
            return
        body = context.arm(cast(Any, step.body))
        if body is None:
            return
        state.accepts += [Accept(text.value, text.span, name) for text in step.accept]
        kind = _kind(step, context)
        if step.target.entries is not None:
            _math_step(state, step, name, body, kind, context)
        elif isinstance(body, Pipeline):
            _pipeline_step(state, step, name, body, kind, context)
        else:
            _scalar_step(state, step, name, body, kind, context)
    except (DiagnosticError, Silenced):
        state.bind(name, None, kind, step.target.span, context.member)
        raise


def _kind(step: Step, context: Context) -> str | None:
    text: Text | None = context.arm(step.kind)
    if text is None:
        return None
    if text.value not in KINDS:
        fail("unknown-value", text.span, f"`{text.value}` is not a kind of result", helps=(f"known: {', '.join(KINDS)}",))
    return text.value


def _scalar_step(state: Elaboration, step: Step, name: str, body: Expr, kind: str | None, context: Context) -> None:
    """``name: expression`` without an index: a number of the config, or one element read from a tensor."""
    if kind != "value":
        fail(
            "kind-missing",
            step.target.span,
            f"`{name}` without an index is a number",
            helps=("write `as: value`, or give the target its index as in `name[n]`",),
        )
    if isinstance(body, Index):
        typed = Math(context, state, ()).typed(body)
        assert typed.dtype is not None
        result = state.value(name, native_type(typed.dtype, ()), step.span)
        state.code.append(Compute(result, typed.expr, step.span))
        state.bind(name, result, kind, step.target.span, context.member)
        return
    value = evaluate(body, context)
    if isinstance(value, str) or value is None:
        fail(
            "not-a-number",
            body.span,
            f"`{body.span.text}` is a text, and a value of the layer is a number or a condition",
            helps=('compare it: `is_row: layer_type == "row"`',),
        )
    state.bind(name, Constant(value), kind, step.target.span, context.member)


def _math_step(state: Elaboration, step: Step, name: str, body: Expr, kind: str | None, context: Context) -> None:
    assert step.target.entries is not None
    dims = context.dims(step.target.entries)
    loops = tuple(digit for dim in dims for digit in dim)
    for i, loop in enumerate(loops):
        if any(other.axis == loop.axis and other.div == loop.div for other in loops[:i]):
            fail("index-twice", step.target.span, f"index `{loop.axis}` stands twice on the left")
    math = Math(context, state, loops)
    typed = math.typed(body)
    if typed.dtype is None:
        fail("literal-without-dtype", body.span, "a literal alone has no dtype", helps=("write `float32(0)`",))
    # A constant is written on purpose (a bias silenced on other ranks); anything else that ignores a loaded value is a slip of the name.
    if typed.expr[0] != "const":
        _check_read(state, name, step.target.span)
    result = state.value(name, _computed_type(typed, dims, body.span), step.span)
    state.code.append(Compute(result, _readable(state, typed.expr, step.span), step.span))
    state.bind(name, result, kind, step.target.span, context.member)


def _check_read(state: Elaboration, name: str, span: Span) -> None:
    """What the checkpoint holds is read before it is overwritten."""
    old = state.bindings.get(name)
    if old is None or not old.stored or old.read or state.parameters[name].default is not None or state.accept("overwritten-unread", {name}):
        return
    label = Label(old.span, "loaded from the checkpoint here")
    message = f"`{name}` is overwritten before anything read it"
    helps = (f"read `{name}` on the right, or write `accept: overwritten-unread` with a `why`",)
    raise DiagnosticError(Diagnostic(code="overwritten-unread", message=message, span=span, labels=(label,), helps=helps))


def _computed_type(typed: Typed, dims: tuple[Dim, ...], span: Span) -> TensorType:
    assert typed.dtype is not None
    if ELEMENTS[typed.dtype].native is None:
        fail("cast-target", span, f"no torch dtype is {typed.dtype}, so a result of it has no storage", helps=("cast it first, as in `float32(...)`",))
    return replace(native_type(typed.dtype, dims), positive=is_positive(typed.expr), reciprocal=is_reciprocal(typed.expr))


def _readable(state: Elaboration, expr: Any, span: Span) -> Any:
    """Math on packed values is legal, being a logical read; the plan unpacks first, so that the executor only meets whole elements."""
    if not isinstance(expr, tuple):
        return expr
    if expr and expr[0] == "at":
        return ("at", _unpacked(state, expr[1], span), *expr[2:])
    return tuple(_readable(state, part, span) for part in expr)


def _unpacked(state: Elaboration, value: Value, span: Span) -> Value:
    if value.type.carriage in ("native", "value"):
        return value
    element = value.type.element.name
    storage = ELEMENTS[element].native or next(s for s in ("int8", "float32") if carriage_of(element, s, False) == "value")
    kind = TensorType(
        replace(value.type.element, excess=0), storage, tuple((d,) for d in value.type.logical), value.type.logical, tuple(range(len(value.type.logical)))
    )
    result = state.value(value.name, kind, span)
    state.code.append(Move(result, value, "never", span))
    return result


# --- pipelines -----------------------------------------------------------------------------------------------------------------------------------------


def _pipeline_step(state: Elaboration, step: Step, name: str, body: Pipeline, kind: str | None, context: Context) -> None:
    stages = list(body.stages)
    source, span = name, step.target.name_span
    first = _source(body)
    if first is not None:
        text = context.member.expand(first.op)
        if state.is_tensor(text) or text in state.named:
            source, span = text, first.op_span
            stages = stages[1:]
        else:
            _word_step(state, step, name, first, kind, context)
            return
    if source == name and not state.is_tensor(name) and name not in state.creators and not _misspelt(name, state):
        start = " ".join(stages[0].span.text.split())
        message = f"`{name}` is new here, and its pipeline does not say what it is made from"
        fail("source-missing", span, message, helps=(f"write `{name}: SOURCE | {start}` with the tensor that it is made from",))
    value = state.read(source, span)
    for stage in stages:
        if context.holds(stage.condition):
            value = _stage(state, name, value, stage, context)
    if source != name:
        _check_read(state, name, step.target.span)
    state.bind(name, value, kind or ("list" if value.type.listed else None), step.target.span, context.member)


def _misspelt(name: str, state: Elaboration) -> bool:
    """Is a new name a slip of a known one, rather than one that continues it (``weight_scale_fp32``)?"""
    return any(not name.startswith(close) for close in get_close_matches(name, state.bindings, 1))


def _word_step(state: Elaboration, step: Step, name: str, stage: Stage, kind: str | None, context: Context) -> None:
    """``is_kv_consumer: kv_consumer``: a value of the config handed to the layer."""
    if stage.op in context.world.settings or any(let.name.value == stage.op for let in context.world.document.let):
        if isinstance(step.body, Pipeline) and len(step.body.stages) > 1:
            fail("not-a-tensor", stage.op_span, f"`{stage.op}` is a name of the config, not a tensor")
        _scalar_step(state, step, name, Name(stage.op, stage.op_span), kind, context)
        return
    fail("op-unknown", stage.op_span, f"`{stage.op}` is neither an op nor a tensor", helps=_like_op(stage.op, tuple(state.named)))


_TORCH_WORDS = {
    **dict.fromkeys(("squeeze", "unsqueeze", "flatten", "reshape", "unflatten", "merge"), "write the dims that come out: `view [n]`"),
    **dict.fromkeys(("permute", "t", "swapaxes", "movedim"), "`transpose(k, n)` states the order that it produces"),
    **dict.fromkeys(("repeat", "repeat_interleave", "expand", "sum", "mul", "flip", "slice", "cat", "stack"), "write index math: `name[digits]: expression`"),
    **dict.fromkeys(("to", "float", "half", "type"), "`cast(float32)` changes values, `bitcast(int32)` changes types"),
}


def _like_op(word: str, tensors: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What to write instead of a word that is no op."""
    if word in _TORCH_WORDS:
        return (_TORCH_WORDS[word],)
    close = get_close_matches(word, [*OPS, *tensors], 1)
    return (f"a name like it is `{close[0]}`",) if close else (f"ops: {', '.join(OPS)}",)


def stage_arguments(op: Op, stage: Stage, context: Context) -> dict[str, Any]:
    """The arguments of a stage, each checked against the op's parameter. Raises DiagnosticError (``argument-count``, ``argument-kind``)."""
    if stage.dims is not None:
        return {"dims": context.dims(stage.dims)}
    if stage.type is not None:
        return {"type": tensor_type(stage.type, context)}
    needed = [parameter for parameter in op.parameters if not parameter.optional]
    if not len(needed) <= len(stage.arguments) <= len(op.parameters):
        form = f"{op.name}({', '.join(p.name for p in op.parameters)})" if op.parameters else op.name
        fail("argument-count", stage.span, f"`{op.name}` takes {len(op.parameters)} argument(s), found {len(stage.arguments)}", helps=(f"write `{form}`",))
    return {
        parameter.name: _argument(parameter.kind, parameter.words, argument.value, op, context) for parameter, argument in zip(op.parameters, stage.arguments)
    }


def _argument(kind: str, words: tuple[str, ...], expr: Expr, op: Op, context: Context) -> Any:
    match kind:
        case "dim":
            digit = context.digit(expr)
            return digit if digit is not None else fail("argument-kind", expr.span, f"`{op.name}` needs a dim, not `0`")
        case "axis":
            if not isinstance(expr, Name) or expr.id not in context.axes:
                fail("argument-kind", expr.span, f"`{op.name}` needs an axis here", helps=(f"axes: {', '.join(context.axes)}",))
            return context.axes[expr.id]
        case "storage" | "element":
            if not isinstance(expr, Name):
                fail("argument-kind", expr.span, f"`{op.name}` needs a dtype here")
            name = dtype_name(context, expr.id, expr.span)
            if kind == "storage" and name not in STORAGES:
                fail("not-a-storage", expr.span, f"`{name}` is an element, not a dtype that torch can store", helps=(f"known: {', '.join(STORAGES)}",))
            return name
        case "word":
            if not isinstance(expr, Name) or expr.id not in words:
                fail("argument-kind", expr.span, f"`{op.name}` needs one of: {', '.join(words)}")
            return expr.id
        case "kernel":
            if not isinstance(expr, Name):
                fail("argument-kind", expr.span, f"`{op.name}` needs the name of a kernel here")
            return expr.id
        case "size":
            return context.divisor(expr)
        case _:
            value = integer(expr, context)
            return value if isinstance(value, int) else fail("argument-kind", expr.span, f"`{op.name}` needs a number here")


def _stage(state: Elaboration, name: str, value: Value, stage: Stage, context: Context) -> Value:
    # One stage on one type is typed once for all worlds that share it.
    op, arguments, kind = context.memo.once((stage, value.type), lambda: _typed_stage(value, stage, context))
    if op.instruction == "none":
        return value
    result = state.value(name, kind, stage.span)
    state.code.append(_lower(op, result, value, arguments, stage))
    return result


def _typed_stage(value: Value, stage: Stage, context: Context) -> tuple[Op, dict[str, Any], TensorType]:
    op = OPS.get(stage.op)
    if op is None:
        fail("op-unknown", stage.op_span, f"`{stage.op}` is not an op", helps=_like_op(stage.op))
    arguments = stage_arguments(op, stage, context)
    if value.type.listed and not op.on_lists:
        fail("op-on-list", stage.span, f"`{op.name}` cannot work on a list of tensors")
    try:
        return op, arguments, op.result(context.space, value.type, arguments)
    except Reject as error:
        raise _with_story(error, stage, value, context) from None


def _lower(op: Op, result: Value, value: Value, arguments: dict[str, Any], stage: Stage) -> Instruction:
    if op.instruction == "compute":
        return Compute(result, ("cast", result.type.element.name, ("at", value, ())), stage.span)
    if op.instruction == "opaque":
        return Opaque(result, value, op.function, _opaque_arguments(op, arguments), stage.span)
    return Move(result, value, op.alias, stage.span)


def _opaque_arguments(op: Op, arguments: dict[str, Any]) -> tuple[tuple[str, int | str], ...]:
    if op.function == "kernel":
        return (("kernel", op_name(arguments["kernel"])),)
    activation = arguments.get("activation")
    # npu_format_cast's own name for the dtype of the activation (torch_npu 2.13).
    return (("format", FRACTAL_NZ), *((("customize_dtype", activation),) if activation is not None else ()))


def op_name(text: str) -> str:
    """``npu_x`` is ``npu::npu_x``; ``_C_ascend.y`` is ``_C_ascend::y``."""
    namespace, dot, name = text.rpartition(".")
    return f"{namespace}::{name}" if dot else f"npu::{text}"


def _with_story(error: Reject, stage: Stage, value: Value, context: Context) -> DiagnosticError:
    """The refusal, with the type that the stage met and the stage that made it."""
    from layoutdsl.ir.layout import type_text

    story = f"the value here is `{type_text(context.space, value.type)}`"
    labels = (Label(value.span, "made here"),) if value.span.source is stage.span.source and value.span != stage.span else ()
    helps = error.helps or help_for(error.code)
    return DiagnosticError(Diagnostic(code=error.code, message=error.message, span=stage.span, labels=labels, notes=(story, *error.notes), helps=helps))


def view_inline(context: Context, kind: TensorType, stages: tuple[Stage, ...]) -> TensorType:
    """The type of ``(name | stage | ...)`` in forward. Only stages that copy nothing are allowed there."""
    for stage in stages:
        if not context.holds(stage.condition):
            continue
        op = OPS.get(stage.op)
        if op is None or op.instruction != "move" or op.alias != "must" or op.name == "unbind":
            fail(
                "inline-copies", stage.span, f"`{stage.op}` would copy on every call", helps=("make it a step, so that it runs once when the layer is loaded",)
            )
        try:
            kind = op.result(context.space, kind, stage_arguments(op, stage, context))
        except Reject as error:
            raise reject(error, stage.span) from None
    return kind


def outputs_of(state: Elaboration) -> list[Output]:
    """What the layer has afterwards, in the order in which the names were last bound."""
    return [Output(name, binding.value, binding.kind) for name, binding in state.bindings.items() if isinstance(binding.value, Value)]
