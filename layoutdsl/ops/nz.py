"""``nz`` and ``nz(T)``: FRACTAL_NZ."""

from __future__ import annotations

from dataclasses import replace

from layoutdsl.ir.dtypes import ELEMENTS, STORAGES
from layoutdsl.ir.layout import Reject, Space, TensorType
from layoutdsl.ops.base import Arguments, Example, Op, Parameter, Rejected, register


@register
class Nz(Op):
    """Casts to FRACTAL_NZ: the last two dims in memory order are tiled 16 x C0. torch keeps seeing the dims as before; only the storage changes. ``T`` is
    the dtype of the
    activation the weight will meet, which decides C0 (source: torch_npu 2.13, npu_format_cast; C0 of plain 4-byte dtypes is 16 elements)."""

    name = "nz"
    summary = "FRACTAL_NZ, unconditional (`when` makes it optional); T = activation dtype"
    parameters = (Parameter("activation", "element", optional=True),)
    instruction = "opaque"
    function = "format_cast"
    examples = (
        Example("int8[n, k]", "nz", "int8[n, k] over nz[n, k]"),
        Example("int8[n, k] in int8[k, n]", "nz", "int8[n, k] in int8[k, n] over nz[k, n]"),
        Example("e2m1[n, k] in float32[n, k]", "nz(bfloat16)", "e2m1[n, k] in float32[n, k] over nz(64)[n, k]"),
        Example("e2m1[n, k] in uint8[n, k//2 | k%2]", "nz(e4m3)", "e2m1[n, k] in uint8[n, k//2 | k%2] over nz(16)[n, k//2]"),
    )
    rejected = (
        Rejected("int8[n, k] in int8[k, n] over [n, k]", "nz", "nz-not-contiguous"),
        Rejected("float32[n, k]", "nz", "nz-dtype"),
        Rejected("int8[n]", "nz", "nz-rank"),
        Rejected("int8[n, k] over nz[n, k]", "nz", "no-op"),
    )

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        storage, activation = STORAGES[kind.storage], args.get("activation")
        if kind.format:
            raise Reject("no-op", "the value is FRACTAL_NZ already")
        if len(kind.dims) < 2:
            raise Reject("nz-rank", "FRACTAL_NZ tiles two dims, the value has fewer")
        if storage.bits == 64 or storage.kind == "bool" or (storage.name == "float32" and activation is None):
            raise Reject("nz-dtype", f"{storage.name} has no FRACTAL_NZ form")
        if not kind.contiguous:
            raise Reject(
                "nz-not-contiguous",
                "`nz` reads memory in the order of the dims, and this value is a view with another order",
                helps=["write `contiguous` before `nz`"],
            )
        return replace(kind, format=_width(kind, activation), view=False)


def _width(kind: TensorType, activation: str | None) -> int:
    """Bytes of one block row: C0 elements times the item size; of two e2m1 in a byte, C0 are half as many bytes."""
    if activation is None:
        return 64 if kind.itemsize == 4 else 32
    lanes = kind.itemsize * 8 // kind.element_bits if kind.lanes and kind.element.name == "e2m1" else 1
    return (16 if ELEMENTS[activation].bits == 16 else 32) * kind.itemsize // lanes
