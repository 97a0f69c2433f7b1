"""Equal findings as one, with all places in its text."""

from __future__ import annotations

from itertools import product

import pytest

from layoutdsl.checkpoint.folding import SHOWN, fold
from layoutdsl.diagnostics import Diagnostic


def finding(where: str, message: str = "missing", **fields: object) -> Diagnostic:
    return Diagnostic(code="tensor-missing", message=message, where=where, **fields)  # type: ignore[arg-type]


def folded(*places: str) -> str:
    (one,) = fold([finding(place) for place in places])
    return one.where


EXPERTS = [f"m.{layer}.experts.{expert}.w" for layer, expert in product(range(3, 61), range(256))]


@pytest.mark.parametrize(
    ("places", "text"),
    [
        (["m.0.a"], "m.0.a"),
        (["m.0.a", "m.1.a"], "m.{0,1}.a"),
        ([f"m.{i}.a" for i in range(61)], "m.{0..60}.a"),
        (["m.7.a", "m.0.a", "m.2.a", "m.1.a"], "m.{0..2,7}.a"),
        (EXPERTS, "m.{3..60}.experts.{0..255}.w"),
        ([*EXPERTS, "m.61.experts.5.w"], "m.{{3..60}.experts.{0..255},61.experts.5}.w"),
        (["m.0.q.w", "m.1.q.w", "m.0.k.w", "m.1.k.w"], "m.{0,1}.{q,k}.w"),
        (["m.0.q.w", "m.1.q.w", "m.0.mlp.k.w"], "m.{{0,1}.q,0.mlp.k}.w"),
        (["m.07.a", "m.7.a"], "m.{07,7}.a"),  # no name that is not there
        (["a", "a"], "a"),
        (["m..0.a", "m..1.a"], "m..{0,1}.a"),
        (["m.a", "m.x.a"], "m.{a,x.a}"),
    ],
)
def test_places(places: list[str], text: str) -> None:
    assert folded(*places) == text


def test_what_differs_stays_apart() -> None:
    apart = [finding("m.0.a"), finding("m.1.a", "other"), finding("m.2.b"), finding("m.3.a", helps=("do it",))]
    assert fold(apart) == apart


def test_notes_are_of_the_first_and_places_are_counted() -> None:
    (one,) = fold([finding("m.0.a", notes=("first",)), finding("m.1.a", notes=("second",))])
    assert one.notes == ("first", "2 places in all")


def test_errors_come_first_and_else_the_order_stays() -> None:
    found = [finding("a", severity="note"), finding("b"), finding("c", severity="warning"), finding("d")]
    assert [one.where for one in fold(found)] == ["b", "d", "c", "a"]


def test_too_many_groups_are_counted() -> None:
    (one,) = fold([finding(f"m.{name}.w") for name in "abcdefghijklmnop"])
    assert one.where == "m.{a,b,c,d,e,f,g,h,i,j,k,l}.w"
    assert one.notes == (f"{16 - SHOWN} more groups of places are not shown", "16 places in all")
