"""What a module remembers of the plan that ran on it.

Made by ``layoutdsl.runtime.apply``; read by it and by ``restore``; a private attribute of the module, so neither in ``state_dict`` nor among its parameters.

Invariants: Parameters in the kernel's form are held weakly, so that memory which nobody uses goes, and are asked for their ``data`` when it is needed, so that
moving it is followed; what a reload protocol puts aside, and later puts back, is found as long as it lives.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch.nn import Module, Parameter

from layoutdsl.plan.codec import plan_hash
from layoutdsl.plan.model import Plan
from layoutdsl.runtime.marks import kernel_form, mark_kernel

RECORD = "_layoutdsl_record"
"""Attribute of the module: its :class:`Record`."""
Restored = Literal["", "alias", "fresh"]


class Record:
    """plan: bound. hash: its hash. made: by the name of a tensor on the module, the Parameters that are or were registered under it with its memory; marked
    as in the kernel's form unless the plan leaves them alone. lists: outputs that are lists, with their lengths. consumed: input Parameters that the plan took
    away, with their attributes but without memory. kept: from ``restore`` to ``apply``, the memory of outputs whose Parameters are in the checkpoint's form
    meanwhile. restored: in which mode. done: outputs that a streamed ``apply`` finished before it failed. spoiled: input Parameters whose bytes a failed
    ``apply`` may have written over.
    """

    def __init__(self, plan: Plan, hash: str | None = None) -> None:
        self.plan, self.hash = plan, hash or plan_hash(plan)
        self.made: dict[str, list[weakref.ref[Parameter]]] = {}
        self.lists: dict[str, int] = {}
        self.consumed: dict[str, Parameter] = {}
        self.kept: dict[str, torch.Tensor] = {}
        self.restored: Restored = ""
        self.done: frozenset[str] = frozenset()
        self.spoiled: list[weakref.ref[torch.Tensor]] = []

    def alive(self, name: str) -> list[Parameter]:
        """The Parameters of an output tensor that still exist, the newest first."""
        return [parameter for reference in reversed(self.made.get(name, ())) if (parameter := reference()) is not None]

    def add(self, name: str, parameter: Parameter) -> None:
        others = [found for found in reversed(self.alive(name)) if found is not parameter]
        self.made[name] = [weakref.ref(found) for found in (*others, parameter)]

    def spoil(self, tensors: Iterable[torch.Tensor]) -> None:
        self.spoiled = [weakref.ref(tensor) for tensor in tensors]

    def is_spoiled(self, tensor: torch.Tensor) -> bool:
        return any(reference() is tensor for reference in self.spoiled)

    def __reduce__(self) -> tuple[Any, ...]:
        """torch drops the attributes of a Parameter, and so its mark, when it copies a module deeply; a pickled mark belongs to nobody. Here the tensors
        themselves are handed on, which the copying maps to their copies. Of memory that parameters lie over, a copy has no use: it has addresses of its own."""
        made = {name: [(found, kernel_form(found) is not None) for found in reversed(self.alive(name))] for name in self.made}
        spoiled = [found for reference in self.spoiled if (found := reference()) is not None]
        kept = self.kept if self.restored == "fresh" else {}
        return _rebuilt, (self.plan, self.hash, made, self.lists, self.consumed, kept, self.restored, self.done, spoiled)


def _rebuilt(
    plan: Plan,
    hash: str,
    made: Mapping[str, list[tuple[Parameter, bool]]],
    lists: dict[str, int],
    consumed: dict[str, Parameter],
    kept: dict[str, torch.Tensor],
    restored: Restored,
    done: frozenset[str],
    spoiled: list[torch.Tensor],
) -> Record:
    record = Record(plan, hash)
    for name, found in made.items():
        for parameter, marked in found:
            record.add(name, parameter)
            if marked:
                mark_kernel(parameter, hash, name)
    record.lists, record.consumed, record.kept, record.restored, record.done = lists, consumed, kept, restored, done
    record.spoil(spoiled)
    return record


def record_of(module: Module) -> Record | None:
    found = module.__dict__.get(RECORD)
    return found if isinstance(found, Record) else None


def put_record(module: Module, record: Record) -> None:
    object.__setattr__(module, RECORD, record)
