"""Every op against its own entry: examples hold for all sizes and slot by slot, rejected examples are refused in words that help."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace

import pytest

from layoutdsl.diagnostics.rules import RULES
from layoutdsl.ir.layout import Reject, check_well_formed, difference
from layoutdsl.ir.symbolic import Size
from layoutdsl.ops import OPS
from tests.ops.harness import SIZES, at_sizes, bound, context, logical_index, place, positions, stage_of, table, type_of

EXAMPLES = [pytest.param(op, example, id=f"{op.name}-{example.before} | {example.stage}") for op in OPS.values() for example in op.examples]
REJECTED = [pytest.param(op, entry, id=f"{op.name}-{entry.before} | {entry.stage}") for op in OPS.values() for entry in op.rejected]


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_an_op_says_what_it_is(op) -> None:
    assert op.examples, "an op without an example is neither documented nor tested"
    assert op.summary
    assert type(op).__doc__ and type(op).__doc__ != type(op).__base__.__doc__
    optional = [parameter.optional for parameter in op.parameters]
    assert optional == sorted(optional), "optional arguments come last"


@pytest.mark.parametrize(("op", "example"), EXAMPLES)
def test_examples_hold_for_all_sizes(op, example) -> None:
    space = context().space
    before, after = type_of(example.before, context()), type_of(example.after, context())
    found_op, arguments = stage_of(example.stage, context())
    assert found_op is op
    found = op.result(space, before, arguments)
    check_well_formed(space, found)
    assert difference(space, found, after) is None
    assert difference(space, after, found) is None
    assert found.pads == after.pads  # `difference` leaves out what the holes hold


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: ",".join(map(str, sizes.values())))
@pytest.mark.parametrize(("op", "example"), EXAMPLES)
def test_type_rule_and_meaning_agree_slot_by_slot(op, example, sizes) -> None:
    where = bound(sizes)
    before, (_, arguments) = type_of(example.before, where), stage_of(example.stage, where)
    after = op.result(where.space, before, arguments)
    symbolic = op.result(context().space, type_of(example.before, context()), stage_of(example.stage, context())[1])
    assert table(at_sizes(symbolic, sizes), sizes) == table(after, sizes)
    here, there = place(before), place(_with_list_dim(after, where))
    for slot in positions(_with_list_dim(after, where)):
        source = op.source_of(slot, here, there, before, arguments, where.space)
        held = None if source is None else logical_index(before, source, sizes)
        assert held == logical_index(_with_list_dim(after, where), slot, sizes), slot


def _with_list_dim(kind, where):
    """A list as one tensor with the list's axis in front, which is how ``source_of`` numbers its slots."""
    if kind.listed is None:
        return kind
    whole = where.space.top(kind.listed, Size.of(1))
    return replace(kind, dims=((whole,), *kind.dims), order=(0, *(d + 1 for d in kind.order)))


@pytest.mark.parametrize(("op", "entry"), REJECTED)
def test_rejected_examples_are_refused_in_words_that_help(op, entry) -> None:
    before, (found_op, arguments) = type_of(entry.before, context()), stage_of(entry.stage, context())
    assert found_op is op
    with pytest.raises(Reject) as caught:
        op.result(context().space, before, arguments)
    error = caught.value
    assert error.code == entry.code
    for text in (error.message, *error.notes, *error.helps):
        assert text and "?" not in text and not text.endswith(".") and "\n" not in text
        assert not text[0].isupper() or text.startswith("FRACTAL_NZ"), text
        assert text.count("`") % 2 == 0, text


def test_every_refusal_of_an_op_is_shown() -> None:
    """A code that a type rule may raise is a code that one of the op's rejected examples shows, unless the algebra below raises it too."""
    for op in OPS.values():
        written = set(re.findall(r'Reject\(\s*"([a-z-]+)"', inspect.getsource(inspect.getmodule(type(op)))))
        assert written <= {entry.code for entry in op.rejected} | {"movement-on-nz", "no-op"}, op.name


def test_every_refusal_has_a_page() -> None:
    assert {entry.code for op in OPS.values() for entry in op.rejected} <= RULES.keys()
