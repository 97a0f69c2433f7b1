"""``relayout TYPE``: any movement between two types of one logical tensor."""

from __future__ import annotations

from dataclasses import replace

from layoutdsl.ir.layout import Reject, Space, TensorType, check_well_formed, digit_text, same_logical
from layoutdsl.ops.base import Arguments, Example, Op, Parameter, Place, Position, Rejected, need_nd, register, slot_of, values_at


@register
class Relayout(Op):
    """The movement is derived from the two types: unpack, transpose, pack again, in one pass. Only the carriage may change, never the element."""

    name = "relayout"
    summary = "any movement between two types of one logical tensor, derived"
    parameters = (Parameter("type", "type"),)
    on_lists = False
    examples = (
        Example("int4(excess 8)[n, k] in int32[n, k//8 | k%8]", "relayout int4[n, k] in int32[k, n//8 | n%8]", "int4[n, k] in int32[k, n//8 | n%8]"),
        Example("int8[n, k]", "relayout int8[n, k] in int8[k, n]", "int8[n, k] in int8[k, n]"),
    )
    rejected = (
        Rejected("int4[n, k] in int8[n, k]", "relayout int8[n, k]", "relayout-element"),
        Rejected("int8[n, k]", "relayout int8[n, e]", "relayout-digits"),
        Rejected("int8[n, k]", "relayout int8[n, k] over nz[n, k]", "relayout-format"),
    )

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        target: TensorType = args["type"]
        need_nd(kind, "`relayout`")
        if target.format:
            raise Reject("relayout-format", "a change of format is a step of its own", helps=["`relayout` to ND, then `nz`"])
        if target.element.name != kind.element.name:
            raise Reject(
                "relayout-element", f"the element is {kind.element.name}, not {target.element.name}", helps=["`cast` changes values, `relayout` moves them"]
            )
        if {d.axis for d in target.logical} != {d.axis for d in kind.logical} or not same_logical(space, kind, target):
            ours, theirs = (", ".join(digit_text(space, digit) for digit in t.logical) or "0" for t in (kind, target))
            raise Reject(
                "relayout-digits",
                f"the logical tensor is over [{ours}], the target's over [{theirs}]",
                helps=[f"write `relayout {kind.element.name}[{ours}] in ...`"],
            )
        check_well_formed(space, target)
        kept = {"initialised": kind.initialised, "listed": kind.listed, "positive": kind.positive, "reciprocal": kind.reciprocal}
        return replace(target, logical=kind.logical, view=False, **kept)  # type: ignore[arg-type]

    def source_of(self, position: Position, before: Place, after: Place, kind: TensorType, args: Arguments, space: Space) -> Position | None:
        target: TensorType = args["type"]
        return slot_of(kind, values_at(target, position))
