"""Runs a bound plan in place on a ``torch.nn.Module``, the first time and after every reload: ``apply``.

On top of ``layoutdsl.runtime.execute``, which makes the tensors; beside ``restore``, which leads back to the checkpoint's form. ``parts`` cuts
a plan to some outputs, ``commit`` puts it in its place, ``record`` is what the module remembers.

Invariants: what was not loaded is found before anything is made of it; an output is made anew exactly if what it is made from is in the checkpoint's form, so a
second ``apply`` changes nothing; what was made once stays in its memory for as long as its Parameter lives; a Parameter that was there stays, with all that a
weight loader hung on it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

import torch
from torch.nn import Module

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.plan.lifecycle import sources_of, untouched
from layoutdsl.plan.model import Input, Output, Plan
from layoutdsl.runtime.commit import Saved, commit, consume, memory_of
from layoutdsl.runtime.execute import MathMode, Result, check_tensors, default_tensor, run
from layoutdsl.runtime.guard import unloaded
from layoutdsl.runtime.marks import kernel_form
from layoutdsl.runtime.memory import overlaps_any
from layoutdsl.runtime.parts import part
from layoutdsl.runtime.places import Place, output_place, pieces, place_of, tensor_at
from layoutdsl.runtime.record import Record, put_record, record_of

Policy = Literal["stage", "stream", "donate"]


@torch.no_grad()
def apply(plan: Plan, module: Module, *, math: MathMode = "exact", policy: Policy = "stage") -> None:
    """What ``run`` gives, in place on the module.

    plan: bound. Inputs are read from parameters, buffers or plain attributes. Tensors of the outputs become Parameters without gradient (the same object where
    the name was one), lists plain lists of Parameters ``<list>_<i>``, numbers plain attributes; inputs that are no outputs are deleted.

    policy, with the memory that it takes beside the module's:

    - ``stage``: everything is made, then put in place. All outputs on top of all inputs; after ``restore`` and on a reload, where old outputs are still there,
      one set of outputs more, for as long as the call lasts. If it fails the module is as it was; only if copying into memory that is shared with inputs
      fails, the layer is torn, and must be restored and loaded again.
    - ``stream``: output by output, each written straight into its memory where no input lies there, and inputs go with their last reader. One output at a time
      on a reload. If it fails the layer is torn: what is done is done, and a second ``apply`` from the same inputs does the rest.
    - ``donate``: first load only; inputs are let go while outputs are made. If it fails, they are lost.

    Raises: DiagnosticError with ``partial-load``, ``torn``, what ``run`` raises, ``policy-invalid`` for ``donate`` on a reload, or ``plan-invalid`` where an
    output's name has no place on the module.
    """
    layer = _Layer.of(plan, module)
    todo = layer.todo()
    if policy == "donate" and layer.ran:
        _refuse_donate()
    if len(todo) == len(plan.outputs) and not layer.ran:
        check_tensors(plan, layer.tensors)
    for node in layer.defaulted():
        layer.tensors[node.name].data.copy_(default_tensor(node, layer.tensors[node.name].device))
    layer.refresh_lists()
    match policy:
        case "stage":
            _stage(layer, todo, math)
        case "stream":
            _stream(layer, todo, math)
        case "donate":
            _donate(layer, todo, math)


def shapes_of(plan: Plan, module: Module) -> dict[str, tuple[int, ...]]:
    """The shapes of those inputs of a plan that are on the module in the checkpoint's form."""
    found = {node.name: tensor_at(module, node.name) for node in plan.inputs}
    return {name: tuple(tensor.shape) for name, tensor in found.items() if tensor is not None and kernel_form(tensor) is None}


def bound_plan_on(plan: Plan, module: Module) -> Plan | None:
    """The bound plan that ran on a module, if it is this unbound one with sizes."""
    record = record_of(module)
    if record is None:
        return None
    ran = record.plan
    return ran if (ran.scheme, ran.layer, ran.spec_hash, ran.config) == (plan.scheme, plan.layer, plan.spec_hash, plan.config) else None


# ---- what is there -------------------------------------------------------------------------------------------------------------------------------------------


@dataclass
class _Layer:
    """A module seen with a plan. tensors: the inputs that are there, in whatever form. places: of the outputs. sources: what each output is made from, without
    what the plan leaves alone."""

    plan: Plan
    module: Module
    record: Record
    tensors: dict[str, torch.Tensor]
    places: Mapping[str, Place]
    sources: Mapping[str, tuple[str, ...]]
    untouched: frozenset[str]

    @classmethod
    def of(cls, plan: Plan, module: Module) -> _Layer:
        found = {node.name: tensor_at(module, node.name) for node in plan.inputs}
        tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
        record = record_of(module)
        if record is None or (record.plan is not plan and record.plan != plan):
            record = Record(plan)
        _refuse_foreign(record, tensors)
        places = {output.name: output_place(module, output) for output in plan.outputs}
        same = untouched(plan)
        sources = {name: tuple(node.name for node in plan.inputs if node.name in needed - same) for name, needed in sources_of(plan).items()}
        return cls(plan, module, record, tensors, places, sources, same)

    @property
    def ran(self) -> bool:
        """Has the plan made something here already?"""
        return bool(self.record.made)

    def loaded(self, names: Collection[str]) -> list[str]:
        """Those that are there in the checkpoint's form."""
        return [name for name in names if name in self.tensors and kernel_form(self.tensors[name]) is None]

    def todo(self) -> list[Output]:
        """The outputs to make. Raises: DiagnosticError ``torn`` where some of what an output is made from is in one form and some in the other."""
        torn, todo = [], []
        required = {node.name for node in self.plan.inputs if node.default is None}
        for output in self.plan.outputs:
            sources = self.sources[output.name]
            loaded = self.loaded(sources)
            made = [name for name in sources if name in self.tensors and name not in loaded]
            gone = [name for name in sources if name in required and name not in self.tensors] if self.ran else []
            # Made from nothing but what the plan leaves alone: that may have been loaded anew at any time.
            if not sources or (not made and not gone and (loaded or not self.ran)):
                todo.append(output)
            elif output.name in self.record.done or (not loaded and self.is_made(output)):
                continue
            else:
                torn.append(_torn_output(output, loaded, [*made, *gone]))
        spoiled = [name for name in self.loaded(self.tensors) if self.record.is_spoiled(self.tensors[name])]
        if spoiled:
            torn.append(_spoiled(spoiled))
        if torn:
            raise DiagnosticError(*torn)
        return todo

    def is_made(self, output: Output) -> bool:
        """Is an output as the plan made it?"""
        place = self.places[output.name]
        if output.kind == "value":
            return place.held is not None
        held = [piece.tensor for _, piece in pieces(output, place, self.record.lists.get(output.name, 0))]
        return all(tensor is not None and (form := kernel_form(tensor)) is not None and form.plan == self.record.hash for tensor in held)

    def defaulted(self) -> list[Input]:
        """The inputs to fill with their defaults. Raises: DiagnosticError with a ``partial-load`` for each other that was not loaded."""
        defaulted = [node.name for node in self.plan.inputs if node.default is not None]
        tensors = {name: self.tensors[name] for name in self.loaded(self.tensors)}
        ranks = dict(self.plan.config).get("tp_size", 1)
        fill, findings = unloaded(tensors, defaulted=defaulted, experts=self.plan.layer.endswith("moe"), tp_size=ranks if isinstance(ranks, int) else 1)
        if findings:
            raise DiagnosticError(*findings)
        return [node for node in self.plan.inputs if node.name in fill]

    def refresh_lists(self) -> None:
        """Lists hold the Parameters that are registered now: a reloader may have put others in their place."""
        for output in self.plan.outputs:
            held = self.places[output.name].held
            if output.kind == "list" and isinstance(held, list):
                now = [place.tensor for _, place in pieces(output, self.places[output.name], len(held))]
                held[:] = [old if new is None else new for old, new in zip(held, now)]

    def part(self, outputs: Sequence[Output]) -> tuple[Plan, dict[str, torch.Tensor]]:
        """The plan for these outputs and the tensors that it reads. The whole plan, if it is one: it looks at inputs that nobody reads, too."""
        if len(outputs) == len(self.plan.outputs) and not self.ran:
            return self.plan, dict(self.tensors)
        cut = part(self.plan, {output.name for output in outputs})
        return cut, {node.name: self.tensors[node.name] for node in cut.inputs if node.name in self.tensors}

    # -- memory

    def memory(self, output: Output) -> list[torch.Tensor]:
        """What the tensors of an output were in when they were last made."""
        return memory_of(self.record, output, output.name in self.untouched)

    def free_memory(self, output: Output) -> list[torch.Tensor]:
        """The same, if no input lies there."""
        memory = self.memory(output)
        return [] if any(overlaps_any(one, self.tensors.values()) for one in memory) else memory

    def blocks(self, output: Output, still_open: Sequence[Output]) -> bool:
        """Would putting an output in place destroy what another of these still reads?"""
        read = frozenset[str]().union(*(self.sources[other.name] for other in still_open if other is not output)) & self.tensors.keys()
        return output.name in read or any(overlaps_any(memory, [self.tensors[name] for name in read]) for memory in self.memory(output))

    # -- commit

    def commit(self, results: Sequence[tuple[Output, Result]], reserved: Sequence[torch.Tensor]) -> None:
        inputs = [self.tensors[name] for name in self.loaded(self.tensors)]
        commit(self.record, results, self.places, self.untouched, inputs, reserved)
        self.record.done |= {output.name for output, _ in results}

    def consume(self, still_open: Sequence[Output]) -> None:
        """Takes away the inputs that are no outputs and that none of these reads."""
        read = frozenset[str]().union(*(self.sources[output.name] for output in still_open))
        for name in self.tensors.keys() - self.places.keys() - read:
            place = place_of(self.module, name)
            assert place is not None
            consume(self.record, name, place)
            del self.tensors[name]

    def finish(self) -> None:
        self.consume(())
        self.record.kept, self.record.restored, self.record.done = {}, "", frozenset()
        put_record(self.module, self.record)


# ---- policies ------------------------------------------------------------------------------------------------------------------------------------------------


def _stage(layer: _Layer, todo: Sequence[Output], math: MathMode) -> None:
    saved = Saved(layer.module, layer.tensors.values(), layer.record)
    try:
        plan, tensors = layer.part(todo)
        _commit_all(layer, todo, run(plan, tensors, math=math))
    except BaseException:
        saved.restore()
        raise


def _donate(layer: _Layer, todo: Sequence[Output], math: MathMode) -> None:
    """Takes the memory out of the Parameters first, so that it can go."""
    given = {name: tensor.detach() for name, tensor in layer.tensors.items()}
    for tensor in layer.tensors.values():
        tensor.requires_grad_(False)
        tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    _commit_all(layer, todo, run(layer.plan, given, math=math, donate=True))


def _commit_all(layer: _Layer, todo: Sequence[Output], results: Mapping[str, Result]) -> None:
    layer.commit([(output, results[output.name]) for output in todo], reserved=[memory for output in todo for memory in layer.memory(output)])
    layer.finish()


def _stream(layer: _Layer, todo: Sequence[Output], math: MathMode) -> None:
    """Output by output. One that lies over what another must still read comes after it, or waits for it in memory of its own; so does one that takes the place
    of a parameter that another must still read."""
    put_record(layer.module, layer.record)
    reserved = [memory for output in todo for memory in layer.memory(output)]
    unmade, waiting = list(todo), list[tuple[Output, Result]]()
    while unmade:
        still_open = [*unmade, *(output for output, _ in waiting)]
        output = next((output for output in unmade if not layer.blocks(output, still_open)), unmade[0])
        unmade.remove(output)
        plan, tensors = layer.part([output])
        waiting.append((output, run(plan, tensors, math=math, into={output.name: layer.free_memory(output)})[output.name]))
        _commit_ready(layer, waiting, unmade, reserved)
    if waiting:  # each lies over what another has read: they can only go together
        layer.commit(waiting, reserved)
    layer.finish()


def _commit_ready(layer: _Layer, waiting: list[tuple[Output, Result]], unmade: Sequence[Output], reserved: Sequence[torch.Tensor]) -> None:
    """Puts in place whatever waits and is in nobody's way, until nothing is."""
    while True:
        still_open = [*unmade, *(output for output, _ in waiting)]
        ready = next((made for made in waiting if not layer.blocks(made[0], still_open)), None)
        if ready is None:
            return
        layer.commit([ready], reserved)
        waiting.remove(ready)
        layer.consume([output for output in still_open if output is not ready[0]])


# ---- refusals ------------------------------------------------------------------------------------------------------------------------------------------------

_AGAIN = "call `plan.restore(module)`, load the layer, then `plan.apply(module)`"


def _torn_output(output: Output, loaded: Sequence[str], gone: Sequence[str]) -> Diagnostic:
    if loaded:
        message = f"some of what `{output.name}` is made from was loaded, and some is in the form the kernel wants"
    else:
        message = f"`{output.name}` is not what the plan made, and what it is made from is gone"
    notes = (*(f"`{name}` was loaded" for name in loaded), *(f"`{name}` is in the kernel's form, or was consumed" for name in gone))
    return Diagnostic(code="torn", message=message, where=output.name, notes=notes, helps=(_AGAIN,))


def _spoiled(names: Sequence[str]) -> Diagnostic:
    message = "an earlier `apply` failed while it wrote over the parameters that it was made from"
    return Diagnostic(code="torn", message=message, where=names[0], notes=tuple(f"`{name}` may be damaged" for name in names), helps=(_AGAIN,))


def _refuse_foreign(record: Record, tensors: Mapping[str, torch.Tensor]) -> None:
    foreign = {name: form for name, tensor in tensors.items() if (form := kernel_form(tensor)) is not None and form.plan != record.hash}
    if foreign:
        notes = tuple(f"`{name}` was made by plan {form.plan[:19]}..." for name, form in foreign.items())
        helps = ("restore the layer with the plan that was applied, or create its parameters anew; then load and apply",)
        raise DiagnosticError(Diagnostic(code="torn", message="another plan was applied to this layer", where=next(iter(foreign)), notes=notes, helps=helps))


def _refuse_donate() -> NoReturn:
    message = "`donate` is for the first load: this layer was applied before, and its memory is in use"
    raise DiagnosticError(Diagnostic(code="policy-invalid", message=message, where="policy", helps=("write `stage` or `stream`",)))
