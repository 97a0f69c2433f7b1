"""One configuration of a spec as text, from the checkpoint's tensors to the kernels' calls: the sections of ``layoutdsl explain``.

Above the compiler, whose state and plan it only reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from layoutdsl.api import Plan, Spec
from layoutdsl.cli.forward_text import call_text
from layoutdsl.cli.output import WIDTH, beside, columns, escape, wrapped
from layoutdsl.cli.sheet import Sheet, arm_text, one_line
from layoutdsl.compiler.driver import compile_document, elaborate_one
from layoutdsl.compiler.scope import Context
from layoutdsl.ir.layout import digit_text
from layoutdsl.ir.program import Compute, Constant, Instruction, Move, Value
from layoutdsl.ir.symbolic import Size
from layoutdsl.plan import model
from layoutdsl.plan.lifecycle import Gather, facts_of
from layoutdsl.plan.sizes import SizeExpr, evaluate, names_in, size_text
from layoutdsl.syntax.document import Delete, Step, StepBlock
from layoutdsl.syntax.tree import Expr

Section = tuple[str, list[str]]
STAGE = 32
"""Columns for the text of a stage."""
MARGIN = " " * 7
"""Where the line numbers stand."""


def explained(spec: Spec, given: Mapping[str, Any], sizes: Mapping[str, int]) -> Iterator[Section]:
    """The sections, each a title and its lines. Raises DiagnosticError."""
    document = spec.document
    sheet = Sheet(elaborate_one(document, given), sizes)
    plan = compile_document(document, given)
    if sizes:
        Plan(plan).bind(sizes)
    steps = list(_steps(sheet))
    yield f"{spec.scheme}, {spec.layer}: {spec.title}", _header(sheet, plan, given, " ".join(steps))
    yield "parameters, as the checkpoint stores them", _parameters(sheet)
    yield "steps", steps
    yield "results, what the layer has afterwards", _results(sheet, plan)
    yield "reloading, ranks that share a size, experts", _lifecycle(plan)
    yield "requirements", _conditions(plan.require, sizes)
    yield "conditions of use", _limits(plan, sizes)
    yield "kernels without a contract: nothing is checked", [f"  {name}" for name in sorted(sheet.compiled.forward.unknown)]
    yield "accepted on purpose, though a rule refuses it", _accepted(sheet)
    yield "forward", [f"  {line}" for text in forward_texts(plan.forward) for line in folded(text)]
    yield "memory, in bytes", _memory(sheet, plan)


def _header(sheet: Sheet, plan: model.Plan, given: Mapping[str, Any], steps: str) -> list[str]:
    world = sheet.state.world
    rows: list[tuple[str, str]] = [("spec", world.document.source.name)]
    rows += [("holds for", f"{name.value}: {', '.join(text.value for text in texts)}") for name, texts in world.document.holds]
    rows += [("config", f"{name} = {value_text(value)}{'' if name in given else '  (default)'}") for name, value in plan.config]
    used = dict(plan.config)
    rows += [("config", f"{name} = {value_text(world.config[name])}  (nothing depends on it here)") for name in given if name not in used]
    rows += [("cases", f"{facet}: {case}") for facet, case in sheet.cases()]
    rows += [("axes", line) for line in sheet.axes(steps)]
    lines = []
    for i, (key, text) in enumerate(rows):
        head, *rest = wrapped(text, " " * 13)
        lines += [f"  {key if i == 0 or rows[i - 1][0] != key else '':9}  {head.strip()}", *rest]
    return lines


def value_text(value: Any) -> str:
    """A value of the config as a spec would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _parameters(sheet: Sheet) -> list[str]:
    rows = []
    for name, parameter in sheet.state.parameters.items():
        default = parameter.default
        text = "required" if default is None else "may be absent" if default == "uninitialised" else f"default {default}"
        rows.append((name, text, sheet.type(parameter.value.type)))
    return columns(rows)


# ---- steps -------------------------------------------------------------------------------------------------------------------------------------------------


def _steps(sheet: Sheet) -> Iterator[str]:
    """Every step that this configuration takes, in the order of the file."""
    first = sheet.contexts[0]
    for item in sheet.document.steps:
        if isinstance(item, StepBlock):
            if first.holds(item.when):
                for step in item.steps:
                    yield from _step(sheet, step)
        else:
            yield from _step(sheet, item)


def _step(sheet: Sheet, item: Step | Delete) -> Iterator[str]:
    line, _ = item.span.source.position(item.span.start)
    if isinstance(item, Delete):
        names = [name for target in item.names for name in _deleted(sheet, item, target.name)]
        if names:
            yield from _numbered(line, [f"delete {', '.join(names)}"])
        return
    made = [instruction for instruction in sheet.state.code if _inside(instruction, item)]
    groups: dict[str, list[Instruction]] = {}
    for context in _members(sheet, item.target.name):
        groups[context.member.expand(item.target.name)] = []
    name = next(iter(groups), "")
    for instruction in made:
        # What a step reads unpacked bears the name of what is read, and stands before the result.
        name = instruction.result.name if instruction.result.name in groups else name
        groups.setdefault(name, []).append(instruction)
    for name, instructions in groups.items():
        binding = sheet.state.bindings.get(name)
        if instructions:
            yield from _numbered(line, [name, *_stages(sheet, name, instructions)])
        elif binding is not None and isinstance(binding.value, Constant) and item.span.start <= binding.span.start < item.span.end:
            yield from _numbered(line, [name, f"  {value_text(binding.value.value)}"])


def _inside(instruction: Instruction, item: Step) -> bool:
    return item.span.start <= instruction.span.start < item.span.end


def _members(sheet: Sheet, text: str) -> list[Context]:
    """The members for which a template stands; else one."""
    return sheet.contexts if "<" in text else sheet.contexts[:1]


def _deleted(sheet: Sheet, item: Delete, text: str) -> Iterator[str]:
    for context in _members(sheet, text):
        if _holds(item.when, context):
            yield context.member.expand(text)


def _holds(condition: Expr | None, context: Context) -> bool:
    return context.holds(condition)


def _numbered(line: int, texts: list[str]) -> Iterator[str]:
    """The first text behind the line's number in the spec, the others below it."""
    yield f"{line:5}  {texts[0]}"
    for text in texts[1:]:
        yield MARGIN + text


def _stages(sheet: Sheet, name: str, instructions: Iterable[Instruction]) -> list[str]:
    rows: list[tuple[str, str]] = []
    for instruction in instructions:
        kind = sheet.type(instruction.result.type)
        if isinstance(instruction, Compute) and _is_math(sheet, instruction):
            text = _math_text(sheet, name, instruction)
            rows += [(text, kind), *(("", f"float sum in the order {order}: it decides the bits") for order in _orders(sheet, instruction))]
        elif isinstance(instruction, Move) and instruction.result.name != name and instruction.result.name in sheet.state.named:
            rows.append((f"{instruction.result.name}, unpacked to be read", kind))
        else:
            rows.append((one_line(instruction.span), kind))
    return _two_columns(rows)


def _two_columns(rows: list[tuple[str, str]]) -> list[str]:
    """Text and type side by side where they fit, else the type below its text."""
    lines: list[str] = []
    for given, kind in rows:
        text = given
        if len(escape(text)) > STAGE:
            lines += wrapped(text, "  ")
            text = ""
        lines += beside(f"  {escape(text):{STAGE}}  ", kind, WIDTH - len(MARGIN))
    return lines


def _is_math(sheet: Sheet, instruction: Compute) -> bool:
    """Does it come from a line of index math (whose place is the whole step), not from a stage."""
    return any(step.span == instruction.span for step in _flat(sheet.document.steps))


def _flat(items: Iterable[Step | Delete | StepBlock]) -> Iterator[Step]:
    for item in items:
        if isinstance(item, StepBlock):
            yield from _flat(item.steps)
        elif isinstance(item, Step):
            yield item


def _math_text(sheet: Sheet, name: str, instruction: Compute) -> str:
    """The expression of the case that holds, templates expanded."""
    step = next(step for step in _flat(sheet.document.steps) if step.span == instruction.span)
    for context in _members(sheet, step.target.name):
        if context.member.expand(step.target.name) == name:
            return arm_text(context, step.body) or one_line(instruction.span)
    return one_line(instruction.span)


def _orders(sheet: Sheet, instruction: Compute) -> list[str]:
    """The order of materialisation of every float sum, outermost index first."""
    if not instruction.result.type.element.name.startswith(("float", "bfloat")):
        return []
    space = sheet.space(instruction.result.type)
    return [", ".join(digit_text(space, digit) for digit in order) for order in _sums(instruction.expr)]


def _sums(node: Any) -> Iterator[Any]:
    if not isinstance(node, tuple) or not node:
        return
    if node[0] == "sum":
        yield node[2]
    for part in node[1:]:
        yield from _sums(part)


# ---- results and conditions --------------------------------------------------------------------------------------------------------------------------------


def _results(sheet: Sheet, plan: model.Plan) -> list[str]:
    rows = [("name", "kind", "keeps", "bits", "type")]
    for result in plan.outputs:
        binding = sheet.state.bindings[result.name]
        kind = sheet.type(binding.value.type) if isinstance(binding.value, Value) else value_text(getattr(binding.value, "value", None))
        rows.append((result.name, result.kind, result.reload or "-", "float sum" if result.bits == "sum" else "exact", kind))
    return columns(rows) if len(rows) > 1 else []


def _lifecycle(plan: model.Plan) -> list[str]:
    """Per output what ``layoutdsl.plan.lifecycle`` says of it: how it is made again, the dim along which ranks are put together, where an expert is."""
    facts = facts_of(plan)
    sizes = [gather.size for gather in next(iter(facts.values())).gathers] if facts else []
    experts = any(fact.experts for fact in facts.values())
    rows = [("name", "reload", *sizes, *(["experts"] if experts else []), "made from")]
    for name, fact in facts.items():
        where = {"first": "in dim 0", "list": "in a list", "": "-"}[fact.experts]
        rows.append((name, fact.reload, *map(_gather, fact.gathers), *([where] if experts else []), ", ".join(fact.sources) or "nothing"))
    return columns(rows) if facts else []


def _gather(gather: Gather) -> str:
    if gather.how != "concat":
        return {"repeat": "the same", "own": "its own"}[gather.how]
    major, parts = "" if gather.major == 1 else f", below {size_text(gather.major)}", f", in {gather.parts} parts" if gather.parts > 1 else ""
    return f"dim {gather.dim}{major}{parts}"


def _conditions(conditions: Iterable[model.Condition], sizes: Mapping[str, int]) -> list[str]:
    return columns((condition.text, _verdict(condition.test, sizes)) for condition in conditions)


def _limits(plan: model.Plan, sizes: Mapping[str, int]) -> list[str]:
    lines: list[str] = []
    kernels = dict.fromkeys((limit.kernel, limit.source) for limit in plan.limits)
    for kernel, source in kernels:
        own = [limit for limit in plan.limits if (limit.kernel, limit.source) == (kernel, source)]
        rows = dict.fromkeys((limit.text, size_text(limit.test), _verdict(limit.test, sizes)) for limit in own)
        lines += [f"  {kernel}", *columns(rows, indent="    "), *wrapped(f"source: {source}", "    ")]
    return lines


def _verdict(test: SizeExpr, sizes: Mapping[str, int]) -> str:
    if not names_in(test) <= sizes.keys():
        return "depends on the sizes"
    try:
        return "holds" if evaluate(test, sizes) else "BROKEN"
    except (ValueError, ZeroDivisionError):
        return "BROKEN"


def _accepted(sheet: Sheet) -> list[str]:
    return columns((accepted.rule, ", ".join(accepted.names), accepted.why) for accepted in sheet.accepted())


def forward_texts(calls: Iterable[model.Call] | Literal["external"] | None) -> list[str]:
    """The calls of a forward, a text each. None: external."""
    return ["external: the consumer calls the kernels"] if calls is None or calls == "external" else [call_text(call) for call in calls]


def folded(text: str) -> list[str]:
    """A call as lines, the others further in than the first."""
    head, *rest = (line.strip() for line in wrapped(text, "    "))
    return [head, *(f"  {line}" for line in rest)]


# ---- memory ------------------------------------------------------------------------------------------------------------------------------------------------


def _memory(sheet: Sheet, plan: model.Plan) -> list[str]:
    rows: list[tuple[str, str, str]] = []
    totals: dict[str, Size] = {}
    inputs = [(name, parameter.value) for name, parameter in sheet.state.parameters.items()]
    outputs = [(result.name, value) for result in plan.outputs if isinstance(value := sheet.state.bindings[result.name].value, Value)]
    for side, values in (("in", inputs), ("out", outputs)):
        for name, value in values:
            size = sheet.bytes(value.type)
            totals[side] = totals.get(side, Size.of(0)) + size
            rows.append((side, name, _bytes(sheet, size)))
        rows.append((side, "all", _bytes(sheet, totals.get(side, Size.of(0)))))
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    lines = []
    for side, name, text in rows:
        head = f"  {side:{widths[0]}}  {name:{widths[1]}}  "
        lines += [head + text] if len(head + text) <= WIDTH else [head.rstrip(), *wrapped(text, "      ")]
    return lines


def _bytes(sheet: Sheet, size: Size) -> str:
    """In the names of the sizes, which mean the same for every member."""
    text = sheet.size(size, None)
    return f"{int(text):,}" if text.isdigit() else text
