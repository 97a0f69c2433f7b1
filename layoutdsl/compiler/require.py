"""``require``: facts for the proofs, conditions for bind.

A requirement that proofs cannot use (an inequality between sizes, say) is still checked when sizes are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from layoutdsl.compiler.evaluate import DtypeName, evaluate, fail, truth
from layoutdsl.compiler.scope import ALL_SIZES, Context, World, members_of
from layoutdsl.ir.program import Condition
from layoutdsl.ir.symbolic import Facts, Size
from layoutdsl.plan.sizes import SizeExpr, names_in
from layoutdsl.syntax.tree import Binary, Call, Constant, Expr, Name, Rule
from layoutdsl.syntax.walk import nodes


@dataclass(slots=True)
class Learned:
    """What proofs may use of the requirements: see :class:`Facts`."""

    divides: list[tuple[Size, Size]] = field(default_factory=list)
    equal: dict[str, Size] = field(default_factory=dict)
    lower: dict[str, int] = field(default_factory=dict)


def facts_of(world: World, known: dict[Any, Facts]) -> Facts | None:
    """The facts of a world whose cases are decided; None if a requirement is false there. ``known`` shares equal facts between worlds."""
    promised = _postconditions(world)
    learned = Learned(divides=promised, lower=dict(world.bounds.lower))
    # What is said of `K // near_square(K)` is said of the exact quotient.
    bounds = Facts(tuple(promised), lower=world.bounds.lower) if promised else world.bounds
    for member in members_of(world.document):
        context = Context(world, member, bounds)
        for rule in world.document.require:
            if context.holds(rule.condition) and not learn(rule, rule.expr, context, learned):
                return None
    key = (tuple(learned.divides), tuple(sorted(learned.equal.items(), key=str)), tuple(sorted(learned.lower.items())))
    if key not in known:
        known[key] = Facts(tuple(learned.divides), learned.equal, learned.lower)
    return known[key]


def _postconditions(world: World) -> list[tuple[Size, Size]]:
    """What size functions promise: ``near_square(s)`` divides s."""
    context = Context(world, members_of(world.document)[0], world.bounds)
    calls = [node for let in world.document.let for node in nodes(let.value) if isinstance(node, Call) and node.name == "near_square"]
    found = [(evaluate(call, context), evaluate(call.arguments[0].value, context)) for call in calls if len(call.arguments) == 1]
    return list(dict.fromkeys((value, size) for value, size in found if isinstance(value, Size) and isinstance(size, Size)))


def learn(rule: Rule, expr: Expr, context: Context, learned: Learned) -> bool:
    """Add what one requirement says; False if it is false outright. What proofs cannot use is still checked at bind."""
    match expr:
        case Binary("and", left, right):
            return learn(rule, left, context, learned) and learn(rule, right, context, learned)
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
        case Binary(">=" | ">" as op, left_expr, right_expr):
            left, right = _side(left_expr, context), _side(right_expr, context)
            symbol = _symbol(left)
            if symbol is not None and isinstance(right, int):
                learned.lower[symbol] = max(learned.lower.get(symbol, 1), right + (op == ">"))
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
        if coefficient == 1 and len(monomial) == 1 and isinstance(monomial[0][0], str) and monomial[0][1] == 1:
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
    """The requirements that hold here, as conditions to check at bind."""
    found: dict[str, Condition] = {}
    for member in members_of(world.document):
        context = Context(world, member, world.facts)
        for rule in world.document.require:
            if context.holds(rule.condition) and _mentions_size(rule.expr, context):
                name = f"{rule.expr.span.text} ({member.name})" if member.name else rule.expr.span.text
                found[name] = Condition(" ".join(name.split()), to_test(rule.expr, context))
    return list(found.values())


def sizes_used(extents: Iterable[Size], tests: Iterable[SizeExpr]) -> tuple[str, ...]:
    """The size names that types and conditions mention, in the order of the layer kinds, free axes last."""
    symbols = {symbol for size in extents for symbol in size.symbols} | {name for test in tests for name in names_in(test)}
    plain = {symbol[len("near_square(") : -1] if symbol.startswith("near_square(") else symbol for symbol in symbols}
    return tuple(name for name in ALL_SIZES if name in plain) + tuple(sorted(plain - set(ALL_SIZES)))
