"""The harness can fail: what the wheel refuses is refused here too. And what its meta functions let pass, so that nobody takes them for a proof."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests_npu.calls import BF16, CALLS, F32, I8, I32, I64, U8, Call, E, K, M, N, t
from tests_npu.wheel import Wheel, meta

ROUTED = ("npu::npu_grouped_matmul", "int8-times-int4")
WEIGHT = ("npu::npu_weight_quant_batchmatmul", "int8")
DYNAMIC = ("npu::npu_quant_matmul", "dynamic-bf16")
MXFP8 = ("npu::npu_quant_matmul", "mxfp8")

Changed = tuple[tuple[str, str], dict[int, Any], dict[str, Any]]
"""A call of the table, other positional arguments by their places, other keyword arguments."""


def changed(key: tuple[str, str], args: dict[int, Any], kwargs: dict[str, Any]) -> Call:
    right = CALLS[key[0]][key[1]]
    return Call(tuple(args.get(place, value) for place, value in enumerate(right.args)), {**right.kwargs, **kwargs})


REFUSED: dict[str, tuple[Changed, str]] = {
    "unknown keyword": ((DYNAMIC, {}, {"scales": None}), "Unknown keyword argument 'scales'"),
    "keyword of another op": ((WEIGHT, {}, {"group_size": 64}), "Unknown keyword argument 'group_size'"),
    "tensor for a list": ((ROUTED, {0: t(I8, M, K)}, {}), r"Expected a value of type 'List\[Tensor\]'"),
    "name of a dtype": ((DYNAMIC, {}, {"output_dtype": "bfloat16"}), "for argument 'output_dtype'"),
    "scale as a row": ((DYNAMIC, {2: t(F32, 1, N)}, {}), "scale dim num must be 1"),
    "scale of another length": ((DYNAMIC, {2: t(F32, N + 1)}, {}), "scale 1st dim value must be 1 or x2 n"),
    "another k": ((DYNAMIC, {1: t(I8, K + 1, N)}, {}), "k dim of x1 and x2 need be same"),
    "bfloat16 scale, float16 result": ((DYNAMIC, {2: t(BF16, N)}, {"output_dtype": torch.float16}), "output_dtype must be bfloat16 or int32"),
    "torch's own e8m0": ((MXFP8, {}, {"scale_dtype": torch.float8_e8m0fnu}), "scale_dtype is 44"),
    "no such split": ((ROUTED, {}, {"group_type": 1}), "group_type only supports"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_wheel_refuses(name: str) -> None:
    ((key, args, kwargs), message) = REFUSED[name]
    wrong, wheel = changed(key, args, kwargs), Wheel()
    with pytest.raises(RuntimeError, match=message):
        wheel.resolve(key[0])(*wrong.args, **wrong.kwargs)
    assert not wheel.calls


def test_a_positional_argument_that_is_keyword_only_is_refused() -> None:
    with pytest.raises(RuntimeError, match="takes 3 positional argument"):
        Wheel().resolve(DYNAMIC[0])(*CALLS[DYNAMIC[0]][DYNAMIC[1]].args, None)


PASSES: dict[str, Changed] = {
    "weight of another k": (WEIGHT, {1: t(I8, K + 1, N)}, {}),
    "antiquant scale of another length": (WEIGHT, {2: t(BF16, N + 1)}, {}),
    "experts of another k": (ROUTED, {1: [t(I32, E, K + 1, N // 8)]}, {}),
    "scales of the experts of another shape": (ROUTED, {}, {"scale": [t(I64, 1)]}),
    "token scales of another length": (DYNAMIC, {}, {"pertoken_scale": t(F32, 1)}),
    "block scales that lie the other way round than the weight": (MXFP8, {2: t(U8, K // 64, N, 2)}, {}),
}


@pytest.mark.parametrize("name", PASSES)
def test_what_the_meta_functions_do_not_see(name: str) -> None:
    """These calls are wrong, and the wheel's meta functions take them: that a call is checked by them proves no layout."""
    wrong = changed(*PASSES[name])
    result = meta(PASSES[name][0][0], wrong.args, wrong.kwargs)
    assert [tensor.shape for tensor in (result if isinstance(result, list) else [result])] == [(M, N)]
