"""Size functions: their values, and that nothing proved of them is contradicted by plain integers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest

from layoutdsl.ir.size_functions import SIZE_FUNCTIONS, near_square
from layoutdsl.ir.symbolic import Facts, Proved, Refuted, Size, format_size
from layoutdsl.plan.sizes import ARITY, evaluate, size_text

K, T, R = Size.of("K"), Size.of("T"), Size.of("R")


def upstream(size: int) -> int | None:
    """The search as it is told: a from the root upwards until a*a - size is a square. It ends by a = size, if at all."""
    for a in range(math.isqrt(size - 1) + 1, size + 2):
        b = math.isqrt(a * a - size)
        if b * b == a * a - size:
            return a - b
    return None


def test_near_square_is_the_search_of_flatquant() -> None:
    for size in range(1, 1500):
        if upstream(size) is None:
            assert size % 4 == 2
            with pytest.raises(ValueError, match=str(size)):
                near_square(size)
        else:
            assert near_square(size) == upstream(size)
    recorded = {40: 4, 128: 8, 1024: 32, 2048: 32, 3072: 48, 4096: 64, 5120: 64, 7168: 64, 8192: 64, 12288: 96, 18432: 128}
    assert {size: near_square(size) for size in recorded} == recorded
    for size in (0, -4, 2**60):
        with pytest.raises(ValueError, match="no size"):
            near_square(size)


def test_every_function_is_known_to_plans() -> None:
    for name, function in SIZE_FUNCTIONS.items():
        arguments = (12, 5)[: function.arity]
        assert ARITY[name] == function.arity
        assert evaluate((name, *arguments), {}) == function.compute(*arguments)
        assert size_text((name, *arguments)) == f"{name}({', '.join(map(str, arguments))})"


def test_numbers_are_computed_and_symbols_kept() -> None:
    facts = Facts()
    assert facts.apply("near_square", 40) == 4 and facts.apply("min", 7, 5) == 5
    inner = facts.apply("near_square", K)
    outer = facts.apply("min", inner * 4, 256)
    assert format_size(outer) == "min(4*near_square(K), 256)" and format_size(outer, {K: "input"}) == "min(4*near_square(input), 256)"
    assert outer.symbols == {"K"} and outer.evaluate({"K": 128}) == 32 and outer.evaluate({"K": 2**16}) == 256
    assert {function.function for function in outer.applications} == {"min", "near_square"}
    with pytest.raises(ValueError):
        outer.evaluate({"K": 6})
    with pytest.raises(ValueError, match="less than 1"):
        facts.apply("min", facts.div(K, 8), 256)
    assert Facts(divides=((Size.of(8), K),)).apply("min", Size.of("K") * Size.of(2), 9)


def test_what_stands_for_a_symbol_goes_into_the_arguments() -> None:
    facts = Facts(equal={"K": Size.of(40)})
    assert facts.substitute(Facts().apply("near_square", K)) == 4


S, M = Facts().apply("near_square", K), Facts().apply("min", K, 256)
PROMISED = ((S, K),)
# What divides what, which symbol is below which, the question, and whether the answer is a proof.
QUESTIONS = [
    ((), (), ("at_least", S, 1), True),
    ((), (), ("divisible", K, S), False),
    (PROMISED, (), ("divisible", K, S), True),
    (PROMISED, (), ("at_least", K, S), True),
    ((), (), ("at_least", M, 1), True),
    ((), (), ("at_least", 255, M), False),
    ((), (), ("divisible", K, M), False),
    (((M, K),), (), ("divisible", 3 * K, M), True),
    (((M, K), (T, M)), (), ("divisible", K, T), True),
    # A rank's block of M//T rows lies below M.
    (((T, M),), (("R", "T"),), ("at_least", M, (R + 1) * Facts(((T, M),)).div(M, T)), True),
    (((T, M),), (), ("at_least", M, (R + 1) * Facts(((T, M),)).div(M, T)), False),
    ((), (("R", "T"),), ("at_least", T, R + 1), True),
    ((), (("R", "T"),), ("at_least", T, 2), True),
    ((), (("R", "T"),), ("at_least", T, R + 2), False),
    ((), (("R", "T"),), ("at_least", R, 2), False),
    # What a product is a multiple of, it is at least.
    (((M, 2 * K * T),), (), ("at_least", 2 * K * T, M), True),
    (((M, 2 * K * T),), (), ("at_least", K * T, M), False),
]


@pytest.mark.parametrize(("divides", "below", "question", "proved"), QUESTIONS)
def test_proofs_are_true_and_refutations_real(
    divides: tuple[tuple[Size, Size], ...], below: tuple[tuple[str, str], ...], question: tuple[str, Size, Size], proved: bool
) -> None:
    facts, (name, left, right) = Facts(divides, below=below), question
    verdict = getattr(facts, name)(left, right)
    assert isinstance(verdict, Proved) == proved
    holds = (lambda a, b: a % b == 0) if name == "divisible" else (lambda a, b: a >= b)
    if proved:
        checked = [holds(Size.of(left).evaluate(sizes), Size.of(right).evaluate(sizes)) for sizes in meeting(divides, below)]
        assert len(checked) > 20 and all(checked)
    elif isinstance(verdict, Refuted):
        sizes = {"K": 1, "T": 2, "R": 1} | dict(verdict.sizes)
        assert not holds(Size.of(left).evaluate(sizes), Size.of(right).evaluate(sizes))


def meeting(divides: tuple[tuple[Size, Size], ...], below: tuple[tuple[str, str], ...]) -> Iterator[dict[str, int]]:
    for k, t, r in itertools.product((1, 3, 4, 7, 8, 12, 40, 64, 96, 128, 300, 512, 1024, 4096), (1, 2, 4, 8, 16), (1, 2, 3, 7)):
        sizes = {"K": k, "T": t, "R": r}
        if all(dividend.evaluate(sizes) % divisor.evaluate(sizes) == 0 for divisor, dividend in divides) and all(sizes[a] < sizes[b] for a, b in below):
            yield sizes
