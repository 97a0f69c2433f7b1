"""Validation results by content: a spec that was proved stays proved, until its text or this package changes.

Between the command line and the compiler; on a hit neither the parsers nor the compiler are imported.

Invariants: an entry is named by the hash of the spec's text, of those that it extends, and of this package's files (sizes and times); a cache that cannot be
read or written is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layoutdsl.cache_folder import folder
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Label, Source, Span

ENTRIES = 512
"""Entries to keep; the oldest go first."""


def validate_file(path: Path, *, use_cache: bool = True) -> list[Diagnostic]:
    """Everything that is wrong with a spec file, from the cache where it was proved before."""
    from layoutdsl.reading import sources_of
    from layoutdsl.syntax.yaml_reader import read_source

    try:
        source = read_source(path)
    except DiagnosticError as error:
        return list(error.diagnostics)
    sources = sources_of(source) if use_cache else None
    if sources is None:
        return _prove(source)
    entry = _entry(sources)
    known = _load(entry, sources)
    if known is not None:
        return known
    found = _prove(source)
    _store(entry, found, sources)
    return found


def _prove(source: Source) -> list[Diagnostic]:
    from layoutdsl.compiler.driver import validate
    from layoutdsl.reading import read_spec

    try:
        return validate(read_spec(source))
    except DiagnosticError as error:
        return list(error.diagnostics)


def _entry(sources: Sequence[Source]) -> Path:
    digest = hashlib.sha256(_fingerprint().encode())
    for source in sources:
        text = source.text.encode("utf-8", "surrogatepass")
        digest.update(b"%d " % len(text) + text)
    return folder() / f"{digest.hexdigest()}.json"


def _fingerprint() -> str:
    """Names, sizes and times of this package's files: any edit makes old results void."""
    package = Path(__file__).parent
    lines = []
    for place, _, names in sorted(os.walk(package)):
        for name in sorted(names):
            if name.endswith((".py", ".lark")):
                state = os.stat(os.path.join(place, name))
                lines.append(f"{place}/{name} {state.st_size} {state.st_mtime_ns}")
    return "\n".join(lines)


def _load(entry: Path, sources: Sequence[Source]) -> list[Diagnostic] | None:
    try:
        data = json.loads(entry.read_text(encoding="utf-8"))
        return [_decode(item, sources) for item in data]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _store(entry: Path, found: Sequence[Diagnostic], sources: Sequence[Source]) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=entry.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            json.dump([_encode(diagnostic, sources) for diagnostic in found], file)
        os.replace(file.name, entry)
        _prune(entry.parent)
    except (OSError, ValueError):
        return


def _prune(place: Path) -> None:
    entries = sorted(place.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for old in entries[:-ENTRIES]:
        old.unlink(missing_ok=True)


def _encode(diagnostic: Diagnostic, sources: Sequence[Source]) -> dict[str, Any]:
    names = [source.name for source in sources]

    def place(span: Span | None) -> list[int] | None:
        return None if span is None else [names.index(span.source.name), span.start, span.end]

    return {
        "code": diagnostic.code,
        "message": diagnostic.message,
        "severity": diagnostic.severity,
        "span": place(diagnostic.span),
        "label": diagnostic.label,
        # Two files may have one text: what names the file is put back when it is read.
        "where": diagnostic.where if diagnostic.where != names[0] else None,
        "labels": [[place(label.span), label.text] for label in diagnostic.labels],
        "notes": list(diagnostic.notes),
        "helps": list(diagnostic.helps),
    }


def _decode(data: dict[str, Any], sources: Sequence[Source]) -> Diagnostic:
    def span(place: list[int]) -> Span:
        return Span(sources[place[0]], place[1], place[2])

    return Diagnostic(
        code=data["code"],
        message=data["message"],
        severity=data["severity"],
        span=None if data["span"] is None else span(data["span"]),
        label=data["label"],
        where=sources[0].name if data["where"] is None else data["where"],
        labels=tuple(Label(span(place), text) for place, text in data["labels"]),
        notes=tuple(data["notes"]),
        helps=tuple(data["helps"]),
    )
