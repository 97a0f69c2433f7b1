"""Runs a bound plan on tensors: ``run``.

Behind ``layoutdsl.plan.schedule``, which says in what order and how much at a time; in front of ``move``, ``compute`` and ``opaque``, which do the work.

Invariants: inputs are never written to; an output that the plan leaves alone is the very tensor that came in; beyond inputs and outputs there is never more
memory than the intermediates of one pass (one expert) and the bounded scratch of the engines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Union

import torch

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.ir.dtypes import ELEMENTS, STORAGES
from layoutdsl.plan.inputs import check_inputs
from layoutdsl.plan.model import Compute, Input, Move, Opaque, Plan, TensorType
from layoutdsl.plan.schedule import Loop, Schedule, Step, lead, reads, schedule, slice_type
from layoutdsl.runtime.compute import compute
from layoutdsl.runtime.dtypes import NAMES, TORCH
from layoutdsl.runtime.move import allocate, copy, restride
from layoutdsl.runtime.opaque import opaque

MathMode = Literal["exact", "fast"]
Value = Union[torch.Tensor, list[torch.Tensor]]
Result = Union[torch.Tensor, list[torch.Tensor], int, float, bool]


@torch.no_grad()
def run(
    plan: Plan,
    tensors: Mapping[str, torch.Tensor],
    *,
    math: MathMode = "exact",
    donate: bool = False,
    into: Mapping[str, Sequence[torch.Tensor]] | None = None,
) -> dict[str, Result]:
    """All that the layer has afterwards, by name, in the plan's order: tensors, lists of tensors (kind ``list``), Python numbers (kind ``value``).

    plan: bound. tensors: the layer's parameters by name, all on one device; they are not changed. Outputs that the plan leaves alone are the tensors that came
    in; others may share memory with an input where the plan says so. Inputs that are not dense, or start at an offset, are made dense first, which costs a copy
    of each. donate: ``tensors`` must be a dict and is emptied: each input is removed after its last use, so that its memory can go while the rest is still made
    (unless the caller holds it too). into: by output, memory for its tensor, or for those of its list, that shares none with ``tensors``: a result that is
    made, and is no view or kernel's result, is written straight into it if it is exactly such memory; else it is ignored.

    Raises: DiagnosticError with ``tensor-kind``, ``tensor-missing``, ``tensor-unexpected``, ``tensor-dtype``, ``tensor-shape``, ``tensor-device``; before
    any work.
    """
    device = check_tensors(plan, tensors)
    if donate and not isinstance(tensors, dict):
        raise TypeError("donate=True takes the tensors out of a dict")
    plan_schedule = schedule(plan, device_formats=device.type == "npu")
    job = _Job(plan, plan_schedule, tensors if isinstance(tensors, dict) and donate else dict(tensors), device, math)
    job.into = {value: into[name] for name, value in plan_schedule.outputs if name in into} if into else {}
    job.release(plan_schedule.unused)
    for stage in plan_schedule.stages:
        if isinstance(stage, Loop):
            job.loop(stage)
        else:
            job.whole(stage)
        job.release(stage.free)
    results = {output.name: _result(output.kind, job.get(value)) for output, (_, value) in zip(plan.outputs, plan_schedule.outputs)}
    job.tensors.clear()
    return results


def check_tensors(plan: Plan, tensors: Mapping[str, torch.Tensor]) -> torch.device:
    """The device of the tensors, the processor if there are none. Raises: as ``run``."""
    strange = {name: type(tensor).__name__ for name, tensor in tensors.items() if not isinstance(tensor, torch.Tensor)}
    if strange:
        raise DiagnosticError(
            *(
                Diagnostic(code="tensor-kind", message=f"`{name}` is of type {kind}, not a torch tensor", where=name, helps=("pass torch tensors",))
                for name, kind in strange.items()
            )
        )
    found = {name: (NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.")), tuple(tensor.shape)) for name, tensor in tensors.items()}
    findings = check_inputs(plan, found)
    devices = {name: tensor.device for name, tensor in tensors.items()}
    if len(set(devices.values())) > 1:
        notes = tuple(f"`{name}` is on {device}" for name, device in devices.items())
        findings.append(Diagnostic(code="tensor-device", message="the tensors are not on one device", notes=notes, helps=("move them to one device first",)))
    if findings:
        raise DiagnosticError(*findings)
    return next(iter(devices.values()), torch.device("cpu"))


def _result(kind: str, value: Value) -> Result:
    if kind == "value":
        assert isinstance(value, torch.Tensor)
        number: int | float | bool = value.item()
        return number
    return [value] if kind == "list" and isinstance(value, torch.Tensor) else value


# ---- inputs --------------------------------------------------------------------------------------------------------------------------------------------------


def _dense(tensor: torch.Tensor, kind: TensorType) -> torch.Tensor:
    """The tensor without gradients, alone at the start of its storage and in the memory order of its type."""
    tensor = tensor.detach()
    if tensor.storage_offset() == 0 and _strides_agree(tensor, kind):
        return tensor
    fresh = torch.empty_strided(kind.shape, kind.strides, dtype=tensor.dtype, device=tensor.device)
    return fresh.copy_(tensor)


def _strides_agree(tensor: torch.Tensor, kind: TensorType) -> bool:
    return all(size <= 1 or found == wanted for size, found, wanted in zip(tensor.shape, tensor.stride(), kind.strides)) or tensor.numel() == 0


def default_tensor(node: Input, device: torch.device) -> torch.Tensor:
    """A parameter that the checkpoint does not have, filled with its default (zero where nothing reads it)."""
    kind, dtype = node.type, TORCH[node.type.storage]
    number = node.default if isinstance(node.default, (int, float)) else 0
    if not kind.lanes and not kind.excess and ELEMENTS[kind.element].native == kind.storage:
        return torch.full(kind.shape, number, dtype=dtype, device=device)
    return torch.full(kind.shape, _word(node, number), dtype=_integer(kind), device=device).view(dtype)


def _integer(kind: TensorType) -> torch.dtype:
    return {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}[STORAGES[kind.storage].bits]


def _word(node: Input, number: int | float) -> int:
    """The storage element, as a signed integer, in which every slot holds the number."""
    kind, bits = node.type, STORAGES[node.type.storage].bits
    if number and (ELEMENTS[kind.element].kind not in ("int", "uint") or STORAGES[kind.storage].kind == "float" or not isinstance(number, int)):
        message = f"the default {number!r} of `{node.name}` cannot be written as {kind.element} in {kind.storage}"
        raise DiagnosticError(Diagnostic(code="plan-invalid", message=message, where=node.name))
    code = (int(number) + kind.excess) % (1 << kind.slot_bits)
    word = sum(code << place for place in range(0, bits, kind.slot_bits))
    return word - (1 << bits) if word >> (bits - 1) else word


# ---- work ----------------------------------------------------------------------------------------------------------------------------------------------------


@dataclass
class _Job:
    """One run: the values that exist now, by id. An input becomes a value when it is first needed."""

    plan: Plan
    schedule: Schedule
    tensors: dict[str, torch.Tensor]
    device: torch.device
    math: MathMode
    values: dict[str, Value] = field(default_factory=dict)
    into: Mapping[str, Sequence[torch.Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inputs = {node.id: node for node in self.plan.inputs}
        self.extents = {axis: extent for axis, extent in self.plan.axes if isinstance(extent, int)}
        self.types = self.schedule.types

    def get(self, name: str) -> Value:
        """A value as an output: what no step changed is the tensor that came in."""
        node = self.inputs.get(name)
        if node is not None and node.name in self.tensors:
            return self.tensors[node.name]
        return self.values[name] if node is None else self.read(name)

    def read(self, name: str) -> Value:
        """A value as an operand, dense."""
        if name not in self.values:
            node = self.inputs[name]
            given = self.tensors.get(node.name)
            self.values[name] = default_tensor(node, self.device) if given is None else _dense(given, self.types[name])
        return self.values[name]

    def release(self, names: tuple[str, ...]) -> None:
        for name in names:
            self.values.pop(name, None)
            if name in self.inputs:
                self.tensors.pop(self.inputs[name].name, None)

    def whole(self, step: Step) -> None:
        name = step.node.id
        operands = {read: _one(self.read(read)) for read in reads(step.node)}
        made = self.alias(step, operands, self.types)
        if made is None:
            made = self.fresh(name, step.node.type)
            self.fill(step, operands, self.types, self.extents, made)
        self.values[name] = made

    def fresh(self, name: str, kind: TensorType, index: int = 0) -> torch.Tensor:
        """Memory for a value, or for an element of a list: what the caller gave for it, or new."""
        given = self.into.get(name, ())
        if index < len(given) and _is_such_memory(given[index], kind, self.device):
            return given[index]
        return allocate(kind, self.device)

    def loop(self, loop: Loop) -> None:
        """Every pass writes slices of what must be whole, adds to lists, and keeps the rest in buffers that the next pass uses again."""
        for name in loop.written:
            self.values[name] = self.fresh(name, self.types[name])
        gathered: dict[str, list[torch.Tensor]] = {name: [] for name in loop.gathered}
        types = {name: slice_type(kind, loop.axis) for name, kind in self.types.items()}
        extents = {**self.extents, loop.axis: 1}
        buffers = _Buffers(self.device)
        for index in range(loop.count):
            local = {name: self.slice(name, loop.axis, index) for name in (*loop.sliced, *loop.written)}
            for step in loop.steps:
                local[step.node.id] = self.step(step, local, types, extents, buffers, loop, index)
                for name in gathered.keys() & {step.node.id}:
                    gathered[name].append(local[name])
                buffers.give_back(step.free)
        self.values.update(gathered)

    def step(
        self,
        step: Step,
        local: Mapping[str, torch.Tensor],
        types: Mapping[str, TensorType],
        extents: Mapping[str, int],
        buffers: _Buffers,
        loop: Loop,
        index: int,
    ) -> torch.Tensor:
        name = step.node.id
        operands = {read: local[read] if read in local else _one(self.read(read)) for read in reads(step.node)}
        made = self.alias(step, operands, types)
        if made is not None:
            return made
        if name in loop.written:
            out = local[name]
        elif name in loop.gathered:
            out = self.fresh(name, step.node.type, index)
        else:
            out = buffers.take(name, step.node.type)
        self.fill(step, operands, types, extents, out)
        return out

    def slice(self, name: str, axis: str, index: int) -> torch.Tensor:
        """What pass ``index`` sees of a whole value: its slices lie one behind the other in memory."""
        value = self.read(name)
        if isinstance(value, list):
            return value[index]
        dim = lead(self.types[name], axis)
        assert dim is not None
        length = value.shape[dim] // self.extents[axis]
        return value.narrow(dim, index * length, length)

    def alias(self, step: Step, operands: Mapping[str, torch.Tensor], types: Mapping[str, TensorType]) -> torch.Tensor | None:
        """The result of a step that writes into no memory of ours; None for all others."""
        node = step.node
        with _explained(step):
            if isinstance(node, Opaque):
                return _checked(opaque(node, operands[node.of]), node.type)
            if step.share and isinstance(node, Move):
                return restride(operands[node.of], types[node.of], node.type)
        return None

    def fill(self, step: Step, operands: Mapping[str, torch.Tensor], types: Mapping[str, TensorType], extents: Mapping[str, int], out: torch.Tensor) -> None:
        node = step.node
        with _explained(step):
            if isinstance(node, Compute):
                compute(node, {name: (operand, types[name]) for name, operand in operands.items()}, extents, out, self.math)
            else:
                copy(operands[node.of], types[node.of], node.type, out)


@contextmanager
def _explained(step: Step) -> Iterator[None]:
    """The engines refuse what is not well typed. A compiled plan never is, but a plan may come from anywhere."""
    try:
        yield
    except ValueError as error:
        message = f"the step `{step.node.step}` cannot be executed"
        raise DiagnosticError(Diagnostic(code="plan-invalid", message=message, where=f"value {step.node.id}", notes=(str(error),))) from error


def _is_such_memory(tensor: torch.Tensor, kind: TensorType, device: torch.device) -> bool:
    """Is it what ``allocate`` would give, at the start of its storage?"""
    same = (tuple(tensor.shape), tensor.dtype, tensor.device) == (kind.shape, TORCH[kind.storage], device)
    return same and tensor.storage_offset() == 0 and _strides_agree(tensor, kind)


def _checked(tensor: torch.Tensor, kind: TensorType) -> torch.Tensor:
    """What a kernel gave, if it is what the plan says it gives."""
    if tuple(tensor.shape) != kind.shape or tensor.dtype != TORCH[kind.storage]:
        raise ValueError(f"it gave {tensor.dtype} {list(tensor.shape)}, not {kind.storage} {list(kind.shape)}")
    return tensor


def _one(value: Value) -> torch.Tensor:
    assert isinstance(value, torch.Tensor)
    return value


@dataclass
class _Buffers:
    """Memory for what lives for one pass, used again by later steps and passes: fresh pages cost more than the work on them."""

    device: torch.device
    free: dict[TensorType, list[torch.Tensor]] = field(default_factory=dict)
    lent: dict[str, tuple[TensorType, torch.Tensor]] = field(default_factory=dict)

    def take(self, name: str, kind: TensorType) -> torch.Tensor:
        spare = self.free.get(kind)
        out = spare.pop() if spare else allocate(kind, self.device)
        self.lent[name] = (kind, out)
        return out

    def give_back(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name in self.lent:
                kind, out = self.lent.pop(name)
                self.free.setdefault(kind, []).append(out)
