"""Two sets of results of one layer compared bit for bit: names, lists, dtypes, shapes, strides, bits.

Used for shipped vectors and for hand-written classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from layoutdsl.verify.findings import EXACT, place_text

_CLOSE = 1e-5
"""Relative to the largest element: float32 sums of a few thousand terms in another order."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference: of which name, what it is, and the details."""

    name: str
    message: str
    notes: tuple[str, ...] = ()


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any], close: Collection[str] = (), *, offsets: bool = False) -> Difference | None:
    """The first difference in the order of ``wanted``; of names in ``close`` the values need only be close. offsets: places in storage count too.

    None: no difference.
    """
    for name, value in wanted.items():
        if name not in found:
            return Difference(name, "is missing", (f"there are {', '.join(found)}",))
        different = _differ(name, found[name], value, name in close) or (_moved(name, found[name], value) if offsets else None)
        if different is not None:
            return different
    surplus = [name for name in found if name not in wanted]
    return Difference(surplus[0], "is not expected", (f"expected are {', '.join(wanted)}",)) if surplus else None


def _differ(name: str, found: Any, wanted: Any, close: bool) -> Difference | None:
    if isinstance(found, list) != isinstance(wanted, list) or isinstance(found, torch.Tensor) != isinstance(wanted, torch.Tensor):
        return Difference(name, f"is {_kind(found)}, not {_kind(wanted)}")
    if isinstance(wanted, torch.Tensor):
        return _tensors(name, found, wanted, close)
    if not isinstance(wanted, list):
        return None if found == wanted and type(found) is type(wanted) else Difference(name, f"is {found!r}, not {wanted!r}")
    if len(found) != len(wanted):
        return Difference(name, f"has {len(found)} elements, not {len(wanted)}")
    parts = (_tensors(f"{name}.{i}", ours, theirs, close) for i, (ours, theirs) in enumerate(zip(found, wanted)))
    return next((part for part in parts if part is not None), None)


def _moved(name: str, found: Any, wanted: Any) -> Difference | None:
    ours, theirs = (
        [part.storage_offset() for part in (value if isinstance(value, list) else [value]) if isinstance(part, torch.Tensor)] for value in (found, wanted)
    )
    return None if ours == theirs else Difference(name, "lies elsewhere in its storage", (f"found the offsets {ours}, expected {theirs}",))


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else "a tensor" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"


def _tensors(name: str, found: torch.Tensor, wanted: torch.Tensor, close: bool) -> Difference | None:
    ours, theirs = _described(found), _described(wanted)
    if ours != theirs:
        return Difference(name, "differs in dtype, shape or strides", (f"found {ours}", f"expected {theirs}"))
    if close:
        error = (found.double() - wanted.double()).abs().max() if found.numel() else torch.tensor(0.0)
        return Difference(name, f"is off by {float(error):.3g}") if error > _CLOSE * wanted.double().abs().max() else None
    left, right = _words(found), _words(wanted)
    wrong = left != right
    if not wrong.any():
        return None
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    notes = [f"first at {place_text(place)}: found {_word(left, found, place)}, expected {_word(right, wanted, place)}"]
    if found.is_floating_point():
        error = (found.double() - wanted.double()).abs().nan_to_num(float("inf"))
        notes.append(f"the largest error is {float(error.max()):.6g} at {place_text(map(int, np.unravel_index(int(error.argmax()), tuple(found.shape))))}")
    return Difference(name, "has other bits", (f"{int(wrong.sum())} of {wrong.size} elements differ", *notes, EXACT))


def _described(tensor: torch.Tensor) -> str:
    strides = [stride if size > 1 else 0 for stride, size in zip(tensor.stride(), tensor.shape)] if tensor.numel() else []
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)} with strides {strides}"


def _words(tensor: torch.Tensor) -> Any:
    plain = tensor.detach().cpu().contiguous()
    raw = plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else np.empty(0, np.uint8)
    return raw.view(np.dtype(f"<u{plain.element_size()}")).reshape(tuple(plain.shape))


def _word(words: Any, tensor: torch.Tensor, place: tuple[int, ...]) -> str:
    """The bits of an element; a float as a number too, an int64 as the float32 that it may carry."""
    return f"0x{int(words[place]):0{2 * tensor.element_size()}x}{_value(tensor, place)}"


def _value(tensor: torch.Tensor, place: tuple[int, ...]) -> str:
    if tensor.is_floating_point():
        return f" ({float(tensor[place]):.6g})"
    if tensor.dtype == torch.int64:
        low = np.uint32(int(tensor[place]) & 0xFFFFFFFF)
        return f" (float32 {float(low.view(np.float32)):.6g} in its low word)"
    return ""
