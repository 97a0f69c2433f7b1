"""Write ``docs/schemes/``: a page for every bundled spec, and the index of them.

    python -m tools.scheme_pages          # write what is stale, remove what has no spec
    python -m tools.scheme_pages --check  # name what is stale, and write nothing

A page says in words and tables what a spec says in every configuration, for those who look for a fault at night and for the author of the next spec. All of it
comes from the spec through the compiler; nothing is kept by hand, and torch is not needed.

Invariants: equal specs give equal bytes (no dates, no paths of a machine, no line numbers); a spec with a finding has no page, and its finding is printed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from layoutdsl.api import Spec, load_spec
from layoutdsl.bundled import bundled
from layoutdsl.cli.describe import box_text, boxes, meaning, parameter_rows
from layoutdsl.cli.pipeline import folded, forward_texts, value_text
from layoutdsl.cli.sheet import Sheet, one_line
from layoutdsl.compiler.config import Setting, settings_of
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.diagnostics.render import render
from layoutdsl.diagnostics.rules import RULES
from layoutdsl.ir.layout import TensorType
from layoutdsl.ir.program import Compute, Constant, Opaque, Value, values_in
from layoutdsl.plan.forward import walk
from layoutdsl.plan.sizes import layer_kind, size_text
from layoutdsl.syntax.document import CaseMap, Document, ForwardLine, ForwardWord, Step
from layoutdsl.syntax.tree import Expr
from layoutdsl.syntax.walk import nodes
from tools.scheme_cases import ALWAYS, HELD, Case, Cells, Default, cases_of, defaults_of, grouped, spread, when

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "schemes"
INDEX = "README.md"
COMMAND = "python -m tools.scheme_pages"

# ---- Markdown --------------------------------------------------------------------------------------------------------------------------------------------


def code(text: str) -> str:
    return f"`{text}`" if text and text != "-" else text


def prose(text: str) -> str:
    """A sentence of a spec on one line; what Markdown would take for HTML is not, outside of code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def table(header: Sequence[str], rows: Sequence[Cells]) -> list[str]:
    """A table without the columns that are empty, and without ``when`` where all is always so."""
    if not rows:
        return []
    places = [i for i, title in enumerate(header) if any(row[i] not in ("", ALWAYS if title == "when" else "") for row in rows)]
    lines = [[header[i] for i in places], *([row[i].replace("|", "\\|") for i in places] for row in rows)]
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    return [head, "|---" * len(places) + "|", *body]


def section(title: str, *blocks: Sequence[str]) -> list[str]:
    """A heading and blocks with a blank line between them; nothing where there are no blocks."""
    full = [block for block in blocks if block]
    return [f"## {title}", *(line for block in full for line in ("", *block)), ""] if full else []


# ---- the page --------------------------------------------------------------------------------------------------------------------------------------------


def page(spec: Spec) -> str:
    """The page of one spec. Raises DiagnosticError for a spec with an error."""
    document, name = spec.document, f"{spec.scheme}.{spec.layer}"
    cases = cases_of(document)
    lines = [
        f"<!-- Made from specs/{name.lower()}.yaml by `make schemes`; what is changed here is lost. -->",
        "",
        f"# {spec.scheme}, {spec.layer}",
        "",
        f"{prose(spec.title)}.",
        "",
        *_facts(document, name, cases),
        "",
        *section("Faults reproduced on purpose", _faults(document, cases)),
        *section("Config", _config(spec), _facets(document)),
        *section("What the checkpoint holds", *_stored(cases)),
        *section("What the layer has afterwards", *_afterwards(document, cases)),
        *section("What the forward calls", *_forwards(cases)),
        *section("Requirements and conditions of use", *_conditions(document, cases)),
        *section("Tensor parallelism", *_parallel(document, cases)),
        *section("Remarks", _remarks(document)),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _facts(document: Document, name: str, cases: Sequence[Case]) -> list[str]:
    held = document.held
    kernels = sorted({expr[1] for case in cases for call in case.sheet.compiled.forward.calls or () for expr in walk(call.expr) if expr[0] == "call"})
    refused = _unreached(held, cases)
    return [
        f"- consumers: {', '.join(held['consumer'])}",
        f"- devices: {', '.join(held['device'])}",
        *([f"- not a scheme of theirs; the plugin adds it to: {', '.join(held['added'])}"] if "added" in held else []),
        *([f"- refused: {'; '.join(refused)}"] if refused else []),
        f"- kernels: {', '.join(map(code, kernels)) or 'called by the consumer'}",
        f"- spec: [specs/{name.lower()}.yaml](../../specs/{name.lower()}.yaml); `layoutdsl explain {name}` prints it step by step",
        "- notation: [types](../language.md#4-types), [config](../language.md#config), [cases](../language.md#variants)",
        *(["- sources:"] if document.sources else []),
        *(f"  - {prose(text.value)}" for text in document.sources),
    ]


def _unreached(held: Mapping[str, Sequence[str]], cases: Sequence[Case]) -> list[str]:
    """Pairs of consumer and device that ``require`` rules out."""
    pairs = product(*(held[name] for name in HELD))
    return [" with ".join(pair) for pair in pairs if not any(all(map(case.may_be, HELD, pair)) for case in cases)]


def _faults(document: Document, cases: Sequence[Case]) -> list[str]:
    """Every ``accept`` that is needed, with the consumers, the cases and the reason."""
    held = document.held
    found = spread(cases, lambda sheet: [(a.rule, ", ".join(map(code, a.names)), a.why) for a in sheet.accepted() if a.needed])
    lines = []
    for (rule, names, why), group in found.items():
        consumers = [name for name in held["consumer"] if any(case.may_be("consumer", name) for case in group)]
        where = when(group, cases)
        lines += [
            f"- **`{rule}`** ({prose(RULES[rule].title)}), at {names}, as {', '.join(consumers)} {'does' if len(consumers) == 1 else 'do'} it: {prose(why)}.",
            *([f"  Where: {where}."] if where != ALWAYS else []),
        ]
    return lines


# ---- config and cases ------------------------------------------------------------------------------------------------------------------------------------


def _config(spec: Spec) -> list[str]:
    settings = settings_of(spec.document)
    sources = {declared.name.value: one_line(declared.source.span) for declared in spec.document.config if declared.source is not None}
    rows = [(code(name), settings[name].type, _default(settings[name]), _values(settings[name]), code(sources.get(name, ""))) for name in spec.config_names]
    return table(("name", "type", "default", "values", "found in"), rows)


def _default(setting: Setting) -> str:
    if isinstance(setting.default, CaseMap):
        return "; ".join(f"{code(value_text(arm.value.value))} {_condition(arm.condition)}" for arm in setting.default.arms)
    if setting.default is None and not setting.optional:
        return "must be given"
    return code(value_text(setting.default))


def _condition(condition: Expr | None) -> str:
    return "otherwise" if condition is None else f"where {code(one_line(condition.span))}"


def _values(setting: Setting) -> str:
    if setting.values is not None:
        return ", ".join(code(value_text(value)) for value in setting.values)
    absent = f", or none; {', '.join(map(value_text, setting.none))} means none" if setting.none else ", or none" if setting.optional else ""
    return f"at least {setting.minimum}{absent}" if setting.type == "int" else f"any{absent}"


def _facets(document: Document) -> list[str]:
    rows = [
        (facet.name.value, case.name.value, code(one_line(case.condition.span)) if case.condition is not None else "otherwise")
        for facet in document.variants
        for case in facet.cases
    ]
    return table(("facet", "case", "where (the first that holds)"), rows)


# ---- stored ----------------------------------------------------------------------------------------------------------------------------------------------


def _stored(cases: Sequence[Case]) -> Iterator[list[str]]:
    rows = [
        (code(name), code(kind), code(shape), code(dtype), default, notes, where)
        for name, kind, shape, dtype, default, notes, where in grouped(spread(cases, _parameters), cases)
    ]
    yield table(("parameter", "type", "shape", "dtype", "default", "notes", "when"), rows)
    meant = [(_meant(text), where) for text, where in grouped(spread(cases, lambda sheet: [(text,) for text in meaning(sheet)]), cases)]
    yield table(("what they mean", "when"), meant)
    letters = [(code(name), code(value), member, where) for name, value, member, where in grouped(spread(cases, _letters), cases)]
    yield table(("letter", "is", "of", "when"), letters)


def _meant(text: str) -> str:
    """A formula, an invariant, or the reason why there is no formula."""
    if text.startswith("always: "):
        return f"{code(text.removeprefix('always: '))} in every checkpoint"
    return code(text) if " = " in text and not text.startswith("none") else prose(text)


def _parameters(sheet: Sheet) -> Iterator[Cells]:
    for row, parameter in zip(parameter_rows(sheet), sheet.state.parameters.values()):
        name, dtype, shape, default, loader = row.cells
        notes = [*row.notes, *([f"for the loader: {loader}"] if loader != "-" else [])]
        yield name, sheet.type(parameter.value.type), shape, dtype, default, "; ".join(notes)


def _letters(sheet: Sheet) -> Iterator[Cells]:
    """The capitals and the names of ``let`` that types and meaning mention; of all members where they agree."""
    kinds = [parameter.value.type for parameter in sheet.state.parameters.values()]
    kinds += [binding.value.type for binding in sheet.state.bindings.values() if isinstance(binding.value, Value)]
    rules = [rule.span.text for rule in sheet.document.require]
    members = sheet.letters(" ".join((*map(sheet.type, kinds), *meaning(sheet), *rules)))
    for name in dict.fromkeys(name for letters in members.values() for name, _ in letters):
        values = {member: dict(letters).get(name, "") for member, letters in members.items()}
        if len(set(values.values())) == 1:
            yield name, next(iter(values.values())), ""
        else:
            yield from ((name, value, member) for member, value in values.items())


# ---- afterwards ------------------------------------------------------------------------------------------------------------------------------------------

RESULT = ("name", "kind", "type", "shape", "dtype", "made from")


def _afterwards(document: Document, cases: Sequence[Case]) -> Iterator[list[str]]:
    rows, shown = spread(cases, _results), set()
    for title, own in _defaults(document, cases, rows):
        yield [title]
        yield table(RESULT, [_marked(row) for row in own])
        shown |= set(own)
    names = {row[0] for row in rows if row not in shown}
    if names:
        yield ["In other configurations:"]
        yield table((*RESULT, "when"), [(*_marked(row[:-1]), row[-1]) for row in grouped(rows, cases) if row[0] in names])
    device = [(code(name), text, code(kind), where) for name, text, kind, where in grouped(spread(cases, _device_functions), cases)]
    yield table(("done by the device", "function", "on", "when"), device)


def _marked(row: Cells) -> Cells:
    name, kind, text, shape, dtype, sources = row
    return code(name), kind, code(text), code(shape), code(dtype), ", ".join(map(code, sources.split(", "))) if sources else ""


def _results(sheet: Sheet) -> Iterator[Cells]:
    """What became of every tensor of the checkpoint, then what is new."""
    bindings, sources = sheet.state.bindings, _sources(sheet)
    for name in dict.fromkeys((*sheet.state.parameters, *bindings)):
        value = bindings[name].value if name in bindings else None
        if isinstance(value, Value):
            yield name, bindings[name].kind, sheet.type(value.type), _shape(sheet, value.type), value.type.storage, ", ".join(sources[value.number])
        elif isinstance(value, Constant):
            yield name, bindings[name].kind, f"= {_plain_constant(value.value)}", "", "", ""
        else:
            yield name, "deleted", "", "", "", ""


def _plain_constant(value: Any) -> str:
    return value_text(value) if isinstance(value, (bool, str)) or value is None else str(value)


def _shape(sheet: Sheet, kind: TensorType) -> str:
    return f"{sheet.space(kind).text(sheet.space(kind).extents[kind.listed])} of {sheet.shape(kind)}" if kind.listed else sheet.shape(kind)


def _sources(sheet: Sheet) -> dict[int, list[str]]:
    """The parameters that every value is made from, by its number, in the order in which they are read."""
    found = {parameter.value.number: [name] for name, parameter in sheet.state.parameters.items()}
    for instruction in sheet.state.code:
        read = values_in(instruction.expr) if isinstance(instruction, Compute) else [instruction.of]
        found[instruction.result.number] = list(dict.fromkeys(name for value in read for name in found[value.number]))
    return found


def _device_functions(sheet: Sheet) -> Iterator[Cells]:
    """Casts to FRACTAL_NZ, and kernels that run when the layer is loaded."""
    for instruction in sheet.state.code:
        if isinstance(instruction, Opaque):
            words = ", ".join(f"{name} {value}" for name, value in instruction.arguments)
            text = "cast to FRACTAL_NZ" if instruction.function == "format_cast" else instruction.function
            arguments = "" if words == "format 29" else f": {words}"
            yield instruction.result.name, text + arguments, sheet.type(instruction.of.type)


def _defaults(document: Document, cases: Sequence[Case], rows: Mapping[Cells, Sequence[Case]]) -> Iterator[tuple[str, list[Cells]]]:
    """What the layer has in the default configuration of every consumer and device: which of them, and the rows; no rows where it is refused."""
    defaults, names = defaults_of(document, cases), list(dict.fromkeys(row[0] for row in rows))
    found: dict[tuple[str, str, tuple[Cells, ...]], list[Default]] = {}
    for default in defaults:
        own = sorted((row for row, group in rows.items() if default.case in group), key=lambda row: names.index(row[0]))
        found.setdefault((default.reason, default.cased.get("params_dtype", ""), tuple(own)), []).append(default)
    pairs = [default.pair for default in defaults]
    for (reason, _, same), group in found.items():
        texts = [box_text(box, pairs) for box in boxes([default.pair for default in group], pairs)]
        cased = "; ".join(f"{name}: {value}" for name, value in group[0].cased.items() if all(default.cased.get(name) == value for default in group))
        title = "By default" + (f", {' *or* '.join(texts)}" if all(texts) else "") + (f" ({cased})" if cased else "")
        yield f"{title}: refused, {prose(reason)}." if reason else f"{title}:", list(same)


# ---- forward and conditions ------------------------------------------------------------------------------------------------------------------------------


def _forwards(cases: Sequence[Case]) -> Iterator[list[str]]:
    found = spread(cases, lambda sheet: [tuple(forward_texts(sheet.compiled.forward.calls))])
    for texts, group in found.items():
        where = when(group, cases)
        if where != ALWAYS:
            yield [f"{where}:"]
        yield ["```text", *(line for text in texts for line in folded(text)), "```"]
    unknown = sorted({name for case in cases for name in case.sheet.compiled.forward.unknown})
    if unknown:
        yield [f"Nothing is known of {', '.join(map(code, unknown))}, so what it is given is not checked."]


def _conditions(document: Document, cases: Sequence[Case]) -> Iterator[list[str]]:
    rules = [(code(one_line(rule.expr.span)), code(one_line(rule.condition.span)) if rule.condition else "") for rule in document.require]
    yield table(("the scheme needs", "when"), [(text, condition or ALWAYS) for text, condition in rules])
    rows = [(code(kernel), takes, tests, where) for kernel, takes, tests, where in grouped(spread(cases, _limits), cases)]
    yield table(("the kernel", "which takes", "needs", "when"), rows)


def _limits(sheet: Sheet) -> Iterator[Cells]:
    """The conditions of use by the contract row that states them."""
    found: dict[tuple[str, str], list[str]] = {}
    for limit in sheet.compiled.forward.limits:
        found.setdefault((limit.kernel, prose(limit.source)), []).append(code(size_text(limit.test)))
    yield from ((*row, "; ".join(dict.fromkeys(tests))) for row, tests in found.items())


def _parallel(document: Document, cases: Sequence[Case]) -> Iterator[list[str]]:
    splits = layer_kind(document.layer.value).split
    if splits and len(set(splits.values())) == 1:
        yield [f"Ranks share {code(next(iter(splits.values())))}."]
    elif splits:
        yield [f"Ranks share {' and '.join(f'{code(size)} on {kind} layers' for kind, size in sorted(splits.items()))}."]
    rows = grouped(spread(cases, _units), cases)
    if not rows:
        yield ["No stored unit holds more than one index: a rank may have any part of an axis."]
        return
    yield ["The part of a rank must be a multiple of these, or a stored word or a group would be cut:"]
    yield table(("size", "multiple of", "because of", "when"), [(code(size), code(unit), names, where) for size, unit, names, where in rows])


def _units(sheet: Sheet) -> Iterator[Cells]:
    """Per size of a rank what its smallest slice holds, and in which parameters: the divisor of the highest digit that varies."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, parameter in sheet.state.parameters.items():
        kind, space = parameter.value.type, sheet.space(parameter.value.type)
        digits = [digit for dim in (*kind.dims, kind.lanes) for digit in dim if digit.top and not digit.unit and digit.div != 1]
        for digit in digits if parameter.sharded else ():
            for size in sorted(space.extents[digit.axis].symbols - set(sheet.state.world.settings)):
                found.setdefault((size, space.text(digit.div)), []).append(name)
    yield from ((size, unit, ", ".join(map(code, dict.fromkeys(names)))) for (size, unit), names in found.items())


def _remarks(document: Document) -> list[str]:
    """Reasons that the spec gives for what it does, besides those of faults."""
    lines = []
    for node in nodes((document.steps, document.forward)):
        why = getattr(node, "why", None)
        if why is None or getattr(node, "accept", None):
            continue
        targets = node.targets if isinstance(node, ForwardLine) else (node.target,) if isinstance(node, Step) else node.names
        lines.append(f"- {', '.join(code(one_line(target.span)) for target in targets) or 'return'}: {prose(why.value)}")
    if document.extends is not None:
        lines.append(f"- It starts from {code(document.extends.value)} and says what differs.")
    if isinstance(document.forward, ForwardWord) and document.forward.word.value != "external":
        lines.append(f"- Its forward is that of {code(document.forward.word.value)}.")
    return lines


# ---- the index -------------------------------------------------------------------------------------------------------------------------------------------


def index(specs: Sequence[Spec]) -> str:
    """The table of all pages."""
    rows = []
    for spec in specs:
        held = spec.document.held
        link = f"[{spec.scheme}]({spec.scheme.lower()}.{spec.layer}.md)"
        consumers = ", ".join(name.removeprefix("vllm-ascend-") for name in held["consumer"])
        rows.append((link, spec.layer, consumers, ", ".join(held["device"]), prose(spec.title)))
    head = [
        "<!-- Made from specs/ by `make schemes`; what is changed here is lost. -->",
        "",
        "# Schemes",
        "",
        "What each bundled spec says, in every configuration: what the checkpoint holds, what it means, what the layer has after loading, which kernels are",
        "called, what they ask of the sizes, and which faults of the replaced code are reproduced on purpose. The pages are made from [specs/](../../specs/);",
        "the words are those of [the language](../language.md).",
        "",
        *table(("scheme", "layer", "vllm-ascend", "devices", "what"), rows),
        "",
        "If a checkpoint prints garbage, let the tools speak of your own layer, with `--set` for what its config says and `--sizes` for its numbers:",
        "",
        "```sh",
        "layoutdsl describe W4A8_DYNAMIC.linear --set version=1.0.0   # what the checkpoint must hold",
        "layoutdsl explain W4A8_DYNAMIC.linear --set version=1.0.0    # every step, its types, the calls, the conditions that are broken",
        "layoutdsl verify --quick W4A8_DYNAMIC.linear                 # do the calls compute what the tensors mean",
        "```",
    ]
    return "\n".join(head) + "\n"


# ---- files -----------------------------------------------------------------------------------------------------------------------------------------------


def pages() -> tuple[dict[str, str], dict[str, str]]:
    """The text of every file of the folder, by its name; and for every file that has none, because something is wrong with its spec, what that is."""
    files: dict[str, str] = {}
    wrong: dict[str, str] = {}
    specs: list[Spec] = []
    for name, path in bundled().items():
        try:
            specs.append(load_spec(path))
            files[f"{name}.md"] = page(specs[-1])
        except DiagnosticError as error:
            wrong[f"{name}.md"] = render(error.diagnostics, "text")
    return {**files, INDEX: index(specs)}, wrong


def stale(files: Mapping[str, str], kept: Iterable[str]) -> list[str]:
    """The files of the folder that differ from these texts, are missing, or should not be there; without those that are kept as they are."""
    present = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    return [name for name in sorted({*present, *files} - {*kept}) if present.get(name) != files.get(name)]


def main(arguments: Sequence[str]) -> int:
    """Write the folder, or only compare it. 0: all pages are as they should be; 1: some are stale, or cannot be made."""
    check = "--check" in arguments
    files, wrong = pages()
    for name, findings in wrong.items():
        print(f"docs/schemes/{name} is left as it is, for its spec has findings:\n\n{findings}")
    old = stale(files, wrong)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in old:
        print(f"{'stale' if check else 'written' if name in files else 'removed'}: docs/schemes/{name}")
        if check:
            continue
        if name in files:
            (FOLDER / name).write_text(files[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()
    return 1 if wrong or (check and old) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
