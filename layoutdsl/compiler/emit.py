"""A typed program as a plan: sizes become nested tuples, values get their ids, places become step texts."""

from __future__ import annotations

import hashlib
from typing import Any

from layoutdsl.compiler.evaluate import evaluate
from layoutdsl.compiler.scope import Context
from layoutdsl.diagnostics import Span
from layoutdsl.ir import layout, program
from layoutdsl.ir.dtypes import ELEMENTS, holds_exactly
from layoutdsl.ir.size_functions import SIZE_FUNCTIONS
from layoutdsl.ir.symbolic import Applied, Floor, Monomial, Size, fraction_of
from layoutdsl.plan import model
from layoutdsl.plan.sizes import SizeExpr
from layoutdsl.syntax.tree import Binary, Call, Constant, Expr, Items, Unary


def size_expr(size: Size) -> SizeExpr:
    """A Size as a plan's size expression."""
    numerator, denominator = fraction_of(size)
    top = _sum(numerator)
    return top if denominator == 1 else ("/", top, _sum(denominator))


def _sum(size: Size) -> SizeExpr:
    terms = [_product(monomial, int(coefficient)) for monomial, coefficient in size.terms]
    if not terms:
        return 0
    return terms[0] if len(terms) == 1 else ("+", *terms)


def _product(monomial: Monomial, coefficient: int) -> SizeExpr:
    factors: list[SizeExpr] = [] if coefficient == 1 and monomial else [coefficient]
    for atom, power in monomial:
        factors += [_atom(atom)] * power
    return factors[0] if len(factors) == 1 else ("*", *factors)


def _atom(atom: str | Floor) -> SizeExpr:
    if isinstance(atom, Applied):
        return (atom.function, *map(size_expr, atom.arguments))
    if isinstance(atom, str):
        return atom
    numerator, denominator = fraction_of(atom.argument)
    return ("//", _sum(numerator), _sum(denominator))


def test_expr(expr: Expr, context: Context) -> SizeExpr:
    """A predicate over sizes as a size expression that is 1 where it holds."""
    match expr:
        case Binary("in", left, Items(items)):
            return ("or", *(("==", test_expr(left, context), test_expr(item, context)) for item in items))
        case Binary("==" | "!=" as op, left, Constant(None)):
            return int((evaluate(left, context) is None) == (op == "=="))
        case Binary(op, left, right):
            return (op, test_expr(left, context), test_expr(right, context))
        case Unary("not", operand):
            return ("not", test_expr(operand, context))
        case Call(name, arguments=arguments) if name in SIZE_FUNCTIONS:
            return (name, *(test_expr(argument.value, context) for argument in arguments))
    value = evaluate(expr, context)
    if isinstance(value, Size):
        return size_expr(value)
    return int(value)


# --- types and instructions -------------------------------------------------------------------------------------------------------------------------------


def _digit(digit: layout.Digit) -> model.Digit:
    return model.Digit(digit.axis, size_expr(digit.div), size_expr(digit.ext))


def plan_type(kind: layout.TensorType) -> model.TensorType:
    """A symbolic type as the plan's: complete, without what only proofs need."""
    return model.TensorType(
        element=kind.element.name,
        excess=kind.element.excess,
        storage=kind.storage,
        extension=kind.extension or "",
        dims=tuple(tuple(map(_digit, dim)) for dim in kind.dims),
        lanes=tuple(map(_digit, kind.lanes)),
        order=kind.order,
        format=kind.format,
        pads=tuple(model.Pad(pad.axis, size_expr(pad.capacity), pad.fill) for pad in kind.pads),
        listed=kind.listed or "",
    )


class _Emitter:
    """Numbers values in order of definition."""

    def __init__(self) -> None:
        self.ids: dict[int, str] = {}

    def define(self, value: program.Value) -> str:
        return self.ids.setdefault(value.number, f"v{len(self.ids)}")

    def use(self, value: program.Value) -> str:
        return self.ids[value.number]

    def instruction(self, instruction: program.Instruction) -> model.Instruction:
        step = step_text(instruction.span)
        kind = plan_type(instruction.result.type)
        match instruction:
            case program.Move(result, of, alias):
                source = self.use(of)
                return model.Move(self.define(result), source, kind, alias, step)
            case program.Compute(result, expr):
                tree = self.expr(expr)
                return model.Compute(self.define(result), kind, tree, step)
            case program.Opaque(result, of, function, arguments):
                source = self.use(of)
                return model.Opaque(self.define(result), function, source, kind, _format_arguments(of.type, arguments), step)

    def expr(self, node: Any) -> Any:
        match node:
            case ("at", value, picks):
                return ("at", self.use(value), tuple((axis, self.index(index)) for axis, index in picks))
            case ("const", dtype, value):
                return ("const", dtype, value)
            case ("sum", loops, order, body):
                return ("sum", tuple(map(_digit, loops)), tuple(map(_digit, order)), self.expr(body))
            case (("cast" | "bits" | "rint" | "trunc") as name, dtype, operand):
                return (name, dtype, self.expr(operand))
            case (name, *operands):
                return (name, *map(self.expr, operands))
        raise AssertionError(node)

    def index(self, node: Any) -> Any:
        match node:
            case Size():
                return size_expr(node)
            case ("loop", axis, div, _):
                return ("loop", axis, size_expr(div))
            case (name, *operands):
                return (name, *map(self.index, operands))
        raise AssertionError(node)


def _format_arguments(kind: layout.TensorType, arguments: tuple[tuple[str, int | str], ...]) -> tuple[tuple[str, int | str], ...]:
    """The arguments of npu_format_cast as torch_npu 2.13 takes them: torch's dtype of the activation, and its own number for what two e2m1 in a byte are."""
    native = tuple((name, ELEMENTS[str(value)].native or value if name == "customize_dtype" else value) for name, value in arguments)
    packed = any(name == "customize_dtype" for name, _ in arguments) and kind.lanes and kind.element.name == "e2m1"
    return (*native, ("input_dtype", model.FLOAT4_E2M1FN_X2)) if packed else native


def step_text(span: Span) -> str:
    """One line of the spec's text."""
    return " ".join(span.text.split())[:160]


def emit(
    source: program.Program, scheme: str, layer: str, text: str, config: dict[str, Any], loaders: dict[str, tuple[tuple[str, int | str], ...]]
) -> model.Plan:
    """The plan of a typed program. config: the decided names; loaders: loader attributes by parameter."""
    emitter = _Emitter()
    inputs = tuple(
        model.Input(emitter.define(p.value), p.value.name, plan_type(p.value.type), p.default, loaders[p.value.name])  # type: ignore[arg-type]
        for p in source.parameters
    )
    code = tuple(emitter.instruction(instruction) for instruction in source.code)
    summed, classes = _summed(source), _classes(source)
    return model.Plan(
        scheme=scheme,
        layer=layer,
        spec_hash="sha256:" + hashlib.sha256(text.encode()).hexdigest(),
        config=tuple(sorted(config.items())),
        sizes=source.sizes,
        free=source.free,
        nominal=tuple((name, size_expr(size)) for name, size in source.nominal.items()),
        axes=tuple((axis, size_expr(extent)) for axis, extent in source.axes.items()),
        require=tuple(model.Condition(condition.text, condition.test) for condition in source.require),
        limits=tuple(model.Limit(limit.text, limit.test, limit.kernel, limit.source) for limit in source.limits),
        inputs=inputs,
        code=code,
        outputs=tuple(
            model.Output(output.name, emitter.use(output.value), output.kind, "sum" if output.value.number in summed else "exact", classes[output.value.number])  # type: ignore[arg-type]
            for output in source.outputs
        ),
        forward="external" if source.forward is None else tuple(source.forward),
    )


_ORDER = ("alias", "bijective", "injective", "lossy", "opaque")


def _classes(source: program.Program) -> dict[int, str]:
    """How much of the checkpoint each value keeps, from which reloading follows: an untouched parameter, a movement that can be undone, one that also pads
    or repeats,
    anything that loses information, or opaque bytes."""
    found = {p.value.number: "opaque" if p.value.type.element.name == "opaque" else "alias" for p in source.parameters}
    for instruction in source.code:
        result = instruction.result
        if isinstance(instruction, program.Compute):
            reads = program.values_in(instruction.expr)
            own = _class_of_math(instruction.expr, result.type)
        else:
            reads = [instruction.of]
            own = "injective" if len(result.type.pads) > len(instruction.of.type.pads) else "bijective"
        found[result.number] = max([own, *(found[value.number] for value in reads)], key=_ORDER.index)
    return found


def _class_of_math(expr: Any, kind: layout.TensorType) -> str:
    """A chain of exact casts of one read keeps everything; the same with more loops than the read has digits repeats it; all else loses something."""
    while expr[0] == "cast":
        inner = expr[2]
        source = inner[1].type.element.name if inner[0] == "at" else inner[1]
        if inner[0] not in ("at", "cast") or not holds_exactly(expr[1], source):
            return "lossy"
        expr = inner
    if expr[0] != "at" or expr[2]:
        return "lossy"
    read, made = ({(d.axis, d.div) for d in k.logical if not d.unit} for k in (expr[1].type, kind))
    return "bijective" if read == made else "injective"


def _summed(source: program.Program) -> set[int]:
    """Values whose bits a float sum decides."""
    found: set[int] = set()
    for instruction in source.code:
        operands = [instruction.of] if not isinstance(instruction, program.Compute) else program.values_in(instruction.expr)
        own = isinstance(instruction, program.Compute) and _has_float_sum(instruction.expr, instruction.result.type.element.name)
        if own or any(value.number in found for value in operands):
            found.add(instruction.result.number)
    return found


def _has_float_sum(node: Any, element: str) -> bool:
    if not isinstance(node, tuple) or not node:
        return False
    return (node[0] == "sum" and element.startswith(("float", "bfloat"))) or any(_has_float_sum(part, element) for part in node[1:])
