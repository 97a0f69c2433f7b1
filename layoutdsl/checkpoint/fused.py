"""Do the members of every fused module agree: loaders put q, k and v, or gate and up, side by side into one tensor of one scheme.

After ``fit``, whose verdicts it reads: a member with a fault of its own is not compared in what the fault is about.

Source: vLLM's merged and QKV loaders; of a parameter without outputs every member writes the same slot, and the last one stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from layoutdsl.checkpoint.contents import contents_of
from layoutdsl.checkpoint.fit import Fit
from layoutdsl.checkpoint.model import Layer
from layoutdsl.diagnostics import Diagnostic


def disagreements(layers: Iterable[Layer], fit: Fit) -> Iterator[Diagnostic]:
    """One finding per fused module whose members have one scheme and differ: the first difference of config, stored tensors, inputs and further shapes."""
    modules: dict[str, list[Layer]] = {}
    for layer in layers:
        if layer.fused != layer.prefix:
            modules.setdefault(layer.fused, []).append(layer)
    known: dict[Any, tuple[str, dict[str, str]] | None] = {}
    for fused, members in modules.items():
        names = [member.prefix.rpartition(".")[2] for member in members]
        traits = [_traits(member, fit) for member in members]
        key = (*names, *traits)
        if key not in known:
            known[key] = _difference(names, traits)
        found = known[key]
        if found is not None:
            what, shown = found
            message = f"the members of a fused module differ in {what}"
            notes = tuple(f"`{name}`: {text}" for name, text in shown.items())
            helps = ("quantize them in one way: loaders put them into one tensor",)
            yield Diagnostic(code="fused-differ", message=message, where=fused, notes=notes, helps=helps)


Traits = tuple[tuple[str, Any], ...]


def _traits(layer: Layer, fit: Fit) -> Traits:
    """What must be equal, in the order in which it is looked at; None for what is not known, or wrong by itself. Schemes that differ were found before."""
    verdict, contents = fit.verdict(layer), dict(contents_of(layer))
    plan, sizes = verdict.plan, verdict.sizes
    if plan is None or sizes is None or verdict.faults:
        return (("config", None), ("tensors", None), ("input size", None), ("shapes", None))
    config = tuple(sorted((name, value) for name, value in plan.config.items() if name != "prefix"))
    declared = {name: groups[0].shape for name, groups in contents.items() if name in plan.inputs}
    shapes = tuple(sorted((name, _besides_outputs(shape, dict(plan.inputs[name].loader))) for name, shape in declared.items()))
    return (("config", (layer.scheme, config)), ("tensors", tuple(sorted(declared))), ("input size", sizes.get("input_size")), ("shapes", shapes))


def _besides_outputs(shape: tuple[int, ...], loader: dict[str, Any]) -> tuple[int, ...]:
    dim = loader.get("output_dim")
    return shape if dim is None else (*shape[:dim], *shape[dim + 1 :])


def _difference(names: list[str], traits: list[Traits]) -> tuple[str, dict[str, str]] | None:
    schemes = {member[0][1][0] for member in traits if member[0][1] is not None}
    if len(schemes) != 1:
        return None
    for place, (what, _) in enumerate(traits[0]):
        values = {name: member[place][1] for name, member in zip(names, traits) if member[place][1] is not None}
        if len(set(values.values())) > 1:
            return what, _texts(what, values)
    return None


def _texts(what: str, values: dict[str, Any]) -> dict[str, str]:
    """Of several rows those that differ."""
    if what == "input size":
        return {name: f"{value} inputs" for name, value in values.items()}
    rows = {name: value[1] if what == "config" else value for name, value in values.items()}
    common = set.intersection(*(set(value) for value in rows.values()))
    return {name: ", ".join(_row_text(row) for row in value if row not in common) or "nothing of these" for name, value in rows.items()}


def _row_text(row: Any) -> str:
    return row if isinstance(row, str) else f"{row[0]} {list(row[1]) if isinstance(row[1], tuple) else row[1]}"
