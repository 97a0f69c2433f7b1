"""Safetensors files: headers first, tensors one at a time; written so that equal content gives equal bytes.

Read with the safetensors library. Written by hand: the library's writer orders metadata at random and wants all tensors apart in memory.

Invariants: a file that cannot be read is a diagnostic; nothing is read of a tensor before it is asked for.
Source of the format: safetensors documentation, "Format" (8 bytes of header length, a JSON header, the tensors without gaps).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from layoutdsl.checkpoint.headers import DTYPES, LONGEST_HEADER
from layoutdsl.cli.output import reason
from layoutdsl.diagnostics import Diagnostic, DiagnosticError

if TYPE_CHECKING:
    import torch

CODES = {name: code for code, (name, bits) in DTYPES.items() if bits >= 8}
"""What a header calls a dtype; those of less than a byte have no words to write."""


@dataclass(frozen=True, slots=True)
class TensorFile:
    """An open file. headers: dtype and shape of every tensor, by name."""

    path: str
    headers: Mapping[str, tuple[str, tuple[int, ...]]]
    handle: Any

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, on the CPU. Raises DiagnosticError (``tensor-dtype``) for what this torch cannot hold."""
        from safetensors import SafetensorError

        try:
            tensor: torch.Tensor = self.handle.get_tensor(name)
        except (SafetensorError, AttributeError, KeyError, TypeError) as error:
            message = f"torch cannot hold `{name}`, which is {self.headers[name][0]}"
            raise DiagnosticError(Diagnostic(code="tensor-dtype", message=message, where=name, notes=(str(error),))) from None
        return tensor


@contextmanager
def opened(path: str) -> Iterator[TensorFile]:
    """A safetensors file. Raises DiagnosticError (``file-missing``, ``file-unreadable``, ``file-not-safetensors``)."""
    from safetensors import SafetensorError, safe_open

    _check_readable(path)
    try:
        handle: Any = safe_open(path, framework="pt")
        headers = {name: _header(handle.get_slice(name)) for name in list(handle.keys())}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise DiagnosticError(_not_safetensors(path, error)) from None
    with handle:
        yield TensorFile(path, headers, handle)


def _header(tensor: Any) -> tuple[str, tuple[int, ...]]:
    code = tensor.get_dtype()
    name, _ = DTYPES.get(code, (code.lower(), 0))
    return name, tuple(tensor.get_shape())


def _check_readable(path: str) -> None:
    try:
        with open(path, "rb"):
            return
    except FileNotFoundError:
        finding = Diagnostic(code="file-missing", message="there is no such file", where=path)
    except IsADirectoryError:
        finding = Diagnostic(code="file-unreadable", message="this is a directory, not a file", where=path, helps=("name one .safetensors file",))
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else "a path has no null character"
        finding = Diagnostic(code="file-unreadable", message=f"this file cannot be read: {why}", where=path)
    raise DiagnosticError(finding)


def _not_safetensors(path: str, error: Exception) -> Diagnostic:
    message, helps = _what_is_wrong(path)
    return Diagnostic(code="file-not-safetensors", message=message, where=path, notes=(f"safetensors says: {error}",), helps=helps)


def _what_is_wrong(path: str) -> tuple[str, tuple[str, ...]]:
    """The likeliest mistake, from the first bytes and the length of a file that was refused."""
    again = ("fetch or copy the file again, and compare its length with that of the original",)
    other = ("name a .safetensors file; other formats are converted first",)
    size = os.stat(path).st_size
    if size == 0:
        return "the file is empty", again
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        start = file.read(1)
    if size <= 8:
        return f"the file is cut: a safetensors file starts with 8 bytes of header length and a header, this one has {size} bytes in all", again
    if start != b"{" or length > LONGEST_HEADER:
        return "this is not a safetensors file", other
    if size < 8 + length:
        return f"the file is cut inside its header: the header ends at byte {8 + length}, the file at byte {size}", again
    end = _end_of_tensors(path, length)
    if end is not None and size < end:
        return f"the file is cut: its tensors end at byte {end}, the file at byte {size}", again
    return "the header of this safetensors file is damaged", again


def _end_of_tensors(path: str, length: int) -> int | None:
    try:
        with open(path, "rb") as file:
            file.seek(8)
            header = json.loads(file.read(length))
        return 8 + length + max(int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError):
        return None


# ---- writing -----------------------------------------------------------------------------------------------------------------------------------------------


def write(file: BinaryIO, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> int:
    """Tensors as seen (row-major, whatever their strides), widest dtype first, so that all are aligned; the number of bytes. Raises OSError."""
    import torch

    from layoutdsl.runtime.dtypes import dtype_name

    names = sorted(tensors, key=lambda name: -tensors[name].element_size())
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": CODES[dtype_name(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for name in names:
        if tensors[name].numel():
            file.write(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return 8 + len(text) + end
