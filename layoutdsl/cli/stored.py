"""How a spec's parameters are called and cut in the files of a checkpoint, and what their codes stand for, in words: what a producer needs beside the types.

For ``describe``, above the compiler; the names of modules are those that ``checkpoint`` reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layoutdsl.checkpoint.fp8 import NAMES as FP8_NAMES
from layoutdsl.checkpoint.modules import C8_NAMES, PROJECTIONS
from layoutdsl.cli.sheet import Sheet
from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.ir.layout import Dim, TensorType
from layoutdsl.ir.symbolic import Facts, Size
from layoutdsl.plan.sizes import layer_kind

CODES = {
    "int4": "values are -8 to 7",
    "uint4": "values are 0 to 15",
    "e2m1": "a code is a sign bit above one of 0, 0.5, 1, 1.5, 2, 3, 4, 6",
    "e8m0": "a code is an exponent: 2**(code - 127), and 255 is NaN",
}
MERGED = "q_proj, k_proj and v_proj, or gate_proj and up_proj"
EXPERT_MODULES = {"gate": "gate_proj", "up": "up_proj", "": "down_proj"}
MEMBERS = {member for member, _ in PROJECTIONS.values()}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of the files that is a parameter, or a part of it. name: below the layer's prefix; ``{e}`` stands for the number of an expert. shape: in
    letters, or numbers where they are known; None in a configuration with several ranks, whose sizes are those of one."""

    name: str
    shape: tuple[str, ...] | None


def code_words(kind: TensorType) -> list[str]:
    """What the codes of an element stand for that is no number of torch."""
    words = [CODES[kind.element.name]] if kind.element.name in CODES else []
    return [f"{words[0]}, in two's complement"] if words and kind.lanes and kind.element.name == "int4" and not kind.element.excess else words


def disk_dtypes(sheet: Sheet) -> dict[str, str]:
    """By parameter the dtype in the files, where it is another one."""
    named = [(param.name.value, param.disk.value) for param in sheet.document.params if param.disk is not None]
    return {context.member.expand(name): ELEMENTS[disk].native or disk for name, disk in named for context in sheet.contexts}


def files_of(sheet: Sheet, name: str, kind: TensorType) -> list[Stored]:
    """What the files hold of a parameter, in the order in which a loader stacks it: one per expert and per part of the outputs."""
    member, _, rest = name.partition("_")
    if not layer_kind(sheet.document.layer.value).experts or member not in MEMBERS:
        known = C8_NAMES if sheet.document.scheme.value == "C8" else {}
        return [Stored(known.get(name, name), None if _split(sheet) else tuple(_extent(sheet, kind, dim) for dim in kind.dims))]
    axis, parts = _segments(sheet, member)
    own = [dim for dim in kind.dims if not (dim and dim[0].axis.rpartition(".")[2] == "e")]
    shape = tuple(_extent(sheet, kind, dim, len(parts) if dim and dim[0].axis == axis else 1) for dim in own)
    return [Stored(f"experts.{{e}}.{EXPERT_MODULES.get(part, part)}.{rest}", None if _split(sheet) else shape) for part in parts]


def _split(sheet: Sheet) -> bool:
    """Is a number of ranks given, and not one?"""
    ranks = sheet.state.world.config.get("tp_size", 1)
    return isinstance(ranks, int) and ranks > 1


def _segments(sheet: Sheet, member: str) -> tuple[str, tuple[str, ...]]:
    """The axis of a member that is made of parts, and their names."""
    found = [(s.axis.value, tuple(name.value for name in s.names)) for s in sheet.document.segments if s.axis.value.partition(".")[0] == member]
    return found[0] if found else ("", ("",))


def _extent(sheet: Sheet, kind: TensorType, dim: Dim, parts: int = 1) -> str:
    """The extent that one of several equal parts has of a dim, with one rank."""
    space, whole = sheet.space(kind), Size.of(1)
    for digit in dim:
        whole = whole * digit.ext
    of_all = Facts(equal={"tp_size": Size.of(1)}).substitute(whole)
    if of_all == whole and parts == 1:
        return sheet.extent(dim, space)
    return sheet.size(space.facts.div(of_all, parts), space)


def file_words(sheet: Sheet, name: str, kind: TensorType) -> list[str]:
    """The same as a sentence; nothing where the files hold the parameter under its own name and whole."""
    stored = files_of(sheet, name, kind)
    words = []
    if [one.name for one in stored] != [name]:
        names = ", then ".join(one.name for one in stored)
        shape = "" if stored[0].shape is None else f": [{', '.join(stored[0].shape)}]{' each' if len(stored) > 1 else ''}"
        words.append(f"in files: {names}{shape}")
    disk = disk_dtypes(sheet).get(name)
    if disk is not None:
        words.append(f"in files: {disk}, which the loader converts")
    if sheet.document.scheme.value == "fp8":
        others = [other for other, ours in FP8_NAMES.items() if name.endswith(ours)]
        words += [f"in files it may be called {_either(others)}"] if others else []
    return words


def _either(names: Sequence[str]) -> str:
    return " or ".join(f"`{name}`" for name in names)


def footer(sheet: Sheet) -> list[str]:
    """What holds for all tensors of a layer in a file."""
    kind = layer_kind(sheet.document.layer.value)
    if kind.experts:
        return ["{e}: the number of an expert. Shapes are those of one rank; files hold the whole layer, as for tp_size = 1. Mixtral's names are w1, w3, w2."]
    if kind.columns:
        text = "Names stand behind that of the linear module. Shapes are those of one rank; files hold the whole layer, as for tp_size = 1."
        return [f"{text} What loaders merge ({MERGED}) is stored apart, each with all of these tensors, and with the same scheme."]
    return []
