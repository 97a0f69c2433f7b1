"""The load guard: what was not loaded is named, before anything is made of it.

Between ``layoutdsl.runtime.poison``, which counts what is left, and ``layoutdsl.runtime.apply``, which fills defaults in and stops at findings. It also serves
layers that no plan knows: all that it needs is their tensors.

Invariants: nothing is written; every tensor is judged, so that one run names all that is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from layoutdsl.diagnostics import Diagnostic
from layoutdsl.runtime.marks import LOADER
from layoutdsl.runtime.poison import NAN, Judgement, judge, poison_of

SHOWN = 4
"""Ranges of indices in a message."""


def unloaded(
    tensors: Mapping[str, torch.Tensor], *, defaulted: Collection[str] = (), experts: bool = False, tp_size: int = 1
) -> tuple[list[str], list[Diagnostic]]:
    """What to fill with defaults (names), and a ``partial-load`` for everything else that was not loaded, or not wholly.

    tensors: by name; only those that were filled with poison are judged. defaulted: those that may be absent from the checkpoint. experts: the first dim of a
    tensor of two or more dims counts experts. tp_size: ranks over which a loader slices, for the reason.
    """
    fill: list[str] = []
    findings: list[Diagnostic] = []
    for name, tensor in tensors.items():
        judgement = judge(tensor)
        if judgement.whole and name in defaulted:
            fill.append(name)
        elif judgement.left:
            findings.append(partial_load(name, tensor, judgement, experts=experts, tp_size=tp_size))
    return fill, findings


def partial_load(name: str, tensor: torch.Tensor, judgement: Judgement, *, experts: bool = False, tp_size: int = 1) -> Diagnostic:
    """The finding for one tensor: how much of it was loaded, where the rest is, and what that looks like."""
    places = _places(tensor, judgement, experts)
    return Diagnostic(
        code="partial-load",
        message=f"`{name}`: {judgement.total - judgement.left} of {judgement.total} values were loaded" + (f"; missing are {places}" if places else ""),
        where=name,
        notes=tuple(_reasons(name, tensor, experts, tp_size)),
        helps=("`layoutdsl check` compares the headers of a checkpoint with the layer; a wrong `version` or `group_size` in its description does this too",),
    )


def _places(tensor: torch.Tensor, judgement: Judgement, experts: bool) -> str:
    """The indices at which values are missing, of those dims in which they are not missing everywhere; of experts always."""
    found = []
    for dim, ranges in enumerate(judgement.where):
        whole = ranges == ((0, tensor.shape[dim]),)
        if experts and dim == 0 and tensor.dim() > 1:
            found.append(f"{'experts' if ranges[-1][1] - ranges[0][0] > 1 else 'expert'} {_text(ranges)}")
        elif not whole:
            found.append(f"{_text(ranges)} of dim {dim}")
    return ", ".join(found)


def _text(ranges: tuple[tuple[int, int], ...]) -> str:
    shown = [f"{first}" if stop == first + 1 else f"{first}-{stop - 1}" for first, stop in ranges[:SHOWN]]
    return " and ".join([", ".join(shown), *(["more"] if len(ranges) > SHOWN else [])])


def _reasons(name: str, tensor: torch.Tensor, experts: bool, tp_size: int) -> list[str]:
    found = poison_of(tensor)
    notes = [f"the parameter is {list(tensor.shape)}"]
    if found is not None and found.byte == NAN and tensor.element_size() == 1:
        notes.append("the byte 0xff, which is NaN, in the checkpoint itself looks the same")
    if found is None or not found.loaded:
        watched = hasattr(tensor, LOADER)
        return [*notes, "its weight loader was never called: the checkpoint has no tensor of this name, or it is called otherwise"] if watched else notes
    return [*notes, *(f"its weight loader was given {list(given)}{_cut(name, tensor, given, experts, tp_size)}" for given in found.seen)]


def _cut(name: str, tensor: torch.Tensor, given: tuple[int, ...], experts: bool, tp_size: int) -> str:
    """What becomes of a tensor of the checkpoint whose dims, counted from the end, are those of the parameter."""
    offset = tensor.dim() - len(given)
    if offset < 0:
        return ""
    sliced = {dim - offset for key in ("input_dim", "output_dim") if isinstance(dim := getattr(tensor, key, None), int)}
    if experts and not sliced:  # vLLM 0.23, FusedMoE.weight_loader: gate and up along their outputs, down along its inputs, by the name alone
        sliced = {len(given) - 1 if name.startswith("w2") else 0}
    for dim in sorted(sliced & set(range(len(given)))) if tp_size > 1 else ():
        if given[dim] % tp_size or given[dim] // tp_size < tensor.shape[dim + offset]:
            return f", of which a loader that slices dim {dim} by tp {tp_size} takes {given[dim] // tp_size} of the {tensor.shape[dim + offset]} it should"
    short = next((dim for dim in range(len(given)) if given[dim] < tensor.shape[dim + offset]), None)
    return "" if short is None else f": {given[short]} of {tensor.shape[short + offset]} along dim {short + offset}"
