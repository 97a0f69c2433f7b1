"""Leads a module on which a plan ran back to the checkpoint's form, ready to be loaded again: ``restore``; and makes that form in the first place.

The counterpart of ``layoutdsl.runtime.apply``: restore, load, apply.

Invariants: afterwards every input of the plan is a Parameter in the checkpoint's shape and dtype, filled with poison; those that ``apply`` kept or took away
are the same objects as before, with the attributes that loaders need; whatever fails, the module is as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NoReturn

import torch
from torch.nn import Module, Parameter

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.plan.lifecycle import untouched
from layoutdsl.plan.model import ND, Input, Output, Plan
from layoutdsl.runtime.commit import Saved, consume
from layoutdsl.runtime.dtypes import torch_dtype
from layoutdsl.runtime.marks import mark_checkpoint, mark_kernel, watch
from layoutdsl.runtime.memory import laid_over, overlaps_any
from layoutdsl.runtime.places import Place, made_place, pieces, place_of
from layoutdsl.runtime.poison import fill, unmark
from layoutdsl.runtime.record import Record, record_of

Mode = Literal["alias", "fresh"]


# ---- the first time ------------------------------------------------------------------------------------------------------------------------------------------


def create_parameters(plan: Plan, module: Module, *, weight_loader: Callable[..., Any] | None = None, device: torch.device | str | None = None) -> None:
    """Registers a Parameter without gradient for every input of a bound plan, filled with poison, with the attributes that weight loaders look for.

    weight_loader: is set on each of them. device: torch's default device if None. Submodules that dotted names need are made. Raises: what torch raises
    for a name that is taken.
    """
    for node in plan.inputs:
        place = made_place(module, node.name)
        parameter = _new(node, torch.empty(node.type.shape, dtype=torch_dtype(node.type.storage), device=device))
        if weight_loader is not None:
            parameter.weight_loader = weight_loader  # type: ignore[attr-defined]
        watch(parameter)
        fill(parameter, node.type.element)
        place.owner.register_parameter(place.leaf, parameter)


def _new(node: Input, data: torch.Tensor) -> Parameter:
    parameter = Parameter(data, requires_grad=False)
    for name, value in node.loader:
        setattr(parameter, name, value)
    return parameter


# ---- again ---------------------------------------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def restore(plan: Plan, module: Module, *, mode: Mode = "alias") -> None:
    """The layer in the checkpoint's form, with nothing loaded. Does nothing on a module on which no plan ran; a second call fills with poison once more.

    mode: ``alias`` lays each parameter over the memory of the output of its name where both have the same number of bytes: no memory is taken but for inputs
    that the plan took away and those whose size changed. ``fresh`` takes memory for all of them, and leaves the outputs as they are until the next ``apply``
    has made new ones; until then ``roll_back`` leads back.

    Raises: DiagnosticError ``torn`` where a tensor of the kernel's form is gone: set to None or deleted by somebody who may have made other things of it.
    """
    record = record_of(module)
    if record is None or not record.made:
        return
    if record.plan is not plan and record.plan != plan:
        _refuse_other(record)
    _refuse_gone(plan, module, record)
    saved = Saved(module, module.parameters(), record)
    try:
        _restore(plan, module, record, mode)
    except BaseException:
        saved.restore()
        raise


def _restore(plan: Plan, module: Module, record: Record, mode: Mode) -> None:
    outputs = {output.name: output for output in plan.outputs}
    formats = {node.id: node.type.format for node in (*plan.inputs, *plan.code)}
    device = next((found.device for name in record.made for found in record.alive(name)), None)
    used: list[torch.Tensor] = []
    fresh: list[tuple[Input, Parameter, torch.Tensor]] = []
    for node in plan.inputs:
        parameter = _object(node, module, record)
        memory = _kept(node.name, parameter, record) if node.name in outputs and outputs[node.name].kind != "list" else None
        usable = memory is not None and mode == "alias" and (memory.device.type != "npu" or formats[outputs[node.name].value] == ND)
        data = _over(memory, node, used) if usable and memory is not None else None
        if data is None:
            data = torch.empty(node.type.shape, dtype=torch_dtype(node.type.storage), device=memory.device if memory is not None else device)
        used.append(data)
        fresh.append((node, parameter, data))
    for node, parameter, data in fresh:
        mark_checkpoint(parameter)
        parameter.requires_grad_(False)
        parameter.data = data
        fill(parameter, node.type.element)
        made_place(module, node.name).put(parameter)
        record.consumed.pop(node.name, None)
    record.restored, record.done = mode, frozenset()
    record.spoil(())


def _object(node: Input, module: Module, record: Record) -> Parameter:
    """The Parameter that an input is or was."""
    place = place_of(module, node.name)
    held = None if place is None else place.held
    if isinstance(held, Parameter):
        return held
    consumed = record.consumed.get(node.name)
    return _new(node, torch.empty(0, dtype=torch_dtype(node.type.storage))) if consumed is None else consumed


def _kept(name: str, parameter: Parameter, record: Record) -> torch.Tensor | None:
    """The memory of the output of an input's name, from now on held by the record."""
    if name not in record.kept and any(found is parameter for found in record.alive(name)):
        record.kept[name] = parameter.detach()
    return record.kept.get(name)


def _over(memory: torch.Tensor, node: Input, used: list[torch.Tensor]) -> torch.Tensor | None:
    data = laid_over(memory, node.type.shape, node.type.strides, torch_dtype(node.type.storage))
    return None if data is None or overlaps_any(data, used) else data


@torch.no_grad()
def roll_back(module: Module) -> None:
    """After ``restore(mode="fresh")``, and until an ``apply`` has returned: the layer as it was.

    Raises: DiagnosticError ``torn`` where there is nothing to go back to.
    """
    record = record_of(module)
    if record is None or record.restored != "fresh":
        message = "there is nothing to roll back to: only `restore` with `fresh` keeps what was there, and only until `apply`"
        raise DiagnosticError(Diagnostic(code="torn", message=message, helps=("load the layer, then call `plan.apply(module)`",)))
    plan, kept = record.plan, dict(record.kept)
    same = untouched(plan)
    for node in plan.inputs:
        place = made_place(module, node.name)
        held = place.held
        if node.name not in kept or not isinstance(held, Parameter):
            consume(record, node.name, place)
            continue
        unmark(held)
        held.data = kept[node.name]
        if node.name not in same:
            mark_kernel(held, record.hash, node.name)
    for output in plan.outputs:
        place = made_place(module, output.name)
        if output.kind == "list":
            place.put([where.held for _, where in pieces(output, place, record.lists[output.name])])
    record.kept, record.restored = {}, ""


# ---- refusals ------------------------------------------------------------------------------------------------------------------------------------------------


def _refuse_gone(plan: Plan, module: Module, record: Record) -> None:
    gone = [
        name for output in plan.outputs if output.kind != "value" for name, place in _recorded(output, module, record) if place is None or place.tensor is None
    ]
    if gone:
        notes = tuple(f"`{name}` is None, or was deleted" for name in gone)
        helps = ("create the layer's parameters anew, load and apply; whatever was made of the old ones elsewhere stays as it is",)
        message = "somebody took tensors of the kernel's form from the layer, and may have made others of them"
        raise DiagnosticError(Diagnostic(code="torn", message=message, where=gone[0], notes=notes, helps=helps))


def _recorded(output: Output, module: Module, record: Record) -> list[tuple[str, Place | None]]:
    """The tensors of an output that were made once."""
    place = place_of(module, output.name)
    if place is None:
        return [(output.name, None)]
    return [(name, where) for name, where in pieces(output, place, record.lists.get(output.name, 0)) if name in record.made]


def _refuse_other(record: Record) -> NoReturn:
    message = "another plan was applied to this layer"
    helps = ("restore the layer with the plan that was applied",)
    raise DiagnosticError(
        Diagnostic(code="torn", message=message, notes=(f"it was {record.plan.scheme}.{record.plan.layer}, {record.hash[:19]}...",), helps=helps)
    )
