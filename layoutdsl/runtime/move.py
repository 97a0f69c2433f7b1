"""Movement of bound tensors: allocation, views of the same bytes, and the one kernel that copies between any two layouts of one logical tensor.

Runs a plan's ``Move``; ``compute`` uses its filling of holes. The kernel sees both sides as nested loops over common digits (atoms), and reads elements as
integers of their width, nibbles as bytes: first, in the order of the source, nibbles are put where they belong, so that what is packed is packed before it is
transposed; then one permuted copy.

Invariants: only integer views are read and written (NaN payloads and -0.0 survive), except for e2m1 that a float carries by value; scratch memory is bounded
(3 MiB), except where two layouts have no common digits or a pad changes a lane (``_copy_via_plain``). FRACTAL_NZ is the device's business and ignored here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import torch

from layoutdsl.ir.dtypes import ELEMENTS, STORAGES, carriage_of
from layoutdsl.plan.model import Digit, TensorType
from layoutdsl.runtime.dtypes import SIGNED, UNITS, torch_dtype

# Bytes of one tile and of its runs in the source: small enough for the caches, large enough that torch's cost per call does not show (measured on 28 MiB).
TILE = 1 << 20
NEAR = 2048
# Elements from which a tile is worth the second pass of ``_permute``.
STAGED = 4096
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""Value of each e2m1 code. Source: OCP Microscaling Formats specification 1.0, section 5.3.3."""


# --- memory -----------------------------------------------------------------------------------------------------------------------------------------------


def allocate(kind: TensorType, device: torch.device | str, fill: bool = False) -> torch.Tensor:
    """An uninitialised tensor of a bound type; with ``fill``, and if the type has pads, every element is the first pad's fill (as the type's element)."""
    out = torch.empty_strided(kind.shape, kind.strides, dtype=torch_dtype(kind.storage), device=device)
    if fill and kind.pads:
        _fill(out, kind, kind.pads[0].fill)
    return out


def restride(tensor: torch.Tensor, source: TensorType, target: TensorType) -> torch.Tensor:
    """The bytes of ``tensor`` seen as ``target``: other dims, another storage dtype; no copy.

    Raises: ValueError if the tensor does not lie as ``source`` says, or the two types differ in bytes.
    """
    size, wanted = STORAGES[source.storage].bits // 8, STORAGES[target.storage].bits // 8
    if prod(source.shape) * size != prod(target.shape) * wanted:
        raise ValueError(f"{prod(source.shape)} x {source.storage} are not the bytes of {prod(target.shape)} x {target.storage}")
    flat = _flat(tensor, source).view(torch_dtype(target.storage))
    return flat.as_strided(target.shape, target.strides, flat.storage_offset())


def same_memory(source: TensorType, target: TensorType) -> bool:
    """Do two bound types describe the same bytes in the same order, so that a view will do for a copy?"""
    if (source.element, source.excess, source.format) != (target.element, target.excess, target.format):
        return False
    if (source.slot_bits, _rule(source)) != (target.slot_bits, _rule(target)) or _fills(source) != _fills(target):
        return False
    if _rule(source) == "float" and source.storage != target.storage:
        return False
    return _in_memory(source) == _in_memory(target)


def _fills(kind: TensorType) -> set[tuple[str, int]]:
    return {(pad.axis, pad.fill) for pad in kind.pads}


def _in_memory(kind: TensorType) -> list[Digit]:
    """Digits from slowest to fastest, lanes last (lane 0 lies first), merged."""
    merged: list[Digit] = []
    for digit in itertools.chain(*(kind.dims[dim] for dim in kind.order), kind.lanes):
        last = merged[-1] if merged else None
        if last is not None and last.axis == digit.axis and last.div == _int(digit.div) * _int(digit.ext):
            merged[-1] = Digit(digit.axis, digit.div, _int(last.ext) * _int(digit.ext))
        elif digit.ext != 1:
            merged.append(digit)
    return merged


def _int(size: Any) -> int:
    """A size of a bound type."""
    assert isinstance(size, int)
    return size


def _flat(tensor: torch.Tensor, kind: TensorType, copy: bool = False) -> torch.Tensor:
    """The storage elements of a tensor in memory order, as one dimension; without ``copy`` they must lie densely as the type says."""
    if tuple(tensor.shape) != kind.shape or tensor.dtype != torch_dtype(kind.storage):
        raise ValueError(f"a tensor {tensor.dtype}{list(tensor.shape)} is not the declared {kind.storage}{list(kind.shape)}")
    tensor = tensor.detach()
    # Strides of dims of one index are not a property: torch keeps whatever they were.
    if tensor.numel() and any(size > 1 and have != want for size, have, want in zip(kind.shape, tensor.stride(), kind.strides)):
        if not copy:
            raise ValueError(f"strides {tensor.stride()} are not the declared {kind.strides}")
        return tensor.permute(kind.order).contiguous().view(-1)
    return tensor.as_strided((tensor.numel(),), (1,))


# --- encoding ---------------------------------------------------------------------------------------------------------------------------------------------

Rule = Literal["exact", "zero", "sign", "float"]


def _rule(kind: TensorType) -> Rule:
    """How a slot wider than its element is filled: not at all, with zeros, with the sign, or it holds the value as that float."""
    if kind.slot_bits == kind.element_bits:
        return "exact"
    if carriage_of(kind.element, kind.storage, bool(kind.lanes)) != "value":
        return "sign" if kind.extension == "sign" else "zero"
    if ELEMENTS[kind.element].kind == "float":
        return "float"
    return "sign" if ELEMENTS[kind.element].kind == "int" and not kind.excess else "zero"


def _code(kind: TensorType, number: int) -> int:
    """The bits of an element of value ``number``; of scales and opaque elements, which have no plain numbers, ``number`` is the code itself."""
    element, mask = ELEMENTS[kind.element], (1 << kind.element_bits) - 1
    if element.name == "e2m1":
        return E2M1.index(float(number))
    if element.kind == "float":
        dtype = torch_dtype(element.name)
        return int(torch.tensor(float(number)).to(dtype).view(UNITS[element.bits]).item()) & mask
    return int(bool(number)) if element.kind == "bool" else (number + kind.excess) & mask


def _fill(out: torch.Tensor, kind: TensorType, number: int) -> None:
    """Set every element to ``number``."""
    width, bits, code, rule = STORAGES[kind.storage].bits, kind.element_bits, _code(kind, number), _rule(kind)
    if rule == "float":
        out.fill_(E2M1[code])
        return
    slot = code - (1 << bits) if rule == "sign" and code >> (bits - 1) else code
    slot &= (1 << kind.slot_bits) - 1
    word = sum(slot << shift for shift in range(0, width, kind.slot_bits))
    out.view(SIGNED[width]).fill_(word - (1 << width) if word >> (width - 1) else word)


def fill_holes(out: torch.Tensor, kind: TensorType, extents: Mapping[str, int]) -> None:
    """Set the elements of indices >= their axis's extent to the pad's fill (types without lanes)."""
    width = STORAGES[kind.storage].bits
    assert not kind.lanes
    memory, places = out.view(SIGNED[width]), _places(kind, 1)[0]
    for pad in kind.pads:
        for starts in _beyond(sorted((p.div, p.ext) for p in places if p.axis == pad.axis), extents[pad.axis]):
            box = [(p, starts.get(p.div, (0, p.ext)) if p.axis == pad.axis else (0, p.ext)) for p in places]
            offset = memory.storage_offset() + sum(p.stride * start for p, (start, _) in box)
            region = memory.as_strided([count for _, (_, count) in box], [p.stride for p, _ in box], offset)
            _fill(region.view(out.dtype), kind, pad.fill)


def _beyond(chain: Sequence[tuple[int, int]], extent: int) -> Iterator[dict[int, tuple[int, int]]]:
    """The indices >= extent of an axis with digits ``chain`` (div, ext; lowest first), as boxes: div -> (start, count) of the digits that are not whole."""
    if not chain:
        return
    base, prefix = chain[0][0], dict[int, tuple[int, int]]()
    first = -(-extent // base) * base
    for level, (div, ext) in reversed(list(enumerate(chain))):
        at = first // div if level == len(chain) - 1 else first // div % ext
        # Above the lowest digit, the block that begins with ``at`` is looked into one digit below.
        start = at + (level > 0)
        if start < ext:
            yield {**prefix, div: (start, ext - start)}
        if at >= ext:
            return
        prefix[div] = (at, 1)


# --- the nest of loops ------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """A digit and its stride in units of memory."""

    axis: str
    div: int
    ext: int
    stride: int


@dataclass(frozen=True, slots=True)
class _Loop:
    count: int
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class _Nest:
    """Loops in source order, slowest first.

    lift: source stride of the digit that numbers the nibbles of a target byte. drop: target stride of the digit that numbers the nibbles of a source byte.
    """

    loops: tuple[_Loop, ...]
    lift: int | None
    drop: int | None


@dataclass(frozen=True, slots=True)
class _Side:
    """How one tensor's memory is seen. unit: the integer (or float) dtype; scale: units per storage element."""

    unit: torch.dtype
    scale: int


def _places(kind: TensorType, scale: int) -> tuple[list[_Place], _Place | None]:
    """The digits of a type with their strides, fastest first, and the digit that numbers the two nibbles of a byte."""
    lanes, nibble = [d for d in kind.lanes if d.ext != 1], None
    if lanes and kind.element_bits < 8:
        low = lanes.pop()
        nibble = _Place(low.axis, _int(low.div), 2, 0)
        if low.ext != 2:
            lanes.append(Digit(low.axis, _int(low.div) * 2, _int(low.ext) // 2))
    places: list[_Place] = []
    _append(places, lanes, 1)
    step = scale
    for dim in reversed(kind.order):
        step = _append(places, kind.dims[dim], step)
    return places, nibble


def _append(places: list[_Place], digits: Sequence[Digit], step: int) -> int:
    for digit in reversed(digits):
        if digit.ext != 1:
            places.append(_Place(digit.axis, _int(digit.div), _int(digit.ext), step))
        step *= _int(digit.ext)
    return step


def _atoms(ours: Sequence[_Place], theirs: Sequence[_Place]) -> list[tuple[int, int, int]] | None:
    """Common digits of one axis, as (div, extent on our side, on theirs), lowest first; None if the boundaries of the two sides do not nest.

    The extents differ in the top atom at most, where one side is padded further.
    """
    base = min(place.div for place in (*ours, *theirs))
    ends = [max((p.div * p.ext for p in side), default=base) for side in (ours, theirs)]
    cuts = {place.div for place in (*ours, *theirs)}
    cuts |= {p.div * p.ext for side, end in zip((ours, theirs), ends) for p in side if p.div * p.ext != end}
    chain = sorted(cuts | {base})
    if any(above % below for below, above in zip(chain, chain[1:])) or any(end % chain[-1] for end in ends):
        return None
    inner = [(below, above // below, above // below) for below, above in zip(chain, chain[1:])]
    return [*inner, (chain[-1], ends[0] // chain[-1], ends[1] // chain[-1])]


def _nest(source: TensorType, target: TensorType, sides: tuple[_Side, _Side]) -> _Nest | None:
    """The loops of a movement; None where it needs an intermediate layout."""
    (ours, our_nibble), (theirs, their_nibble) = (_places(kind, side.scale) for kind, side in zip((source, target), sides))
    all_ours, all_theirs = ([*places, *([nibble] if nibble else [])] for places, nibble in ((ours, our_nibble), (theirs, their_nibble)))
    loops, lift, drop = [], None, None
    for axis in {place.axis for place in (*all_ours, *all_theirs)}:
        left, right = ([p for p in places if p.axis == axis] for places in (all_ours, all_theirs))
        atoms = _atoms(left, right)
        if atoms is None:
            return None
        for div, count, other in atoms:
            ours_low = our_nibble is not None and (our_nibble.axis, our_nibble.div) == (axis, div)
            theirs_low = their_nibble is not None and (their_nibble.axis, their_nibble.div) == (axis, div)
            if (ours_low or theirs_low) and count != other:
                return None
            if ours_low and theirs_low:
                continue
            if theirs_low:
                lift = _stride(left, div)
            elif ours_low:
                drop = _stride(right, div)
            elif min(count, other) > 1:
                loops.append(_Loop(min(count, other), _stride(left, div), _stride(right, div)))
    return _Nest(_coalesce(loops), lift, drop)


def _stride(places: Sequence[_Place], div: int) -> int:
    place = max((p for p in places if p.div <= div), key=lambda p: p.div)
    return place.stride * (div // place.div)


def _coalesce(loops: Sequence[_Loop]) -> tuple[_Loop, ...]:
    """Loops in source order, neighbours in both orders merged."""
    merged: list[_Loop] = []
    for loop in sorted(loops, key=lambda loop: (-loop.source, -loop.target)):
        last = merged[-1] if merged else None
        if last is not None and (last.source, last.target) == (loop.source * loop.count, loop.target * loop.count):
            merged[-1] = _Loop(last.count * loop.count, loop.source, loop.target)
        else:
            merged.append(loop)
    return tuple(merged)


# --- copying ----------------------------------------------------------------------------------------------------------------------------------------------


def copy(tensor: torch.Tensor, source: TensorType, target: TensorType, out: torch.Tensor) -> None:
    """Write the logical tensor that ``tensor`` holds as ``source`` into ``out`` as ``target``; holes that only the target has get its fill.

    Raises: ValueError if ``out`` does not lie as ``target`` says, or the elements differ.
    """
    if source.element != target.element or source.element_bits != target.element_bits:
        raise ValueError(f"a movement cannot turn {source.element} into {target.element}")
    written, read = _flat(out, target), _flat(tensor, source, copy=True)
    if not written.numel():
        return
    padded = [pad for pad in target.pads if _capacity(target, pad.axis) > _capacity(source, pad.axis)]
    if padded:
        _fill(written, target, padded[0].fill)
    elif _rule(target) == "zero" and target.element_bits >= 8:
        written.view(SIGNED[STORAGES[target.storage].bits]).zero_()
    if not read.numel():
        return
    sides = _sides(source, target)
    nest = _nest(source, target, sides)
    if nest is None:
        _copy_via_plain(tensor, source, target, out)
    elif _recodes(source, target) or nest.lift is not None or nest.drop is not None:
        _copy_codes(read, written, nest, sides, source, target)
    else:
        _copy_units(read.view(sides[0].unit), written.view(sides[1].unit), nest.loops)


def _recodes(source: TensorType, target: TensorType) -> bool:
    """Do elements of less than a byte change their bits or the way a wider slot carries them?"""
    return source.element_bits < 8 and (_rule(source), source.excess) != (_rule(target), target.excess)


def _sides(source: TensorType, target: TensorType) -> tuple[_Side, _Side]:
    """How to see the two memories: elements as integers of their width, nibbles as bytes, wider carriers whole where torch's conversion extends them."""
    bits = source.element_bits
    if bits >= 8:
        # Of a zero-extended target only the low part is written: the rest is zero already.
        ours, theirs = (_Side(SIGNED[bits], STORAGES[kind.storage].bits // bits) for kind in (source, target))
        return ours, _whole(target) if _rule(target) == "sign" else theirs
    by_value = not _recodes(source, target) and _rule(source) != "exact"
    carried = by_value or _rule(source) == "float"
    ours, theirs = (_Side(UNITS[8], STORAGES[kind.storage].bits // 8) for kind in (source, target))
    return _whole(source) if carried else ours, theirs if _rule(target) == "exact" else _whole(target)


def _whole(kind: TensorType) -> _Side:
    storage = STORAGES[kind.storage]
    return _Side(torch_dtype(kind.storage) if storage.kind == "float" else SIGNED[storage.bits], 1)


def _capacity(kind: TensorType, axis: str) -> int:
    places, nibble = _places(kind, 1)
    return max((p.div * p.ext for p in (*places, *([nibble] if nibble else [])) if p.axis == axis), default=1)


def _copy_via_plain(tensor: torch.Tensor, source: TensorType, target: TensorType, out: torch.Tensor) -> None:
    """Through a layout with one digit per axis and one code per unit, for sides whose digits do not nest (``n//3`` against ``n//2``). Makes full copies."""
    narrow, wide = _plain(source), _plain(target)
    steps = [source, narrow, wide, target] if narrow.shape != wide.shape else [source, narrow, target]
    for before, after in zip(steps, steps[1:]):
        made = out if after is target else allocate(after, out.device)
        copy(tensor, before, replace(after, pads=target.pads) if after is wide else after, made)
        tensor = made


def _plain(kind: TensorType) -> TensorType:
    places, nibble = _places(kind, 1)
    digits = [*places, *([nibble] if nibble else [])]
    axes = dict.fromkeys(place.axis for place in reversed(digits))
    dims = []
    for axis in sorted(axes):
        own = [p for p in digits if p.axis == axis]
        base = min(p.div for p in own)
        dims.append((Digit(axis, base, max(p.div * p.ext for p in own) // base),))
    storage = {8: "uint8", 16: "int16", 32: "int32", 64: "int64"}[max(kind.element_bits, 8)]
    order = tuple(range(len(dims)))
    return replace(kind, storage=storage, extension="zero" if kind.element_bits < 8 else "", dims=tuple(dims), lanes=(), order=order, format=0)


# --- tiles ------------------------------------------------------------------------------------------------------------------------------------------------


def _box(loops: Sequence[_Loop], budget: int) -> list[int]:
    """How many steps of each loop make a tile: long runs in the source and in the target first, then what the budget allows."""
    counts = [1] * len(loops)
    by_source = list(reversed(range(len(loops))))
    by_target = sorted(by_source, key=lambda i: loops[i].target)
    for order, limit in ((by_source, NEAR), (by_target, budget // NEAR)):
        run = 1
        for i in order:
            counts[i] = max(counts[i], _most(loops[i].count, limit // run))
            run *= counts[i]
    for i in by_source:
        counts[i] = max(counts[i], _most(loops[i].count, budget * counts[i] // prod(counts)))
    return counts


def _most(count: int, room: int) -> int:
    """As many steps as there is room for; a part of a loop is a multiple of eight, so that tiles stay aligned."""
    return count if count <= room else max(room - room % 8 if room > 8 else room, 1)


def _tiles(loops: Sequence[_Loop], counts: Sequence[int]) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """The tiles of a nest: shape, source offset, target offset."""
    for starts in itertools.product(*(range(0, loop.count, count) for loop, count in zip(loops, counts))):
        shape = tuple(min(count, loop.count - start) for loop, count, start in zip(loops, counts, starts))
        yield shape, sum(x * loop.source for x, loop in zip(starts, loops)), sum(x * loop.target for x, loop in zip(starts, loops))


def _at(memory: torch.Tensor, shape: Sequence[int], strides: Sequence[int], offset: int) -> torch.Tensor:
    return memory.as_strided(shape, strides, memory.storage_offset() + offset)


def _copy_units(read: torch.Tensor, written: torch.Tensor, loops: tuple[_Loop, ...]) -> None:
    """Move units that do not change (or that torch's conversion narrows or extends)."""
    if read.dtype == written.dtype:
        read, written, loops = _widened(read, written, loops)
    ours, theirs = [loop.source for loop in loops], [loop.target for loop in loops]
    if not loops or loops[-1].target == min(theirs):
        whole = [loop.count for loop in loops]
        _at(written, whole, theirs, 0).copy_(_at(read, whole, ours, 0))
        return
    counts = _box(loops, TILE // read.element_size())
    stage = torch.empty(prod(counts) * read.element_size() // 8 + 1, dtype=torch.int64, device=read.device)
    for shape, source, target in _tiles(loops, counts):
        _permute(_at(read, shape, ours, source), _at(written, shape, theirs, target), stage)


def _widened(read: torch.Tensor, written: torch.Tensor, loops: tuple[_Loop, ...]) -> tuple[torch.Tensor, torch.Tensor, tuple[_Loop, ...]]:
    """The same movement in units twice as wide, as often as the fastest run allows."""
    while read.element_size() < 8 and loops and (loops[-1].source, loops[-1].target) == (1, 1):
        *outer, run = loops
        size = 2 * read.element_size()
        strides = [stride for loop in outer for stride in (loop.source, loop.target)]
        if run.count % 2 or any(stride % 2 for stride in strides) or not (_aligned(read, size) and _aligned(written, size)):
            break
        halved = [_Loop(loop.count, loop.source // 2, loop.target // 2) for loop in outer]
        loops = (*halved, _Loop(run.count // 2, 1, 1)) if run.count > 2 else tuple(halved)
        read, written = read.view(SIGNED[8 * size]), written.view(SIGNED[8 * size])
    return read, written, loops


def _aligned(memory: torch.Tensor, size: int) -> bool:
    return not (memory.data_ptr() % size or memory.storage_offset() * memory.element_size() % size or memory.numel() * memory.element_size() % size)


def _permute(read: torch.Tensor, written: torch.Tensor, stage: torch.Tensor) -> None:
    """Copy one tile whose last dim is the source's fastest and not the target's.

    Single bytes go by way of ``stage``: eight neighbours are transposed as one int64, then dealt out from there; half the time of the direct copy (measured).
    """
    ratio, others = 8 // read.element_size(), read.stride()[:-1]
    fits = ratio > 2 and read.dtype == written.dtype and read.numel() >= STAGED and read.shape[-1] % ratio == 0
    if not fits or read.stride(-1) != 1 or read.storage_offset() % ratio or any(s % ratio for s in others) or read.data_ptr() % 8:
        written.copy_(read)
        return
    rank, strides = read.dim(), written.stride()
    order = sorted(range(rank), key=lambda dim: -strides[dim])
    wide = read.view(torch.int64).permute(order)
    staged = stage[: wide.numel()].view(wide.shape)
    staged.copy_(wide)
    eights = (*written.shape[:-1], written.shape[-1] // ratio, ratio)
    dealt = written.as_strided(eights, (*strides[:-1], strides[-1] * ratio, strides[-1]))
    dealt.permute(*order, rank).copy_(staged.view(read.dtype).view(*staged.shape, ratio))


# --- elements of less than a byte -------------------------------------------------------------------------------------------------------------------------


def _copy_codes(read: torch.Tensor, written: torch.Tensor, nest: _Nest, sides: tuple[_Side, _Side], source: TensorType, target: TensorType) -> None:
    """Move nibbles: in source order, tile by tile, gather the two of a target byte (lift) or take those of a source byte apart (drop), then permute bytes."""
    read, written = read.view(sides[0].unit), written.view(sides[1].unit)
    ours, theirs = [loop.source for loop in nest.loops], [loop.target for loop in nest.loops]
    rules = _rule(source), _rule(target)
    by_float = "float" in rules
    counts = _box(nest.loops, TILE // 8 if by_float else TILE)
    size = prod(counts)
    codes, other = (torch.empty(size, dtype=torch.uint8, device=read.device) for _ in range(2))
    stage = torch.empty(size // 8 + 1, dtype=torch.int64, device=read.device)
    for shape, near, far in _tiles(nest.loops, counts):
        tile, spare = (buffer[: prod(shape)].view(shape) for buffer in (codes, other))
        halves = [_bytes(_at(read, shape, ours, near + lift)) for lift in ((0,) if nest.lift is None else (0, nest.lift))]
        for half in (None,) if nest.drop is None else (0, 1):
            packed = _gather(halves, half, rules == ("exact", "exact"), tile, spare)
            _shift_excess(tile, (target.excess - source.excess) % 16, packed)
            _deliver(tile, _at(written, shape, theirs, far + (nest.drop or 0) * (half or 0)), rules[1], stage)


def _bytes(tile: torch.Tensor) -> torch.Tensor:
    """Codes in the low bits of bytes; values that floats carry become codes."""
    if not tile.dtype.is_floating_point:
        return tile
    bits = tile.to(torch.float32).view(torch.int32)
    # 0.5 is 252 in the upper nine bits of exponent and fraction, 1.0 is 254, 1.5 is 255, ...: all but 0.5 are 252 more than their code.
    upper = bits.bitwise_right_shift(22).bitwise_and_(0x1FF).sub_(252)
    code = upper.eq(0).to(torch.uint8).add_(upper.clamp_(0, 7).to(torch.uint8))
    return code.bitwise_or_(bits.lt(0).to(torch.uint8).mul_(8))


def _gather(halves: Sequence[torch.Tensor], half: int | None, whole: bool, tile: torch.Tensor, spare: torch.Tensor) -> bool:
    """Fill ``tile`` from one or two source bytes. Returns: are both of its nibbles used?

    half: which nibble of the source counts (None: the low one, or both if ``whole``).
    """
    low = halves[0]
    if len(halves) == 1 and half is None and whole:
        tile.copy_(low)
        return True
    if half:
        torch.bitwise_right_shift(low, 4, out=tile)
    else:
        torch.bitwise_and(low, 15, out=tile)
    if len(halves) == 1:
        return False
    if half:
        torch.bitwise_and(halves[1], 0xF0, out=spare)
    else:
        torch.bitwise_left_shift(halves[1], 4, out=spare)
    tile.bitwise_or_(spare)
    return True


def _shift_excess(tile: torch.Tensor, excess: int, packed: bool) -> None:
    """Add ``excess`` to every nibble, modulo 16."""
    if not excess:
        return
    if excess == 8:
        tile.bitwise_xor_(0x88 if packed else 0x08)
        return
    high = (tile & 0xF0).add_(excess << 4) if packed else 0
    tile.add_(excess).bitwise_and_(15).bitwise_or_(high)


def _deliver(tile: torch.Tensor, written: torch.Tensor, rule: Rule, stage: torch.Tensor) -> None:
    """Write codes into the target the way it carries them."""
    if rule == "exact":
        _permute(tile, written, stage)
        return
    if rule == "sign":
        tile.bitwise_xor_(8).sub_(8)
    elif rule != "zero":
        table = torch.tensor(E2M1, dtype=written.dtype, device=tile.device)
        written.copy_(table[tile.int()])
        return
    signed = tile.view(torch.int8) if rule == "sign" or written.dtype == torch.int8 else tile
    _permute(signed, written, stage) if written.dtype == signed.dtype else written.copy_(signed)
