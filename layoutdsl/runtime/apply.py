"""Runs a bound plan in place on a ``torch.nn.Module``: ``apply``.

On top of ``layoutdsl.runtime.execute``: reads the layer's parameters by name, and puts the results in their place.

Invariants: everything is computed before anything is changed, and whatever fails, the module is as it was; a name that stays a parameter keeps its Parameter
object, and so what a weight loader hung on it; a tensor in the form the kernel wants carries a mark, so that no plan runs on it twice.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch.nn import Module, Parameter

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.plan.codec import plan_hash
from layoutdsl.plan.model import Output, Plan
from layoutdsl.runtime.execute import MathMode, Result, run

MARK = "_layoutdsl_plan"
"""Attribute of a tensor that a plan has made or kept: the hash of that plan. A tensor that a loader creates anew has none: it is in the checkpoint's form."""
RECORD = "_layoutdsl_applied"
"""Attribute of the module (no parameter, no buffer, so not in ``state_dict``): the :class:`Record` of the plan that ran last."""


class Record:
    """What ran on a module, and the tensors that are in the kernel's form because of it (held weakly: a replaced one may go).

    torch drops the attributes of a tensor, and so the mark, when it copies a module deeply. Copies and pickles of a Record are made from its tensors, which the
    copying maps to their copies, and making a Record marks them: so the copy of a layer knows that it was applied.
    """

    def __init__(self, plan: str, scheme: str, layer: str, tensors: Iterable[torch.Tensor] = ()) -> None:
        self.plan, self.scheme, self.layer = plan, scheme, layer
        made = list(tensors)
        for tensor in made:
            setattr(tensor, MARK, plan)
        self._made = [weakref.ref(tensor) for tensor in made]

    def __reduce__(self) -> tuple[Any, ...]:
        alive = [tensor for tensor in (reference() for reference in self._made) if tensor is not None and hasattr(tensor, MARK)]
        return Record, (self.plan, self.scheme, self.layer, alive)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a dotted name lives: ``fa_k.scale`` is ``scale`` of the submodule ``fa_k``."""

    owner: Module
    leaf: str


def apply(plan: Plan, module: Module, *, math: MathMode = "exact") -> None:
    """What ``run`` gives, in place on the module.

    plan: bound. Its inputs are read from parameters, buffers or plain attributes; its outputs become, by kind, parameters (the same object where the name was
    one, else new without gradient), plain attributes, buffers (not persistent), lists or numbers; inputs that are no outputs are deleted. Needs memory for all
    outputs beside the inputs, because a failure must leave the module as it was.

    Raises: DiagnosticError with ``already-applied``, with what ``run`` raises, or with ``plan-invalid`` where an output's name has no place on the module.
    """
    tensors = _inputs(plan, module)
    _refuse_second(plan, module, tensors)
    places = {output.name: _output_place(module, output) for output in plan.outputs}
    results = run(plan, tensors, math=math)
    saved = _Saved(module, tensors)
    try:
        _commit(plan, module, places, tensors, results)
    except BaseException:
        saved.restore()
        raise


def shapes_of(plan: Plan, module: Module) -> dict[str, tuple[int, ...]]:
    """The shapes of a plan's inputs that are on the module. Raises: DiagnosticError with ``already-applied``, since these are not the checkpoint's shapes."""
    tensors = _inputs(plan, module)
    _refuse_second(plan, module, tensors)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _inputs(plan: Plan, module: Module) -> dict[str, torch.Tensor]:
    found = {node.name: _get(module, node.name) for node in plan.inputs}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


# ---- names ---------------------------------------------------------------------------------------------------------------------------------------------------


def _place(module: Module, name: str) -> _Place | None:
    *path, leaf = name.split(".")
    for part in path:
        child = module._modules.get(part)
        if child is None:
            return None
        module = child
    return _Place(module, leaf)


def _get(module: Module, name: str) -> torch.Tensor | None:
    place = _place(module, name)
    if place is None:
        return None
    found = _own(place)
    return found if isinstance(found, torch.Tensor) else None


def _own(place: _Place) -> object:
    """What the module itself holds under the name: never a method or a class attribute."""
    for held in (place.owner._parameters, place.owner._buffers, place.owner.__dict__):
        if place.leaf in held:
            return held[place.leaf]
    return None


def _output_place(module: Module, output: Output) -> _Place:
    place = _place(module, output.name)
    if place is None:
        _refuse_place(output.name, f"the module has no submodule `{output.name.rpartition('.')[0]}`")
    # A class attribute hides a parameter or buffer of its name, and a plain attribute would hide a method.
    shared = getattr(type(place.owner), place.leaf, None)
    hidden = hasattr(type(place.owner), place.leaf) and output.kind in ("parameter", "buffer")
    if hidden or callable(shared) or place.leaf in place.owner._modules:
        _refuse_place(output.name, f"`{place.leaf}` is a part of {type(place.owner).__name__} already")
    return place


def _refuse_place(name: str, note: str) -> NoReturn:
    raise DiagnosticError(Diagnostic(code="plan-invalid", message=f"the output `{name}` has no place on the module", where=name, notes=(note,)))


# ---- once ----------------------------------------------------------------------------------------------------------------------------------------------------


def _refuse_second(plan: Plan, module: Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse a module whose tensors are what a plan made, or whose tensors a plan took away and no loader made anew."""
    marked = [name for name, tensor in tensors.items() if hasattr(tensor, MARK)]
    record: Record | None = module.__dict__.get(RECORD)
    gone = [node.name for node in plan.inputs if node.default is None and node.name not in tensors] if record else []
    if not marked and not gone:
        return
    notes = [f"`{name}` is in the form the kernel wants" for name in marked] + [f"`{name}` was consumed" for name in gone]
    if record:
        notes.insert(0, f"{record.scheme}.{record.layer} ran on it ({record.plan[:19]}...)")
    help = "create the parameters anew and load the checkpoint into them before applying a plan again"
    raise DiagnosticError(Diagnostic(code="already-applied", message="a plan was applied to this module already", notes=tuple(notes), helps=(help,)))


# ---- commit --------------------------------------------------------------------------------------------------------------------------------------------------


class _Saved:
    """The module as it was: what each touched submodule holds, and what the Parameter objects point to."""

    def __init__(self, module: Module, tensors: Mapping[str, torch.Tensor]) -> None:
        self.held = [(child, dict(child.__dict__), {name: child.__dict__[name].copy() for name in _TABLES}) for child in module.modules()]
        self.data = [(tensor, tensor.data, tensor.requires_grad, dict(tensor.__dict__)) for tensor in tensors.values()]

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


_TABLES = ("_parameters", "_buffers", "_non_persistent_buffers_set")


def _commit(plan: Plan, module: Module, places: Mapping[str, _Place], tensors: Mapping[str, torch.Tensor], results: Mapping[str, Result]) -> None:
    for output in plan.outputs:
        _put(output, places[output.name], tensors.get(output.name), results[output.name])
    for name in tensors.keys() - results.keys():
        place = _place(module, name)
        assert place is not None
        delattr(place.owner, place.leaf)
    made = [tensor for name in results for tensor in _tensors(_own(places[name]))]
    object.__setattr__(module, RECORD, Record(plan_hash(plan), plan.scheme, plan.layer, made))


def _put(output: Output, place: _Place, before: torch.Tensor | None, result: Result) -> None:
    owner, leaf = place.owner, place.leaf
    if output.kind == "parameter" and isinstance(before, Parameter):
        if before is not result:
            before.requires_grad_(False)
            before.data = _plain(result)
        return
    if result is before and _fits(output.kind, place):
        return
    if leaf in owner._parameters or leaf in owner._buffers or leaf in owner.__dict__:
        delattr(owner, leaf)
    match output.kind:
        case "parameter":
            owner.register_parameter(leaf, Parameter(_plain(result), requires_grad=False))
        case "buffer":
            owner.register_buffer(leaf, _plain(result), persistent=False)
        case _:
            setattr(owner, leaf, [_plain(item) for item in result] if isinstance(result, list) else _detached(result))


def _fits(kind: str, place: _Place) -> bool:
    """Is an untouched tensor held as what it shall be?"""
    held: dict[str, Mapping[str, Any]] = {"parameter": place.owner._parameters, "buffer": place.owner._buffers}
    return place.leaf in held.get(kind, place.owner.__dict__)


def _plain(result: Result) -> torch.Tensor:
    assert isinstance(result, torch.Tensor)
    return result.detach()


def _detached(result: Result) -> Result:
    return result.detach() if isinstance(result, torch.Tensor) else result


def _tensors(value: object) -> Iterable[torch.Tensor]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, torch.Tensor)]
