"""JSON from strangers: an object, or findings.

Below ``headers`` and ``folder``, which look into the object.

Invariants: never a traceback; what is returned is at most ``DEEPEST`` levels deep, so that recursive readers are safe; of a key that stands twice the last
value counts, as for Python's reader.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from layoutdsl.checkpoint.regular_file import opened
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Severity

DEEPEST = 64
LARGEST = 256 << 20
"""Bytes. A description of 820 000 tensors has about 80 MB."""

Parsed = tuple["dict[str, Any] | None", "list[Diagnostic]"]


def read_object(path: Path) -> Parsed:
    """The object that a JSON file holds, None if there is none; and what is wrong with it."""
    try:
        with opened(path) as (file, size):
            if size > LARGEST:
                return None, [too_large(path.name, size)]
            text = file.read(LARGEST + 1)
    except DiagnosticError as error:
        return None, list(error.diagnostics)
    return parse_object(text, path.name)


def too_large(where: str, size: int) -> Diagnostic:
    notes = (f"it has {size} bytes; at most {LARGEST} are read",)
    return Diagnostic(code="json-too-large", message="this JSON file is larger than any that a checkpoint needs", where=where, notes=notes)


def parse_object(text: bytes, where: str, subject: str = "this file", strict: bool = False) -> Parsed:
    """subject: what the text is, for messages. strict: a repeated key or a NaN is an error, though Python's reader takes it."""
    repeated: dict[str, bool] = {}
    constants: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            _note_repeated(pairs, found, repeated)
        return found

    def constant(name: str) -> float:
        constants.append(name)
        return float(name)

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=collect, parse_constant=constant)
    except UnicodeDecodeError as error:
        return None, [_syntax(where, f"{subject} is not UTF-8 text: byte {error.start} cannot be read")]
    except json.JSONDecodeError as error:
        return None, [_syntax(where, f"{subject} is not JSON: {_lower(error.msg)}, at line {error.lineno}, column {error.colno}")]
    except RecursionError:
        return None, [_too_deep(where, subject)]
    except ValueError as error:  # a number of thousands of digits
        return None, [_syntax(where, f"{subject} is not JSON: {_lower(str(error))}")]
    if not isinstance(value, dict):
        message = f"{subject} holds {_kind(value)}, and must hold a JSON object"
        return None, [Diagnostic(code="json-not-an-object", message=message, where=where, helps=("write `{...}`",))]
    if _deeper_than(value, DEEPEST):
        return None, [_too_deep(where, subject)]
    return value, [*_about_repeated(repeated, where, subject, strict), *_about_constants(constants, where, subject, strict)]


def _note_repeated(pairs: list[tuple[str, Any]], last: dict[str, Any], repeated: dict[str, bool]) -> None:
    """Keys that stand more than once, and whether with different values."""
    seen: set[str] = set()
    for key, value in pairs:
        differs = value is not last[key] and value != last[key]
        if key in seen or differs:
            repeated[key] = repeated.get(key, False) or differs
        seen.add(key)


def _about_repeated(repeated: dict[str, bool], where: str, subject: str, strict: bool) -> list[Diagnostic]:
    if not repeated:
        return []
    differ = [key for key, different in repeated.items() if different]
    severity: Severity = "error" if strict or differ else "warning"
    names = differ or list(repeated)
    notes = ("their values differ; readers take the last",) if differ else ("their values are equal",)
    message = f"{subject} has the key {some(names)} twice" if len(names) == 1 else f"{subject} has {len(names)} keys twice: {some(names)}"
    return [Diagnostic(code="json-duplicate", message=message, severity=severity, where=where, notes=notes, helps=("keep one of each",))]


def _about_constants(constants: list[str], where: str, subject: str, strict: bool) -> list[Diagnostic]:
    if not constants:
        return []
    message = f"{subject} holds {some(sorted(set(constants)))}, which JSON does not have"
    notes = () if strict else ("Python's reader takes it; others do not",)
    return [Diagnostic(code="json-constant", message=message, severity="error" if strict else "warning", where=where, notes=notes)]


def _syntax(where: str, message: str) -> Diagnostic:
    return Diagnostic(code="json-syntax", message=message, where=where, helps=("fetch or write the file again; an interrupted copy is cut at any byte",))


def _too_deep(where: str, subject: str) -> Diagnostic:
    return Diagnostic(code="json-too-deep", message=f"{subject} is nested more than {DEEPEST} levels deep", where=where)


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer) if isinstance(inner, (dict, list))]
        if not level:
            return False
    return True


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number", type(None): "null"}
    return kinds[type(value)]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def some(names: list[str], most: int = 3) -> str:
    """The first few of many names, for a message."""
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
