"""``layoutdsl describe SPEC``: the tensors that a checkpoint must hold, for those who write one.

The table is normative: names in files, dtypes, shapes, packing, defaults, ranges, and what always holds between tensors. ``--format json`` has the same for
machines.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from operator import or_
from typing import Any

from layoutdsl.api import Plan
from layoutdsl.cli import output
from layoutdsl.cli.arguments import Parser, add_config, add_format, add_layer, add_sizes, config_of, config_texts, load, sizes_of
from layoutdsl.cli.sheet import Sheet, arm_text, one_line, storage_words
from layoutdsl.cli.stored import code_words, disk_dtypes, file_words, files_of, footer
from layoutdsl.compiler.driver import compile_document, elaborate_one, worlds
from layoutdsl.compiler.emit import test_expr
from layoutdsl.compiler.loaders import loader_attributes
from layoutdsl.compiler.require import conditions_of
from layoutdsl.compiler.scope import SYMBOLIC, Context
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.ir.program import Parameter
from layoutdsl.plan.sizes import SizeExpr, evaluate, layer_kind, names_in
from layoutdsl.syntax.document import Document, NoValue

World = Mapping[str, str]
"""What decides a world: facet or config name, and case or value."""
_ALWAYS = "always: "
_RANGES = {"": (), "positive": ("values > 0",), "power_of_two": ("values are powers of two, > 0",)}


def options(parser: Parser) -> None:
    parser.add_argument("spec", metavar="SPEC", help="an id (`W4A8_DYNAMIC.linear`) or a path")
    add_layer(parser)
    add_config(parser)
    add_sizes(parser, "to print numbers")
    add_format(parser)


def run(arguments: Namespace) -> int:
    texts, sizes = config_texts(arguments), sizes_of(arguments)
    spec = load(arguments.spec, arguments.layer)
    given = config_of(texts, spec)
    document = spec.document
    params_dtype = str(given.get("params_dtype") or _params_dtype(document))
    if given.keys() - {"params_dtype"}:
        given = {"params_dtype": params_dtype, **given} if "params_dtype" in spec.config_names else given
        sheets = [Sheet(elaborate_one(document, given), sizes)]
        sheets[0].refuse_problems()
        if sizes:
            Plan(compile_document(document, given)).bind(sizes)
    else:
        sheets = _all(document, params_dtype, sizes)
    tables = _tables(sheets)
    if arguments.format == "json":
        about = {"scheme": spec.scheme, "layer": spec.layer, "title": spec.title, "params_dtype": params_dtype if "params_dtype" in spec.config_names else None}
        output.write(json.dumps({**about, "tables": [_as_json(names, sheet) for names, sheet in tables]}, indent=2) + "\n")
        return 0
    lines = [f"{spec.scheme}, {spec.layer}: {spec.title}", *([f"with params_dtype = {params_dtype}"] if "params_dtype" in spec.config_names else []), ""]
    for i, (names, sheet) in enumerate(tables):
        lines += [*([] if i == 0 else [""]), *_heading(names, len(tables), decided=bool(given.keys() - {"params_dtype"})), *_table(sheet)]
    for text in footer(sheets[0]):
        lines += ["", *output.wrapped(text, "")]
    output.write("\n".join(output.escape(line) for line in lines) + "\n")
    return 0


def _params_dtype(document: Document) -> str:
    """bfloat16, unless the spec holds for float16 alone."""
    for dtype in ("bfloat16", "float16"):
        with suppress(DiagnosticError):
            next(iter(worlds(document, {"params_dtype": dtype})))
            return dtype
    return "bfloat16"


def _all(document: Document, params_dtype: str, sizes: Mapping[str, int]) -> list[Sheet]:
    """Every reachable world with this dtype. Raises DiagnosticError."""
    sheets = [Sheet(compiled, sizes) for compiled in worlds(document, {"params_dtype": params_dtype})]
    for sheet in sheets:
        sheet.refuse_problems()
    known = {symbol for sheet in sheets for context in sheet.contexts for extent in context.space.extents.values() for symbol in extent.symbols}
    known |= set(layer_kind(document.layer.value).sizes)
    _check_sizes(sizes, sorted(known))
    return _possible(sheets, sizes) if sizes else sheets


def _possible(sheets: Sequence[Sheet], sizes: Mapping[str, int]) -> list[Sheet]:
    """The worlds whose requirements these sizes meet, as far as they are known. Raises DiagnosticError where there is none."""
    broken = {id(sheet): [c for c in conditions_of(sheet.state.world, test_expr) if _fails(c.test, sizes)] for sheet in sheets}
    possible = [sheet for sheet in sheets if not broken[id(sheet)]]
    if possible:
        return possible
    texts = dict.fromkeys(condition.text for conditions in broken.values() for condition in conditions)
    where = f"{sheets[0].document.scheme.value}.{sheets[0].document.layer.value}"
    given = "here " + ", ".join(f"{name} = {value}" for name, value in sizes.items())
    problems = [
        Diagnostic(code="requirement-failed", message=f"the scheme needs {text}, which these sizes do not meet", where=where, notes=(given,)) for text in texts
    ]
    raise DiagnosticError(*problems)


def _fails(test: SizeExpr, sizes: Mapping[str, int]) -> bool:
    try:
        return names_in(test) <= sizes.keys() and not evaluate(test, sizes)
    except (ValueError, ZeroDivisionError):
        return True


def _check_sizes(sizes: Mapping[str, int], known: Sequence[str]) -> None:
    problems = []
    for name, value in sizes.items():
        if name not in known:
            close = get_close_matches(name, known, 1)
            helps = (f"a name like it is `{close[0]}`",) if close else (f"known: {', '.join(known)}",)
            problems.append(Diagnostic(code="size-unknown", message=f"`{name}` is not a size of this spec", where=name, helps=helps))
        elif value < 1:
            problems.append(Diagnostic(code="size-invalid", message=f"the size `{name}` is {value}, which is not a positive integer", where=name))
    if problems:
        raise DiagnosticError(*problems)


# ---- one table ---------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    cells: tuple[str, ...]
    notes: tuple[str, ...]


def _table(sheet: Sheet) -> list[str]:
    rows = parameter_rows(sheet)
    head, *blocks = output.blocks([("name", "dtype", "shape", "default", "loader attributes"), *(row.cells for row in rows)])
    lines = head
    for row, block in zip(rows, blocks):
        lines += [*block, *(part for note in row.notes for part in output.wrapped(note, "      "))]
    meant = meaning(sheet)
    lanes = [note for row in rows for note in row.notes if note.startswith(("element [", "in memory as ["))]
    known = sheet.axes(" ".join((*meant, *(row.cells[2] for row in rows), *lanes)), mentioned=True)
    lines += ["", *(part for line in known if line for part in output.wrapped(line, "  "))]
    return [*lines, *(["  meaning:"] if meant else []), *(part for line in meant for part in output.wrapped(line, "    "))]


def _as_json(names: list[str], sheet: Sheet) -> dict[str, Any]:
    """A table for machines. Extents are numbers where they are known, else texts; ``files`` are the tensors that a parameter is stacked from."""
    meant = meaning(sheet)
    return {
        "cases": [name for name in names if name],
        "parameters": [_parameter(sheet, name, parameter) for name, parameter in sheet.state.parameters.items()],
        "letters": {member: dict(letters) for member, letters in sheet.letters(" ".join(meant)).items()},
        "value": [line for line in meant if not line.startswith(_ALWAYS)],
        "invariants": [line.removeprefix(_ALWAYS) for line in meant if line.startswith(_ALWAYS)],
    }


def _parameter(sheet: Sheet, name: str, parameter: Parameter) -> dict[str, Any]:
    kind, row = parameter.value.type, _row(sheet, name, parameter)
    attributes = loader_attributes(parameter, sheet.document.layer.value, sheet.state)
    stored = [{"name": one.name, "shape": one.shape and [_number(text) for text in one.shape]} for one in files_of(sheet, name, kind)]
    return {
        "name": name,
        "dtype": kind.storage,
        "shape": [_number(sheet.extent(dim, sheet.space(kind))) for dim in kind.dims],
        "type": sheet.type(kind),
        "element": kind.element.name,
        "required": parameter.default is None,
        "default": parameter.default,
        "range": parameter.range or None,
        "sharded": parameter.sharded,
        "loader": dict(attributes),
        "file_dtype": disk_dtypes(sheet).get(name, kind.storage),
        "files": stored,
        "notes": list(row.notes),
    }


def _number(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def parameter_rows(sheet: Sheet) -> list[Row]:
    return [_row(sheet, name, parameter) for name, parameter in sheet.state.parameters.items()]


def _row(sheet: Sheet, name: str, parameter: Parameter) -> Row:
    kind = parameter.value.type
    default = parameter.default
    text = "required" if default is None else "may be absent" if default == "uninitialised" else f"may be absent: {default}"
    attributes = loader_attributes(parameter, sheet.document.layer.value, sheet.state)
    shown = ", ".join(f"{attribute} = {value}" for attribute, value in attributes) or "-"
    words = [*storage_words(sheet, kind), *code_words(kind), *_RANGES[parameter.range], *([] if parameter.sharded else ["every rank holds all of it"])]
    notes = [*words, *file_words(sheet, name, kind)]
    return Row((name, kind.storage, sheet.shape(kind), text, shown), tuple(notes))


def meaning(sheet: Sheet) -> list[str]:
    document = sheet.document
    if isinstance(document.value, NoValue):
        return [f"none ({one_line(document.value.because.span)})" if document.value.because is not None else document.value.kind]
    lines = []
    for declaration in document.value:
        for context in _contexts(sheet, declaration.target.name):
            body = arm_text(context, declaration.body)
            if body is not None:
                lines.append(f"{context.member.expand(one_line(declaration.target.span))} = {body}")
    for rule in document.invariants:
        held = [context for context in sheet.contexts if context.holds(rule.condition)]
        lines += [f"{_ALWAYS}{context.member.expand(one_line(rule.expr.span))}" for context in held]
    return list(dict.fromkeys(lines))


def _contexts(sheet: Sheet, name: str) -> list[Context]:
    return sheet.contexts if "<" in name else sheet.contexts[:1]


# ---- which tables there are --------------------------------------------------------------------------------------------------------------------------------


def _heading(names: list[str], tables: int, *, decided: bool) -> list[str]:
    if decided:
        return [f"case: {names[0]}"] if names[0] else []
    if tables == 1:
        return ["in every case:"]
    return [line for name in names for line in output.wrapped(f"case: {name}" if name else "in every case:", "")]


def _tables(sheets: Sequence[Sheet]) -> list[tuple[list[str], Sheet]]:
    """Equal tables once, each with the names of its cases."""
    if len(sheets) == 1:
        return [([", ".join(f"{facet}: {case}" for facet, case in sheets[0].cases())], sheets[0])]
    groups: dict[tuple[object, ...], list[Sheet]] = {}
    for sheet in sheets:
        groups.setdefault((tuple(parameter_rows(sheet)), tuple(meaning(sheet)), tuple(sheet.axes())), []).append(sheet)
    decided = {id(sheet): _decided(sheet, config=False) for sheet in sheets}
    if not _separate(groups.values(), decided):
        decided = {id(sheet): _decided(sheet, config=True) for sheet in sheets}
    every = list(decided.values())
    return [([box_text(box, every) for box in boxes([decided[id(sheet)] for sheet in group], every)], group[0]) for group in groups.values()]


def _decided(sheet: Sheet, *, config: bool) -> World:
    found = dict(sheet.cases())
    if config:
        found |= {name: "any" if value is SYMBOLIC else str(value) for name, value in sheet.state.world.config.items() if name != "params_dtype"}
    return found


def _separate(groups: Iterable[Sequence[Sheet]], decided: Mapping[int, World]) -> bool:
    seen: list[World] = []
    for group in groups:
        own = [decided[id(sheet)] for sheet in group]
        if any(world in seen for world in own):
            return False
        seen += own
    return True


Box = Mapping[str, tuple[str, ...]]
"""Per name the values that are meant: all worlds that agree with every name."""


def boxes(group: Sequence[World], every: Sequence[World]) -> list[Box]:
    """Few boxes that hold the group's worlds and no other reachable one."""
    names = list(dict.fromkeys(name for world in every for name in world))
    masks = {name: _masks(name, every) for name in names}
    target = sum(1 << i for i, world in enumerate(every) if world in group)
    found: dict[int, Box] = {}
    left = target
    while left:
        world = every[(left & -left).bit_length() - 1]
        made = [_widest(world, [*names[i:], *names[:i]], masks, target) for i in range(len(names) or 1)]
        held, box = max(made, key=lambda one: ((one[0] & left).bit_count(), -sum(len(values) for values in one[1].values())))
        found[held] = box
        left &= ~held
    return _trimmed(found, masks, target)


def _trimmed(found: Mapping[int, Box], masks: Mapping[str, Mapping[str, int]], target: int) -> list[Box]:
    """Boxes without the values, and without the boxes, of which the others hold all worlds."""
    kept = dict(enumerate(found))
    boxes = [dict(box) for box in found.values()]
    for i, box in enumerate(boxes):
        others = _union(held for j, held in kept.items() if j != i)
        if not target & ~others:
            del kept[i]
            continue
        for name, values in box.items():
            spare = [value for value in values if not kept[i] & masks[name][value] & ~others]
            box[name] = tuple(value for value in values if value not in spare)
            kept[i] &= ~_union(masks[name][value] for value in spare)
    return [boxes[i] for i in kept]


def _masks(name: str, every: Sequence[World]) -> dict[str, int]:
    """For every value of a name the worlds that have it, a bit each; the values in the order of the worlds."""
    masks: dict[str, int] = {}
    for i, world in enumerate(every):
        value = world.get(name, "any")
        masks[value] = masks.get(value, 0) | 1 << i
    return masks


def _widest(world: World, names: Sequence[str], masks: Mapping[str, Mapping[str, int]], target: int) -> tuple[int, Box]:
    """The worlds of a box around a world, and the box, which cannot be widened; of the names, the first is widened first. A name that may have any value is
    left out, and so are values that none of these worlds has."""
    box: dict[str, tuple[str, ...]] = {name: (world.get(name, "any"),) for name in names}
    for name in names:
        rest = _held({other: values for other, values in box.items() if other != name}, masks)
        wrong = {value for value, mask in masks[name].items() if rest & mask & ~target}
        if not wrong:
            del box[name]
        else:
            box[name] = tuple(value for value, mask in masks[name].items() if rest & mask and value not in wrong)
    held = _held(box, masks)
    return held & target, {name: tuple(value for value in box[name] if masks[name][value] & held) for name in masks if name in box}


def _held(box: Box, masks: Mapping[str, Mapping[str, int]]) -> int:
    """The worlds in a box, as bits; all bits for a box without names."""
    held = -1
    for name, values in box.items():
        held &= _union(masks[name][value] for value in values)
    return held


def _union(masks: Iterable[int]) -> int:
    return reduce(or_, masks, 0)


def box_text(box: Box, every: Sequence[World]) -> str:
    """``source: packed; split: row``; names that may have any value are left out."""
    parts = []
    for name, values in box.items():
        if {world[name] for world in every if name in world} - set(values):
            parts.append(f"{name}: {' or '.join(values)}")
    return "; ".join(parts)
