"""From a path to a whole document: the text read, parsed, and joined with the spec that it extends."""

from __future__ import annotations

from pathlib import Path

from layoutdsl.bundled import bundled, find_bundled
from layoutdsl.diagnostics import Source
from layoutdsl.syntax.document import Document


def read_spec(source: Source) -> Document:
    """The document of a spec text. Raises: DiagnosticError with everything that is wrong with it."""
    from layoutdsl.compiler.extends import extended
    from layoutdsl.syntax.reader import read_document
    from layoutdsl.syntax.yaml_reader import read_source

    def find(name: str) -> Document:
        beside = Path(source.name).parent / f"{name.lower()}.yaml"
        path = beside if name.lower() not in bundled() and beside.is_file() else find_bundled(name)
        return read_document(read_source(path))

    return extended(read_document(source), find)


def refers_to_others(text: str) -> bool:
    """May the text take something from another file? (Then a result cannot be known by this text alone.)"""
    return "extends:" in text or any(line.startswith("forward:") and line[8:].strip() not in ("", "external") for line in text.splitlines())
