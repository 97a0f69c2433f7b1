"""Turns what the grammar recognises into the nodes of ``layoutdsl.syntax.tree``.

Bound into Lark's tables by ``layoutdsl.syntax.expressions``, so that no intermediate tree is made: each method is one rule (or alias) of ``grammar.lark``
and gets that rule's children, all tokens included.

Invariants: offsets of tokens are relative to the parsed text, spans of nodes are absolute; a parenthesised expression keeps its own span, what
contains it starts and ends at the brackets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Union

from lark import Token, Transformer

from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Label, Source, Span
from layoutdsl.syntax.tree import (
    Argument,
    Binary,
    Call,
    Conditional,
    Constant,
    ElementText,
    Entry,
    Expr,
    Group,
    Index,
    Inline,
    Items,
    LayoutText,
    Name,
    PadText,
    Pick,
    Pipeline,
    Rule,
    Stage,
    Sum,
    Target,
    TypeText,
    Unary,
)

PRECEDENCE: dict[str, int] = {
    **dict.fromkeys(["or"], 1),
    **dict.fromkeys(["and"], 2),
    **dict.fromkeys(["not"], 3),
    **dict.fromkeys(["==", "!=", "<", "<=", ">", ">=", "in"], 4),
    **dict.fromkeys(["&"], 5),
    **dict.fromkeys([">>", "<<"], 6),
    **dict.fromkeys(["+", "-"], 7),
    **dict.fromkeys(["*", "/", "//", "%"], 8),
}
CONSTANTS: dict[str, bool | None] = {"none": None, "true": True, "false": False}
RESERVED = frozenset({"and", "or", "not", "if", "else", "in", "when"})
MAX_DIGITS = 19


@dataclass(frozen=True, slots=True)
class Parenthesis:
    """An expression and the place of the brackets round it; gone from the finished tree."""

    node: Expr
    span: Span


Operand = Union[Expr, Parenthesis]


@dataclass(frozen=True, slots=True)
class Negated:
    """``not`` and the first operand after it; how far it reaches is known when the chain is complete."""

    op: Token
    operand: Any


class Chain(list[Any]):
    """Operands and the tokens of the operators between them, in the order of the text."""


def _bare(operand: Operand) -> Expr:
    return operand.node if type(operand) is Parenthesis else operand  # type: ignore[return-value]


def _bare_all(operands: list[Any]) -> tuple[Entry, ...]:
    return tuple(x.node if type(x) is Parenthesis else x for x in operands)


def _join(first: Span, last: Span) -> Span:
    return Span(first.source, first.start, last.end)


class TreeBuilder(Transformer):  # type: ignore[type-arg]
    """One method per rule. ``source`` and ``base`` say where the parsed text lies; they are set before each parse."""

    def __init__(self) -> None:
        super().__init__()
        self.source = Source("", "")
        self.base = 0

    def finish(self, tree: object) -> object:
        return tree.node if isinstance(tree, Parenthesis) else tree

    def _span(self, first: Token, last: Token) -> Span:
        start, end = first.start_pos, last.end_pos
        assert start is not None
        assert end is not None
        return Span(self.source, self.base + start, self.base + end)

    def _from(self, first: Token, last: Span) -> Span:
        assert first.start_pos is not None
        return Span(self.source, self.base + first.start_pos, last.end)

    def _to(self, first: Span, last: Token) -> Span:
        assert last.end_pos is not None
        return Span(self.source, first.start, self.base + last.end_pos)

    def _word(self, token: Token) -> str:
        """The text of a name, which is none of the words that join expressions."""
        word = str(token)
        if word not in RESERVED:
            return word
        span = self._span(token, token)
        raise DiagnosticError(Diagnostic(code="expression-syntax", message=f"expected a value or a name, found `{word}`", span=span))

    def _int(self, token: Token) -> int:
        span = self._span(token, token)
        if len(token) > 1 and token[0] == "0":
            help_ = f"write `{int(token[:MAX_DIGITS])}`"
            raise DiagnosticError(Diagnostic(code="leading-zero", message=f"`{token}` starts with a zero", span=span, helps=(help_,)))
        if len(token) > MAX_DIGITS:
            message = f"a whole number may have {MAX_DIGITS} digits, this one has {len(token)}"
            raise DiagnosticError(Diagnostic(code="number-range", message=message, span=span))
        return int(token)

    # ---- lists

    def empty(self, children: list[Any]) -> list[Any]:
        return []

    def first(self, children: list[Any]) -> list[Any]:
        return children[:]

    def append(self, children: list[Any]) -> list[Any]:
        items: list[Any] = children[0]
        items.append(children[2])
        return items

    def push(self, children: list[Any]) -> list[Any]:
        items: list[Any] = children[0]
        items.append(children[1])
        return items

    # ---- leaves

    def target_name(self, children: list[Any]) -> Target:
        (token,) = children
        span = self._span(token, token)
        return Target(self._word(token), span, None, span)

    def indexed_target(self, children: list[Any]) -> Target:
        token, _, digits, closer = children
        return Target(self._word(token), self._span(token, token), _bare_all(digits), self._span(token, closer))

    def rule(self, children: list[Any]) -> Rule:
        expr = children[0]
        if len(children) == 1:
            return Rule(_bare(expr), None, expr.span)
        condition = children[2]
        return Rule(_bare(expr), _bare(condition), _join(expr.span, condition.span))

    def pipeline(self, children: list[Any]) -> Pipeline:
        (stages,) = children
        return Pipeline(tuple(stages), _join(stages[0].span, stages[-1].span))

    # ---- types

    def element(self, children: list[Any]) -> ElementText:
        name = self._word(children[0])
        excess = self._int(children[3]) if len(children) > 1 else 0
        return ElementText(name, excess, self._span(children[0], children[-1]))

    def scalar_type(self, children: list[Any]) -> TypeText:
        element, _, closer, pads = children
        return self._type(element, [], None, pads, self._span(closer, closer))

    def native_type(self, children: list[Any]) -> TypeText:
        element, _, digits, closer, over, pads = children
        if over is None:
            return self._type(element, digits, None, pads, self._span(closer, closer))
        # `int8[k, n] over nz[k, n]`: the element is its own storage, and the dims are the logical digits.
        stored = LayoutText(None, element.name, element.span, _bare_all(digits), (), None, None, None, _join(element.span, self._span(closer, closer)))
        layout = self.layout([stored, over])
        return self._type(element, digits, layout, pads, layout.span)

    def stored_scalar_type(self, children: list[Any]) -> TypeText:
        element, _, _, _, layout, pads = children
        return self._type(element, [], layout, pads, layout.span)

    def stored_type(self, children: list[Any]) -> TypeText:
        element, _, digits, _, _, layout, pads = children
        return self._type(element, digits, layout, pads, layout.span)

    def _type(self, element: ElementText, digits: list[Any], layout: LayoutText | None, pads: list[PadText], last: Span) -> TypeText:
        end = pads[-1].span if pads else last
        return TypeText(element, _bare_all(digits), layout, tuple(pads), _join(element.span, end))

    def storage(self, children: list[Any]) -> LayoutText:
        name, digits, closer = children[0], children[2], children[-1]
        lanes = children[4] if len(children) == 6 else []
        return LayoutText(
            extension=None,
            storage=self._word(name),
            storage_span=self._span(name, name),
            dims=_bare_all(digits),
            lanes=_bare_all(lanes),
            format=None,
            width=None,
            order=None,
            span=self._span(name, closer),
        )

    def layout(self, children: list[Any]) -> LayoutText:
        storage: LayoutText = children[0]
        over = children[1]
        if over is None:
            return storage
        format_, width, order, closer = over
        return replace(storage, format=format_, width=width, order=_bare_all(order), span=self._to(storage.span, closer))

    def extended_layout(self, children: list[Any]) -> LayoutText:
        word, storage, over = children
        layout = self.layout([storage, over])
        return replace(layout, extension=str(word), span=self._from(word, layout.span))

    def no_over(self, children: list[Any]) -> None:
        return None

    def plain_over(self, children: list[Any]) -> tuple[str | None, int | None, list[Any], Token]:
        _, _, digits, closer = children
        return None, None, digits, closer

    def format_over(self, children: list[Any]) -> tuple[str | None, int | None, list[Any], Token]:
        _, name, _, digits, closer = children
        return self._word(name), None, digits, closer

    def width_over(self, children: list[Any]) -> tuple[str | None, int | None, list[Any], Token]:
        _, name, _, width, _, _, digits, closer = children
        return self._word(name), self._int(width), digits, closer

    def padding(self, children: list[Any]) -> PadText:
        pad, axis, _, multiple, *fill = children
        if not fill:
            return PadText(self._word(axis), _bare(multiple), 0, self._from(pad, multiple.span))
        value = self._int(fill[-1])
        return PadText(self._word(axis), _bare(multiple), value if len(fill) == 2 else -value, self._span(pad, fill[-1]))

    # ---- indices

    def group(self, children: list[Any]) -> Group:
        opener, first, _, rest, closer = children
        return Group(tuple(_bare(x) for x in [first, *rest]), self._span(opener, closer))

    def pick(self, children: list[Any]) -> Pick:
        digit, _, at = children
        return Pick(_bare(digit), _bare(at), _join(digit.span, at.span))

    # ---- stages

    def bare_stage(self, children: list[Any]) -> Stage:
        (name,) = children
        span = self._span(name, name)
        return Stage(self._word(name), span, (), None, None, False, None, span)

    def called_stage(self, children: list[Any]) -> Stage:
        name, closer = children[0], children[-1]
        arguments = tuple(children[2]) if len(children) == 4 else ()
        return Stage(self._word(name), self._span(name, name), arguments, None, None, True, None, self._span(name, closer))

    def view_stage(self, children: list[Any]) -> Stage:
        word, _, digits, closer = children
        return Stage("view", self._span(word, word), (), _bare_all(digits), None, False, None, self._span(word, closer))

    def typed_stage(self, children: list[Any]) -> Stage:
        word, type_ = children
        return Stage(str(word), self._span(word, word), (), None, type_, False, None, self._from(word, type_.span))

    def conditional_stage(self, children: list[Any]) -> Stage:
        stage: Stage = children[0]
        condition = children[2]
        return replace(stage, condition=_bare(condition), span=_join(stage.span, condition.span))

    # ---- expressions

    def expr(self, children: list[Any]) -> Operand:
        (operation,) = children
        kind = type(operation)
        return self._resolve(operation) if kind is Chain or kind is Negated else operation

    def conditional(self, children: list[Any]) -> Conditional:
        then, condition, otherwise = self.expr(children[:1]), self.expr(children[2:3]), children[4]
        return Conditional(_bare(condition), _bare(then), _bare(otherwise), _join(then.span, otherwise.span))

    def chain(self, children: list[Any]) -> Chain:
        operation, op, operand = children
        if type(operation) is not Chain:
            operation = Chain([operation])
        operation += (op, operand)
        return operation

    def negated(self, children: list[Any]) -> Negated:
        op, operand = children
        return Negated(op, operand)

    def negative(self, children: list[Any]) -> Unary:
        op, operand = children
        if type(operand) is Negated:
            raise self._loose_not(operand.op)
        return Unary("-", _bare(operand), self._from(op, operand.span))

    def _resolve(self, chain: Chain | Negated) -> Expr:
        """The tree of a flat chain, by precedence; two stacks instead of recursion."""
        operands: list[Operand] = []
        operators: list[Token] = []
        items: list[Any] = chain if isinstance(chain, Chain) else [chain]
        for item in items:
            if isinstance(item, Token):
                self._fold(operands, operators, item)
                operators.append(item)
                continue
            while type(item) is Negated:
                if operators and PRECEDENCE[operators[-1]] > PRECEDENCE["not"]:
                    raise self._loose_not(item.op)
                operators.append(item.op)
                item = item.operand
            operands.append(item)
        self._fold(operands, operators, None)
        return _bare(operands[0])

    def _fold(self, operands: list[Operand], operators: list[Token], coming: Token | None) -> None:
        """Build the nodes of all operators that bind at least as tightly as the one that comes."""
        bound = PRECEDENCE[coming] if coming is not None else 0
        while operators and PRECEDENCE[operators[-1]] >= bound:
            op = operators.pop()
            if coming is not None and PRECEDENCE[op] == bound == PRECEDENCE["=="]:
                raise self._comparison_chain(op, coming)
            right = operands.pop()
            if op.type == "NOT":
                operands.append(Unary("not", _bare(right), self._from(op, right.span)))
                continue
            left = operands.pop()
            operands.append(Binary(str(op), _bare(left), _bare(right), _join(left.span, right.span)))

    def _loose_not(self, op: Token) -> DiagnosticError:
        message = "`not` binds less tightly than the operator before it"
        help_ = "put the negation in brackets: `(not a)`"
        return DiagnosticError(Diagnostic(code="expression-syntax", message=message, span=self._span(op, op), helps=(help_,)))

    def _comparison_chain(self, first: Token, second: Token) -> DiagnosticError:
        return DiagnosticError(
            Diagnostic(
                code="expression-syntax",
                message="comparisons cannot be chained",
                span=self._span(second, second),
                label="the second comparison",
                labels=(Label(self._span(first, first), "the first"),),
                helps=("join two comparisons with `and`",),
            )
        )

    def name(self, children: list[Any]) -> Name | Constant:
        (token,) = children
        word = self._word(token)
        span = self._span(token, token)
        return Constant(CONSTANTS[word], span) if word in CONSTANTS else Name(word, span)

    def integer(self, children: list[Any]) -> Constant:
        (token,) = children
        return Constant(self._int(token), self._span(token, token))

    def real(self, children: list[Any]) -> Constant:
        (token,) = children
        value = float(token)
        if value in (float("inf"), float("-inf")):
            span = self._span(token, token)
            raise DiagnosticError(Diagnostic(code="number-range", message=f"`{token}` is larger than any float", span=span))
        return Constant(value, self._span(token, token))

    def string(self, children: list[Any]) -> Constant:
        (token,) = children
        return Constant(str(token[1:-1]), self._span(token, token))

    def index(self, children: list[Any]) -> Index:
        name, _, reads, closer = children
        return Index(self._word(name), self._span(name, name), _bare_all(reads), self._span(name, closer))

    def summation(self, children: list[Any]) -> Sum:
        word, _, digits, _, _, body, closer = children
        return Sum(_bare_all(digits), _bare(body), self._span(word, closer))

    def call(self, children: list[Any]) -> Call:
        name, closer = children[0], children[-1]
        arguments = tuple(children[2]) if len(children) == 4 else ()
        return Call(self._word(name), self._span(name, name), arguments, self._span(name, closer))

    def parenthesis(self, children: list[Any]) -> Parenthesis:
        opener, node, closer = children
        return Parenthesis(_bare(node), self._span(opener, closer))

    def inline(self, children: list[Any]) -> Inline:
        opener, name, _, stages, closer = children
        return Inline(Name(self._word(name), self._span(name, name)), tuple(stages), self._span(opener, closer))

    def items(self, children: list[Any]) -> Items:
        exprs = children[1] if len(children) == 3 else []
        return Items(tuple(_bare(x) for x in exprs), self._span(children[0], children[-1]))

    def arg(self, children: list[Any]) -> Argument:
        (value,) = children
        return Argument(None, _bare(value), value.span)

    def keyword(self, children: list[Any]) -> Argument:
        name, _, value = children
        return Argument(self._word(name), _bare(value), self._from(name, value.span))


def depth_exceeds(tree: object, limit: int) -> bool:
    """Whether some node lies deeper than ``limit`` levels; walks level by level, so no depth of tree costs stack."""
    level: list[object] = [tree]
    for _ in range(limit):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return True


def _children(node: object) -> Iterator[object]:
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _children(item)
        return
    if not is_dataclass(node):
        return
    for field in fields(node):
        value = getattr(node, field.name)
        if isinstance(value, tuple):
            yield from value
        elif is_dataclass(value) and not isinstance(value, Span):
            yield value
