"""``value`` and ``invariants``: what a checkpoint means, typed over the reals and over the parameters as stored. No step is looked at."""

from __future__ import annotations

from layoutdsl.compiler.elaborate import Elaboration, Silenced
from layoutdsl.compiler.evaluate import fail
from layoutdsl.compiler.math import Math
from layoutdsl.compiler.scope import Context
from layoutdsl.compiler.types import native_type
from layoutdsl.diagnostics import Span
from layoutdsl.ir.layout import Dim
from layoutdsl.ir.program import Value
from layoutdsl.syntax.document import NoValue, ValueDecl
from layoutdsl.syntax.tree import Binary, Expr, Index, Rule


class _Stored:
    """Reads of ``value`` and ``invariants``: parameters as stored, and the named results above."""

    def __init__(self, state: Elaboration) -> None:
        self.state = state
        self.results: dict[str, Value] = {}

    def read(self, name: str, span: Span) -> Value:
        if name in self.results:
            return self.results[name]
        if name in self.state.parameters:
            return self.state.parameters[name].value
        if name in self.state.broken:
            raise Silenced
        self.state.absent(name, span)

    def is_tensor(self, name: str) -> bool:
        return name in self.results or name in self.state.parameters or name in self.state.failed


def check_values(state: Elaboration) -> None:
    document, stored = state.world.document, _Stored(state)
    declarations = () if isinstance(document.value, NoValue) else document.value
    for decl in declarations:
        for context in _contexts(state, decl.target.name):
            state.guarded(decl.span, lambda decl=decl, context=context: _check_value(decl, context, stored))  # type: ignore[misc]
    for rule in document.invariants:
        for context in state.contexts.values():
            state.guarded(rule.span, lambda rule=rule, context=context: _check_invariant(rule, context, stored))  # type: ignore[misc]


def _contexts(state: Elaboration, name: str) -> list[Context]:
    everything = list(state.contexts.values())
    return everything if "<" in name else everything[:1]


def _check_value(decl: ValueDecl, context: Context, stored: _Stored) -> None:
    body = context.expr(decl.body)
    if body is None:
        return
    name = context.member.expand(decl.target.name)
    stored.state.failed.add(name)
    # What a checkpoint means depends on its parameters alone, not on the steps: typed once for all worlds that store the same.
    types = (parameter.value.type for parameter in stored.state.parameters.values())
    dims = context.memo.once((body, *types), lambda: _typed(decl, body, context, stored))
    stored.state.failed.discard(name)
    stored.results[name] = Value(-1, name, native_type("float64", dims), decl.span)


def _typed(decl: ValueDecl, body: Expr, context: Context, stored: _Stored) -> tuple[Dim, ...]:
    dims = context.dims(decl.target.entries or ())
    loops = tuple(digit for dim in dims for digit in dim)
    Math(context, stored, loops, real=True).typed(body)
    return dims


def _check_invariant(rule: Rule, context: Context, stored: _Stored) -> None:
    if not context.holds(rule.condition):
        return
    match rule.expr:
        case Binary("==", left, right):
            if not isinstance(left, Index):
                fail("invariant-form", left.span, "the left side of an invariant is one stored tensor, read with its indices")
            loops = tuple(digit for entry in left.entries if (digit := context.digit(entry)) is not None)
            for side in (left, right):
                Math(context, stored, loops, real=True).typed(side)
        case _:
            fail("invariant-form", rule.expr.span, "an invariant is an equation", helps=("write `left[...] == right`",))
