"""The data of a diagnostic: where (:class:`Source`, :class:`Span`), what (:class:`Diagnostic`), and the exceptions that carry it.

First stop of every stage; rendered once, at the edge, by ``layoutdsl.diagnostics.render``.

Invariants: a span lies inside its source; a diagnostic's code is in ``layoutdsl.diagnostics.rules.RULES``; text is plain data, escaped only when rendered.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Source:
    """One text that was read: a spec file, or a text given on the command line.

    ``name`` is what is printed (a path as the user wrote it), ``text`` the decoded text that all offsets refer to.
    """

    name: str
    text: str = field(repr=False)

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(i + 1 for i, char in enumerate(self.text) if char == "\n")]

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of a character offset, both counted from 1."""
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of line ``number`` (from 1), without its line end."""
        start = self._line_starts[number - 1]
        end = self.text.find("\n", start)
        return self.text[start : end if end >= 0 else len(self.text)].rstrip("\r")


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open range of character offsets in one source."""

    source: Source
    start: int
    end: int

    def __repr__(self) -> str:
        line, column = self.source.position(self.start)
        return f"{self.source.name}:{line}:{column}"

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]


@dataclass(frozen=True, slots=True)
class Label:
    """A secondary place in a diagnostic and the short text that stands under it."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One finding.

    code: slug of the rule, a key of ``RULES``. message: one lower-case sentence without a full stop. span: the guilty place, and ``label`` the text
    under its caret; without a span, ``where`` names the tensor, file or option. notes: what is known. helps: what to write. cause: equal for findings that
    one mistake makes, of which one is shown; never printed.
    """

    code: str
    message: str
    severity: Severity = "error"
    span: Span | None = None
    label: str = ""
    where: str = ""
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    helps: tuple[str, ...] = ()
    cause: int | None = None


class DiagnosticError(Exception):
    """Raised when a stage cannot go on: the user's mistake, as one or more diagnostics (``.diagnostics``, never empty)."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__(*diagnostics)
        self.diagnostics: tuple[Diagnostic, ...] = diagnostics

    def __str__(self) -> str:
        from layoutdsl.diagnostics.render import render

        return render(self.diagnostics, "text").rstrip("\n")


class InternalError(Exception):
    """Our own mistake: something that no input may cause. The command line asks for a report and exits with 3."""
