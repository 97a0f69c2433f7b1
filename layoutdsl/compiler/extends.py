"""``extends: SCHEME.layer`` and ``forward: SCHEME.layer``: one document from two, before any name gets a meaning.

The child's entries come after the parent's; an entry of the same name replaces the parent's; steps and requirements are appended; ``value`` and ``forward``
are the child's where it has them. Spans keep pointing into the file they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from layoutdsl.compiler.evaluate import fail
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.syntax.document import Document, ForwardWord, Text

Find = Callable[[str], Document]
MAX_DEPTH = 8


def extended(document: Document, find: Find, depth: int = 0) -> Document:
    """The document with everything it takes from others. find: the document of ``SCHEME.layer``; raises DiagnosticError if there is none."""
    if depth > MAX_DEPTH:
        fail(
            "extends-cycle",
            document.span,
            f"more than {MAX_DEPTH} specs refer to each other",
            helps=("let each spec take from one that does not take from it",),
        )
    if isinstance(document.forward, ForwardWord) and document.forward.word.value != "external":
        if "." not in document.forward.word.value:
            word = document.forward.word
            fail(
                "forward-unknown",
                word.span,
                f"`{word.value}` is not a forward",
                helps=("write `external`, a list of calls, or `SCHEME.layer` to take another's",),
            )
        document = replace(document, forward=extended(_found(document.forward.word, find), find, depth + 1).forward)
    if document.extends is None:
        return document
    return _merged(extended(_found(document.extends, find), find, depth + 1), document)


def _found(name: Text, find: Find) -> Document:
    try:
        return find(name.value)
    except DiagnosticError as error:
        first = error.diagnostics[0]
        if first.span is not None:
            raise
        raise DiagnosticError(Diagnostic(code=first.code, message=first.message, span=name.span, notes=first.notes, helps=first.helps)) from None


def _merged(parent: Document, child: Document) -> Document:
    return replace(
        child,
        config=_by_name(parent.config, child.config),
        variants=_by_name(parent.variants, child.variants),
        each=_by_name(parent.each, child.each),
        axes=_by_name(parent.axes, child.axes),
        segments=_by_name(parent.segments, child.segments, "axis"),
        let=_by_name(parent.let, child.let),
        require=parent.require + child.require,
        params=_by_name(parent.params, child.params),
        value=child.value if child.value != () else parent.value,
        invariants=parent.invariants + child.invariants,
        steps=parent.steps + child.steps,
        forward=child.forward if child.forward != () else parent.forward,
        extends=None,
    )


def _by_name(parent: Sequence[Any], child: Sequence[Any], key: str = "name") -> tuple[Any, ...]:
    """The parent's entries with the child's of the same name in their place, then the child's new ones."""
    ours = {getattr(entry, key).value: entry for entry in child}
    kept = [ours.pop(getattr(entry, key).value, entry) for entry in parent]
    return (*kept, *ours.values())
