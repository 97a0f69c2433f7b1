"""``call(kernel, T)``: hand the value to a device kernel while the layer is loaded."""

from __future__ import annotations

from dataclasses import replace

from layoutdsl.ir.layout import Element, Reject, Space, TensorType
from layoutdsl.ops.base import Arguments, Example, Op, Parameter, Rejected, register


@register
class CallKernel(Op):
    """One element in, one T out, and what the T means is the kernel's secret: the result is opaque from there on. It may be moved and passed on, nothing else.
    For scale packers such as npu_trans_quant_param; a kernel that changes dims has no place in a pipeline."""

    name = "call"
    summary = "opaque load-time kernel: one T per element, opaque from there on"
    parameters = (Parameter("kernel", "kernel"), Parameter("storage", "storage"))
    instruction = "opaque"
    function = "kernel"
    numeric = True
    on_lists = False
    examples = (Example("float32[n]", "call(npu_trans_quant_param, int64)", "opaque[n] in int64[n]"),)
    rejected = (
        Rejected("int4[n, k] in int8[n, k//2 | k%2]", "call(npu_trans_quant_param, int64)", "call-of-packed"),
        Rejected("float32[n, k] in float32[k, n] over [n, k]", "call(npu_trans_quant_param, int64)", "call-not-contiguous"),
    )

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        if kind.carriage not in ("native", "value") or kind.format:
            raise Reject("call-of-packed", f"a kernel takes whole elements in ND, not {kind.element.name} as {kind.storage} holds it here")
        if not kind.contiguous:
            raise Reject("call-not-contiguous", "a kernel takes a contiguous tensor", helps=["write `contiguous` before it"])
        return replace(kind, element=Element("opaque"), storage=args["storage"], view=False)
