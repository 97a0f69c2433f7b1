"""Checkpoints made up to expose mistakes: tensors of the plan's parameter types, for given sizes.

Between sizes and the checks. What a mistake exchanges must differ: integers cover their whole range, both nibbles of a byte go negative; no two scales of a
tensor are equal where its dtype has room, none is a power of two but where the spec says ``range: power_of_two``, and they are negative too unless it says
that they are not; offsets and biases are never zero. A tensor that an invariant derives from the others is computed from them, in float64.

Invariants: the same configuration, sizes and seed give the same bytes; every tensor is contiguous as the checkpoint stores it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import torch

from layoutdsl.ir.dtypes import ELEMENTS, STORAGES, Dtype, carriage_of
from layoutdsl.plan.model import Input, Plan, TensorType
from layoutdsl.runtime.dtypes import torch_dtype
from layoutdsl.syntax.tree import Index
from layoutdsl.syntax.walk import nodes
from layoutdsl.verify import oracle
from layoutdsl.verify.configurations import Configuration
from layoutdsl.verify.decode import Array, Logical, decode, digits_of, encode, indices_of
from layoutdsl.verify.oracle import Rotated

Scales = Literal["full", "short"]
"""``full``: scales use all bits of their dtype. ``short``: four significant bits, so that the product of two scales has eight and no cast on its way rounds
it."""
_LOW, _HIGH = -6.0, -2.0
"""Exponents of scales: products of two are normal numbers of float16, and so are sums of thousands of int8 times one."""
_POWERS = (-6, 7)
"""Exponents of scales that are powers of two, on both sides of one: their biased exponents differ in the top bit too."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of one layer as stored, what they hold, and what they mean (``value``, by name)."""

    tensors: dict[str, torch.Tensor]
    stored: dict[str, Logical]
    values: dict[str, Logical | Rotated]


def checkpoint(configuration: Configuration, bound: Plan, sizes: Mapping[str, int], scales: Scales = "full", seed: int = 0) -> Checkpoint:
    """A checkpoint of a bound plan's parameters. What a checkpoint may lack and nothing reads is left out, and what it does not hold here (``given``); with
    short scales also what has a default."""
    document, contexts, extents = configuration.spec.document, configuration.contexts, _extents(bound)
    ranges = _ranges(configuration)
    tensors = {
        node.name: _tensor(node, ranges[node.name], scales, extents, np.random.default_rng([seed, zlib.crc32(node.name.encode())]))
        for node in bound.inputs
        if node.default != "uninitialised"
    }
    missing = _not_given(configuration)
    absent = {node.name: _default(node) for node in bound.inputs if _may_lack(node) and (scales == "short" or node.name in missing)}
    tensors |= absent
    types = {node.name: node.type for node in bound.inputs}
    stored = {name: decode(tensor, types[name], extents) for name, tensor in tensors.items()}
    for name, wanted in oracle.invariants(document, contexts, sizes, stored):
        if name not in tensors:
            continue  # nothing reads it
        tensors[name] = encode(wanted, types[name])
        stored[name] = decode(tensors[name], types[name], extents)
    given = {name: tensor for name, tensor in tensors.items() if name not in absent}
    return Checkpoint(given, stored, oracle.results(document, contexts, sizes, stored))


def _ranges(configuration: Configuration) -> dict[str, str]:
    """By parameter what its values are: as the spec says, and positive where one follows from it that is."""
    found = {name: parameter.range for name, parameter in configuration.compiled.state.parameters.items()}
    for rule in configuration.spec.document.invariants:
        for context in configuration.contexts.values():
            read = [context.member.expand(node.name) for node in nodes(rule.expr) if isinstance(node, Index)]
            if read and context.holds(rule.condition) and found.get(read[0]):
                found |= {name: found[name] or "positive" for name in read if name in found}
    return found


def _not_given(configuration: Configuration) -> set[str]:
    """Parameters that the checkpoint does not hold in this case, though they have a default."""
    found = set()
    for param in configuration.spec.document.params:
        for context in configuration.contexts.values():
            condition = context.expr(param.given)
            if param.given is not None and not (condition is not None and context.holds(condition)):
                found.add(context.member.expand(param.name.value))
    return found


def _may_lack(node: Input) -> bool:
    plain = carriage_of(node.type.element, node.type.storage, bool(node.type.lanes)) == "native"
    return plain and isinstance(node.default, (int, float))


def _default(node: Input) -> torch.Tensor:
    assert isinstance(node.default, (int, float))
    return torch.full(node.type.shape, node.default, dtype=torch_dtype(node.type.storage))


def _extents(bound: Plan) -> dict[str, int]:
    return {axis: extent for axis, extent in bound.axes if isinstance(extent, int)}


# ---- one tensor -----------------------------------------------------------------------------------------------------------------------------------------


def _tensor(node: Input, promised: str, scales: Scales, extents: Mapping[str, int], random: np.random.Generator) -> torch.Tensor:
    kind, storage = node.type, STORAGES[node.type.storage]
    element = ELEMENTS[kind.element]
    match carriage_of(kind.element, kind.storage, bool(kind.lanes)):
        case "native" if element.kind == "float" and element.bits >= 16:
            return _floats(kind.shape, node.name, promised, scales, random).to(torch_dtype(kind.storage))
        case "native":
            return _words(_native_codes(kind.shape, element, node.name, random), kind)
        case "value" if storage.kind == "float":
            return torch.from_numpy(_E2M1[random.integers(0, 16, kind.shape)]).to(torch_dtype(kind.storage))
        case "value":
            low = 0 if element.kind == "uint" else -(1 << (element.bits - 1))
            return _words(random.integers(low, low + (1 << element.bits), kind.shape) + kind.excess, kind)
        case "lanes":
            return _packed(kind, extents, random)
    return _words(_carried_codes(kind, element, promised, scales, node.name, random), kind)


_E2M1 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def _floats(shape: tuple[int, ...], name: str, promised: str, scales: Scales, random: np.random.Generator) -> torch.Tensor:
    """Scales: spread evenly over octaves, shuffled. Offsets: whole numbers, which a 16-bit kernel adds to a weight exactly. Ratios: a little below one."""
    count = prod(shape)
    if promised == "power_of_two":
        return torch.from_numpy(np.exp2(random.integers(*_POWERS, count)).reshape(shape))
    sign = np.where(promised == "positive", 1.0, random.choice([-1.0, 1.0], count))
    if "offset" in name or "zero" in name:
        return torch.from_numpy((random.integers(1, 8, count) * sign).reshape(shape))
    if "ratio" in name:
        return torch.from_numpy((random.integers(12, 16, count) / 16).reshape(shape))
    octaves = _LOW + (_HIGH - _LOW) * (random.permutation(count) + random.random(count)) / max(count, 1)
    sizes = np.exp2(octaves)
    mantissa, exponent = np.frexp(sizes)
    # 9 to 15 sixteenths: no power of two, in four bits; else away from powers of two by more than half a unit of bfloat16.
    mantissa = random.integers(9, 16, count) / 16 if scales == "short" else np.clip(mantissa, 0.51, 0.99)
    return torch.from_numpy((sign * np.ldexp(mantissa, exponent)).reshape(shape))


def _native_codes(shape: tuple[int, ...], element: Dtype, name: str, random: np.random.Generator) -> Array:
    """Bytes over their whole range, offsets above zero; wider integers in the range of sums of products; floats of eight bits without NaN; powers of two
    around one."""
    if element.kind == "bool":
        return random.integers(0, 2, shape)
    if element.kind == "scale":
        return 127 + random.integers(*_POWERS, shape)
    if element.kind == "float":
        return random.integers(0, 0x7F, shape) | random.integers(0, 2, shape) << 7
    if element.bits == 8 and ("offset" in name or "zero" in name):
        return random.integers(1, 16, shape) * (1 if element.kind == "uint" else random.choice([-1, 1], shape))
    if element.bits == 8:
        return random.integers(0, 256, shape) if element.kind == "uint" else random.integers(-128, 128, shape)
    sizes = random.integers(1, 1 << 12, shape)
    return sizes if element.kind == "uint" else sizes * random.choice([-1, 1], shape)


def _packed(kind: TensorType, extents: Mapping[str, int], random: np.random.Generator) -> torch.Tensor:
    """Every pattern of bits is a value of an element in lanes; holes hold what the type says."""
    element, lanes = ELEMENTS[kind.element], prod(lane.ext for lane in kind.lanes if isinstance(lane.ext, int))
    codes = random.integers(0, 1 << kind.slot_bits, (prod(kind.shape), lanes))
    codes = _with_holes(codes, kind, extents)
    words = (codes.astype(np.uint64) << (np.arange(lanes, dtype=np.uint64) * np.uint64(element.bits))).sum(1, dtype=np.uint64)
    return _words(words.reshape(kind.shape), kind)


def _with_holes(codes: Array, kind: TensorType, extents: Mapping[str, int]) -> Array:
    if not kind.pads:
        return codes
    shape = [digit.ext for digit in digits_of(kind)]
    indices = indices_of(kind)
    for pad in kind.pads:
        hole = np.broadcast_to(indices[pad.axis] >= extents[pad.axis], shape).reshape(codes.shape)  # type: ignore[arg-type]
        codes = np.where(hole, (pad.fill + kind.excess) % (1 << kind.slot_bits), codes)
    return codes


def _carried_codes(kind: TensorType, element: Dtype, promised: str, scales: Scales, name: str, random: np.random.Generator) -> Array:
    """The bits of an element, in a storage of its width or extended to a wider one."""
    if kind.element == "opaque":
        return random.integers(0, 256, kind.shape)
    if element.kind == "float" and element.bits >= 16 and element.native is not None:
        plain = _floats(kind.shape, name, promised, scales, random).to(torch_dtype(element.native))
        codes = plain.view(getattr(torch, f"int{element.bits}")).numpy().astype(np.int64)
    else:
        codes = _native_codes(kind.shape, element, name, random)
    mask = (1 << element.bits) - 1
    sign = codes >> (element.bits - 1) & 1
    upper = sign * ((1 << kind.slot_bits) - 1 - mask) if kind.extension == "sign" and kind.slot_bits < 64 else np.where(sign, -1 - mask, 0)
    return np.where(kind.extension == "sign", (codes & mask) | upper, codes & mask)


def _words(codes: Array, kind: TensorType) -> torch.Tensor:
    """Integers as the storage, bit by bit."""
    width = STORAGES[kind.storage].bits
    raw = np.ascontiguousarray(codes.astype(np.int64 if codes.dtype.kind == "i" else np.uint64).astype(f"<u{width // 8}"))
    return torch.from_numpy(raw.reshape(-1).view(np.uint8)).view(torch_dtype(kind.storage)).reshape(kind.shape)
