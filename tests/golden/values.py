"""Tensors for a layer that nobody recorded, with the values that are easily lost, and the comparison of our plan with the oracle."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch

import layoutdsl
from tests.golden.compare import assert_same, bits, digest
from tests.golden.reference import Case, Stored, load, parameters

Kind = Literal["plain", "extreme", "negative", "zero", "special"]
KINDS: tuple[Kind, ...] = ("extreme", "negative", "zero", "special")


# ---- a case through both -------------------------------------------------------------------------------------------------------------------------------------


@cache
def _spec(name: str) -> layoutdsl.Spec:
    return layoutdsl.load_spec(name)


@cache
def _unbound(name: str, config: tuple[tuple[str, Any], ...], dtype: torch.dtype) -> layoutdsl.Plan:
    return layoutdsl.compile_spec(_spec(name), config=dict(config), params_dtype=dtype)


def plan_of(case: Case) -> layoutdsl.Plan:
    return _unbound(case.name, tuple(sorted(case.config.items())), case.params).bind(case.sizes)


def assert_as_the_oracle(case: Case, given: dict[str, torch.Tensor], exact: bool = True) -> None:
    """Parameters, tensors, kinds, numbers, casts, and inputs that nobody writes to. exact: no NaN comes out of arithmetic."""
    plan, want, before = plan_of(case), load(case, given), digest(given)
    assert {name: (p.shape, p.dtype) for name, p in plan.parameters.items()} == {
        name: (stored.shape, str(stored.dtype).removeprefix("torch.")) for name, stored in parameters(case).items()
    }
    got = plan.run(given)
    assert digest(given) == before
    numbers = {name: got.pop(name) for name in want.numbers}
    assert {name: repr(value) for name, value in numbers.items()} == {name: repr(value) for name, value in want.numbers.items()}
    assert_same(got, want.tensors, () if exact else want.computed)
    assert {output.name for output in plan.bound.outputs if output.kind == "parameter"} == want.tensors.keys() - want.attributes
    ours = [(cast["shape"], cast["dtype"], {name: str(value) for name, value in cast["arguments"].items()}) for cast in plan.format_casts]
    assert ours == [(shape, _plain(dtype), {name: _plain(value) for name, value in arguments.items()}) for shape, dtype, arguments in want.casts]


def _plain(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")


# ---- values --------------------------------------------------------------------------------------------------------------------------------------------------


def values(case: Case, kind: Kind = "plain", seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: _tensor(stored, kind, generator) for name, stored in parameters(case).items()}


def _tensor(stored: Stored, kind: Kind, generator: torch.Generator) -> torch.Tensor:
    if stored.dtype in SPECIALS:
        return _scale(stored, kind, generator)
    if stored.dtype == torch.int64:
        # What becomes an int64 on disk is a float32 whose sign is extended.
        return _integers(stored.shape, torch.iinfo(torch.int32), kind, generator)
    if stored.dtype.is_floating_point:
        return _integers(stored.shape, torch.iinfo(torch.uint8), kind, generator).to(torch.uint8).view(stored.dtype)
    if stored.holds == "int4":
        return _between(stored.shape, -8, 7, kind, generator).to(torch.int8)
    return _integers(stored.shape, torch.iinfo(stored.dtype), kind, generator).to(stored.dtype)


def _integers(shape: tuple[int, ...], info: torch.iinfo, kind: Kind, generator: torch.Generator) -> torch.Tensor:
    return _between(shape, info.min, info.max, kind, generator)


def _between(shape: tuple[int, ...], low: int, high: int, kind: Kind, generator: torch.Generator) -> torch.Tensor:
    if kind == "extreme":
        return torch.randint(0, 2, shape, generator=generator) * (high - low) + low
    return torch.randint(low, high + 1, shape, generator=generator)


def _scale(stored: Stored, kind: Kind, generator: torch.Generator) -> torch.Tensor:
    shape, dtype, holds = stored
    if holds == "power_of_two":
        return torch.exp2(_between(shape, -127, 127, kind, generator).double()).to(dtype)
    scale = torch.rand(shape, generator=generator) * 0.1 + 1e-3
    if kind == "negative":
        scale = scale * (torch.randint(0, 2, shape, generator=generator) * 2 - 1)
    if kind == "zero":
        zero = torch.where(torch.rand(shape, generator=generator) < 0.5, 0.0, -0.0)
        scale = torch.where(torch.rand(shape, generator=generator) < 0.5, zero, scale)
    if kind == "extreme":
        scale = 10.0 ** torch.randint(-30, 30, shape, generator=generator).float()
    scale = scale.to(dtype)
    if kind == "special":
        scale = _with_specials(scale, generator)
    return bits(scale).bitwise_and(torch.iinfo(bits(scale).dtype).max).view(dtype) if holds == "positive" else scale


SPECIALS = {
    torch.float32: [0x7FC12345, 0xFFC54321 - (1 << 32), 0x7F812345, 0x7F800000, 0xFF800000 - (1 << 32), -(1 << 31), 0, 1, 0x7F7FFFFF],
    torch.bfloat16: [0x7FC5, 0xFFC3 - (1 << 16), 0x7F85, 0x7F80, 0xFF80 - (1 << 16), -(1 << 15), 0, 1, 0x7F7F],
    torch.float16: [0x7E05, 0xFE03 - (1 << 16), 0x7C05, 0x7C00, 0xFC00 - (1 << 16), -(1 << 15), 0, 1, 0x7BFF],
}
"""Bit patterns: NaN with payloads, quiet and signalling, both infinities, -0.0, 0.0, the least and the greatest number."""


def _with_specials(scale: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    patterns = bits(torch.tensor(SPECIALS[scale.dtype], dtype=torch.int32 if scale.dtype == torch.float32 else torch.int16).view(scale.dtype))
    chosen = patterns[torch.randint(0, len(patterns), scale.shape, generator=generator)]
    return torch.where(torch.rand(scale.shape, generator=generator) < 0.2, chosen, bits(scale)).view(scale.dtype)
