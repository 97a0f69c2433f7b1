"""What a layer is afterwards, and how two of them differ.

Compared are tensors, lists of tensors and Python values, wherever the module or a submodule holds them: names, dtypes, shapes, strides and bits. Not compared:
whether a tensor is a Parameter, a buffer or a plain attribute (ours are Parameters, so that reloaders see them; what upstream has as a Parameter must be one).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import Module, Parameter

from tests.golden.compare import bits, strides

OF_UPSTREAM = ("_mxfp8_", "moe_instance_id")
"""Starts of names: what the MXFP8 schemes keep to know whether they ran, and second names of their outputs; the running number of a layer."""
Held = dict[str, Any]


def held(module: Module) -> Held:
    """Everything on the module by dotted name: tensors, lists of them, numbers, strings and None. Element i of a list ``x`` is ``x.i``."""
    found: Held = {}
    for path, child in module.named_modules():
        for name, value in _of(child):
            found[f"{path}.{name}" if path else name] = value
    return found


def _of(module: Module) -> Iterator[tuple[str, Any]]:
    values = {**module._parameters, **module._buffers, **{name: value for name, value in vars(module).items() if not name.startswith(("_layoutdsl", "__"))}}
    for name, value in values.items():
        if name.startswith(OF_UPSTREAM):
            continue
        if isinstance(value, list) and value and all(isinstance(item, torch.Tensor) for item in value):
            yield from ((f"{name}.{i}", item) for i, item in enumerate(value))
        elif isinstance(value, (torch.Tensor, bool, int, float, str, type(None), torch.dtype)):
            yield name, value


def differences(ours: Held, theirs: Held) -> list[str]:
    """One line for each that differs, empty if none does. ``ours`` may hold the tensors of a list a second time, as Parameters ``<list>_<i>``."""
    twice = {name.replace(".", "_") for name in theirs if name.rpartition(".")[2].isdigit()}
    return [
        *(f"{name}: ours has none" for name in sorted(theirs.keys() - ours.keys())),
        *(f"{name}: only ours has it" for name in sorted(ours.keys() - theirs.keys() - twice)),
        *(line for name in sorted(ours.keys() & theirs.keys()) for line in _unlike(name, ours[name], theirs[name])),
    ]


def _unlike(name: str, ours: Any, theirs: Any) -> Iterator[str]:
    if not isinstance(ours, torch.Tensor) or not isinstance(theirs, torch.Tensor):
        if repr(ours) != repr(theirs):
            yield f"{name}: {ours!r}, not {theirs!r}"
        return
    if isinstance(theirs, Parameter) and not isinstance(ours, Parameter):
        yield f"{name}: no Parameter"
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        yield f"{name}: {_shown(ours)}, not {_shown(theirs)}"
        return
    if ours.numel() and strides(ours) != strides(theirs):
        yield f"{name}: strides {strides(ours)}, not {strides(theirs)}"
    wrong = int((bits(ours) != bits(theirs)).sum())
    if wrong:
        yield f"{name}: {wrong} of {theirs.numel()} values differ"


def _shown(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
