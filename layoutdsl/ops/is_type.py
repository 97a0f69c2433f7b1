"""``is TYPE``: an assertion."""

from __future__ import annotations

from layoutdsl.ir.layout import Reject, Space, TensorType, difference, type_text
from layoutdsl.ops.base import Arguments, Example, Op, Parameter, Rejected, register


@register
class Is(Op):
    """States the type at this point; costs nothing when the plan runs."""

    name = "is"
    summary = "assertion, no work"
    parameters = (Parameter("type", "type"),)
    instruction = "none"
    examples = (Example("int8[n, k] in int8[k, n] over [n, k]", "is int8[n, k] in int8[k, n] over [n, k]", "int8[n, k] in int8[k, n] over [n, k]"),)
    rejected = (Rejected("int8[n, k] in int8[k, n]", "is int8[n, k] in int8[k, n] over [n, k]", "is-not"),)

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        reason = difference(space, kind, args["type"])
        if reason is not None:
            raise Reject("is-not", f"the value is `{type_text(space, kind)}`: {reason}")
        return kind
