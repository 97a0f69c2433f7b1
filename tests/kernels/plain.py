"""What the tests of reference kernels make operands with, and read results with: loops and tables of their own, sharing no code with ``layoutdsl.kernels``."""

from __future__ import annotations

import math

import numpy as np
import torch

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
BITS = {torch.int32: 8, torch.float32: 8, torch.uint8: 2}
"""Lanes of four bits in a carrier."""


class Maker:
    """Random operands from a seed, of numbers that float64 sums without an error and that float32 and bfloat16 scales hold exactly."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)

    def integers(self, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int8) -> torch.Tensor:
        return torch.from_numpy(self.random.integers(low, high, shape)).to(dtype)

    def int8(self, *shape: int) -> torch.Tensor:
        return self.integers(-128, 128, *shape)

    def int4(self, *shape: int) -> torch.Tensor:
        return self.integers(-8, 8, *shape)

    def codes(self, *shape: int) -> torch.Tensor:
        return self.integers(0, 16, *shape)

    def scale(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Positive, of seven bits."""
        return (self.integers(64, 128, *shape, dtype=torch.float64) / 2048).to(dtype)

    def half(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return (self.integers(-128, 128, *shape, dtype=torch.float64) / 32).to(dtype)

    def fine(self, *shape: int) -> torch.Tensor:
        """float32 with more bits than the matrix unit keeps."""
        return torch.from_numpy(self.random.uniform(0.5, 2.0, shape)).to(torch.float32)

    def e4m3(self, *shape: int) -> torch.Tensor:
        return (self.integers(-15, 16, *shape, dtype=torch.float32) / 4).to(torch.float8_e4m3fn)

    def exponents(self, *shape: int) -> torch.Tensor:
        """Bytes of e8m0 near 1."""
        return self.integers(122, 131, *shape, dtype=torch.uint8)


def pack(values: torch.Tensor, carrier: torch.dtype = torch.int32) -> torch.Tensor:
    """Lanes of four bits along the last dim, the first in the lowest bits."""
    count, found = BITS[carrier], values.numpy().astype(np.int64) & 15
    words = np.zeros((*found.shape[:-1], found.shape[-1] // count), dtype=np.int64)
    for lane in range(count):
        words |= found[..., lane::count] << (4 * lane)
    data = words.astype(np.uint8 if count == 2 else np.uint32)
    return torch.from_numpy(data if count == 2 else data.view(np.int32).view(np.int32 if carrier == torch.int32 else np.float32))


def unpack(packed: torch.Tensor) -> list[list[int]]:
    """Codes of a packed matrix."""
    count = BITS[packed.dtype]
    rows = packed.numpy().view(np.uint32 if count == 8 else np.uint8).tolist()
    return [[(word >> (4 * lane)) & 15 for word in row for lane in range(count)] for row in rows]


def signed(code: int) -> int:
    return code - 16 if code >= 8 else code


def e2m1(codes: torch.Tensor) -> torch.Tensor:
    return torch.tensor([E2M1[code] for code in codes.flatten().tolist()], dtype=torch.float64).reshape(codes.shape)


def zext(scale: torch.Tensor) -> torch.Tensor:
    """float32 bits in an int64, zeros above."""
    return torch.from_numpy(scale.numpy().view(np.uint32).astype(np.int64))


def cut(scale: torch.Tensor) -> torch.Tensor:
    """float64 of the top 19 bits of float32, the rest zeros."""
    words = [int(word) & 0xFFFFE000 for word in scale.numpy().view(np.uint32).flatten().tolist()]
    return torch.from_numpy(np.array(words, dtype=np.uint32).view(np.float32)).reshape(scale.shape).double()


def two_to(exponent: int) -> float:
    return float("nan") if exponent == 255 else 2.0 ** (exponent - 127)


def weight_exponents(scale: torch.Tensor, k: int) -> torch.Tensor:
    """[ceil(k / 64), n, 2] as factors [k, n]."""
    return torch.tensor([[two_to(int(scale[row // 64, column, row // 32 % 2])) for column in range(scale.shape[1])] for row in range(k)], dtype=torch.float64)


def row_exponents(scale: torch.Tensor, k: int) -> torch.Tensor:
    """[m, ceil(k / 64), 2] as factors [m, k]."""
    return torch.tensor([[two_to(int(scale[row, column // 64, column // 32 % 2])) for column in range(k)] for row in range(len(scale))], dtype=torch.float64)


def values(tensor: torch.Tensor, element: str = "") -> torch.Tensor:
    """float64 of a matrix, its lanes along the dim that lies densely in memory."""
    if element not in ("int4", "e2m1"):
        return tensor.double()
    if tensor.stride(-1) != 1:
        return values(tensor.transpose(-1, -2).contiguous(), element).transpose(-1, -2)
    read = signed if element == "int4" else E2M1.__getitem__
    return torch.tensor([[float(read(code)) for code in row] for row in unpack(tensor)], dtype=torch.float64)


def spread(scale: torch.Tensor, size: int, k: int) -> torch.Tensor:
    """[groups, n] as [k, n]."""
    return torch.stack([scale[row // size] for row in range(k)])


def swiglu(row: list[float], limit: float = 0.0) -> list[float]:
    half = len(row) // 2
    cap = limit if limit > 0 else math.inf
    pairs = [(min(gate, cap), max(-cap, min(up, cap))) for gate, up in zip(row[:half], row[half:])]
    return [gate / (1 + math.exp(-gate)) * up for gate, up in pairs]


def quantized(row: list[float], largest: int = 127) -> tuple[list[int], float]:
    """Integers and their scale, as float32."""
    scale = float(np.float32(max(abs(value) for value in row) / largest))
    return [round(value / scale) if scale else 0 for value in row], scale


E4M3 = [math.ldexp(code & 7 | (8 if code >> 3 else 0), max(code >> 3, 1) - 10) for code in range(127)]
_TABLES = {"e4m3": (E4M3, 8), "e2m1": (E2M1[:8], 2)}


def nearest(value: float, element: str, away: bool = False) -> int:
    """The code of the nearest element; of two, the even one, or the larger."""
    table, sign = _TABLES[element][0], 128 if element == "e4m3" else 8
    distance = [abs(abs(value) - candidate) for candidate in table]
    least = min(distance)
    best = [code for code, far in enumerate(distance) if far == least]
    code = best[-1] if away else next((code for code in best if code % 2 == 0), best[0])
    return code | (sign if math.copysign(1, value) < 0 else 0)


def in_blocks(row: list[float], element: str, *, away: bool = False, up: bool = False) -> tuple[list[int], list[int]]:
    """Codes of a row, and the bytes of the exponents of its blocks of 32, an even number of them."""
    codes, data = [], []
    for start in range(0, len(row), 32):
        block = row[start : start + 32]
        largest = max(abs(value) for value in block)
        if up:
            exponent = next(e for e in range(-127, 128) if largest / 448 <= 2.0**e)
        else:
            exponent = math.floor(math.log2(largest)) - _TABLES[element][1] if largest else -127
        codes += [nearest(value / 2.0**exponent, element, away) for value in block]
        data.append(exponent + 127)
    return codes, data + [0] * (len(data) % 2)
