"""Every contract row: its texts, that it takes the operands that it describes, and that it refuses a call in which one thing is different.

All calls are derived from the rows.
"""

from __future__ import annotations

from collections import Counter

import pytest
from contract_calls import AXES, Call, calls, changes, parsed

from layoutdsl.compiler.contracts import rows_for
from layoutdsl.diagnostics import Source, Span
from layoutdsl.diagnostics.rules import RULES
from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.kernels import CONTRACTS, Contract
from layoutdsl.kernels.schemas import schema_text
from layoutdsl.syntax.expressions import parse_expression
from layoutdsl.syntax.tree import Name
from layoutdsl.syntax.walk import nodes

OPS = pytest.mark.parametrize("contract", CONTRACTS.values(), ids=lambda contract: contract.op)
DEVICES = ("a2", "a3", "a5", "310p")
CONSUMERS = ("vllm-ascend-0.16", "vllm-ascend-0.23", "vllm-ascend-main")
OWN = ("_C_ascend", "vllm")
"""Namespaces whose schemas torch_npu's wheel does not have."""


# ---- texts -----------------------------------------------------------------------------------------------------------------------------------------------


@OPS
def test_names_are_those_of_the_schema(contract: Contract) -> None:
    known = {p.name: p for p in contract.schema.parameters}
    needed = {p.name for p in contract.schema.parameters if p.tensors and p.default is None and not p.optional}
    for row in contract.rows:
        tensors = {*row.arguments, *row.required, *row.reciprocal, *row.scales, *row.scales.values(), *row.mutates, *row.addends}
        assert all(known[name].tensors for name in tensors), row.name
        assert needed <= set(row.arguments)
        assert tensors == set(row.arguments)
        others = {*row.constants, *(argument for argument in row.integers.values() if argument)}
        assert not any(known[name].tensors for name in others), row.name
        assert len(row.results) == len(contract.schema.returns), row.name
        assert not row.quantizes or len(row.results) > 1


@OPS
def test_where_it_is_from(contract: Contract) -> None:
    for row in contract.rows:
        assert row.source.strip() == row.source and len(row.source) > 10, row.name
        assert row.devices and set(row.devices) <= set(DEVICES)
        assert set(row.consumers) <= set(CONSUMERS)
        assert all(limit.slug in RULES for limit in row.limits)
    assert (contract.own_schema != "") == (contract.op.partition("::")[0] in OWN)
    assert contract.schema.op == contract.op
    assert contract.own_schema == "" or schema_text(contract.op) is None


@OPS
def test_rows_have_names_of_their_own(contract: Contract) -> None:
    names = Counter((row.name, device) for row in contract.rows for device in row.devices)
    assert [name for name, count in names.items() if count > 1] == []


@OPS
def test_letters_are_bound(contract: Contract) -> None:
    """What a limit and a result speak of is an axis of an operand that is always there, a dtype, or an integer."""
    for row in contract.rows:
        there = Call(contract, row, (), True).arguments
        axes = {letter for text in there.values() for letter in letters(text)} | {"e"}
        assert set(row.derived) <= {letter for text in row.results if text for letter in letters(text)}
        known = axes | set(row.derived) | set(row.integers)
        for text in filter(None, row.results):
            assert letters(text) <= known, row.name
            assert parsed(text).element.name in (*ELEMENTS, *row.dtypes, *row.constants)
        for limit in row.limits:
            span = Span(Source("limit", limit.test), 0, len(limit.test))
            named = {node.id for node in nodes(parse_expression(span)) if isinstance(node, Name)}
            assert {name.lower() for name in named} <= known, row.name
        assert {*row.segments, *([row.sums] if row.sums else [])} <= axes


def letters(text: str) -> set[str]:
    """The axes and integers in the brackets of a type."""
    kind = parsed(text)
    entries = [*kind.logical, *(kind.layout.dims if kind.layout else ()), *(kind.layout.lanes if kind.layout else ())]
    return {node.id for entry in entries for node in nodes(entry) if isinstance(node, Name)}


# ---- what a row takes --------------------------------------------------------------------------------------------------------------------------------------


@OPS
def test_a_row_takes_what_it_describes(contract: Contract) -> None:
    for row in contract.rows:
        for call in calls(contract, row):
            verdict = call.check((row,), call.operands())
            assert not verdict.problems, f"{call}: {verdict.problems[0].message}; {verdict.problems[0].label}"
            assert [kind is None for kind in verdict.results] == [text == "" for text in row.results], call
            wanted = [call.type(text) if text else None for text in row.results]
            assert list(verdict.results) == wanted, call
            assert verdict.mutated == row.mutates
            assert verdict.sums == (AXES[row.sums] if row.sums else "")


@OPS
def test_a_row_is_not_hidden(contract: Contract) -> None:
    """Of the rows of a device, the first that takes a call with everything in it is the row that describes it, or one that gives the same."""
    for device in DEVICES:
        rows = rows_for(contract.op, device, None)
        for row in rows:
            call = next(iter(calls(contract, row)))
            verdict = call.check(rows, call.operands())
            assert not verdict.problems
            assert list(verdict.results) == [call.type(text) if text else None for text in row.results], f"{call} on {device}"


# ---- what a row refuses --------------------------------------------------------------------------------------------------------------------------------------


@OPS
def test_a_row_refuses_what_differs(contract: Contract) -> None:
    """Named is the argument, or another one of which a letter now means something else."""
    for row in contract.rows:
        call = next(iter(calls(contract, row)))
        operands = call.operands()
        for change in changes(call):
            verdict = call.check((row,), {**operands, change.argument: change.operand})
            assert verdict.problems, f"{call}: {change.argument}: {change.what}"
            (problem,) = verdict.problems
            assert problem.code == "contract-layout"
            assert problem.where in operands, f"{call}: {change.argument}: {change.what}"
            blamed = problem.where == change.argument or change.what in ("twice as long", "the last dims exchanged") or "lanes" in change.what
            assert blamed, f"{call}: {change.argument}: {change.what}: {problem.message}; {problem.label}"
            assert row.source in problem.notes[0]
