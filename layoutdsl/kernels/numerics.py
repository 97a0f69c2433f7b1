"""What the numbers in a kernel's arguments mean, in torch: packed lanes, scales in integers, block exponents, dtype numbers; and the refusal of all others.

Read by the reference kernels, ``layoutdsl/kernels/<op>/reference.py``, and by nothing else. Naive on purpose: one expression per fact.

Invariants: values are float64, where what kernels multiply is exact and sums are as good as ideal; a tensor is never read in a layout that its strides or
the other arguments contradict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from layoutdsl.diagnostics import Diagnostic, DiagnosticError

TORCH: dict[str, torch.dtype] = {
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int32": torch.int32,
    "int64": torch.int64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "e4m3": torch.float8_e4m3fn,
}
HALVES = (torch.float16, torch.bfloat16)
FLOATS = (*HALVES, torch.float32)
BYTES = (torch.uint8, torch.float8_e8m0fnu)
"""Carriers of e8m0."""

# The two number spaces of dtype arguments (source: torch_npu 2.13.0, executed). torch's own numbers 44 and 45 for e8m0 and e2m1 are missing on purpose: the
# wheel refuses them and wants its own.
_SCALAR_TYPES = {0: "uint8", 1: "int8", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 12: "int8", 13: "uint8", 14: "int32", 15: "bfloat16", 16: "int4"}
_SCALAR_TYPES |= {24: "e4m3"}
_TORCH_NPU = {256: "float32", 257: "float16", 258: "int8", 259: "int32", 260: "uint8", 265: "int64", 283: "bfloat16", 285: "int4"}
_TORCH_NPU |= {292: "e4m3", 293: "e8m0", 296: "e2m1"}
_DTYPES = {dtype: name for name, dtype in TORCH.items()} | {torch.qint8: "int8", torch.quint8: "uint8", torch.qint32: "int32", torch.quint4x2: "int4"}

# OCP Microscaling Formats 1.0: codes 0..7, then the same with a sign.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
MX_BLOCK = 32
"""Elements that share one e8m0 exponent."""


# ---- refusal ----------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checks:
    """The argument checks of one kernel. op: as it is called, ``npu::npu_quant_matmul``. Every method raises DiagnosticError ``kernel-arguments``."""

    op: str

    def refuse(self, argument: str, expected: str, found: object) -> NoReturn:
        message = f"`{self.op}` cannot take this `{argument}`"
        notes = (f"expected {expected}", f"found {describe(found)}")
        raise DiagnosticError(Diagnostic(code="kernel-arguments", message=message, where=self.op, notes=notes))

    def expect(self, holds: bool, argument: str, expected: str, found: object) -> None:
        if not holds:
            self.refuse(argument, expected, found)

    def tensor(self, argument: str, value: Tensor | None, dtypes: Sequence[torch.dtype], *shapes: tuple[int, ...]) -> Tensor:
        """``value``, of one of the dtypes and one of the shapes."""
        if value is None or value.dtype not in dtypes or tuple(value.shape) not in shapes:
            names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            self.refuse(argument, f"{names} of the shape {' or '.join(str(list(shape)) for shape in dict.fromkeys(shapes))}", value)
        return value

    def rank(self, argument: str, value: Tensor, dtypes: Sequence[torch.dtype], ranks: Sequence[int] = (2,)) -> None:
        if value.dtype not in dtypes or value.dim() not in ranks:
            names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            self.refuse(argument, f"{names} with {' or '.join(str(rank) for rank in ranks)} dims", value)

    def absent(self, case: str, **arguments: object) -> None:
        """Nothing may be given for these arguments."""
        for argument, value in arguments.items():
            self.expect(value is None, argument, f"nothing, {case}", value)

    def dtype(self, argument: str, number: int | torch.dtype | None, *allowed: str) -> str:
        """Our name of a dtype argument, of the allowed names only; "" for none, where that is allowed."""
        name = _dtype_name(number)
        if name is None or name not in allowed:
            self.refuse(argument, " or ".join(word or "nothing" for word in allowed), f"{number} ({name})" if name else number)
        return name


def _dtype_name(number: int | torch.dtype | None) -> str | None:
    """Our name, "" for none, None for a number that means nothing to us."""
    if number is None:
        return ""
    if isinstance(number, torch.dtype):
        return _DTYPES.get(number)
    return _SCALAR_TYPES.get(number, _TORCH_NPU.get(number))


def describe(found: object) -> str:
    """A tensor as ``int8[4, 16]``, a list as its elements, nothing as ``nothing``."""
    if found is None:
        return "nothing"
    if isinstance(found, Tensor):
        return f"{str(found.dtype).removeprefix('torch.')}{list(found.shape)}"
    if isinstance(found, (list, tuple)) and any(isinstance(part, Tensor) for part in found):
        return f"{len(found)} tensors: " + ", ".join(describe(part) for part in found[:4]) + (", ..." if len(found) > 4 else "")
    return str(found)


# ---- lanes ------------------------------------------------------------------------------------------------------------------------------------------


def nibbles(packed: Tensor) -> Tensor:
    """Codes 0..15 as int64 along the last dim, of a carrier of 1 or 4 bytes; element 0 in the lowest bits (op-plugin ConvertWeightToINT4Pack)."""
    data = packed.contiguous().view(torch.uint8).to(torch.int64)
    return torch.stack((data & 15, data >> 4), dim=-1).flatten(-2)


def pack_nibbles(codes: Tensor, carrier: torch.dtype) -> Tensor:
    """The inverse of :func:`nibbles`; bits above the fourth are dropped, as the packer does."""
    low, high = codes[..., 0::2] & 15, codes[..., 1::2] & 15
    return (low | (high << 4)).to(torch.uint8).contiguous().view(carrier)


def int4_values(codes: Tensor) -> Tensor:
    """Two's complement, float64."""
    return torch.where(codes >= 8, codes - 16, codes).to(torch.float64)


def e2m1_values(codes: Tensor) -> Tensor:
    return torch.tensor(E2M1, dtype=torch.float64, device=codes.device)[codes]


def e2m1_codes(values: Tensor) -> Tensor:
    """Codes of values that e2m1 holds exactly; others give code 0 (op-plugin ConvertWeightToINT4Pack, its table)."""
    magnitudes = torch.tensor(E2M1[:8], dtype=torch.float64, device=values.device)
    hits = values.to(torch.float64).abs().unsqueeze(-1) == magnitudes
    code = hits.to(torch.int64).argmax(-1)
    return torch.where(hits.any(-1), code + 8 * torch.signbit(values).to(torch.int64), 0)


_LANES: dict[str, Callable[[Tensor], Tensor]] = {"int4": int4_values, "e2m1": e2m1_values}


def transposed(tensor: Tensor) -> bool:
    """Are the last two dims a transposed view? Kernels see it in the strides alone, and read lanes along the dim that is contiguous in memory.

    One row or one column can be such a view, a single element cannot (torch_npu 2.13.0, is_transpose_last_two_dims of the meta functions).
    """
    rows, columns = tensor.shape[-2:]
    return (rows > 1 or columns > 1) and tensor.stride(-2) == 1 and tensor.stride(-1) == rows


def elements(tensor: Tensor, element: str) -> Tensor:
    """The values of [.., rows, columns] as float64; ``int4`` and ``e2m1`` are unpacked along the dim that is contiguous in memory."""
    if element not in _LANES:
        return tensor.to(torch.float64)
    read = _LANES[element]
    return read(nibbles(tensor.mT)).mT if transposed(tensor) else read(nibbles(tensor))


def columns(weight: Tensor, lanes: int) -> int:
    """The logical size of the last dim of a weight with so many lanes to a carrier."""
    return weight.shape[-1] * (1 if transposed(weight) else lanes)


# ---- scales -----------------------------------------------------------------------------------------------------------------------------------------


def fp19(scale: Tensor) -> Tensor:
    """The top 19 bits of float32: all that the device multiplies with (asc-devkit, quantization in passing: 1 sign, 8 exponent, 10 mantissa bits)."""
    bits = scale.to(torch.float32).contiguous().view(torch.int32) & -0x2000
    return bits.view(torch.float32)


def scale_of_bits(bits: Tensor) -> Tensor:
    """The scale in an int64 or uint64, float64: float32 bits in the low word, of which the top 19 count."""
    low = bits.contiguous().view(torch.int32)[..., ::2]
    return fp19(low.contiguous().view(torch.float32)).to(torch.float64)


def scale_values(scale: Tensor) -> Tensor:
    """Any scale of a channel as float64: integers by their bits, floats by value."""
    return scale_of_bits(scale) if scale.dtype in (torch.int64, torch.uint64) else scale.to(torch.float64)


def requantize(checks: Checks, total: Tensor, scale: Tensor) -> Tensor:
    """Accumulators to int8: clip(rint(total * scale), -256, 255) + offset, clipped to int8; the offset is in bits 37-45 of the int64 (asc-devkit)."""
    signed = bool(((scale >> 46) & 1).all())
    checks.expect(signed, "scale", "bit 46 set, as npu_trans_quant_param does; without it the result is unsigned", scale)
    offset = (scale >> 37) & 0x1FF
    offset = torch.where(offset >= 256, offset - 512, offset)
    return (torch.round(total * scale_of_bits(scale)).clamp(-256, 255) + offset).clamp(-128, 127).to(torch.int8)


def power_of_two(exponent: Tensor) -> Tensor:
    """2**exponent as float64, exact for -1022..1023."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def e8m0_values(data: Tensor) -> Tensor:
    """Byte b is 2**(b - 127), 255 is NaN."""
    data = data.view(torch.uint8).to(torch.int64)
    return torch.where(data == 255, torch.nan, power_of_two(data - 127))


def row_blocks(scale: Tensor, k: int) -> Tensor:
    """e8m0 [.., ceil(k / 64), 2] of an activation as float64 [.., k]; the last block may be partial, the last byte of an odd count stands for nothing."""
    return e8m0_values(scale).flatten(-2).repeat_interleave(MX_BLOCK, dim=-1)[..., :k]


def column_blocks(scale: Tensor, k: int) -> Tensor:
    """e8m0 [ceil(k / 64), n, 2] of a weight as float64 [k, n]: [i, n, p] belongs to block 2 * i + p of column n."""
    return groups(e8m0_values(scale).movedim(-1, -2).flatten(-3, -2), MX_BLOCK, k)


def groups(scale: Tensor, size: int, k: int) -> Tensor:
    """[groups, n] as [k, n]; the last group may be partial."""
    return scale.repeat_interleave(size, dim=-2)[..., :k, :]


def blocks_transposed(scale: Tensor) -> bool | None:
    """Is [.., ceil(k / 64), n, 2] a view of [.., n, ceil(k / 64), 2]? None where the sizes leave it open."""
    if 1 in scale.shape[-3:-1]:
        return None
    return scale.stride(-2) == 2 * scale.shape[-3] and scale.stride(-3) == 2


def antiquant(values: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
    """(w + offset) * scale, rounded to the scale's dtype after each step (ops-nn wqbmmv2_kernel_golden); scale and offset broadcast against [k, n]."""
    weight = values.to(scale.dtype)
    return (weight if offset is None else weight + offset) * scale


# ---- quantization -----------------------------------------------------------------------------------------------------------------------------------

LARGEST = {"int8": 127.0, "int4": 7.0, "e4m3": 448.0, "e2m1": 6.0}
_MANTISSA = {"e4m3": 3, "e2m1": 1}
_LOWEST = {"e4m3": -6, "e2m1": 0}
_HIGHEST = {"e4m3": 8, "e2m1": 2}


def floor_log2(values: Tensor) -> Tensor:
    """floor(log2(abs(values))) as int64; of 0 any number."""
    return torch.frexp(values)[1].to(torch.int64) - 1


def quantize_rows(values: Tensor, element: str = "int8") -> tuple[Tensor, Tensor]:
    """Per-token quantization of float64 [m, n]: scale = max / 127 (448 for e4m3) as float32, q = values / scale, ties to even.

    A row of zeros gives q = 0 and scale 0 (assumed; the upstream references divide by zero).
    """
    scale = (values.abs().amax(dim=-1) / LARGEST[element]).to(torch.float32)
    divided = torch.where(scale[:, None] == 0, 0.0, values / scale[:, None].to(torch.float64))
    return (torch.round(divided) if element == "int8" else divided).to(TORCH[element]), scale


def round_to_element(values: Tensor, element: str, away: bool) -> Tensor:
    """The nearest value that e4m3 or e2m1 holds, ties to even or away from zero; beyond the largest, the largest."""
    step = power_of_two(floor_log2(values).clamp(min=_LOWEST[element]) - _MANTISSA[element])
    scaled = values / step
    rounded = torch.copysign(torch.floor(scaled.abs() + 0.5), scaled) if away else torch.round(scaled)
    return (rounded * step).clamp(-LARGEST[element], LARGEST[element])


def mx_quantize(values: Tensor, element: str, block: int = MX_BLOCK, *, away: bool = False, round_up: bool = False) -> tuple[Tensor, Tensor]:
    """Blocks along the last dim that share an exponent: (elements, e8m0 bytes [.., ceil(blocks / 2), 2]).

    Elements are e4m3, or two e2m1 to a uint8. exponent = floor(log2(max)) - that of the largest element (OCP), or with ``round_up`` the least power of two
    that is no less than max / largest. A block of zeros has the byte 0, one that is not finite 255; an odd count of blocks is padded with a byte 0.
    Source: ops-nn dynamic_mx_quant golden.
    """
    length = values.shape[-1]
    count = -(-length // block)
    padded = torch.nn.functional.pad(values, (0, count * block - length)).reshape(*values.shape[:-1], count, block)
    largest = padded.abs().amax(dim=-1)
    exponent = floor_log2(largest) - _HIGHEST[element]
    if round_up:
        ratio = (largest.to(torch.float32) / LARGEST[element]).to(torch.float64)
        exponent = floor_log2(ratio) + (torch.frexp(ratio)[0] != 0.5).to(torch.int64)
    exponent = torch.where(largest == 0, -127, exponent.clamp(-127, 127))
    scaled = (padded / power_of_two(exponent).unsqueeze(-1)).flatten(-2)[..., :length]
    data = torch.where(torch.isfinite(largest), exponent + 127, 255).to(torch.uint8)
    pairs = torch.nn.functional.pad(data, (0, count % 2)).reshape(*values.shape[:-1], (count + 1) // 2, 2)
    rounded = round_to_element(scaled, element, away)
    return (rounded.to(torch.float8_e4m3fn) if element == "e4m3" else pack_nibbles(e2m1_codes(rounded), torch.uint8)), pairs


def silu(values: Tensor) -> Tensor:
    return values * torch.sigmoid(values)


def poisoned(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """What a kernel leaves in memory that it does not write, made visible: NaN, or the smallest integer."""
    value = torch.nan if dtype.is_floating_point else torch.iinfo(dtype).min
    return torch.full(tuple(shape), value, dtype=dtype, device=device)
