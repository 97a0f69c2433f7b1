"""Names of a plan as places on a module: ``fa_k.scale`` is ``scale`` of the submodule ``fa_k``.

Used by ``layoutdsl.runtime.apply`` and ``restore``.

Invariants: only what the module itself holds is seen, never a method or an attribute of its class; every tensor that is put on a module is a Parameter without
gradient, because reloaders and offloaders look at nothing else; a list is a plain list of Parameters that are registered beside it, as ``<list>_<i>``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch.nn import Module, Parameter

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.plan.model import Output


@dataclass(frozen=True, slots=True)
class Place:
    owner: Module
    leaf: str

    @property
    def held(self) -> object:
        """What is there, or None."""
        for table in (self.owner._parameters, self.owner._buffers, self.owner.__dict__):
            if self.leaf in table:
                return table[self.leaf]
        return None

    @property
    def tensor(self) -> torch.Tensor | None:
        found = self.held
        return found if isinstance(found, torch.Tensor) else None

    def clear(self) -> None:
        if any(self.leaf in table for table in (self.owner._parameters, self.owner._buffers, self.owner.__dict__)):
            delattr(self.owner, self.leaf)

    def put(self, value: Any) -> None:
        """A Parameter is registered, anything else becomes a plain attribute; what is there already, as the same thing, stays where it stands."""
        if isinstance(value, Parameter) and self.leaf in self.owner._parameters:
            self.owner._parameters[self.leaf] = value
            return
        self.clear()
        if isinstance(value, Parameter):
            self.owner.register_parameter(self.leaf, value)
        else:
            setattr(self.owner, self.leaf, value)

    def element(self, index: int) -> Place:
        """Where element ``index`` of the list at this place is registered."""
        return Place(self.owner, f"{self.leaf}_{index}")


def place_of(module: Module, name: str) -> Place | None:
    """None where the module lacks a submodule."""
    *path, leaf = name.split(".")
    for part in path:
        child = module._modules.get(part)
        if child is None:
            return None
        module = child
    return Place(module, leaf)


def tensor_at(module: Module, name: str) -> torch.Tensor | None:
    place = place_of(module, name)
    return None if place is None else place.tensor


def made_place(module: Module, name: str) -> Place:
    """The place, with empty submodules made where they are missing."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, Module())
        module = module.get_submodule(part)
    return Place(module, leaf)


def output_place(module: Module, output: Output) -> Place:
    """Raises: DiagnosticError ``plan-invalid`` where the name is taken, or is of a submodule that the module lacks."""
    place = place_of(module, output.name)
    if place is None:
        _refuse(output.name, f"the module has no submodule `{output.name.rpartition('.')[0]}`")
    # A class attribute hides a parameter of its name, and a plain attribute would hide a method.
    shared = getattr(type(place.owner), place.leaf, None)
    hidden = hasattr(type(place.owner), place.leaf) and output.kind not in ("list", "value")
    if hidden or callable(shared) or place.leaf in place.owner._modules:
        _refuse(output.name, f"`{place.leaf}` is a part of {type(place.owner).__name__} already")
    return place


def _refuse(name: str, note: str) -> NoReturn:
    raise DiagnosticError(Diagnostic(code="plan-invalid", message=f"the output `{name}` has no place on the module", where=name, notes=(note,)))


def pieces(output: Output, place: Place, count: int) -> Sequence[tuple[str, Place]]:
    """The names and places of the Parameters of an output: of one tensor itself, or of the ``count`` tensors of a list."""
    if output.kind != "list":
        return [(output.name, place)]
    return [(f"{output.name}_{index}", place.element(index)) for index in range(count)]
