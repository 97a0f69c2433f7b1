"""The document: a spec file as data, every leaf parsed, every node with its span.

Made by ``layoutdsl.syntax.reader``; the input of ``layoutdsl.compiler``.

Invariants: the skeleton satisfies ``layoutdsl.syntax.schema``; texts are parsed but mean nothing yet; case maps and templates are still folded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar, Union

from layoutdsl.diagnostics import Source, Span
from layoutdsl.syntax.tree import Expr, Pipeline, Rule, Target, TypeText

T = TypeVar("T")
RANGES = ("positive", "power_of_two")
"""What a spec may promise of the values of a parameter; a power of two is positive."""


@dataclass(frozen=True, slots=True)
class Text:
    """A word or a sentence with its place."""

    value: str
    span: Span


@dataclass(frozen=True, slots=True)
class Literal:
    """A scalar value (int, float, bool, str, or None for ``none``) with its place."""

    value: int | float | bool | str | None
    span: Span


@dataclass(frozen=True, slots=True)
class Arm(Generic[T]):
    """One entry of a case map: a boolean expression over case names, and what holds then; ``condition`` is None for ``otherwise``."""

    condition: Expr | None
    value: T
    span: Span


@dataclass(frozen=True, slots=True)
class CaseMap(Generic[T]):
    """Alternatives of which at most one may hold; ``otherwise`` holds where no other does."""

    arms: tuple[Arm[T], ...]
    span: Span


Cased = Union[T, CaseMap[T]]


@dataclass(frozen=True, slots=True)
class ConfigDecl:
    """One entry of ``config``. ``none``: values that mean "absent". ``source``: the text after ``from:``."""

    name: Text
    type: Text
    default: Cased[Literal] | None
    values: tuple[Literal, ...] | None
    none: tuple[Literal, ...]
    source: Text | None
    span: Span


@dataclass(frozen=True, slots=True)
class AxisDecl:
    """One entry of ``axes``: a letter and its extent. free: the extent is a size of its own, which the tensors tell; ``extent`` is then what it is taken for
    until they do, None if nothing is."""

    name: Text
    extent: Cased[Expr] | None
    free: bool
    span: Span


@dataclass(frozen=True, slots=True)
class EachDecl:
    """One entry of ``each``: a template letter and its members."""

    name: Text
    members: tuple[Text, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class LetDecl:
    name: Text
    value: Cased[Expr]
    span: Span


@dataclass(frozen=True, slots=True)
class SegmentDecl:
    """``w13.n: [gate, up]``: names of the equal parts of an axis, in order; ``n: {q: Q, k: L, v: L}``: with their sizes."""

    axis: Text
    names: tuple[Text, ...]
    sizes: tuple[Expr, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class FacetCase:
    """One case of a facet; ``condition`` is None for ``otherwise``."""

    name: Text
    condition: Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class Facet:
    name: Text
    cases: tuple[FacetCase, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class ParamDecl:
    """One parameter of the layer as the checkpoint stores it.

    ``given`` None means: wherever its type exists. ``range`` is one of ``RANGES``; ``shard`` is ``none``; ``disk`` the dtype in the checkpoint file.
    """

    name: Text
    type: Cased[TypeText]
    given: Cased[Expr] | None
    init: Literal | None
    range: Text | None
    shard: Text | None
    disk: Text | None
    span: Span


@dataclass(frozen=True, slots=True)
class ValueDecl:
    target: Target
    body: Cased[Expr]
    span: Span


@dataclass(frozen=True, slots=True)
class NoValue:
    """``value: none`` or ``value: opaque``, with the reason when one is given (``value: {none: because}``)."""

    kind: str
    because: Text | None
    span: Span


@dataclass(frozen=True, slots=True)
class Step:
    """One step: a pipeline (target without brackets) or index math (target with brackets)."""

    target: Target
    body: Cased[Pipeline] | Cased[Expr]
    when: Expr | None
    kind: Cased[Text] | None
    why: Text | None
    accept: tuple[Text, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Delete:
    """``delete: a, b``."""

    names: tuple[Target, ...]
    when: Expr | None
    why: Text | None
    span: Span


@dataclass(frozen=True, slots=True)
class StepBlock:
    """``when: cond`` with ``do: [steps]``, one level deep."""

    when: Expr
    steps: tuple[Step | Delete, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class ForwardLine:
    """``targets: expr``; ``targets`` is empty for ``return``."""

    targets: tuple[Target, ...]
    body: Cased[Expr]
    when: Expr | None
    accept: tuple[Text, ...]
    why: Text | None
    span: Span


@dataclass(frozen=True, slots=True)
class ForwardBlock:
    when: Expr
    lines: tuple[ForwardLine, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class ForwardWord:
    """``forward: external`` or ``forward: SCHEME.layer``."""

    word: Text
    span: Span


@dataclass(frozen=True, slots=True)
class Document:
    """A spec file. Tuples keep the order of the file; absent sections are empty."""

    source: Source
    version: int
    scheme: Text
    layer: Text
    title: Text
    sources: tuple[Text, ...]
    holds: tuple[tuple[Text, tuple[Text, ...]], ...]
    extends: Text | None
    config: tuple[ConfigDecl, ...]
    variants: tuple[Facet, ...]
    each: tuple[EachDecl, ...]
    axes: tuple[AxisDecl, ...]
    segments: tuple[SegmentDecl, ...]
    let: tuple[LetDecl, ...]
    require: tuple[Rule, ...]
    params: tuple[ParamDecl, ...]
    value: tuple[ValueDecl, ...] | NoValue
    invariants: tuple[Rule, ...]
    steps: tuple[Step | Delete | StepBlock, ...]
    forward: tuple[ForwardLine | ForwardBlock, ...] | ForwardWord
    span: Span

    @property
    def held(self) -> dict[str, tuple[str, ...]]:
        """``holds`` as plain words: ``consumer``, ``device`` and, where the spec has it, ``added``."""
        return {name.value: tuple(text.value for text in texts) for name, texts in self.holds}

    @property
    def from_model(self) -> dict[str, str]:
        """Names of config that the model's ``config.json`` gives, and the key there."""
        given = {one.name.value: one.source.value.partition(".") for one in self.config if one.source is not None}
        return {name: key for name, (file, _, key) in given.items() if file == "hf_config"}
