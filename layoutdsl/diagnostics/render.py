"""Renders diagnostics: the only place that turns spans into lines and columns, and the only place that escapes text from files.

Called at the edge, by the command line and by ``str(DiagnosticError)``.

Invariants: rendering never raises, whatever the spans and texts; no control character, text-direction mark or lone surrogate of a file reaches the
output; carets stand under the characters they mean, wide characters included.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from layoutdsl.diagnostics.model import Diagnostic, Label, Source, Span

FORMATS = ("text", "concise", "json", "github")
WIDTH = 160
CUT = "..."

_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def render(diagnostics: Sequence[Diagnostic], format: str) -> str:
    """All diagnostics in one format of ``FORMATS``; text formats end with a newline unless empty."""
    if format == "json":
        return json.dumps([_as_data(x) for x in diagnostics], indent=2) + "\n"
    if format == "text":
        return "\n".join(_text(x) for x in diagnostics)
    if format == "concise":
        return "".join(_concise(x) for x in diagnostics)
    if format == "github":
        return "".join(_github(x) for x in diagnostics)
    raise ValueError(f"unknown format {format!r}; known are {', '.join(FORMATS)}")


# ---- escaping ---------------------------------------------------------------------------------------------------------------------------------------


def escape(text: str) -> str:
    """``text`` as one printable line: what a terminal would act on, or not show, appears as ``\\x1b``."""
    return text if text.isascii() and text.isprintable() else "".join(_visible(char) for char in text)


def _visible(char: str) -> str:
    if char == "\t":
        return " "
    if unicodedata.category(char) not in _UNPRINTABLE:
        return char
    if char in "\n\r":
        return "\\n" if char == "\n" else "\\r"
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _columns(shown: str) -> int:
    """How many columns a terminal gives to printable text."""
    if shown.isascii():
        return len(shown)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in shown)


# ---- places -----------------------------------------------------------------------------------------------------------------------------------------


def _clamped(span: Span) -> Span:
    """The span inside its source, whatever its maker thought."""
    size = len(span.source.text)
    start = min(max(span.start, 0), size)
    return Span(span.source, start, min(max(span.end, start), size))


def _position(span: Span) -> str:
    span = _clamped(span)
    line, column = span.source.position(span.start)
    return f"{escape(span.source.name)}:{line}:{column}"


def _place(diagnostic: Diagnostic) -> str:
    return _position(diagnostic.span) if diagnostic.span is not None else escape(diagnostic.where)


# ---- one line per diagnostic ------------------------------------------------------------------------------------------------------------------------


def _headline(diagnostic: Diagnostic) -> str:
    return f"{diagnostic.severity}[{escape(diagnostic.code)}]: {escape(diagnostic.message)}"


def _concise(diagnostic: Diagnostic) -> str:
    place = _place(diagnostic)
    return f"{place}: {_headline(diagnostic)}\n" if place else f"{_headline(diagnostic)}\n"


def _github(diagnostic: Diagnostic) -> str:
    command = {"error": "error", "warning": "warning"}.get(diagnostic.severity, "notice")
    message = escape(diagnostic.message)
    fields: list[tuple[str, object]] = []
    if diagnostic.span is not None:
        span = _clamped(diagnostic.span)
        line, column = span.source.position(span.start)
        fields += [("file", escape(span.source.name)), ("line", line), ("col", column)]
    elif diagnostic.where:
        message = f"{escape(diagnostic.where)}: {message}"
    fields.append(("title", escape(diagnostic.code)))
    properties = ",".join(f"{key}={_percent(str(value)).replace(':', '%3A').replace(',', '%2C')}" for key, value in fields)
    return f"::{command} {properties}::{_percent(message)}\n"


def _percent(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


# ---- data -------------------------------------------------------------------------------------------------------------------------------------------


def _as_data(diagnostic: Diagnostic) -> dict[str, object]:
    return {
        **_span_data(diagnostic.span, diagnostic.where),
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "message": diagnostic.message,
        "label": diagnostic.label,
        "notes": list(diagnostic.notes),
        "helps": list(diagnostic.helps),
        "labels": [{**_span_data(x.span, ""), "text": x.text} for x in diagnostic.labels],
    }


def _span_data(span: Span | None, where: str) -> dict[str, object]:
    if span is None:
        return {"file": where or None, "line": None, "column": None, "end_line": None, "end_column": None}
    span = _clamped(span)
    line, column = span.source.position(span.start)
    end_line, end_column = span.source.position(span.end)
    return {"file": span.source.name, "line": line, "column": column, "end_line": end_line, "end_column": end_column}


# ---- the picture ------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Mark:
    """What stands under one line: ``^^^`` or ``---`` from column ``start`` to ``end`` of the output, and its text."""

    start: int
    end: int
    char: str
    text: str


def _text(diagnostic: Diagnostic) -> str:
    labels = _all_labels(diagnostic)
    lines = [_clamped(label.span).source.position(_clamped(label.span).start)[0] for label, _ in labels]
    gutter = max([2, *(len(str(number)) for number in lines)])
    blank = " " * gutter
    out = [_headline(diagnostic)]
    place = _place(diagnostic)
    if place:
        out.append(f"{blank}--> {place}")
    for number, source in enumerate(_sources(labels)):
        if number:
            first = next(label.span for label, _ in labels if label.span.source is source)
            out.append(f"{blank}::: {_position(first)}")
        out.append(f"{blank} |")
        out += _picture(source, [x for x in labels if x[0].span.source is source], gutter)
    for kind, texts in (("note", diagnostic.notes), ("help", diagnostic.helps)):
        for text in texts:
            head = f"{blank} = {kind}: "
            out += [(head if i == 0 else " " * len(head)) + escape(line) for i, line in enumerate(text.split("\n"))]
    return "\n".join(line.rstrip() for line in out) + "\n"


def _all_labels(diagnostic: Diagnostic) -> list[tuple[Label, bool]]:
    """The primary label first, then the others; the flag tells which one is primary."""
    primary = [] if diagnostic.span is None else [(Label(diagnostic.span, diagnostic.label), True)]
    return [*primary, *((label, False) for label in diagnostic.labels)]


def _sources(labels: list[tuple[Label, bool]]) -> list[Source]:
    """The sources in the order in which they are shown, the primary one first."""
    found: list[Source] = []
    for label, _ in labels:
        if not any(label.span.source is source for source in found):
            found.append(label.span.source)
    return found


def _picture(source: Source, labels: list[tuple[Label, bool]], gutter: int) -> list[str]:
    by_line: dict[int, list[tuple[Label, bool]]] = {}
    for label, primary in labels:
        line, _ = source.position(_clamped(label.span).start)
        by_line.setdefault(line, []).append((label, primary))
    out: list[str] = []
    before = 0
    for number in sorted(by_line):
        if before and number > before + 1:
            out.append(CUT)
        before = number
        text, marks = _line(source, number, by_line[number])
        out.append(f"{number:>{gutter}} | {text}")
        out += [f"{' ' * gutter} | {row}" for row in _rows(marks)]
    return out


def _line(source: Source, number: int, labels: list[tuple[Label, bool]]) -> tuple[str, list[_Mark]]:
    """One source line as it is shown, and its marks in columns of what is shown."""
    raw = source.line(number)
    line_start = source.text.rfind("\n", 0, _clamped(labels[0][0].span).start) + 1
    spans = []
    for label, _ in labels:
        span = _clamped(label.span)
        spans.append((min(span.start - line_start, len(raw)), min(span.end - line_start, len(raw.rstrip()))))
    cells = [_visible(char) for char in raw]
    anchor = next((span for span, (_, primary) in zip(spans, labels, strict=True) if primary), spans[0])
    low, high = _window(cells, *anchor)
    prefix, suffix = (CUT if low > 0 else ""), (CUT if high < len(cells) else "")
    offsets = [len(prefix)]
    for cell in cells[low:high]:
        offsets.append(offsets[-1] + _columns(cell))
    marks = []
    for (start, end), (label, primary) in zip(spans, labels, strict=True):
        left = offsets[min(max(start, low), high) - low]
        right = offsets[min(max(end, low), high) - low]
        marks.append(_Mark(left, max(right, left + 1), "^" if primary else "-", escape(label.text)))
    return prefix + "".join(cells[low:high]) + suffix, marks


def _window(cells: list[str], start: int, end: int) -> tuple[int, int]:
    """The characters of a long line that are shown: the span, and about as much to its left as to its right."""
    if sum(map(_columns, cells)) <= WIDTH:
        return 0, len(cells)
    low = high = min(start, len(cells))
    room = WIDTH - 2 * len(CUT)
    while high < min(end, len(cells)) and room >= (width := _columns(cells[high])):
        high, room = high + 1, room - width
    grown = True
    while grown:
        grown = False
        if low > 0 and room >= (width := _columns(cells[low - 1])):
            low, room, grown = low - 1, room - width, True
        if high < len(cells) and room >= (width := _columns(cells[high])):
            high, room, grown = high + 1, room - width, True
    return low, high


def _rows(marks: list[_Mark]) -> list[str]:
    """The rows under a source line: all marks, the text of the rightmost beside it, the other texts hanging below, right to left."""
    row = [" "] * max(mark.end for mark in marks)
    for mark in sorted(marks, key=lambda x: x.char == "^"):
        row[mark.start : mark.end] = mark.char * (mark.end - mark.start)
    texts = sorted((mark for mark in marks if mark.text), key=lambda x: (x.start, x.char == "^"))
    first = "".join(row)
    if texts and texts[-1].end == len(row):
        first += f" {texts.pop().text}"
    rows = [first]
    if texts:
        rows.append(_bars(texts))
    while texts:
        mark = texts.pop()
        left = _bars([x for x in texts if x.start < mark.start])
        rows.append(f"{left:<{mark.start}}{mark.text}")
    return rows


def _bars(marks: list[_Mark]) -> str:
    starts = {mark.start for mark in marks}
    return "".join("|" if column in starts else " " for column in range(max(starts, default=-1) + 1))
