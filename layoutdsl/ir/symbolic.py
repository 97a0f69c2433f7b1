"""Symbolic integers: extents that stay symbols, and the proofs about them.

The compiler's arithmetic. A :class:`Size` is a sum of rational coefficients times products of atoms, an atom being a symbol or a floor quotient; exponents may
be negative. So an exact quotient is just a term (``N/8`` once ``8 | N`` is known), whatever the order in which facts were stated, and only a
quotient that is not exact becomes an atom. A size function (``near_square(K)``) is an atom too: to the proofs a symbol, to an evaluation what it computes.

Invariants: every Size that leaves this module is integer-valued for all assignments that meet its :class:`Facts`; symbols are at least 1; two Sizes
normalised under the same facts are equal for all sizes if their terms are equal (the converse is not promised: then the answer is *unknown*, never a guess).
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from math import floor, gcd, isqrt, lcm
from typing import Union

from layoutdsl.ir.size_functions import SIZE_FUNCTIONS

Rational = Union[int, Fraction]


@dataclass(frozen=True, slots=True)
class Floor:
    """The atom ``floor(argument)``; the argument has rational coefficients. Compared by its key, the text of the argument."""

    argument: Size = field(compare=False)
    key: str

    def __repr__(self) -> str:
        return self.key


class Applied(str):
    """The atom ``function(arguments)`` of a size function: a symbol that has a value as soon as its arguments have.

    As a text, and so compared, it is the function and the normal forms of its arguments.
    """

    __slots__ = ("arguments", "function")
    function: str
    arguments: tuple[Size, ...]

    def __new__(cls, function: str, arguments: tuple[Size, ...]) -> Applied:
        made = super().__new__(cls, f"{function}{tuple(argument.terms for argument in arguments)}")
        made.function, made.arguments = function, arguments
        return made

    def __reduce__(self) -> tuple[object, ...]:
        return Applied, (self.function, self.arguments)

    @property
    def promise(self) -> tuple[Size, Size] | None:
        """What divides what, as the function promises."""
        return (_symbol(self), self.arguments[0]) if SIZE_FUNCTIONS[self.function].divides else None

    def value(self, sizes: Mapping[str, int]) -> int:
        """Raises: ValueError where the function has none; KeyError for a symbol without a value."""
        return SIZE_FUNCTIONS[self.function].compute(*(argument.evaluate(sizes) for argument in self.arguments))


Atom = Union[str, Floor]
Monomial = tuple[tuple[Atom, int], ...]
ONE: Monomial = ()


def _atom_key(atom: Atom) -> str:
    return atom if isinstance(atom, str) else atom.key


@lru_cache(maxsize=16384)
def _times(left: Monomial, right: Monomial) -> Monomial:
    if not left:
        return right
    if not right:
        return left
    powers = dict(left)
    for atom, power in right:
        powers[atom] = powers.get(atom, 0) + power
    return tuple(sorted(((a, p) for a, p in powers.items() if p), key=lambda item: _atom_key(item[0])))


@lru_cache(maxsize=16384)
def _inverse(monomial: Monomial) -> Monomial:
    return tuple((atom, -power) for atom, power in monomial)


def _tidy(value: Rational) -> Rational:
    return value.numerator if isinstance(value, Fraction) and value.denominator == 1 else value


class Size:
    """An integer expression over symbols in normal form: ``terms`` maps monomials to non-zero rational coefficients. Immutable, hashable."""

    __slots__ = ("_hash", "terms")
    terms: tuple[tuple[Monomial, Rational], ...]

    def __init__(self, terms: Mapping[Monomial, Rational]) -> None:
        kept = [(m, c if type(c) is int else _tidy(c)) for m, c in terms.items() if c]
        if len(kept) > 1:
            kept.sort(key=lambda term: _order(term[0]))
        self.terms = tuple(kept)
        self._hash: int | None = None

    @staticmethod
    def of(value: SizeLike) -> Size:
        if isinstance(value, Size):
            return value
        if isinstance(value, str):
            return _symbol(value)
        return _constant(value)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self.terms)
        return self._hash

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int):
            return self.constant == other
        return isinstance(other, Size) and self.terms == other.terms

    def __add__(self, other: SizeLike) -> Size:
        terms = dict(self.terms)
        for monomial, coefficient in Size.of(other).terms:
            terms[monomial] = terms[monomial] + coefficient if monomial in terms else coefficient
        return Size(terms)

    def __neg__(self) -> Size:
        return Size({m: -c for m, c in self.terms})

    def __sub__(self, other: SizeLike) -> Size:
        return self + -Size.of(other)

    def __mul__(self, other: SizeLike) -> Size:
        other = Size.of(other)
        if len(other.terms) == 1 or len(self.terms) == 1:
            longer, ((factor, scale),) = (self, other.terms) if len(other.terms) == 1 else (other, self.terms)
            return Size({_times(m, factor): c * scale for m, c in longer.terms})
        terms: dict[Monomial, Rational] = {}
        for (m1, c1), (m2, c2) in itertools.product(self.terms, other.terms):
            monomial = _times(m1, m2)
            terms[monomial] = terms.get(monomial, 0) + c1 * c2
        return Size(terms)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: SizeLike) -> Size:
        return Size.of(other) - self

    @property
    def applications(self) -> frozenset[Applied]:
        """The size functions in it, those in their arguments included."""
        atoms = {atom for monomial, _ in self.terms for atom, _ in monomial}
        own = frozenset(atom for atom in atoms if isinstance(atom, Applied))
        inner = [argument for atom in own for argument in atom.arguments] + [atom.argument for atom in atoms if isinstance(atom, Floor)]
        return own.union(*(size.applications for size in inner))

    @property
    def constant(self) -> int | None:
        """The value of a constant Size, else None."""
        if not self.terms:
            return 0
        if len(self.terms) == 1 and self.terms[0][0] == ONE and isinstance(self.terms[0][1], int):
            return self.terms[0][1]
        return None

    @property
    def symbols(self) -> frozenset[str]:
        """The symbols that decide the value; those that a size function is applied to, not the function."""
        found: set[str] = set()
        for monomial, _ in self.terms:
            for atom, _power in monomial:
                if isinstance(atom, Applied):
                    found = found.union(*(argument.symbols for argument in atom.arguments))
                elif isinstance(atom, str):
                    found.add(atom)
                else:
                    found |= atom.argument.symbols
        return frozenset(found)

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        """The value for concrete sizes.

        Raises: KeyError for a symbol without a value; ValueError if the value is not an integer (the sizes break a fact), or a size function has none.
        """
        numerator, denominator = self._value(sizes)
        if numerator % denominator:
            raise ValueError(f"{self} is not an integer for {dict(sizes)}")
        return numerator // denominator

    def _value(self, sizes: Mapping[str, int]) -> tuple[int, int]:
        """Numerator and positive denominator. Raises ZeroDivisionError, KeyError, ValueError."""
        total, scale = 0, 1
        for monomial, coefficient in self.terms:
            above, below = coefficient.numerator, coefficient.denominator
            for atom, power in monomial:
                base = _atom_value(atom, sizes)
                if power > 0:
                    above *= base**power
                else:
                    below *= base**-power
            total, scale = (total + above, scale) if below == scale else (total * below + above * scale, scale * below)
        if not scale:
            raise ZeroDivisionError(f"{self} for {dict(sizes)}")
        return (total, scale) if scale > 0 else (-total, -scale)

    def __repr__(self) -> str:
        return format_size(self)


SizeLike = Union[Size, int, str]


def _atom_value(atom: Atom, sizes: Mapping[str, int]) -> int:
    if isinstance(atom, Applied):
        return atom.value(sizes)
    return sizes[atom] if isinstance(atom, str) else _floor_of(atom.argument._value(sizes))


def _floor_of(ratio: tuple[int, int]) -> int:
    return ratio[0] // ratio[1]


@lru_cache(maxsize=4096)
def _constant(value: int) -> Size:
    return Size({ONE: value})


@lru_cache(maxsize=4096)
def _symbol(name: str) -> Size:
    return Size({((name, 1),): 1})


@lru_cache(maxsize=16384)
def _order(monomial: Monomial) -> tuple[int, list[tuple[str, int]]]:
    degree = sum(power for _, power in monomial)
    return (-degree, [(_atom_key(atom), -power) for atom, power in monomial])


def fraction_of(size: Size) -> tuple[Size, Size]:
    """Numerator and denominator (a monomial) of a Size, both without negative exponents or fractions."""
    scale, powers = 1, dict[Atom, int]()
    for monomial, coefficient in size.terms:
        scale = lcm(scale, coefficient.denominator)
        for atom, power in monomial:
            if power < 0:
                powers[atom] = max(powers.get(atom, 0), -power)
    if scale == 1 and not powers:
        return size, _constant(1)
    monomial = tuple(sorted(((a, p) for a, p in powers.items() if p > 0), key=lambda item: _atom_key(item[0])))
    denominator = Size({monomial: scale})
    return size * denominator, denominator


def format_size(size: Size, names: Mapping[Size, str] | None = None) -> str:
    """A Size as text in the notation of the language; ``names`` gives Sizes that have a name of their own (an axis's extent)."""
    if names and size in names:
        return names[size]
    text = ""
    terms: list[tuple[Monomial, Rational]] = sorted(_with_cdiv(size).terms, key=_is_negative)
    for monomial, coefficient in terms:
        sign = "-" if coefficient < 0 else "+"
        body = _format_term(monomial, -coefficient if coefficient < 0 else coefficient, names)
        if text:
            text += f" {sign} {body}"
        else:
            text = body if sign == "+" else f"-({body})" if "/" in body else f"-{body}"
    return text or "0"


def _is_negative(term: tuple[Monomial, Rational]) -> bool:
    return term[1] < 0


def _with_cdiv(size: Size) -> Size:
    """Write ``(x - 1)//d + 1`` as the atom that prints as ``cdiv(x, d)``, where that leaves no more terms. For printing only: not the normal form."""
    for monomial, coefficient in size.terms:
        for atom, power in monomial:
            if isinstance(atom, str) or power != 1 or _rounded_up(atom.argument):
                continue
            raised = atom.argument + 1
            cofactor = Size({_times(monomial, ((atom, -1),)): coefficient})
            shorter = size - Size({monomial: coefficient}) + cofactor * Size({((Floor(raised, _floor_key(raised)), 1),): 1}) - cofactor
            if _rounded_up(raised) and len(shorter.terms) <= len(size.terms):
                return _with_cdiv(shorter)
    return size


def _rounded_up(argument: Size) -> tuple[Size, Size] | None:
    """The x and d of an argument ``(x + d - 1)/d``."""
    numerator, denominator = fraction_of(argument)
    dividend = numerator - denominator + 1
    return (dividend, denominator) if len(dividend.terms) < len(numerator.terms) else None


def _format_term(monomial: Monomial, coefficient: Rational, names: Mapping[Size, str] | None) -> str:
    above = tuple((atom, power) for atom, power in monomial if power > 0)
    below = tuple((atom, -power) for atom, power in monomial if power < 0)
    numerator = _format_product(above, coefficient.numerator, names)
    if not below and coefficient.denominator == 1:
        return numerator
    denominator = _format_product(below, coefficient.denominator, names)
    return f"{_factor(numerator, ' /')}//{_factor(denominator, ' */')}"


def _format_product(monomial: Monomial, coefficient: int, names: Mapping[Size, str] | None) -> str:
    whole = Size({monomial: coefficient})
    if names and whole in names:
        return names[whole]
    parts = [] if coefficient == 1 and monomial else [str(coefficient)]
    for atom, power in sorted(monomial, key=lambda item: isinstance(item[0], Floor)):
        parts += [_format_atom(atom, names)] * power
    return parts[0] if len(parts) == 1 else "*".join(_factor(part, " /") for part in parts)


def _factor(text: str, marks: str) -> str:
    """The text, in brackets if one of the marks stands outside all brackets."""
    depth, outside = 0, ""
    for char in text:
        depth += (char == "(") - (char == ")")
        outside += char if depth == 0 else ""
    return f"({text})" if any(mark in outside for mark in marks) else text


def _format_atom(atom: Atom, names: Mapping[Size, str] | None) -> str:
    if isinstance(atom, Applied):
        return f"{atom.function}({', '.join(format_size(argument, names) for argument in atom.arguments)})"
    if isinstance(atom, str):
        return (names or {}).get(_symbol(atom), atom)
    rounded_up = _rounded_up(atom.argument)
    if rounded_up:
        return f"cdiv({format_size(rounded_up[0], names)}, {format_size(rounded_up[1], names)})"
    numerator, denominator = fraction_of(atom.argument)
    return f"{_factor(format_size(numerator, names), ' /')}//{_factor(format_size(denominator, names), ' */')}"


# --- facts and proofs -------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proved:
    """The statement holds for all sizes that meet the facts."""


@dataclass(frozen=True, slots=True)
class Refuted:
    """The statement fails for these sizes, which meet the facts; replayed with plain integers."""

    sizes: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """Neither a proof nor a failing size was found."""


Verdict = Union[Proved, Refuted, Unknown]

# Sizes that a person recognises come first: a refutation prints the first witness.
_CANDIDATES = (100, 64, 48, 33, 36, 40, 1, 2, 3, 5, 6, 7, 8, 12, 16, 24, 31, 32, 56, 72, 96, 128, 192, 256, 1000, 4304)
_MULTIPLIERS = (3, 1, 2, 5, 7, 4, 9, 8, 16)
_MAX_TRIALS = 2000


class Facts:
    """What is known of the symbols: divisibility, equalities, and any further condition that only filters counterexamples.

    divides: pairs (divisor, dividend), each a Size; a divisor must be a monomial. equal: symbols that stand for a Size, no circles. lower: lower bounds of
    symbols (default 1, never less). below: pairs of symbols, the first less than the second, no circles. checks: predicates on plain integers that every
    assignment must meet; one that asks for a symbol without a value (KeyError) brings it into the search.
    """

    def __init__(
        self,
        divides: tuple[tuple[Size, Size], ...] = (),
        equal: Mapping[str, Size] | None = None,
        lower: Mapping[str, int] | None = None,
        checks: tuple[Callable[[Mapping[str, int]], bool], ...] = (),
        below: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.lower = {name: max(1, bound) for name, bound in (lower or {}).items()}
        self.checks, self.below = checks, below
        self._integral: tuple[tuple[Monomial, Fraction], ...] = ()
        self._floors: dict[Size, Size] = {}
        self._ceilings: dict[tuple[Size, Size], Size] = {}
        self._factors: dict[Monomial, tuple[tuple[Monomial, Fraction], ...]] = {}
        self._exact: dict[tuple[Monomial, int, int], bool] = {}
        self._signs: dict[Size, bool] = {}
        self._verdicts: dict[tuple[str, Size, Size], Verdict] = {}
        self.equal = dict(equal or {})
        for _ in self.equal:
            self.equal = {name: self.substitute(size) for name, size in self.equal.items()}
        self.divides = tuple((self.substitute(d), self.substitute(n)) for d, n in divides)
        self._integral = self._generators()
        self._floors.clear()
        self._ceilings.clear()
        self._factors.clear()
        self._exact.clear()
        self._signs.clear()
        self._shifts = self._substitutions()

    def with_divides(self, divides: Iterable[tuple[Size, Size]]) -> Facts:
        """These facts, and more about divisibility."""
        return Facts((*self.divides, *divides), self.equal, self.lower, self.checks, self.below)

    # -- building sizes

    def symbol(self, name: str) -> Size:
        """A symbol, or what it is known to equal."""
        return self.equal.get(name) or _symbol(name)

    def substitute(self, size: Size) -> Size:
        """The Size with every symbol replaced by what it is known to equal. A sum cannot be divided by, so a symbol that equals one stays where it divides."""
        if not self.equal or not (size.symbols & self.equal.keys()):
            return size
        total = _constant(0)
        for monomial, coefficient in size.terms:
            term = Size({ONE: coefficient})
            for atom, power in monomial:
                base = self._substituted(atom)
                if power < 0 and len(base.terms) == 1:
                    (inner, scale) = base.terms[0]
                    base = Size({_inverse(inner): 1 / Fraction(scale)})
                elif power < 0:
                    base = Size({((atom, -1),): 1})
                for _ in range(abs(power)):
                    term = term * base
            total = total + term
        return total

    def _substituted(self, atom: Atom) -> Size:
        if isinstance(atom, Applied):
            return self.apply(atom.function, *map(self.substitute, atom.arguments))
        return self.symbol(atom) if isinstance(atom, str) else self.floor(self.substitute(atom.argument))

    def apply(self, function: str, *arguments: SizeLike) -> Size:
        """A size function of these sizes. Raises ValueError where it has no value, or none that is known to be at least 1, as every symbol is."""
        sizes = tuple(map(Size.of, arguments))
        if function == "cdiv":
            return self.cdiv(*sizes)
        plain = [number for size in sizes if (number := size.constant) is not None]
        if len(plain) == len(sizes):
            return _constant(SIZE_FUNCTIONS[function].compute(*plain))
        if not SIZE_FUNCTIONS[function].positive and not all(self.nonnegative(size - 1) for size in sizes):
            raise ValueError(f"an argument of {function} may be less than 1")
        return _symbol(Applied(function, sizes))

    def div(self, size: SizeLike, divisor: SizeLike) -> Size:
        """``size // divisor``, rounded down, where the divisor is at least 1. Raises ValueError if it is not a single positive term."""
        divisor = self.substitute(Size.of(divisor))
        if len(divisor.terms) != 1 or divisor.terms[0][1] <= 0:
            raise ValueError(f"cannot divide by {divisor}")
        monomial, coefficient = divisor.terms[0]
        return self.floor(self.substitute(Size.of(size)) * Size({_inverse(monomial): 1 / Fraction(coefficient)}))

    def mod(self, size: SizeLike, divisor: SizeLike) -> Size:
        size, divisor = self.substitute(Size.of(size)), self.substitute(Size.of(divisor))
        return size - divisor * self.div(size, divisor)

    def cdiv(self, size: SizeLike, divisor: SizeLike) -> Size:
        """``size / divisor``, rounded up."""
        key = (Size.of(size), Size.of(divisor))
        found = self._ceilings.get(key)
        if found is None:
            found = self._ceilings[key] = self.div(key[0] + key[1] - 1, key[1])
        return found

    def floor(self, size: Size) -> Size:
        """The floor of a rational expression, in normal form."""
        found = self._floors.get(size)
        if found is None:
            found = self._floors[size] = self._floor(size)
        return found

    def _floor(self, size: Size) -> Size:
        if any(c < 0 and any(isinstance(atom, Floor) for atom, _ in m) for m, c in size.terms) and self.nonnegative(size) and self._below_one(size):
            return _constant(0)  # as `K % 32 // 64`: seen before the split below tears it apart
        whole: dict[Monomial, Rational] = {}
        rest: dict[Monomial, Rational] = {}
        for monomial, coefficient in size.terms:
            if self._is_integral(monomial, coefficient):
                whole[monomial] = coefficient
                continue
            units = floor(coefficient) if self._is_integral(monomial, 1) else 0
            if units:
                whole[monomial] = units
            rest[monomial] = coefficient - units
        residue = self._round_constant(Size(rest))
        if not residue.terms:
            return Size(whole)
        nested = self._unnest(residue)
        if nested is not None:
            return Size(whole) + self.floor(nested)
        if self.nonnegative(residue) and self._below_one(residue):
            return Size(whole)
        if self.nonnegative(residue + 1) and self._below_one(residue + 1):
            return Size(whole) - 1
        known = self._known_quotient(residue)
        if known is not None:
            return Size(whole) + known
        return Size(whole) + Size({((Floor(residue, _floor_key(residue)), 1),): 1})

    def _known_quotient(self, residue: Size) -> Size | None:
        """``floor((x + s)/c)`` is ``floor(x)/c + s//c`` where a fact says that c divides ``floor(x)``: an even number of groups is a number of pairs."""
        for shape, factor in self._integral:
            if factor.numerator != 1 or len(shape) != 1 or shape[0][1] != 1 or not isinstance(shape[0][0], Floor):
                continue
            rest = (residue * factor.denominator - shape[0][0].argument).constant
            if rest is not None:
                return Size({shape: factor}) + rest // factor.denominator
        return None

    def _round_constant(self, residue: Size) -> Size:
        """Round ``c`` in ``(x + c)/y`` down to the grid 1/D on which x lies: ``(32*x + 63)//(64*y) == (x + 1)//(2*y)``."""
        for monomial, coefficient in residue.terms:
            if any(power > 0 for _, power in monomial) or not self._is_integral(_inverse(monomial), 1):
                continue
            others = [(_times(m, _inverse(monomial)), c) for m, c in residue.terms if m != monomial]
            grid = self._grid(others)
            if grid is None or not others:
                continue
            rounded = _tidy(Fraction(floor(coefficient * grid), grid))
            if rounded != coefficient:
                residue = residue + Size({monomial: rounded - coefficient})
        return residue

    def _grid(self, terms: Iterable[tuple[Monomial, Rational]]) -> int | None:
        """The smallest D known to make every term times D an integer, or None."""
        grid = 1
        for monomial, coefficient in terms:
            below = coefficient.denominator
            units = _divisors(below) if self._usable(monomial) else (below,)
            unit = next((d for d in units if self._is_integral(monomial, coefficient * d)), None)
            if unit is None:
                return None
            grid = lcm(grid, unit)
        return grid

    def _denominator(self, size: Size) -> Size:
        """A positive monomial that makes the Size an integer, as small as the facts allow."""
        grid = self._grid(size.terms)
        if grid is not None:
            return _constant(grid)
        ((below, scale),) = fraction_of(size)[1].terms
        grid = self._grid((_times(m, below), c) for m, c in size.terms)
        return Size({below: grid or scale})

    def _unnest(self, residue: Size) -> Size | None:
        """``(floor(x) + s)/b`` has the floor of ``(x + s)/b`` when b and s are integers, b positive."""
        for monomial, coefficient in residue.terms:
            inner = [(atom, power) for atom, power in monomial if isinstance(atom, Floor) and power == 1]
            if len(inner) != 1 or coefficient <= 0:
                continue
            atom = inner[0][0]
            assert isinstance(atom, Floor)
            cofactor = _times(monomial, ((atom, -1),))
            divisor, scale = _inverse(cofactor), _tidy(1 / Fraction(coefficient))
            if not self._is_integral(divisor, scale):
                continue
            rest = residue - Size({monomial: coefficient})
            if all(self._is_integral(_times(m, divisor), _tidy(c * scale)) for m, c in rest.terms):
                return atom.argument * Size({cofactor: coefficient}) + rest
        return None

    # -- divisibility

    def _generators(self) -> tuple[tuple[Monomial, Fraction], ...]:
        """Products known to be integers: ``s/d`` for every fact ``d | s`` about a single term. Constants of equal shape are merged by lcm."""
        merged: dict[Monomial, Fraction] = {}
        for divisor, dividend in self.divides:
            if len(divisor.terms) != 1 or len(dividend.terms) != 1:
                continue
            (dm, dc), (nm, nc) = divisor.terms[0], dividend.terms[0]
            shape, coefficient = _times(nm, _inverse(dm)), Fraction(nc) / Fraction(dc)
            known = merged.get(shape)
            merged[shape] = coefficient if known is None else _fraction_gcd(known, coefficient)
        return tuple((shape, factor) for shape, factor in merged.items() if shape)

    def _is_integral(self, monomial: Monomial, coefficient: Rational) -> bool:
        if coefficient.denominator == 1 and all(power > 0 for _, power in monomial):
            return True
        if not monomial or not self._usable(monomial):
            return False
        key = (monomial, coefficient.numerator, coefficient.denominator)
        found = self._exact.get(key)
        if found is None:
            found = self._exact[key] = self._is_product(monomial, coefficient, 6)
        return found

    def _is_product(self, monomial: Monomial, coefficient: Rational, depth: int) -> bool:
        """Is the term an integer times at most ``depth`` of the products known to be integers?"""
        if coefficient.denominator == 1 and all(power > 0 for _, power in monomial):
            return True
        if depth == 0:
            return False
        return any(self._is_product(_times(monomial, _inverse(shape)), coefficient / factor, depth - 1) for shape, factor in self._usable(monomial))

    def _usable(self, monomial: Monomial) -> tuple[tuple[Monomial, Fraction], ...]:
        """The known integer products that divide the monomial."""
        found = self._factors.get(monomial)
        if found is None:
            powers = dict(monomial)
            found = tuple(known for known in self._integral if all(powers.get(atom, 0) >= power for atom, power in known[0] if power > 0))
            self._factors[monomial] = found
        return found

    def divisible(self, size: SizeLike, divisor: SizeLike) -> Verdict:
        """Does the divisor divide the size?"""
        size, divisor = self.substitute(Size.of(size)), self.substitute(Size.of(divisor))
        return self._decide("divisible", size, divisor)

    def _divides(self, size: Size, divisor: Size) -> bool:
        if len(divisor.terms) != 1:
            return False
        monomial, coefficient = divisor.terms[0]
        inverse, scale = _inverse(monomial), 1 / Fraction(coefficient)
        return all(self._is_integral(_times(m, inverse), _tidy(c * scale)) for m, c in size.terms)

    def _decide(self, kind: str, left: Size, right: Size) -> Verdict:
        key = (kind, left, right)
        found = self._verdicts.get(key)
        if found is None:
            found = self._verdicts[key] = self._decided(*key)
        return found

    def _decided(self, kind: str, left: Size, right: Size) -> Verdict:
        prove: Callable[[Size, Size], bool]
        holds: Callable[[int, int], bool]
        match kind:
            case "divisible":
                prove, holds = self._divides, lambda a, b: b != 0 and a % b == 0
            case "at_least":
                prove, holds = lambda a, b: self.nonnegative(a - b), operator.ge
            case _:
                prove, holds = lambda a, b: a == b or (self.nonnegative(a - b) and self.nonnegative(b - a)), operator.eq
        if prove(left, right):
            return Proved()
        return self.refute(lambda sizes: holds(left.evaluate(sizes), right.evaluate(sizes)), left.symbols | right.symbols)

    # -- order

    def nonnegative(self, size: SizeLike) -> bool:
        """Is ``size >= 0`` provable? False means: not proved."""
        size = Size.of(size)
        if all(c > 0 and self._positive_atoms(m) for m, c in size.terms):
            return True
        known = self._signs.get(size)
        if known is None:
            known = self._signs[size] = self._prove_sign(size)
        return known

    def _positive_atoms(self, monomial: Monomial) -> bool:
        return all(isinstance(atom, str) or (power > 0 and self.nonnegative(atom.argument)) for atom, power in monomial)

    def _prove_sign(self, size: Size) -> bool:
        if not size.symbols:
            return size._value({})[0] >= 0
        bounded = size = _primitive(size)
        for _ in range(4):
            found = next(((m, c, a) for m, c in bounded.terms for a, p in m if isinstance(a, Floor) and p == 1), None)
            if found is None:
                break
            monomial, coefficient, atom = found
            shape = _times(monomial, ((atom, -1),))
            if not self._positive_atoms(shape):
                return False
            bound = atom.argument
            if coefficient > 0:
                # x with denominator D: floor(x) >= x - (D - 1)/D.
                (below, scale), *_ = self._denominator(bound).terms
                bound = bound - 1 + Size({_inverse(below): Fraction(1, scale)})
            bounded = bounded - Size({monomial: coefficient}) + Size({shape: coefficient}) * bound
        if self._positive_terms(bounded):
            return True
        # An integer above -1 is at least 0.
        return all(self._is_integral(m, c) for m, c in size.terms) and self._positive_terms(bounded + 1, strict=True)

    def _positive_terms(self, size: Size, *, strict: bool = False) -> bool:
        """No negative coefficient is left (and, if strict, a positive constant is) when symbols are written over free symbols that are at least 0."""
        numerator, _ = fraction_of(size)
        if any(isinstance(atom, Floor) for m, _ in numerator.terms for atom, _p in m):
            return False
        for shifts in self._shifts:
            shifted: dict[Monomial, Rational] = {}
            for monomial, coefficient in numerator.terms:
                for m, c in self._shifted(monomial, shifts).terms:
                    shifted[m] = shifted.get(m, 0) + coefficient * c
            if all(c >= 0 for c in shifted.values()) and (not strict or shifted.get(ONE, 0) > 0):
                return True
        return False

    def _shifted(self, monomial: Monomial, shifts: dict[Monomial, Size]) -> Size:
        found = shifts.get(monomial)
        if found is None:
            (atom, power), *rest = monomial
            assert isinstance(atom, str)
            first = shifts.get(((atom, 1),), _symbol(atom) + 1)
            found = shifts[monomial] = first * self._shifted(((atom, power - 1), *rest) if power > 1 else tuple(rest), shifts)
        return found

    def _substitutions(self) -> tuple[dict[Monomial, Size], ...]:
        """Ways to write the symbols over free symbols that are at least 0, as ``N = 8*(N + 1)`` for the fact ``8 | N``.

        A symbol with a constant and a symbolic divisor, or a lower bound of its own, has two such forms; so there are two ways, each sound alone.
        """
        units: dict[str, int] = {}
        symbolic: dict[str, list[Size]] = {}
        for divisor, dividend in self.divides:
            symbol, constant = _plain_symbol(dividend), divisor.constant
            if symbol is not None and constant is not None:
                units[symbol] = lcm(units.get(symbol, 1), constant)
            elif symbol is not None and len(divisor.terms) == 1 and all(isinstance(atom, str) for atom, _ in divisor.terms[0][0]):
                symbolic.setdefault(symbol, []).append(divisor)
        names = sorted({*symbolic, *units, *self.lower, *(larger for _, larger in self.below)})
        unbounded = {name: divisors for name, divisors in symbolic.items() if name not in units and name not in self.lower}
        ways = (self._shift_all(names, units, symbolic), self._shift_all(names, units, unbounded))
        products = self._products(ways[0])
        return (*(ways if ways[0] != ways[1] else ways[:1]), *([{**ways[0], **products}] if products else []))

    def _products(self, shifts: dict[Monomial, Size]) -> dict[Monomial, Size]:
        """A product of symbols is a free multiple of what divides it: ``16 | K*tp`` makes ``K*tp`` at least 16. One more way, for that product alone."""
        found: dict[Monomial, Size] = {}
        for i, (divisor, dividend) in enumerate(self.divides):
            if len(divisor.terms) != 1 or len(dividend.terms) != 1 or _plain_symbol(dividend) is not None:
                continue
            (monomial, coefficient), (product, factor) = divisor.terms[0], dividend.terms[0]
            if product and all(isinstance(atom, str) and power > 0 for atom, power in (*monomial, *product)):
                found[product] = (_symbol(f"product {i}") + 1) * Size({ONE: Fraction(coefficient) / factor}) * self._shifted(monomial, dict(shifts))
        return found

    def _shift_all(self, names: list[str], units: Mapping[str, int], symbolic: Mapping[str, list[Size]]) -> dict[Monomial, Size]:
        chosen: dict[str, Size] = {}
        # A symbol that stands above another one is written as that one, 1 and a rest, unless a fact of another kind has a form for it.
        smaller = {larger: less for less, larger in self.below if larger not in units and larger not in self.lower and larger not in symbolic}
        for name in names:
            # The first divisor that leads to no circle, in an order that does not depend on that of the facts.
            divisor = next((d for d in sorted(symbolic.get(name, ()), key=repr) if name not in _reach(d, chosen)), None)
            if divisor is not None:
                chosen[name] = divisor
        shifts: dict[Monomial, Size] = {ONE: _constant(1)}

        def shift(name: str) -> Size:
            key: Monomial = ((name, 1),)
            if key not in shifts and name in chosen:
                (monomial, coefficient), *_ = chosen[name].terms
                shifts[key] = (_symbol(name) + 1) * Size({ONE: coefficient})
                for atom, power in monomial:
                    assert isinstance(atom, str)
                    for _ in range(power):
                        shifts[key] = shifts[key] * shift(atom)
            elif key not in shifts and name in smaller:
                shifts[key] = shift(smaller[name]) + 1 + _symbol(name)
            elif key not in shifts:
                unit = units.get(name, 1)
                shifts[key] = (_symbol(name) - (-self.lower.get(name, 1) // unit)) * unit
            return shifts[key]

        for name in names:
            shift(name)
        return shifts

    def _below_one(self, residue: Size) -> bool:
        """Is ``residue < 1``? With the grid 1/D of its values that is ``residue <= 1 - 1/D``."""
        if all(c > 0 for _, c in residue.terms) and any(m and all(power > 0 for _, power in m) for m, _ in residue.terms):
            return False  # it grows without bound, as far as the proofs below can tell
        denominator = self._denominator(residue)
        return self.nonnegative(denominator - 1 - residue * denominator)

    def at_least(self, left: SizeLike, right: SizeLike) -> Verdict:
        """Is ``left >= right``?"""
        return self._decide("at_least", self.substitute(Size.of(left)), self.substitute(Size.of(right)))

    def equals(self, left: SizeLike, right: SizeLike) -> Verdict:
        """Is ``left == right``?"""
        return self._decide("equals", self.substitute(Size.of(left)), self.substitute(Size.of(right)))

    # -- counterexamples

    def refute(self, holds: Callable[[Mapping[str, int]], bool], symbols: frozenset[str]) -> Verdict:
        """Search for sizes that meet the facts and break the statement. Never answers Proved unless the statement has no symbols."""
        if not symbols:
            return Proved() if holds({}) else Refuted(())
        for sizes in self.assignments(symbols):
            try:
                if not holds(sizes):
                    return Refuted(tuple(sorted(sizes.items())))
            except (ValueError, ZeroDivisionError):
                continue
        return Unknown()

    def assignments(self, symbols: frozenset[str]) -> Iterator[dict[str, int]]:
        """Assignments of the symbols (and of those that facts tie to them) that meet every fact; a bounded number of them."""
        yield from self._assign(self._search_order(symbols), symbols, {}, iter(range(_MAX_TRIALS)))

    def _assign(self, order: list[str], symbols: frozenset[str], sizes: dict[str, int], budget: Iterator[int]) -> Iterator[dict[str, int]]:
        if len(sizes) < len(order):
            symbol = order[len(sizes)]
            for value in self._candidates(symbol, sizes, len(order), symbol in symbols):
                if next(budget, None) is None:
                    return
                sizes[symbol] = value
                if self._meets(symbol, sizes):
                    yield from self._assign(order, symbols, sizes, budget)
                del sizes[symbol]
            return
        try:
            accepted = all(check(sizes) for check in self.checks)
        except KeyError as error:
            (missing,) = error.args
            if missing in sizes:
                raise
            more = self._search_order(symbols | sizes.keys() | {missing})
            yield from self._assign(order + [s for s in more if s not in sizes], symbols, sizes, budget)
            return
        if accepted:
            yield dict(sizes)

    def _search_order(self, symbols: frozenset[str]) -> list[str]:
        """The symbols and all that facts tie to them, divisors before what they divide.

        Left out: a symbol outside the statement that facts only give divisors to, since it can always be chosen to suit.
        """
        ties = [(d.symbols, n.symbols, None if isinstance(_plain_symbol(n), Applied) else _plain_symbol(n)) for d, n in self.divides]
        ties += [(frozenset((smaller,)), frozenset((larger,)), None) for smaller, larger in self.below]
        for name, size in self.equal.items():
            if name in symbols or name in self.lower or any(c < 0 or c.denominator > 1 for _, c in size.terms):
                ties.append((size.symbols, frozenset((name,)), None))
        while True:
            bound = symbols.union(*((d if plain else d | n) for d, n, plain in ties))
            kept = [tie for tie in ties if tie[2] is None or tie[2] in bound]
            if len(kept) == len(ties):
                break
            ties = kept
        wanted = set(symbols)
        while any((d | n) & wanted and not d | n <= wanted for d, n, _ in ties):
            wanted = wanted.union(*(d | n for d, n, _ in ties if (d | n) & wanted))
        order: list[str] = []
        waiting = sorted(wanted, key=lambda name: (name in symbols, name))
        while waiting:
            ready = (s for s in waiting if all(d <= set(order) | {s} for d, n, _ in ties if s in n))
            order.append(next(ready, waiting[0]))
            waiting.remove(order[-1])
        return order

    def _candidates(self, symbol: str, sizes: Mapping[str, int], count: int, asked: bool) -> list[int]:
        """Values worth trying: multiples of what must divide the symbol, divisors of what it must divide; realistic ones first."""
        lower = max(1, self.lower.get(symbol, 1))
        if symbol in self.equal:
            return [self.equal[symbol].evaluate(sizes)] if self.equal[symbol].symbols <= sizes.keys() else []
        unit, limit = 1, 0
        for divisor, dividend in self.divides:
            if symbol not in divisor.symbols | dividend.symbols or not (divisor.symbols | dividend.symbols) - {symbol} <= sizes.keys():
                continue
            known = {**sizes, symbol: 1}
            try:
                above, below = dividend._value(known)
                value = divisor.evaluate(known) * below
            except ValueError:
                continue  # a size function without a value at 1 says nothing of multiples
            if symbol in dividend.symbols - divisor.symbols and len(dividend.terms) == 1 and dict(dividend.terms[0][0]).get(symbol) == 1:
                unit = lcm(unit, value // gcd(value, above))
            elif symbol not in dividend.symbols and dict(divisor.terms[0][0]).get(symbol) == 1:
                limit = gcd(limit, above // value if above % value == 0 else 1)
        if limit:
            return sorted((d for d in _divisors(limit) if d % unit == 0 and d >= lower), key=lambda value: (value == 1, value))
        if unit == 1:
            values = [value for value in _CANDIDATES if value >= lower] or [lower, lower + 1, lower + 7]
            return values[: 26 if count <= 2 else 9 if count <= 4 and asked else 5 if asked else 3]
        start = max(0, -(-lower // unit) - 1)
        multiples = [unit * (m + start) for m in (_MULTIPLIERS if count <= 3 else _MULTIPLIERS[:4] if asked else _MULTIPLIERS[:2])]
        return sorted(multiples, key=lambda value: (value < 32, value))

    def _meets(self, symbol: str, sizes: Mapping[str, int]) -> bool:
        """Do the sizes meet the facts about the symbol whose other symbols have a value?"""
        for divisor, dividend in self.divides:
            involved = divisor.symbols | dividend.symbols
            if symbol in involved and involved <= sizes.keys():
                try:
                    value = divisor.evaluate(sizes)
                    above, below = dividend._value(sizes)
                except ValueError:
                    return False
                if value <= 0 or above % (value * below):
                    return False
        for name, size in self.equal.items():
            if symbol in size.symbols and size.symbols <= sizes.keys():
                above, below = size._value(sizes)
                if above % below or above < self.lower.get(name, 1) * below:
                    return False
        ordered = all(sizes[smaller] < sizes[larger] for smaller, larger in self.below if symbol in (smaller, larger) and {smaller, larger} <= sizes.keys())
        return ordered and sizes[symbol] >= self.lower.get(symbol, 1)


def _primitive(size: Size) -> Size:
    """The Size without the positive factor that all its terms share."""
    content, shared = Fraction(0), {atom: power for atom, power in size.terms[0][0] if isinstance(atom, str) and power > 0}
    for monomial, coefficient in size.terms:
        content, powers = _fraction_gcd(content, Fraction(coefficient)), dict(monomial)
        shared = {atom: min(power, powers[atom]) for atom, power in shared.items() if powers.get(atom, 0) > 0}
    return size * Size({tuple((atom, -power) for atom, power in shared.items()): 1 / content})


def _fraction_gcd(left: Fraction, right: Fraction) -> Fraction:
    return Fraction(gcd(left.numerator * right.denominator, right.numerator * left.denominator), left.denominator * right.denominator)


def _floor_key(residue: Size) -> str:
    return f"floor({residue.terms})"


@lru_cache(maxsize=1024)
def _divisors(value: int) -> tuple[int, ...]:
    small = [d for d in range(1, isqrt(value) + 1) if value % d == 0]
    return tuple(small + [value // d for d in reversed(small) if d * d != value])


def _reach(divisor: Size, chosen: Mapping[str, Size]) -> frozenset[str]:
    """The symbols (and size functions) of a divisor, and of the divisors chosen for them."""
    atoms = frozenset(atom for monomial, _ in divisor.terms for atom, _ in monomial if isinstance(atom, str))
    return atoms.union(*(_reach(chosen[atom], chosen) for atom in atoms if atom in chosen))


def _plain_symbol(size: Size) -> str | None:
    """The symbol, if the Size is just one."""
    if len(size.terms) != 1 or size.terms[0][1] != 1 or len(size.terms[0][0]) != 1:
        return None
    atom, power = size.terms[0][0][0]
    return atom if isinstance(atom, str) and power == 1 else None
