"""The pages of ``explain``: a rule from the table of rules, an op from its own entry."""

from __future__ import annotations

from difflib import get_close_matches
from inspect import getdoc

from layoutdsl.bundled import bundled
from layoutdsl.cli.output import columns, wrapped
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.diagnostics.rules import RULES, Rule
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
    """The page of a rule or an op; None for any other word."""
    if word in RULES:
        return _rule(RULES[word])
    return _op(OPS[word]) if word in OPS else None


def need_spec(word: str) -> None:
    """Refuse a word that no bundled spec is called. Raises DiagnosticError (``subject-unknown``)."""
    specs = {name.lower() for stem in bundled() for name in (stem, stem.rpartition(".")[0])}
    if word.lower() in specs:
        return
    close = get_close_matches(word, [*RULES, *OPS], 1) or [name.upper() for name in get_close_matches(word.lower(), sorted(specs), 1)]
    helps = (f"one like it is `{close[0]}`",) if close else (f"specs: {', '.join(bundled())}", f"ops: {', '.join(OPS)}")
    raise DiagnosticError(Diagnostic(code="subject-unknown", message=f"`{word}` is neither a spec, nor a rule, nor an op", where=word, helps=helps))


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
