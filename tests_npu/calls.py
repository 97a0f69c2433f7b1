"""Right calls of the kernels on meta tensors: for each op, one for every combination of operands whose results have a shape or a dtype of their own.

Read by ``test_reference_ops.py`` and ``test_wrong_calls.py``. What a kernel accepts, and where that is from, is said by its contract; here stand examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

E8M0, E2M1 = 293, 296
I8, I32, I64, U8, U64 = torch.int8, torch.int32, torch.int64, torch.uint8, torch.uint64
F32, F16, BF16, E4M3 = torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn


@dataclass(frozen=True)
class Call:
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def call(*args: Any, **kwargs: Any) -> Call:
    return Call(args, kwargs)


def t(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def turned(dtype: torch.dtype, *shape: int, dims: tuple[int, int] = (-1, -2)) -> torch.Tensor:
    """A tensor of this shape, two dims of which lie in memory the other way round."""
    return torch.empty_like(t(dtype, *shape).transpose(*dims), memory_format=torch.contiguous_format).transpose(*dims)


# M rows of K numbers times [K, N], of E experts. 512 = 2 * 256, a multiple of all group sizes.
M, K, N, E = 6, 512, 128, 3

MX_DTYPES = {"scale_dtype": E8M0, "pertoken_scale_dtype": E8M0}
MX = {"pertoken_scale": t(U8, M, K // 64, 2), "output_dtype": BF16, **MX_DTYPES}
MX_SCALE = turned(U8, K // 64, N, 2, dims=(0, 1))

QUANT_MATMUL = {
    "static-fp16": call(t(I8, M, K), t(I8, K, N), t(I64, N), bias=t(I32, N), output_dtype=F16),
    "static-bf16": call(t(I8, M, K), t(I8, K, N), t(BF16, N), bias=t(I32, N), output_dtype=BF16),
    "one-scale": call(t(I8, M, K), t(I8, K, N), t(F32, 1), output_dtype=BF16),
    "transposed-weight": call(t(I8, M, K), turned(I8, K, N), t(F32, N), output_dtype=BF16),
    "int8": call(t(I8, M, K), t(I8, K, N), t(I64, N), bias=t(I32, N)),
    "int8-offset": call(t(I8, M, K), t(I8, K, N), t(F32, N), offset=t(F32, N), output_dtype=I8),
    "int32": call(t(I8, M, K), t(I8, K, N), t(F32, N), bias=t(I32, N), output_dtype=I32),
    "dynamic-bf16": call(t(I8, M, K), t(I8, K, N), t(F32, N), pertoken_scale=t(F32, M), output_dtype=BF16),
    "dynamic-fp16": call(t(I8, M, K), t(I8, K, N), t(F32, N), pertoken_scale=t(F32, M), bias=t(F16, N), output_dtype=F16),
    "batch": call(t(I8, 2, M, K), t(I8, K, N), t(F32, N), output_dtype=BF16),
    "batches": call(t(I8, 2, M, K), t(I8, 2, K, N), t(F32, N), output_dtype=BF16),
    "int4": call(t(I32, M, K // 8), t(I32, K, N // 8), t(F32, N), pertoken_scale=t(F32, M), output_dtype=BF16),
    "int4-transposed": call(t(I32, M, K // 8), turned(I32, K // 8, N), t(F32, N), pertoken_scale=t(F32, M), output_dtype=BF16),
    "int4-static": call(t(I32, M, K // 8), t(I32, K, N // 8), t(I64, N), output_dtype=F16),
    "int8-times-int4": call(
        *(t(I8, M, K), t(I32, K, N // 8), t(I64, K // 256, N)),
        offset=t(F32, N), pertoken_scale=t(F32, M, 1), output_dtype=BF16, group_sizes=[0, 0, 256],
    ),
    "blocks": call(
        *(t(I8, M, K), turned(I8, K, N), turned(F32, K // 128, N // 128)),
        pertoken_scale=t(F32, M, K // 128), output_dtype=BF16, group_sizes=[1, 128, 128],
    ),
    "fp8": call(t(E4M3, M, K), t(E4M3, K, N), t(F32, N), pertoken_scale=t(F32, M), output_dtype=BF16),
    "mxfp8": call(t(E4M3, M, K), turned(E4M3, K, N), MX_SCALE, bias=t(F32, N), group_sizes=[1, 1, 32], **MX),
    "mxfp4": call(t(U8, M, K // 2), turned(U8, K // 2, N), MX_SCALE, group_sizes=[1, 1, 32], x1_dtype=E2M1, x2_dtype=E2M1, **MX),
    "mxfp8-times-mxfp4": call(t(E4M3, M, K), turned(U8, K // 2, N), MX_SCALE, bias=t(BF16, 1, N), group_sizes=[0, 0, 32], x2_dtype=E2M1, **MX),
}  # fmt: skip

WEIGHT_QUANT_BATCHMATMUL = {
    "int8": call(t(BF16, M, K), t(I8, K, N), t(BF16, N), t(BF16, N), bias=t(F32, N)),
    "int8-transposed": call(t(F16, M, K), turned(I8, K, N), t(F16, N, 1)),
    "int8-groups": call(t(BF16, M, K), t(I8, K, N), t(BF16, K // 64, N), antiquant_group_size=64),
    "int4": call(t(BF16, M, K), t(I32, K, N // 8), t(BF16, K // 64, N), antiquant_group_size=64),
    "int4-transposed": call(t(BF16, M, K), turned(I32, K // 8, N), t(BF16, N, 1)),
}

ROUTED = {"split_item": 2, "group_type": 0, "group_list": t(I64, E), "group_list_type": 1}
TOKENS = {"per_token_scale": [t(F32, M)], **ROUTED}
MX_TOKENS = {"per_token_scale": [t(U8, M, K // 64, 2)], "output_dtype": BF16, "scale_dtype": E8M0, "per_token_scale_dtype": E8M0, **ROUTED}
MX_EXPERTS = [turned(U8, E, K // 64, N, 2, dims=(1, 2))]

GROUPED_MATMUL = {
    "int8-bf16": call([t(I8, M, K)], [t(I8, E, K, N)], scale=[t(BF16, E, N)], output_dtype=BF16, **TOKENS),
    "int8-fp16": call([t(I8, M, K)], [t(I8, E, K, N)], scale=[t(F32, E, N)], output_dtype=F16, **TOKENS),
    "int8-int32": call([t(I8, M, K)], [t(I8, E, K, N)], output_dtype=I32, **ROUTED),
    "int8-transposed": call([t(I8, M, K)], [turned(I8, E, K, N)], scale=[t(BF16, E, N)], output_dtype=BF16, **TOKENS),
    "int8-listed": call([t(I8, M, K)], [t(I8, K, N)] * E, scale=[t(BF16, N)] * E, output_dtype=BF16, **TOKENS),
    "int8-times-int4": call([t(I8, M, K)], [t(I32, E, K, N // 8)], scale=[t(I64, E, K // 256, N)], bias=[t(F32, E, N)], output_dtype=BF16, **TOKENS),
    "int4-weight": call([t(BF16, M, K)], [t(I32, E, K, N // 8)], antiquant_scale=[t(BF16, E, K // 32, N)], **ROUTED),
    "int8-weight": call([t(F16, M, K)], [t(I8, E, K, N)], antiquant_scale=[t(F16, E, N)], antiquant_offset=[t(F16, E, N)], **ROUTED),
    "float": call([t(BF16, M, K)], [t(BF16, E, K, N)], **ROUTED),
    "float-split-3": call([t(BF16, M, K)], [t(BF16, E, K, N)], **{**ROUTED, "split_item": 3}),
    "mxfp8": call([t(E4M3, M, K)], [turned(E4M3, E, K, N)], scale=MX_EXPERTS, **MX_TOKENS),
    "mxfp4": call([t(U8, M, K // 2)], [turned(U8, E, K // 2, N)], scale=MX_EXPERTS, x_dtype=E2M1, weight_dtype=E2M1, **MX_TOKENS),
}

SWIGLU_QUANT = {
    "int8": call(t(I8, M, K), t(I8, E, K, N), t(I64, E), t(F32, E, N), t(F32, M)),
    "int8-times-int4": call(t(I8, M, K), t(I32, E, K, N // 8), t(I64, E), t(I64, E, N), t(F32, M), bias=t(F32, E, N)),
}
SWIGLU_QUANT_V2 = {
    "int8": call(t(I8, M, K), [t(I8, E, K, N)], [t(F32, E, N)], t(F32, M), t(I64, E)),
    "int8-times-int4": call(
        *(t(I8, M, K), [t(I32, E, K, N // 8)], [t(I64, E, N)], t(F32, M), t(I64, E)),
        weight_assist_matrix=[t(F32, E, N)], group_list_type=1,
    ),
    "mxfp8": call(
        *(t(E4M3, M, K), [turned(E4M3, E, K, N)], MX_EXPERTS, t(U8, M, K // 64, 2), t(I64, E)),
        dequant_mode=2, quant_mode=2, quant_dtype=E4M3, weight_scale_dtype=E8M0, x_scale_dtype=E8M0,
    ),
}  # fmt: skip

CALLS = {
    "npu::npu_quant_matmul": QUANT_MATMUL,
    "npu::npu_weight_quant_batchmatmul": WEIGHT_QUANT_BATCHMATMUL,
    "npu::npu_grouped_matmul": GROUPED_MATMUL,
    "npu::npu_grouped_matmul_swiglu_quant": SWIGLU_QUANT,
    "npu::npu_grouped_matmul_swiglu_quant_v2": SWIGLU_QUANT_V2,
    "npu::npu_dynamic_quant": {
        "int8": call(t(BF16, M, K)),
        "three-dims": call(t(F16, 2, M, K)),
        "smooth": call(t(BF16, M, K), smooth_scales=t(BF16, K)),
        "int4": call(t(BF16, 2, M, K), dst_type=torch.quint4x2),
        "fp8": call(t(BF16, M, K), dst_type=E4M3),
    },
    "npu::npu_dynamic_mx_quant": {
        "e4m3": call(t(BF16, M, K), dst_type=E4M3),
        "e2m1": call(t(BF16, M, K), dst_type=E2M1, round_mode="round"),
        "odd-number-of-blocks": call(t(F16, 2, M, 96), dst_type=E4M3),
    },
    "npu::npu_quantize": {
        "multiplied": call(t(BF16, M, K), t(BF16, K), t(BF16, K), torch.qint8, -1, False),
        "divided": call(t(F32, M, K), t(F32, K), t(I32, K), torch.qint8, -1, True),
        "unsigned": call(t(F32, M, K), t(F32, K), t(I32, K), torch.quint8, -1, True),
        "int4": call(t(F32, E, K, N), t(F32, 1), None, torch.quint4x2, -1, False),
    },
    "npu::npu_kronecker_quant": {
        "int4": call(t(BF16, M, 16, 32), t(BF16, 16, 16), t(BF16, 32, 32), clip_ratio=1.0, dst_dtype=I32),
        "default": call(t(F16, M, 16, 32), t(F16, 16, 16), t(F16, 32, 32)),
    },
    "npu::npu_trans_quant_param": {
        "vector": call(t(F32, N)),
        "row": call(t(F32, 1, N), t(F32, 1, N)),
        "one-scale": call(t(F32, 1), t(F32, N), 1),
    },
    "npu::npu_dequant_swiglu_quant": {
        "experts": call(
            *(t(I32, M, 2 * N),),
            weight_scale=t(F32, E, 2 * N),
            activation_scale=t(F32, M),
            group_index=t(I64, E),
            activate_left=True,
            quant_mode=1,
        ),
        "one-matmul": call(t(I32, M, 2 * N), weight_scale=t(F32, 2 * N), activation_scale=t(F32, M), quant_mode=1),
    },
    "npu::npu_quant_grouped_matmul_dequant": {
        "310p": call(t(F16, M, K), t(I8, E, N, K), t(F32, E, N), t(I64, E)),
    },
    "npu::npu_matmul_compress_dequant": {
        "static": call(t(I8, M, K), t(I8, K * N // 2), t(I8, 16), t(I32, 1, N), t(U64, 1, N), offsetX=0),
    },
    "npu::npu_swiglu": {
        "rows": call(t(BF16, M, N)),
        "three-dims": call(t(F16, 2, M, N)),
        "first-dim": call(t(F32, M, N), 0),
    },
}
