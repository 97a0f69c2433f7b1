"""``cast(T)``: numeric conversion."""

from __future__ import annotations

from dataclasses import replace

from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.ir.layout import Element, Reject, Space, TensorType
from layoutdsl.ops.base import Arguments, Example, Op, Parameter, Rejected, need_nd, register


@register
class Cast(Op):
    """Values change their dtype, rounded to nearest even where the target is a float. A cast to an integer says how it rounds, so it is index math
    (``rint``, ``trunc``)."""

    name = "cast"
    summary = "numeric conversion, round to nearest even"
    parameters = (Parameter("element", "element"),)
    instruction = "compute"
    numeric = True
    examples = (
        Example("bfloat16[n]", "cast(float32)", "float32[n]"),
        Example("bfloat16[n, k] in bfloat16[k, n] over [n, k]", "cast(float32)", "float32[n, k] in float32[k, n] over [n, k]"),
        Example("int4[n, k] in int8[n, k]", "cast(float32)", "float32[n, k]"),
    )
    rejected = (
        Rejected("float32[n]", "cast(float32)", "no-op"),
        Rejected("e8m0[n] in uint8[n]", "cast(float32)", "cast-of-bits"),
        Rejected("float32[n]", "cast(int8)", "cast-rounds"),
        Rejected("float32[n]", "cast(int4)", "cast-target"),
    )

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        need_nd(kind, "`cast`")
        target = ELEMENTS[args["element"]]
        if kind.carriage == "native" and target.name == kind.element.name:
            raise Reject("no-op", f"`cast({target.name})`: the element is {target.name} already", helps=["drop the stage, or give it a `when`"])
        if kind.carriage not in ("native", "value"):
            raise Reject(
                "cast-of-bits",
                f"`cast` reads values, but {kind.storage} carries the bits of {kind.element.name}",
                helps=["`bitcast` changes the type and keeps bits"],
            )
        if target.native is None or target.kind not in ("float", "int", "uint"):
            raise Reject("cast-target", f"`cast({target.name})`: there is no arithmetic in {target.name}")
        if target.kind in ("int", "uint") and ELEMENTS[kind.element.name].kind == "float":
            raise Reject(
                "cast-rounds",
                f"{kind.element.name} to {target.name} must say how it rounds",
                helps=[f"use index math with `rint({target.name}, ...)` or `trunc({target.name}, ...)`"],
            )
        return replace(kind, element=Element(target.name), storage=target.native, extension=None, view=False)
