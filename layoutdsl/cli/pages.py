"""The pages of ``explain``: a rule from the table of rules, an op from its own entry, a kernel from its contract."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from inspect import getdoc

from layoutdsl.bundled import bundled
from layoutdsl.cli.output import columns, wrapped
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.diagnostics.rules import RULES, Rule
from layoutdsl.kernels import CONTRACTS, Contract, Row
from layoutdsl.kernels.schemas import SchemaParameter
from layoutdsl.ops import OPS, Op

KINDS = {
    "dim": "a dim, by its digit",
    "axis": "an axis",
    "storage": "a dtype that torch can store",
    "element": "an element",
    "size": "a size",
    "int": "a number",
    "word": "one of",
    "dims": "dims in brackets",
    "type": "a type",
}
RESULTS = {
    "move": "a move: the same logical tensor in another layout",
    "compute": "a computation: the values change",
    "opaque": "a function of the device: values and layout stay, the format changes",
    "none": "nothing: it only checks the type",
}
ALIASES = {"must": "shares the memory of its operand", "may": "shares the memory of its operand where the layouts agree", "never": "has memory of its own"}


def page(word: str) -> list[str] | None:
    """The page of a rule, an op or a kernel; None for any other word."""
    if word in RULES:
        return _rule(RULES[word])
    if word in OPS:
        return _op(OPS[word])
    contracts = [contract for op, contract in CONTRACTS.items() if word in (op, op.replace("::", "."), op.partition("::")[2])]
    return [line for contract in contracts for line in _kernel(contract)] or None


def need_spec(word: str) -> None:
    """Refuse a word that no bundled spec is called. Raises DiagnosticError (``subject-unknown``)."""
    specs = {name.lower() for stem in bundled() for name in (stem, stem.rpartition(".")[0])}
    if word.lower() in specs:
        return
    close = get_close_matches(word, [*RULES, *OPS, *(op.partition("::")[2] for op in CONTRACTS)], 1) or [
        name.upper() for name in get_close_matches(word.lower(), sorted(specs), 1)
    ]
    helps = (f"one like it is `{close[0]}`",) if close else (f"specs: {', '.join(bundled())}", f"ops: {', '.join(OPS)}")
    raise DiagnosticError(
        Diagnostic(code="subject-unknown", message=f"`{word}` is neither a spec, nor a rule, nor an op, nor a kernel with a contract", where=word, helps=helps)
    )


def _rule(rule: Rule) -> list[str]:
    lines = [f"{rule.code}: {rule.title}", ""]
    for line in rule.explanation.rstrip("\n").split("\n"):
        lines += [line] if line.startswith(" ") or not line else wrapped(line, "")
    return lines


def _op(op: Op) -> list[str]:
    form = f"{op.name}({', '.join(p.name + ('?' if p.optional else '') for p in op.parameters)})" if op.parameters else op.name
    lines = [f"{form}: {op.summary}", ""]
    lines += columns(
        (p.name, " ".join((KINDS.get(p.kind, f"a {p.kind}"), ", ".join(p.words))).strip() + (", optional" if p.optional else "")) for p in op.parameters
    )
    lines += [*([""] if op.parameters else []), *wrapped(" ".join((getdoc(type(op)) or "").split()), ""), ""]
    result = RESULTS.get(op.instruction, op.instruction) + (f"; the result {ALIASES[op.alias]}" if op.instruction == "move" else "")
    lines += [f"lowers to {result}"]
    if op.examples or op.rejected:
        lines += ["", "with axes e, n, k of which `N % 8 == 0` and `K % 64 == 0` are known:"]
    if op.examples:
        lines += ["", "examples", *columns([(e.before, "|", e.stage, "gives", e.after) for e in op.examples])]
    if op.rejected:
        lines += ["", "refused", *columns([(r.before, "|", r.stage, "by", r.code) for r in op.rejected])]
    return lines


def _kernel(contract: Contract) -> list[str]:
    """The rows of a contract, each with its source: what the kernel takes, what it gives, and who says so."""
    parameters = ", ".join(_parameter(parameter) for parameter in contract.schema.parameters)
    returns = ", ".join(contract.schema.returns)
    lines = wrapped(f"{contract.op}({parameters}) -> {returns}", "")
    if contract.most_tokens is not None:
        lines += [f"takes at most {contract.most_tokens} rows of x; a forward cuts longer ones"]
    for row in contract.rows:
        lines += ["", f"{row.name}: {', '.join((*row.devices, *row.consumers))}", *columns(_row(row)), *wrapped(f"source: {row.source}", "  ")]
    return lines


def _parameter(parameter: SchemaParameter) -> str:
    return parameter.name if parameter.default is None else f"{parameter.name}={parameter.default}"


def _row(row: Row) -> Iterator[tuple[str, ...]]:
    for name, text in row.arguments.items():
        notes = [word for word, names in (("required", row.required), ("overwritten", row.mutates), ("one over the scale", row.reciprocal)) if name in names]
        notes += [f"the scale of {row.scales[name]}"] if name in row.scales else []
        yield name, text, ", ".join(notes)
    for name, values in row.constants.items():
        yield name, " or ".join("left out" if value is None else str(value) for value in values) or "anything", ""
    for letter, parts in row.segments.items():
        yield letter, f"is {' then '.join(parts)}", ""
    for letter, dtypes in row.dtypes.items():
        yield letter, f"is {' or '.join(dtypes)}", ""
    for letter, source in (*((letter, f"is {argument}") for letter, argument in row.integers.items() if argument), *row.derived.items()):
        yield letter, source, ""
    for result in row.results:
        yield "gives", result or "nothing that means anything", ""
    for limit in row.limits:
        yield "wants", limit.test, limit.slug
