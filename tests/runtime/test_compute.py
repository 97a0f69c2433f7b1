"""Expressions against the index-by-index reference on random types, and float sums bit for bit against the plain torch expression."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layoutdsl.plan.model import Compute, Digit, Opaque, Pad, TensorType
from layoutdsl.runtime import compute as engine
from layoutdsl.runtime.compute import compute
from layoutdsl.runtime.move import allocate
from layoutdsl.runtime.opaque import opaque
from tests.reference import evaluate


def tensor_type(storage, dims, order=None, pads=(), element=None, excess=0) -> TensorType:
    order = tuple(order or range(len(dims)))
    return TensorType(element or storage, excess, storage, "", tuple(map(tuple, dims)), (), order, 0, tuple(pads), "")


def run(expr, kind: TensorType, values, extents, mode="exact") -> torch.Tensor:
    out = allocate(kind, "cpu")
    if out.numel():
        out.as_strided((out.numel(),), (1,)).view(torch.uint8).fill_(0x5A)
    compute(Compute("v9", kind, expr, "test"), values, extents, out, mode)
    return out


def chain(rng: random.Random, axis: str, base: int, units: int) -> list[Digit]:
    digits, div = [], base
    while units > 1 and rng.random() < 0.5:
        factor = rng.choice([f for f in range(1, units + 1) if units % f == 0])
        digits.append(Digit(axis, div, factor))
        units, div = units // factor, div * factor
    return [*digits, Digit(axis, div, units)]


def scatter(rng: random.Random, digits: list[Digit]) -> tuple[list[list[Digit]], list[int]]:
    """Digits at random in dims of a random memory order."""
    rng.shuffle(digits)
    dims: list[list[Digit]] = [[] for _ in range(rng.randint(1, 4))]
    for digit in digits:
        rng.choice(dims).append(digit)
    order = list(range(len(dims)))
    rng.shuffle(order)
    return dims, order


def random_value(rng: random.Random, storage: str, extents: dict[str, int], base: dict[str, int]) -> tuple[torch.Tensor, TensorType]:
    """A tensor that carries each axis of ``base`` per that many indices, sometimes padded; what is beyond the extents is poison."""
    units = {axis: -(-extents[axis] // div) for axis, div in base.items()}
    pads = []
    for axis in units:
        if rng.random() < 0.2:
            units[axis] += rng.randint(1, 3)
            pads.append(Pad(axis, units[axis] * base[axis], 0))
    dims, order = scatter(rng, [d for axis in base for d in chain(rng, axis, base[axis], units[axis])])
    kind = tensor_type(storage, dims, order, pads)
    tensor = allocate(kind, "cpu")
    numbers = torch.tensor([rng.randint(-8, 7) for _ in range(tensor.numel())], dtype=torch.float32).view(tensor.shape)
    return tensor.copy_(numbers), kind


def expected(expr, kind: TensorType, values, extents, fill: int) -> torch.Tensor:
    """The result as torch shows it, element by element."""
    digits = [digit for dim in kind.dims for digit in dim]
    results = []
    for counts in itertools.product(*(range(d.ext) for d in digits)):
        at = {(d.axis, d.div): count for d, count in zip(digits, counts) if d.ext != 1}
        index = {axis: sum(count * div for (a, div), count in at.items() if a == axis) for axis, _ in at}
        hole = any(index[axis] >= extents.get(axis, 1 << 30) for axis in index)
        results.append(torch.tensor(fill).to(getattr(torch, kind.storage)) if hole else evaluate(expr, values, extents, at))
    return torch.stack(results).view(kind.shape) if results else torch.empty(kind.shape)


@pytest.mark.parametrize("tile", [1 << 20, 12])
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 40))
def test_expressions_on_any_layout(tile: int, seed: int):
    rng = random.Random(seed)
    extents = {"n": rng.randint(1, 7), "k": rng.choice([1, 4, 6, 8, 12, 7]), "e": rng.randint(1, 3)}
    g = rng.choice([1, 2, 3, 4])
    values = {
        "w": random_value(rng, "int8", extents, {"e": 1, "n": 1, "k": 1}),
        "s": random_value(rng, "float32", extents, {"n": 1, "k": g}),
        "c": random_value(rng, "float32", extents, {"e": 1, "n": rng.choice([1, 2, 4])}),
        "u": random_value(rng, "float32", extents, {}),
    }
    product = ("*", ("*", ("cast", "float32", ("at", "w", ())), ("at", "s", ())), ("at", "c", ()))
    free, bound = ["e", "n", "k"], []
    if rng.random() < 0.6:
        axis = rng.choice(free)
        free.remove(axis)
        bound = chain(rng, axis, 1, extents[axis])
        if rng.random() < 0.3:
            bound = [Digit(axis, 1, g), Digit(axis, g, -(-extents[axis] // g))]
    pads, outer = [], []
    for axis in free:
        count = extents[axis] + (rng.randint(1, 3) if rng.random() < 0.2 else 0)
        pads += [Pad(axis, count, 3)] if count != extents[axis] else []
        outer += chain(rng, axis, 1, count)
    dims, order = scatter(rng, outer)
    kind = tensor_type("float32", dims, order, pads)
    expr = product
    if bound:
        names = [(d.axis, d.div) for d in [*outer, *bound]]
        rng.shuffle(names)
        expr = ("*", ("const", "float32", 8), ("sum", tuple(bound), tuple(names), product))
    expr = ("+", expr, ("at", "u", ()))
    before = engine.TILE
    try:
        engine.TILE = tile
        for mode in ("exact", "fast"):
            found = run(expr, kind, values, extents, mode)
            assert torch.equal(found, expected(expr, kind, values, extents, 3)), mode
    finally:
        engine.TILE = before


# --- named expressions ------------------------------------------------------------------------------------------------------------------------------------

n, k, e = Digit("n", 1, 100), Digit("k", 1, 112), Digit("e", 1, 3)
EXTENTS = {"n": 100, "k": 112, "e": 3}


def test_broadcast_constant_and_empty():
    scale = (torch.tensor([2.5]), tensor_type("float32", [[]]))
    assert torch.equal(run(("at", "s", ()), tensor_type("float32", [[k]]), {"s": scale}, EXTENTS), torch.full((112,), 2.5))
    assert torch.equal(run(("const", "float32", 0), tensor_type("float32", [[Digit("z", 1, 1)]]), {}, {"z": 1}), torch.zeros(1))
    assert run(("const", "float32", 0), tensor_type("float32", [[Digit("z", 1, 0)]]), {}, {"z": 0}).shape == (0,)
    assert run(("const", "float32", 7), tensor_type("float32", []), {}, {}).item() == 7


def test_sum_over_nothing():
    value = (torch.empty(100, 0), tensor_type("float32", [[n], [Digit("z", 1, 0)]]))
    expr = ("sum", (Digit("z", 1, 0),), (("n", 1), ("z", 1)), ("at", "v", ()))
    assert torch.equal(run(expr, tensor_type("float32", [[n]]), {"v": value}, {"n": 100, "z": 0}), torch.zeros(100))


def test_picks_take_the_upper_half():
    weight = torch.arange(200 * 112, dtype=torch.int32).view(200, 112)
    kind = tensor_type("int32", [[Digit("m", 1, 200)], [k]])
    pick = (("m", ("+", 100, ("loop", "n", 1))),)
    found = run(("at", "w", pick), tensor_type("int32", [[k], [n]]), {"w": (weight, kind)}, {**EXTENTS, "m": 200})
    assert torch.equal(found, weight[100:].t())
    swapped = (("m", ("%", ("+", ("*", 2, ("loop", "n", 1)), 150), 200)),)
    found = run(("at", "w", swapped), tensor_type("int32", [[n], [k]]), {"w": (weight, kind)}, {**EXTENTS, "m": 200})
    assert torch.equal(found, weight[(torch.arange(100) * 2 + 150) % 200])
    diagonal = (("m", ("loop", "k", 1)),)
    found = run(("at", "w", diagonal), tensor_type("int32", [[k]]), {"w": (weight, kind)}, {**EXTENTS, "m": 200})
    assert torch.equal(found, weight[:112].diagonal())
    with pytest.raises(ValueError, match="leave"):
        run(("at", "w", (("m", ("+", 101, ("loop", "n", 1))),)), tensor_type("int32", [[n], [k]]), {"w": (weight, kind)}, {**EXTENTS, "m": 200})


def test_gather_of_dtypes_that_torch_cannot_index():
    codes = torch.arange(256, dtype=torch.uint8)[:200].view(100, 2)
    kind = tensor_type("float8_e8m0fnu", [[n], [Digit("k", 64, 2)]])
    found = run(("at", "s", ()), tensor_type("float8_e8m0fnu", [[n], [k]]), {"s": (codes.view(torch.float8_e8m0fnu), kind)}, EXTENTS)
    assert torch.equal(found.view(torch.uint8), codes.repeat_interleave(64, 1)[:, :112])


def test_integer_arithmetic_and_bits():
    value = torch.tensor([1.0, 0.5, -3.0, 1e-3])
    axis, kind = Digit("a", 1, 4), tensor_type("float32", [[Digit("a", 1, 4)]])
    exponent = ("-", ("&", (">>", ("bits", "int32", ("at", "v", ())), ("const", "int32", 23)), ("const", "int32", 255)), ("const", "int32", 127))
    found = run(exponent, tensor_type("int32", [[axis]]), {"v": (value, kind)}, {"a": 4})
    assert found.tolist() == [0, -1, 1, -10]
    halves = torch.tensor([0.5, 1.5, -2.5, 3.7])
    for name, wanted in (("rint", [0, 2, -2, 4]), ("trunc", [0, 1, -2, 3])):
        assert run((name, "int8", ("at", "v", ())), tensor_type("int8", [[axis]]), {"v": (halves, kind)}, {"a": 4}).tolist() == wanted
    whole = torch.tensor([7, -7, 8, -8], dtype=torch.int32)
    operand = {"v": (whole, tensor_type("int32", [[axis]]))}
    for name, wanted in (("//", [2, -3, 2, -3]), ("%", [1, 2, 2, 1])):
        assert run((name, ("at", "v", ()), ("const", "int32", 3)), tensor_type("int32", [[axis]]), operand, {"a": 4}).tolist() == wanted
    shifted = ("neg", ("<<", ("at", "v", ()), ("const", "int32", 2)))
    assert run(shifted, tensor_type("int32", [[axis]]), operand, {"a": 4}).tolist() == [-28, 28, -32, 32]


def test_rounding_follows_the_text():
    a, b = torch.randn(100), torch.randn(100)
    values = {"a": (a, tensor_type("float32", [[n]])), "b": (b, tensor_type("float32", [[n]]))}
    expr = ("cast", "float32", ("cast", "float16", ("*", ("at", "a", ()), ("at", "b", ()))))
    assert torch.equal(run(expr, tensor_type("float32", [[n]]), values, EXTENTS), (a * b).half().float())
    ratio = ("/", ("const", "bfloat16", 1), ("cast", "bfloat16", ("at", "a", ())))
    assert torch.equal(run(ratio, tensor_type("bfloat16", [[n]]), values, EXTENTS), 1 / a.bfloat16())


def test_excess_is_taken_off():
    kind = tensor_type("uint8", [[n]], element="uint8", excess=8)
    stored = torch.arange(100, dtype=torch.uint8) + 8
    found = run(("at", "v", ()), tensor_type("uint8", [[n]]), {"v": (stored, kind)}, EXTENTS)
    assert torch.equal(found, stored - 8)


def test_refusals():
    value = (torch.ones(100), tensor_type("float32", [[n]]))
    with pytest.raises(ValueError, match="no loop determines"):
        run(("at", "v", ()), tensor_type("float32", [[k]]), {"v": value}, EXTENTS)
    with pytest.raises(ValueError, match="cannot be written"):
        run(("at", "v", ()), tensor_type("int8", [[n]]), {"v": value}, EXTENTS)
    with pytest.raises(ValueError, match=r"of torch\.float32 and torch\.int8"):
        run(("+", ("at", "v", ()), ("const", "int8", 1)), tensor_type("float32", [[n]]), {"v": value}, EXTENTS)


def test_format_cast_is_the_identity_without_a_device():
    tensor = torch.ones(3)
    assert opaque(Opaque("v1", "format_cast", "v0", tensor_type("float32", [[n]]), (("format", 29),), "nz"), tensor) is tensor


# --- the bits of float sums -------------------------------------------------------------------------------------------------------------------------------


def sum_case(rng: random.Random) -> tuple[dict[str, int], str, str, int]:
    """Extents, the order of the axes, the summed axis, the group size."""
    sizes = [1, 2, 3, 7, 8, 15, 31, 33, 63, 64, 65, 96, 100, 127, 128, 160, 192, 200, 257, 300, 511, 1000, 4096]
    extents = {"n": rng.choice(sizes), "k": rng.choice([*sizes, 1, 5, 112, 2048, 7168, 20000]), "e": rng.choice([1, 1, 2, 3, 8])}
    if np.prod(list(extents.values())) > 3e6:
        extents["n"] = max(1, int(3e6 / extents["k"] / extents["e"]))
    order = "".join(rng.sample("enk", 3))
    return extents, order, "k", rng.choice([1, 16, 32, 64, extents["k"]])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("threads", [1, 2])
def test_sums_have_the_bits_of_the_plain_expression(dtype: str, threads: int):
    rng = random.Random(f"{dtype} {threads}")
    before, tile = torch.get_num_threads(), engine.TILE
    torch.set_num_threads(threads)
    try:
        for _ in range(60 if dtype == "float32" else 15):
            engine.TILE = rng.choice([1 << 20, 1 << 16, 1 << 12, 64])
            check_sum(rng, dtype)
    finally:
        torch.set_num_threads(before)
        engine.TILE = tile


def check_sum(rng: random.Random, dtype: str) -> None:
    extents, order, axis, g = sum_case(rng)
    digit = {a: Digit(a, 1, extents[a]) for a in "enk"}
    generator = torch.Generator().manual_seed(rng.getrandbits(30))
    layout = rng.sample("enk", 3)
    weight = torch.randint(-8, 8, [extents[a] for a in layout], dtype=torch.int8, generator=generator)
    groups = -(-extents["k"] // g)
    scale = torch.randn(extents["n"], groups, generator=generator).to(getattr(torch, dtype))
    values = {
        "w": (weight, tensor_type("int8", [[digit[a]] for a in layout])),
        "s": (scale, tensor_type(dtype, [[digit["n"]], [Digit("k", g, groups)]])),
    }
    body = ("*", ("cast", dtype, ("at", "w", ())), ("at", "s", ()))
    expr = ("sum", (digit[axis],), tuple((a, 1) for a in order), body)
    found = run(expr, tensor_type(dtype, [[digit["e"]], [digit["n"]]]), values, extents)

    wide = scale.repeat_interleave(g, 1)[:, : extents["k"]]
    shown = {"e": None, "n": extents["n"], "k": extents["k"]}
    aligned = wide.permute([0, 1] if order.index("n") < order.index("k") else [1, 0]).reshape([shown[a] or 1 for a in order])
    plain = (weight.permute([layout.index(a) for a in order]).to(getattr(torch, dtype)) * aligned).contiguous().sum(order.index(axis))
    wanted = plain if order.index("e") < order.index("n") else plain.t()
    assert torch.equal(found, wanted), (extents, order, g, engine.TILE)


@pytest.mark.parametrize("order", ["kn", "nk"])
def test_large_sums_cross_the_thread_threshold(order: str):
    digit = {"n": Digit("n", 1, 1100), "k": Digit("k", 1, 4096)}
    weight = torch.randint(-8, 8, [digit[a].ext for a in order], dtype=torch.int8)
    values = {"w": (weight, tensor_type("int8", [[digit[a]] for a in order]))}
    expr = (
        "*",
        ("const", "float32", 8),
        ("sum", (digit["k"],), tuple((a, 1) for a in order), ("/", ("cast", "float32", ("at", "w", ())), ("const", "float32", 3))),
    )
    found = run(expr, tensor_type("float32", [[digit["n"]]]), values, {"n": 1100, "k": 4096})
    assert torch.equal(found, 8 * (weight.float() / 3).sum(order.index("k")))


def test_few_outputs_of_long_sums():
    """A tile with one output would be summed by two threads in halves; the whole is not."""
    long = Digit("k", 1, 400_000)
    values = {"w": (torch.randn(5, 400_000), tensor_type("float32", [[Digit("n", 1, 5)], [long]]))}
    expr = ("sum", (long,), (("n", 1), ("k", 1)), ("at", "w", ()))
    found = run(expr, tensor_type("float32", [[Digit("n", 1, 5)]]), values, {"n": 5, "k": 400_000})
    assert torch.equal(found, values["w"][0].sum(1))


def test_no_full_size_floats():
    """Whatever the tensor, a sum's body exists one tile at a time."""
    largest = 0
    real = engine._evaluate

    def counted(expr, scope):
        nonlocal largest
        made, owned = real(expr, scope)
        largest = max(largest, made.numel() * made.element_size() if owned else 0)
        return made, owned

    digit = {"n": Digit("n", 1, 2048), "k": Digit("k", 1, 4096)}
    values = {"w": (torch.ones(4096, 2048, dtype=torch.int8), tensor_type("int8", [[digit["k"]], [digit["n"]]]))}
    expr = ("sum", (digit["k"],), (("k", 1), ("n", 1)), ("cast", "float32", ("at", "w", ())))
    engine._evaluate = counted
    try:
        found = run(expr, tensor_type("float32", [[digit["n"]]]), values, {"n": 2048, "k": 4096})
    finally:
        engine._evaluate = real
    assert (found == 4096).all()
    assert largest <= 4 << 20
