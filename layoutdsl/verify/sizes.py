"""Sizes of layers that bring mistakes to light, among those that a plan allows.

Between a plan that is not bound and the checks. At a square layer a sum over the wrong axis has the right shape; where one size is twice another, a
transposed tensor may pass for a right one; where the group size divides everything, a count that rounds down is right.

Invariants: every choice meets ``require``, and the kernels' limits where any sizes do; the same plan gives the same sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import combinations
from math import lcm, prod
from typing import Any

from layoutdsl.plan.model import Condition, Plan
from layoutdsl.plan.sizes import SizeExpr, evaluate, names_in

Sizes = dict[str, int]
LARGE = (4304, 1152, 3420)
"""Inner sizes of real models (a vision tower's 4304 = 16 * 269, 1152 = 128 * 9, 3420 = 4 * 855), on which code that counted groups with a floor failed."""
AFFORDABLE = 2**20
"""Weights of all experts together beyond which a layer is too large for every configuration."""
_MULTIPLES = (1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 15, 18)


def chosen(plan: Plan) -> dict[str, Sizes]:
    """Sizes by the purpose that they serve, those that serve two of them once. Never empty for a plan that any sizes meet."""
    found: dict[str, Sizes] = {}
    for purpose, make in (("distinct", distinct), ("smallest", smallest), ("one group", one_group), ("partial group", partial_group)):
        sizes = make(plan)
        if sizes is not None and sizes not in found.values():
            found[purpose] = sizes
    return found


def distinct(plan: Plan) -> Sizes | None:
    """All extents differ, no size divides another, neither one nor two experts, an odd number of groups, at least three; of the last as much as is
    affordable."""
    found = _search(_key(plan), _told_apart)
    if found is None or prod(size for _, size in found) > AFFORDABLE:
        found = _search(_key(plan), _spread) or _search(_key(plan), _anything)
    return dict(found) if found else None


def smallest(plan: Plan) -> Sizes | None:
    """The least that is allowed: one expert, one group if there may be one."""
    found = _search(_key(plan), _anything)
    return dict(found) if found else None


def one_group(plan: Plan) -> Sizes | None:
    """Every axis that has groups has one."""
    found = _search(_key(plan), _single)
    return dict(found) if found else None


def partial_group(plan: Plan) -> Sizes | None:
    """A last group with fewer indices than the others, where that is allowed."""
    found = _search(_key(plan), _partial)
    return dict(found) if found else None


def large(plan: Plan, size: int) -> Sizes | None:
    """The smallest sizes of which one, not the number of experts, is this one; all extents differ."""
    fixed = [name for name in plan.sizes if name != "num_experts"]
    found = [dict(sizes) for name in fixed if (sizes := _search(_key(plan), _spread, ((name, size),)))]
    return min(found, key=lambda sizes: prod(sizes.values())) if found else None


def for_ranks(plan: Plan, split: str, ranks: int) -> Sizes | None:
    """Sizes of a whole layer of which every rank's part is legal: plan is that of one of so many ranks, split the size that they share."""

    def whole(sizes: Mapping[str, int]) -> Sizes:
        return {**sizes, split: sizes.get(split, 1) * ranks}

    def spread(key: _Key, sizes: Mapping[str, int]) -> bool:
        return _spread(key, whole(sizes))

    def told_apart(key: _Key, sizes: Mapping[str, int]) -> bool:
        others = (key[0], key[1], tuple((axis, group) for axis, group in key[2] if split not in names_in(dict(key[1])[axis])))
        return spread(key, sizes) and _told_apart_groups(others, whole(sizes))

    found = _search(_key(plan), told_apart) or _search(_key(plan), spread)
    return {**dict(found), split: dict(found).get(split, 1) * ranks} if found else None


def feasible(conditions: Iterable[SizeExpr], values: Mapping[str, int]) -> bool:
    """Are there sizes that meet conditions which mention names of the config too, with these values for them?"""
    key: _Key = (tuple(_with_values(test, values) for test in conditions), (), ())
    return _search(key, _anything) is not None


def _with_values(test: SizeExpr, values: Mapping[str, int]) -> SizeExpr:
    if isinstance(test, tuple):
        return (test[0], *(_with_values(operand, values) for operand in test[1:]))
    return values.get(test, test) if isinstance(test, str) else test


def meets(plan: Plan, sizes: Mapping[str, int]) -> bool:
    """Do these sizes meet ``require`` and, where any do, the limits?"""
    conditions, _, _ = _key(plan)
    return all(_true(test, sizes) for test in conditions)


# ---- search ---------------------------------------------------------------------------------------------------------------------------------------------

_Key = tuple[tuple[SizeExpr, ...], tuple[tuple[str, SizeExpr], ...], tuple[tuple[str, int], ...]]
"""The conditions, the axes with their extents, and the axes that have groups with the indices per group."""
_Test = Callable[[_Key, Mapping[str, int]], bool]


@lru_cache(maxsize=256)
def _cached_key(require: tuple[Condition, ...], limits: tuple[SizeExpr, ...], axes: Any, groups: Any) -> _Key:
    strict: _Key = ((*(condition.test for condition in require), *limits), axes, groups)
    return strict if _search(strict, _anything) else (tuple(condition.test for condition in require), axes, groups)


def _key(plan: Plan) -> _Key:
    return _cached_key(plan.require, tuple(limit.test for limit in plan.limits), plan.axes, tuple(_groups(plan)))


def _groups(plan: Plan) -> Iterator[tuple[str, int]]:
    """Axes that a parameter has in groups of a fixed number of indices."""
    found = set()
    for node in plan.inputs:
        digits = [digit for dim in (*node.type.dims, node.type.lanes) for digit in dim if digit.ext != 1]
        for axis in {digit.axis for digit in digits}:
            divisors = [digit.div for digit in digits if digit.axis == axis]
            if all(isinstance(div, int) and div > 1 for div in divisors):
                found.add((axis, min(div for div in divisors if isinstance(div, int))))
    yield from sorted(found)


@lru_cache(maxsize=512)
def _search(key: _Key, test: _Test, fixed: tuple[tuple[str, int], ...] = ()) -> tuple[tuple[str, int], ...] | None:
    """The sizes of the least product that meet all conditions and the test."""
    conditions, _, _ = key
    if not all(_true(test, {}) for test in conditions if not names_in(test)):
        return None
    names = _names(key)
    searched = []
    for i, name in enumerate(names):
        alone = [test for test in conditions if names_in(test) == {name}]
        pool = [dict(fixed)[name]] if name in dict(fixed) else _pool(key, name)
        together = [test for test in conditions if name in names_in(test) <= set(names[: i + 1]) and test not in alone]
        searched.append((name, [value for value in pool if all(_true(test, {name: value}) for test in alone)], together))
    best = _least(key, test, searched, {}, None)
    return tuple(best.items()) if best is not None else None


def _least(key: _Key, test: _Test, searched: list[tuple[str, list[int], list[SizeExpr]]], known: Sizes, best: Sizes | None) -> Sizes | None:
    """``best`` or what is less: the known sizes with others that meet the test. searched: names with their values, and the conditions that they decide."""
    if not searched:
        return known if test(key, known) else best
    (name, pool, conditions), *rest = searched
    for value in pool:
        sizes = {**known, name: value}
        if best is not None and prod(sizes.values()) >= prod(best.values()):
            break
        if all(_true(condition, sizes) for condition in conditions):
            best = _least(key, test, rest, sizes, best)
    return best


def _names(key: _Key) -> tuple[str, ...]:
    conditions, axes, _ = key
    found = {name for test in (*conditions, *(extent for _, extent in axes)) for name in names_in(test)}
    return tuple(sorted(found))


def _pool(key: _Key, name: str) -> list[int]:
    """Values to try for a size: small multiples of the numbers that the conditions divide by, alone and in pairs."""
    conditions, _, groups = key
    if name in ("num_experts", "num_heads", "num_kv_heads"):
        return [1, 2, 3, 5, 8]
    units = {8, 16, *(size for _, size in groups), *(number for test in conditions for number in _divisors(test))}
    units |= {lcm(a, b) for a, b in combinations(sorted(units), 2) if lcm(a, b) <= 4096}
    return sorted({unit * multiple for unit in units for multiple in _MULTIPLES})


def _divisors(test: SizeExpr) -> Iterator[int]:
    if not isinstance(test, tuple):
        return
    if test[0] in ("%", "//", "/", "cdiv", "==") and not names_in(test[2]):
        number = evaluate(test[2], {})
        yield from [number] if number > (test[0] != "==") else []
    for operand in test[1:]:
        yield from _divisors(operand)


def _true(test: SizeExpr, sizes: Mapping[str, int]) -> bool:
    try:
        return evaluate(test, sizes) != 0
    except (ValueError, ZeroDivisionError):
        return False


# ---- what sizes are for ---------------------------------------------------------------------------------------------------------------------------------


def _anything(key: _Key, sizes: Mapping[str, int]) -> bool:
    return True


def _spread(key: _Key, sizes: Mapping[str, int]) -> bool:
    """All extents that are no constants differ, no size divides another, and there are neither one nor two experts."""
    extents = [evaluate(extent, sizes) for extent in dict.fromkeys(extent for _, extent in key[1] if names_in(extent))]
    lengths = [size for name, size in sizes.items() if name != "num_experts"]
    divides = any(a % b == 0 or b % a == 0 for a, b in combinations(lengths, 2))
    return len(set(extents)) == len(extents) and not divides and sizes.get("num_experts", 3) >= 3


def _told_apart(key: _Key, sizes: Mapping[str, int]) -> bool:
    return _spread(key, sizes) and _told_apart_groups(key, sizes)


def _told_apart_groups(key: _Key, sizes: Mapping[str, int]) -> bool:
    return all(count >= 3 and count % 2 for count in _counts(key, sizes))


def _counts(key: _Key, sizes: Mapping[str, int]) -> list[int]:
    extents = dict(key[1])
    return [-(-evaluate(extents[axis], sizes) // group) for axis, group in key[2]]


def _single(key: _Key, sizes: Mapping[str, int]) -> bool:
    return bool(key[2]) and all(count == 1 for count in _counts(key, sizes))


def _partial(key: _Key, sizes: Mapping[str, int]) -> bool:
    extents = dict(key[1])
    return any(evaluate(extents[axis], sizes) % group for axis, group in key[2]) and all(count >= 3 for count in _counts(key, sizes)) and _spread(key, sizes)
