"""The bytes of stored tensors, block by block into buffers that are used again, and work on them side by side within a budget of memory.

Under ``values`` and ``diff``. Work goes to a few threads: numpy leaves the interpreter to others while it computes, and so does a read.

Invariants: no more than the budget is asked for at once; results come in the order of the work; a file that changed is a diagnostic.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import FileIO
from math import prod
from threading import Lock
from time import monotonic
from typing import Generic, TypeVar

import numpy as np

from layoutdsl.checkpoint.model import StoredTensor
from layoutdsl.checkpoint.numbers import Array
from layoutdsl.diagnostics import Diagnostic, DiagnosticError

BLOCK = 4 << 20
"""Bytes read at once: small enough to stay in the cache of a core, and large enough for the calls not to matter."""
THREADS = max(1, min(4, os.cpu_count() or 1))

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor as rows of bytes, and how many of them one block has: a multiple of ``step``, unless the tensor ends."""

    tensor: StoredTensor
    count: int
    size: int
    per_block: int

    @classmethod
    def of(cls, tensor: StoredTensor, step: int = 1, block: int = BLOCK) -> Rows:
        """The outermost dim that is not 1 as rows; ``step`` of them belong together. block: bytes, about."""
        count = next((extent for extent in tensor.shape if extent != 1), 1)
        total = tensor.end - tensor.begin
        if count == 0 or total == 0:
            return cls(tensor, 0, 0, 1)
        return cls(tensor, count, total // count, 1).by(max(1, block // (total // count * step)) * step)

    def by(self, rows: int) -> Rows:
        """The same in blocks of so many rows."""
        return replace(self, per_block=max(1, min(self.count, rows)))

    def blocks(self, done: Callable[[int], None]) -> Iterator[tuple[int, Array]]:
        """Each block with the number of its first row: bytes in a buffer that the next block overwrites. Raises: DiagnosticError (``file-changed``)."""
        room = np.empty(self.per_block * self.size, np.uint8)
        with _opened(self.tensor) as file:
            for first in range(0, self.count, self.per_block):
                raw = room[: min(self.per_block, self.count - first) * self.size]
                _read(file, self.tensor, raw)
                done(raw.size)
                yield first, raw


def flat(tensor: StoredTensor, block: int = BLOCK) -> Rows:
    """A tensor whose rows do not matter: its elements."""
    count = prod(tensor.shape)
    size = (tensor.end - tensor.begin) // count if count else 0
    return Rows(tensor, count if size else 0, size, max(1, min(count, block // max(size, 1))))


def whole(tensor: StoredTensor, done: Callable[[int], None]) -> Array:
    """All bytes of a tensor. Raises: DiagnosticError (``file-changed``)."""
    raw = np.empty(tensor.end - tensor.begin, np.uint8)
    with _opened(tensor) as file:
        _read(file, tensor, raw)
    done(raw.size)
    return raw


@contextmanager
def _opened(tensor: StoredTensor) -> Iterator[FileIO]:
    """The file, at the tensor's first byte."""
    try:
        with open(tensor.file, "rb", buffering=0) as file:
            file.seek(tensor.begin)
            yield file
    except OSError as error:
        raise DiagnosticError(_changed(tensor, f"the system says: {error.strerror or error}")) from None


def _read(file: FileIO, tensor: StoredTensor, raw: Array) -> None:
    """Fills an array."""
    room, total = memoryview(raw), 0  # type: ignore[arg-type]
    while total < raw.size:
        count = file.readinto(room[total:])
        if not count:
            raise DiagnosticError(_changed(tensor))
        total += count


def _changed(tensor: StoredTensor, note: str = "") -> Diagnostic:
    message = f"bytes {tensor.begin} to {tensor.end} of the file, which hold a tensor, cannot be read"
    notes = (f"the file is {tensor.file}", *([note] if note else ["the file ends before them, though its header was read"]))
    return Diagnostic(code="file-changed", message=message, where=tensor.name, notes=notes, helps=("check the disk, and that nobody writes to the folder",))


# ---- side by side ---------------------------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Progress:
    """Counts bytes, and says every few seconds how far it is."""

    say: Callable[[str], None]
    total: int
    every: float = 3.0
    _done: int = 0
    _said: float = field(default_factory=monotonic)
    _lock: Lock = field(default_factory=Lock)

    def done(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = monotonic()
            if now - self._said < self.every:
                return
            self._said = now
            text = f"read {size_text(self._done)} of {size_text(self.total)} ({100 * self._done // max(self.total, 1)} %)"
        self.say(text)


def size_text(count: int) -> str:
    """A number of bytes for people."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


@dataclass(frozen=True, slots=True)
class Work(Generic[T]):
    """Something to do that needs so many bytes of memory."""

    run: Callable[[], T]
    needs: int


def _prepare() -> None:
    """numpy copies a factor that is broadcast into a buffer of whole rows, unless a row is longer than the buffer: 1024 elements are copied for nothing
    less."""
    np.setbufsize(1024)


def side_by_side(work: Sequence[Work[T]], budget: int) -> Iterator[T]:
    """The results in order. No more runs at once than the budget allows, and no more than waits to be fetched soon."""
    waiting: deque[tuple[Future[T], int]] = deque()
    used, at = 0, 0
    with ThreadPoolExecutor(THREADS, initializer=_prepare) as pool:
        try:
            while waiting or at < len(work):
                while at < len(work) and len(waiting) < 2 * THREADS and (not waiting or used + work[at].needs <= budget):
                    waiting.append((pool.submit(work[at].run), work[at].needs))
                    used, at = used + work[at].needs, at + 1
                future, needs = waiting.popleft()
                yield future.result()
                used -= needs
        finally:
            for future, _ in waiting:
                future.cancel()
