"""How the grouped kernels of a forward want to be told which rows belong to which expert.

Asked by the compiler, which refuses a forward that wants both ways, and by ``layoutdsl.runtime``, which makes the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.kernels import CONTRACTS
from layoutdsl.kernels.schemas import Schema, parse_schema, schema_text
from layoutdsl.plan.forward import parts, walk
from layoutdsl.plan.model import Call

GroupListKind = Literal["counts", "cumsum", "caller"]
_GROUP_LIST, _TYPE = ("input", "group_list"), ("input", "group_list_type")
_BY_TYPE: dict[Any, GroupListKind] = {0: "cumsum", 1: "counts"}


def schema_of(op: str) -> Schema | None:
    """The schema of a kernel: of its contract, else of the wheel; None for one that neither knows."""
    if op in CONTRACTS:
        return CONTRACTS[op].schema
    text = schema_text(op)
    return None if text is None else parse_schema(text)


def argument_of(call: Any, name: str) -> Any:
    """The expression that a call passes as ``name``, by keyword or position; None if it leaves it out."""
    _, op, arguments, keywords = call
    if name in dict(keywords):
        return dict(keywords)[name]
    schema = schema_of(op)
    names = [parameter.name for parameter in schema.parameters] if schema else []
    return dict(zip(names, arguments)).get(name)


def grouped_calls(calls: Iterable[Call]) -> list[Any]:
    """The kernel calls that take the group list, itself or under another name or dtype, in the order of the lines."""
    carriers, found = {_GROUP_LIST}, []
    for line in calls:
        found += [
            expr for expr in walk(line.expr) if expr[0] == "call" and any(part in carriers for operand in parts(expr) for part in _outside_calls(operand))
        ]
        if any(part in carriers for part in _outside_calls(line.expr)):
            carriers |= {("local", name) for name in line.targets}
    return found


def _outside_calls(expr: Any) -> Iterator[Any]:
    """The expression and what is in it, but nothing that goes through a kernel."""
    if expr[0] == "call":
        return
    yield expr
    for part in parts(expr):
        yield from _outside_calls(part)


def group_list_kind(calls: Iterable[Call]) -> GroupListKind | None:
    """What all calls agree on: rows per expert, their running sum, or whatever the caller says; None if no call takes the list.

    Raises: DiagnosticError with ``group-list-mixed`` (they differ) or ``group-list-unknown`` (a call leaves it open).
    """
    wanted: dict[GroupListKind, str] = {}
    for call in grouped_calls(calls):
        wanted.setdefault(_kind_of(call), call[1])
    decided = {kind: op for kind, op in wanted.items() if kind != "caller"}
    if len(decided) > 1:
        notes = tuple(f"`{op}` takes {'rows per expert' if kind == 'counts' else 'their running sum'}" for kind, op in decided.items())
        helps = ("give the calls one `group_list_type`",)
        raise DiagnosticError(Diagnostic(code="group-list-mixed", message="the calls want the group list in two ways", notes=notes, helps=helps))
    return next(iter(decided), "caller" if wanted else None)


def _kind_of(call: Any) -> GroupListKind:
    op: str = call[1]
    given = argument_of(call, "group_list_type")
    if given == _TYPE:
        return "caller"
    schema = schema_of(op)
    parameter = schema.parameter("group_list_type") if schema else None
    fixed = CONTRACTS[op].group_list if op in CONTRACTS else ""
    if given is None and parameter is None and fixed:
        return fixed
    value = given[1] if given is not None and given[0] in ("const", "size") else parameter.default_value if given is None and parameter else None
    if value not in _BY_TYPE:
        message = f"nothing says whether `{op}` takes rows per expert or their running sum"
        raise DiagnosticError(Diagnostic(code="group-list-unknown", message=message, where=op, helps=("write `group_list_type=1` or `group_list_type=0`",)))
    return _BY_TYPE[value]
