"""The decoder against the naive evaluator of the tests, element by element, over types of every carriage, order and padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layoutdsl.plan.model import Digit, Pad, TensorType
from layoutdsl.verify.decode import BrokenBits, Logical, decode, encode
from tests import reference

EXTENTS = {"e": 3, "n": 16, "k": 24, "s": 7}


def digit(text: str) -> Digit:
    """``k``, ``k//8``, ``k%8``, ``k//2%4``, with the extents of ``EXTENTS``."""
    rest, _, modulus = text.partition("%")
    axis, _, divisor = rest.partition("//")
    div = int(divisor or 1)
    return Digit(axis, div, int(modulus) if modulus else -(-EXTENTS[axis] // div))


def kind(element: str, storage: str, dims: str, lanes: str = "", order: tuple[int, ...] | None = None, **fields: object) -> TensorType:
    made = tuple(tuple(map(digit, dim.split("+"))) if dim != "0" else () for dim in dims.split())
    base = {"excess": 0, "extension": "", "format": 0, "pads": (), "listed": "", **fields}
    return TensorType(element=element, storage=storage, dims=made, lanes=tuple(map(digit, lanes.split())), order=order or tuple(range(len(made))), **base)  # type: ignore[arg-type]


INTEGERS = {
    "plain": kind("int8", "int8", "n k"),
    "transposed view": kind("int8", "int8", "k n", order=(1, 0)),
    "int64": kind("int64", "int64", "k"),
    "by value": kind("int4", "int8", "n k"),
    "by value with excess": kind("int4", "int8", "n k", excess=8),
    "uint by value": kind("uint4", "uint8", "n k"),
    "two in a byte along n": kind("int4", "int8", "n//2 k", "n%2"),
    "eight in a word along n": kind("int4", "int32", "k n//8", "n%8"),
    "eight in a word along k, excess": kind("int4", "int32", "n k//8", "k%8", excess=8),
    "an order of its own": kind("uint4", "int32", "k n//8", "n%2 n//2%4"),
    "lanes of two axes": kind("int4", "int16", "n//2 k//2", "n%2 k%2"),
    "in a transposed view": kind("int4", "int32", "k n//8", "n%8", order=(1, 0)),
    "of experts": kind("int4", "int8", "e k n//2", "n%2"),
    "two axes in a dim": kind("int8", "int8", "e+n k//4 k%4"),
    "digits apart": kind("int8", "int8", "k%4 n k//4"),
    "one index": kind("int8", "int8", "n 0"),
    "padded": kind("int4", "int8", "s//2 k", "s%2", pads=(Pad("s", 8, 0),)),
    "zero-extended": kind("int8", "int32", "n k", extension="zero"),
    "sign-extended": kind("int8", "int32", "n k", extension="sign"),
}


def random_values(made: TensorType, capacity: dict[str, int]) -> np.ndarray:
    shape = reference.positions(made, reference.grid(made, capacity)).shape
    return np.random.default_rng(1).integers(0, 1 << min(reference.WIDTH[made.element], 62), shape).astype(object)


def capacity_of(made: TensorType) -> dict[str, int]:
    axes = {d.axis for dim in made.dims for d in dim} | {d.axis for d in made.lanes}
    return {axis: EXTENTS[axis] for axis in axes} | {pad.axis: pad.capacity for pad in made.pads}  # type: ignore[dict-item]


@pytest.mark.parametrize("name", INTEGERS)
def test_integers(name: str) -> None:
    made = INTEGERS[name]
    capacity = capacity_of(made)
    values = random_values(made, capacity)
    tensor = reference.encode(values, made, capacity)
    found = decode(tensor, made, EXTENTS)
    width = reference.WIDTH[made.element]
    signed = values if made.element.startswith("uint") else (values + (1 << (width - 1))) % (1 << width) - (1 << (width - 1))
    axes = sorted(capacity)
    cut = signed[tuple(slice(0, EXTENTS[axis]) for axis in axes)]
    assert found.values.dtype == np.int64
    assert np.array_equal(found.values.transpose([found.axes.index(axis) for axis in axes]), cut.astype(np.int64))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e8m0fnu"])
def test_floats_as_torch_sees_them(dtype: str) -> None:
    """Every bit pattern of the narrow ones, many of the wide ones, infinities and NaN among them."""
    width = reference.WIDTH[dtype]
    codes = np.arange(1 << width, dtype=np.uint64) if width <= 16 else np.random.default_rng(0).integers(0, 1 << 62, 1 << 12, dtype=np.uint64) * np.uint64(5)
    tensor = torch.from_numpy(codes.astype(f"<u{width // 8}").view(np.uint8).copy()).view(getattr(torch, dtype))
    extents = {"n": len(codes)}
    found = decode(tensor, TensorType(dtype, 0, dtype, "", ((Digit("n", 1, len(codes)),),), (), (0,), 0, (), ""), extents).values
    wanted = tensor.to(torch.float64).numpy() if dtype != "float8_e8m0fnu" else tensor.to(torch.float32).to(torch.float64).numpy()
    # torch flushes nothing; what float32 cannot hold of e8m0 is its least exponent alone.
    assert np.array_equal(found, wanted, equal_nan=True)


def test_e2m1() -> None:
    made = kind("e2m1", "uint8", "n k//2", "k%2")
    capacity = capacity_of(made)
    codes = random_values(made, capacity)
    found = decode(reference.encode(codes, made, capacity), made, EXTENTS)
    assert np.array_equal(found.values.transpose([found.axes.index(axis) for axis in sorted(capacity)]), np.vectorize(lambda c: reference.E2M1[int(c)])(codes))


def test_scales_of_groups_keep_their_unit() -> None:
    made = kind("float32", "float32", "n k//5")
    tensor = torch.arange(80, dtype=torch.float32).reshape(16, 5)
    found = decode(tensor, made, EXTENTS)
    assert (found.axes, found.bases, found.values.shape) == (("n", "k"), (1, 5), (16, 5))
    assert found.at({"n": np.array([2, 2, 2]), "k": np.array([0, 4, 23])}).tolist() == [10.0, 10.0, 14.0]


def test_a_list_gets_its_axis_back() -> None:
    made = kind("int8", "int8", "k n", listed="e")
    parts = [torch.full((24, 16), i, dtype=torch.int8) for i in range(3)]
    found = decode(parts, made, EXTENTS)
    assert found.axes == ("e", "k", "n")
    assert found.values[:, 0, 0].tolist() == [0, 1, 2]


def test_other_upper_bits_are_refused() -> None:
    bits = torch.tensor([-1.0] * 24).view(torch.int32).to(torch.int64)
    made = kind("float32", "int64", "k", extension="zero")
    with pytest.raises(BrokenBits, match="zero-extended"):
        decode(bits, made, EXTENTS)
    assert decode(bits & 0xFFFFFFFF, made, EXTENTS).values.tolist() == [-1.0] * 24


def test_what_is_encoded_is_decoded() -> None:
    made = kind("float32", "float32", "k//8 n 0")
    values = np.random.default_rng(2).standard_normal((16, 3)).astype(np.float32).astype(np.float64)
    tensor = encode(Logical(("n", "k"), (1, 8), values), made)
    assert (tuple(tensor.shape), tensor.dtype) == ((3, 16, 1), torch.float32)
    assert np.array_equal(tensor[:, :, 0].numpy().T, values)
    found = decode(tensor, made, EXTENTS)
    assert np.array_equal(found.values.transpose([found.axes.index("n"), found.axes.index("k")]), values)
