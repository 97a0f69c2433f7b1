"""What torch_npu's wheel says of a call: its schema, and its meta function where there is one.

Between the generated forwards, which ask a resolver for every kernel, and the tests, which count the answers. Nothing is computed: all tensors are meta.

Invariants: a call of an op of the wheel goes through the wheel's schema; where the wheel has a meta function its result is the call's result, and the reference
kernel must make the same; everywhere else the result is the reference kernel's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from layoutdsl.runtime.reference_ops import reference_op

META = "checked by schema and meta function"
SCHEMA = "checked by schema only: torch_npu has no meta function of it"
NOTHING = "not checked: torch_npu does not have it"
REPORT: list[str] = []
"""What is printed at the end of the run: a line for each op."""
Found = dict[str, tuple[str, int]]
"""What the wheel says of the calls of an op, and how many there are."""


@dataclass
class Wheel:
    """The resolver of a run. verdicts: of each op that was called; calls: how often it was."""

    verdicts: dict[str, str] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)

    def resolve(self, op: str) -> Callable[..., Any]:
        """What stands for a kernel. It raises what the wheel raises: RuntimeError for a call that is refused."""
        return lambda *args, **kwargs: self._call(op, args, kwargs)

    def _call(self, op: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        self.verdicts[op], result = checked(op, args, kwargs)
        self.calls[op] += 1
        return result


def checked(op: str, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[str, Any]:
    """What the wheel can say of a call, and the call's result. Raises: RuntimeError where it refuses, AssertionError where the reference kernel differs."""
    if not op.startswith("npu::"):
        return NOTHING, reference_op(op)(*args, **kwargs)
    torch._C._jit_resolve_packet(op, *args, **kwargs)
    if not has_meta(op):
        return SCHEMA, reference_op(op)(*args, **kwargs)
    theirs = in_bytes(op, meta(op, args, kwargs))
    ours = reference_op(op)(*args, **kwargs)
    assert shown(ours) == shown(theirs), f"{op}: the reference kernel makes {shown(ours)}, torch_npu {shown(theirs)}"
    return META, theirs


def in_bytes(op: str, theirs: Any) -> Any:
    """The result of a meta function that counts the e2m1 in it: two of them are in one uint8, as the next matmul takes them, and no other result is uint8."""
    if op != "npu::npu_grouped_matmul_swiglu_quant_v2" or theirs[0].dtype != torch.uint8:
        return theirs
    rows, elements = theirs[0].shape
    return theirs[0].new_empty(rows, elements // 2), theirs[1]


def has_meta(op: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(op, "Meta")


def meta(op: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of the wheel's own meta function."""
    return getattr(torch.ops.npu, op.removeprefix("npu::"))(*args, **kwargs)


def shown(value: Any) -> str:
    """Operands or results as text: dtype and shape of a tensor, and its strides where dims lie in another order."""
    if isinstance(value, torch.Tensor):
        strides = "" if value.is_contiguous() else f" by {list(value.stride())}"
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}{strides}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(shown, value))})"
    return str(value)


def report(what: str, found: Found) -> None:
    REPORT.extend(f"{what}: {count} {'call' if count == 1 else 'calls'} of {op} {verdict}" for op, (verdict, count) in sorted(found.items()))
