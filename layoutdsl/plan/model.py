"""The data of a plan: types, instructions, inputs and outputs.

Made by ``layoutdsl.compiler.emit`` or decoded from JSON; bound to sizes by ``layoutdsl.plan.bind``; run by ``layoutdsl.runtime``. The same classes serve
before and after
binding: before, sizes are expressions; after, integers.

Invariants: values are numbered ``v0, v1, ...`` in order of definition and never change; every type is complete, so nothing is inferred at load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Union

from layoutdsl.ir.dtypes import ELEMENTS, STORAGES
from layoutdsl.plan.sizes import SizeExpr

VERSION = 3
FORMAT = "layoutdsl-plan"
ND = 0
FRACTAL_NZ = 29
"""ACL format number that torch_npu's npu_format_cast takes for FRACTAL_NZ (source: torch_npu 2.13, facts on npu_format_cast)."""


@dataclass(frozen=True, slots=True)
class Digit:
    """``(index // div) % ext`` of an axis."""

    axis: str
    div: SizeExpr
    ext: SizeExpr


@dataclass(frozen=True, slots=True)
class Pad:
    axis: str
    capacity: SizeExpr
    fill: int


@dataclass(frozen=True, slots=True)
class TensorType:
    """The type of a value, as ``layoutdsl.ir.layout.TensorType`` with size expressions and without what only proofs need.

    dims as seen, order from slowest to fastest, lanes major first, format 0 (ND) or the FRACTAL_NZ block width in bytes, extension "" | zero | sign.
    """

    element: str
    excess: int
    storage: str
    extension: Literal["", "zero", "sign"]
    dims: tuple[tuple[Digit, ...], ...]
    lanes: tuple[Digit, ...]
    order: tuple[int, ...]
    format: int
    pads: tuple[Pad, ...]
    listed: str

    @property
    def slot_bits(self) -> int:
        """Bits that one element occupies in its storage (bound types)."""
        width = STORAGES[self.storage].bits
        for lane in self.lanes:
            assert isinstance(lane.ext, int)
            width //= lane.ext
        return width

    @property
    def element_bits(self) -> int:
        return STORAGES[self.storage].bits if self.element == "opaque" else ELEMENTS[self.element].bits

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the dims as seen (bound types)."""
        shape = []
        for dim in self.dims:
            extent = 1
            for digit in dim:
                assert isinstance(digit.ext, int)
                extent *= digit.ext
            shape.append(extent)
        return tuple(shape)

    @property
    def units(self) -> dict[str, int]:
        """By axis, how many of its values the smallest slice of the tensor holds: the divisor of the highest digit that varies (bound types)."""
        found: dict[str, int] = {}
        for digit in (digit for dim in (*self.dims, self.lanes) for digit in dim):
            assert isinstance(digit.div, int)
            if digit.ext != 1:
                found[digit.axis] = max(found.get(digit.axis, 1), digit.div)
        return found

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides in storage elements of the dims as seen: dense, in memory order (bound types)."""
        strides, step, shape = [0] * len(self.dims), 1, self.shape
        for dim in reversed(self.order):
            strides[dim] = step
            step *= max(shape[dim], 1)
        return tuple(strides)


@dataclass(frozen=True, slots=True)
class Input:
    """A parameter as the loader fills it.

    default: None where the checkpoint must have it; ``uninitialised`` where it may be absent and nothing reads it; else the number it is filled with.
    loader: what a
    weight loader needs, of output_dim, input_dim, packed_dim, packed_factor (dims and divisors), quant_method (channel | group).
    """

    id: str
    name: str
    type: TensorType
    default: int | float | Literal["uninitialised"] | None
    loader: tuple[tuple[str, int | str], ...]


Alias = Literal["must", "may", "never"]
# ("at", value, picks) ("const", dtype, number) ("cast" | "bits" | "rint" | "trunc", dtype, e) ("neg", e) (binary, e, e) ("sum", loops, order, e)
Expr = tuple[Any, ...]
BINARY = frozenset({"+", "-", "*", "/", "//", "%", "&", "<<", ">>"})
CONVERSIONS = frozenset({"cast", "bits", "rint", "trunc"})


@dataclass(frozen=True, slots=True)
class Move:
    """``id`` is ``of`` in another layout: the same logical tensor. alias: is the result the same memory (must), its own (never), or the same where layouts
    agree (may)."""

    id: str
    of: str
    type: TensorType
    alias: Alias
    step: str


@dataclass(frozen=True, slots=True)
class Compute:
    """``id`` is an elementwise expression over the digits of its type; ``sum`` inside adds loops. See ``Expr``."""

    id: str
    type: TensorType
    expr: Expr
    step: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """``id`` is a named function of ``of``: ``format_cast`` (values and layout stay, the device's format changes) or
    ``kernel`` (a device kernel, one element in and one out)."""

    id: str
    function: str
    of: str
    type: TensorType
    arguments: tuple[tuple[str, int | str], ...]
    step: str


LOADER_ATTRIBUTES: dict[str, type] = {"output_dim": int, "input_dim": int, "packed_dim": int, "packed_factor": int, "quant_method": str}
"""What an input's ``loader`` may say (``layoutdsl.Parameter``), with the types."""
FORMAT_CAST_ARGUMENTS: dict[str, type] = {"format": int, "customize_dtype": str, "input_dtype": int}
"""The arguments of the opaque function ``format_cast``; ``format`` is required."""
FLOAT4_E2M1FN_X2 = 296
"""torch_npu's number for two e2m1 in a byte (source: torch_npu 2.13, float4_e2m1fn_x2)."""

Instruction = Union[Move, Compute, Opaque]
OPAQUE_FUNCTIONS = frozenset({"format_cast", "kernel"})
Kind = Literal["parameter", "attribute", "buffer", "list", "value"]


@dataclass(frozen=True, slots=True)
class Output:
    """What the layer has afterwards under ``name``. bits: ``exact``, or ``sum`` where a float sum decides them (fast mode may differ).

    reload: alias (untouched), bijective, injective (pads or repeats), lossy or opaque: what a reload must keep or read again.
    """

    name: str
    value: str
    kind: Kind
    bits: Literal["exact", "sum"]
    reload: str


@dataclass(frozen=True, slots=True)
class Condition:
    """A statement about sizes: its text in the user's words, and the test."""

    text: str
    test: SizeExpr


@dataclass(frozen=True, slots=True)
class Limit:
    """A condition of use that a kernel's contract states; source says where the fact is from."""

    text: str
    test: SizeExpr
    kernel: str
    source: str


@dataclass(frozen=True, slots=True)
class Call:
    """One line of forward. targets: the names that it binds, ``_`` for a result that nobody wants; none: the line returns. when: a condition on the inputs.

    expr and when are the nested tuples of ``layoutdsl.plan.forward``, also in docs/language.md, forward. Inside, ``("view", e, source, target)`` sees the
    memory of ``e`` under another type: both types are of one element of ``e`` and may have the axis ``rows``, whose extent is known only at the call.
    """

    targets: tuple[str, ...]
    expr: Any
    when: Any


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled spec for one configuration, symbolic in the sizes.

    free: those sizes that the tensors tell. nominal: what some of these are taken for until then, an expression over the sizes of the layer's kind.
    """

    scheme: str
    layer: str
    spec_hash: str
    config: tuple[tuple[str, Any], ...]
    sizes: tuple[str, ...]
    axes: tuple[tuple[str, SizeExpr], ...]
    require: tuple[Condition, ...]
    limits: tuple[Limit, ...]
    inputs: tuple[Input, ...]
    code: tuple[Instruction, ...]
    outputs: tuple[Output, ...]
    forward: tuple[Call, ...] | Literal["external"]
    free: tuple[str, ...] = ()
    nominal: tuple[tuple[str, SizeExpr], ...] = ()
