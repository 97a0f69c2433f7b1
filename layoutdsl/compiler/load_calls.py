"""What a device does while a layer is loaded, against the contracts of the kernels that do it: ``nz`` is npu_format_cast, ``call`` any kernel.

Between the steps, which are typed without a device in mind, and ``layoutdsl.compiler.contracts``. Every device that the world leaves open is asked.
"""

from __future__ import annotations

from layoutdsl.compiler.contracts import Operand, check_call, rows_for
from layoutdsl.compiler.elaborate import Elaboration
from layoutdsl.diagnostics import Diagnostic
from layoutdsl.ir.program import Opaque
from layoutdsl.kernels import CONTRACTS, Row

_CAST = "npu::npu_format_cast"


def check_load_calls(state: Elaboration) -> list[Diagnostic]:
    """A ``contract-device`` or ``contract-layout`` for every load-time call that no row takes on some device of the world, unless its step accepts that."""
    found = []
    for instruction in state.code:
        if not isinstance(instruction, Opaque):
            continue
        check = _cast if instruction.function == "format_cast" else _kernel
        devices = dict.fromkeys(device for device, _ in state.world.platforms)
        problem = next((problem for device in devices if (problem := check(instruction, device, state)) is not None), None)
        if problem is not None and not state.accept(problem.code, {instruction.result.name}):
            found.append(problem)
    return found


def _cast(instruction: Opaque, device: str, state: Elaboration) -> Diagnostic | None:
    """The device sees bytes: what is stored counts, in how many dims, and the dtype of the activation."""
    kind, activation = instruction.of.type, dict(instruction.arguments).get("customize_dtype")
    element = "e2m1" if kind.lanes and kind.element.name == "e2m1" else None
    rows = rows_for(_CAST, device, None)
    if any(_fits(row, kind.storage, len(kind.dims), activation, element) for row in rows):
        return None
    stored = f"{element} in {kind.storage}" if element else kind.storage
    given = f"{stored} in {len(kind.dims)} dims" + (f" for {activation}" if activation else "")
    known = "; ".join(dict.fromkeys(_text(row) for row in rows))
    return Diagnostic(
        code="contract-layout",
        message=f"`npu_format_cast` casts no {given} to FRACTAL_NZ on device {device}",
        span=instruction.span,
        where=instruction.of.name,
        notes=(f"on {device} it casts {known}", *dict.fromkeys(f"source: {row.source}" for row in rows)),
        helps=("cast what the device takes, or leave out the `nz` there",),
    )


def _fits(row: Row, storage: str, rank: int, activation: object, element: str | None) -> bool:
    wanted = (row.constants["customize_dtype"], row.constants["input_dtype"])
    return storage in row.dtypes["S"] and rank == row.arguments["input"].count(",") + 1 and activation in wanted[0] and element in wanted[1]


def _text(row: Row) -> str:
    (element,), activations = row.constants["input_dtype"], [str(dtype) for dtype in row.constants["customize_dtype"] if dtype]
    return (f"{element} in " if element else "") + " or ".join(row.dtypes["S"]) + (f" for {' or '.join(activations)}" if activations else "")


def _kernel(instruction: Opaque, device: str, state: Elaboration) -> Diagnostic | None:
    op = str(dict(instruction.arguments)["kernel"])
    contract = CONTRACTS.get(op)
    if contract is None:
        return None
    rows, short = rows_for(op, device, None), op.rpartition(":")[2]
    if not rows:
        known = ", ".join(dict.fromkeys(d for row in contract.rows for d in row.devices))
        message = f"no contract row of `{short}` holds for device {device}"
        return Diagnostic(code="contract-device", message=message, span=instruction.span, where=instruction.of.name, helps=(f"rows hold for: {known}",))
    first, *others = contract.schema.parameters
    operands = {p.name: Operand(instruction.span, value=None if p.tensors else p.default_value) for p in others}
    operands[first.name] = Operand(instruction.span, instruction.of.type, layer=instruction.of)
    axes = {digit.axis for dim in instruction.of.type.dims for digit in dim}
    context = max(state.contexts.values(), key=lambda context: len(axes & set(context.axes.values())))
    verdict = check_call(contract, rows, operands, context, instruction.span, instruction.result.name)
    if verdict.problems:
        return verdict.problems[0]
    made, claimed = verdict.results[0], instruction.result.type.storage
    if made is None or made.storage == claimed:
        return None
    message = f"`{short}` makes {made.storage}, the step says {claimed}"
    return Diagnostic(
        code="contract-layout", message=message, span=instruction.span, where=instruction.of.name, helps=(f"write `call({short}, {made.storage})`",)
    )
