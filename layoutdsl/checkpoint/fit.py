"""Do the stored tensors of every layer fit what its spec declares: names, dtypes, shapes, and the config that the checkpoint states.

After ``layers``; what fits goes on to ``topology`` with its sizes. Whatever a loader of the consumers does in silence is a finding here: it rounds, or it
fills a part of a parameter and leaves the rest as the memory was (source: vLLM 0.23.0, ``_narrow_expert_data_for_padding`` of the fused experts' loader).

Invariants: no tensor byte is read; layers of one config and equal contents are judged once; a fault of a layer is said once, of its cause rather than of what
follows from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from layoutdsl.checkpoint.contents import Contents, Group, contents_of, usual, whole
from layoutdsl.checkpoint.faults import Case, Fault, Lie, placed
from layoutdsl.checkpoint.model import Layer, Part
from layoutdsl.checkpoint.plans import LayerPlan, Plans
from layoutdsl.checkpoint.shapes import json_text, plain_text, shape_faults
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.ir.dtypes import ELEMENTS, STORAGES, carriage_of, holds_exactly
from layoutdsl.plan.model import Input

ROUNDED = frozenset({"float16", "bfloat16", "float32"})
"""Dtypes into which a loader may round another float; a narrower one would be another scheme."""
Narrowed = tuple[str, str, str]
"""A parameter, its dtype in the files, its dtype in the layer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with a layer; with its plan, and all sizes where its shapes are right. refused: why it has no plan. narrowed: what loading rounds."""

    faults: tuple[Fault, ...]
    plan: LayerPlan | None = None
    sizes: Mapping[str, int] | None = None
    narrowed: tuple[Narrowed, ...] = ()
    refused: tuple[Diagnostic, ...] = ()


def misfits(layers: Iterable[Layer], consumer: str, device: str, params_dtype: str, *, experts: int | None = None) -> Iterator[Diagnostic]:
    """Everything that does not fit, layer by layer; then what loading rounds, once per scheme and parameter.

    params_dtype: ``bfloat16`` or ``float16``. experts: how many ``config.json`` speaks of.
    """
    yield from Fit(Plans(consumer, device, params_dtype), experts).findings(layers)


@dataclass(slots=True)
class Fit:
    """Judges layers, each kind of contents once."""

    plans: Plans
    experts: int | None = None
    _known: dict[Any, Verdict] = field(default_factory=dict)
    _of: dict[int, tuple[Layer, Verdict]] = field(default_factory=dict)

    def findings(self, layers: Iterable[Layer]) -> Iterator[Diagnostic]:
        refused: dict[tuple[str, Diagnostic], list[str]] = {}
        narrowed: Counter[tuple[str, Narrowed]] = Counter()
        alike: Counter[tuple[str, str]] = Counter()
        lies: dict[tuple[str, str, Lie], list[tuple[Layer, list[Fault]]]] = {}
        for layer in layers:
            verdict, scheme = self.verdict(layer), f"{layer.scheme}.{layer.kind}"
            alike[scheme, layer.said_by] += 1
            narrowed.update((scheme, row) for row in verdict.narrowed)
            for finding in verdict.refused:
                refused.setdefault((layer.said_by, replace(finding, message=f"{scheme}: {finding.message}")), []).append(layer.prefix)
            for fault in verdict.faults:
                if fault.lie is None:
                    yield from placed(fault, layer)
            lied = [fault for fault in verdict.faults if fault.lie is not None]
            if lied and lied[0].lie is not None:
                lies.setdefault((scheme, layer.said_by, lied[0].lie), []).append((layer, lied))
        for (scheme, said_by, lie), found in lies.items():
            yield from _lies(scheme, said_by, lie, found, alike[scheme, said_by])
        for (said_by, finding), prefixes in refused.items():
            notes = (f"said of {_counted(len(prefixes), 'layer')}, the first is {prefixes[0]}", *finding.notes)
            yield replace(finding, where=said_by, notes=notes)
        for (scheme, row), count in narrowed.items():
            yield _narrowing(scheme, *row, count)

    def verdict(self, layer: Layer) -> Verdict:
        # With the layer, which keeps its id its own.
        if id(layer) not in self._of:
            self._of[id(layer)] = layer, self._verdict(layer)
        return self._of[id(layer)][1]

    def _verdict(self, layer: Layer) -> Verdict:
        contents = contents_of(layer)
        try:
            key = (self.plans.key(layer.scheme, layer.kind, layer.config), contents, layer.said_by)
            if key not in self._known:
                self._known[key] = self._judged(layer, contents)
        except DiagnosticError as error:
            return Verdict((), refused=error.diagnostics)
        return self._known[key]

    def _judged(self, layer: Layer, contents: Contents) -> Verdict:
        plan = self.plans.of(layer.scheme, layer.kind, {**layer.config, "tp_size": 1, "tp_rank": 0})
        last = max((group.experts[-1] for _, groups in contents for group in groups if group.experts), default=-1)
        experts = max(last + 1, self.experts or 0) if last >= 0 else 0
        case = Case(self.plans, plan, layer.scheme, layer.kind, layer.config, dict(contents), experts, layer.said_by)
        misshapen, sizes = shape_faults(case)
        wrong, narrowed = _dtypes(case)
        # What another config explains is no fault of its own.
        names = [] if any(fault.lie for fault in misshapen) else [*_missing(case), *_unexpected(case)]
        return Verdict((*misshapen, *names, *_absent(case), *_beyond(case, self.experts), *_unlike(case), *wrong), plan, sizes, tuple(narrowed))


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


# ---- what is said of many layers --------------------------------------------------------------------------------------------------------------------------


def _lies(scheme: str, said_by: str, lie: Lie, found: list[tuple[Layer, list[Fault]]], alike: int) -> Iterator[Diagnostic]:
    """One finding where all layers of the scheme contradict the config; else it is these layers that are not like the others."""
    if len(found) < alike:
        others = f"{_counted(alike - len(found), 'other layer')} of {scheme} fit `{lie.name}` {plain_text(lie.stated)}: store these tensors as those are"
        for layer, faults in found:
            for fault in faults:
                yield from placed(replace(fault, helps=(others,)), layer)
        return
    layer, faults = found[0]
    stated, fitting = plain_text(lie.stated), plain_text(lie.fitting)
    message = f"`{lie.name}` is {stated} here, and the tensors of {_counted(alike, 'layer')} of {scheme} fit {fitting}"
    shown = [f"{next(placed(fault, layer)).where}: {fault.message}" for fault in faults[:3]]
    notes = (*shown, *faults[0].notes)
    helps = (f'write `"{lie.name}": {json_text(lie.fitting)}` in {said_by}',)
    yield Diagnostic(code=faults[0].code, message=message, where=said_by, notes=notes, helps=helps)


def _narrowing(scheme: str, name: str, stored: str, kept: str, count: int) -> Diagnostic:
    source, target = STORAGES[stored], STORAGES[kept]
    loss = (
        f"up to 2**-{target.mantissa + 1} of each value" if target.kind == "float" else "the fraction" if source.kind == "float" else f"what {kept} cannot hold"
    )
    message = f"`{name}` is {stored} in the files and {kept} in the layer: loading loses {loss}"
    return Diagnostic(code="narrowing", message=message, severity="note", where=scheme, notes=(f"in {_counted(count, 'layer')}",))


# ---- names ------------------------------------------------------------------------------------------------------------------------------------------------


def _absent_experts(case: Case) -> list[int]:
    there = {part.expert for name in case.groups for part in case.parts(name)}
    return [expert for expert in range(case.experts) if expert not in there]


def _absent(case: Case) -> Iterator[Fault]:
    absent = _absent_experts(case)
    if absent:
        known = f"there are {case.experts} experts, {case.experts - len(absent)} of them in the files"
        yield Fault("tensor-missing", "the files have no tensor of this expert", parts=tuple(Part(expert) for expert in absent), notes=(known,))


def _beyond(case: Case, stated: int | None) -> Iterator[Fault]:
    if stated and case.experts > stated:
        notes = (f"config.json speaks of {stated} experts",)
        parts = tuple(Part(expert) for expert in range(stated, case.experts))
        yield Fault("tensor-unexpected", "the model has no such expert", parts=parts, notes=notes)


def _missing(case: Case) -> Iterator[Fault]:
    """Required parameters that the files lack, wholly or of single experts."""
    absent, strangers = set(_absent_experts(case)), case.strangers(case.plan)
    notes = [f"stored, but unknown to the scheme: {', '.join(strangers[:8])}"] if strangers else []
    for name, node in case.plan.inputs.items():
        parts = _wanted(case, name, absent) - set(case.parts(name)) if node.default is None else set()
        if parts:
            reason = f"{case.scheme} ({case.said_by}) needs `{name}`"
            yield Fault("tensor-missing", "the files have no such tensor", name, tuple(sorted(parts, key=_order)), notes=(reason, *notes))


def _wanted(case: Case, name: str, absent: set[int]) -> set[Part]:
    groups, segmented = case.groups.get(name, ()), case.plan.segmented(name)
    if not case.experts or any(group.experts is None for group in groups):
        return set(case.parts(name)) or {Part()}
    known = _segments(groups) or _segments(group for other, found in case.groups.items() if _family(other) == _family(name) for group in found)
    segments: Iterable[str] = segmented[1] if segmented is not None and known != {""} else known or {""}
    return {Part(expert, segment) for expert in range(case.experts) if expert not in absent for segment in segments}


def _segments(groups: Iterable[Group]) -> set[str]:
    return {group.segment for group in groups}


def _family(name: str) -> str:
    return name.partition("_")[0]


def _order(part: Part) -> tuple[int, str]:
    return (-1 if part.expert is None else part.expert, part.segment)


def _unexpected(case: Case) -> Iterator[Fault]:
    for name in case.strangers(case.plan):
        notes = (f"{case.scheme} ({case.said_by}) has {', '.join(case.plan.inputs)}",)
        yield Fault("tensor-unexpected", "the layer has no parameter for this tensor", name, case.parts(name), notes=notes)


def _unlike(case: Case) -> Iterator[Fault]:
    """Experts whose tensor is not like that of most experts, and halves that are not alike."""
    for name, groups in case.groups.items():
        most = usual(groups)
        for group in groups:
            like = most[group.segment]
            if group is not like:
                code = "tensor-shape" if group.shape != like.shape else "tensor-dtype"
                turned = " looks transposed: it" if group.shape[::-1] == like.shape != group.shape else ""
                message = f"this{turned} is {_text(group)}, and that of {_counted(like.count, 'other expert')} {_text(like)}"
                yield Fault(code, message, name, tuple(group.parts), helps=("write the experts of a layer in one way",))
        if name in case.plan.inputs and whole(case.plan, name, groups, case.experts) is None:
            shown = ", ".join(f"{segment} {list(group.shape)}" for segment, group in most.items())
            yield Fault("tensor-shape", f"the parts of `{name}` do not go together: {shown}", name, case.parts(name))


def _text(group: Group) -> str:
    return f"{group.dtype} {list(group.shape)}"


# ---- dtypes -----------------------------------------------------------------------------------------------------------------------------------------------


def _dtypes(case: Case) -> tuple[list[Fault], list[Narrowed]]:
    faults, narrowed = [], []
    for name, node in case.plan.inputs.items():
        for dtype in dict.fromkeys(group.dtype for group in case.groups.get(name, ())):
            loading = _loading(case.plan, node, dtype)
            if loading == "rounds":
                narrowed.append((name, dtype, node.type.storage))
            elif loading == "wrong":
                faults.append(_wrong_dtype(case, node, dtype))
    return faults, narrowed


def _loading(plan: LayerPlan, node: Input, stored: str) -> Literal["same", "rounds", "wrong"]:
    """What ``copy_`` into the parameter does to the values; ``wrong`` where it keeps neither values nor bits."""
    storage, disk = node.type.storage, plan.disk.get(node.name, "")
    if stored == storage or (disk and stored == (ELEMENTS[disk].native or disk)):
        return "same"
    if stored not in STORAGES:
        return "wrong"
    source, target = STORAGES[stored], STORAGES[storage]
    integers = {source.kind, target.kind} <= {"int", "uint"}
    carriage = carriage_of(node.type.element, storage, bool(node.type.lanes))
    if carriage == "lanes" and integers and source.bits == target.bits:
        return "same"  # bytes stay bytes, with a sign or without
    if carriage != "native":
        return "wrong"
    if holds_exactly(storage, stored) and (source.kind, target.kind) != ("uint", "float"):  # bytes of a scale are exponents, not numbers
        return "same"
    to_float = source.kind == "float" and storage in ROUNDED
    return "rounds" if to_float or _is_offset(node, source.kind) or (integers and node.default is not None) else "wrong"


def _is_offset(node: Input, kind: str) -> bool:
    """A whole number per tensor or per row, which writers store as a float."""
    return kind == "float" and node.type.storage == "int8" and sum(any(digit.ext != 1 for digit in dim) for dim in node.type.dims) <= 1


def _wrong_dtype(case: Case, node: Input, stored: str) -> Fault:
    name, storage = node.name, node.type.storage
    parts = tuple(part for group in case.groups[name] if group.dtype == stored for part in group.parts)
    helps = []
    for other in {"bfloat16", "float16"} - {case.plans.params_dtype}:
        plan = case.with_config(replace(case.plans, params_dtype=other))
        if plan is not None and name in plan.inputs and _loading(plan, plan.inputs[name], stored) == "same":
            helps.append(f"a {other} model has {stored} here: `--params-dtype {other}`")
    held = "" if node.type.element == storage else f", which holds {node.type.element}"
    notes = (f"{case.scheme} ({case.said_by}) stores it as {storage}{held}",)
    message = f"`{name}` is {stored} in the files and {storage} in the layer: a copy keeps neither values nor bits"
    return Fault("tensor-dtype", message, name, parts, notes=notes, helps=tuple(helps))
