"""The header of one safetensors file: which tensors it holds, of which dtype and shape, and at which bytes.

First stop of a checkpoint: ``folder`` reads one header per file. Written by hand, for the library stops at the first fault with half a sentence and wants
torch or numpy.

Invariants: no byte of a tensor is read; a file that the safetensors library refuses has a finding; a tensor whose shape can be read is returned even if
something is wrong with it, so that no other check reports it missing.
Source of the format: safetensors documentation, "Format" (8 bytes of header length, a JSON header that begins with ``{``, the tensors without holes).
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Any

from layoutdsl.checkpoint.json_text import parse_object, some
from layoutdsl.checkpoint.model import StoredTensor
from layoutdsl.checkpoint.regular_file import opened
from layoutdsl.diagnostics import Diagnostic, DiagnosticError

DTYPES: dict[str, tuple[str, int]] = {
    "BOOL": ("bool", 8),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "F4": ("float4_e2m1fn_x2", 4),
    "F6_E2M3": ("float6_e2m3fn", 6),
    "F6_E3M2": ("float6_e3m2fn", 6),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "U16": ("uint16", 16),
    "I16": ("int16", 16),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "U32": ("uint32", 32),
    "I32": ("int32", 32),
    "F32": ("float32", 32),
    "U64": ("uint64", 64),
    "I64": ("int64", 64),
    "F64": ("float64", 64),
    "C64": ("complex64", 64),
}
"""What a header may say, torch's name of it and its bits (safetensors 0.8; torch has no six-bit floats)."""
LONGEST_HEADER = 100_000_000
"""Bytes; the library's own bound."""
HIGHEST_RANK = 64
"""Dimensions; torch's own bound. Bounds the product as well."""
MOST_FINDINGS = 100
"""Per file."""

AGAIN = ("fetch or copy the file again, and compare its length with that of the original",)


def read_header(path: Path) -> tuple[list[StoredTensor], list[Diagnostic]]:
    """The tensors of a file in the order of its header, and what is wrong with it.

    A tensor of dtype ``F4`` has torch's shape: two elements of the last dim in one. A dtype that nobody knows is handed on as it is written, in lower case.
    """
    try:
        with opened(path) as (file, size):
            length = int.from_bytes(file.read(8), "little")
            wrong = _wrong_start(path.name, size, length, file.read(1))
            if wrong:
                return [], [wrong]
            file.seek(8)
            text = file.read(length)
    except DiagnosticError as error:
        return [], list(error.diagnostics)
    header, findings = parse_object(text, path.name, "the header", strict=True)
    if header is None:
        return [], findings
    tensors, faults = _entries(header, path, 8 + length)
    findings += faults or _layout_faults(tensors, path.name, 8 + length, size)
    return tensors, _at_most(findings, MOST_FINDINGS, path.name)


def _at_most(findings: list[Diagnostic], most: int, where: str) -> list[Diagnostic]:
    if len(findings) <= most:
        return findings
    rest = Diagnostic(code="header-entry", message=f"{len(findings) - most} more entries of the header are wrong", where=where)
    return [*findings[:most], rest]


# --- the start ----------------------------------------------------------------------------------------------------------------------------------------------


def _wrong_start(where: str, size: int, length: int, first: bytes) -> Diagnostic | None:
    """length: what the first eight bytes say; first: the ninth byte."""
    if size <= 8:
        message = "the file is cut: it has fewer bytes than the shortest header"
        return Diagnostic(code="shard-truncated", message=message, where=where, notes=(f"the file has {size} bytes",), helps=AGAIN)
    if first != b"{":
        notes = (f"byte 8 is {first!r}, where the header begins with b'{{'",)
        helps = ("convert other formats to safetensors first",)
        return Diagnostic(code="file-not-safetensors", message="this is not a safetensors file", where=where, notes=notes, helps=helps)
    if length > LONGEST_HEADER:
        notes = (f"the file says {length} bytes; readers take at most {LONGEST_HEADER}",)
        return Diagnostic(code="header-too-long", message="the header is longer than readers accept", where=where, notes=notes)
    if 8 + length > size:
        notes = (f"the header ends at byte {8 + length}, the file at byte {size}",)
        return Diagnostic(code="shard-truncated", message="the file is cut inside its header", where=where, notes=notes, helps=AGAIN)
    return None


# --- entries ------------------------------------------------------------------------------------------------------------------------------------------------


def _entries(header: dict[str, Any], path: Path, start: int) -> tuple[list[StoredTensor], list[Diagnostic]]:
    """start: where the tensors begin in the file."""
    tensors, faults = [], []
    metadata = header.get("__metadata__")
    if metadata is not None and not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
        faults.append(_fault("header-entry", "`__metadata__` of the header must map texts to texts", "__metadata__", path))
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        wrong = _wrong_form(entry)
        if wrong:
            faults.append(_fault("header-entry", f"the header's entry {wrong}", name, path))
            continue
        tensor, fault = _tensor(name, entry, path, start)
        tensors.append(tensor)
        faults += [fault] if fault else []
    return tensors, faults


def _wrong_form(entry: Any) -> str:
    """What is wrong with an entry that has no dtype, shape or offsets to look at, or nothing."""
    if not isinstance(entry, dict):
        return "is not an object"
    missing = [key for key in ("dtype", "shape", "data_offsets") if key not in entry]
    if missing:
        return f"lacks {some(missing)}"
    if not isinstance(entry["dtype"], str):
        return "has a `dtype` that is not a text"
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _integers(shape, lowest=0):
        return "has a `shape` that is not a list of integers, 0 or greater"
    if len(shape) > HIGHEST_RANK:
        return f"has a `shape` of {len(shape)} dims; tensors have at most {HIGHEST_RANK}"
    if not _integers(offsets) or len(offsets) != 2:
        return "has `data_offsets` that are not two integers"
    return ""


def _integers(value: Any, lowest: int = -(1 << 63)) -> bool:
    """A list of integers that fit in 64 bits; a truth value is none."""
    return isinstance(value, list) and all(type(item) is int and lowest <= item < 1 << 63 for item in value)


def _tensor(name: str, entry: dict[str, Any], path: Path, start: int) -> tuple[StoredTensor, Diagnostic | None]:
    code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    dtype, bits = DTYPES.get(code, (code.lower(), 0))
    seen = (*shape[:-1], shape[-1] // 2) if code == "F4" and shape else shape
    tensor = StoredTensor(name, dtype, seen, path, start + begin, start + end)
    if not bits:
        return tensor, _unknown_dtype(name, code, path)
    if begin < 0 or end < begin:
        message = "the offsets are not a range of bytes"
        return tensor, _fault("header-offsets", message, name, path, f"the header says bytes {begin} to {end}, counted from its end")
    if 8 * (end - begin) != bits * prod(shape):
        needed, odd = divmod(bits * prod(shape), 8)
        note = f"{code} of {list(shape)} needs {needed} bytes{f' and {odd} bits' if odd else ''}, bytes {begin} to {end} are {end - begin}"
        return tensor, _fault("header-size", "the offsets do not fit dtype and shape", name, path, note)
    return tensor, None


def _unknown_dtype(name: str, code: str, path: Path) -> Diagnostic:
    near = get_close_matches(code.upper(), DTYPES, 1)
    helps = (f"did you mean `{near[0]}`?",) if near else ()
    return _fault("header-dtype", f"no reader knows the dtype `{code}`", name, path, f"known are {', '.join(DTYPES)}", helps=helps)


def _fault(code: str, message: str, tensor: str, path: Path, *notes: str, helps: tuple[str, ...] = ()) -> Diagnostic:
    return Diagnostic(code=code, message=message, where=tensor, notes=(*notes, f"in {path.name}"), helps=helps)


# --- layout -------------------------------------------------------------------------------------------------------------------------------------------------


def _layout_faults(tensors: Sequence[StoredTensor], where: str, start: int, size: int) -> list[Diagnostic]:
    """The tensors must follow each other from ``start`` to ``size``, in any order.

    One shifted tensor overlaps one neighbour and leaves a hole beside the other: only the overlap is told then.
    """
    overlaps, holes, last = _overlaps_and_holes(tensors, start)
    if overlaps:
        return overlaps
    beyond = [tensor for tensor in tensors if tensor.end > size]
    if beyond and holes:
        return [_behind_the_end(tensor, size) for tensor in beyond]
    if beyond:
        return [_truncated(beyond, where, last, size)]
    if last < size:
        notes = (f"the tensors end at byte {last}, the file at byte {size}",)
        holes.append(Diagnostic(code="header-hole", message=f"the last {size - last} bytes of the file belong to no tensor", where=where, notes=notes))
    return holes


def _overlaps_and_holes(tensors: Sequence[StoredTensor], start: int) -> tuple[list[Diagnostic], list[Diagnostic], int]:
    """Also the byte where the last tensor ends."""
    overlaps, holes, last, before = [], [], start, "the header"
    for tensor in sorted(tensors, key=lambda t: (t.begin, t.end)):
        note = f"{before} ends at byte {last} of the file, this tensor has bytes {tensor.begin} to {tensor.end}"
        if tensor.begin < last:
            overlaps.append(_fault("header-overlap", f"the tensor shares bytes with {before}", tensor.name, tensor.file, note))
        elif tensor.begin > last:
            holes.append(_fault("header-hole", f"{tensor.begin - last} bytes before this tensor belong to none", tensor.name, tensor.file, note))
        if tensor.end > last:
            last, before = tensor.end, f"`{tensor.name}`"
    return overlaps, holes, last


def _behind_the_end(tensor: StoredTensor, size: int) -> Diagnostic:
    note = f"its bytes are {tensor.begin} to {tensor.end}, the file ends at byte {size}"
    return _fault("header-offsets", "the tensor lies behind the end of the file", tensor.name, tensor.file, note)


def _truncated(beyond: list[StoredTensor], where: str, last: int, size: int) -> Diagnostic:
    notes = (f"its tensors end at byte {last}, the file at byte {size}", f"cut or missing: {some([tensor.name for tensor in beyond])}")
    return Diagnostic(code="shard-truncated", message="the file is cut: its last tensors are not all there", where=where, notes=notes, helps=AGAIN)
