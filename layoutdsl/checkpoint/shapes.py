"""The shapes of a layer against its spec: do they agree on sizes, and if not, which tensor or which value of the config is to blame.

Part of ``fit``. In this order: one tensor is transposed; another value of the config fits everything; a requirement on the sizes is broken; else the tensors
that contradict the others.

Invariants: a value of the config is blamed only if exactly one other value fits; a tensor is blamed for a dim that the others say, never for one they leave
open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from layoutdsl.checkpoint.contents import Shape, declared, declared_dims, part_of, transposed, usual, whole
from layoutdsl.checkpoint.faults import Case, Fault, Lie
from layoutdsl.checkpoint.plans import LayerPlan
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.plan.bind import failed_requirements
from layoutdsl.plan.model import Input
from layoutdsl.plan.sizes import names_in
from layoutdsl.plan.solve import known_sizes

Shapes = Mapping[str, Shape]

CLOSED: tuple[tuple[str, tuple[str, ...]], ...] = (("version", ("1.0.0", "0")), ("weight_strategy", ("group", "channel")), ("layer_type", ("row", "column")))
"""Names of the config that shapes depend on, and the values that are tried. Versions: what msModelSlim writes, and what a description without the key means."""


def shape_faults(case: Case) -> tuple[list[Fault], Mapping[str, int] | None]:
    """What is wrong with the shapes; and the sizes, if all are known and nothing is wrong."""
    plan, shapes = case.plan, case.shapes(case.plan)
    sizes = _sizes(plan, shapes)
    if sizes is None:
        return _turned(case, shapes) or _lies(case, shapes) or _blamed(case, shapes), None
    if case.missing(plan) or case.strangers(plan):
        lies = _lies(case, shapes)
        if lies:
            return lies, None
    broken = _broken(case, sizes)
    return broken, None if broken or not sizes.keys() >= set(plan.plan.size_names) else sizes


def _sizes(plan: LayerPlan, shapes: Shapes) -> dict[str, int] | None:
    """What these shapes say; None if they contradict each other."""
    try:
        return known_sizes(plan.plan.data, shapes)
    except DiagnosticError:
        return None


def _broken(case: Case, sizes: Mapping[str, int], name: str = "", notes: tuple[str, ...] = ()) -> list[Fault]:
    found = failed_requirements(case.plan.plan.data, sizes)
    return [Fault(finding.code, finding.message, name, case.parts(name), notes=(*finding.notes, *notes), helps=finding.helps) for finding in found]


# ---- transposed -------------------------------------------------------------------------------------------------------------------------------------------


def _turned(case: Case, shapes: Shapes) -> list[Fault]:
    """One tensor that fits as soon as it is transposed."""
    for name in shapes:
        groups = case.groups[name]
        other = whole(case.plan, name, transposed(groups), case.experts) if all(len(group.shape) > 1 for group in groups) else None
        if other is None or _sizes(case.plan, {**shapes, name: other}) is None:
            continue
        rest = _sizes(case.plan, {other: shape for other, shape in shapes.items() if other != name}) or {}
        left_open = None in declared_dims(case.plan.inputs[name], rest)
        alone = f"or `{next(iter(shapes.keys() - {name}), '')}` is: only these two speak of the sizes, and they contradict each other"
        notes = ((f"or a part of it is missing: the other tensors say {_text(rest)} and no more" if rest else alone),) if left_open else ()
        helps = ("store it as the table of `layoutdsl describe` says",)
        return [
            Fault(
                "tensor-shape",
                f"`{name}` looks transposed: {list(found.shape)}, where {list(turned.shape)} fits",
                name,
                tuple(found.parts),
                "error",
                notes,
                helps,
            )
            for found, turned in zip(groups, transposed(groups))
        ]
    return []


def _text(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in sizes.items()) or "nothing"


# ---- another config ---------------------------------------------------------------------------------------------------------------------------------------


def _lies(case: Case, shapes: Shapes) -> list[Fault]:
    """The tensors that contradict the config, if another value of it, one and only one, fits everything."""
    found: list[tuple[int, Lie, LayerPlan, dict[str, int]]] = []
    for name, value in _alternatives(case, shapes):
        plan = case.with_config(**{name: value})
        sizes = None if plan is None or case.missing(plan) else _sizes(plan, case.shapes(plan))
        if plan is not None and sizes is not None and not any(failed_requirements(plan.plan.data, sizes)):
            found.append((len(case.strangers(plan)), Lie(name, case.plan.plan.config.get(name), value), plan, sizes))
    best = [row for row in found if row[0] == min(other[0] for other in found)]
    unknown = len(case.strangers(case.plan))
    # Without groups no scale of a group means anything: that explains nothing.
    ungrouped = len(best) == 1 and best[0][1].name == "group_size" and best[0][0] > unknown
    if len(best) != 1 or ungrouped or (best[0][0] and best[0][0] >= unknown and _sizes(case.plan, shapes) is not None):
        return []
    _, lie, plan, sizes = best[0]
    return [*_reshaped(case, lie, sizes, shapes), *_renamed(case, lie, plan)]


def _alternatives(case: Case, shapes: Shapes) -> Iterator[tuple[str, Any]]:
    settings = case.plans.names(case.scheme, case.kind)
    decided = case.plan.plan.config
    for name, values in CLOSED:
        if name in settings and name in decided:
            yield from ((name, value) for value in values if value != decided[name])
    if "group_size" in settings:
        yield from (("group_size", size) for size in _group_sizes(case, shapes) if size is not None or settings["group_size"])


def _group_sizes(case: Case, shapes: Shapes) -> list[int | None]:
    """Inputs per column of every stored tensor, where these are whole numbers and not the stated groups with a partial last one."""
    config = case.plan.plan.config
    stated: int = config.get("group_size") or 0
    sizes = _rest(case, shapes, _guilty(case, shapes))
    found: dict[int | None, None] = {None: None}
    for name, groups in case.groups.items():
        node = case.plan.inputs.get(name)
        own = set(sizes) if node is None else {size for dim in node.type.dims[-1:] for digit in dim for size in names_in(digit.ext)}
        for columns, size in {(group.shape[-1], sizes[size]) for group in groups for size in own & sizes.keys() if len(group.shape) > 1}:
            partial = stated and columns == -(-size // stated) and size % stated
            if 1 < columns < size and size % columns == 0 and not partial:
                found[size // columns] = None
    return [size for size in found if size != (stated or None)]


def _reshaped(case: Case, lie: Lie, sizes: Mapping[str, int], shapes: Shapes) -> Iterator[Fault]:
    """The tensors that the stated config gives another shape."""
    stated, fitting = plain_text(lie.stated), plain_text(lie.fitting)
    for name, shape in shapes.items():
        wanted, group = declared(case.plan.inputs[name], sizes), case.groups[name][0]
        if wanted == shape:
            continue
        own, found = None if wanted is None else part_of(case.plan, name, wanted, group), list(group.shape)
        left = "" if own is None else uninitialised(group.shape, own)
        notes = (f"with `{lie.name}` {fitting} every tensor of the layer fits", *([f"loaded as stated, {left} would stay uninitialised"] if left else []))
        if lie.name == "layer_type":
            message = f"`{name}` is {found}, as in a {fitting}-parallel layer; this one is {stated}-parallel, with {list(own or ())}"
            yield Fault("partial-load" if left else "tensor-shape", message, name, case.parts(name), notes=notes)
            continue
        makes = f"makes it {list(own)}" if own is not None else "makes no whole number of columns of it"
        message = f"`{name}` is {found} in the files, and `{lie.name}` {stated} {makes}"
        yield Fault("config-contradicts-shapes", message, name, case.parts(name), notes=notes, lie=lie)


def _renamed(case: Case, lie: Lie, plan: LayerPlan) -> Iterator[Fault]:
    """The tensors that the layer has under one of the two configs only."""
    if lie.name == "layer_type":
        return
    stated, notes = plain_text(lie.stated), (f"with `{lie.name}` {plain_text(lie.fitting)} every tensor of the layer fits",)
    for name in case.strangers(case.plan):
        if name in plan.inputs:
            message = f"`{name}` is in the files, and with `{lie.name}` {stated} the layer has no such parameter"
            yield Fault("config-contradicts-shapes", message, name, case.parts(name), notes=notes, lie=lie)
    for name in case.missing(case.plan):
        if name not in plan.inputs:
            message = f"`{name}` is not in the files, and with `{lie.name}` {stated} the layer needs it"
            yield Fault("config-contradicts-shapes", message, name, notes=notes, lie=lie)


def plain_text(value: Any) -> str:
    return "none" if value is None else str(value)


def json_text(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else "0" if value is None else str(value)


# ---- guilty tensors ---------------------------------------------------------------------------------------------------------------------------------------


def _guilty(case: Case, shapes: Shapes) -> list[str]:
    """The tensors to blame: one without which the others agree and say otherwise, the last of several; else those that contradict the ones before them."""
    alone = [name for name in shapes if _contradicted(case, name, shapes)]
    if alone:
        return alone[-1:]
    kept: dict[str, Shape] = {}
    for name, shape in shapes.items():
        if _sizes(case.plan, {**kept, name: shape}) is not None:
            kept[name] = shape
    return [name for name in shapes if name not in kept]


def _contradicted(case: Case, name: str, shapes: Shapes) -> bool:
    """Do the others agree, and say otherwise of an axis? Tensors that have a value per group do not outweigh one that has a value per index."""
    others = {other: shape for other, shape in shapes.items() if other != name}
    sizes = _sizes(case.plan, others)
    if sizes is None:
        return False
    node = case.plan.inputs[name]
    wanted = declared_dims(node, sizes)
    if len(wanted) != len(shapes[name]):
        return True
    known = {axis for other in others for axis in _fine_axes(case.plan.inputs[other])}
    weaker = _fine_axes(node) - known
    return any(ours not in (None, theirs) and not weaker & {digit.axis for digit in dim} for dim, ours, theirs in zip(node.type.dims, wanted, shapes[name]))


def _fine_axes(node: Input) -> set[str]:
    """The axes of which a parameter has a value per index."""
    return {digit.axis for dim in (*node.type.dims, node.type.lanes) for digit in dim if digit.div == 1}


def _rest(case: Case, shapes: Shapes, guilty: Sequence[str]) -> dict[str, int]:
    return _sizes(case.plan, {name: shape for name, shape in shapes.items() if name not in guilty}) or {}


def _blamed(case: Case, shapes: Shapes) -> list[Fault]:
    guilty = _guilty(case, shapes)
    sizes = _rest(case, shapes, guilty)
    shown = ", ".join(f"{name} {list(group.shape)}" for name in guilty for group in usual(case.groups[name]).values())
    broken = _broken(case, sizes, guilty[0], (f"the files hold {shown}",))
    return broken or [fault for name in guilty for fault in _misshapen(case, name, sizes, shapes)]


def _misshapen(case: Case, name: str, sizes: Mapping[str, int], shapes: Shapes) -> Iterator[Fault]:
    extents, found = declared_dims(case.plan.inputs[name], sizes), shapes[name]
    if len(extents) != len(found):
        message = f"`{name}` has {len(found)} dims in the files, {list(found)}, and {len(extents)} in the layer"
        yield Fault("tensor-shape", message, name, case.parts(name))
        return
    # What the others leave open is as it is in the files.
    wanted = tuple(stored if extent is None else extent for extent, stored in zip(extents, found))
    notes = (f"{case.scheme} ({case.said_by}); the other tensors of the layer say {_text(sizes)}",)
    for group in usual(case.groups[name]).values():
        own = part_of(case.plan, name, wanted, group)
        left = uninitialised(group.shape, own)
        message = f"`{name}` is {list(group.shape)} in the files and {list(own)} in the layer" + (f": {left} would stay uninitialised" if left else "")
        yield Fault("partial-load" if left else "tensor-shape", message, name, tuple(group.parts), notes=notes)


def uninitialised(stored: Shape, wanted: Shape) -> str:
    """How much of a parameter a loader leaves as it was that copies what there is, in words; nothing for a stored tensor that is larger in a dim."""
    if len(stored) != len(wanted) or stored == wanted or any(ours > theirs for ours, theirs in zip(stored, wanted)):
        return ""
    short = [dim for dim, (ours, theirs) in enumerate(zip(stored, wanted)) if ours < theirs]
    if len(wanted) > 1 and short in ([0], [len(wanted) - 1]):
        dim = short[0]
        return f"{wanted[dim] - stored[dim]} of {wanted[dim]} {'columns' if dim else 'rows'}"
    return f"{prod(wanted) - prod(stored)} of {prod(wanted)} values"
