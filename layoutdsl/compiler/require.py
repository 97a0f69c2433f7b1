"""``require``: facts for the proofs, conditions for bind.

A requirement that proofs cannot use (an inequality between sizes, say) is still checked when sizes are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from layoutdsl.compiler.evaluate import DtypeName, evaluate, fail, truth
from layoutdsl.compiler.scope import Context, World, members_of
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.ir.program import Condition
from layoutdsl.ir.size_functions import SIZE_FUNCTIONS
from layoutdsl.ir.symbolic import Applied, Facts, Size
from layoutdsl.plan.sizes import KIND_SIZES, SizeExpr, names_in
from layoutdsl.syntax.document import LetDecl
from layoutdsl.syntax.tree import Binary, Call, Constant, Expr, Name
from layoutdsl.syntax.walk import nodes


@dataclass(slots=True)
class Learned:
    """What proofs may use of the requirements: see :class:`Facts`."""

    divides: list[tuple[Size, Size]] = field(default_factory=list)
    equal: dict[str, Size] = field(default_factory=dict)
    lower: dict[str, int] = field(default_factory=dict)
    below: set[tuple[str, str]] = field(default_factory=set)


def facts_of(world: World, known: dict[Any, Facts]) -> Facts | None:
    """The facts of a world whose cases are decided; None if a requirement is false there. ``known`` shares equal facts between worlds."""
    applying = [let for let in world.document.let if any(isinstance(node, Call) and node.name in SIZE_FUNCTIONS for node in nodes(let.value))]
    learned = _learned(world, world.bounds, applying)
    for _ in applying:
        # Read once more under what it says: of `K // near_square(K)` it speaks as of the exact quotient.
        before = learned
        learned = _learned(world, Facts(tuple(learned.divides), lower=world.bounds.lower), applying) if learned is not None else None
        if learned == before:
            break
    if learned is None:
        return None
    below = tuple(sorted(learned.below))
    key = (tuple(learned.divides), tuple(sorted(learned.equal.items(), key=str)), tuple(sorted(learned.lower.items())), below)
    if key not in known:
        known[key] = Facts(tuple(learned.divides), learned.equal, learned.lower, below=below)
    return known[key]


def _learned(world: World, facts: Facts, applying: Iterable[LetDecl]) -> Learned | None:
    """What ``require`` says when it is read under these facts, and what the size functions in these ``let`` promise; None if a requirement is false."""
    learned = Learned(divides=_promises(world, facts, applying), lower=dict(world.bounds.lower))
    for member in members_of(world.document):
        context = Context(world, member, facts)
        for rule in world.document.require:
            if context.holds(rule.condition) and not learn(rule.expr, context, learned):
                return None
    return learned


def _promises(world: World, facts: Facts, applying: Iterable[LetDecl]) -> list[tuple[Size, Size]]:
    """``near_square(s)`` divides s."""
    applied: set[Applied] = set()
    for context in (Context(world, member, facts) for member in members_of(world.document)):
        for let in applying:
            with suppress(DiagnosticError):  # said where the name is used
                value = context.lookup(let.name.value, let.span)
                applied |= value.applications if isinstance(value, Size) else set()
    return [promise for function in sorted(applied) if (promise := function.promise) is not None]


def learn(expr: Expr, context: Context, learned: Learned) -> bool:
    """Add what one requirement says; False if it is false outright. What proofs cannot use is still checked at bind."""
    match expr:
        case Binary("and", left, right):
            return learn(left, context, learned) and learn(right, context, learned)
        case Binary("==", Binary("%", dividend, divisor), Constant(0)):
            left, right = _side(dividend, context), _side(divisor, context)
            if isinstance(left, int) and isinstance(right, int):
                return right != 0 and left % right == 0
            if isinstance(left, (int, Size)) and isinstance(right, (int, Size)):
                if len(Size.of(right).terms) != 1:
                    fail("divisor-not-a-product", divisor.span, f"cannot reason about a division by `{divisor.span.text}`")
                learned.divides.append((Size.of(right), Size.of(left)))
                return True
        case Binary("==", left_expr, right_expr):
            left, right = _side(left_expr, context), _side(right_expr, context)
            if left is None or right is None:
                return left is right
            symbol = _symbol(left)
            if symbol is not None and isinstance(right, (int, Size)) and symbol not in Size.of(right).symbols:
                learned.equal[symbol] = Size.of(right)
                return True
            if isinstance(left, Size) or isinstance(right, Size):
                return True
        case Binary(">=" | ">" | "<" | "<=" as op, left_expr, right_expr):
            larger, smaller = (left_expr, right_expr) if op in (">=", ">") else (right_expr, left_expr)
            left, right = _side(larger, context), _side(smaller, context)
            symbol, other = _symbol(left), _symbol(right)
            if symbol is not None and isinstance(right, int):
                learned.lower[symbol] = max(learned.lower.get(symbol, 1), right + (op in (">", "<")))
                return True
            if symbol is not None and other is not None and op in (">", "<"):
                learned.below.add((other, symbol))
                return True
            if isinstance(left, Size) or isinstance(right, Size):
                return True
    if _mentions_size(expr, context):
        return True
    return truth(expr, context)


def _side(expr: Expr, context: Context) -> Any:
    return evaluate(expr, context)


def _symbol(value: Any) -> str | None:
    if isinstance(value, Size) and len(value.terms) == 1:
        (monomial, coefficient) = value.terms[0]
        if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1 and isinstance(monomial[0][0], str) and not isinstance(monomial[0][0], Applied):
            return monomial[0][0]
    return None


def _mentions_size(expr: Expr, context: Context) -> bool:
    for node in nodes(expr):
        if isinstance(node, Name) and not isinstance(evaluate(node, context), (bool, str, DtypeName, type(None))):
            value = evaluate(node, context)
            if isinstance(value, Size) and value.constant is None:
                return True
    return False


def conditions_of(world: World, to_test: Callable[[Expr, Context], Any]) -> list[Condition]:
    """The requirements that hold here, as conditions to check at bind: about the sizes as they are given, not what a requirement says they equal."""
    found: dict[str, Condition] = {}
    for member in members_of(world.document):
        context = Context(world, member, world.bounds)
        for rule in world.document.require:
            if context.holds(rule.condition) and _mentions_size(rule.expr, context):
                name = f"{rule.expr.span.text} ({member.name})" if member.name else rule.expr.span.text
                found[name] = Condition(" ".join(name.split()), to_test(rule.expr, context))
    return list(found.values())


def sizes_used(extents: Iterable[Size], tests: Iterable[SizeExpr]) -> tuple[str, ...]:
    """The size names that types and conditions mention, in the order of the layer kinds, free axes last."""
    symbols = {symbol for size in extents for symbol in size.symbols} | {name for test in tests for name in names_in(test)}
    return tuple(name for name in KIND_SIZES if name in symbols) + tuple(sorted(symbols - set(KIND_SIZES)))
