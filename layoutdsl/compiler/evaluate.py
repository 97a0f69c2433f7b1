"""Values of expressions over config, cases, extents and sizes: predicates, ``let``, axis extents, divisors.

Integers may be symbolic (:class:`Size`); everything else is decided, or :class:`Undecided` asks the driver to try each of a name's values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from layoutdsl.compiler.helps import help_for
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Span
from layoutdsl.ir.size_functions import SIZE_FUNCTIONS
from layoutdsl.ir.symbolic import Facts, Proved, Refuted, Size
from layoutdsl.syntax.tree import Binary, Call, Conditional, Constant, Expr, Group, Index, Inline, Items, Name, Pick, Sum, Unary


class Undecided(Exception):
    """A name of finite domain was asked for that the current world leaves open."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class DtypeName(str):
    """A dtype as a value of an expression; a plain str is text from config."""


class Scope(Protocol):
    """What evaluation needs: names and facts."""

    facts: Facts

    def lookup(self, name: str, span: Span) -> Any: ...


def fail(code: str, span: Span | None, message: str, *, notes: tuple[str, ...] = (), helps: tuple[str, ...] = (), label: str = "") -> NoReturn:
    """Raise a one-diagnostic error."""
    raise DiagnosticError(Diagnostic(code=code, message=message, span=span, notes=notes, helps=helps or help_for(code), label=label))


def evaluate(expr: Expr, scope: Scope) -> Any:
    """The value of an expression: int, Size, bool, str, DtypeName, None or a list. Raises DiagnosticError, Undecided."""
    return _EVALUATORS[type(expr)](expr, scope)


def truth(expr: Expr, scope: Scope) -> bool:
    value = evaluate(expr, scope)
    if not isinstance(value, bool):
        fail("not-a-condition", expr.span, f"`{expr.span.text}` is {_kind(value)}, not a condition")
    return value


def integer(expr: Expr, scope: Scope) -> int | Size:
    value = evaluate(expr, scope)
    if isinstance(value, bool) or not isinstance(value, (int, Size)):
        fail("not-an-integer", expr.span, f"`{expr.span.text}` is {_kind(value)}, not an integer")
    return value


def size_of(expr: Expr, scope: Scope) -> Size:
    return Size.of(integer(expr, scope))


def _kind(value: Any) -> str:
    if value is None:
        return "none"
    kinds: dict[type, str] = {bool: "a condition", int: "an integer", Size: "an integer", DtypeName: "a dtype", str: "text", list: "a list"}
    return kinds.get(type(value), "no value")


def _binary(expr: Binary, scope: Scope) -> Any:
    if expr.op == "in":
        value, items = evaluate(expr.left, scope), evaluate(expr.right, scope)
        return any(_equal(value, item, expr, scope) for item in items)
    if expr.op in ("==", "!="):
        equal = _equal(evaluate(expr.left, scope), evaluate(expr.right, scope), expr, scope)
        return equal if expr.op == "==" else not equal
    left, right = integer(expr.left, scope), integer(expr.right, scope)
    if expr.op in ("<", "<=", ">", ">="):
        return _ordered(expr, left, right, scope)
    return arithmetic(expr, left, right, scope.facts)


def arithmetic(expr: Binary, left: int | Size, right: int | Size, facts: Facts) -> int | Size:
    """``+ - * // %`` on integers that may be symbolic."""
    if expr.op == "/":
        fail("inexact-division", expr.span, f"`{expr.span.text}` does not say how it rounds", helps=("write `//` or `cdiv(a, b)`",))
    plain: dict[str, Callable[[Any, Any], Any]] = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
    if expr.op in plain:
        return _tidy(plain[expr.op](left, right))
    if expr.op not in ("//", "%"):
        fail("size-operator", expr.span, f"`{expr.op}` is not an operator of sizes")
    if right == 0:
        fail("size-operator", expr.right.span, "division by zero")
    try:
        divide = facts.div if expr.op == "//" else facts.mod
        return _tidy(divide(left, right))
    except ValueError:
        fail(
            "divisor-not-a-product",
            expr.right.span,
            f"cannot reason about a division by `{expr.right.span.text}`",
            helps=("divide by a product of names and numbers",),
        )


def _tidy(value: int | Size) -> int | Size:
    if isinstance(value, Size) and value.constant is not None:
        return value.constant
    return value


def _equal(left: Any, right: Any, expr: Binary, scope: Scope) -> bool:
    if isinstance(left, str) != isinstance(right, str) and left is not None and right is not None:
        fail("not-comparable", expr.span, f"`{expr.left.span.text}` is {_kind(left)}, `{expr.right.span.text}` is {_kind(right)}, so they are never equal")
    if not isinstance(left, Size) and not isinstance(right, Size):
        if isinstance(left, str) and isinstance(right, str) and isinstance(left, DtypeName) != isinstance(right, DtypeName):
            return str(left) == str(right)
        return bool(left == right)
    if left is None or right is None:
        return False
    if not isinstance(left, (int, Size)) or not isinstance(right, (int, Size)):
        fail("not-comparable", expr.span, f"`{expr.left.span.text}` and `{expr.right.span.text}` are of different kinds")
    verdict = scope.facts.equals(left, right)
    if isinstance(verdict, Proved):
        return True
    if isinstance(scope.facts.at_least(left, Size.of(right) + 1), Proved) or isinstance(scope.facts.at_least(right, Size.of(left) + 1), Proved):
        return False
    _open_size(expr)


def _ordered(expr: Binary, left: int | Size, right: int | Size, scope: Scope) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[expr.op]
    low, high = (left, right) if expr.op in (">", ">=") else (right, left)
    gap = 1 if expr.op in (">", "<") else 0
    verdict = scope.facts.at_least(low, Size.of(high) + gap)
    if isinstance(verdict, Proved):
        return True
    if isinstance(scope.facts.at_least(high, Size.of(low) + 1 - gap), Proved):
        return False
    _open_size(expr, verdict)


def _open_size(expr: Expr, verdict: object = None) -> NoReturn:
    notes: tuple[str, ...] = ()
    if isinstance(verdict, Refuted) and verdict.sizes:
        notes = (f"false for {', '.join(f'{name} = {value}' for name, value in verdict.sizes)}, true for others",)
    fail("size-condition", expr.span, f"`{expr.span.text}` depends on the size of a layer, so one plan cannot serve all sizes", notes=notes)


_ARITY = {"last": 1, **{name: function.arity for name, function in SIZE_FUNCTIONS.items()}}


def _call(expr: Call, name: str, span: Span, scope: Scope) -> Any:
    arguments = [argument.value for argument in expr.arguments]
    if name not in _ARITY:
        fail("name-unknown", span, f"`{name}` is not a function of sizes", helps=(f"known: {', '.join(sorted(_ARITY))}",))
    if len(arguments) != _ARITY[name]:
        fail("argument-count", expr.span, f"`{name}` takes {_ARITY[name]} argument{'s' if _ARITY[name] > 1 else ''}, found {len(arguments)}")
    if name == "last":
        return str(evaluate(arguments[0], scope)).rpartition(".")[2]
    sizes = [integer(argument, scope) for argument in arguments]
    try:
        return _tidy(scope.facts.apply(name, *sizes))
    except ValueError as error:
        if name == "cdiv":
            fail("divisor-not-a-product", expr.span, f"cannot reason about a division by `{arguments[1].span.text}`")
        fail("size-function", expr.span, f"`{name}` gives no size in `{expr.span.text}`: {error}")


def _name(expr: Name, scope: Scope) -> Any:
    return scope.lookup(expr.id, expr.span)


def _unary(expr: Unary, scope: Scope) -> Any:
    return not truth(expr.operand, scope) if expr.op == "not" else 0 - integer(expr.operand, scope)


def _logic(expr: Binary, scope: Scope) -> Any:
    if expr.op == "and":
        return truth(expr.left, scope) and truth(expr.right, scope)
    if expr.op == "or":
        return truth(expr.left, scope) or truth(expr.right, scope)
    return _binary(expr, scope)


def _conditional(expr: Conditional, scope: Scope) -> Any:
    return evaluate(expr.then if truth(expr.condition, scope) else expr.otherwise, scope)


def _not_here(expr: Any, scope: Scope) -> NoReturn:
    if isinstance(expr, Index):
        fail("index-as-size", expr.name_span, f"`{expr.span.text}` reads a tensor, which has no value here")
    fail("index-as-size", expr.span, f"`{expr.span.text}` belongs into index math or forward, not into a size or a condition")


# By type of node, because conditions are evaluated for every step of every reachable configuration.
_EVALUATORS: dict[type, Callable[[Any, Scope], Any]] = {
    Constant: lambda expr, scope: expr.value,
    Name: _name,
    Items: lambda expr, scope: [evaluate(item, scope) for item in expr.items],
    Conditional: _conditional,
    Unary: _unary,
    Binary: _logic,
    Call: lambda expr, scope: _call(expr, expr.name, expr.name_span, scope),
    Index: _not_here,
    Sum: _not_here,
    Inline: _not_here,
    Group: _not_here,
    Pick: _not_here,
}
