"""Every configuration of a spec, what is said in each of them, and where a thing that is said holds, in few words.

Between the compiler, which enumerates worlds, and ``tools.scheme_pages``, which writes what is said as Markdown.

Invariants: every reachable configuration is one :class:`Case`; a text names all values for which it holds, also those that the proofs try by another value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from layoutdsl.cli.describe import World, box_text, boxes
from layoutdsl.cli.pipeline import value_text
from layoutdsl.cli.sheet import Sheet
from layoutdsl.compiler.config import ConfigValue, settings_of
from layoutdsl.compiler.driver import elaborate_one, worlds
from layoutdsl.compiler.liveness import check_liveness
from layoutdsl.compiler.scope import SYMBOLIC
from layoutdsl.compiler.worlds import classes_of
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.syntax.document import Document
from layoutdsl.syntax.tree import ElementText, Name
from layoutdsl.syntax.walk import nodes

HELD = ("consumer", "device")
OTHER = "(any other)"
ALWAYS = "always"

Cells = tuple[str, ...]
"""A row of a table: what is said of one thing, its name first."""
Classes = Mapping[str, Mapping[ConfigValue, tuple[ConfigValue, ...]]]
"""By name of the config the values that are tried, each with all for which it stands."""
Unite = Callable[[str, str], "str | None"]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A reachable configuration. decided: what tells it from the others, as text; the facets' cases and, besides, the config that is asked for itself."""

    sheet: Sheet
    decided: World
    classes: Classes

    def may_be(self, name: str, value: str) -> bool:
        """Is this a configuration of that consumer or device?"""
        tried = self.sheet.state.world.config.get(name)
        return name not in self.decided or value in self.classes[name].get(tried, (tried,))


def cases_of(document: Document) -> list[Case]:
    """Every reachable configuration, in the order of the worlds. Raises DiagnosticError for a spec with an error."""
    mentioned, named = _mentioned(document), _mentioned((document.params, document.steps, document.axes, document.let, *_ends(document)))
    settings = settings_of(document)
    shown = [name for name in settings if name in named or (name in HELD and name in mentioned)]
    classes = {name: {alike[0]: alike for alike in classes_of(document, settings, name)} for name in {*shown, "params_dtype"}}
    asked = [name for name in HELD if name in shown]
    return [case for values in product(*(classes[name] for name in asked)) for case in _with(document, dict(zip(asked, values)), shown, classes)]


def _ends(document: Document) -> tuple[Any, ...]:
    return document.value, document.invariants, document.forward


def _mentioned(sections: Any) -> set[str]:
    return {node.id if isinstance(node, Name) else node.name for node in nodes(sections) if isinstance(node, (Name, ElementText))}


def _with(document: Document, given: Mapping[str, Any], shown: Sequence[str], classes: Classes) -> Iterator[Case]:
    try:
        compiled = list(worlds(document, given))
    except DiagnosticError as error:
        if any(finding.code != "require-excludes-all" for finding in error.diagnostics):
            raise
        return
    for world in compiled:
        sheet = Sheet(world)
        sheet.refuse_problems()
        check_liveness(sheet.state)  # marks what it needs of `accept`
        config = sheet.state.world.config = {**sheet.state.world.config, **given}
        values = {name: _text(config[name], classes[name]) for name in dict.fromkeys(("params_dtype", *shown)) if name in config}
        held = {name: values.pop(name) for name in HELD if name in given}
        yield Case(sheet, {**values, **dict(sheet.cases()), **held}, classes)


def _text(tried: Any, classes: Mapping[ConfigValue, tuple[ConfigValue, ...]]) -> str:
    return " or ".join("any other" if value is SYMBOLIC or value == OTHER else word(value) for value in classes.get(tried, (tried,)))


def word(value: Any) -> str:
    """A value without quotes."""
    return value if isinstance(value, str) and value else value_text(value)


def when(group: Sequence[Case], every: Sequence[Case]) -> str:
    """Where something holds."""
    decided = [case.decided for case in every]
    texts = [box_text(box, decided) for box in boxes([case.decided for case in group], decided)]
    return " *or* ".join(texts) if all(texts) else ALWAYS


# ---- what is said, and where -----------------------------------------------------------------------------------------------------------------------------


def spread(cases: Sequence[Case], rows_of: Callable[[Sheet], Iterable[Cells]]) -> dict[Cells, list[Case]]:
    """Every row with the cases in which it is said. What differs by the dtype of the model only is one row, and so is what is or is not cast to FRACTAL_NZ."""
    rows = {id(case): list(dict.fromkeys(rows_of(case.sheet))) for case in cases}
    _unify(cases, rows, ("params_dtype", "bfloat16"), _of_both_dtypes)
    _unify(cases, rows, ("weight_nz_mode", "0"), _cast_or_not)
    found: dict[Cells, list[Case]] = {}
    for case in sorted(cases, key=lambda case: -len(rows[id(case)])):  # the longest list has the others' order
        for row in dict.fromkeys(rows[id(case)]):
            found.setdefault(row, []).append(case)
    return found


def grouped(found: Mapping[Cells, Sequence[Case]], every: Sequence[Case]) -> list[Cells]:
    """Rows with the place where they hold as the last cell; rows of one name stand together."""
    names = list(dict.fromkeys(row[0] for row in found))
    return [(*row, when(group, every)) for name in names for row, group in found.items() if row[0] == name]


def _unify(cases: Sequence[Case], rows: dict[int, list[Cells]], first: tuple[str, str], unite: Unite) -> None:
    """Make one row of those that differ as ``unite`` says in cases that differ in one name only, of which the first has this value.

    What such a row replaces, it also replaces where there is one value only: where float16 is all that a device takes, it is still the dtype of the model.
    """
    name, value = first
    families: dict[tuple[tuple[str, str], ...], list[Case]] = {}
    for case in cases:
        families.setdefault(tuple((key, text) for key, text in case.decided.items() if key != name), []).append(case)
    sides: dict[tuple[str | None, Cells], Cells] = {}
    for family in families.values():
        if len(family) == 1 or family[0].decided.get(name) != value:
            continue
        for row in list(rows[id(family[0])]):
            for case, old, new in _one_for_all(row, family, rows, unite):
                sides[case.decided.get(name), old] = new
                rows[id(case)] = [new if known == old else known for known in rows[id(case)]]
    for (case,) in (family for family in families.values() if len(family) == 1):
        rows[id(case)] = [sides.get((case.decided.get(name), row), row) for row in rows[id(case)]]


def _one_for_all(row: Cells, family: Sequence[Case], rows: Mapping[int, Sequence[Cells]], unite: Unite) -> list[tuple[Case, Cells, Cells]]:
    """For every case of a family the row that goes and the one that comes; nothing where one of them says something else."""
    first, *others = family
    found = [next(((other, united) for other in rows[id(case)] if (united := _united(row, other, unite))), None) for case in others]
    pairs = [pair for pair in found if pair is not None]
    if len(pairs) < len(others) or len({united for _, united in pairs}) > 1:
        return []
    united = pairs[0][1]
    return [(first, row, united), *((case, other, united) for case, (other, _) in zip(others, pairs))]


def _united(row: Cells, other: Cells, unite: Unite) -> Cells | None:
    if row == other:
        return row
    texts = [text if text == also else unite(text, also) for text, also in zip(row, other)]
    return tuple(text for text in texts if text is not None) if len(row) == len(other) and None not in texts else None


@cache
def _of_both_dtypes(text: str, other: str) -> str | None:
    """One text of a bfloat16 and a float16 model, where they differ in nothing else."""
    words, others = (re.split(r"\b(b?float16)\b", side) for side in (text, other))
    pairs = list(zip(words, others))
    if len(words) != len(others) or any(word != also and (word, also) != ("bfloat16", "float16") for word, also in pairs):
        return None
    return "".join(word if word == also else "params_dtype" for word, also in pairs)


@cache
def _cast_or_not(text: str, other: str) -> str | None:
    """One type of a tensor that is cast to FRACTAL_NZ (``other``) or, where ``weight_nz_mode`` is 0, left as it lies (``text``)."""
    plain = re.sub(r" over nz(\(\d+\))?\[[^\]]*\]", "", other)
    return f"{other} when weight_nz_mode != 0" if plain == text else None


# ---- defaults --------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Default:
    """What a consumer gets on a device if the config says nothing else. case: None where it is refused, for a reason. cased: its cases, and what was set."""

    pair: World
    cased: World
    case: Case | None
    reason: str = ""


def defaults_of(document: Document, cases: Sequence[Case]) -> list[Default]:
    """The default configuration of every consumer and device that the spec holds for; with float16 where bfloat16 is refused. Raises DiagnosticError."""
    return [_default(document, dict(zip(HELD, pair)), cases) for pair in product(*(document.held[name] for name in HELD))]


def _default(document: Document, pair: World, cases: Sequence[Case]) -> Default:
    reason = ""
    choices: tuple[World, ...] = ({}, {"params_dtype": "float16"})
    for chosen in choices:
        try:
            sheet = Sheet(elaborate_one(document, {**pair, **chosen}))
        except DiagnosticError as error:
            reason = reason or error.diagnostics[0].message
            continue
        sheet.refuse_problems()
        return Default(pair, {**chosen, **dict(sheet.cases())}, next(case for case in cases if _is(case, sheet)))
    return Default(pair, {}, None, reason)


def _is(case: Case, default: Sheet) -> bool:
    """Is this the configuration that the default belongs to?"""
    if dict(case.sheet.cases()) != dict(default.cases()):
        return False
    tried, config = case.sheet.state.world.config, default.state.world.config
    return all(_stands_for(tried[name], config.get(name), case.classes[name]) for name in case.decided if name in case.classes)


def _stands_for(tried: Any, value: Any, classes: Mapping[ConfigValue, tuple[ConfigValue, ...]]) -> bool:
    """Does a value that the proofs try stand for this one?"""
    listed = any(value in alike for alike in classes.values())
    return value in classes.get(tried, (tried,)) if listed else tried is SYMBOLIC or tried in (OTHER, value)
