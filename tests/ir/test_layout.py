"""The layout algebra against brute-force index tables: equality, merging, refinement, chains, well-formedness; and type texts that read back."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.ir.layout import (
    Digit,
    Dim,
    Element,
    Reject,
    Space,
    TensorType,
    check_well_formed,
    cut,
    difference,
    merge,
    refine,
    same_logical,
    sorted_chain,
    type_text,
)
from layoutdsl.ir.symbolic import Size
from tests.ops.harness import at_sizes, context, extent, logical_index, number, place, split, table, type_of

AXES = ("a", "b")
WHERE = context(("A % 12 == 0", "B % 8 == 0"), axes=AXES)
SIZES = ({"a": 12, "b": 8}, {"a": 24, "b": 8}, {"a": 12, "b": 24}, {"a": 36, "b": 8}, {"a": 24, "b": 16})
"""Sizes that meet the facts, the smallest first: it decides nearly always."""
SPLITS = {"a": (2, 3, 4, 6, 12), "b": (2, 4, 8)}
RANDOM = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def space_of(where: Any = WHERE) -> Space:
    return where.space


def chain(rng: Random, axis: str) -> list[Digit]:
    """A random chain of an axis for all sizes, minor first: divisors that the facts know."""
    divisors = [1]
    for step in SPLITS[axis]:
        if step % divisors[-1] == 0 and rng.random() < 0.4:
            divisors.append(step)
    low = [Digit(axis, Size.of(div), Size.of(above // div), False) for div, above in pairwise(divisors)]
    return [*low, space_of().top(axis, Size.of(divisors[-1]))]


def random_type(rng: Random) -> TensorType:
    """A well-formed type: lanes that fill, any dims, any memory order, sometimes NZ, a wider integer or padding."""
    digits = [digit for axis in AXES for digit in chain(rng, axis)]
    rng.shuffle(digits)
    element, storage, lanes, extension = Element("int8"), "int8", (), None
    match rng.randrange(6):
        case 0:
            extension, storage = rng.choice(("zero", "sign")), "int32"
        case 1:
            element = Element("int4", rng.choice((0, 8)))
        case 2 | 3:
            fitting = [d for d in digits if d.ext.constant in (2, 4, 8)]
            if fitting:
                lanes = (rng.choice(fitting),)
                digits.remove(lanes[0])
                element, storage = Element("int4"), {2: "int8", 4: "int16", 8: "int32"}[number(lanes[0].ext)]
    dims: list[Dim] = []
    for digit in digits:
        if dims and rng.random() < 0.4:
            dims[-1] = (*dims[-1], digit)
        else:
            dims.append((digit,))
    if rng.random() < 0.2:
        dims.insert(rng.randint(0, len(dims)), ())
    order = tuple(rng.sample(range(len(dims)), len(dims))) if rng.random() < 0.5 else tuple(range(len(dims)))
    width = rng.choice((32, 64)) if rng.random() < 0.2 else 0
    return TensorType(element, storage, tuple(dims), tuple(space_of().top(axis, Size.of(1)) for axis in AXES), order, lanes, extension, width)


def nudged(rng: Random, kind: TensorType) -> TensorType:
    """An equal type in other words, or one that differs in one place."""
    match rng.randrange(6):
        case 0:
            at = rng.randrange(len(kind.dims))
            dims = [tuple(merge(dim)) if i == at else dim for i, dim in enumerate(kind.dims)]
            return replace(kind, dims=tuple(dims))
        case 1:
            dims = [tuple(part for digit in dim for part in (cut(space_of(), digit, Size.of(2)) or (digit,))) for dim in kind.dims]
            return replace(kind, dims=tuple(dims))
        case 2:
            return replace(kind, order=tuple(rng.sample(kind.order, len(kind.order))))
        case 3:
            return replace(kind, dims=tuple(rng.sample(kind.dims, len(kind.dims))))
        case 4:
            at = rng.randrange(len(kind.dims))
            return replace(kind, dims=tuple(dim[::-1] if i == at else dim for i, dim in enumerate(kind.dims)))
    return replace(kind, logical=kind.logical[::-1])


def looks(kind: TensorType, sizes: dict[str, int]) -> Any:
    """All that can be seen of a bound type: shape, strides that matter, every slot's index, and the fields that no table shows."""
    now = at_sizes(kind, sizes)
    here = place(now)
    strides = [stride if size > 1 else 0 for size, stride in zip(here.shape, here.strides)]
    return here.shape, strides, table(now, sizes), kind.element, kind.storage, kind.extension, kind.format


@RANDOM
@given(st.randoms(use_true_random=False))
def test_types_are_equal_if_and_only_if_their_tables_are(rng: Random) -> None:
    left = random_type(rng)
    right = nudged(rng, left) if rng.random() < 0.8 else random_type(rng)
    found = difference(space_of(), left, right)
    assert (found is None) == (difference(space_of(), right, left) is None)
    assert (found is None) == all(looks(left, sizes) == looks(right, sizes) for sizes in SIZES), found
    assert found is None or (found[0].islower() and "?" not in found)


def value_of(digits: Dim, index: dict[str, int]) -> int:
    total = 0
    for digit in digits:
        total = total * number(digit.ext) + index[digit.axis] // number(digit.div) % number(digit.ext)
    return total


def at(digits: Any, sizes: dict[str, int]) -> Dim:
    return at_sizes(TensorType(Element("int8"), "int8", (tuple(digits),), (), (0,)), sizes).dims[0]


@RANDOM
@given(st.randoms(use_true_random=False))
def test_merge_and_refine_keep_the_number_that_a_run_makes(rng: Random) -> None:
    run, other = ([digit for axis in AXES for digit in chain(rng, axis)[::-1]] for _ in range(2))
    if rng.random() < 0.5:
        rng.shuffle(run)
    merged, refined = merge(run), refine(space_of(), run, other)
    assert len(merged) <= len(run) <= len(refined) + sum(d.unit for d in run)
    assert merge(refined) == merged
    assert not any((up.axis, up.div) == (low.axis, low.div * low.ext) for up, low in pairwise(merged))
    sizes = rng.choice(SIZES)
    for values in product(*(rng.sample(range(sizes[axis]), 5) for axis in AXES)):
        index = dict(zip(AXES, values))
        assert value_of(at(run, sizes), index) == value_of(at(merged, sizes), index) == value_of(at(refined, sizes), index)
    if all(sorted_chain(space_of(), [d for d in (*run, *other) if d.axis == axis]) is not None for axis in AXES):
        assert set(refined) == set(refine(space_of(), other, run))


@RANDOM
@given(st.lists(st.tuples(st.sampled_from((1, 2, 3, 4, 6, 8, 12, 24)), st.sampled_from((2, 3, 4))), min_size=1, max_size=4))
def test_a_chain_is_sorted_if_its_divisors_divide_each_other(parts: list[tuple[int, int]]) -> None:
    digits = [Digit("a", Size.of(div), Size.of(ext)) for div, ext in parts]
    found = sorted_chain(space_of(), digits)
    divisors = sorted(div for div, _ in parts)
    assert (found is None) == any(above % below for below, above in pairwise(divisors))
    assert found is None or [number(digit.div) for digit in found] == divisors


@RANDOM
@given(st.randoms(use_true_random=False))
def test_well_formed_types_hold_every_element_once_and_no_hole(rng: Random) -> None:
    """And the other way round: what is refused loses an element, holds one twice, or has room for none. At one size, with digits that are often wrong."""
    sizes = {axis: rng.choice((1, 2, 4, 6, 8, 12)) for axis in AXES}
    where = context((), tuple(sizes.items()), AXES)
    digits = []
    for axis in AXES:
        div = 1
        for _ in range(rng.randint(1, 3)):
            ext = rng.choice([d for d in range(1, 13) if sizes[axis] % d == 0] + [2, 3])
            digits.append(Digit(axis, Size.of(div if rng.random() < 0.9 else rng.choice((1, 2, 3))), Size.of(ext)))
            div *= ext
        if rng.random() < 0.5 and sizes[axis] % div == 0:
            digits.append(where.space.top(axis, Size.of(div)))
    rng.shuffle(digits)
    logical = tuple(where.space.top(axis, Size.of(1)) for axis in AXES)
    kind = TensorType(Element("int8"), "int8", tuple((digit,) for digit in digits), logical, tuple(range(len(digits))))
    everything = sorted(product(*(range(sizes[axis]) for axis in AXES)))
    held = []
    for index in product(*(range(extent(dim)) for dim in kind.dims)):
        values = dict.fromkeys(AXES, 0)
        for digit, part in ((digit, part) for value, dim in zip(index, kind.dims) for digit, part in split(value, dim)):
            values[digit.axis] += part * number(digit.div)
        held.append(tuple(values[axis] for axis in AXES))
    assert (refusal(where, kind) is None) == (sorted(held) == everything), refusal(where, kind)


def refusal(where: Any, kind: TensorType) -> str | None:
    """The code with which a type is refused."""
    try:
        check_well_formed(where.space, kind)
    except Reject as error:
        return error.code
    return None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("int4[a, b] in int8[a, b//3 | b%3]", "lanes-do-not-fill"),
        ("int8[a, b] in int32[a, b]", "extension-missing"),
        ("int8[a, b] in int8[a//5, a%5, b]", "layout-has-holes"),
        ("int8[a, b] in int8[a//12, b]", "digits-differ"),
        ("int8[a, b] in int8[a]", "digits-differ"),
        ("int8[a] in int8[a, b]", "digits-differ"),
        ("int8[a, b] in int8[a//2, a%3, b]", "digits-not-a-chain"),
        ("int8[a, b] in int8[a%4, b]", "digits-do-not-cover"),
        ("int4[a, b] in zext int8[a, b]", "extension-unneeded"),
        ("int8[a, b] in zext int8[a, b]", "extension-unneeded"),
        ("float32[a] in float16[a]", "storage-too-narrow"),
    ],
)
def test_ill_formed_types_are_refused(text: str, code: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        type_of(text, WHERE)
    assert caught.value.diagnostics[0].code == code


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("int8[a, b]", "int8[b, a] in int8[a, b]"),  # the logical list is a set
        ("float32[a, 0]", "float32[a, b//B]"),  # one index is one index, with or without a letter
        ("int8[a, b] in int8[(a//4, a%4), b]", "int8[a, b]"),
        ("int8[a, b] in int8[a//A, a, b]", "int8[a, b] in int8[0, a, b]"),
        ("int8[a, b, 0] in int8[a, b, 0] over [0, a, b]", "int8[a, b, 0]"),  # a dim of one index may lie anywhere
        ("int8[a, b] in int8[a, b] over [a, b]", "int8[a, b] over nd[a, b]"),
        ("int8[a, b] in int8[a, b] pad a to 4", "int8[a, b]"),  # 12 divides A
    ],
)
def test_the_same_type_in_other_words(left: str, right: str) -> None:
    one, other = type_of(left, WHERE), type_of(right, WHERE)
    assert difference(space_of(), one, other) is None
    assert difference(space_of(), other, one) is None
    assert same_logical(space_of(), one, other)


@RANDOM
@given(st.randoms(use_true_random=False))
def test_texts_read_back_as_the_type_they_state(rng: Random) -> None:
    kind = random_type(rng)
    check_well_formed(space_of(), kind)
    text = type_text(space_of(), kind)
    read = type_of(text, WHERE)
    assert difference(space_of(), read, kind) is None, text
    assert type_text(space_of(), read) == text
    assert (read.extension, read.format, read.order) == (kind.extension, kind.format, kind.order) or kind.contiguous


def test_a_padded_text_reads_back() -> None:
    where = context((), axes=AXES)
    kind = type_of("int8[a, b] in int8[b, a] pad a to 16 = 3", where)
    text = type_text(where.space, kind)
    again = type_of(text, where)
    assert difference(where.space, kind, again) is None
    assert again.pads == kind.pads, text


def test_padding_makes_holes_and_nothing_else() -> None:
    where = context((), (("a", 5), ("b", 3)), AXES)
    kind = type_of("int4[a, b] in int8[b, a//2 | a%2] pad a to 4", where)
    sizes = {"a": 5, "b": 3}
    held = [logical_index(kind, position, sizes) for position in table(kind, sizes)]
    assert held.count(None) == 3 * 3
    assert len({index for index in held if index is not None}) == 15
