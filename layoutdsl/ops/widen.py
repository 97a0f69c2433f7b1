"""``widen(T, zero|sign)``: the element's bits in a wider integer."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

from layoutdsl.ir.dtypes import STORAGES
from layoutdsl.ir.layout import Reject, Space, TensorType
from layoutdsl.ops.base import Arguments, Example, Op, Parameter, Rejected, need_nd, register


@register
class Widen(Op):
    """Neither a cast nor a bit view: the bits go into the low part, and the upper part is zero or copies the sign bit. The two differ for negative values."""

    name = "widen"
    summary = "the element's bits in a wider integer, zero or sign extended"
    parameters = (Parameter("storage", "storage"), Parameter("extension", "word", ("zero", "sign")))
    examples = (
        Example("float32[e, n]", "widen(int64, zero)", "float32[e, n] in zext int64[e, n]"),
        Example("float32[n]", "widen(int64, sign)", "float32[n] in sext int64[n]"),
    )
    rejected = (
        Rejected("bfloat16[n]", "widen(int16, zero)", "widen-not-wider"),
        Rejected("int4[n, k] in int8[n, k]", "widen(int32, zero)", "widen-not-native"),
        Rejected("float32[n]", "widen(float64, zero)", "widen-not-integer"),
    )

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        need_nd(kind, "`widen`")
        old, new = STORAGES[kind.storage], STORAGES[args["storage"]]
        if kind.carriage != "native":
            raise Reject("widen-not-native", f"{kind.element.name} in {old.name} is not native")
        if new.kind not in ("int", "uint"):
            raise Reject("widen-not-integer", f"`widen({new.name}, ...)`: {new.name} is not an integer dtype")
        if new.bits <= old.bits:
            raise Reject(
                "widen-not-wider", f"`widen({new.name}, ...)`: {new.name} is not wider than {old.name}", helps=[f"`bitcast({new.name})` keeps the bits"]
            )
        return replace(kind, storage=new.name, extension=cast(Literal["zero", "sign"], args["extension"]), view=False)
