"""A forward run with every kernel call written down: what went in, what came out.

Between the generated forward and the checks, which look at single kernels: a whole layer hides a wrong scale behind the quantization of its activations.

Invariants: the kernels are the ones that ``plan.forward`` runs; what a kernel overwrites is recorded as it was before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.kernels import CONTRACTS
from layoutdsl.kernels.base import Row
from layoutdsl.plan.forward import walk
from layoutdsl.plan.groups import argument_of, schema_of
from layoutdsl.plan.model import Plan
from layoutdsl.runtime.forward import generate
from layoutdsl.runtime.kernels import find_kernel
from layoutdsl.verify.activation import Grid, Rows, quantized_inside, rows_of

_ACTIVATIONS = ("x", "x1", "input")
_QUANTIZES_INSIDE = ("npu::npu_quant_grouped_matmul_dequant",)
"""Kernels that quantize their rows, to int8 by their own maximum, where nobody sees it (source: torch_npu 2.13.0, op documentation)."""
_SCALES_SUMS = ("npu::npu_dequant_swiglu_quant", "_C_ascend::npu_dequant_swiglu_quant")
"""Kernels that multiply the scales into the integer sums of a matmul before them."""


@dataclass(frozen=True, slots=True, eq=False)
class KernelCall:
    """One call. arguments: by the names of the schema. result: what it returned."""

    op: str
    arguments: Mapping[str, Any]
    result: Any


@dataclass(frozen=True, slots=True, eq=False)
class Matmul:
    """A call that sums over the inputs of the layer: a matmul, perhaps with swiglu and quantization behind it.

    weight, activation: names of its arguments; scale: of the activation's scale, or None; addends: what it adds to the sum. scaled: the call that multiplies
    the scales into its integer sums, if it does not do so itself. grid: what the integers of an activation without a scale stand for, if that is known.
    """

    call: KernelCall
    row: Row
    weight: str
    activation: str
    scale: str | None
    scaled: KernelCall | None = None
    grid: Grid | None = None

    @property
    def fused(self) -> bool:
        """Does it give a quantized activation instead of the products?"""
        return self.row.quantizes or self.scaled is not None

    @property
    def listed(self) -> bool:
        return isinstance(self.call.arguments[self.activation], (list, tuple))

    @property
    def given(self) -> torch.Tensor:
        """The activation as it was given."""
        return _single(self.call.arguments[self.activation])

    @property
    def rows_scale(self) -> torch.Tensor | None:
        """What belongs to the activation, one number or more per row."""
        if self.scaled is not None:
            return _single(self.scaled.arguments["activation_scale"])
        return None if self.scale is None else _single(self.call.arguments[self.scale])

    @property
    def rows(self) -> Rows:
        """The activation that it multiplied."""
        if self.call.op in _QUANTIZES_INSIDE:
            return quantized_inside(self.given)
        return rows_of(self.given, self.rows_scale, self.grid)

    @property
    def result(self) -> torch.Tensor:
        """What it returned, of several results the first."""
        result = self.call.result
        found: torch.Tensor = result if isinstance(result, torch.Tensor) else result[0]
        return found

    @property
    def adds(self) -> bool:
        """Was it given anything to add to the products?"""
        return any(self.call.arguments.get(name) is not None for name in self.row.addends)

    @property
    def understood(self) -> bool:
        """Is it known what goes in and what comes out?

        The activation is 16 bit, or quantized with a scale that comes with it or that is known; the result is quantized by the kernel itself, or is the
        product.
        """
        known = self.rows_scale is not None or self.grid is not None or self.given.dtype in (torch.float16, torch.bfloat16)
        return known and (self.fused or self.result.is_floating_point())


def _single(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    (tensor,) = value
    found: torch.Tensor = tensor
    return found


class Tracer:
    """The forward of a bound plan with its kernels wrapped; generated once, called often. Raises: DiagnosticError."""

    def __init__(self, plan: Plan) -> None:
        self._calls: list[KernelCall] = []
        self._own: set[int] = set()
        self._forward = generate(plan, self._resolve)

    def __call__(self, module: torch.nn.Module, x: torch.Tensor, **inputs: Any) -> tuple[torch.Tensor, list[KernelCall]]:
        """The result, and the kernel calls in order. Raises: DiagnosticError."""
        self._calls, self._own = [], {tensor.data_ptr() for tensor in _tensors_of(module)}
        try:
            return self._forward(module, x, **inputs), self._calls
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            last = self._calls[-1].op if self._calls else "its first kernel"
            message = f"the forward fails: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            raise DiagnosticError(Diagnostic(code="verify-forward", message=message, where="forward", notes=(f"behind {last}",))) from None

    def _resolve(self, op: str) -> Callable[..., Any]:
        kernel = find_kernel(op, "cpu")
        schema = schema_of(op)
        names = [parameter.name for parameter in schema.parameters] if schema is not None else []

        def recorded(*arguments: Any, **keywords: Any) -> Any:
            before = {name: _kept(value, self._own) for name, value in {**dict(zip(names, arguments)), **keywords}.items()}
            result = kernel(*arguments, **keywords)
            self._calls.append(KernelCall(op, before, result))
            return result

        return recorded


def not_runnable(plan: Plan) -> str | None:
    """Why the forward of a plan cannot run on a CPU; None if it can."""
    if plan.forward == "external":
        return "the forward is the consumer's: no kernel was run, what was only moved was decoded"
    for op in dict.fromkeys(part[1] for call in plan.forward for part in walk(call.expr) if part[0] == "call"):
        try:
            find_kernel(op, "cpu")
        except DiagnosticError:
            return f"`{op}` has no reference kernel: no kernel was run"
    return None


def read_by_kernels(plan: Plan) -> set[str]:
    """The tensors of the layer that the forward names."""
    return set() if plan.forward == "external" else {part[1] for call in plan.forward for part in walk(call.expr) if part[0] == "layer"}


def _tensors_of(module: torch.nn.Module) -> list[torch.Tensor]:
    values = [*module.parameters(), *module.buffers(), *vars(module).values()]
    return [part for value in values for part in (value if isinstance(value, list) else [value]) if isinstance(part, torch.Tensor)]


def _kept(value: Any, own: set[int]) -> Any:
    """A copy of what a kernel may overwrite; the layer's own tensors stay as they are."""
    if isinstance(value, (list, tuple)):
        return [_kept(part, own) for part in value]
    if isinstance(value, torch.Tensor) and value.data_ptr() not in own:
        return value.clone()
    return value


def matmuls(calls: list[KernelCall], grid: Grid | None = None) -> list[Matmul]:
    """The calls of which a contract says over which letter they sum, in order. grid: of a statically quantized activation."""
    found = []
    for i, call in enumerate(calls):
        rows = CONTRACTS[call.op].rows if call.op in CONTRACTS else ()
        row = next((row for row in rows if row.sums and _fits(row, call)), None)
        if row is None:
            continue
        activation = next(name for name in row.arguments if name in _ACTIVATIONS)
        scale = next((name for name, operand in row.scales.items() if operand == activation and call.arguments.get(name) is not None), None)
        found.append(Matmul(call, row, next(iter(row.arguments)), activation, scale, _scaled_by(calls[i : i + 2]), grid))
    return found


def _scaled_by(calls: list[KernelCall]) -> KernelCall | None:
    """The second call, if it multiplies the scales into the integer sums of the first."""
    sums = calls[0].result[0] if isinstance(calls[0].result, (list, tuple)) else calls[0].result
    return calls[1] if len(calls) > 1 and calls[1].op in _SCALES_SUMS and sums.dtype == torch.int32 else None


def quantizes_statically(plan: Plan) -> bool:
    """Does the forward quantize with a scale of the layer's own?"""
    ops = {part[1] for call in plan.forward for part in walk(call.expr) if part[0] == "call"} if plan.forward != "external" else set()
    return any(row.reciprocal for op in ops if op in CONTRACTS for row in CONTRACTS[op].rows)


def _fits(row: Row, call: KernelCall) -> bool:
    """Has a call what a row cannot do without, nothing that it does not name, and rows of its dtype?"""
    tensors = [
        name
        for name, value in call.arguments.items()
        if isinstance(value, torch.Tensor) or (isinstance(value, list) and value and isinstance(value[0], torch.Tensor))
    ]
    if any(call.arguments.get(name) is None for name in row.required) or not set(tensors) <= set(row.arguments):
        return False
    name = next(name for name in row.arguments if name in _ACTIVATIONS)
    return str(_single(call.arguments[name]).dtype).removeprefix("torch.") in _storages(row, row.arguments[name])


def _storages(row: Row, text: str) -> tuple[str, ...]:
    """What the type text of an argument may be stored in: ``int32`` of ``int4[m, k] in int32[m, k//8 | k%8]``."""
    head, _, rest = text.partition(" in ")
    word = (rest or head).partition("[")[0].split()[-1]
    return row.dtypes.get(word) or (ELEMENTS[word].native or word if word in ELEMENTS else word,)


def layer_names(plan: Plan, matmul: Matmul, module: torch.nn.Module) -> dict[str, str]:
    """Which tensor of the layer every argument of a call is made of, by argument."""
    assert plan.forward != "external"
    weight = matmul.call.arguments[matmul.weight]
    pointer = (weight[0] if isinstance(weight, (list, tuple)) else weight).data_ptr()
    calls = [expr for call in plan.forward for expr in walk(call.expr) if expr[0] == "call" and expr[1] == matmul.call.op]
    for expr in calls:
        names = {name: _layer_name(argument_of(expr, name)) for name in matmul.row.arguments}
        found = getattr(module, names[matmul.weight] or "", None)
        first = found[0] if isinstance(found, list) else found
        if isinstance(first, torch.Tensor) and first.data_ptr() == pointer:
            return {argument: name for argument, name in (names | _late_scale(plan, matmul)).items() if name}
    return {}


def _late_scale(plan: Plan, matmul: Matmul) -> dict[str, str]:
    """The scale that is multiplied in behind the matmul."""
    later = matmul.scaled
    calls = [expr for call in plan.forward for expr in walk(call.expr) if later is not None and expr[0] == "call" and expr[1] == later.op]  # type: ignore[union-attr]
    return {"weight_scale": _layer_name(argument_of(calls[0], "weight_scale"))} if calls else {}


def _layer_name(expr: Any) -> str:
    if expr is None:
        return ""
    return next((part[1] for part in walk(expr) if part[0] == "layer"), "")
