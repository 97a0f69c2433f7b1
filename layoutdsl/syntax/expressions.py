"""Parses the leaves of a spec file: targets, rules, types, pipelines and expressions.

Called by ``layoutdsl.syntax.reader`` with the raw slice of the source, so that every node has its exact place; the grammar is ``grammar.lark``.

Invariants: a text either becomes one tree or raises :class:`DiagnosticError` with exactly one diagnostic; no text causes deep recursion; Lark is imported
and its tables are built on the first parse only.
"""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from layoutdsl.cache_folder import private_folder
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Label, Span
from layoutdsl.syntax.tree import Expr, Pipeline, Rule, Target, TypeText

if TYPE_CHECKING:
    from lark import Lark, UnexpectedInput

    from layoutdsl.syntax.tree_builder import TreeBuilder

MAX_LENGTH = 4000
MAX_NESTING = 40
MAX_DEPTH = 60

T = TypeVar("T")

STARTS = ("target", "targets", "rule", "type", "pipeline", "expression")

# One builder serves all parses: Lark binds it into its tables. The lock keeps two threads from mixing their sources.
_LOCK = threading.RLock()


def parse_target(span: Span) -> Target:
    """``name`` or ``name[digits]``: the key of a step or of a value."""
    return cast(Target, _parse(span, "target"))


def parse_targets(span: Span) -> tuple[Target, ...]:
    """``a, b``: the key of a forward line, the names after ``delete``."""
    return tuple(cast("list[Target]", _parse(span, "targets")))


def parse_rule(span: Span) -> Rule:
    """``expr when condition`` of ``require`` and ``invariants``."""
    return cast(Rule, _parse(span, "rule"))


def parse_type(span: Span) -> TypeText:
    """``int4[n, k] in int8[n//2, k | n%2] over [k, n//2]``."""
    return cast(TypeText, _parse(span, "type"))


def parse_pipeline(span: Span) -> Pipeline:
    """``stage | stage when condition``."""
    return cast(Pipeline, _parse(span, "pipeline"))


def parse_expression(span: Span) -> Expr:
    """Math, a predicate, a size or a forward expression: which one, a checker decides."""
    return cast(Expr, _parse(span, "expression"))


# ---- the parse --------------------------------------------------------------------------------------------------------------------------------------


@cache
def _parser() -> tuple[Lark, TreeBuilder]:
    from importlib.resources import files

    from lark import Lark

    from layoutdsl.syntax.tree_builder import TreeBuilder

    grammar = files("layoutdsl.syntax").joinpath("grammar.lark").read_text(encoding="utf-8")
    builder = TreeBuilder()
    options: dict[str, Any] = {
        "parser": "lalr",
        "lexer": "contextual",
        "start": list(STARTS),
        "transformer": builder,
        "maybe_placeholders": False,
        "keep_all_tokens": True,
    }
    # The tables take 50 ms to build. lark keeps them in a file that it checks against the grammar, its version and Python's; it is a pickle, so only from
    # a folder that is ours.
    tables = private_folder()
    try:
        return Lark(grammar, **options, cache=str(tables / "grammar.tables") if tables is not None else False), builder
    except OSError:
        return Lark(grammar, **options), builder


def _parse(span: Span, start: str) -> object:
    text = span.text
    _check_size(span, text)
    _check_brackets(span, text)

    from lark import UnexpectedInput

    with _LOCK:
        lark, builder = _parser()
        builder.source, builder.base = span.source, span.start
        try:
            tree = builder.finish(lark.parse(text, start))
        except UnexpectedInput as error:
            raise DiagnosticError(_explain(span, text, start, error, lark)) from None
    _check_depth(span, text, tree)
    return tree


def _check_size(span: Span, text: str) -> None:
    if len(text) <= MAX_LENGTH:
        return
    raise DiagnosticError(
        Diagnostic(
            code="expression-depth",
            message=f"an expression may have {MAX_LENGTH} characters, this one has {len(text)}",
            span=span,
            helps=("split it: give a part its own name",),
        )
    )


_BRACKETS = re.compile(r"""'[^'\\\r\n]*'|"[^"\\\r\n]*"|[()\[\]]""")
_CLOSER = {"(": ")", "[": "]"}


def _check_brackets(span: Span, text: str) -> None:
    """Brackets are paired before the parse: the grammar would only see that something is missing at the very end."""
    open_at: list[int] = []
    for match in _BRACKETS.finditer(text):
        char, at = match.group(), match.start()
        if char in "([":
            open_at.append(at)
            if len(open_at) > MAX_NESTING:
                raise DiagnosticError(_too_deep(_part(span, at, at + 1), f"brackets nest deeper than {MAX_NESTING}"))
        elif char in ")]":
            _check_closer(span, text, at, open_at)
    if open_at:
        at = open_at[-1]
        raise DiagnosticError(_never_closed(span, text, at))


def _check_closer(span: Span, text: str, at: int, open_at: list[int]) -> None:
    here = _part(span, at, at + 1)
    if not open_at:
        message = f"`{text[at]}` closes a bracket that was never opened"
        raise DiagnosticError(Diagnostic(code="expression-syntax", message=message, span=here))
    opener = open_at.pop()
    wanted = _CLOSER[text[opener]]
    if text[at] == wanted:
        return
    raise DiagnosticError(
        Diagnostic(
            code="expression-syntax",
            message=f"expected `{wanted}`, found `{text[at]}`",
            span=here,
            labels=(Label(_part(span, opener, opener + 1), "the bracket that is open here"),),
        )
    )


def _never_closed(span: Span, text: str, at: int) -> Diagnostic:
    message = f"`{text[at]}` is never closed"
    return Diagnostic(
        code="expression-syntax",
        message=message,
        span=_part(span, at, at + 1),
        label=f"expected a `{_CLOSER[text[at]]}` for this one",
        helps=_sum_help(text, at),
    )


def _too_deep(span: Span, message: str) -> Diagnostic:
    return Diagnostic(code="expression-depth", message=message, span=span, helps=("split it: give a part its own name",))


def _check_depth(span: Span, text: str, tree: object) -> None:
    if len(text) <= MAX_DEPTH:
        return  # each level of a tree takes at least one character
    from layoutdsl.syntax.tree_builder import depth_exceeds

    if depth_exceeds(tree, MAX_DEPTH):
        raise DiagnosticError(_too_deep(span, f"operations nest deeper than {MAX_DEPTH}"))


def _part(span: Span, start: int, end: int) -> Span:
    """A place inside ``span``, given by offsets from its start."""
    return replace(span, start=span.start + start, end=span.start + end)


# ---- what went wrong, in plain words ----------------------------------------------------------------------------------------------------------------

_SYMBOLS = {"COMMA": "`,`", "BAR": "`|`", "EQUAL": "`=`", "LPAR": "`(`", "RPAR": "`)`", "LSQB": "`[`", "RSQB": "`]`"}
_RESERVED_AT_END = re.compile(r"(?<![\w.>])(and|or|not|if|else|in|when)\s*$")
_WORDS = ("IN", "OVER", "PAD", "TO", "EXCESS", "WHEN", "ELSE")
# What may follow any complete value goes without saying.
_IMPLIED = {"LPAR", "LSQB", "IN", "EQUAL"}


def _explain(span: Span, text: str, start: str, error: UnexpectedInput, lark: Lark) -> Diagnostic:
    found = _found(text, error)
    accepts = _accepts(text[: found[0]], start, error, lark)
    word = _RESERVED_AT_END.search(text[: found[0]])
    if word and not accepts & {"NAME", "INT"}:
        # Where a value is expected, the lexer takes a word such as `and` for a name and stumbles over what comes next.
        found = word.span(1)
        accepts = _accepts(text[: found[0]], start, error, lark)
    helps = _helps(text, found, start)
    shown = _shortened(text[found[0] : found[1]])
    if not shown:
        message = f"expected {_expected(accepts, start)}, found the end"
    elif shown in ("'", '"'):
        message = _bad_string(text, found[0])
    else:
        message = f"expected {_expected(accepts, start)}, found `{shown}`"
    return Diagnostic(code="expression-syntax", message=message, span=_part(span, *found), helps=helps)


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _found(text: str, error: UnexpectedInput) -> tuple[int, int]:
    """Offsets of the guilty token; empty at the end of the text."""
    from lark import UnexpectedCharacters, UnexpectedToken

    if isinstance(error, UnexpectedCharacters):
        at: int = error.pos_in_stream or 0
        return at, at + 1
    if isinstance(error, UnexpectedToken) and error.token.type != "$END":
        start: int = error.token.start_pos or 0
        return start, start + len(error.token)
    end = len(text.rstrip())
    return end, end


def _accepts(prefix: str, start: str, error: UnexpectedInput, lark: Lark) -> frozenset[str]:
    """Names of the tokens that may really follow ``prefix``; the sets in Lark's errors are wider than that."""
    from lark import LarkError

    try:
        parser = lark.parse_interactive(prefix, start)
        parser.exhaust_lexer()
        return frozenset(parser.accepts())  # type: ignore[no-untyped-call]
    except (LarkError, DiagnosticError):
        wider: Any = getattr(error, "expected", None) or getattr(error, "allowed", None) or ()
        return frozenset(wider)


def _expected(accepts: frozenset[str], start: str) -> str:
    after_value = "PLUS" in accepts
    parts: list[str] = []
    if after_value:
        parts.append("an operator")
    elif "VIEW" in accepts:
        parts.append("a stage")
    elif "NAME" in accepts and "INT" in accepts:
        parts.append("a value")
    elif "NAME" in accepts:
        parts.append("a type" if start == "type" and not accepts & {"ZEXT", "LSQB"} else "a name")
    elif "INT" in accepts:
        parts.append("a whole number")
    takes_value = bool(accepts & {"NAME", "INT"})
    for token, symbol in _SYMBOLS.items():
        if token in accepts and not (token in _IMPLIED and (after_value or takes_value)) and not (token == "RSQB" and takes_value):
            parts.append(symbol)
    parts += [f"`{word.lower()}`" for word in _WORDS if word in accepts and not (after_value and word in _IMPLIED)]
    if "$END" in accepts:
        parts.append("the end")
    if not parts:
        return "something else"
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _bad_string(text: str, at: int) -> str:
    rest = text[at + 1 :]
    if text[at] not in rest:
        return f"the string that starts with `{text[at]}` is never closed"
    return "a string has no escapes and ends on its own line"


def _helps(text: str, found: tuple[int, int], start: str) -> tuple[str, ...]:
    """The help for a frequent mistake, if this is one."""
    at, end = found
    shown, before, after = text[at:end], text[:at].rstrip(), text[end:].lstrip()
    if shown == "(" and re.search(r"\bsum$", before):
        return _sum_help(text, at)
    if shown == "(" and re.search(r"\bview$", before):
        return ("write `view [n, k]`, in square brackets",)
    if shown == ":":
        return _sum_help(text, text.rfind("(", 0, at)) or ("nothing in an expression is written with `:`",)
    if shown == "&" and (before.endswith("&") or after.startswith("&")):
        return ("write `and`",)
    if shown == "|" and (before.endswith("|") or after.startswith("|")):
        return ("write `or`",)
    if shown == "|" and start != "pipeline":
        return ("`|` separates stages and lanes only; the language has no bit-or",)
    if shown == "!":
        return ("write `not`",)
    if shown == "=":
        return ("write `==` to compare", "`name = value` is for keyword arguments, and `n = expr` for the index of a read")
    if shown == "*" and before.endswith("*"):
        return ("the language has no powers",)
    if shown in ("{", "}"):
        return ("a case map goes in block style: one `case: text` per line",)
    if (shown == "not" and after.startswith("in")) or (shown == "in" and re.search(r"\bnot$", before)):
        return ("write `not (a in [..])`",)
    if before.endswith("]") and shown == "[" and start in ("type", "pipeline"):
        return ("a stored type is written `element[digits] in storage[digits]`",)
    if shown == "over":
        return ("the memory order follows a storage: `int8[k, n] in int8[k, n] over [n, k]`",)
    if not shown and start == "type" and re.fullmatch(r"\s*\w+", before):
        return (f"a type names its digits: `{before.strip()}[n, k]`",)
    if shown == "[" and start in ("target", "targets"):
        return ("brackets after a name hold the digits of one target",)
    if shown == "[" and start == "pipeline":
        return ("a step that computes names its digits: `name[n, k]: expression`",)
    return ()


def _sum_help(text: str, at: int) -> tuple[str, ...]:
    """The help for ``sum(k: ..)`` and ``sum(k, ..)``; ``at`` is the offset of the round bracket."""
    if at < 0 or not re.search(r"\bsum\s*$", text[:at]):
        return ()
    bound = re.match(r"\(\s*([A-Za-z]\w*)\s*[:,]", text[at:])
    name = bound.group(1) if bound else "k"
    return (f"write `sum[{name}](...)`: what is summed over stands in square brackets",)
