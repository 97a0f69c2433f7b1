"""The table of rules and the code agree: what is reported has a page, and what has a page is reported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import layoutdsl
from layoutdsl.diagnostics.rules import GROUPS, RULES, Rule

PACKAGE = Path(layoutdsl.__file__).parent
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py")) if path.name != "rules.py"}
CARRIERS = ("code", "slug")
"""How a parameter or a field is called that takes the code of a rule; it is a ``str``."""


def positions() -> dict[str, tuple[int, str]]:
    """Functions and classes that are given a code: where it stands among their arguments, and what it is called."""
    return {name: found for tree in TREES.values() for node in ast.walk(tree) for name, found in carrier(node)}


def carrier(node: ast.AST) -> Iterator[tuple[str, tuple[int, str]]]:
    match node:
        case ast.ClassDef(name=name, body=body):
            init = next((x for x in body if isinstance(x, ast.FunctionDef) and x.name == "__init__"), None)
            fields = arguments(init) if init else [(x.target.id, x.annotation) for x in body if isinstance(x, ast.AnnAssign) and isinstance(x.target, ast.Name)]
        case ast.FunctionDef(name=name):
            fields = arguments(node)
        case _:
            return
    for index, (field, annotation) in enumerate(fields):
        if field in CARRIERS and isinstance(annotation, ast.Name) and annotation.id == "str":
            yield name, (index, field)


def arguments(function: ast.FunctionDef) -> list[tuple[str, ast.expr | None]]:
    return [(x.arg, x.annotation) for x in function.args.args if x.arg not in ("self", "cls")]


def reported() -> dict[str, list[str]]:
    """Every code that is written in the package, with the places."""
    found: dict[str, list[str]] = {}
    known = positions()
    for path, tree in TREES.items():
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call):
                continue
            for code in constants(code_of(call, known)):
                found.setdefault(code, []).append(f"{path.relative_to(PACKAGE)}:{call.lineno}")
    return found


def constants(code: ast.expr | None) -> Iterator[str]:
    """The texts that an argument may be."""
    match code:
        case ast.Constant(value=str(value)):
            yield value
        case ast.IfExp(body=body, orelse=orelse):
            yield from constants(body)
            yield from constants(orelse)


def code_of(call: ast.Call, known: dict[str, tuple[int, str]]) -> ast.expr | None:
    name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if name not in known:
        return None
    index, field = known[name]
    return next((x.value for x in call.keywords if x.arg == field), call.args[index] if index < len(call.args) else None)


def test_what_is_reported_has_a_page() -> None:
    missing = {code: places for code, places in reported().items() if code not in RULES}
    assert not missing, "add these to layoutdsl/diagnostics/rules.py"


def test_what_has_a_page_is_reported() -> None:
    assert not set(RULES) - set(reported()), "nothing reports these any more"


def test_the_scan_sees_every_way_to_report() -> None:
    found = positions()
    assert {"Diagnostic", "Reject", "fail", "need", "LimitRow"} <= set(found)
    for path, tree in TREES.items():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Diagnostic":
                code = code_of(call, found)
                # A code that is handed on comes from a parameter or an object that has one.
                handed_on = isinstance(code, (ast.Name, ast.Attribute, ast.Subscript))
                assert handed_on or [*constants(code)], f"{path}:{call.lineno}: a code that the scan cannot read"


def test_codes_are_unique() -> None:
    codes = [rule.code for group in GROUPS.values() for rule in group]
    assert len(codes) == len(set(codes)) == len(RULES)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.code)
def test_page(rule: Rule) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", rule.code)
    assert rule.title
    assert not rule.title.endswith(".")
    assert rule.title[0] == rule.title[0].lower() or rule.title.split()[0].isupper()
    why, _, examples = rule.explanation.partition("\n\nWrong:\n\n")
    assert "?" not in rule.title + why
    assert why.strip().endswith((".", ")"))
    wrong, _, right = examples.partition("\n\nRight:\n\n")
    assert wrong.strip()
    assert right.strip()
    assert wrong.strip() != right.strip()
    assert all(len(line) <= 160 for line in examples.splitlines())
