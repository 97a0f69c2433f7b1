"""Walking a document, a section or an expression: every node below, depth first, without recursion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any


def nodes(root: Any) -> Iterator[Any]:
    """Every dataclass node below a document, a section or an expression."""
    return (node for node, _ in nodes_with_parents(root))


def nodes_with_parents(node: Any, parents: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Every dataclass node of a document with its parents, depth first."""
    pending = [(node, parents)]
    while pending:
        node, parents = pending.pop()
        if isinstance(node, tuple):
            pending += [(item, parents) for item in reversed(node)]
            continue
        names = _children(type(node))
        if not names:
            continue
        yield node, parents
        below = (*parents, node)
        pending += [(getattr(node, name), below) for name in reversed(names)]


_CHILDREN: dict[type, tuple[str, ...]] = {}


def _children(kind: type) -> tuple[str, ...]:
    """The fields of a node that may hold nodes; none for what is not a node of the tree."""
    found = _CHILDREN.get(kind)
    if found is None:
        skipped = ("span", "name_span", "op_span", "storage_span")
        node = is_dataclass(kind) and kind.__name__ not in ("Source", "Text", "Span")
        found = _CHILDREN[kind] = tuple(f.name for f in fields(kind) if f.name not in skipped) if node else ()
    return found
