"""What the replaced system does at load time, scheme by scheme, in plain torch, step by step and as slowly as it does it.

Written from a description of that system's code and from recordings of it, not from our specs, and sharing no code with ``layoutdsl``: it is the oracle for
sizes that nobody recorded. ``test_reference.py`` proves it against every recorded file.

One exception: where the original loses the last groups of a block scale, or crashes on them, because it counts them with a floor or wants an even number
of them, this covers every input and completes the pair with a zero byte, as the original itself does where it does it right.

``added`` has the schemes that the original lacks; those are proved on what their writer stores and decodes, in ``tests/checkpoint``.
"""

from __future__ import annotations

from tests.golden.reference import added, attention, int4, int8, mx, w4a8
from tests.golden.reference.layer import HEAD, RELEASE, SEED, Case, Declared, Layer, Stored, Tensors

__all__ = ["ADDED", "HEAD", "RELEASE", "SCHEMES", "SEED", "Case", "Declared", "Layer", "Stored", "load", "parameters"]

SCHEMES = {**w4a8.SCHEMES, **int8.SCHEMES, **int4.SCHEMES, **mx.SCHEMES, **attention.SCHEMES, **added.SCHEMES}
"""``scheme.layer`` to two functions: the parameters that are created, and what becomes of them."""
ADDED = frozenset(added.SCHEMES)
"""Those that no recording can have."""


def parameters(case: Case) -> Declared:
    """What is created before any weight is loaded, by name. Raises ValueError where the replaced system does."""
    return SCHEMES[case.name][0](case)


def load(case: Case, given: Tensors) -> Layer:
    """The layer after the processing of what was loaded. ``given`` is never written to."""
    return SCHEMES[case.name][1](case, given)
