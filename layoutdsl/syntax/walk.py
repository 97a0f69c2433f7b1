"""Walking a document, a section or an expression: every node below, depth first, without recursion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any


def nodes(root: Any) -> Iterator[Any]:
    """Every dataclass node below a document, a section or an expression."""
    pending = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, tuple):
            pending.extend(reversed(node))
        elif names := _children(type(node)):
            yield node
            pending.extend([getattr(node, name) for name in names])


def nodes_with_parents(root: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The same nodes, each with its parents, outermost first."""
    pending: list[tuple[Any, tuple[Any, ...]]] = [(root, ())]
    while pending:
        node, parents = pending.pop()
        if isinstance(node, tuple):
            pending.extend([(item, parents) for item in reversed(node)])
        elif names := _children(type(node)):
            yield node, parents
            below = (*parents, node)
            pending.extend([(getattr(node, name), below) for name in names])


_CHILDREN: dict[type, tuple[str, ...]] = {}


def _children(kind: type) -> tuple[str, ...]:
    """The fields of a node that may hold nodes, last first; none for what is not a node of the tree."""
    found = _CHILDREN.get(kind)
    if found is None:
        skipped = ("span", "name_span", "op_span", "storage_span")
        node = is_dataclass(kind) and kind.__name__ not in ("Source", "Text", "Span")
        found = _CHILDREN[kind] = tuple(f.name for f in reversed(fields(kind)) if f.name not in skipped) if node else ()
    return found
