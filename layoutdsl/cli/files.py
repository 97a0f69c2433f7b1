"""Files that appear whole or not at all.

Invariants: until the last byte is on the disk, an existing file stays as it was; whatever happens, no half-written file is left.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, NoReturn

from layoutdsl.cli.output import reason
from layoutdsl.diagnostics import Diagnostic, DiagnosticError


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of ``path`` at the end of the block; a pipe or a device is written directly.

    Every OSError of the block counts as an error of this file. Raises: DiagnosticError (``file-unwritable``).
    """
    try:
        target = os.path.realpath(path)
        mode = _mode(target)
        if mode is not None and stat.S_ISDIR(mode):
            _refuse(path, "it is a directory, not a file")
        if mode is not None and not stat.S_ISREG(mode):
            with open(target, "wb") as device:
                yield device
            return
        folder = os.path.dirname(target)
        if not os.path.isdir(folder):
            _refuse(path, "its folder does not exist", "make the folder first")
        with _temporary(folder, target, mode) as file:
            yield file
    except OSError as error:
        _refuse(path, reason(error))
    except ValueError as error:
        if "null" not in str(error):
            raise
        _refuse(path, "a path has no null character")


@contextmanager
def _temporary(folder: str, target: str, mode: int | None) -> Iterator[BinaryIO]:
    handle, name = tempfile.mkstemp(prefix=".layoutdsl-", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, stat.S_IMODE(mode) if mode is not None else 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def _refuse(path: str, why: str, *helps: str) -> NoReturn:
    raise DiagnosticError(Diagnostic(code="file-unwritable", message=f"this file cannot be written: {why}", where=path, helps=helps)) from None
