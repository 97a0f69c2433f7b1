"""Calls against contracts: a row of argument types is unified with the operands of a call, letter by letter, and compared as types.

Layout rows are proved; limit rows become conditions of use. A kernel without a contract may be called: that is reported, not refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from layoutdsl.compiler.emit import test_expr
from layoutdsl.compiler.evaluate import DtypeName
from layoutdsl.compiler.scope import Context, Memo
from layoutdsl.compiler.types import tensor_type
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Source, Span
from layoutdsl.ir.layout import TensorType, difference, format_text, type_text
from layoutdsl.ir.program import Limit
from layoutdsl.ir.symbolic import Size
from layoutdsl.kernels import CONTRACTS, Contract, LimitRow, Row
from layoutdsl.syntax.expressions import parse_expression, parse_type
from layoutdsl.syntax.tree import Binary, Constant, Entry, Expr, Name, TypeText


@dataclass(frozen=True, slots=True)
class Operand:
    """An argument as the call gives it: a tensor's type, or an integer."""

    type: TensorType | None
    integer: int | Size | None
    span: Span


@cache
def _row_type(text: str) -> TypeText:
    source = Source("contract", text)
    return parse_type(Span(source, 0, len(text)))


@cache
def _row_test(text: str) -> Expr:
    source = Source("contract", text)
    return parse_expression(Span(source, 0, len(text)))


@dataclass(slots=True, eq=False)
class RowContext(Context):
    """A row's letters as the axes that the operands bound them to."""

    integers: dict[str, int | Size] = field(default_factory=dict)
    x_dtype: str = ""

    def lookup(self, name: str, span: Span) -> Any:
        if name in self.integers:
            return self.integers[name]
        if name == "x_dtype":
            return DtypeName(self.x_dtype)
        if len(name) <= 2 and name.lower() in self.axes:
            size = self.space.extents[self.axes[name.lower()]]
            return size.constant if size.constant is not None else size
        return super().lookup(name, span)


class Mismatch(Exception):
    """An operand does not fit a row: which, what was expected, and why."""

    def __init__(self, argument: str, expected: str, reason: str) -> None:
        super().__init__(reason)
        self.argument, self.expected, self.reason = argument, expected, reason


def rows_for(name: str, device: str) -> tuple[Row, ...]:
    return tuple(row for row in CONTRACTS[name].rows if device in row.devices)


def check_call(
    name: str, span: Span, operands: Mapping[str, Operand], given: frozenset[str], context: Context, x_dtype: str, device_rows: tuple[Row, ...]
) -> tuple[list[Diagnostic] | None, list[Limit]]:
    """Problems and conditions of use of one call; None for a call that no row speaks of.

    operands: the arguments whose types are known, by name; given: the names of all arguments; ``x_dtype``: dtype of the 16-bit activation.
    """
    contract = CONTRACTS[name]
    rows = [row for row in device_rows if _meant(row, operands, given)]
    if not rows:
        return None, []
    failures: list[tuple[tuple[int, int], Row, Mismatch]] = []
    for row in rows:
        matcher = _Matcher(row, operands, context, x_dtype)
        try:
            return [], matcher.match(contract, span)
        except Mismatch as mismatch:
            failures.append(((matcher.matched, _likeness(row, operands)), row, mismatch))
    _, closest, reason = max(failures, key=lambda failure: failure[0])
    return [_refusal(name, closest, reason, operands, context, span)], []


def _meant(row: Row, operands: Mapping[str, Operand], given: frozenset[str]) -> bool:
    """May this row be meant: the arguments that select it are there, and the weight has its element."""
    weight = operands.get("weight")
    if weight is None or weight.type is None or not given.issuperset(row.selected_by):
        return False
    return _row_type(row.arguments["weight"]).element.name == weight.type.element.name


def _likeness(row: Row, operands: Mapping[str, Operand]) -> int:
    """How much the operands look like a row's, to find the row that was meant: lists or not, format, storage, rank."""
    alike = 0
    for argument, text in row.arguments.items():
        kind = operands[argument].type if argument in operands else None
        if kind is None:
            continue
        wanted = _row_type(text)
        dims = wanted.layout.dims if wanted.layout else wanted.logical
        nz = wanted.layout is not None and wanted.layout.format == "nz"
        storage = wanted.layout.storage if wanted.layout else wanted.element.name
        alike += sum((entry == Constant(0, entry.span)) == all(d.unit for d in dim) for entry, dim in zip(dims, kind.dims))
        alike += 4 * ((argument in row.listed) == (kind.listed is not None)) + 2 * (nz == bool(kind.format))
        alike += (storage == kind.storage) + (len(dims) == len(kind.dims))
    return alike


def _refusal(name: str, row: Row, mismatch: Mismatch, operands: Mapping[str, Operand], context: Context, span: Span) -> Diagnostic:
    operand = operands.get(mismatch.argument)
    short = name.rpartition(":")[2]
    notes = [f"by the contract row `{row.name}` ({row.source})"]
    if operand is None or operand.type is None:
        message = f"`{short}` needs the argument `{mismatch.argument}` with operands of these types"
        write = (f"pass `{mismatch.argument}=...`",)
        return Diagnostic(code="contract-layout", message=message, span=span, where=mismatch.argument, notes=tuple(notes), helps=write)
    found = type_text(context.space, operand.type)
    message = f"`{short}` wants `{mismatch.argument}` as `{mismatch.expected}`, the pipeline gives `{found}`"
    helps = tuple(text for start, text in _MENDS if mismatch.reason.startswith(start))[:1]
    return Diagnostic(
        code="contract-layout", message=message, span=operand.span, label=mismatch.reason, where=mismatch.argument, notes=tuple(notes), helps=helps
    )


_MENDS = (
    ("it lies in memory", "write `contiguous` as a stage before the call"),
    ("stored as", "`pack`, `bitcast` or `widen` makes another storage of it"),
    ("the element is", "cast it: `cast(float32)` in the steps, `cast(x.dtype, ...)` in the call"),
    ("the bits are", "`widen` says `zero` or `sign`"),
    ("lanes run", "the lanes come from `pack` along the last axis: `transpose(...) | contiguous` before it"),
    ("the format", "the step has, or lacks, an `nz`"),
    ("it is one tensor", "`unbind` makes a list of tensors"),
    ("it is a list", "pass the tensor that was not taken apart"),
    ("the number of dims", "`view` adds and drops dims of one index"),
    ("it has", "`view` adds and drops dims of one index; a forgotten `sum` leaves one too many"),
    ("", "`transpose`, `view` or the left side of index math gives the dims another order"),
)
"""What to write, by the beginning of the reason."""


class _Matcher:
    """Unifies one row with one call. ``matched`` counts the arguments that fitted, to find the row that was meant."""

    def __init__(self, row: Row, operands: Mapping[str, Operand], context: Context, x_dtype: str) -> None:
        self.row, self.operands, self.context, self.x_dtype = row, operands, context, x_dtype
        self.letters: dict[str, str] = {}
        self.integers: dict[str, int | Size] = {}
        self.matched = 0

    def match(self, contract: Contract, span: Span) -> list[Limit]:
        for argument in self.row.required:
            if argument not in self.operands:
                raise Mismatch(argument, "", "this row cannot do without it")
        texts = {name: _row_type(text) for name, text in self.row.arguments.items() if name in self.operands and self.operands[name].type is not None}
        for name, text in texts.items():
            self._bind_letters(name, text)
        self._bind_integers(texts)
        for name, text in texts.items():
            self._compare(name, text)
            self.matched += 1
        return [self._limit(contract.op, limit, span) for limit in self.row.limits]

    def _bind_letters(self, name: str, text: TypeText) -> None:
        kind = self._operand(name)
        dims = text.layout.dims if text.layout else text.logical
        found = kind.dims
        if len(found) != len(dims):
            raise Mismatch(name, text.span.text, f"it has {len(found)} dims, not {len(dims)}")
        blocked = text.layout is not None and text.layout.format == "nz"
        if blocked != bool(kind.format):
            raise Mismatch(name, text.span.text, f"the format is {format_text(kind)}, not {'FRACTAL_NZ' if blocked else 'ND'}")
        for entry, dim in zip(dims, found):
            letter = _letter(entry)
            if letter is not None and len(dim) == 1:
                if self.letters.setdefault(letter, dim[0].axis) != dim[0].axis:
                    raise Mismatch(
                        name,
                        text.span.text.replace("x_dtype", self.x_dtype),
                        f"`{letter}` is `{dim[0].axis}` here, but `{self.letters[letter]}` in the arguments before it",
                    )

    def _bind_integers(self, texts: Mapping[str, TypeText]) -> None:
        for letter, argument in self.row.integers.items():
            operand = self.operands.get(argument)
            if operand is not None and operand.integer is not None:
                self.integers[letter] = operand.integer
            elif argument == "from the scale":
                self._bind_from_types(letter, texts)
            else:
                self.integers[letter] = self._row_context().space.extents.get(self.letters.get("k", ""), Size.of(1))

    def _bind_from_types(self, letter: str, texts: Mapping[str, TypeText]) -> None:
        for name, text in texts.items():
            entries = text.layout.dims if text.layout else text.logical
            for entry, dim in zip(entries, self._operand(name).dims):
                if isinstance(entry, Binary) and entry.op == "//" and isinstance(entry.right, Name) and entry.right.id == letter and len(dim) == 1:
                    self.integers[letter] = dim[0].div

    def _operand(self, name: str) -> TensorType:
        kind = self.operands[name].type
        assert kind is not None
        if name in self.row.listed:
            if kind.listed is None:
                raise Mismatch(name, f"list of {self.row.arguments[name]}", "it is one tensor, not a list of tensors")
            return replace(kind, listed=None)
        if kind.listed is not None:
            raise Mismatch(name, self.row.arguments[name], "it is a list of tensors, not one")
        return kind

    def _row_context(self) -> RowContext:
        context = RowContext(self.context.world, self.context.member, self.context.facts)
        context._axes, context._space, context._memo = dict(self.letters), self.context.space, Memo()
        context.integers, context.x_dtype = self.integers, self.x_dtype
        return context

    def _compare(self, name: str, text: TypeText) -> None:
        kind = self._operand(name)
        expected = self._expected(name, text)
        expected = replace(expected, view=kind.view, initialised=kind.initialised)
        if not kind.initialised:
            raise Mismatch(name, text.span.text, "it is not in the checkpoint here and has no `init`")
        reason = difference(self.context.space, kind, expected)
        if reason is not None or len([d for d in kind.dims if not d or d[0].unit]) != len([d for d in expected.dims if not d or d[0].unit]):
            raise Mismatch(name, type_text(self.context.space, expected), reason or "the number of dims of one index differs")

    def _expected(self, name: str, text: TypeText) -> TensorType:
        """The row's type over the operands' axes; made once for all worlds in which the letters mean the same."""
        key = (text.span.text, tuple(self.letters.items()), tuple(self.integers.items()), self.x_dtype)
        try:
            return self.context.memo.by_value(key, lambda: tensor_type(text, self._row_context()))
        except DiagnosticError as error:
            raise Mismatch(name, text.span.text, error.diagnostics[0].message) from None

    def _limit(self, kernel: str, limit: LimitRow, span: Span) -> Limit:
        expr, context = _row_test(limit.test), self._row_context()
        text = limit.test
        return Limit(limit.slug, text, test_expr(expr, context), kernel, f"{self.row.name}; {self.row.source}", span)


def broken_by_defaults(limit: Limit, context: Context) -> str:
    """The values with which the spec's own default configuration breaks a condition of use, whatever the sizes; empty if it does not."""
    defaults: dict[str, Any] = {}
    for name, setting in context.world.settings.items():
        default = context.arm(setting.default) if setting.default is not None else None
        value = getattr(default, "value", default)
        if isinstance(value, int) and not isinstance(value, bool):
            defaults[name] = value
    from layoutdsl.plan.sizes import evaluate, names_in

    for test in _conjuncts(limit.test):
        names = names_in(test)
        if names and names <= defaults.keys() and not evaluate(test, defaults):
            return ", ".join(f"{name} = {defaults[name]}" for name in sorted(names))
    return ""


def _conjuncts(test: Any) -> list[Any]:
    return [part for operand in test[1:] for part in _conjuncts(operand)] if isinstance(test, tuple) and test[0] == "and" else [test]


def _letter(entry: Entry) -> str | None:
    match entry:
        case Name(name):
            return name
        case Binary("//" | "%", left):
            return _letter(left)
        case Constant():
            return None
    return None
