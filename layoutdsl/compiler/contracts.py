"""Calls against contracts: a row of argument types is unified with the operands of a call, letter by letter, and compared as types.

Used by ``layoutdsl.compiler.forward_types``. Layout rows are proved; limit rows become conditions of use; a row that fits says what the call gives. A kernel
without a contract may be called: that is reported, not refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from operator import eq
from typing import Any, NamedTuple

from layoutdsl.compiler.emit import test_expr
from layoutdsl.compiler.evaluate import DtypeName, size_of
from layoutdsl.compiler.require import Learned, learn
from layoutdsl.compiler.scope import Context, Memo
from layoutdsl.compiler.types import tensor_type
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Label, Source, Span
from layoutdsl.ir.layout import ROWS, Digit, Dim, Space, TensorType, difference, format_text, type_text
from layoutdsl.ir.layout import letter as letter_of
from layoutdsl.ir.program import Limit, Value
from layoutdsl.ir.symbolic import Size
from layoutdsl.kernels import ANY, CONTRACTS, LIST, Contract, Row
from layoutdsl.plan.sizes import evaluate, names_in
from layoutdsl.syntax.expressions import parse_expression, parse_type
from layoutdsl.syntax.tree import Binary, Constant, Entry, Expr, Group, Name, TypeText


@dataclass(frozen=True, slots=True)
class Operand:
    """An argument as the call gives it: a tensor's type, a constant (number, truth value, text, dtype, list of integers, None), or neither known. layer: the
    value of the layer that it is. origin: the call that quantized it, or made it as the scale of what it quantized."""

    span: Span
    type: TensorType | None = None
    value: Any = None
    known: bool = True
    layer: Value | None = None
    origin: str = ""

    @property
    def absent(self) -> bool:
        return self.known and self.type is None and self.value is None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of one call. problems: findings. results: types, None where unknown. extents: of the axes that only results have. mutated: arguments that
    the kernel overwrites. sums, addends: the axis summed over, and the arguments added to the sum. scales: pairs (scale, what it is the scale of). quantizes:
    are the results a quantized tensor and its scale?"""

    problems: tuple[Diagnostic, ...] = ()
    limits: tuple[Limit, ...] = ()
    results: tuple[TensorType | None, ...] = ()
    extents: tuple[tuple[str, Size], ...] = ()
    mutated: tuple[str, ...] = ()
    sums: str = ""
    addends: tuple[str, ...] = ()
    scales: tuple[tuple[str, str], ...] = ()
    quantizes: bool = False


@cache
def _row_type(text: str) -> TypeText:
    source = Source("contract", text.removeprefix(LIST))
    return parse_type(Span(source, 0, len(source.text)))


@cache
def _row_expression(text: str) -> Expr:
    source = Source("contract", text)
    return parse_expression(Span(source, 0, len(text)))


@dataclass(slots=True, eq=False)
class RowContext(Context):
    """A row's letters as the axes, dtypes and integers that the operands bound them to."""

    integers: dict[str, int | Size] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)

    @property
    def axes(self) -> dict[str, str]:
        """The letters that are bound, and none of the layer's axes."""
        return self._axes

    def lookup(self, name: str, span: Span) -> Any:
        if name in self.integers:
            return self.integers[name]
        if name in self.dtypes:
            return DtypeName(self.dtypes[name])
        if len(name) <= 2 and name.lower() in self.axes:
            size = self.space.extents[self.axes[name.lower()]]
            return size.constant if size.constant is not None else size
        return Context.lookup(self, name, span)  # `super()` does not work in a class with slots


class Mismatch(Exception):
    """An operand does not fit a row: which, what was expected, and why."""

    def __init__(self, argument: str, expected: str, reason: str) -> None:
        super().__init__(reason)
        self.argument, self.expected, self.reason = argument, expected, reason


def rows_for(op: str, device: str, consumer: str | None) -> tuple[Row, ...]:
    """The rows of a device and a consumer; every consumer's where none is decided."""
    rows = CONTRACTS[op].rows
    return tuple(row for row in rows if device in row.devices and (consumer is None or not row.consumers or consumer in row.consumers))


def check_call(contract: Contract, rows: tuple[Row, ...], operands: Mapping[str, Operand], context: Context, span: Span, here: str) -> Verdict:
    """The verdict of a row that fits, or the refusal of the row that was meant.

    operands: by argument, what is left out included with the schema's default. here: a name of the call, from which axes that only its results have are named.
    """
    failures: list[tuple[tuple[int, int], Row, Mismatch]] = []
    defaults = {parameter.name: parameter.default_value for parameter in contract.schema.parameters if not parameter.tensors}
    # The row that was meant is tried first: it mostly fits.
    looks = {argument: _look_of(operand.type) for argument, operand in operands.items() if operand.type is not None}
    for likeness, row in sorted(((_likeness(defaults, row, operands, looks), row) for row in rows), key=lambda found: -found[0]):
        matcher = _Matcher(contract, row, operands, context, here)
        try:
            return matcher.match(span)
        except Mismatch as mismatch:
            failures.append(((likeness, matcher.matched), row, mismatch))
    _, closest, reason = max(failures, key=lambda failure: failure[0])
    return Verdict((_refusal(contract.op, closest, reason, operands, context, span),), results=(None,) * len(contract.schema.returns))


class _Look(NamedTuple):
    """What tells an operand of one row from that of another. element: its dtype, or a row's letter. single: per dim, has it one index alone?"""

    element: str
    storage: str
    listed: bool
    nz: bool
    single: tuple[bool, ...]


@cache
def _look(text: str) -> _Look:
    wanted = _row_type(text)
    layout, element = wanted.layout, wanted.element.name
    single = tuple(entry == Constant(0, entry.span) for entry in (layout.dims if layout else wanted.logical))
    return _Look(element, layout.storage if layout else element, text.startswith(LIST), layout is not None and layout.format == "nz", single)


def _look_of(kind: TensorType) -> _Look:
    single = tuple(all(digit.unit for digit in dim) for dim in kind.dims)
    return _Look(kind.element.name, kind.storage, kind.listed is not None, bool(kind.format), single)


def _likeness(defaults: Mapping[str, Any], row: Row, operands: Mapping[str, Operand], looks: Mapping[str, _Look]) -> int:
    """How much the operands look like a row's, to find the row that was meant: what is there, elements, lists or not, format, storage, rank, constants.

    defaults: of the arguments that are no tensors. looks: of those that are.
    """
    alike = 0
    for argument, operand in operands.items():
        text = row.arguments.get(argument)
        if text is None:
            alike -= 4 * (operand.type is not None) + 4 * (not _accepts(defaults, row, argument, operand))
        elif operand.type is None:
            alike -= 3 * (operand.absent and argument in row.required)
        else:
            alike += _alike(row, _look(text), looks[argument])
    return alike


def _accepts(defaults: Mapping[str, Any], row: Row, argument: str, operand: Operand) -> bool:
    if argument not in defaults or not operand.known or argument in row.integers.values():
        return True
    values = row.constants.get(argument)
    return operand.value == defaults[argument] if values is None else values == ANY or operand.value in values


def _alike(row: Row, wanted: _Look, found: _Look) -> int:
    element: bool = found.element in row.dtypes.get(wanted.element, (wanted.element,))
    dims: int = sum(map(eq, wanted.single, found.single)) + (len(wanted.single) == len(found.single))
    return dims + (wanted.storage == found.storage) + 2 * (wanted.nz == found.nz) + 4 * (wanted.listed == found.listed) + 6 * element


def _refusal(op: str, row: Row, mismatch: Mismatch, operands: Mapping[str, Operand], context: Context, span: Span) -> Diagnostic:
    operand, short, argument = operands.get(mismatch.argument), op.rpartition(":")[2], mismatch.argument
    notes = (f"by the contract row `{row.name}` ({row.source})",)
    if operand is None or operand.absent:
        wanted = f"`{argument}` as `{mismatch.expected}`" if mismatch.expected else f"the argument `{argument}` with operands of these types"
        message = f"`{short}` needs {wanted}"
        return Diagnostic(code="contract-layout", message=message, span=span, where=argument, notes=notes, helps=(f"pass `{argument}=...`",))
    if operand.type is None:
        message = f"`{short}` wants `{argument}` to be {mismatch.expected}, the call says {_shown(operand.value)}"
        return Diagnostic(code="contract-layout", message=message, span=operand.span, label=mismatch.reason, where=argument, notes=notes)
    found = type_text(context.space, operand.type)
    wanted = f"wants `{argument}` as `{mismatch.expected}`" if mismatch.expected else f"takes no `{argument}` with operands of these types"
    message = f"`{short}` {wanted}, the pipeline gives `{found}`" + (f": {mismatch.reason}" if mismatch.expected == found else "")
    helps = tuple(text for start, text in _MENDS if mismatch.reason.startswith(start))[:1]
    labels = (Label(operand.layer.span, "made here"),) if operand.layer is not None else ()
    return Diagnostic(
        code="contract-layout", message=message, span=operand.span, label=mismatch.reason, where=argument, labels=labels, notes=notes, helps=helps
    )


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


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
    ("the row does not", "drop the argument"),
    ("it is the reciprocal", "pass the scale itself"),
    ("it is a scale", "make the reciprocal as a step of its own: `name[k]: 1 / scale[0]`"),
    ("the parts of", "`segments` names the parts of an axis in the order in which the checkpoint stacks them"),
    ("", "`transpose`, `view` or the left side of index math gives the dims another order"),
)
"""What to write, by the beginning of the reason."""


class _Matcher:
    """Unifies one row with one call. ``matched`` counts the arguments that fitted, to find the row that was meant."""

    def __init__(self, contract: Contract, row: Row, operands: Mapping[str, Operand], context: Context, here: str) -> None:
        self.contract, self.row, self.operands, self.context, self.here = contract, row, operands, context, here
        self.letters: dict[str, str] = {}
        self.integers: dict[str, int | Size] = {}
        self.dtypes: dict[str, str] = {}
        self.matched = 0
        self.extents: dict[str, Size] = {}

    def match(self, span: Span) -> Verdict:
        self._presence()
        texts = {name: text for name, text in self.row.arguments.items() if (given := self.operands.get(name)) is not None and given.type is not None}
        for name, text in texts.items():
            self._bind_element(name, _row_type(text))
            self._check_form(name, _row_type(text), text)
        self._vote(texts)
        for name, text in texts.items():
            for letter, axis in self._proposals(name, text):
                self._bind(name, letter, axis, _row_type(text))
        self._bind_integers(texts)
        for name, text in texts.items():
            self._compare(name, text)
            self.matched += 1
        self._constants()
        self._check_segments()
        for letter, extent in self.row.derived.items():
            self._derive(letter, extent)
        return Verdict(
            limits=tuple(self._limits(span)),
            results=tuple(self._result(text) for text in self.row.results),
            extents=tuple(self.extents.items()),
            mutated=self.row.mutates,
            sums=self.letters.get(self.row.sums, ""),
            addends=self.row.addends,
            scales=tuple(self.row.scales.items()),
            quantizes=self.row.quantizes,
        )

    # -- what is there

    def _presence(self) -> None:
        for parameter in self.contract.schema.parameters:
            operand = self.operands.get(parameter.name)
            if not parameter.tensors or operand is None:
                continue
            if operand.absent and parameter.name in self.row.required:
                raise Mismatch(parameter.name, "", "this row cannot do without it")
            if not operand.absent and parameter.name not in self.row.arguments:
                raise Mismatch(parameter.name, "", "the row does not take it")

    def _constants(self) -> None:
        """What is no tensor: one of the values of the row; without values in the row, the schema's default."""
        for parameter in self.contract.schema.parameters:
            operand = self.operands.get(parameter.name)
            if parameter.tensors or operand is None or not operand.known or parameter.name in self.row.integers.values():
                continue
            values = self.row.constants.get(parameter.name, (parameter.default_value,))
            if values != ANY and operand.value not in values and not (operand.value is None and parameter.default_value in values):
                raise Mismatch(parameter.name, " or ".join(map(_shown, values)), f"it is {_shown(operand.value)}")
            if operand.value is not None:
                self.dtypes[parameter.name] = str(operand.value)

    def _operand(self, name: str, text: str) -> TensorType:
        kind = self.operands[name].type
        assert kind is not None
        if text.startswith(LIST):
            if kind.listed is None:
                raise Mismatch(name, text, "it is one tensor, not a list of tensors")
            return replace(kind, listed=None)
        if kind.listed is not None:
            raise Mismatch(name, text, "it is a list of tensors, not one")
        return kind

    # -- letters

    def _bind_element(self, name: str, text: TypeText) -> None:
        letter, kind = text.element.name, self.operands[name].type
        assert kind is not None
        if letter not in self.row.dtypes:
            return
        bound = self.dtypes.setdefault(letter, kind.element.name)
        if bound not in self.row.dtypes[letter]:
            expected = " or ".join(text.span.text.replace(letter, dtype, 1) for dtype in self.row.dtypes[letter])
            raise Mismatch(name, expected, f"the element is {kind.element.name}")

    def _check_form(self, name: str, text: TypeText, written: str) -> None:
        """As many dims, in the format wanted: before that, letters mean nothing."""
        kind, dims = self._operand(name, written), text.layout.dims if text.layout else text.logical
        if len(kind.dims) != len(dims):
            raise Mismatch(name, self._with_dtypes(text.span.text), f"it has {len(kind.dims)} dims, not {len(dims)}")
        blocked = text.layout is not None and text.layout.format == "nz"
        if blocked != bool(kind.format):
            raise Mismatch(name, self._with_dtypes(text.span.text), f"the format is {format_text(kind)}, not {'FRACTAL_NZ' if blocked else 'ND'}")

    def _proposals(self, name: str, written: str) -> list[tuple[str, str]]:
        """The letters of an argument's text with the axes that the operand has there."""
        whole, kind = self.operands[name].type, self._operand(name, written)
        assert whole is not None
        found = [("e", whole.listed)] if whole.listed is not None else []
        return [*found, *((letter, axis) for letter, axis in _pairs(_row_type(written), kind))]

    def _vote(self, texts: Mapping[str, str]) -> None:
        """Where operands do not agree on what a letter stands for, the one that most others contradict is blamed, not the one that comes last."""
        extents = self.context.space.extents
        votes: dict[str, dict[Size, list[tuple[str, str]]]] = {}
        for name, text in texts.items():
            for letter, axis in self._proposals(name, text):
                votes.setdefault(letter, {}).setdefault(extents[axis], []).append((name, axis))
        against = dict.fromkeys(texts, 0)
        for found in votes.values():
            for extent, voters in found.items():
                for name, _ in voters:
                    against[name] += sum(len(others) for other, others in found.items() if other != extent)
        blamed = max(reversed(against), key=against.__getitem__, default="")
        if not against.get(blamed):
            return
        letter, axis, wanted, argument = max(self._disagreements(blamed, votes), key=lambda found: len(votes[found[0]][extents[found[2]]]))
        names = [letter_of(axis), letter_of(wanted)]
        ours, theirs = names if names[0] != names[1] else (axis, wanted)  # the same letter of two members
        reason = f"`{letter}` is `{ours}` here, but `{theirs}` in `{argument}`"
        raise Mismatch(blamed, self._with_dtypes(_row_type(texts[blamed]).span.text), reason)

    @staticmethod
    def _disagreements(name: str, votes: Mapping[str, Mapping[Size, list[tuple[str, str]]]]) -> Iterator[tuple[str, str, str, str]]:
        """Letters that mean something else in other operands: letter, our axis, theirs, and an operand that has theirs."""
        for letter, found in votes.items():
            for extent, voters in found.items():
                ours = [axis for voter, axis in voters if voter == name]
                for other, others in found.items():
                    if ours and other != extent:
                        yield letter, ours[0], others[0][1], others[0][0]

    def _bind(self, name: str, letter: str, axis: str, text: TypeText) -> None:
        """A letter stands for one axis, m for the rows of ``x``. Activations meet weights along axes of equal extents: what one layer's outputs are, is the
        next one's inputs."""
        if letter == letter_of(ROWS) and axis != ROWS:
            raise Mismatch(name, self._with_dtypes(text.span.text), f"`{letter_of(axis)}` is where the rows of `x` should be")
        bound = self.letters.setdefault(letter, axis)
        if bound == axis or self._meets(name, bound, axis):
            return
        reason = f"`{letter}` is `{letter_of(axis)}` here, but `{letter_of(bound)}` in the arguments before it"
        raise Mismatch(name, self._with_dtypes(text.span.text), reason)

    def _meets(self, name: str, bound: str, axis: str) -> bool:
        extents = self.context.space.extents
        moving = self.operands[name].type
        assert moving is not None
        return any(digit.axis == ROWS for dim in moving.dims for digit in dim) and extents[bound] == extents[axis]

    def _with_dtypes(self, text: str) -> str:
        """A row's text with the letters that stand for dtypes written out."""
        letter = text.partition("[")[0]
        return text.replace(letter, self.dtypes[letter], 1) if letter in self.dtypes else text

    def _bind_integers(self, texts: Mapping[str, str]) -> None:
        for letter, argument in self.row.integers.items():
            operand = self.operands.get(argument)
            if not argument:
                self._bind_from_types(letter, texts)
            elif operand is not None and isinstance(operand.value, (int, Size)) and operand.value != 0:
                self.integers[letter] = operand.value
            else:
                self.integers[letter] = self.context.space.extents.get(self.letters.get("k", ""), Size.of(1))

    def _bind_from_types(self, letter: str, texts: Mapping[str, str]) -> None:
        for name, written in texts.items():
            text = _row_type(written)
            entries = text.layout.dims if text.layout else text.logical
            for entry, dim in zip(entries, self._operand(name, written).dims):
                if isinstance(entry, Binary) and entry.op == "//" and isinstance(entry.right, Name) and entry.right.id == letter and len(dim) == 1:
                    self.integers[letter] = dim[0].div

    def _derive(self, letter: str, extent: str) -> None:
        axis = f"{self.here}.{letter}"
        self.extents[axis] = self.context.facts.floor(size_of(_row_expression(extent), self._row_context()))
        self.letters[letter] = axis

    # -- types

    def _row_context(self) -> RowContext:
        context = RowContext(self.context.world, self.context.member, self.context.facts)
        space = self.context.space
        context._axes, context._memo = dict(self.letters), Memo()
        context._space = Space(space.facts, {**space.extents, **self.extents}, space.names)
        context.integers, context.dtypes = self.integers, self.dtypes
        return context

    def _compare(self, name: str, written: str) -> None:
        kind, text = self._operand(name, written), _row_type(written)
        wanted = self._expected(name, text)
        expected = replace(wanted, view=kind.view, initialised=kind.initialised, pads=())
        if not kind.initialised:
            raise Mismatch(name, self._with_dtypes(text.span.text), "it is not in the checkpoint here and has no `init`")
        # The dims say which elements there are; a multiple to pad to that adds none is no difference.
        seen = replace(_renamed(kind, self._renames(text, kind)), pads=())
        if seen.positive and seen.extension == "sign" and expected.extension == "zero":
            seen = replace(seen, extension="zero")  # no sign bit is ever set
        reason = difference(self.context.space, seen, expected)
        if reason is None and _units(kind) != _units(expected):
            reason = "the number of dims of one index differs"
        if reason is None and kind.reciprocal != (name in self.row.reciprocal):
            reason = _ROLES[kind.reciprocal]
        if reason is not None:
            extents = self.context.space.extents
            shown = replace(wanted, pads=tuple(pad for pad in wanted.pads if pad.capacity != extents[pad.axis]))
            raise Mismatch(name, type_text(self.context.space, shown), reason)

    def _renames(self, text: TypeText, kind: TensorType) -> dict[str, str]:
        """Axes of an operand that the row's letters know under another name."""
        return {axis: self.letters[letter] for letter, axis in _pairs(text, kind) if self.letters[letter] != axis}

    def _expected(self, name: str, text: TypeText) -> TensorType:
        """The row's type over the operands' axes; made once for all worlds in which the letters mean the same."""
        key = (text.span.text, tuple(self.letters.items()), tuple(self.integers.items()), tuple(self.dtypes.items()), tuple(self._extents()))
        try:
            return self.context.memo.by_value(key, lambda: tensor_type(text, self._row_context()))
        except DiagnosticError as error:
            raise Mismatch(name, self._with_dtypes(text.span.text), error.diagnostics[0].message) from None

    def _extents(self) -> list[Size]:
        extents = self.context.space.extents
        return [extents[axis] for axis in self.letters.values() if axis in extents]

    def _result(self, written: str) -> TensorType | None:
        """None where the row does not say, or an operand that is not known until the call would have said it."""
        if not written:
            return None
        try:
            kind = self._expected("", _row_type(written))
        except Mismatch:
            return None
        return replace(kind, listed=self.letters["e"]) if written.startswith(LIST) else kind

    def _check_segments(self) -> None:
        named = self.context.world.document.segments
        for letter, parts in self.row.segments.items():
            axis = self.letters.get(letter)
            if axis is None:
                continue
            found = next((tuple(part.value for part in segment.names) for segment in named if segment.axis.value == axis), ())
            if found != parts:
                argument = next(name for name, text in self.row.arguments.items() if letter in text.partition("[")[2])
                reason = f"the parts of `{axis}` are {', '.join(found)}" if found else f"the parts of `{axis}` have no names"
                wanted = type_text(self.context.space, self._expected(argument, _row_type(self.row.arguments[argument])))
                raise Mismatch(argument, f"{wanted}, `{letter_of(axis)}` being {' then '.join(parts)}", reason)

    def _limits(self, span: Span) -> Iterator[Limit]:
        """Conditions on the sizes of a layer; how many rows x has is known at a call only."""
        for limit in self.row.limits:
            expr, context = _row_expression(limit.test), self._row_context()
            test = test_expr(expr, context)
            if ROWS not in names_in(test):
                learned = Learned()
                learn(expr, context, learned)
                yield Limit(limit.slug, limit.test, test, self.contract.op, f"{self.row.name}; {self.row.source}", span, tuple(learned.divides))


_ROLES = {True: "it is the reciprocal of a scale", False: "it is a scale, not the reciprocal of one"}


def _pairs(text: TypeText, kind: TensorType) -> Iterator[tuple[str, str]]:
    """Letter by letter, the axes that a type has where a row's text has them."""
    for entry, dim in zip(text.layout.dims if text.layout else text.logical, kind.dims):
        for part, digit in zip(entry.items if isinstance(entry, Group) else (entry,), dim):
            letter = _letter(part)
            if letter is not None:
                yield letter, digit.axis


def _units(kind: TensorType) -> int:
    return sum(not dim or dim[0].unit for dim in kind.dims)


def _renamed(kind: TensorType, names: Mapping[str, str]) -> TensorType:
    if not names:
        return kind

    def renamed(dim: Dim) -> Dim:
        return tuple(Digit(names.get(d.axis, d.axis), d.div, d.ext, d.top) for d in dim)

    pads = tuple(replace(pad, axis=names.get(pad.axis, pad.axis)) for pad in kind.pads)
    return replace(kind, dims=tuple(map(renamed, kind.dims)), lanes=renamed(kind.lanes), logical=renamed(kind.logical), pads=pads)


def broken_by_defaults(limit: Limit, context: Context) -> str:
    """The values with which the spec's own default configuration breaks a condition of use, whatever the sizes; empty if it does not."""
    defaults: dict[str, Any] = {}
    for name, setting in context.world.settings.items():
        default = context.arm(setting.default) if setting.default is not None else None
        value = getattr(default, "value", default)
        if isinstance(value, int) and not isinstance(value, bool):
            defaults[name] = value
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
