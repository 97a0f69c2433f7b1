"""Random chains of stages: what the types predict is what numpy does to an array of logical indices; and what is refused is refused for a true reason."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import prod
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.ir.layout import Digit, Dim, Element, Reject, Space, TensorType, check_well_formed, merge, refine
from layoutdsl.ir.symbolic import Facts, Size
from layoutdsl.ops import OPS
from tests.ops.harness import at_sizes, bound, context, extent, number, place, stage_of, table, type_of

HOLE = 0x7FFF
WORDS = {16: np.uint16, 32: np.uint32, 64: np.uint64}
STORAGES = {16: "int16", 32: "int32", 64: "int64"}
AXES = ("a", "b", "c")


# --- the model: one int16 per logical index, in real numpy arrays of real strides ----------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """A type and its arrays: one, or one per element of a list; ``fixed`` says which index of the listed axis an array holds."""

    space: Space
    kind: TensorType
    arrays: tuple[tuple[dict[str, int], Any], ...]


def sizes_of(space: Space) -> dict[str, int]:
    return {axis: number(size) for axis, size in space.extents.items()}


def logical(kind: TensorType, space: Space, fixed: dict[str, int]) -> Any:
    """The number of the logical element in every (position, lane), by the digits of the type."""
    here, sizes = place(kind), sizes_of(space)
    grid = np.indices((*here.shape, here.lanes), sparse=True)
    index: dict[str, Any] = {axis: np.asarray(fixed.get(axis, 0)) for axis in AXES}
    for part, digits in zip(grid, (*kind.dims, kind.lanes)):
        for digit in reversed(digits):
            part, value = np.divmod(part, number(digit.ext))
            index[digit.axis] = index[digit.axis] + value * number(digit.div)
    total: Any = np.zeros((), int)
    for axis in AXES:
        total = total * sizes[axis] + index[axis]
    hole = np.logical_or.reduce(np.broadcast_arrays(*(index[axis] >= sizes[axis] for axis in AXES)))
    return np.broadcast_to(np.where(hole, HOLE, total), (*here.shape, here.lanes))


def held(array: Any, lanes: int) -> Any:
    """The elements of an array, lane 0 lowest; of an extended one the low part, whose upper part must be zero."""
    width = array.dtype.itemsize * 8 // lanes
    parts = np.stack([(array >> np.array(width * lane, array.dtype)) & np.array((1 << width) - 1, array.dtype) for lane in range(lanes)], -1)
    return parts.astype(int)


def fresh(kind: TensorType, space: Space) -> Any:
    """An array of the type, lying in memory as the type says."""
    order = kind.order
    dense = np.ascontiguousarray(np.transpose(logical(kind, space, {})[..., 0], order)).astype(np.uint16)
    return np.transpose(dense, np.argsort(order))


def check(state: State) -> None:
    here = place(state.kind)
    for fixed, array in state.arrays:
        assert array.shape == here.shape
        assert array.dtype == WORDS[state.kind.itemsize * 8]
        assert np.array_equal(held(array, here.lanes), logical(state.kind, state.space, fixed))
        strides = [(size, have // array.itemsize, want) for size, have, want in zip(here.shape, array.strides, here.strides)]
        assert all(have == want for size, have, want in strides if size > 1), strides


# --- random types and stages --------------------------------------------------------------------------------------------------------------------------------


def factors(value: int) -> list[int]:
    return [d for d in range(2, value) if value % d == 0]


def chain(rng: Random, axis: str, size: int) -> list[Digit]:
    """A random mixed-radix chain of an axis, minor first."""
    found, div = [], 1
    while factors(size) and rng.random() < 0.5:
        ext = rng.choice(factors(size))
        found.append(Digit(axis, Size.of(div), Size.of(ext), False))
        size, div = size // ext, div * ext
    return [*found, Digit(axis, Size.of(div), Size.of(size))]


def grouped(rng: Random, digits: list[Digit]) -> list[Dim]:
    dims: list[Dim] = []
    for digit in digits:
        if dims and rng.random() < 0.3:
            dims[-1] = (*dims[-1], digit)
        else:
            dims.append((digit,))
    if rng.random() < 0.15:
        dims.insert(rng.randint(0, len(dims)), ())
    return dims


def random_dims(rng: Random, sizes: dict[str, int]) -> list[Dim]:
    digits = [digit for axis, size in sizes.items() for digit in chain(rng, axis, size)]
    rng.shuffle(digits)
    return grouped(rng, digits)


def shuffled(rng: Random, count: int) -> tuple[int, ...]:
    return tuple(rng.sample(range(count), count))


def start(rng: Random) -> State:
    sizes = {axis: rng.choice((1, 2, 3, 4, 6, 8, 8, 12, 16)) for axis in AXES}
    space = Space(Facts(), {axis: Size.of(size) for axis, size in sizes.items()}, {})
    dims = random_dims(rng, sizes)
    whole = tuple(Digit(axis, Size.of(1), Size.of(size)) for axis, size in sizes.items())
    order = shuffled(rng, len(dims)) if rng.random() < 0.5 else tuple(range(len(dims)))
    kind = TensorType(Element("int16"), "int16", tuple(dims), whole, order)
    check_well_formed(space, kind)
    return State(space, kind, (({}, fresh(kind, space)),))


def random_arguments(rng: Random, name: str, state: State) -> dict[str, Any] | None:
    """Arguments that are often legal; None if the op has nothing to work on."""
    kind = state.kind
    width = rng.choice((16, 32, 64))
    match name:
        case "transpose":
            named = [dim[0] for dim in kind.dims if len(dim) == 1]
            if len(named) < 2:
                return None
            second, first = (named[i] for i in sorted(rng.sample(range(len(named)), 2)))
            return {"first": first, "second": second}
        case "bitcast":
            return {"storage": STORAGES[width]}
        case "pack" | "unbind" | "pad":
            axis = kind.dims[-1][-1].axis if name == "pack" and kind.dims and kind.dims[-1] else rng.choice(AXES)
            extra = {"pack": {"storage": STORAGES[width]}, "pad": {"multiple": Size.of(rng.choice((2, 3, 4, 8, 16))), "fill": 0}, "unbind": {}}
            return {"axis": axis, **extra[name]}
        case "unpack":
            return {"storage": "int16"}
        case "widen":
            return {"storage": STORAGES[width], "extension": rng.choice(("zero", "sign"))}
        case "view":
            return {"dims": tuple(random_view(rng, state))}
        case "relayout":
            dims = random_dims(rng, {axis: size for axis, size in sizes_of(state.space).items() if any(d.axis == axis for d in kind.logical)})
            return {"type": replace(kind, dims=tuple(dims), lanes=(), order=shuffled(rng, len(dims)), storage="int16", extension=None, pads=())}
    return {}


def random_view(rng: Random, state: State) -> list[Dim]:
    """The digits in memory, some of them split or merged, seen in another order that is often expressible."""
    atoms: list[Digit] = []
    for digit in state.kind.memory:
        size = number(digit.ext)
        if factors(size) and rng.random() < 0.3:
            part = Size.of(rng.choice(factors(size)))
            major = state.space.facts.div(digit.ext, part)
            atoms += [Digit(digit.axis, digit.div * part, major, digit.top), Digit(digit.axis, digit.div, part, False)]
        elif size > 1:
            atoms.append(digit)
    dims = grouped(rng, merge(atoms) if rng.random() < 0.3 else atoms)
    rng.shuffle(dims)
    if rng.random() < 0.1 and dims:
        dims.pop()
    return dims


# --- what numpy does ----------------------------------------------------------------------------------------------------------------------------------------


def apply(name: str, args: dict[str, Any], state: State, fixed: dict[str, int], array: Any) -> Any:
    """The stage in numpy; ValueError where numpy has no such view."""
    kind, space = state.kind, state.space
    match name:
        case "transpose":
            first, second = (next(i for i, dim in enumerate(kind.dims) if dim == (args[key],)) for key in ("first", "second"))
            return np.swapaxes(array, first, second)
        case "contiguous":
            return np.ascontiguousarray(array)
        case "clone":
            return array.copy("K")
        case "bitcast":
            return array.view(WORDS[int(args["storage"][3:])])
        case "widen":
            return array.astype(WORDS[int(args["storage"][3:])])
        case "pack":
            return np.ascontiguousarray(array.astype(np.uint16)).view(WORDS[int(args["storage"][3:])])
        case "pad":
            dim = next(i for i, digits in enumerate(kind.dims) if any(d.axis == args["axis"] and d.top for d in digits))
            step, multiple = number(kind.dims[dim][0].div), number(args["multiple"])
            units = -(-sizes_of(space)[args["axis"]] // multiple) * multiple // step
            grown = units * prod(number(d.ext) for d in kind.dims[dim][1:]) - array.shape[dim]
            word = sum(HOLE << (16 * lane) for lane in range(extent(kind.lanes)))
            return np.pad(np.ascontiguousarray(array), [(0, grown if d == dim else 0) for d in range(array.ndim)], constant_values=word)
        case "view":
            return numpy_view(state, args["dims"], array)
        case "unpack":
            return numpy_unpack(kind, array)
    raise AssertionError(name)


def numpy_view(state: State, dims: tuple[Dim, ...], array: Any) -> Any:
    wanted = [digit for dim in dims for digit in dim]
    memory = refine(state.space, state.kind.memory, wanted)
    split = array.transpose(state.kind.order).reshape([number(digit.ext) for digit in memory])
    seen = refine(state.space, wanted, memory)
    moved = split.transpose([memory.index(digit) for digit in seen])
    result = moved.reshape([extent(dim) for dim in dims])
    if not np.shares_memory(result, array):
        raise ValueError("numpy copies")
    return result


def numpy_unpack(kind: TensorType, array: Any) -> Any:
    """Lanes become trailing dims, which move behind the digit that they continue."""
    digits = [(place, digit) for place, dim in enumerate(kind.dims) for digit in dim]
    parts = held(array, extent(kind.lanes)).reshape([number(digit.ext) for _, digit in digits] + [number(lane.ext) for lane in kind.lanes])
    entries = [(axis, *entry) for axis, entry in enumerate(digits)]
    for axis, lane in sorted(enumerate(kind.lanes, len(digits)), key=lambda item: -number(item[1].div)):
        at = next(i for i, (_, _, digit) in enumerate(entries) if (digit.axis, digit.div) == (lane.axis, lane.div * lane.ext))
        entries.insert(at + 1, (axis, entries[at][1], lane))
    shape = [prod(number(digit.ext) for _, dim, digit in entries if dim == place) for place in range(len(kind.dims))]
    return np.ascontiguousarray(parts.transpose([axis for axis, _, _ in entries])).reshape(shape).astype(np.uint16)


def stepped(name: str, args: dict[str, Any], state: State, kind: TensorType) -> State:
    if name == "unbind":
        ((_, array),) = state.arrays
        dim = next(i for i, digits in enumerate(state.kind.dims) if len(digits) == 1 and digits[0].axis == args["axis"])
        parts = tuple(({args["axis"]: i}, array[(slice(None),) * dim + (i,)]) for i in range(array.shape[dim]))
        return State(state.space, kind, parts)
    if name == "relayout":
        # The meaning is the target type; that it holds every element once is checked below.
        return State(state.space, kind, (({}, fresh(kind, state.space)),))
    return State(state.space, kind, tuple((fixed, apply(name, args, state, fixed, array)) for fixed, array in state.arrays))


def check_refusal(error: Reject, name: str, args: dict[str, Any], state: State) -> None:
    """numpy cannot do it either, or the rule guards what numpy does not know."""
    kind, (_, array) = state.kind, state.arrays[0]
    match error.code:
        case "view-not-consecutive":
            with pytest.raises(ValueError):
                numpy_view(state, args["dims"], array)
        case "view-digits-differ":
            missing = {d.axis for d in kind.memory if not d.unit} - {d.axis for dim in args["dims"] for d in dim if not d.unit}
            assert missing or prod(map(extent, args["dims"])) != prod(array.shape)
        case "bitcast-not-fastest":
            assert array.strides[-1] != array.itemsize or array.shape[-1] == 1
        case "bitcast-indivisible" | "pack-indivisible":
            ratio = int(args["storage"][3:]) // (kind.itemsize * 8 if name == "bitcast" else 16)
            run = merge(kind.dims[-1])
            assert not run or number(run[-1].ext) % ratio
        case "pad-multiple":
            step = next(dim[0].div for dim in kind.dims if any(d.axis == args["axis"] and d.top for d in dim))
            assert number(args["multiple"]) % number(step)
        case "unbind-not-slowest":
            place_of = next(i for i, dim in enumerate(kind.dims) if len(dim) == 1 and dim[0].axis == args["axis"])
            assert array.strides[place_of] < max(stride for stride, size in zip(array.strides, array.shape) if size > 1)
        case _:
            assert error.code in {entry.code for entry in OPS[name].rejected}, error.code


STAGES = ("transpose", "view", "contiguous", "clone", "bitcast", "pack", "unpack", "pad", "relayout", "unbind", "widen")
seen: dict[str, int] = {}


@settings(max_examples=600, deadline=None, derandomize=True, database=None)
@given(st.randoms(use_true_random=False))
def test_chains_do_what_numpy_does(rng: Random) -> None:
    state = start(rng)
    check(state)
    for _ in range(10):
        name = rng.choice(STAGES)
        op, args = OPS[name], random_arguments(rng, name, state)
        if args is None or (state.kind.listed and not op.on_lists):
            continue
        try:
            kind = op.result(state.space, state.kind, args)
        except Reject as error:
            seen[error.code] = seen.get(error.code, 0) + 1
            check_refusal(error, name, args, state)
            continue
        seen[name] = seen.get(name, 0) + 1
        check_well_formed(state.space, kind)
        assert kind.logical == tuple(d for d in state.kind.logical if name != "unbind" or d.axis != args["axis"])
        state = stepped(name, args, state, kind)
        check(state)


# --- the same for all sizes: proofs, and the sizes that refute ---------------------------------------------------------------------------------------------

FACTS = ((), ("A % 4 == 0",), ("A % 8 == 0", "B % 6 == 0"), ("A % 32 == 0", "B % 4 == 0", "C % 3 == 0"))
DIVISORS = {"a": (2, 4, 8, 32), "b": (2, 3, 4, 6), "c": (2, 3, 5)}
UNITS = {"a": (1, 4, 8, 32), "b": (1, 1, 6, 4), "c": (1, 1, 1, 3)}


def random_texts(rng: Random) -> tuple[str, str]:
    """A stored type over a, b, c, with one split or lane group that may need a fact, and a stage that may need another."""
    axis = rng.choice(AXES)
    step = rng.choice(DIVISORS[axis])
    dims = [other for other in AXES if other != axis] + rng.choice(([axis], [f"{axis}//{step}", f"{axis}%{step}"], [f"({axis}//{step}, {axis}%{step})"]))
    rng.shuffle(dims)
    kind, lanes = rng.choice((("int8", ""), ("int4", ""), ("int4", f" | {axis}%2")))
    if lanes:
        dims = [other for other in AXES if other != axis] + [f"{axis}//2"]
        rng.shuffle(dims)
    over = f" over [{', '.join(rng.sample(dims, len(dims)))}]" if rng.random() < 0.3 else ""
    other = rng.choice(AXES)
    part = rng.choice(DIVISORS[other])
    view = [digit for d in AXES for digit in ([d] if d != other else [f"{d}//{part}", f"{d}%{part}"])]
    movements = (f"view [{', '.join(view)}]", f"unbind({other})", "contiguous", f"transpose({other}, {axis})", f"pad({other}, {part}, 0)")
    stages = ("bitcast(int32)", "bitcast(uint8)", f"pack({other}, int32)", f"pack({axis}, int8)", "unpack(int8)", *movements)
    return f"{kind}[a, b, c] in int8[{', '.join(dims)}{lanes}]{over}", rng.choice(stages)


def outcome(before: str, stage: str, where: Any) -> tuple[TensorType | None, str, tuple[str, ...]]:
    """The type, or the code and the notes of the refusal of the type or of the stage."""
    try:
        kind = type_of(before, where)
        op, args = stage_of(stage, where)
        return op.result(where.space, kind, args), "", ()
    except DiagnosticError as error:
        return None, error.diagnostics[0].code, error.diagnostics[0].notes
    except Reject as error:
        return None, error.code, error.notes


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(st.randoms(use_true_random=False))
def test_a_proof_holds_at_every_size_and_a_witness_really_fails(rng: Random) -> None:
    level = rng.randrange(len(FACTS))
    before, stage = random_texts(rng)
    kind, code, notes = outcome(before, stage, context(FACTS[level], axes=AXES))
    units = {axis: UNITS[axis][level] for axis in AXES}
    if kind is None:
        witness = next((found for note in notes if (found := re.findall(r"([ABC]) = (\d+)", note)) and note.startswith("fails for")), None)
        if witness is not None:
            seen["witness"] = seen.get("witness", 0) + 1
            sizes = {**units, **{name.lower(): int(value) for name, value in witness}}
            assert all(sizes[axis] % units[axis] == 0 for axis in AXES), "the witness breaks a fact"
            assert outcome(before, stage, bound(sizes))[1] == code
        return
    for times in ((1, 1, 1), (2, 1, 3), (3, 5, 1)):
        sizes = {axis: units[axis] * factor for axis, factor in zip(AXES, times)}
        found, code, _ = outcome(before, stage, bound(sizes))
        seen["proof"] = seen.get("proof", 0) + 1
        if prod(sizes.values()) < 2000 and code not in ("transpose-done", "no-op"):
            assert found is not None, code
            assert table(at_sizes(kind, sizes), sizes) == table(found, sizes)


def test_it_was_worth_it() -> None:
    """Every stage was taken often, and many sizes refuted, so the tests above are no empty promise. (Alone it has nothing to look at.)"""
    if not seen.keys() >= {"witness", "transpose"}:
        pytest.skip("the chains did not run in this process")
    assert all(seen.get(name, 0) > 20 for name in (*STAGES, "witness", "proof")), sorted(seen.items())
