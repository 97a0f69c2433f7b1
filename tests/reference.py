"""The naive evaluators that the torch executors are compared with: bit by bit, index by index, straight from the definitions, sharing no code with them.

Memory is a numpy array of bits, lowest first. A tensor's logical content is a numpy array over the axes' indices, in units of each axis's lowest digit.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
WIDTH = {
    **dict.fromkeys(["int4", "uint4", "e2m1"], 4),
    **dict.fromkeys(["int8", "uint8", "bool", "float8_e4m3fn", "float8_e8m0fnu", "e4m3", "e8m0"], 8),
    **dict.fromkeys(["int16", "uint16", "float16", "bfloat16"], 16),
    **dict.fromkeys(["int32", "uint32", "float32"], 32),
    **dict.fromkeys(["int64", "uint64", "float64"], 64),
}


def bases(kind) -> dict[str, int]:
    """Lowest divisor per axis."""
    low: dict[str, int] = {}
    for digit in [*(d for dim in kind.dims for d in dim), *kind.lanes]:
        low[digit.axis] = min(low.get(digit.axis, digit.div), digit.div)
    return low


def positions(kind, index: Mapping[str, np.ndarray]) -> np.ndarray:
    """Bit offset of the element at an index (in index units)."""

    def number(digits):
        total = 0
        for digit in digits:
            total = total * digit.ext + (index[digit.axis] // digit.div) % digit.ext
        return total

    element = 0
    for dim in kind.order:
        size = int(np.prod([digit.ext for digit in kind.dims[dim]], dtype=int))
        element = element * size + number(kind.dims[dim])
    width = WIDTH[kind.storage]
    for lane in kind.lanes:
        width //= lane.ext
    return np.asarray(element) * WIDTH[kind.storage] + np.asarray(number(kind.lanes)) * width


def grid(kind, capacity: Mapping[str, int]) -> dict[str, np.ndarray]:
    """All index tuples, one array per axis, in base units times base."""
    low = bases(kind)
    axes = sorted(capacity)
    mesh = np.meshgrid(*(np.arange(0, capacity[axis], low.get(axis, 1)) for axis in axes), indexing="ij") if axes else []
    return dict(zip(axes, mesh))


def carried(kind) -> str:
    """How a slot that is wider than its element holds it: exact, zero, sign, or value (a float)."""
    if kind.lanes or WIDTH[kind.storage] == WIDTH[kind.element]:
        return "exact"
    if kind.element == "e2m1" and "float" in kind.storage:
        return "value"
    if kind.element == "int4" and kind.storage in ("int8", "int16", "int32", "int64") and kind.excess == 0:
        return "sign"
    return kind.extension or "zero"


def float_bits(storage: str, value: float) -> int:
    raw = torch.tensor(value, dtype=torch.float64).to(getattr(torch, storage)).reshape(1)
    return int.from_bytes(raw.view(torch.uint8).numpy().tobytes(), "little")


def slot_bits(kind, code: int) -> int:
    """The bits of a slot that holds an element's code (a code includes the excess)."""
    width, bits = WIDTH[kind.storage], WIDTH[kind.element]
    match carried(kind):
        case "value":
            return float_bits(kind.storage, E2M1[code])
        case "sign" if code >> (bits - 1):
            return code | ((1 << width) - (1 << bits))
    return code


def memory(tensor: torch.Tensor, kind) -> np.ndarray:
    """The bits of a tensor in memory order."""
    flat = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)
    return np.unpackbits(flat.numpy().copy(), bitorder="little")


def decode(tensor: torch.Tensor, kind, capacity: Mapping[str, int]) -> np.ndarray:
    """Values mod 2^width (codes less excess) of all elements below ``capacity``."""
    bits, width = memory(tensor, kind), WIDTH[kind.element]
    where = positions(kind, grid(kind, capacity))
    slot = WIDTH[kind.storage] if not kind.lanes else width
    codes = np.zeros(where.shape, dtype=object)
    for bit in range(slot):
        codes = codes + (bits[where + bit].astype(object) << bit)
    table = {slot_bits(kind, code): code for code in range(16)} if carried(kind) == "value" else None
    plain = np.vectorize(lambda x: table[x] if table else check_slot(kind, x), otypes=[object])(codes) if codes.size else codes
    return (plain - kind.excess) % (1 << width)


def check_slot(kind, slot: int) -> int:
    """The code in a slot, whose other bits must be what the carriage says."""
    code = slot % (1 << WIDTH[kind.element])
    assert slot == (slot_bits(kind, code) if not kind.lanes else code), f"{slot:#x} in {kind}"
    return code


def encode(values: np.ndarray, kind, capacity: Mapping[str, int], poison: int = 0xA5) -> torch.Tensor:
    """A tensor that holds ``values`` (mod 2^width); what no element covers is poison."""
    out = torch.empty_strided(kind.shape, kind.strides, dtype=getattr(torch, kind.storage))
    size = out.numel() * out.element_size()
    bits = np.unpackbits(np.full(size, poison, dtype=np.uint8), bitorder="little")
    where = positions(kind, grid(kind, capacity))
    slot = WIDTH[kind.storage] if not kind.lanes else WIDTH[kind.element]
    to_slot = np.vectorize(lambda v: slot_bits(kind, (int(v) + kind.excess) % (1 << WIDTH[kind.element])), otypes=[object])
    slots = to_slot(values) if values.size else values
    for bit in range(slot):
        bits[where + bit] = (slots >> bit) & 1 if values.size else 0
    flat = torch.from_numpy(np.packbits(bits, bitorder="little").copy())
    if size:
        out.as_strided((out.numel(),), (1,)).view(torch.uint8).copy_(flat)
    return out


# --- expressions ------------------------------------------------------------------------------------------------------------------------------------------


def as_dtype(number, dtype: str):
    """A Python number or 0-d tensor rounded to a dtype."""
    return torch.as_tensor(number).to(getattr(torch, dtype))


def evaluate(expr, values, extents: Mapping[str, int], loops: Mapping[tuple[str, int], int]) -> torch.Tensor:
    """One element of an expression, as a 0-d tensor. loops: value of each digit in scope (of more than one value). Sums are added one by one in float64."""
    match expr:
        case ("at", name, picks):
            return element(*values[name], axis_indices(loops) | {axis: int(index(pick, loops)) for axis, pick in picks})
        case ("const", dtype, number):
            return as_dtype(number, dtype)
        case ("cast", dtype, body):
            return evaluate(body, values, extents, loops).to(getattr(torch, dtype))
        case ("rint" | "trunc" as how, dtype, body):
            number = evaluate(body, values, extents, loops).double()
            return (number.round() if how == "rint" else number.trunc()).to(getattr(torch, dtype))
        case ("bits", dtype, body):
            return evaluate(body, values, extents, loops).reshape(1).view(getattr(torch, dtype))[0]
        case ("neg", body):
            return -evaluate(body, values, extents, loops)
        case ("sum", bound, _, body):
            return total(bound, body, values, extents, loops)
        case (name, left, right):
            a, b = (evaluate(e, values, extents, loops) for e in (left, right))
            assert a.dtype == b.dtype
            return binary(name, a, b)
    raise AssertionError(expr)


def total(bound, body, values, extents, loops) -> torch.Tensor:
    terms = []
    for counts in itertools.product(*(range(digit.ext) for digit in bound)):
        inner = dict(loops) | {(digit.axis, digit.div): count for digit, count in zip(bound, counts) if digit.ext != 1}
        if all(i < extents.get(axis, 1) for axis, i in axis_indices(inner).items()):
            terms.append(evaluate(body, values, extents, inner))
    if not terms:
        return torch.tensor(0)
    dtype = terms[0].dtype
    exact = sum(term.double() if dtype.is_floating_point else term.long() for term in terms)
    return torch.as_tensor(exact).to(dtype)


def binary(name: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if name == "//":
        return torch.div(a, b, rounding_mode="floor")
    import operator

    table = {"+": "add", "-": "sub", "*": "mul", "/": "truediv", "%": "mod", "&": "and_", "<<": "lshift", ">>": "rshift"}
    return getattr(operator, table[name])(a, b)


def axis_indices(loops: Mapping[tuple[str, int], int]) -> dict[str, int]:
    index: dict[str, int] = {}
    for (axis, div), value in loops.items():
        index[axis] = index.get(axis, 0) + value * div
    return index


def index(expr, loops) -> int:
    if isinstance(expr, int):
        return expr
    if expr[0] == "loop":
        return loops.get((expr[1], expr[2]), 0)
    a, b = index(expr[1], loops), index(expr[2], loops)
    return {"+": a + b, "-": a - b, "*": a * b, "//": a // b if b else 0, "%": a % b if b else 0}[expr[0]]


def element(tensor: torch.Tensor, kind, at: Mapping[str, int]) -> torch.Tensor:
    """The element at an index, as torch shows it (less the excess)."""
    place = []
    for dim in kind.dims:
        number = 0
        for digit in dim:
            number = number * digit.ext + (at.get(digit.axis, 0) // digit.div) % digit.ext
        place.append(number)
    return tensor[tuple(place)] - kind.excess if kind.excess else tensor[tuple(place)]
