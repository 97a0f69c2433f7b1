"""``pack(axis, T)``: several elements in one storage element."""

from __future__ import annotations

from dataclasses import replace

from layoutdsl.ir.dtypes import STORAGES
from layoutdsl.ir.layout import Digit, Element, Reject, Space, TensorType, cut, dim_text, letter, with_dims
from layoutdsl.ir.symbolic import Size
from layoutdsl.ops.base import Arguments, Example, Op, Parameter, Place, Position, Rejected, last_run, register


@register
class Pack(Op):
    """Along the last axis, the first element in the lowest bits, as npu_convert_weight_to_int4pack does (source: op-plugin 517f2e7d, ConvertWeightToINT4Pack).
    The axis is named so that packing along the wrong one is an error. On FRACTAL_NZ only 32-bit targets: the device kernel re-blocks."""

    name = "pack"
    summary = "several elements into one T along the last axis, first in the low bits"
    parameters = (Parameter("axis", "axis"), Parameter("storage", "storage"))
    examples = (
        Example("int4[n, k] in int8[k, n]", "pack(n, int32)", "int4[n, k] in int32[k, n//8 | n%8]"),
        Example("int4[n, k] in int8[n, k]", "pack(k, int8)", "int4[n, k] in int8[n, k//2 | k%2]"),
        Example("int4[n, k] in int8[k, n] over nz[k, n]", "pack(n, int32)", "int4[n, k] in int32[k, n//8 | n%8] over nz[k, n//8]"),
    )
    rejected = (
        Rejected("int4[n, k] in int8[n, k]", "pack(n, int32)", "pack-axis-not-last"),
        Rejected("int4[k, e] in int8[k, e]", "pack(e, int32)", "pack-indivisible"),
        Rejected("int4[n, k] in int8[n, k//2 | k%2]", "pack(k, int32)", "pack-packed"),
        Rejected("int4[n, k] in int8[k, n] over nz[k, n]", "pack(n, int8)", "movement-on-nz"),
        Rejected("int8[n, k]", "pack(k, int8)", "pack-nothing"),
    )

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        storage, axis = STORAGES[args["storage"]], args["axis"]
        ratio = storage.bits // kind.element_bits
        if kind.lanes:
            raise Reject("pack-packed", f"{kind.storage} holds several {kind.element.name} already", helps=["`unpack` first, or `relayout` to the type wanted"])
        if ratio < 2:
            raise Reject(
                "pack-nothing", f"one {kind.element.name} of {kind.element_bits} bits fills {storage.name}", helps=["`bitcast` changes the storage dtype"]
            )
        if kind.format and storage.bits != 32:
            raise Reject("movement-on-nz", f"a FRACTAL_NZ value packs into 32-bit storage only, not {storage.name}", helps=["`pack` before `nz`"])
        run = last_run(kind)
        if not run or run[-1].axis != axis:
            found = dim_text(space, kind.dims[-1]) if kind.dims else "nothing"
            raise Reject(
                "pack-axis-not-last",
                f"`pack({letter(axis)}, {storage.name})` packs the last axis, which is `{found}`",
                helps=[f"`transpose` so that `{letter(axis)}` comes last, and `contiguous`, before it"],
            )
        major, minor = self._cut(space, run[-1], storage.name, ratio)
        dims = (*kind.dims[:-1], (*run[:-1], major))
        packed = with_dims(kind, dims, None if not kind.format else kind.order)
        return replace(
            packed, storage=storage.name, lanes=(minor,), extension=None, element=Element(kind.element.name), format=_format(kind, ratio), view=False
        )

    def _cut(self, space: Space, last: Digit, storage: str, ratio: int) -> tuple[Digit, Digit]:
        parts = cut(space, last, Size.of(ratio))
        if parts is not None:
            return parts
        name = letter(last.axis)
        need = f"{name.upper()} % {space.text(last.div * ratio)} == 0" if last.top else f"{space.text(last.ext)} % {ratio} == 0"
        message = f"`pack({name}, {storage})` needs `{need}`, which nothing guarantees"
        helps = [f"add `{need}` to `require`, or `pad({name}, {space.text(last.div * ratio)}, 0)` before it"]
        space.need(space.facts.divisible(last.ext, ratio), "pack-indivisible", message, helps)
        raise AssertionError("a refused proof")

    def source_of(self, position: Position, before: Place, after: Place, kind: TensorType, args: Arguments, space: Space) -> Position | None:
        *index, last = position[0]
        return (*index, last * after.lanes + position[1]), 0


def _format(kind: TensorType, ratio: int) -> int:
    """Block width after packing. int4: the kernel re-blocks to 32 bytes whatever came in. e2m1 by value in float32 (Ascend 950): the blocks are packed in
    place."""
    if not kind.format:
        return 0
    return kind.format // ratio if kind.storage == "float32" else 32
