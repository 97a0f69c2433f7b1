"""From a path to a whole document: the text read, parsed, and joined with the spec that it extends."""

from __future__ import annotations

import re
from pathlib import Path

from layoutdsl.bundled import bundled, find_bundled
from layoutdsl.diagnostics import DiagnosticError, Source
from layoutdsl.syntax.document import Document

# A line at the margin that names another spec; any other line that begins with these words needs the parser.
_REFERENCE = re.compile(r"^(?:extends|forward):[ \t]*([A-Za-z0-9_]+\.[A-Za-z0-9_]+)[ \t]*$")
_PLAIN = re.compile(r"^forward:[ \t]*(?:external)?[ \t]*(?:#.*)?$")


def read_spec(source: Source) -> Document:
    """The document of a spec text. Raises: DiagnosticError with everything that is wrong with it."""
    from layoutdsl.compiler.extends import extended
    from layoutdsl.syntax.reader import read_document
    from layoutdsl.syntax.yaml_reader import read_source

    return extended(read_document(source), lambda name: read_document(read_source(_path_of(name, source))))


def sources_of(source: Source) -> tuple[Source, ...] | None:
    """The text and those of the specs that it takes something from, without parsing any; None where only the parser can tell."""
    from layoutdsl.syntax.yaml_reader import read_source

    found = {source.name: source}
    pending = [source]
    while pending:
        for line in pending.pop().text.splitlines():
            if not line.startswith(("extends:", "forward:")) or _PLAIN.match(line):
                continue
            reference = _REFERENCE.match(line)
            if reference is None:
                return None
            try:
                other = read_source(_path_of(reference[1], source))
            except DiagnosticError:
                return None
            if other.name not in found:
                found[other.name] = other
                pending.append(other)
    return tuple(found.values())


def _path_of(name: str, source: Source) -> Path:
    """The file of ``SCHEME.layer``: a bundled one, or the one beside the spec that asks. Raises: DiagnosticError (``spec-unknown``, ``layer-missing``)."""
    beside = Path(source.name).parent / f"{name.lower()}.yaml"
    return beside if name.lower() not in bundled() and beside.is_file() else find_bundled(name)
