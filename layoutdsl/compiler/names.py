"""One namespace: every name of a spec means one thing, and none hides a word of the language."""

from __future__ import annotations

import re
from collections.abc import Iterator

from layoutdsl.compiler.config import SHARED
from layoutdsl.diagnostics import Diagnostic, Label, Span
from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.ir.size_functions import SIZE_FUNCTIONS
from layoutdsl.ops import OPS
from layoutdsl.ops.index_math import CONVERSIONS
from layoutdsl.plan.sizes import KIND_SIZES
from layoutdsl.syntax.document import Document, StepBlock
from layoutdsl.syntax.tree import ElementText, Name, Target
from layoutdsl.syntax.walk import nodes

WORDS = frozenset(
    [
        "in",
        "over",
        "pad",
        "to",
        "zext",
        "sext",
        "excess",
        "when",
        "if",
        "else",
        "and",
        "or",
        "not",
        "none",
        "true",
        "false",
        "otherwise",
        "sum",
        "view",
        "relayout",
        "is",
        "given",
        "last",
        "x",
        "bias",
        "delete",
    ]
) | set(SIZE_FUNCTIONS)
_AXIS = re.compile(r"[a-z][0-9]?")
_HOLE = re.compile(r"<(\w+)>")


def check_names(document: Document) -> list[Diagnostic]:
    """Clashes (both places named), reserved words, and axes that are not one letter."""
    problems: list[Diagnostic] = []
    seen: dict[str, tuple[str, Span]] = {}
    for kind, name, span in _declared(document):
        if kind == "axis" and not _AXIS.fullmatch(name):
            message = f"`{name}` is not an axis: one small letter, perhaps with a digit"
            problems.append(Diagnostic(code="axis-name", message=message, span=span))
            continue
        reserved = _reserved(name, kind)
        if reserved:
            problems.append(Diagnostic(code="name-reserved", message=f"`{name}` is {reserved}", span=span, helps=("take another name",)))
        elif name in seen:
            other, place = seen[name]
            label = Label(place, f"{other} of this name")
            problems.append(
                Diagnostic(
                    code="name-clash", message=f"`{name}` is declared twice: {other} and {kind}", span=span, labels=(label,), helps=("take another name",)
                )
            )
        else:
            seen[name] = (kind, span)
    return problems + check_segments(document) + check_holes(document) + list(_unreachable_cases(document))


def _unreachable_cases(document: Document) -> Iterator[Diagnostic]:
    """The first case that holds is the case, so ``otherwise`` comes last."""
    for facet in document.variants:
        for before, case in zip(facet.cases, facet.cases[1:]):
            if before.condition is None:
                message = f"`{case.name.value}` stands behind `otherwise`, so it is never the case"
                label = Label(before.span, "this holds always")
                yield Diagnostic(code="case-unreachable", message=message, span=case.name.span, labels=(label,), helps=("move the `otherwise` to the end",))


def check_holes(document: Document) -> list[Diagnostic]:
    """Every ``<p>`` in a name is a list of ``each``."""
    known = [each.name.value for each in document.each]
    places = [(param.name.value, param.name.span) for param in document.params]
    places += [(target.name, target.name_span) for target in nodes(document) if isinstance(target, Target)]
    problems = {}
    for name, span in places:
        for hole in _HOLE.findall(name):
            if hole not in known and hole not in problems:
                helps = (f"lists of `each`: {', '.join(known)}" if known else "declare it: `each: {p: [w13, w2]}`",)
                problems[hole] = Diagnostic(code="template-unknown", message=f"no list of `each` is called `{hole}`", span=span, helps=helps)
    return list(problems.values())


def check_segments(document: Document) -> list[Diagnostic]:
    """A segmented axis exists, and its parts have names of their own."""
    axes = {axis.name.value for axis in document.axes}
    members = {member.value for each in document.each for member in each.members}
    problems = []
    for segment in document.segments:
        member, _, axis = segment.axis.value.rpartition(".")
        if axis not in axes or (member and member not in members):
            problems.append(
                Diagnostic(code="not-an-axis", message=f"`{segment.axis.value}` is not an axis", span=segment.axis.span, helps=(f"axes: {', '.join(axes)}",))
            )
        names = [name.value for name in segment.names]
        if len(set(names)) != len(names):
            problems.append(Diagnostic(code="name-clash", message="two segments have one name", span=segment.span, helps=("take another name",)))
    return problems


def _reserved(name: str, kind: str) -> str:
    if name in WORDS or name in CONVERSIONS:
        return "a word of the language"
    if name in OPS:
        return "an op"
    if name in ELEMENTS:
        return "a dtype"
    if name in KIND_SIZES:
        return "a size"
    if name in SHARED and kind != "config":
        return "a name of the config"
    return ""


def _declared(document: Document) -> Iterator[tuple[str, str, Span]]:
    for config in document.config:
        yield "config", config.name.value, config.name.span
    for axis in document.axes:
        yield "axis", axis.name.value, axis.name.span
        yield "extent", axis.name.value.upper(), axis.name.span
    for let in document.let:
        yield "let", let.name.value, let.name.span
    for facet in document.variants:
        for case in facet.cases:
            yield "case", case.name.value, case.name.span
    # A word may stand in several lists of `each`, as long as it names the same member: `{p: [w13, w2], w: [w1, w2]}`.
    members = {(i, member.value): member.span for each in reversed(document.each) for i, member in enumerate(each.members)}
    for (_, name), span in members.items():
        yield "member", name, span
    for param in document.params:
        yield "parameter", param.name.value, param.name.span
    stored = {param.name.value for param in document.params}
    made: set[str] = set()
    for item in document.steps:
        for step in item.steps if isinstance(item, StepBlock) else (item,):
            target = getattr(step, "target", None)
            if target is not None and target.name not in stored and target.name not in made:
                made.add(target.name)
                yield "result", target.name, target.name_span


def config_names(document: Document) -> tuple[str, ...]:
    """The names of config that a spec reads: what it declares and the shared names it mentions, in the order of the shared table, its own last."""
    mentioned = {node.id for node in nodes(document) if isinstance(node, Name)}
    mentioned |= {node.name for node in nodes(document) if isinstance(node, ElementText)}
    mentioned |= {declared.name.value for declared in document.config} | {name.value for name, _ in document.holds if name.value in SHARED}
    own = tuple(declared.name.value for declared in document.config if declared.name.value not in SHARED)
    return tuple(name for name in SHARED if name in mentioned) + own
