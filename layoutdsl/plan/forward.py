"""Forward expressions of a plan: which forms there are, and what holds on every path through the lines.

Made by ``layoutdsl.compiler.forward``; read by ``layoutdsl.plan.codec``, ``layoutdsl.plan.bind`` and ``layoutdsl.runtime.forward``. An expression is a nested
tuple that begins with a word of docs/language.md, forward. Conditions that stay open until the call are made of atoms: ``given`` of one value, comparisons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from math import isfinite
from typing import Any

from layoutdsl.ir.layout import ROWS as ROWS  # the one size that a bound forward may still mention
from layoutdsl.plan.model import Call

INPUTS = ("x", "bias", "x_scale", "group_list", "group_list_type", "topk_ids", "topk_weights")
"""What a layer is called with, besides its own tensors."""
COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "in"})
CONNECTIVES = frozenset({"and", "or"})
OPERATORS = frozenset({"+", "-", "*", "/", "//", "%", "&", "<<", ">>"}) | COMPARISONS | CONNECTIVES
"""Forms with two operands that Python writes the same way."""
MOST_ATOMS = 10
"""How many independent call-time questions a forward may ask: every combination of answers is walked."""

Answers = Mapping[Any, bool]


def is_constant(value: Any) -> bool:
    """May it stand in ``("const", value)``: what Python's ``repr`` writes and reads back."""
    return isinstance(value, (bool, int, str)) or value is None or (isinstance(value, float) and isfinite(value))


def parts(expr: Any) -> tuple[Any, ...]:
    """The operands of an expression that are expressions."""
    match expr:
        case ("const" | "layer" | "input" | "local" | "dtype" | "size" | "external", *_):
            return ()
        case ("view", base, _, _):
            return (base,)
        case ("call", _, arguments, keywords):
            return (*arguments, *(value for _, value in keywords))
    return tuple(expr[1:])


def walk(expr: Any) -> Iterator[Any]:
    """The expression and everything in it, in the order of the text."""
    yield expr
    for part in parts(expr):
        yield from walk(part)


def fault(calls: Iterable[Call]) -> str | None:
    """What goes wrong on some path through the lines: a name without a value, no line that returns, a condition that is none. None if nothing does."""
    calls = tuple(calls)
    conditions = [*(call.when for call in calls), *(expr[1] for call in calls for expr in walk(call.expr) if expr[0] == "if")]
    if any(not _is_condition(condition) for condition in conditions):
        return "a condition is made of `given`, comparisons, `and`, `or` and `not`"
    atoms = list(dict.fromkeys(atom for condition in conditions for atom in _atoms(condition)))
    if len(atoms) > MOST_ATOMS:
        return f"it asks {len(atoms)} questions at call time; the most is {MOST_ATOMS}"
    paths = (dict(zip(atoms, values)) for values in product((True, False), repeat=len(atoms)))
    return next((problem for path in paths if _possible(path) and (problem := _path_fault(calls, path))), None)


def _path_fault(calls: tuple[Call, ...], answers: Answers) -> str | None:
    bound: set[str] = set()
    for call in calls:
        missing = {name for atom in _atoms(call.when) for name in _locals(atom, answers)} - bound
        if not missing and not _holds(call.when, answers):
            continue
        missing |= _locals(call.expr, answers) - bound
        if missing:
            return f"`{min(missing)}` has no value where it is used"
        if not call.targets:
            return None
        bound |= set(call.targets) - {"_"}
    return "there are inputs for which no line returns"


def _locals(expr: Any, answers: Answers) -> set[str]:
    """The names of results that are read on a path."""
    match expr:
        case ("local", name):
            return {name}
        case ("if", condition, then, otherwise):
            return _locals(condition, answers) | _locals(then if _holds(condition, answers) else otherwise, answers)
    return set().union(*(_locals(part, answers) for part in parts(expr)))


def _is_condition(expr: Any) -> bool:
    match expr:
        case ("const", value):
            return isinstance(value, bool)
        case ("not", operand):
            return _is_condition(operand)
        case ("and" | "or", left, right):
            return _is_condition(left) and _is_condition(right)
    return expr[0] == "given" or expr[0] in COMPARISONS


def _atoms(condition: Any) -> Iterator[Any]:
    match condition:
        case ("const", _):
            return
        case ("not" | "and" | "or", *operands):
            for operand in operands:
                yield from _atoms(operand)
        case ("given", *values):
            yield from (("given", value) for value in values)
        case ("!=", left, right):
            yield ("==", left, right)
        case _:
            yield condition


def _holds(condition: Any, answers: Answers) -> bool:
    match condition:
        case ("const", value):
            return bool(value)
        case ("not", operand):
            return not _holds(operand, answers)
        case ("and", left, right):
            return _holds(left, answers) and _holds(right, answers)
        case ("or", left, right):
            return _holds(left, answers) or _holds(right, answers)
        case ("given", *values):
            return all(answers["given", value] for value in values)
        case ("!=", left, right):
            return not answers["==", left, right]
    return answers[condition]


def _possible(answers: Answers) -> bool:
    """No value has two dtypes at once; ``x`` and the layer's tensors are always given."""
    dtypes: set[Any] = set()
    for atom, answer in answers.items():
        match atom:
            case ("given", ("input", "x") | ("layer", _)) if not answer:
                return False
            case ("==", left, ("dtype", _)) if answer:
                if left in dtypes:
                    return False
                dtypes.add(left)
    return True
