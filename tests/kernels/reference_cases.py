"""Calls that the reference kernels take: the table from which their tests are derived.

Every case is made anew for each use, since kernels may write to their operands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from plain import Maker, pack, zext

E8M0, E2M1 = 293, 296
M, K, N, E = 5, 80, 16, 3
"""Sizes: m rows, k summed over, n columns, e experts; the last group of 32 is partial, and groups are odd in number."""
COUNTS = [2, 0, 1]
Operands = dict[str, Any]


def given(**operands: Any) -> Operands:
    return operands


@dataclass(frozen=True)
class Case:
    """op: the kernel. make: operands by name, from random numbers."""

    op: str
    name: str
    make: Callable[[Maker], Operands]

    def operands(self, seed: int = 0) -> Operands:
        return self.make(Maker(seed))

    def __str__(self) -> str:
        return f"{self.op.partition('::')[2]}: {self.name}"


def counts(kind: int = 1) -> torch.Tensor:
    if kind == 2:
        return torch.tensor([[2, 1], [0, 2], [1, 0]])
    found = torch.tensor(COUNTS)
    return found if kind == 1 else found.cumsum(0)


def turned(packed: torch.Tensor) -> torch.Tensor:
    """[.., n, k] as a view [.., k, n]."""
    return packed.transpose(-1, -2)


def mx_scale(make: Maker, k: int, n: int, *experts: int, view: bool = True) -> torch.Tensor:
    """[.., ceil(k / 64), n, 2], as a view of [.., n, ceil(k / 64), 2] or as it is."""
    pairs = -(-k // 64)
    return make.exponents(*experts, n, pairs, 2).transpose(-3, -2) if view else make.exponents(*experts, pairs, n, 2)


# ---- npu_quant_matmul -----------------------------------------------------------------------------------------------------------------------------------

QUANT_MATMUL: dict[str, Callable[[Maker], Operands]] = {
    "static float16, packed scale": lambda a: given(
        x1=a.int8(M, K), x2=a.int8(K, N), scale=zext(a.fine(N)), bias=a.integers(-999, 999, N, dtype=torch.int32), output_dtype=torch.float16
    ),
    "static float16, float32 scale": lambda a: given(x1=a.int8(M, K), x2=turned(a.int8(N, K)), scale=a.fine(1), output_dtype=torch.float16),
    "static bfloat16": lambda a: given(x1=a.int8(M, K), x2=a.int8(K, N), scale=a.fine(N), bias=a.half(N), output_dtype=torch.bfloat16),
    "dynamic": lambda a: given(
        x1=a.int8(2, M, K),
        x2=a.int8(K, N),
        scale=a.scale(N, dtype=torch.bfloat16),
        pertoken_scale=a.scale(M),
        bias=a.half(N).float(),
        output_dtype=torch.bfloat16,
    ),
    "dynamic, integer bias": lambda a: given(
        x1=a.int8(M, K),
        x2=a.int8(K, N),
        scale=a.scale(N),
        pertoken_scale=a.scale(M),
        bias=a.integers(-999, 999, N, dtype=torch.int32),
        output_dtype=torch.float16,
    ),
    "to int32": lambda a: given(x1=a.int8(M, K), x2=a.int8(K, N), scale=a.scale(N), bias=a.integers(-999, 999, N, dtype=torch.int32), output_dtype=torch.int32),
    "to int8": lambda a: given(x1=a.int8(M, K), x2=a.int8(K, N), scale=a.fine(N) / 64, offset=a.integers(-250, 250, N, dtype=torch.float32)),
    "to int8, packed scale": lambda a: given(x1=a.int8(M, K), x2=a.int8(K, N), scale=zext(a.fine(N) / 512) | (1 << 46) | (507 << 37)),
    "int4 per token": lambda a: given(
        x1=pack(a.int4(M, K)), x2=turned(pack(a.int4(N, K))), scale=a.scale(N), pertoken_scale=a.scale(M), output_dtype=torch.bfloat16
    ),
    "int4, packed along n": lambda a: given(x1=pack(a.int4(M, K)), x2=pack(a.int4(K, N)), scale=zext(a.fine(N)), output_dtype=torch.float16),
    "int8 * int4": lambda a: given(
        x1=a.int8(M, 512),
        x2=pack(a.int4(512, N)),
        scale=zext(a.scale(2, N)),
        offset=a.scale(N),
        pertoken_scale=a.scale(M, 1),
        output_dtype=torch.float16,
        group_sizes=[0, 0, 256],
    ),
    "blocks": lambda a: given(
        x1=a.int8(M, 200),
        x2=a.int8(200, 144),
        scale=a.scale(2, 2),
        pertoken_scale=a.scale(M, 2),
        bias=a.scale(144),
        output_dtype=torch.bfloat16,
        group_sizes=[1, 128, 128],
    ),
    "e4m3 per token": lambda a: given(x1=a.e4m3(M, K), x2=a.e4m3(K, N), scale=a.scale(N), pertoken_scale=a.scale(M), output_dtype=torch.bfloat16),
    "e4m3, one scale each": lambda a: given(x1=a.e4m3(M, K), x2=a.e4m3(K, N), scale=a.fine(1), pertoken_scale=a.fine(1), output_dtype=torch.float32),
    "mx e4m3": lambda a: given(
        x1=a.e4m3(M, K),
        x2=turned(a.e4m3(N, K)),
        scale=mx_scale(a, K, N),
        pertoken_scale=a.exponents(M, 2, 2),
        scale_dtype=E8M0,
        pertoken_scale_dtype=E8M0,
        group_sizes=[1, 1, 32],
        bias=a.scale(N),
        output_dtype=torch.bfloat16,
    ),
    "mx e4m3, not transposed": lambda a: given(
        x1=a.e4m3(M, K),
        x2=a.e4m3(K, N),
        scale=mx_scale(a, K, N, view=False),
        pertoken_scale=a.exponents(M, 2, 2),
        scale_dtype=E8M0,
        pertoken_scale_dtype=E8M0,
        group_sizes=[1, 1, 32],
        output_dtype=torch.float32,
    ),
    "mx e2m1": lambda a: given(
        x1=pack(a.codes(M, K), torch.uint8),
        x2=turned(pack(a.codes(N, K), torch.uint8)),
        scale=mx_scale(a, K, N),
        pertoken_scale=a.exponents(M, 2, 2),
        scale_dtype=E8M0,
        pertoken_scale_dtype=E8M0,
        x1_dtype=E2M1,
        x2_dtype=E2M1,
        group_sizes=[1, 1, 32],
        output_dtype=torch.float16,
    ),
    "mx e4m3 * e2m1": lambda a: given(
        x1=a.e4m3(M, K),
        x2=turned(pack(a.codes(N, K), torch.uint8)),
        scale=mx_scale(a, K, N),
        pertoken_scale=a.exponents(M, 2, 2),
        scale_dtype=E8M0,
        pertoken_scale_dtype=E8M0,
        x2_dtype=E2M1,
        group_sizes=[0, 0, 32],
        bias=a.half(1, N),
        output_dtype=torch.bfloat16,
    ),
}

# ---- npu_weight_quant_batchmatmul ----------------------------------------------------------------------------------------------------------------------

WEIGHT_QUANT: dict[str, Callable[[Maker], Operands]] = {
    "int8 per channel": lambda a: given(x=a.half(M, K), weight=a.int8(K, N), antiquant_scale=a.half(N), antiquant_offset=a.half(N), bias=a.scale(N)),
    "int8 per channel, transposed": lambda a: given(
        x=a.half(M, K, dtype=torch.float16),
        weight=turned(a.int8(N, K)),
        antiquant_scale=a.half(N, 1, dtype=torch.float16),
        bias=a.half(1, N, dtype=torch.float16),
    ),
    "int8 per tensor": lambda a: given(x=a.half(M, K), weight=a.int8(K, N), antiquant_scale=a.half(1)),
    "int4 per group": lambda a: given(
        x=a.half(M, K), weight=pack(a.int4(K, N)), antiquant_scale=a.half(3, N), antiquant_offset=a.half(3, N), antiquant_group_size=32
    ),
    "int4 per group, transposed": lambda a: given(
        x=a.half(M, K), weight=turned(pack(a.int4(N, K))), antiquant_scale=turned(a.half(N, 3)), antiquant_offset=turned(a.half(N, 3)), antiquant_group_size=32
    ),
    "e2m1": lambda a: given(x=a.half(M, K), weight=pack(a.codes(K, N), torch.float32), antiquant_scale=a.exponents(3, N), antiquant_group_size=32),
    "e2m1 in bytes": lambda a: given(
        x=a.half(M, K), weight=turned(pack(a.codes(N, K), torch.uint8)), antiquant_scale=a.exponents(3, N), antiquant_group_size=32, weight_dtype=E2M1
    ),
}

# ---- npu_grouped_matmul -----------------------------------------------------------------------------------------------------------------------------------

GROUPED = given(split_item=2, group_type=0, group_list_type=1)


def grouped(**more: Any) -> Operands:
    return {"group_list": counts(), **GROUPED, **more}


def a8w4(a: Maker, groups: int, k: int = K) -> Operands:
    """int8 rows, int4 weights, and the bias that the split needs."""
    weight, scale = a.int4(E, k, N), a.scale(E, groups, N)
    dense = weight.double() * scale.double().repeat_interleave(k // groups, 1)
    operands = given(x=[a.int8(M, k)], weight=[pack(weight)], scale=[zext(scale)], bias=[(8 * dense.sum(1)).float()], per_token_scale=[a.scale(M)])
    return grouped(output_dtype=torch.bfloat16, **operands)


def listed(operands: Operands, *names: str) -> Operands:
    """The same with one tensor per expert."""
    return {name: list(value[0].unbind(0)) if name in names else value for name, value in operands.items()}


GROUPED_MATMUL: dict[str, Callable[[Maker], Operands]] = {
    "W8A8": lambda a: grouped(
        x=[a.int8(M, K)],
        weight=[a.int8(E, K, N)],
        scale=[a.scale(E, N, dtype=torch.bfloat16)],
        per_token_scale=[a.scale(M)],
        bias=[a.integers(-99, 99, E, N, dtype=torch.int32)],
        output_dtype=torch.bfloat16,
    ),
    "W8A8 to int32": lambda a: grouped(x=[a.int8(M, K)], weight=[turned(a.int8(E, N, K))], output_dtype=torch.int32, split_item=3),
    "W8A8 to int8": lambda a: grouped(x=[a.int8(M, K)], weight=[a.int8(E, K, N)], scale=[zext(a.fine(E, N) / 512) | (1 << 46)]),
    "W8A8, one tensor per expert": lambda a: listed(GROUPED_MATMUL["W8A8"](a), "weight", "scale", "bias"),
    "A8W4 per channel": lambda a: a8w4(a, 1),
    "A8W4 per group": lambda a: a8w4(a, 5),
    "A8W4, one tensor per expert": lambda a: listed(a8w4(a, 5), "weight", "scale", "bias"),
    "A8W4, transposed": lambda a: a8w4(a, 2) | given(weight=[turned(pack(a.int4(E, N, K)))]),
    "W4A4": lambda a: grouped(
        x=[pack(a.int4(M, K))], weight=[pack(a.int4(E, K, N))], scale=[zext(a.scale(E, 2, N))], per_token_scale=[a.scale(M)], output_dtype=torch.float16
    ),
    "W4A16": lambda a: grouped(
        x=[a.half(M, K)], weight=[pack(a.int4(E, K, N))], antiquant_scale=[a.half(E, 5, N)], antiquant_offset=[a.half(E, 5, N)], output_dtype=torch.bfloat16
    ),
    "W8A16": lambda a: grouped(
        x=[a.half(M, K, dtype=torch.float16)],
        weight=[a.int8(E, K, N)],
        antiquant_scale=[a.half(E, N, dtype=torch.float16)],
        antiquant_offset=[a.half(E, N, dtype=torch.float16)],
        bias=[a.half(E, N, dtype=torch.float16)],
    ),
    "e4m3": lambda a: grouped(x=[a.e4m3(M, K)], weight=[a.e4m3(E, K, N)], scale=[a.scale(E, N)], per_token_scale=[a.scale(M)], output_dtype=torch.bfloat16),
    "mx e4m3": lambda a: grouped(
        x=[a.e4m3(M, K)],
        weight=[turned(a.e4m3(E, N, K))],
        scale=[mx_scale(a, K, N, E)],
        per_token_scale=[a.exponents(M, 2, 2)],
        scale_dtype=E8M0,
        per_token_scale_dtype=E8M0,
        output_dtype=torch.bfloat16,
    ),
    "mx e2m1": lambda a: grouped(
        x=[pack(a.codes(M, K), torch.uint8)],
        weight=[turned(pack(a.codes(E, N, K), torch.uint8))],
        scale=[mx_scale(a, K, N, E)],
        per_token_scale=[a.exponents(M, 2, 2)],
        scale_dtype=E8M0,
        per_token_scale_dtype=E8M0,
        x_dtype=E2M1,
        weight_dtype=E2M1,
        output_dtype=torch.float32,
    ),
    "mx e4m3 * e2m1": lambda a: grouped(
        x=[a.e4m3(M, K)],
        weight=[turned(pack(a.codes(E, N, K), torch.uint8))],
        antiquant_scale=[mx_scale(a, K, N, E)],
        per_token_scale=[a.exponents(M, 2, 2)],
        per_token_scale_dtype=E8M0,
        weight_dtype=E2M1,
        output_dtype=torch.bfloat16,
    ),
    "mx W4A16": lambda a: grouped(x=[a.half(M, K)], weight=[pack(a.codes(E, K, N), torch.float32)], antiquant_scale=[a.exponents(E, 3, N)], split_item=3),
}

# ---- swiglu and requantization ----------------------------------------------------------------------------------------------------------------------------


def swiglu_a8w8(a: Maker) -> Operands:
    return given(x=a.int8(M, K), weight=a.int8(E, K, N), weight_scale=a.scale(E, N), x_scale=a.scale(M) / 64, group_list=counts(0))


def swiglu_a8w4(a: Maker, groups: int | None = None) -> Operands:
    from_matmul = a8w4(a, groups or 1)
    scale = from_matmul["scale"][0]
    return given(
        x=from_matmul["x"][0],
        weight=from_matmul["weight"][0],
        weight_scale=scale if groups else scale[:, 0],
        x_scale=from_matmul["per_token_scale"][0] / 8,
        group_list=counts(0),
        bias=from_matmul["bias"][0],
    )


def v2(operands: Operands, *, kind: int = 0, mode: int = 0, own: bool = False) -> Operands:
    """The same call in the argument names of v2; own: one tensor per expert."""
    bias = {"weight_assist_matrix": [operands["bias"]]} if "bias" in operands else {}
    result = {"x": operands["x"], "weight": [operands["weight"]], "weight_scale": [operands["weight_scale"]], "x_scale": operands["x_scale"], **bias}
    result |= {"group_list": counts(kind), "group_list_type": kind, "dequant_mode": mode}
    return listed(result, "weight", "weight_scale", *bias) if own else result


def mx_swiglu(a: Maker, element: str, result: int | torch.dtype) -> Operands:
    carried = element == "e2m1"
    x = pack(a.codes(M, K), torch.uint8) if carried else a.e4m3(M, K)
    weight = turned(pack(a.codes(E, 160, K), torch.uint8) if carried else a.e4m3(E, 160, K))
    dtypes = given(x_dtype=E2M1, weight_dtype=E2M1) if carried else {}
    operands = given(x=x, weight=[weight], weight_scale=[mx_scale(a, K, 160, E)], x_scale=a.exponents(M, 2, 2) - 9, group_list=counts(0))
    return operands | given(dequant_mode=2, quant_mode=2, quant_dtype=result, weight_scale_dtype=E8M0, x_scale_dtype=E8M0) | dtypes


def dequant(a: Maker, **more: Any) -> Operands:
    operands = given(
        x=a.integers(-9999, 9999, M, N, dtype=torch.int32), weight_scale=a.scale(E, N), activation_scale=a.scale(M) / 256, group_index=counts(), quant_mode=1
    )
    return {name: value for name, value in (operands | more).items() if value is not None}


OTHERS: dict[str, dict[str, Callable[[Maker], Operands]]] = {
    "npu::npu_grouped_matmul_swiglu_quant": {
        "A8W8": swiglu_a8w8,
        "A8W4 per channel": swiglu_a8w4,
        "A8W4 per group": lambda a: swiglu_a8w4(a, 5),
    },
    "_C_ascend::grouped_matmul_swiglu_quant_weight_nz": {
        "A8W8": swiglu_a8w8,
        "A8W8, capped": lambda a: swiglu_a8w8(a) | given(swiglu_limit=0.75),
        "A8W4 per channel": swiglu_a8w4,
    },
    "_C_ascend::grouped_matmul_swiglu_quant_weight_nz_tensor_list": {
        "A8W8": lambda a: {name: list(value.unbind(0)) if name in ("weight", "weight_scale") else value for name, value in swiglu_a8w8(a).items()},
    },
    "_C_ascend::grouped_matmul_swiglu_quant_v2": {
        "A8W4 per channel": lambda a: v2(swiglu_a8w4(a), kind=1),
        "A8W4 per channel, one tensor per expert": lambda a: v2(swiglu_a8w4(a), own=True),
        "A8W4 per group, capped": lambda a: v2(swiglu_a8w4(a, 5), mode=1) | given(swiglu_limit=0.75),
        "A8W8": lambda a: v2(swiglu_a8w8(a), kind=1),
    },
    "npu::npu_grouped_matmul_swiglu_quant_v2": {
        "A8W4 per channel": lambda a: v2(swiglu_a8w4(a), kind=1),
        "A8W4 per group": lambda a: v2(swiglu_a8w4(a, 5), mode=1),
        "A8W8": lambda a: v2(swiglu_a8w8(a)),
        "e4m3": lambda a: v2(swiglu_a8w8(a) | given(x=a.e4m3(M, K), weight=a.e4m3(E, K, N))) | given(quant_dtype=torch.float8_e4m3fn),
        "mx e4m3": lambda a: mx_swiglu(a, "e4m3", torch.float8_e4m3fn),
        "mx e2m1": lambda a: mx_swiglu(a, "e2m1", E2M1),
    },
    "npu::npu_dequant_swiglu_quant": {
        "groups": dequant,
        "left first": lambda a: dequant(a, activate_left=True),
        "halves": lambda a: dequant(a, swiglu_mode=2, clamp_limit=2.5),
        "interleaved": lambda a: dequant(a, swiglu_mode=1, clamp_limit=2.5),
    },
    "npu::npu_quant_grouped_matmul_dequant": {
        "int8": lambda a: given(x=a.half(M, K, dtype=torch.float16), quantized_weight=a.int8(E, N, K), weight_scale=a.scale(E, N), group_list=counts(0)),
    },
    "_C_ascend::npu_swiglu_group_quant": {
        "mx": lambda a: given(x=a.half(M, 256), topk_weight=None, group_index=None, dst_type=torch.float8_e4m3fn, quant_mode=2),
        "mx, capped": lambda a: given(x=a.half(M, 128), topk_weight=None, group_index=None, dst_type=torch.float8_e4m3fn, quant_mode=2, clamp_value=1.5),
    },
    "_C_ascend::npu_dequant_swiglu_quant": {
        "groups": dequant,
        "dynamic": lambda a: dequant(
            a, weight_scale=a.scale(1, N), group_index=None, quant_scale=a.scale(N // 2), bias=a.integers(-99, 99, N, dtype=torch.int32), activate_left=False
        ),
        "static": lambda a: dequant(
            a, weight_scale=a.scale(N), group_index=None, quant_mode=0, quant_scale=a.scale(1), quant_offset=a.scale(N // 2), bias=a.scale(N)
        ),
        "interleaved": lambda a: dequant(a, swiglu_mode=1, clamp_limit=2.5, glu_alpha=1.702, glu_bias=1.0),
        "floats": lambda a: given(x=a.half(M, N), quant_mode=1),
    },
    "npu::npu_swiglu": {
        "last dim": lambda a: given(input=a.half(M, N)),
        "first dim": lambda a: given(input=a.half(4, N, dtype=torch.float16), dim=0),
    },
    "npu::npu_dynamic_quant": {
        "int8": lambda a: given(input=a.half(2, M, N)),
        "int4": lambda a: given(input=a.half(M, N, dtype=torch.float16), dst_type=torch.quint4x2),
        "e4m3": lambda a: given(input=a.half(M, N), dst_type=torch.float8_e4m3fn, smooth_scales=a.half(N)),
    },
    "npu::npu_dynamic_mx_quant": {
        "e4m3": lambda a: given(input=a.half(2, M, K), dst_type=torch.float8_e4m3fn),
        "e4m3, rounded up": lambda a: given(input=a.half(M, K), dst_type=292, scale_alg=1),
        "e2m1": lambda a: given(input=a.half(M, K)),
        "e2m1, ties away": lambda a: given(input=a.half(M, K), round_mode="round"),
    },
    "npu::npu_quantize": {
        "multiplied": lambda a: given(input=a.half(M, N), scales=a.half(N), zero_points=a.half(N), dtype=torch.qint8, axis=-1, div_mode=False),
        "int4": lambda a: given(input=a.half(E, M, N).float(), scales=torch.ones(1), zero_points=None, dtype=torch.quint4x2, axis=-1, div_mode=False),
        "divided": lambda a: given(input=a.half(M, N), scales=a.scale(N), zero_points=a.integers(-9, 9, N, dtype=torch.int32), dtype=torch.qint8),
    },
    "vllm::quantize": {
        "int8": lambda a: given(in_tensor=a.half(M, N), input_scale=a.half(N), input_scale_reciprocal=a.half(N), input_offset=a.half(N)),
    },
    "npu::npu_convert_weight_to_int4pack": {
        "int4": lambda a: given(weight=a.int4(M, N).int()),
        "e2m1": lambda a: given(weight=turned(torch.tensor([[6.0, -0.5, 0.0, -0.0, 1.5]] * N)).contiguous()),
    },
    "npu::npu_format_cast": {
        "view": lambda a: given(input=turned(a.int8(N, K)), acl_format=29),
        "list of options": lambda a: given(input=pack(a.codes(N, K), torch.uint8), acl_format=29, customize_dtype=torch.float8_e4m3fn, input_dtype=E2M1),
    },
    "npu::npu_trans_quant_param": {
        "cut": lambda a: given(scale=a.fine(N), offset=a.integers(-300, 300, N, dtype=torch.float32)),
        "rounded": lambda a: given(scale=-a.fine(1, N), round_mode=1),
    },
    "npu::npu_kronecker_quant": {
        "int4": lambda a: given(x=a.half(M, 4, 8), kronecker_p1=a.half(4, 4), kronecker_p2=a.half(8, 8), clip_ratio=0.9, dst_dtype=torch.int32),
        "e2m1": lambda a: given(x=a.half(M, 10, 8), kronecker_p1=a.half(10, 10), kronecker_p2=a.half(8, 8), dst_dtype=E2M1),
    },
}

TABLES = {"npu::npu_quant_matmul": QUANT_MATMUL, "npu::npu_weight_quant_batchmatmul": WEIGHT_QUANT, "npu::npu_grouped_matmul": GROUPED_MATMUL, **OTHERS}
CASES = [Case(op, name, make) for op, table in TABLES.items() for name, make in table.items()]


def case(op: str, name: str) -> Case:
    return next(found for found in CASES if found.op == op and found.name == name)
