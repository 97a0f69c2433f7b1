"""What the checks say: one diagnostic per failure, with the tensor, the worst place, what was found there, what was expected, and why no more error is allowed.

Between the checks and the command line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from layoutdsl.diagnostics import Diagnostic
from layoutdsl.verify.decode import Array

EXACT = "bit for bit: what is stored is moved and rounded as the scheme says, and nothing else"


def place_text(index: Iterable[int], letters: Iterable[str] = ()) -> str:
    """``[e = 0, n = 3, k = 17]``, or without letters ``[0, 3, 17]``."""
    names = [letter.rpartition(".")[2] for letter in letters]
    numbers = [str(int(i)) for i in index]
    return "[" + ", ".join(f"{name} = {number}" for name, number in zip(names, numbers)) + "]" if names else f"[{', '.join(numbers)}]"


def worst(found: Array, wanted: Array, allowed: Array | float) -> tuple[tuple[int, ...], float] | None:
    """The place where the error exceeds what is allowed most, and the error there; None if it nowhere does. NaN agrees with NaN alone."""
    error = _error(found, wanted)
    wrong = _wrong(error, allowed)
    if not wrong.any():
        return None
    with np.errstate(invalid="ignore"):
        excess = np.where(wrong, np.where(np.isfinite(error), error - allowed, np.inf), -np.inf)
    place = tuple(int(i) for i in np.unravel_index(int(excess.argmax()), excess.shape))
    return place, float(error[place])


def _error(found: Array, wanted: Array) -> Array:
    """How far the numbers are apart; not at all where they are the same infinity or no numbers, else infinitely."""
    with np.errstate(invalid="ignore"):
        error: Array = np.abs(found - wanted)
    if np.isfinite(error).all():
        return error
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    return np.where(same, 0.0, np.where(np.isfinite(error), error, np.inf))


def _wrong(error: Array, allowed: Array | float) -> Array:
    """Infinitely far is wrong, whatever is allowed."""
    wrong: Array = ~((error <= allowed) & np.isfinite(error))
    return wrong


def numeric(
    code: str,
    tensor: str,
    message: str,
    found: Array,
    wanted: Array,
    allowed: Array | float,
    reason: str,
    notes: Iterable[str] = (),
    letters: Iterable[str] = (),
) -> Diagnostic | None:
    """The finding on a comparison, or None where every error is within what is allowed."""
    at = worst(found, wanted, allowed)
    if at is None:
        return None
    place, error = at
    limit = float(np.broadcast_to(np.asarray(allowed, np.float64), found.shape)[place])
    wrong = int(_wrong(_error(found, wanted), allowed).sum())
    return Diagnostic(
        code=code,
        message=message,
        where=tensor,
        notes=(
            f"worst at {place_text(place, letters)}: found {number(found[place])}, expected {number(wanted[place])}, error {number(error)}",
            f"{wrong} of {found.size} elements are wrong; allowed there is {number(limit)}: {reason}",
            *notes,
        ),
    )


def number(value: Any) -> str:
    return f"{float(value):.6g}"
