"""Index math typed: reads, sums, operators, casts; and the same rules over the reals for ``value`` and ``invariants``.

A read names logical digits; loops are the digits on the left and those a ``sum`` binds; every read must be determined by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from layoutdsl.compiler.evaluate import evaluate, fail, size_of
from layoutdsl.compiler.helps import help_for
from layoutdsl.compiler.scope import Context
from layoutdsl.compiler.types import dtype_name, reject
from layoutdsl.diagnostics import Label, Span
from layoutdsl.diagnostics.model import Diagnostic, DiagnosticError
from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.ir.layout import Digit, Reject, digit_text, letter, sorted_chain
from layoutdsl.ir.program import MathExpr, Value
from layoutdsl.ir.symbolic import Proved, Size
from layoutdsl.ops import index_math
from layoutdsl.syntax.tree import Binary, Call, Conditional, Constant, Entry, Expr, Index, Inline, Items, Name, Pick, Sum, Unary
from layoutdsl.syntax.walk import nodes


class Tensors(Protocol):
    """Where reads find tensors."""

    def read(self, name: str, span: Span) -> Value: ...

    def is_tensor(self, name: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Typed:
    """An expression with its dtype; a literal has none until it meets one."""

    expr: MathExpr
    dtype: str | None


@dataclass(slots=True)
class Math:
    """Types one expression. real: over the reals (``value``, ``invariants``)."""

    context: Context
    tensors: Tensors
    loops: tuple[Digit, ...]
    real: bool = False
    reads: list[tuple[Value, Index]] = field(default_factory=list)

    def typed(self, expr: Expr) -> Typed:
        """The expression as instructions of the core. Raises DiagnosticError."""
        try:
            return self._typed(expr)
        except Reject as error:
            raise reject(error, expr.span) from None

    def _typed(self, expr: Expr) -> Typed:
        match expr:
            case Constant(value) if isinstance(value, (int, float)) and not isinstance(value, bool):
                return Typed(("const", None, value), None)
            case Index():
                return self._read(expr)
            case Name():
                return self._name(expr)
            case Sum():
                return self._sum(expr)
            case Unary("-", operand):
                inner = self.typed(operand)
                if inner.expr[0] == "const":
                    return Typed(("const", inner.dtype, -inner.expr[2]), inner.dtype)
                return Typed(("neg", inner.expr), inner.dtype)
            case Binary() if expr.op in index_math.FLOAT_OPERATORS | index_math.INT_OPERATORS:
                return self._operator(expr)
            case Call():
                return self._call(expr)
            case Conditional(condition, then, otherwise):
                return self.typed(then if self.context.holds(condition) else otherwise)
            case Binary() | Unary() | Constant() | Items() | Inline():
                fail("not-math", expr.span, f"`{expr.span.text}` is not index math")

    # -- reads

    def _name(self, expr: Name) -> Typed:
        name = self.context.member.expand(expr.id)
        if self.tensors.is_tensor(name):
            help_ = f"write `{expr.id}[...]`; `0` or nothing where it has one element"
            value = self.tensors.read(name, expr.span)
            if all(digit.unit for digit in value.type.logical):
                return self._finish_read(value, Index(expr.id, expr.span, (), expr.span), ())
            fail("index-missing", expr.span, f"`{expr.id}` is a tensor, read it with its indices", helps=(help_,))
        value = evaluate(expr, self.context)
        if isinstance(value, (str, bool)) or value is None:
            fail("not-math", expr.span, f"`{expr.id}` is not a number")
        return Typed(("const", None, value), None)

    def _read(self, expr: Index) -> Typed:
        name = self.context.member.expand(expr.name)
        value = self.tensors.read(name, expr.name_span)
        if value.type.listed:
            fail("read-of-list", expr.span, f"`{expr.name}` is a list of tensors, which math cannot read")
        picks, missing = [], [digit for digit in value.type.logical if not digit.unit]
        for entry in expr.entries:
            if isinstance(entry, Pick):
                picks.append(self._pick(value, entry, missing))
                continue
            digit = self.context.digit(entry)
            if digit is None or digit.unit:
                self._check_unit(value, expr, entry, digit)
                continue
            if digit not in missing:
                self._wrong_digit(value, expr, entry)
            missing.remove(digit)
            if not self._determined(digit):
                self._free_index(digit, entry)
        if missing:
            self._wrong_digit(value, expr, None, missing)
        return self._finish_read(value, expr, tuple(picks))

    def _finish_read(self, value: Value, expr: Index, picks: tuple[Any, ...]) -> Typed:
        self.reads.append((value, expr))
        if self.real:
            return Typed(("at", value, picks), index_math.REAL)
        if not value.type.initialised:
            fail("read-uninitialised", expr.span, f"`{expr.name}` is not in the checkpoint here and has no `init`, so its values are garbage")
        if value.type.carriage == "bits" and value.type.element.name != "opaque":
            message = f"`{expr.name}` carries the bits of {value.type.element.name} in {value.type.storage}, not its values"
            if ELEMENTS[value.type.element.name].kind != "scale" or ELEMENTS[value.type.element.name].bits != 8:
                fail("read-of-bits", expr.span, message, helps=("compute with the value before `widen` or `bitcast`",))
        if value.type.element.name == "opaque":
            fail("read-of-opaque", expr.span, f"`{expr.name}` holds opaque bytes: they can be moved and passed on, nothing else")
        return Typed(("at", value, picks), value.type.element.name)

    def _check_unit(self, value: Value, expr: Index, entry: Entry, digit: Digit | None) -> None:
        if digit is not None and not any(d.axis == digit.axis for d in value.type.logical):
            self._wrong_digit(value, expr, entry)

    def _wrong_digit(self, value: Value, expr: Index, entry: Entry | None, missing: Sequence[Digit] = ()) -> None:
        space = self.context.space
        wanted = ", ".join(digit_text(space, d) for d in value.type.logical if not d.unit) or "0"
        if entry is None:
            message = f"`{expr.name}` is over [{wanted}]; {', '.join(f'`{digit_text(space, d)}`' for d in missing)} is not given"
        else:
            message = f"`{expr.name}` is over [{wanted}], not over `{entry.span.text}`"
        fail("read-digits", entry.span if entry else expr.span, message, helps=(f"write `{expr.name}[{wanted}]`",))

    def _determined(self, digit: Digit) -> bool:
        """Do the loops give this digit? Either it is a loop, or a chain of loops reaches the top from a divisor that divides the digit's."""
        loops = [loop for loop in self.loops if loop.axis == digit.axis]
        if any((loop.div, loop.ext) == (digit.div, digit.ext) for loop in loops):
            return True
        if not loops:
            return False
        chain = sorted_chain(self.context.space, loops)
        if chain is None or not chain[-1].top or any(up.div != low.div * low.ext for low, up in zip(chain, chain[1:])):
            return False
        return isinstance(self.context.facts.divisible(digit.div, chain[0].div), Proved)

    def _free_index(self, digit: Digit, entry: Entry) -> None:
        name, text = letter(digit.axis), entry.span.text
        fail("free-index", entry.span, f"nothing gives index `{text}`", helps=(f"put `{name}` on the left, or sum over it: `sum[{text}](...)`",))

    def _pick(self, value: Value, entry: Pick, missing: list[Digit]) -> tuple[str, Any]:
        digit = self.context.digit(entry.digit)
        if digit is None or digit not in missing:
            fail("read-digits", entry.digit.span, f"`{entry.digit.span.text}` is not a digit of `{value.name}`")
        missing.remove(digit)
        index, low, high = self._index(entry.at)
        facts = self.context.facts
        self.context.space.need(facts.at_least(low, 0), "pick-out-of-range", f"`{entry.at.span.text}` may be negative")
        bound = f"`{entry.at.span.text}` may reach past the end of `{entry.digit.span.text}`, which has {self.context.space.text(digit.ext)} values"
        self.context.space.need(facts.at_least(digit.ext - 1, high), "pick-out-of-range", bound)
        return digit.axis, index

    def _index(self, expr: Expr) -> tuple[Any, Size, Size]:
        """An index expression with its range: loops, sizes, sums and products with constants."""
        if isinstance(expr, Binary) and expr.op in ("+", "-", "*") and self._mentions_loop(expr):
            (left, low, high), (right, low2, high2) = self._index(expr.left), self._index(expr.right)
            if expr.op == "+":
                return ("+", left, right), low + low2, high + high2
            if expr.op == "-":
                return ("-", left, right), low - high2, high - low2
            return ("*", left, right), low * low2, high * high2
        if self._mentions_loop(expr):
            digit = self.context.digit(expr)
            assert digit is not None
            if not self._determined(digit):
                self._free_index(digit, expr)
            return self._from_loops(digit), Size.of(0), digit.ext - 1
        size = size_of(expr, self.context)
        return size, size, size

    def _from_loops(self, digit: Digit) -> Any:
        """A digit that the loops determine, as an expression over them: a loop itself, or the quotient and remainder of the index that they make together."""
        loops = [loop for loop in self.loops if loop.axis == digit.axis]
        if any((loop.div, loop.ext) == (digit.div, digit.ext) for loop in loops):
            return ("loop", digit.axis, digit.div, digit.ext)
        chain, facts = sorted_chain(self.context.space, loops), self.context.facts
        assert chain is not None  # or the digit would not be determined
        base, index = chain[0].div, None
        for loop in chain:
            part: Any = ("loop", loop.axis, loop.div, loop.ext)
            part = part if loop.div == base else ("*", part, facts.div(loop.div, base))
            index = part if index is None else ("+", index, part)
        coarse = index if digit.div == base else ("//", index, facts.div(digit.div, base))
        return coarse if digit.top else ("%", coarse, digit.ext)

    def _mentions_loop(self, expr: Expr) -> bool:
        return any(isinstance(node, Name) and node.id in self.context.axes for node in nodes(expr))

    # -- sums

    def _sum(self, expr: Sum) -> Typed:
        bound = []
        for entry in expr.entries:
            digit = self.context.digit(entry)
            if digit is None:
                fail("not-a-digit", entry.span, "a sum over one element")
            clash = next((loop for loop in self.loops if self._overlap(loop, digit)), None)
            if clash is not None:
                text = digit_text(self.context.space, clash)
                message = f"`{text}` stands on the left, so a sum cannot run over it" + ("" if text == entry.span.text else f" as part of `{entry.span.text}`")
                fail("sum-bound-twice", entry.span, message)
            bound.append(digit)
        inner = Math(self.context, self.tensors, (*self.loops, *bound), self.real, self.reads)
        first = len(self.reads)
        body = inner.typed(expr.body)
        if body.dtype is None:
            fail("not-math", expr.body.span, "a sum of a literal")
        index_math.sum_result(body.dtype)
        order = self._order(tuple(bound), [value for value, _ in self.reads[first:]])
        return Typed(("sum", tuple(bound), order, body.expr), body.dtype)

    def _overlap(self, loop: Digit, digit: Digit) -> bool:
        if loop.axis != digit.axis or loop.unit or digit.unit:
            return False
        facts = self.context.facts
        return not any(isinstance(facts.at_least(up.div, low.div * low.ext), Proved) for up, low in ((loop, digit), (digit, loop)))

    def _order(self, bound: tuple[Digit, ...], reads: list[Value]) -> tuple[Digit, ...]:
        """The order in which the body lies before it is summed: dims as seen of the first tensor read that carries a summed axis; what it lacks goes outermost.

        It decides the bits of a float sum, so it is part of the language (docs/language.md, sums).
        """
        axes = {digit.axis for digit in bound}
        loops = [*self.loops, *bound]
        lead = next((v for v in reads if any(d.axis in axes for dim in v.type.dims for d in dim)), None)
        if lead is None:
            return tuple(loops)
        seen = list(dict.fromkeys(digit.axis for dim in lead.type.dims for digit in dim))
        chains: list[Digit] = []
        for axis in seen:
            chains += reversed(sorted_chain(self.context.space, [loop for loop in loops if loop.axis == axis]) or [])
        outer = [loop for loop in self.loops if loop.axis not in seen]
        rest = [loop for loop in bound if loop.axis not in seen]
        ordered = [*outer, *chains, *rest]
        ordered += [loop for loop in loops if loop not in ordered]
        return tuple(ordered)

    # -- operators and functions

    def _operator(self, expr: Binary) -> Typed:
        left, right = self.typed(expr.left), self.typed(expr.right)
        if left.dtype is None and right.dtype is None:
            return Typed(("const", None, _fold(expr, left.expr[2], right.expr[2])), None)
        dtype = left.dtype or right.dtype
        assert dtype is not None
        left, right = self._literal(left, dtype, expr.left.span), self._literal(right, dtype, expr.right.span)
        assert left.dtype is not None and right.dtype is not None
        try:
            result = index_math.operator_result(expr.op, left.dtype, right.dtype)
        except Reject as error:
            labels = (Label(expr.left.span, f"this is {left.dtype}"), Label(expr.right.span, f"this is {right.dtype}"))
            raise DiagnosticError(
                Diagnostic(code=error.code, message=error.message, span=expr.span, labels=labels, notes=error.notes, helps=error.helps or help_for(error.code))
            ) from None
        return Typed((expr.op, left.expr, right.expr), result)

    def _literal(self, typed: Typed, dtype: str, span: Span) -> Typed:
        if typed.dtype is not None:
            return typed
        value = typed.expr[2]
        if isinstance(value, Size) and value.symbols <= self.context.world.settings.keys():
            # An integer of the config: a number once a plan is compiled, and checked there.
            return Typed(("const", dtype, value), dtype)
        if isinstance(value, Size) or not index_math.literal_fits(value, dtype):
            fail("literal-inexact", span, f"{value} is not exact in {dtype}")
        return Typed(("const", dtype, value), dtype)

    def _call(self, expr: Call) -> Typed:
        arguments = [argument.value for argument in expr.arguments if argument.keyword is None]
        if expr.name in index_math.CONVERSIONS:
            if len(arguments) != 2:
                fail("argument-count", expr.span, f"`{expr.name}` takes a dtype and an expression", helps=(f"write `{expr.name}(float32, ...)`",))
            target = self._dtype(arguments[0])
            return self._convert(expr.name, target, arguments[1], expr.span)
        if expr.name in ELEMENTS or self._names_dtype(expr):
            if len(arguments) != 1:
                fail("argument-count", expr.span, f"`{expr.name}(...)` casts one expression")
            return self._convert("cast", dtype_name(self.context, expr.name, expr.name_span), arguments[0], expr.span)
        fail(
            "name-unknown",
            expr.name_span,
            f"`{expr.name}` is not a function of index math",
            helps=(f"known: dtypes, sum[...], {', '.join(index_math.CONVERSIONS)}",),
        )

    def _names_dtype(self, expr: Call) -> bool:
        world = self.context.world
        return expr.name in world.settings or any(let.name.value == expr.name for let in world.document.let)

    def _dtype(self, expr: Expr) -> str:
        if not isinstance(expr, Name):
            fail("not-a-dtype", expr.span, f"`{expr.span.text}` is not a dtype")
        return dtype_name(self.context, expr.id, expr.span)

    def _convert(self, function: str, target: str, operand: Expr, span: Span) -> Typed:
        inner = self.typed(operand)
        if self.real:
            fail("cast-in-value", span, "`value` and `invariants` are over the reals: nothing is rounded there", helps=("drop the cast",))
        if inner.dtype is None:
            value = inner.expr[2]
            if function != "cast" or not index_math.literal_fits(value, target):
                fail("literal-inexact", operand.span, f"{value} is not exact in {target}")
            return Typed(("const", target, value), target)
        try:
            return Typed((function, target, inner.expr), index_math.conversion_result(function, target, inner.dtype))
        except Reject as error:
            raise reject(error, span) from None


def _fold(expr: Binary, left: Any, right: Any) -> Any:
    if isinstance(left, Size) or isinstance(right, Size):
        fail("not-math", expr.span, "arithmetic on sizes belongs into `let`")
    if expr.op == "/":
        fail("literal-inexact", expr.span, "write the quotient as one literal")
    if expr.op in ("//", "%") and right == 0:
        fail("size-operator", expr.right.span, "division by zero")
    return {"+": lambda: left + right, "-": lambda: left - right, "*": lambda: left * right, "//": lambda: left // right, "%": lambda: left % right}[expr.op]()
