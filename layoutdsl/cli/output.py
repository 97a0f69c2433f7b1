"""Where text goes: results and findings to stdout, progress to stderr; and the columns of a table.

Invariants: what is written has no character that a terminal would act on; a closed or full stdout is never a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import cast

from layoutdsl.diagnostics import Diagnostic

WIDTH = 120


class CannotWrite(Exception):
    """Stdout takes no more, for another reason than a closed pipe."""


def prepare() -> None:
    """Characters that the terminal's encoding lacks are written as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict":
            cast(TextIOWrapper, stream).reconfigure(errors="backslashreplace")


def write(text: str) -> None:
    """Text that is escaped already, to stdout."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotWrite(reason(error)) from None


def flush() -> None:
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotWrite(reason(error)) from None


def abandon() -> None:
    """Stdout is gone: what is still buffered goes nowhere, so that the interpreter does not complain at its end."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def log(text: str, *, raw: bool = False) -> None:
    """One line to stderr, escaped unless ``raw``."""
    if sys.stderr is None:
        return
    with suppress(OSError):
        print(text if raw else escape(text), file=sys.stderr, flush=True)


def report(findings: Sequence[Diagnostic], format: str) -> None:
    """Findings to stdout; in JSON also when there are none."""
    if not findings and format != "json":
        return
    from layoutdsl.diagnostics.render import render

    write(render(findings, format))


def warn(findings: Sequence[Diagnostic]) -> None:
    """Findings that do not stop the work, to stderr."""
    if not findings:
        return
    from layoutdsl.diagnostics.render import render

    log(render(findings, "text").rstrip("\n"), raw=True)


def escape(text: str) -> str:
    from layoutdsl.diagnostics.render import escape as escaped

    return text if text.isascii() and text.isprintable() else escaped(text)


def reason(error: OSError) -> str:
    """What the system says of an error, in lower case."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def columns(rows: Iterable[Sequence[str]], indent: str = "  ", gap: str = "  ") -> list[str]:
    """Rows as lines with aligned columns; the last column is free, and goes on below itself where it is too long."""
    return [line for block in blocks(rows, indent, gap) for line in block]


def blocks(rows: Iterable[Sequence[str]], indent: str = "  ", gap: str = "  ") -> list[list[str]]:
    """The lines of every row."""
    rows = [[escape(cell) for cell in row] for row in rows]
    count = max(map(len, rows), default=0)
    widths = [max((len(row[i]) for row in rows if len(row) > i + 1), default=0) for i in range(count)]
    heads = [indent + "".join(f"{cell:{widths[i]}}{gap}" for i, cell in enumerate(row[:-1])) for row in rows]
    return [beside(head, row[-1]) for head, row in zip(heads, rows)]


def beside(head: str, text: str, width: int = WIDTH) -> list[str]:
    """A text behind a head, and below itself where one line is too narrow."""
    from textwrap import wrap

    if len(head) + len(text) <= width:
        return [(head + text).rstrip()]
    lines = wrap(text, max(width - len(head), 24), break_long_words=False, break_on_hyphens=False)
    return [f"{head if i == 0 else ' ' * len(head)}{line}" for i, line in enumerate(lines)]


def wrapped(text: str, indent: str) -> list[str]:
    """A long text as lines of at most ``WIDTH`` columns, words never cut."""
    from textwrap import wrap

    return wrap(escape(text), WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [indent.rstrip()]
