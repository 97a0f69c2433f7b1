"""Open one file of a checkpoint folder, or say why it cannot be read.

Below ``headers`` and ``folder``: both read through here, so that an empty file, a broken link or a Git LFS pointer gets the same words everywhere.

Invariants: only regular files are opened (a pipe would block); links are followed, for Hugging Face caches consist of them; file names come from listing the
folder or were checked before.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from layoutdsl.diagnostics import Diagnostic, DiagnosticError

LFS_POINTER = b"version https://git-lfs"
"""Git LFS specification 1: a pointer file begins so. A clone without LFS holds pointers in place of large files."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file, and its size in bytes.

    Raises: DiagnosticError (``file-missing``, ``file-unreadable``, ``file-empty``, ``lfs-pointer``), whose ``where`` is the file's name.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
            raise DiagnosticError(Diagnostic(code="file-unreadable", message=f"a file is expected here, and this is {kind}", where=path.name))
        with open(path, "rb") as file:
            _refuse_placeholder(file, found.st_size, path.name)
            yield file, found.st_size
    except FileNotFoundError:
        raise DiagnosticError(_missing(path)) from None
    except OSError as error:
        message = f"this file cannot be read: {str(error.strerror or error).lower()}"
        raise DiagnosticError(Diagnostic(code="file-unreadable", message=message, where=path.name)) from None


def _refuse_placeholder(file: BinaryIO, size: int, where: str) -> None:
    if size == 0:
        helps = ("fetch or write the file again; an interrupted copy leaves such files",)
        raise DiagnosticError(Diagnostic(code="file-empty", message="the file is empty", where=where, helps=helps))
    if file.read(len(LFS_POINTER)) == LFS_POINTER:
        message = "this is a Git LFS pointer, not the file it stands for"
        notes = (f"it has {size} bytes and begins with `{LFS_POINTER.decode()}`",)
        raise DiagnosticError(Diagnostic(code="lfs-pointer", message=message, where=where, notes=notes, helps=("run `git lfs pull` in the folder",)))
    file.seek(0)


def _missing(path: Path) -> Diagnostic:
    if not path.is_symlink():
        return Diagnostic(code="file-missing", message="there is no such file", where=path.name)
    message = f"this link points to `{os.readlink(path)}`, which is not there"
    helps = ("finish the download; links of a Hugging Face cache point into its `blobs` folder",)
    return Diagnostic(code="file-missing", message=message, where=path.name, helps=helps)
