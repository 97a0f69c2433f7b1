"""The functions of size expressions, one entry each.

Read by whoever meets a size: the compiler (names, arity, proofs), a plan's evaluation, and the texts that list them.

Invariants: on plain integers a function gives one integer or raises ValueError; the proofs know of it what its entry promises, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt

LARGEST_FACTORED = 2**40
"""`near_square` tries divisors one by one; no layer comes near this size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeFunction:
    """compute: the value for plain integers; ValueError where there is none. divides: the value divides the first argument. positive: it is at least 1 whatever
    the arguments are; of any other function it is so where all arguments are, and the compiler asks for that."""

    arity: int
    compute: Callable[..., int]
    divides: bool = False
    positive: bool = False


def near_square(size: int) -> int:
    """The smaller factor of the two of ``size`` that are both odd or both even and lie nearest to its square root: 4 of 40 (not 5), 64 of 8192.

    Source: vllm-ascend's FlatQuant schemes, get_decompose_dim: the smallest a for which a*a - size is a square b*b gives the factors a - b and a + b.
    Raises: ValueError for 2, 6, 10 ..., which have no such factors.
    """
    if not 0 < size <= LARGEST_FACTORED:
        raise ValueError(f"{size} is no size of a layer")
    if size % 4 == 2:
        raise ValueError(f"{size} has no two factors that are both odd or both even")
    return next(divisor for divisor in range(isqrt(size), 0, -1) if size % divisor == 0 and (size // divisor - divisor) % 2 == 0)


SIZE_FUNCTIONS: Mapping[str, SizeFunction] = {
    "cdiv": SizeFunction(arity=2, compute=lambda left, right: -(-left // right)),
    "min": SizeFunction(arity=2, compute=min),
    "near_square": SizeFunction(arity=1, compute=near_square, divides=True, positive=True),
}
