"""Puts what a plan made in its place on the module: into the memory that it had before, under the Parameter that was there before.

The last stage of ``layoutdsl.runtime.apply``.

Invariants: all copies come before the first change to the module; no copy writes over what a later one reads; when inputs are written over, the record says so
until everything is in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Module, Parameter

from layoutdsl.plan.model import Output
from layoutdsl.runtime.execute import Result
from layoutdsl.runtime.marks import kernel_form, mark_checkpoint, mark_kernel, watch
from layoutdsl.runtime.memory import alike, overlaps_any, same
from layoutdsl.runtime.places import Place, pieces
from layoutdsl.runtime.poison import unmark
from layoutdsl.runtime.record import Record

_TABLES = ("_parameters", "_buffers", "_non_persistent_buffers_set")


def memory_of(record: Record, output: Output, untouched: bool) -> list[torch.Tensor]:
    """The memory that the tensors of an output had when they were last made, as far as it is still there."""
    names = [f"{output.name}_{index}" for index in range(record.lists.get(output.name, 0))] if output.kind == "list" else [output.name]
    return [memory for name in names if (memory := _memory(record, name, untouched)) is not None]


def _memory(record: Record, name: str, untouched: bool) -> torch.Tensor | None:
    if name in record.kept:
        return record.kept[name]
    return next((found.detach() for found in record.alive(name) if untouched or kernel_form(found) is not None), None)


@dataclass
class _Piece:
    """One tensor on its way to a place."""

    name: str
    place: Place
    made: torch.Tensor
    memory: torch.Tensor | None
    untouched: bool


def commit(
    record: Record,
    results: Sequence[tuple[Output, Result]],
    places: Mapping[str, Place],
    untouched: frozenset[str],
    inputs: Iterable[torch.Tensor],
    reserved: Sequence[torch.Tensor],
) -> None:
    """Puts results in their places. inputs: tensors in the checkpoint's form. reserved: memory that this call, or a later one, writes into."""
    found = [piece for output, result in results for piece in _pieces(record, output, result, places[output.name], output.name in untouched)]
    _write(record, found, inputs, reserved)
    parameters = {piece.name: _parameter(record, piece) for piece in found}
    for piece in found:
        _put(record, piece, parameters[piece.name])
    for output, result in results:
        _put_plain(record, output, result, places[output.name], parameters)
    record.spoil(())


def _pieces(record: Record, output: Output, result: Result, place: Place, untouched: bool) -> list[_Piece]:
    if output.kind == "value":
        return []
    tensors = result if isinstance(result, list) else [result]
    made = [tensor.detach() for tensor in tensors if isinstance(tensor, torch.Tensor)]
    return [
        _Piece(name, where, tensor, memory if memory is not None and alike(memory, tensor) else None, untouched)
        for (name, where), tensor in zip(pieces(output, place, len(made)), made)
        for memory in [_memory(record, name, untouched)]
    ]


def _write(record: Record, found: Sequence[_Piece], inputs: Iterable[torch.Tensor], reserved: Sequence[torch.Tensor]) -> None:
    """Copies what has a place in memory there. What is a view of memory that is written to is copied out of the way first."""
    moving = [piece for piece in found if piece.memory is None or not same(piece.made, piece.memory)]
    for piece in moving:
        if overlaps_any(piece.made, reserved):
            piece.made = piece.made.clone(memory_format=torch.preserve_format)
    targets = [(piece, piece.memory) for piece in moving if piece.memory is not None]
    record.spoil(tensor for tensor in inputs if overlaps_any(tensor, [memory for _, memory in targets]))
    for piece, memory in targets:
        memory.copy_(piece.made)
        piece.made = memory


def _parameter(record: Record, piece: _Piece) -> Parameter:
    """The object that the tensor will be: the one that is there, else one that a reload protocol has put aside, else a new one."""
    held = piece.place.held
    if isinstance(held, Parameter):
        return held
    aside = [found for found in record.alive(piece.name) if found is not held]
    return aside[0] if aside else Parameter(piece.made, requires_grad=False)


def _put(record: Record, piece: _Piece, parameter: Parameter) -> None:
    parameter.requires_grad_(False)
    if not same(parameter, piece.made):
        parameter.data = piece.made
    unmark(parameter)
    mark_checkpoint(parameter)
    if not piece.untouched:
        mark_kernel(parameter, record.hash, piece.name)
    watch(parameter)
    piece.place.put(parameter)
    record.add(piece.name, parameter)
    record.kept.pop(piece.name, None)


def _put_plain(record: Record, output: Output, result: Result, place: Place, parameters: Mapping[str, Parameter]) -> None:
    if output.kind == "value":
        place.put(result)
    elif output.kind == "list":
        assert isinstance(result, list)
        record.lists[output.name] = len(result)
        place.put([parameters[name] for name, _ in pieces(output, place, len(result))])


def consume(record: Record, name: str, place: Place) -> None:
    """Takes an input away that is no output. Its object, with its attributes, stays with the record; its memory goes."""
    held = place.held
    place.clear()
    if isinstance(held, Parameter):
        unmark(held)
        held.requires_grad_(False)
        held.data = torch.empty(0, dtype=held.dtype, device=held.device)
        record.consumed[name] = held


# ---- undoing -------------------------------------------------------------------------------------------------------------------------------------------------


class Saved:
    """The module as it was: what each submodule holds, what Parameter objects point to, and what was recorded, but for what is spoiled."""

    def __init__(self, module: Module, tensors: Iterable[torch.Tensor], record: Record) -> None:
        self.held = [(child, dict(child.__dict__), {name: child.__dict__[name].copy() for name in _TABLES}) for child in module.modules()]
        recorded = [parameter for name in record.made for parameter in record.alive(name)]
        self.data = [(tensor, tensor.data, tensor.requires_grad, dict(tensor.__dict__)) for tensor in (*tensors, *recorded)]
        self.record = record
        self.recorded: dict[str, Any] = {name: value.copy() if isinstance(value, dict) else value for name, value in vars(record).items() if name != "spoiled"}

    def restore(self) -> None:
        for child, attributes, tables in self.held:
            child.__dict__.clear()
            child.__dict__.update(attributes)
            for name, table in tables.items():
                live = child.__dict__[name]
                live.clear()
                live.update(table)
        for tensor, data, requires_grad, attributes in self.data:
            tensor.requires_grad_(False)
            tensor.data = data
            tensor.requires_grad_(requires_grad)
            tensor.__dict__.clear()
            tensor.__dict__.update(attributes)
        vars(self.record).update(self.recorded)
