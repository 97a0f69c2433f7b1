"""Movement against the bit-by-bit reference on random types, and named layouts against plain torch."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layoutdsl.plan.model import Digit, Pad, TensorType
from layoutdsl.runtime import move
from layoutdsl.runtime.move import allocate, copy, restride, same_memory
from tests.reference import WIDTH, bases, decode, encode

# element -> storages without lanes (storage, extension); lanes come on top, in every storage that is wider than the element
CARRIERS = {
    "int4": [("int8", ""), ("int16", ""), ("int32", ""), ("uint8", "zero"), ("int64", "")],
    "uint4": [("int8", ""), ("uint8", ""), ("int32", "")],
    "e2m1": [("float32", ""), ("bfloat16", ""), ("uint8", "zero"), ("float16", "")],
    "int8": [("int8", ""), ("int32", "sign"), ("int16", "zero"), ("uint8", "")],
    "e8m0": [("uint8", ""), ("float8_e8m0fnu", ""), ("int32", "zero")],
    "e4m3": [("float8_e4m3fn", ""), ("uint8", "")],
    "bool": [("bool", ""), ("uint8", "")],
    "bfloat16": [("bfloat16", ""), ("float32", "zero"), ("int32", "sign")],
    "float32": [("float32", ""), ("int64", "zero"), ("int64", "sign"), ("int32", "")],
    "int64": [("int64", ""), ("float64", "")],
}
LANED = {
    4: ["int8", "uint8", "int16", "int32", "int64", "float32", "bfloat16"],
    8: ["int16", "int32", "int64", "float32"],
    16: ["int32", "int64"],
    32: ["int64"],
    64: [],
}


def tensor_type(element, storage, dims, lanes=(), order=None, excess=0, extension="", pads=()) -> TensorType:
    order = tuple(order or range(len(dims)))
    return TensorType(element, excess, storage, extension, tuple(map(tuple, dims)), tuple(lanes), order, 0, tuple(pads), "")


def digits(rng: random.Random, axis: str, base: int, units: int) -> list[Digit]:
    """A random factorisation of ``units`` into a chain of digits."""
    chain, div = [], base
    while units > 1 and rng.random() < 0.7:
        factor = rng.choice([f for f in range(1, units + 1) if units % f == 0])
        chain.append(Digit(axis, div, factor))
        units, div = units // factor, div * factor
    return [*chain, Digit(axis, div, units)]


def random_type(rng: random.Random, element: str, base: dict[str, int], units: dict[str, int], pads: tuple[Pad, ...]) -> TensorType:
    pool = [d for axis in units for d in digits(rng, axis, base[axis], units[axis])]
    rng.shuffle(pool)
    lanes: list[Digit] = []
    storage, extension = rng.choice(CARRIERS[element])
    if LANED[WIDTH[element]] and rng.random() < 0.6:
        wanted = rng.choice(LANED[WIDTH[element]])
        left = WIDTH[wanted] // WIDTH[element]
        for digit in list(pool):
            if left % digit.ext == 0 and left > 1:
                lanes.append(digit)
                pool.remove(digit)
                left //= digit.ext
        if left > 1:
            pool, lanes = pool + lanes, []
        else:
            storage, extension = wanted, ""
    dims: list[list[Digit]] = [[] for _ in range(rng.randint(1 if pool else 0, 4))]
    for digit in pool:
        rng.choice(dims).append(digit)
    order = list(range(len(dims)))
    rng.shuffle(order)
    excess = rng.choice([0, 0, 8, 3]) if element in ("int4", "uint4") else 0
    return tensor_type(element, storage, dims, lanes, order, excess, extension, pads)


@settings(max_examples=500, deadline=None)
@given(
    st.integers(0, 1 << 40), st.sampled_from(sorted(CARRIERS)), st.booleans(), st.sampled_from([(1 << 20, 2048, 4096), (64, 8, 2), (256, 16, 8), (16, 4, 2)])
)
def test_any_layout_to_any_layout(seed: int, element: str, padded: bool, tiling: tuple[int, int, int]):
    before = move.TILE, move.NEAR, move.STAGED
    move.TILE, move.NEAR, move.STAGED = tiling
    try:
        check_any(random.Random(seed), element, padded)
    finally:
        move.TILE, move.NEAR, move.STAGED = before


def check_any(rng: random.Random, element: str, padded: bool) -> None:
    axes = "abc"[: rng.randint(1, 3)]
    base = {axis: rng.choice([1, 1, 32]) for axis in axes}
    units = {axis: rng.choice([1, 2, 3, 4, 5, 6, 8, 12, 16]) for axis in axes}
    source = random_type(rng, element, base, units, ())
    wide, pads = dict(units), ()
    if padded:
        axis = rng.choice(axes)
        wide[axis] = units[axis] + rng.choice([0, 1, 2, 3, 5, units[axis]])
        pads = (Pad(axis, wide[axis] * base[axis], rng.choice([0, 1])),)
    target = random_type(rng, element, base, wide, pads)

    limits, wider = ({axis: count[axis] * base[axis] for axis in axes} for count in (units, wide))
    shape = tuple(units[axis] for axis in sorted(axes))
    values = np.array([rng.getrandbits(WIDTH[element]) for _ in range(int(np.prod(shape)))], dtype=object).reshape(shape)
    if element == "bool":
        values = values % 2
    tensor = encode(values, source, _capacity(source, limits))
    before = tensor.clone()
    out = _poisoned(target)
    copy(tensor, source, target, out)
    found = decode(out, target, _capacity(target, wider))
    assert (found[tuple(map(slice, shape))] == values).all()
    found[tuple(map(slice, shape))] = _fill_code(target, pads)
    assert (found == _fill_code(target, pads)).all()
    assert torch.equal(_bytes(before), _bytes(tensor))
    # and back: the pad is cropped
    back = _poisoned(source)
    copy(out, target, source, back)
    assert (decode(back, source, _capacity(source, limits)) == values).all()
    if same_memory(source, target):
        assert torch.equal(_bytes(restride(tensor, source, target)), _bytes(out))
        assert restride(tensor, source, target).data_ptr() == tensor.data_ptr()


def _capacity(kind: TensorType, limits: dict[str, int]) -> dict[str, int]:
    assert set(bases(kind)) <= set(limits)
    return limits


def _fill_code(kind: TensorType, pads: tuple[Pad, ...]) -> int:
    """Value mod 2^width of the fill."""
    fill = pads[0].fill if pads else 0
    codes = {"bfloat16": [0, 0x3F80], "float32": [0, 0x3F800000], "e4m3": [0, 0x38], "e2m1": [0, 2]}
    return codes.get(kind.element, [0, 1])[fill]


def _poisoned(kind: TensorType) -> torch.Tensor:
    out = allocate(kind, "cpu")
    if out.numel():
        out.as_strided((out.numel(),), (1,)).view(torch.uint8).fill_(0x5A)
    return out


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


# --- named layouts ----------------------------------------------------------------------------------------------------------------------------------------

N, K = 1056, 1040
n, k = Digit("n", 1, N), Digit("k", 1, K)
PLAIN = tensor_type("int4", "int8", [[n], [k]])
PACK_N = tensor_type("int4", "int32", [[k], [Digit("n", 8, N // 8)]], [Digit("n", 1, 8)])


def moved(tensor: torch.Tensor, source: TensorType, target: TensorType) -> torch.Tensor:
    out = _poisoned(target)
    copy(tensor, source, target, out)
    return out


def weights() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(-8, 8, (N, K), dtype=np.int8))


def packed(values: torch.Tensor) -> torch.Tensor:
    """The last dim, eight to a word, first in the low bits."""
    lanes = values.to(torch.int64).unflatten(-1, (-1, 8)) & 15
    return sum(lanes[..., i] << (4 * i) for i in range(8)).to(torch.int32)


def test_pack_transposed():
    assert torch.equal(moved(weights(), PLAIN, PACK_N), packed(weights().t()))


def test_unpack():
    assert torch.equal(moved(packed(weights().t()), PACK_N, PLAIN), weights())


def test_offset_binary_along_k_to_twos_complement_along_n():
    source = tensor_type("int4", "int32", [[n], [Digit("k", 8, K // 8)]], [Digit("k", 1, 8)], excess=8)
    assert torch.equal(moved(packed(weights() + 8), source, PACK_N), packed(weights().t()))


def test_awq_order():
    target = tensor_type("uint4", "int32", [[k], [Digit("n", 8, N // 8)]], [Digit("n", 1, 2), Digit("n", 2, 4)])
    values = (weights() & 15).t()
    awq = values.unflatten(-1, (-1, 8))[..., [0, 2, 4, 6, 1, 3, 5, 7]].flatten(-2)
    source = tensor_type("uint4", "uint8", [[n], [k]])
    out = moved((weights() & 15).to(torch.uint8), source, target)
    assert torch.equal(out, packed(awq))
    assert torch.equal(moved(out, target, source), (weights() & 15).to(torch.uint8))


def test_same_nibble_is_byte_movement():
    source = tensor_type("int4", "int8", [[Digit("n", 2, N // 2)], [k]], [Digit("n", 1, 2)])
    rows = weights()
    pairs = (rows[0::2] & 15) | (rows[1::2] << 4)
    assert torch.equal(moved(pairs, source, PACK_N), packed(rows.t()))


def test_lying_transposed():
    target = tensor_type("int8", "int8", [[k], [n]], order=(1, 0))
    source = tensor_type("int8", "int8", [[n], [k]])
    out = moved(weights(), source, target)
    assert out.stride() == (1, K)
    assert torch.equal(out, weights().t())


def test_experts_transposed():
    e = Digit("e", 1, 3)
    source, target = tensor_type("int8", "int8", [[e], [n], [k]]), tensor_type("int8", "int8", [[e], [k], [n]])
    tensor = torch.stack([weights(), weights() + 1, weights() * 3])
    assert torch.equal(moved(tensor, source, target), tensor.transpose(1, 2))


@pytest.mark.parametrize("extension", ["zero", "sign"])
@pytest.mark.parametrize(("narrow", "wide"), [("float32", "int64"), ("int16", "int32"), ("int8", "int64"), ("bfloat16", "int64")])
def test_widen(narrow: str, wide: str, extension: str):
    source, target = tensor_type(narrow, narrow, [[n]]), tensor_type(narrow, wide, [[n]], extension=extension)
    bits = WIDTH[narrow]
    words = torch.from_numpy(np.random.default_rng(1).integers(-(1 << (bits - 1)), 1 << (bits - 1), N))
    tensor = words.to(getattr(torch, f"int{bits}")).view(getattr(torch, narrow))
    wanted = words if extension == "sign" else words & ((1 << bits) - 1)
    out = moved(tensor, source, target)
    assert torch.equal(out, wanted.to(getattr(torch, wide)))
    assert torch.equal(_bytes(moved(out, target, source)), _bytes(tensor))


def test_nan_payloads_and_negative_zero_survive():
    words = torch.tensor([[0x7FC12345, -0x80000000], [0x7F812345, -1]], dtype=torch.int32)
    source, target = (tensor_type("float32", "float32", [[Digit(x, 1, 2)] for x in axes]) for axes in ("ab", "ba"))
    assert torch.equal(moved(words.view(torch.float32), source, target).view(torch.int32), words.t())


def test_mx_scale_pairs():
    scales = torch.arange(6 * 8, dtype=torch.uint8).view(6, 8)
    rows, groups = Digit("n", 1, 6), Digit("k", 32, 8)
    source = tensor_type("e8m0", "uint8", [[rows], [groups]])
    pairs = tensor_type("e8m0", "uint8", [[rows], [Digit("k", 64, 4)], [Digit("k", 32, 2)]])
    kernel = tensor_type("e8m0", "uint8", [[Digit("k", 64, 4)], [rows], [Digit("k", 32, 2)]])
    assert same_memory(source, pairs)
    assert torch.equal(restride(scales, source, pairs), scales.view(6, 4, 2))
    assert torch.equal(moved(scales, source, kernel), scales.view(6, 4, 2).transpose(0, 1))


def test_e2m1_codes_fill_floats():
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    codes = torch.arange(16).repeat(8).view(4, 32)
    source = tensor_type("e2m1", "bfloat16", [[Digit("n", 1, 4)], [Digit("k", 1, 32)]])
    target = tensor_type("e2m1", "float32", [[Digit("n", 1, 4)], [Digit("k", 8, 4)]], [Digit("k", 1, 8)])
    out = moved(table[codes].to(torch.bfloat16), source, target)
    assert torch.equal(out.view(torch.int32), packed(codes))
    back = moved(out, target, source)
    assert torch.equal(back.view(torch.int16), table[codes].to(torch.bfloat16).view(torch.int16))


def test_fractal_nz_is_invisible():
    source = tensor_type("int8", "int8", [[n], [k]])
    target = TensorType("int8", 0, "int8", "", ((n,), (k,)), (), (0, 1), 32, (), "")
    assert torch.equal(moved(weights(), source, target), weights())


def test_pad_and_crop():
    source = tensor_type("int8", "int8", [[Digit("n", 1, 3)], [Digit("k", 1, 5)]])
    target = tensor_type("int8", "int8", [[Digit("k", 1, 8)], [Digit("n", 1, 3)]], pads=[Pad("k", 8, 7)])
    tensor = torch.arange(15, dtype=torch.int8).view(3, 5)
    out = moved(tensor, source, target)
    assert torch.equal(out, torch.nn.functional.pad(tensor, (0, 3), value=7).t())
    assert torch.equal(moved(out, target, source), tensor)


@pytest.mark.parametrize("storage", ["int8", "bfloat16", "float8_e4m3fn", "bool"])
def test_empty_and_scalar(storage: str):
    empty = tensor_type(storage, storage, [[Digit("z", 1, 0)], [n]])
    turned = tensor_type(storage, storage, [[n], [Digit("z", 1, 0)]])
    assert moved(allocate(empty, "cpu"), empty, turned).shape == (N, 0)
    scalar, unit = tensor_type(storage, storage, []), tensor_type(storage, storage, [[]])
    one = torch.ones((), dtype=torch.float32).to(getattr(torch, storage))
    assert moved(one, scalar, unit).shape == (1,)
    assert torch.equal(moved(one, scalar, unit).view(torch.uint8).flatten(), one.reshape(1).view(torch.uint8).flatten())
    assert restride(one, scalar, unit).shape == (1,)


def test_restride_between_widths():
    rows = torch.arange(64, dtype=torch.int8).view(8, 8)
    packed8 = tensor_type("int4", "int8", [[Digit("k", 1, 8)], [Digit("n", 2, 8)]], [Digit("n", 1, 2)])
    packed32 = tensor_type("int4", "int32", [[Digit("k", 1, 8)], [Digit("n", 8, 2)]], [Digit("n", 1, 8)])
    assert same_memory(packed8, packed32)
    assert torch.equal(restride(rows, packed8, packed32), rows.view(torch.int32))
    assert torch.equal(restride(rows.view(torch.int32), packed32, packed8), rows)
    part = torch.arange(128, dtype=torch.int8)[64:].view(8, 8)
    assert torch.equal(restride(part, packed8, packed32), part.view(torch.int32))


def test_restride_refuses_other_memory():
    source, longer = tensor_type("int8", "int8", [[n], [k]]), tensor_type("int8", "int8", [[n], [k], [Digit("e", 1, 2)]])
    with pytest.raises(ValueError, match="are not the bytes"):
        restride(weights(), source, longer)
    with pytest.raises(ValueError, match="strides"):
        restride(weights().t().contiguous().t(), source, source)


def test_a_source_that_lies_otherwise_is_read_right():
    source, target = tensor_type("int8", "int8", [[n], [k]]), tensor_type("int8", "int8", [[k], [n]])
    assert torch.equal(moved(weights().t().contiguous().t(), source, target), weights().t())


def test_scratch_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """Whatever the tensor: what a movement allocates is at most 4 MiB."""
    scratch = 0
    real = torch.empty

    def counted(*args, **kwargs):
        nonlocal scratch
        made = real(*args, **kwargs)
        scratch += made.numel() * made.element_size()
        return made

    monkeypatch.setattr(move.torch, "empty", counted)
    rows, columns = Digit("n", 1, 2048), Digit("k", 1, 4096)
    big = tensor_type("int4", "int8", [[rows], [columns]])
    target = tensor_type("int4", "int32", [[columns], [Digit("n", 8, 256)]], [Digit("n", 1, 8)])
    tensor = torch.zeros(2048, 4096, dtype=torch.int8)
    out = moved(tensor, big, target)
    assert not out.any()
    assert 0 < scratch <= 4 << 20
