"""Symbolic integers against plain ones: every normal form has the right value, no proof is contradicted, every refutation can be replayed.

Expressions and facts are Python text here, so that one text is read twice: by :class:`Term` as a Size, and by Python as integers.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layoutdsl.ir.symbolic import Facts, Proved, Refuted, Size, Unknown, Verdict, format_size

settings.register_profile("symbolic", derandomize=True, deadline=None, max_examples=200, database=None)
EXAMPLES = settings.get_profile("symbolic")

SYMBOLS = ("N", "K", "g", "I")
VALUES = (1, 2, 3, 4, 5, 7, 8, 16, 31, 32, 33, 64, 96, 100, 128, 192, 384)


@dataclass(frozen=True)
class Term:
    """A Size that knows its facts, with Python's operators."""

    size: Size
    facts: Facts

    def _of(self, other: Term | int) -> Size:
        return other.size if isinstance(other, Term) else Size.of(other)

    def __add__(self, other: Term | int) -> Term:
        return Term(self.size + self._of(other), self.facts)

    def __sub__(self, other: Term | int) -> Term:
        return Term(self.size - self._of(other), self.facts)

    def __rsub__(self, other: int) -> Term:
        return Term(other - self.size, self.facts)

    def __neg__(self) -> Term:
        return Term(-self.size, self.facts)

    def __mul__(self, other: Term | int) -> Term:
        return Term(self.size * self._of(other), self.facts)

    def __floordiv__(self, other: Term | int) -> Term:
        return Term(self.facts.div(self.size, self._of(other)), self.facts)

    def __rfloordiv__(self, other: int) -> Term:
        return Term(self.facts.div(other, self.size), self.facts)

    def __mod__(self, other: Term | int) -> Term:
        return Term(self.facts.mod(self.size, self._of(other)), self.facts)

    def __rmod__(self, other: int) -> Term:
        return Term(self.facts.mod(other, self.size), self.facts)

    __radd__ = __add__
    __rmul__ = __mul__


class Names(dict[str, object]):
    """Every name is a symbol."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(cdiv=self.cdiv)
        self.facts = facts

    def __missing__(self, name: str) -> Term:
        return Term(self.facts.symbol(name), self.facts)

    def cdiv(self, size: Term | int, divisor: Term | int) -> Term:
        left, right = (x.size if isinstance(x, Term) else Size.of(x) for x in (size, divisor))
        return Term(self.facts.cdiv(left, right), self.facts)


def size_of(text: str, facts: Facts | None = None) -> Size:
    facts = facts or Facts()
    value = eval(text, {"__builtins__": {}}, Names(facts))
    return value.size if isinstance(value, Term) else Size.of(value)


def int_of(text: str, sizes: dict[str, int]) -> int:
    value = eval(text, {"__builtins__": {}}, {"cdiv": lambda a, b: -(-a // b), **sizes})
    assert isinstance(value, int)
    return value


def facts_of(statements: Sequence[str]) -> Facts:
    """Facts from text such as ``8 | N``, ``N == 2*I``, ``K >= 64``."""
    parts = [statement.split() for statement in statements]
    return Facts(
        divides=tuple((size_of(left), size_of(right)) for left, op, right in parts if op == "|"),
        equal={left: size_of(right) for left, op, right in parts if op == "=="},
        lower={left: int(right) for left, op, right in parts if op == ">="},
    )


def meets(statements: Sequence[str], sizes: dict[str, int]) -> bool:
    for statement in statements:
        left, op, right = statement.split()
        a, b = int_of(left, sizes), int_of(right, sizes)
        if not {"|": lambda a, b: b % a == 0, "==": lambda a, b: a == b, ">=": lambda a, b: a >= b}[op](a, b):
            return False
    return True


def complete(statements: Sequence[str], sizes: dict[str, int]) -> dict[str, int]:
    """The sizes, and those of symbols that stand for an expression."""
    sizes = dict(sizes)
    for _ in statements:
        for statement in statements:
            left, op, right = statement.split()
            if op == "==" and set(Size.of(size_of(right)).symbols) <= sizes.keys():
                sizes[left] = int_of(right, sizes)
    return sizes


def samples(statements: Sequence[str], seed: int = 0, wanted: int = 10) -> Iterator[dict[str, int]]:
    """Sizes that meet the statements, found without the module under test."""
    draw, names = random.Random(seed), sorted({*SYMBOLS, "H", "tp", *facts_symbols(statements)})
    for _ in range(400):
        sizes = complete(statements, {name: draw.choice(VALUES) for name in names})
        if meets(statements, sizes):
            yield sizes
            wanted -= 1
            if not wanted:
                return


def facts_symbols(statements: Sequence[str]) -> frozenset[str]:
    return frozenset().union(*(size_of(side).symbols for statement in statements for side in statement.split()[::2]))


def check_verdict(verdict: Verdict, statements: Sequence[str], holds: str, seed: int) -> None:
    """No sample contradicts a proof; a refutation meets the facts, and plain integers agree that it refutes."""
    if isinstance(verdict, Proved):
        for sizes in samples(statements, seed):
            assert int_of(holds, sizes), f"{holds} is said to be proved, but {sizes}"
    if isinstance(verdict, Refuted) and any(samples(statements, seed)):
        missing = sorted({*SYMBOLS, *facts_symbols(statements)} - dict(verdict.sizes).keys())
        sizes = extended(statements, dict(verdict.sizes), missing)
        assert sizes is not None, f"{verdict} does not meet {statements}"
        assert not int_of(holds, sizes), f"{holds} is said to fail for {sizes}"


def extended(statements: Sequence[str], sizes: dict[str, int], missing: Sequence[str]) -> dict[str, int] | None:
    """The sizes with values for the missing symbols, so that all statements hold; None if none are found."""
    sizes = complete(statements, sizes)
    known = [s for s in statements if facts_symbols([s]) <= sizes.keys()]
    missing = [name for name in missing if name not in sizes]
    if not meets(known, sizes):
        return None
    if not missing:
        return sizes
    values = {1, 2, 3, 4, 8, 16, 32, 64, *(m * value for value in sizes.values() for m in (1, 2, 3, 8, 16, 64)), math.prod(sizes.values()) * 192}
    found = (extended(statements, {**sizes, missing[0]: value}, missing[1:]) for value in sorted(values))
    return next((sizes for sizes in found if sizes is not None), None)


# --- random expressions and facts -------------------------------------------------------------------------------------------------------------------------

DIVISORS = st.sampled_from(["2", "3", "4", "8", "16", "32", "64", "g", "K", "N", "2*g", "8*g", "g*I", "K*g", "4*N"])
LEAVES = st.sampled_from([*SYMBOLS, "0", "1", "2", "7", "8", "31", "32"])


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*"]), inner),
        st.builds("({} {} ({}))".format, inner, st.sampled_from(["//", "%"]), DIVISORS),
        st.builds("cdiv({}, {})".format, inner, DIVISORS),
    )


EXPRESSIONS = st.recursive(LEAVES, _grow, max_leaves=6)
FACTS = st.lists(
    st.sampled_from(
        [
            *("8 | K", "64 | K", "6 | K", "4 | N", "32 | g", "3 | I", "64 | 2*I", "g | K", "I | K", "g | I", "N | K", "I | 16"),
            *("2*g | K", "g*I | K", "16 | N*g", "32 | N*I", "N == 2*I", "I == 1", "N == I*g", "K == 2*N", "K >= 64", "I >= 8"),
        ]
    ),
    max_size=3,
    unique=True,
).filter(lambda statements: len({s.split()[0] for s in statements if "==" in s}) == sum("==" in s for s in statements))
SEEDS = st.integers(0, 1000)


@EXAMPLES
@given(text=EXPRESSIONS, statements=FACTS, seed=SEEDS)
def test_normal_form_has_the_value_of_the_expression(text: str, statements: list[str], seed: int) -> None:
    size = size_of(text, facts_of(statements))
    for sizes in samples(statements, seed):
        assert size.evaluate(sizes) == int_of(text, sizes), f"{text} under {statements} became {size}"


@EXAMPLES
@given(text=EXPRESSIONS, statements=FACTS, seed=SEEDS)
def test_printed_form_has_the_value_of_the_expression(text: str, statements: list[str], seed: int) -> None:
    printed = format_size(size_of(text, facts_of(statements)))
    for sizes in samples(statements, seed):
        assert int_of(printed, sizes) == int_of(text, sizes), f"{text} under {statements} prints as {printed}"


@EXAMPLES
@given(left=EXPRESSIONS, right=EXPRESSIONS, statements=FACTS, seed=SEEDS)
def test_order_and_equality_are_sound(left: str, right: str, statements: list[str], seed: int) -> None:
    facts = facts_of(statements)
    a, b = size_of(left, facts), size_of(right, facts)
    check_verdict(facts.at_least(a, b), statements, f"({left}) >= ({right})", seed)
    check_verdict(facts.equals(a, b), statements, f"({left}) == ({right})", seed)
    if facts.nonnegative(a):
        check_verdict(Proved(), statements, f"({left}) >= 0", seed)


@EXAMPLES
@given(text=EXPRESSIONS, divisor=DIVISORS, statements=FACTS, seed=SEEDS)
def test_order_of_an_expression_and_its_roundings_is_sound(text: str, divisor: str, statements: list[str], seed: int) -> None:
    facts = facts_of(statements)
    down = f"({text}//({divisor}))"
    for left, right in ((f"{divisor}*cdiv({text}, {divisor})", text), (text, f"{divisor}*{down}"), (f"2*{text}//({divisor})", f"2*{down}")):
        check_verdict(facts.at_least(size_of(left, facts), size_of(right, facts)), statements, f"{left} >= {right}", seed)


@EXAMPLES
@given(text=EXPRESSIONS, divisor=DIVISORS, statements=FACTS, seed=SEEDS)
def test_divisibility_is_sound(text: str, divisor: str, statements: list[str], seed: int) -> None:
    facts = facts_of(statements)
    check_verdict(facts.divisible(size_of(text, facts), size_of(divisor, facts)), statements, f"({text}) % ({divisor}) == 0", seed)


@EXAMPLES
@given(left=EXPRESSIONS, right=EXPRESSIONS, divisor=DIVISORS, statements=FACTS, data=st.data())
def test_the_order_of_facts_does_not_matter(left: str, right: str, divisor: str, statements: list[str], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(statements))
    answers = []
    for facts in (facts_of(statements), facts_of(shuffled)):
        a, b, d = (size_of(text, facts) for text in (left, right, divisor))
        answers.append((a, b, d, facts.at_least(a, b), facts.equals(a, b), facts.divisible(a, d), facts.nonnegative(a)))
    assert answers[0] == answers[1]


@EXAMPLES
@given(left=EXPRESSIONS, right=EXPRESSIONS, statements=FACTS)
def test_answers_do_not_depend_on_earlier_questions(left: str, right: str, statements: list[str]) -> None:
    asked, fresh = facts_of(statements), facts_of(statements)
    a, b = size_of(left, asked), size_of(right, asked)
    asked.at_least(b, a), asked.divisible(a, 8), asked.equals(a, b)
    assert asked.at_least(a, b) == fresh.at_least(size_of(left, fresh), size_of(right, fresh))


# --- named identities -------------------------------------------------------------------------------------------------------------------------------------

EQUAL = [
    # I1: a quotient of a quotient; ceilings of ceilings (MX pairs, scales of scales)
    ("I1", "(K//2)//4", "K//8", ()),
    ("I1", "(K//g)//I", "K//(g*I)", ()),
    ("I1", "(K//g + 3)//4", "(K + 3*g)//(4*g)", ()),
    ("I1", "cdiv(cdiv(K, 32), 2)", "cdiv(K, 64)", ()),
    ("I1", "cdiv(cdiv(K, g), 2)", "cdiv(K, 2*g)", ()),
    ("I1", "cdiv(cdiv(K, g), I)", "cdiv(K, g*I)", ()),
    # I2: exact parts leave the quotient
    ("I2", "(8*N + K)//8", "N + K//8", ()),
    ("I2", "N*K//N", "K", ()),
    ("I2", "(g*I + K)//g", "I + K//g", ()),
    ("I2", "(N + K)//8", "N//8 + K//8", ("8 | N",)),
    ("I2", "(K//g)*g", "K", ("g | K",)),
    ("I2", "N//8*8 + N%8", "N", ()),
    # I3: canonical coefficients
    ("I3", "9*K//8", "K + K//8", ()),
    ("I3", "(K + 40)//32", "1 + (K + 8)//32", ()),
    ("I3", "-K//8", "-cdiv(K, 8)", ("8 | K",)),
    # I4: a common monomial cancels
    ("I4", "2*I//2", "I", ()),
    ("I4", "2*K//64", "K//32", ()),
    ("I4", "K*I//(g*I)", "K//g", ()),
    ("I4", "H*tp//(16*tp)", "H//16", ()),
    ("I4", "cdiv(2*K, 64)", "cdiv(K, 32)", ()),
    # I5: a remainder below the grid of the dividend (MX: g = 32, y = 2; NZ: C0 of 16, 8, 4)
    ("I5", "(32*K + 31)//64", "K//2", ()),
    ("I5", "(32*K + 63)//(32*2)", "(K + 1)//2", ()),
    ("I5", "(32*K + 40)//(32*I)", "(K + 1)//I", ()),
    ("I5", "cdiv(32*cdiv(K, 32), 64)", "cdiv(K, 64)", ()),
    *(("I5", f"({g}*K + {r})//({g}*{y})", f"(K + {r // g})//{y}", ()) for g, y in ((32, 2), (16, 4), (8, 2), (4, 8)) for r in (1, g - 1, g, 2 * g + 1)),
    ("I5", "cdiv(N, 8)", "(N//4 + 1)//2", ("4 | N",)),
    # I6: quotients that are 0 or -1
    ("I6", "cdiv(K, g)", "K//g", ("g | K",)),
    ("I6", "(K%g)//g", "0", ()),
    ("I6", "(g - 1)//g", "0", ()),
    ("I6", "-1//g", "-1", ()),
    ("I6", "(K%32)//64", "0", ()),
    ("I6", "cdiv(g, g)", "1", ()),
    ("I6", "cdiv(K, 2*g)", "K//(2*g)", ("2*g | K",)),
    ("I6", "K%g", "0", ("g | K",)),
    # I7: facts
    ("I7", "K//8*8", "K", ("g | K", "8 | g")),
    ("I7", "K%24", "0", ("8 | K", "6 | K")),
    ("I7", "K//g//2*2", "K//g", ("2*g | K",)),
    ("I7", "N//16*16", "N", ("N == H*t", "16 | H*t")),
    ("I7", "K*num//num", "K", ("num == 1",)),
    ("I7", "16//tp*tp", "16", ("tp | 16",)),
    ("I7", "K//(K*tp//16)", "16//tp", ("tp | 16", "16 | K")),
    ("I7", "N//g", "I", ("N == I*g",)),
]


@pytest.mark.parametrize(("name", "left", "right", "statements"), EQUAL)
def test_equality_is_proved(name: str, left: str, right: str, statements: tuple[str, ...]) -> None:
    facts = facts_of(statements)
    assert facts.equals(size_of(left, facts), size_of(right, facts)) == Proved(), name
    check_verdict(Proved(), statements, f"{left} == {right}", seed=0)


AT_LEAST = [
    # I8: a quotient lies within one divisor of the exact ratio
    ("I8", "g*cdiv(K, g)", "K", ()),
    ("I8", "K", "g*(K//g)", ()),
    ("I8", "g*(K//g) + g - 1", "K", ()),
    ("I8", "N*32*cdiv(K, 32)", "N*K", ()),
    ("I8", "K + g - 1", "g*cdiv(K, g)", ()),
    ("I8", "g - 1", "K%g", ()),
    ("I8", "K%g", "0", ()),
    ("I8", "2*g*cdiv(K, 2*g)", "K", ("32 | g", "8 | K")),
    ("I8", "N + 4", "8*cdiv(N, 8)", ("4 | N",)),
    # I9: an integer above -1 is at least 0
    ("I9", "64*cdiv(K, 64)", "32*cdiv(K, 32)", ()),
    ("I9", "2*cdiv(K, 64)", "cdiv(K, 32)", ()),
    ("I9", "64*cdiv(K, 64)", "64*(K//64)", ()),
    ("I9", "g*cdiv(K, g)", "g*(K//g)", ()),
    ("I9", "2*g*cdiv(K, 2*g)", "g*cdiv(K, g)", ()),
    ("I9", "16*cdiv(N, 16)", "8*cdiv(N, 8)", ()),
    ("I9", "cdiv(N, 16)", "1", ()),
    ("I9", "cdiv(K, g)", "1", ()),
    # I10: symbols have a least value, as have multiples of known divisors
    ("I10", "N*K", "N", ()),
    ("I10", "2*N*K + g", "N + K", ()),
    ("I10", "K", "g", ("g | K",)),
    ("I10", "K", "8", ("g | K", "8 | g")),
    ("I10", "K", "8", ("g | K", "8 | K")),
    ("I10", "K", "24", ("8 | K", "6 | K")),
    ("I10", "K//32", "2", ("32 | K", "K >= 40")),
    ("I10", "K//g", "1", ("g | K",)),
    ("I10", "K", "64", ("K >= 64", "g | K")),
    ("I10", "K//32", "1", ("32 | K",)),
    ("I10", "16//tp", "1", ("tp | 16",)),
]


@pytest.mark.parametrize(("name", "left", "right", "statements"), AT_LEAST)
def test_order_is_proved(name: str, left: str, right: str, statements: tuple[str, ...]) -> None:
    facts = facts_of(statements)
    assert facts.at_least(size_of(left, facts), size_of(right, facts)) == Proved(), name
    check_verdict(Proved(), statements, f"{left} >= {right}", seed=0)


DIVISIBLE = [
    ("N*K", "8", ("8 | N",)),
    ("K", "8", ("g | K", "8 | g")),
    ("K*I", "8*g", ("g | K", "8 | I")),
    ("K + 2*N", "8", ("8 | K", "4 | N")),
    ("H*tp", "16", ("16 | H*tp",)),
    ("3*H*tp", "8", ("16 | H*tp",)),
    ("16", "tp", ("tp | 16",)),
    ("K - K%g", "g", ()),
    ("g*cdiv(K, g)", "g", ()),
    ("64*cdiv(K, 64)", "32", ()),
    ("N", "I", ("N == I*g",)),
    ("K", "num", ("num == 1",)),
    ("2*I", "8", ("4 | I",)),
    ("2*I", "64", ("64 | 2*I",)),
]


@pytest.mark.parametrize(("size", "divisor", "statements"), DIVISIBLE)
def test_divisibility_is_proved(size: str, divisor: str, statements: tuple[str, ...]) -> None:
    facts = facts_of(statements)
    assert facts.divisible(size_of(size, facts), size_of(divisor, facts)) == Proved()
    check_verdict(Proved(), statements, f"({size}) % ({divisor}) == 0", seed=0)


# --- refutations ------------------------------------------------------------------------------------------------------------------------------------------


def test_a_refutation_shows_a_realistic_size() -> None:
    assert Facts().divisible("output_size", 8) == Refuted((("output_size", 100),))


def test_a_refutation_under_a_fact_is_realistic_too() -> None:
    verdict = facts_of(["4 | N"]).divisible("N", 8)
    assert isinstance(verdict, Refuted)
    ((name, value),) = verdict.sizes
    assert name == "N"
    assert 32 <= value <= 4096
    assert value % 8 == 4


def test_a_missing_group_is_refuted() -> None:
    """The floor-group bug: ``K//g`` groups do not cover K."""
    facts = Facts()
    verdict = facts.at_least(size_of("g*(K//g)", facts), "K")
    assert isinstance(verdict, Refuted)
    check_verdict(verdict, (), "g*(K//g) >= K", seed=0)


def test_facts_reach_the_witness_through_a_chain() -> None:
    """``8 | a | b | c``: c = 1 would meet the fact ``b | c`` alone."""
    chain = ["8 | a", "a | b", "b | c"]
    for order in itertools.permutations(chain):
        facts = facts_of(order)
        assert facts.divisible("c", 8) == Proved()
        verdict = facts.divisible("c", 16)
        assert isinstance(verdict, Refuted)
        assert meets(chain, dict(verdict.sizes))


def test_facts_about_a_product_bind_all_its_symbols() -> None:
    """``16 | H*t`` and ``t | 2`` leave only multiples of 8 for H."""
    statements = ["16 | H*t", "t | 2"]
    verdict = facts_of(statements).divisible("H", 16)
    assert isinstance(verdict, Refuted)
    assert meets(statements, dict(verdict.sizes))
    assert not isinstance(facts_of(statements).divisible("H", 8), Refuted)


def test_checks_filter_the_witnesses() -> None:
    facts = Facts(checks=(lambda sizes: sizes["K"] >= 2 * sizes["g"], lambda sizes: sizes["K"] % 3 == 0))
    verdict = facts.divisible("K", 8)
    assert isinstance(verdict, Refuted)
    sizes = dict(verdict.sizes)
    assert sizes["K"] >= 2 * sizes["g"]
    assert sizes["K"] % 3 == 0


def test_a_symbol_that_stands_for_a_size_is_replaced() -> None:
    facts = facts_of(["N == I*g", "g == 8*a"])
    assert facts.divisible("N", 8) == Proved()
    assert facts.equals("N", size_of("8*I*a")) == Proved()
    assert facts.div("N", "g") == Size.of("I")
    assert facts.at_least("N", "g") == Proved()


def test_a_symbol_that_stands_for_a_difference_bounds_the_others() -> None:
    """``N == K - 8`` means K > 8: a smaller K is no witness."""
    facts = facts_of(["N == K-8"])
    verdict = facts.at_least(20, "K")
    assert isinstance(verdict, Refuted)
    assert dict(verdict.sizes)["K"] > 20
    assert not isinstance(facts.at_least("K", 9), Refuted)


def test_a_product_of_quotients_may_be_zero() -> None:
    """The bound of one quotient is not strict where the other one is 0: no order may be proved from it."""
    facts = Facts()
    left = size_of("8*(N//8)*(K//8)", facts)
    verdict = facts.at_least(left, size_of("(N - 7)*(K//8)", facts))
    assert not isinstance(verdict, Refuted)
    check_verdict(facts.at_least(left, size_of("(K//8)*N - 6", facts)), (), "8*(N//8)*(K//8) >= (K//8)*N - 6", seed=0)


def test_constants_are_decided() -> None:
    facts = Facts()
    assert facts.divisible(64, 8) == Proved()
    assert facts.divisible(64, 7) == Refuted(())
    assert facts.at_least(3, 4) == Refuted(())
    assert facts.equals(facts.cdiv(7, 2), 4) == Proved()


def test_facts_that_contradict_each_other_do_no_harm() -> None:
    facts = facts_of(["64 | 2*I", "I == 1"])
    assert facts.cdiv(0, 2) == 0
    assert facts.div(1, 2) == 0


def test_what_is_neither_proved_nor_refuted_is_unknown() -> None:
    """A product of neighbours is even, which takes more than the identities."""
    assert Facts().divisible(size_of("N*N + N"), 2) == Unknown()


@pytest.mark.parametrize("divisor", ["N + 1", "0", "-8"])
def test_only_positive_products_divide(divisor: str) -> None:
    with pytest.raises(ValueError, match="cannot divide"):
        Facts().div("K", size_of(divisor))


def test_evaluation_refuses_sizes_that_break_a_fact() -> None:
    size = size_of("K//g", facts_of(["g | K"]))
    assert size.evaluate({"K": 96, "g": 32}) == 3
    with pytest.raises(ValueError, match="not an integer"):
        size.evaluate({"K": 100, "g": 32})


# --- text -------------------------------------------------------------------------------------------------------------------------------------------------

TEXTS = [
    ("N//8", ("8 | N",), "N//8"),
    ("N//8", (), "N//8"),
    ("cdiv(K, 32)", (), "cdiv(K, 32)"),
    ("cdiv(K, g)", (), "cdiv(K, g)"),
    ("cdiv(K, g)", ("g | K",), "K//g"),
    ("2*cdiv(K, g) + 1", (), "2*cdiv(K, g) + 1"),
    ("2*I", (), "2*I"),
    ("2*(I//3)", (), "2*(I//3)"),
    ("I//3*N", (), "N*(I//3)"),
    ("H*tp//16", ("16 | H*tp",), "H*tp//16"),
    ("H*tp//16", (), "H*tp//16"),
    ("K//(2*g)", ("2*g | K",), "K//(2*g)"),
    ("K//(2*g)", (), "K//(2*g)"),
    ("K%32", (), "K - 32*(K//32)"),
    ("K%g", (), "K - g*(K//g)"),
    ("K + N//8", ("8 | N",), "K + N//8"),
    ("(K + N)//8", (), "(K + N)//8"),
    ("cdiv(K + N, 64)", (), "cdiv(K + N, 64)"),
    ("cdiv(N*cdiv(K, g), 8)", (), "cdiv(N*cdiv(K, g), 8)"),
    ("5 - 2*K", (), "5 - 2*K"),
    ("-(K//3)", (), "-(K//3)"),
    ("N - N", (), "0"),
    ("(N//3*g)//(5*I)", (), "g*(N//3)//(5*I)"),
]


@pytest.mark.parametrize(("text", "statements", "expected"), TEXTS)
def test_text_is_in_the_notation_of_the_language(text: str, statements: tuple[str, ...], expected: str) -> None:
    printed = format_size(size_of(text, facts_of(statements)))
    assert printed == expected
    for sizes in samples(statements):
        assert int_of(printed, sizes) == int_of(text, sizes)


def test_text_uses_the_given_names() -> None:
    facts = facts_of(["8 | I"])
    names = {size_of("2*I"): "n", Size.of("K"): "k"}
    assert format_size(size_of("2*I//8", facts), names) == "I//4"
    assert format_size(size_of("2*I"), names) == "n"
    assert format_size(size_of("cdiv(K, 32)"), names) == "cdiv(k, 32)"
