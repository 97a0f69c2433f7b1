"""Schemas of kernels: argument names, types and defaults as torch registers them.

Read by ``layoutdsl.compiler`` to check calls, by ``layoutdsl.runtime`` to make them. ``schemas.json`` is what torch_npu's wheel registers, written by
``tools/dump_schemas.py``; ops of a consumer's own library state theirs in the contract.

Invariant: of an op's overloads the one without a name counts, else the first.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("schemas.json")


@dataclass(frozen=True, slots=True)
class SchemaParameter:
    """One argument. type: torch's word without the mark of optional (``Tensor``, ``Tensor[]``, ``int``, ``int[]``, ``bool``, ``float``, ``str``, ...).

    default: the text of the schema, ``None`` where the argument is required.
    """

    name: str
    type: str
    optional: bool
    default: str | None
    keyword_only: bool

    @property
    def tensors(self) -> bool:
        """Does it take a tensor or a list of tensors?"""
        return self.type.startswith("Tensor")

    @property
    def default_value(self) -> Any:
        """The default as a Python value; None for none and for a required argument."""
        if self.default is None or self.default == "None":
            return None
        if self.default in ("True", "False"):
            return self.default == "True"
        try:
            return int(self.default)
        except ValueError:
            pass
        try:
            return float(self.default)
        except ValueError:
            return self.default.strip("\"'")


@dataclass(frozen=True, slots=True)
class Schema:
    """op: ``namespace::name``. returns: torch's words, one per result."""

    op: str
    parameters: tuple[SchemaParameter, ...]
    returns: tuple[str, ...]

    def parameter(self, name: str) -> SchemaParameter | None:
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


@cache
def _file() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return data


def wheel() -> str:
    """What the file was dumped from: ``torch_npu 2.13.0``."""
    return f"{_file()['package']} {_file()['version']}"


@cache
def schema_text(op: str) -> str | None:
    """The schema of an op of the wheel; None for one that it does not have."""
    schemas: dict[str, str] = _file()["schemas"]
    found = schemas.get(op)
    return found if found is not None else next((text for name, text in schemas.items() if name.startswith(f"{op}.")), None)


@cache
def parse_schema(text: str) -> Schema:
    """A schema as torch prints it. Raises ValueError for any other text."""
    match = re.fullmatch(r"([\w:]+)(?:\.\w+)?\((.*)\) -> (.*)", text)
    if match is None:
        raise ValueError(f"{text!r} is not the schema of an op")
    op, arguments, returns = match.groups()
    parameters, keyword_only = [], False
    for part in _split(arguments):
        if part == "*":
            keyword_only = True
            continue
        parameters.append(_parameter(part, keyword_only))
    results = _split(returns[1:-1] if returns.startswith("(") else returns)
    return Schema(op, tuple(parameters), tuple(result.partition(" ")[0] for result in results))


def _parameter(text: str, keyword_only: bool) -> SchemaParameter:
    declaration, _, default = text.partition("=")
    kind, name = declaration.rsplit(" ", 1)
    # `Tensor(a!)` is written to, `int[2]` has a length; neither matters to a caller.
    kind = re.sub(r"\[\d+\]", "[]", re.sub(r"\([^)]*\)", "", kind))
    return SchemaParameter(name, kind.removesuffix("?"), kind.endswith("?"), default or None, keyword_only)


def _split(text: str) -> list[str]:
    """The parts between commas that no bracket encloses."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [part for part in (*parts, text[start:].strip()) if part]
