"""The reference kernels make results of the shapes and dtypes that the wheel's meta functions say, for every kernel that has one."""

from __future__ import annotations

import pytest

from layoutdsl.runtime.reference_ops import reference_names, reference_op
from tests_npu.calls import CALLS
from tests_npu.wheel import has_meta, meta, shown

EACH = [pytest.param(op, name, id=f"{op.partition('::')[2]}-{name}") for op, calls in CALLS.items() for name in calls]


@pytest.mark.parametrize(("op", "name"), EACH)
def test_the_reference_kernel_agrees(op: str, name: str) -> None:
    call = CALLS[op][name]
    assert shown(reference_op(op)(*call.args, **call.kwargs)) == shown(meta(op, call.args, call.kwargs))


def test_every_kernel_with_a_meta_function_is_in_the_table() -> None:
    assert {op for op in reference_names() if op.startswith("npu::") and has_meta(op)} == set(CALLS)
