"""The forward of a bound plan as the text of one Python function: one line per call, nothing decided that config or sizes decide.

Between ``layoutdsl.plan``, whose lines it writes down, and ``layoutdsl.runtime.forward``, which compiles the text once.

Invariants: a plan may come from anywhere, so only identifiers and constants that were checked here reach the text; locals keep the names of the spec unless
Python, an input or a helper has the name; every shape in the text is an integer, or follows from the shape of ``x``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from keyword import iskeyword
from math import prod
from typing import Any, Literal, NoReturn

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.ir.dtypes import ELEMENTS, STORAGES
from layoutdsl.kernels import CONTRACTS
from layoutdsl.plan.forward import INPUTS, OPERATORS, ROWS, is_constant, walk
from layoutdsl.plan.groups import GroupListKind, group_list_kind, grouped_calls, schema_of
from layoutdsl.plan.model import Call, Plan, TensorType
from layoutdsl.plan.sizes import SizeExpr, names_in

KERNEL_DTYPES = {"int4": "torch.quint4x2", "e8m0": "float8_e8m0fnu", "float8_e8m0fnu": "float8_e8m0fnu", "e2m1": "float4_e2m1fn_x2"}
"""Dtypes that kernels know by another name than torch's (source: meta functions of torch_npu 2.13, which refuse torch's own)."""
ROUTING = ("group_list", "group_list_type", "topk_ids", "topk_weights")
HELPERS = ("float8_e8m0fnu", "float4_e2m1fn_x2", "external", "only", "by_expert", "combined", "counts_of", "cumsum_of")
"""Names that the text uses besides torch and the kernels; ``layoutdsl.runtime.forward`` binds them."""
_LOCALS = ("forward", "layer", "lead", "dtype", "order", "result", "item", "parts", "at", ROWS)
_IDENTIFIER = re.compile(r"(?!__)[A-Za-z_]\w*", re.ASCII)
_KERNEL = re.compile(r"(?!__)[A-Za-z_]\w*::\w*[A-Za-z0-9]", re.ASCII)
_ATOMIC = ("layer", "input", "local", "list", "call", "dtype", "dtype_of")
Kind = Literal["tensor", "list", "number", "none"]


@dataclass(frozen=True, slots=True)
class Source:
    """text: defines ``forward(layer, x, ...)``. inputs: what it takes besides ``x``, with None for what is not given. kernels: names in the text and what
    they stand for. tensors: what it reads of the layer. experts: how many, where the rows of x are routed; else None."""

    text: str
    inputs: tuple[str, ...]
    kernels: tuple[tuple[str, str], ...]
    tensors: tuple[str, ...]
    experts: int | None


def python_source(plan: Plan) -> Source:
    """The text of a bound plan's forward.

    Raises: DiagnosticError with ``forward-external`` (the consumer calls the kernels), ``group-list-mixed``, ``group-list-unknown``, or ``plan-invalid``.
    """
    if plan.forward == "external":
        external(plan)
    return _Writer(plan, plan.forward).source()


def external(plan: Plan) -> NoReturn:
    """Raises DiagnosticError ``forward-external``."""
    message = f"{plan.scheme}.{plan.layer} has no forward of its own here: its consumer calls the kernels"
    helps = ("apply the plan, and let the consumer's own code run the layer",)
    raise DiagnosticError(Diagnostic(code="forward-external", message=message, where=f"{plan.scheme}.{plan.layer}", helps=helps))


def _invalid(message: str) -> NoReturn:
    raise DiagnosticError(Diagnostic(code="plan-invalid", message=message, where="forward"))


class _Writer:
    """Writes one forward. What locals are is noted line by line."""

    def __init__(self, plan: Plan, calls: tuple[Call, ...]) -> None:
        self.plan, self.calls = plan, calls
        types = {node.id: node.type for node in (*plan.inputs, *plan.code)}
        self.outputs = {output.name: (output.kind, types[output.value]) for output in plan.outputs}
        self.exprs = [expr for call in calls for tree in (call.when, call.expr) for expr in walk(tree)]
        self.reads = {expr[1] for expr in self.exprs if expr[0] == "input"}
        self.wanted: GroupListKind | None = group_list_kind(calls)
        if self.wanted and self.reads & {"topk_ids", "topk_weights"}:
            _invalid("a forward reads either the routing or the rows that were routed, not both")
        self.inputs = tuple(name for name in INPUTS if name in self.reads - {"x"} or (self.wanted and name in ROUTING))
        taken = {*_LOCALS, *HELPERS, *INPUTS, "torch", "_"}
        self.kernels = _fresh(((expr[1], _kernel_name(expr[1])) for expr in self.exprs if expr[0] == "call"), taken)
        self.locals = _fresh(((name, _identifier(name)) for call in calls for name in call.targets if name != "_"), taken)
        self.kinds: dict[str, Kind] = {}
        self.absent: set[str] = set()

    def source(self) -> Source:
        experts = self._experts() if self.wanted else None
        text = "\n".join((*self._head(experts), *("    " + line for line in self._body(experts)))) + "\n"
        tensors = tuple(dict.fromkeys(expr[1] for expr in self.exprs if expr[0] == "layer"))
        return Source(text, self.inputs, tuple((name, op) for op, name in self.kernels.items()), tensors, experts)

    def _experts(self) -> int:
        """How many groups there are: what the weights of the grouped calls have one of per expert."""
        found: set[int] = set()
        for call in grouped_calls(self.calls):
            names = [expr[1] for expr in walk(call) if expr[0] == "layer" and self.outputs[expr[1]][0] != "value"]
            if names:
                kind = self.outputs[names[0]][1]
                found.add(_int(dict(self.plan.axes)[kind.listed]) if kind.listed else (*kind.shape, 0)[0])
        if len(found) != 1:
            _invalid(f"the weights of the grouped calls are of {' and '.join(map(str, sorted(found))) or 'no'} experts")
        return found.pop()

    # -- around the calls

    def _head(self, experts: int | None) -> Iterator[str]:
        defaults = {"group_list_type": "1"} if self.wanted else {}
        yield f"def forward({', '.join(('layer', 'x', *(f'{name}={defaults.get(name)}' for name in self.inputs)))}):"
        yield f"    lead{', dtype' if self.wanted else ''} = x.shape[:-1]{', x.dtype' if self.wanted else ''}"
        if "x_scale" in self.inputs:
            yield "    if x_scale is not None:"
            yield "        x_scale = x_scale.flatten(0, x.dim() - 2)"
        yield "    x = x.flatten(0, -2)"
        if self.wanted:
            yield from self._routing(experts)
        else:
            yield from self._cut()
        if any(expr[0] == "size" and ROWS in names_in(expr[1]) for expr in self.exprs):
            yield f"    {ROWS} = x.shape[0]"

    def _cut(self) -> Iterator[str]:
        """Rows do not depend on each other, so more of them than a kernel takes go through the same lines part by part."""
        caps = [cap for op in self.kernels if op in CONTRACTS and (cap := CONTRACTS[op].most_tokens) is not None]
        if not caps:
            return
        part = f"[at:at + {min(caps)}]"
        others = (f"x_scale{part} if x_scale is not None else None" if name == "x_scale" else name for name in self.inputs)
        yield f"    if x.shape[0] > {min(caps)}:"
        yield f"        parts = [forward({', '.join(('layer', f'x{part}', *others))}) for at in range(0, x.shape[0], {min(caps)})]"
        yield "        return torch.cat(parts).unflatten(0, lead)"

    def _routing(self, experts: int | None) -> Iterator[str]:
        """Sort the rows by expert, if the routing is given; then the group list as the calls want it."""
        yield "    if topk_ids is not None:"
        yield "        topk_ids, topk_weights = topk_ids.flatten(0, -2), topk_weights.flatten(0, -2)"
        yield f"        order, group_list = by_expert(topk_ids, {experts})"
        yield "        x = x[order // topk_ids.shape[-1]]"
        if "x_scale" in self.inputs:
            yield "        if x_scale is not None:"
            yield "            x_scale = x_scale[order // topk_ids.shape[-1]]"
        if self.wanted == "caller":
            yield "    group_list = group_list.to(torch.int64)"
        else:
            yield f"    group_list = {self.wanted}_of(group_list, group_list_type)"
        if self.wanted != "caller" and "group_list_type" in self.reads:
            yield f"    group_list_type = {1 if self.wanted == 'counts' else 0}"

    def _body(self, experts: int | None) -> Iterator[str]:
        for when, calls in groupby(self.calls, lambda call: call.when):
            if when == ("const", False):
                continue
            lines = [line for call in calls for line in self._line(call, experts)]
            yield from lines if when == ("const", True) else (f"if {self._value(when)}:", *("    " + line for line in lines))

    def _line(self, call: Call, experts: int | None) -> Iterator[str]:
        if call.expr == ("external",):
            yield "external()"
            return
        self._check_results(call)
        if not call.targets:
            yield from self._return(call.expr, experts)
            return
        text = self._value(call.expr, several=len(call.targets) > 1)
        yield f"{', '.join(self.locals.get(name, '_') for name in call.targets)} = {text}"
        for name in call.targets:
            self.kinds[name] = "tensor" if len(call.targets) > 1 else self._kind(call.expr)
            self.absent |= {name} if any(self._may_lack(tail) for tail in _tails(call.expr)) else set()

    def _check_results(self, call: Call) -> None:
        """As many names as the kernel has results, where its schema is known."""
        for expr in _tails(call.expr):
            schema = schema_of(expr[1]) if expr[0] == "call" else None
            if schema is not None and call.targets and len(schema.returns) != len(call.targets):
                _invalid(f"`{expr[1]}` has {len(schema.returns)} results, and {len(call.targets)} names stand before it")

    def _return(self, expr: Any, experts: int | None) -> Iterator[str]:
        """A tensor gets the leading dims of x back; anything else is returned as it is."""
        tensors = {self._kind(tail) == "tensor" and not _is_several(tail) for tail in _tails(expr)}
        if len(tensors) > 1:
            _invalid("what is returned is sometimes a tensor and sometimes not")
        if tensors == {False}:
            yield f"return {self._value(expr)}"
            return
        yield f"result = {self._value(expr)}"
        if self.wanted:
            yield "if topk_ids is not None:"
            yield f"    result = combined(result, order, topk_ids, topk_weights, {experts}, dtype)"
        yield "return result.unflatten(0, lead)"

    # -- expressions

    def _value(self, expr: Any, several: bool = False) -> str:
        """Python's text of an expression. several: all results of a call, not the only one."""
        match expr:
            case ("const", value):
                return _constant(value)
            case ("size", size):
                return _size(size)
            case ("layer", name):
                return self._layer(name)
            case ("input", name) if name in INPUTS:
                return str(name)
            case ("local", name) if name in self.locals:
                return self.locals[name]
            case ("dtype", name):
                return _torch_dtype(name)
            case ("dtype_of", value):
                return f"{self._operand(value)}.dtype"
            case ("list", *items):
                return f"[{', '.join(map(self._value, items))}]"
            case ("if", condition, then, otherwise):
                return f"{self._inner(then, several)} if {self._value(condition)} else {self._inner(otherwise, several)}"
            case ("cast", dtype, value):
                return self._mapped(value, f".to({self._value(dtype)})")
            case ("view", value, source, target):
                return self._mapped(value, _view(source, target))
            case ("call", op, arguments, keywords):
                texts = [*map(self._argument, arguments), *(f"{_keyword(name)}={self._argument(value)}" for name, value in keywords)]
                text = f"{self.kernels[op]}({', '.join(texts)})"
                schema = schema_of(op)
                return f"only({text})" if schema is not None and schema.returns == ("Tensor[]",) and not several else text
            case ("given", *values) if values:
                return " and ".join(f"{self._operand(value)} is not None" for value in values)
            case ("not", ("given", value)):
                return f"{self._operand(value)} is None"
            case ("not", value):
                return f"not {self._operand(value)}"
            case ("neg", value):
                return f"-{self._operand(value)}"
            case (str() as operator, left, right) if operator in OPERATORS:
                return f"{self._operand(left)} {operator} {self._operand(right)}"
        _invalid(f"`{str(expr)[:60]}` is not an expression of a forward")

    def _inner(self, expr: Any, several: bool = False) -> str:
        """A branch: in brackets where it is a choice itself."""
        text = self._value(expr, several)
        return f"({text})" if " if " in text and expr[0] in ("if", "cast", "view") else text

    def _operand(self, expr: Any) -> str:
        text = self._value(expr)
        plain = expr[0] in _ATOMIC or (expr[0] in ("cast", "view") and " else " not in text and expr[1] not in ("const", "if"))
        return text if plain else f"({text})"

    def _argument(self, expr: Any) -> str:
        """An argument of a kernel: dtypes as kernels know them."""
        match expr:
            case ("dtype", name) if name in KERNEL_DTYPES:
                return KERNEL_DTYPES[name]
            case ("list", *items):
                return f"[{', '.join(map(self._argument, items))}]"
            case ("if", condition, then, otherwise):
                return f"({self._alternative(then)} if {self._value(condition)} else {self._alternative(otherwise)})"
        return self._value(expr)

    def _alternative(self, expr: Any) -> str:
        """A branch of an argument: in brackets where it is a choice itself; a choice of arguments has brackets already."""
        text = self._argument(expr)
        return f"({text})" if " if " in text and expr[0] in ("cast", "view") else text

    def _layer(self, name: str) -> str:
        if name not in self.outputs:
            _invalid(f"the layer has no `{name}` after the steps")
        text = "layer"
        for part in name.split("."):
            text = f"getattr({text}, {part!r})" if iskeyword(_identifier(part)) else f"{text}.{part}"
        return text

    def _mapped(self, expr: Any, suffix: str) -> str:
        """A method of a tensor, of each element of a list, of nothing at all where an absent value is absent."""
        if not suffix:
            return self._value(expr)
        match expr:
            case ("if", condition, then, otherwise):
                return f"({self._mapped(then, suffix)}) if {self._value(condition)} else ({self._mapped(otherwise, suffix)})"
            case ("const", None):
                return "None"
        kind, text = self._kind(expr), self._operand(expr)
        if kind == "number":
            _invalid("a number is neither cast nor seen in another way at a call")
        made = f"[item{suffix} for item in {text}]" if kind == "list" else f"{text}{suffix}"
        return f"{made} if {self._leaf(expr)} is not None else None" if self._may_lack(expr) else made

    def _leaf(self, expr: Any) -> str:
        """The name that a chain of casts and views starts from."""
        while expr[0] in ("cast", "view"):
            expr = expr[2] if expr[0] == "cast" else expr[1]
        return self._operand(expr)

    def _may_lack(self, expr: Any) -> bool:
        """May the value be None?"""
        match expr:
            case ("const", None):
                return True
            case ("input", name):
                return name != "x" and not (self.wanted and name in ROUTING)
            case ("local", name):
                return name in self.absent
            case ("cast", _, value) | ("view", value, _, _):
                return any(self._may_lack(tail) for tail in _tails(value))
        return False

    def _kind(self, expr: Any) -> Kind:
        match expr:
            case ("const", None):
                return "none"
            case ("const" | "size" | "dtype" | "dtype_of", *_):
                return "number"
            case ("list", *_):
                return "list"
            case ("layer", name) if name in self.outputs:
                kind, type = self.outputs[name]
                return "number" if kind == "value" else "list" if kind == "list" or type.listed else "tensor"
            case ("local", name):
                return self.kinds.get(name, "tensor")
            case ("cast", _, value) | ("view", value, _, _):
                return self._kind(value)
            case ("if", _, then, otherwise):
                return self._kind(otherwise if self._kind(then) == "none" else then)
        return "tensor"


# ---- names and constants -----------------------------------------------------------------------------------------------------------------------------------


def _fresh(wanted: Iterable[tuple[str, str]], taken: set[str]) -> dict[str, str]:
    """A Python name for each key: the one that is wanted, with underscores behind it while it is taken or Python's."""
    names: dict[str, str] = {}
    for key, name in wanted:
        if key in names:
            continue
        while name in taken or iskeyword(name):
            name += "_"
        names[key] = name
        taken.add(name)
    return names


def _identifier(name: str) -> str:
    if not _IDENTIFIER.fullmatch(name):
        _invalid(f"`{name[:60]}` cannot be a name in Python")
    return name


def _keyword(name: str) -> str:
    if iskeyword(_identifier(name)):
        _invalid(f"`{name}` is a word of Python, not an argument")
    return name


def _kernel_name(op: str) -> str:
    if not _KERNEL.fullmatch(op):
        _invalid(f"`{op[:60]}` is not the name of a kernel")
    return op.replace("::", "__")


def _constant(value: Any) -> str:
    if not is_constant(value):
        _invalid(f"`{str(value)[:60]}` is not a constant")
    return repr(value)


def _torch_dtype(name: str) -> str:
    native = ELEMENTS[name].native if name in ELEMENTS else None
    if native is None:
        _invalid(f"torch has no dtype `{name[:60]}`")
    return f"torch.{native}"


def _size(size: Any) -> str:
    """A size of a bound plan: an integer, or made of the rows of x."""
    match size:
        case bool() | int():
            return repr(int(size))
        case str() if size == ROWS:
            return ROWS
        case ("cdiv", left, right):
            return f"-(-{_size(left)} // {_size(right)})"
        case ("/", left, right):
            return f"({_size(left)} // {_size(right)})"
        case (("+" | "*") as operator, *operands) if operands:
            return f"({f' {operator} '.join(map(_size, operands))})"
        case (("-" | "//" | "%") as operator, left, right):
            return f"({_size(left)} {operator} {_size(right)})"
    _invalid(f"`{str(size)[:60]}` is not a size that is known at a call")


def _int(size: SizeExpr) -> int:
    assert isinstance(size, int)
    return size


def _tails(expr: Any) -> list[Any]:
    """What an expression may turn out to be, its choices taken."""
    return [*_tails(expr[2]), *_tails(expr[3])] if expr[0] == "if" else [expr]


def _is_several(expr: Any) -> bool:
    schema = schema_of(expr[1]) if expr[0] == "call" else None
    return schema is not None and len(schema.returns) != 1


# ---- views -------------------------------------------------------------------------------------------------------------------------------------------------


def _view(source: TensorType, target: TensorType) -> str:
    """The methods that show the memory of ``source`` as ``target``: to the order of memory, to the other dtype, to the other dims, to the order wanted.

    Memory is dense in that order, so no step copies. -1 stands for the dim that holds the rows of x.
    """
    if source == target:
        return ""
    shape, wanted = _memory_shape(source), _memory_shape(target)
    text = _permute(source.order)
    if source.storage != target.storage:
        ours, theirs = STORAGES[source.storage].bits, STORAGES[target.storage].bits
        if ours < theirs and shape[-1:] != [-1] and (not shape or shape[-1] * ours % theirs):
            # The last dim alone does not fill an element of the wider dtype.
            shape = [*wanted[:-1], wanted[-1] * theirs // ours] if wanted else [theirs // ours]
            text += f".reshape({_shape(shape)})"
        text += f".view({_torch_dtype(target.storage)})"
        shape = [*shape[:-1], shape[-1] * ours // theirs if shape[-1] != -1 else -1] if shape else []
    if shape != wanted:
        text += f".reshape({_shape(wanted)})"
    inverse = tuple(target.order.index(dim) for dim in range(len(target.order)))
    return text + _permute(inverse)


def _permute(order: tuple[int, ...]) -> str:
    return "" if order == tuple(range(len(order))) else f".permute({_shape(order)})"


def _shape(extents: Iterable[int]) -> str:
    return ", ".join(map(str, extents)) or "()"


def _memory_shape(kind: TensorType) -> list[int]:
    """Extents from slowest to fastest, -1 for the one that is known only at a call."""
    shape: list[int] = []
    for dim in kind.order:
        extents = [digit.ext for digit in kind.dims[dim]]
        shape.append(prod(extent for extent in extents if isinstance(extent, int)) if all(isinstance(extent, int) for extent in extents) else -1)
    if shape.count(-1) > 1:
        _invalid("more than one dim of a view depends on the rows of x")
    return shape
