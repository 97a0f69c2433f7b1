"""Equal findings of many layers and experts as one: ``model.layers.{0..60}.mlp.down_proj``.

Between the checks of a checkpoint and the command line.

Invariants: nothing is lost: every place of a finding is in its text or counted; the order does not depend on how places are grouped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Union

from layoutdsl.diagnostics import Diagnostic

SHOWN = 12
"""Groups of places that are written out; further ones are counted."""
_SEVERITIES = ("error", "warning", "note")
Numbers = tuple[int, ...]
Words = tuple[str, ...]
Template = tuple[Union[str, None], ...]
"""The words of a place, None for a number."""


def fold(findings: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Findings of one message, about tensors or layers of one name, as one, with the notes of the first; errors first, else in the order given."""
    groups: dict[object, tuple[Diagnostic, dict[Template, dict[Numbers, None]]]] = {}
    for finding in findings:
        words = finding.where.split(".")
        numbers = tuple(int(word) for word in words if _is_number(word))
        template = tuple(None if _is_number(word) else word for word in words)
        place = None if finding.span is None else (finding.span.source.name, finding.span.start)
        key = (finding.code, finding.severity, finding.message, finding.helps, template[-1], place)
        groups.setdefault(key, (finding, {}))[1].setdefault(template, {})[numbers] = None
    folded = [_folded(first, templates) for first, templates in groups.values()]
    return sorted(folded, key=lambda finding: _SEVERITIES.index(finding.severity))


def _is_number(word: str) -> bool:
    # Only numbers that are written back as they stand.
    return word.isascii() and word.isdigit() and len(word) < 10 and str(int(word)) == word


def _folded(first: Diagnostic, templates: dict[Template, dict[Numbers, None]]) -> Diagnostic:
    count = sum(map(len, templates.values()))
    if count == 1:
        return first
    places = [_worded(template, box) for template, numbers in templates.items() for box in _boxes(list(numbers))]
    left = len(places) - SHOWN
    more = (f"{left} more groups of places are not shown",) if left > 0 else ()
    return replace(first, where=_together(places[:SHOWN]), notes=(*first.notes, *more, f"{count} places in all"))


def _together(places: list[Words]) -> str:
    """``a.{b,c}.d`` of places with a common beginning and end."""
    if len(places) == 1:
        return ".".join(places[0])
    shortest = min(map(len, places)) - 1
    head = _common(places, shortest)
    tail = _common([place[::-1] for place in places], shortest - head)
    middles = [".".join(place[head : len(place) - tail]) for place in places]
    return ".".join([*places[0][:head], "{" + ",".join(middles) + "}", *places[0][len(places[0]) - tail :]])


def _common(places: list[Words], most: int) -> int:
    """How many first words are the same."""
    return next((at for at in range(most) if len({place[at] for place in places}) > 1), most)


Box = tuple[tuple[int, ...], ...]
"""Per number the values that it takes: all combinations are meant."""


def _boxes(places: list[Numbers]) -> list[Box]:
    """Few boxes that hold these places and no other."""
    if not places[0]:
        return [()]
    rests: dict[int, list[Numbers]] = {}
    for first, *rest in places:
        rests.setdefault(first, []).append(tuple(rest))
    alike: dict[frozenset[Numbers], list[int]] = {}
    for first, found in rests.items():
        alike.setdefault(frozenset(found), []).append(first)
    return [(tuple(sorted(firsts)), *box) for firsts in alike.values() for box in _boxes(rests[firsts[0]])]


def _worded(template: Template, box: Box) -> Words:
    values = iter(box)
    return tuple(_range_text(next(values)) if word is None else word for word in template)


def _range_text(values: tuple[int, ...]) -> str:
    """``7``, ``{0..60}``, ``{0,3..5}``."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    texts = [str(low) if low == high else f"{low}..{high}" if high > low + 1 else f"{low},{high}" for low, high in runs]
    return texts[0] if len(values) == 1 else "{" + ",".join(texts) + "}"
