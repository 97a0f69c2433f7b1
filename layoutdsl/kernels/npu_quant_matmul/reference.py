"""y = x1 @ x2, both quantized, times their scales: per tensor, channel or token, per group of k, or in blocks that share an exponent.

per channel   (acc + bias_int32) * scale [* pertoken_scale] + bias_float
to int8       clip(rint((acc + bias) * scale), -256, 255) + offset, clipped to int8; scale and offset as npu_trans_quant_param packs them
int8 * int4   (16 * C_hi + C_lo + offset) * pertoken_scale with x1 = 16 * hi + lo + 8; scale int64 [k / 256, n]; offset = 8 * sum_k x2 * scale
blocks        sum_g (x1_g @ x2_g) * pertoken_scale_g * scale_g + bias; tiles of 128 by 128, pertoken_scale per token and 128 of k
mx            both operands times 2**e of their block of 32, then the matmul, + bias

An int64 scale is float32 bits of which the top 19 count. A float32 scale is cut to those bits where op-plugin packs it: no pertoken_scale, the output not
int32, and not (bfloat16 with integer operands). Sums are ideal; what is rounded is the scale, where so, and the output.
Groups of int4 with offsets, which the library underneath has, cannot be asked for: torch_npu's meta function refuses their scales.
Source: torch_npu 2.13.0 schema and meta function; op-plugin 517f2e7d QuantMatmulKernelNpuOpApi.cpp; ops-nn e5c3fa93 aclnnQuantMatmulV5 document and goldens
of quant_batch_matmul_v3 and v4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layoutdsl.kernels.grouped import int8_times_int4
from layoutdsl.kernels.npu_trans_quant_param import reference as npu_trans_quant_param
from layoutdsl.kernels.numerics import (
    BYTES,
    TORCH,
    Checks,
    blocks_transposed,
    column_blocks,
    columns,
    elements,
    fp19,
    requantize,
    row_blocks,
    scale_values,
    transposed,
)

OP = "npu::npu_quant_matmul"
_CHECKS = Checks(OP)
_MX = (("e4m3", "e4m3"), ("e2m1", "e2m1"), ("e4m3", "e2m1"))
_BLOCK = 128
_GROUP = 256


def reference(
    x1: Tensor,
    x2: Tensor,
    scale: Tensor,
    *,
    offset: Tensor | None = None,
    pertoken_scale: Tensor | None = None,
    bias: Tensor | None = None,
    output_dtype: int | None = None,
    x1_dtype: int | None = None,
    x2_dtype: int | None = None,
    pertoken_scale_dtype: int | None = None,
    scale_dtype: int | None = None,
    group_sizes: Sequence[int] | None = None,
    y_scale: Tensor | None = None,
) -> Tensor:
    """x1: [.., m, k]. x2: [.., k, n]. int4 as 8 to an int32, e2m1 as two to a uint8 with ``*_dtype`` 296, along k or n as the strides say.

    Raises: DiagnosticError ``kernel-arguments``.
    """
    output = _CHECKS.dtype("output_dtype", output_dtype, "", "int8", "int32", "float16", "bfloat16", "float32") or "int8"
    _CHECKS.absent("the reference has no product with a scale of the output", y_scale=y_scale)
    left, right = _element("x1", x1, x1_dtype), _element("x2", x2, x2_dtype)
    a, b = elements(x1, left), elements(x2, right)
    _CHECKS.expect(a.dim() >= 2 and b.dim() >= 2 and a.shape[-1] == b.shape[-2], "x2", f"{a.shape[-1]} rows, as x1 has columns", x2)
    sizes = list(group_sizes or (0, 0, 0))
    if scale_dtype is not None or pertoken_scale_dtype is not None:
        _CHECKS.dtype("scale_dtype", scale_dtype, "e8m0")
        _CHECKS.dtype("pertoken_scale_dtype", pertoken_scale_dtype, "e8m0")
        _CHECKS.expect((left, right) in _MX, "x2", "e4m3 or e2m1, as x1, or e2m1 with e4m3", x2)
        _CHECKS.expect(sizes == [1, 1, 32] or (left != right and sizes == [0, 0, 32]), "group_sizes", "[1, 1, 32]", group_sizes)
        _CHECKS.absent("with block exponents", offset=offset)
        return _cast(_mx(a, b, scale, pertoken_scale, bias, transposed(x2), left != right), output, "float16", "bfloat16", "float32")
    if (left, right) == ("int8", "int4"):
        _CHECKS.expect(sizes in ([0, 0, 0], [0, 0, _GROUP]) and not transposed(x2), "x2", f"packed along n, in groups of {_GROUP}", x2)
        _CHECKS.absent("the split product has no room for it", bias=bias)
        return _cast(_int8_int4(x1, b, scale, offset, pertoken_scale), output, "float16", "bfloat16")
    _CHECKS.expect(left == right and left != "e2m1", "x2", f"{left}, as x1", x2)
    if left == "int8" and sizes == [1, _BLOCK, _BLOCK]:
        _CHECKS.absent("with blocks", offset=offset)
        return _cast(_blocks(a, b, scale, pertoken_scale, bias), output, "bfloat16")
    _CHECKS.expect(sizes == [0, 0, 0], "group_sizes", "nothing, with these operands", group_sizes)
    _CHECKS.expect(left == "int8" or output not in ("int8", "int32"), "output_dtype", "a float, with these operands", output)
    return _channels(a, b, left, scale, offset, pertoken_scale, bias, output)


def _element(argument: str, tensor: Tensor, number: int | None) -> str:
    if number is not None:
        _CHECKS.dtype(f"{argument}_dtype", number, "e2m1")
        _CHECKS.expect(tensor.dtype == torch.uint8, argument, "e2m1 in uint8", tensor)
        return "e2m1"
    found = {torch.int8: "int8", torch.int32: "int4", torch.float8_e4m3fn: "e4m3"}.get(tensor.dtype)
    if found is None:
        _CHECKS.refuse(argument, "int8, int4 in int32, or e4m3; e2m1 in uint8 with its dtype argument", tensor)
    return found


def _cast(y: Tensor, output: str, *allowed: str) -> Tensor:
    _CHECKS.expect(output in allowed, "output_dtype", " or ".join(allowed), output)
    return y.to(TORCH[output])


# ---- per tensor, channel, token -----------------------------------------------------------------------------------------------------------------------


def _channels(a: Tensor, b: Tensor, element: str, scale: Tensor, offset: Tensor | None, pertoken: Tensor | None, bias: Tensor | None, output: str) -> Tensor:
    m, n = a.shape[-2], b.shape[-1]
    _CHECKS.tensor("scale", scale, (torch.int64, torch.float32, torch.bfloat16), (1,), (n,))
    total, late = a @ b, None
    if bias is not None and bias.dtype == torch.int32:
        total = total + _bias(bias, (), total)
    elif bias is not None:
        late = _bias(bias, _float_biases(element, output, pertoken is not None), total)
    if output in ("int8", "int32"):
        _CHECKS.absent(f"where the output is {output}", pertoken_scale=pertoken)
        _CHECKS.expect(late is None, "bias", "int32", bias)
    if output == "int32":
        _CHECKS.absent("where the output is int32", offset=offset)
        _CHECKS.expect(scale.dtype != torch.int64, "scale", "float32 or bfloat16", scale)
        return total.to(torch.int64).to(torch.int32)
    if output == "int8":
        return _requantize(total, scale, offset)
    _CHECKS.absent("where the output is no int8", offset=offset)
    _CHECKS.expect(scale.dtype != torch.bfloat16 or output == "bfloat16", "output_dtype", "bfloat16, as the scale", output)
    _CHECKS.expect(output != "float32" or element == "e4m3", "output_dtype", "float16 or bfloat16", output)
    if pertoken is None:
        integers = element != "e4m3"
        _CHECKS.expect(element != "int4" or output == "float16", "output_dtype", "float16, for int4 without pertoken_scale", output)
        _CHECKS.expect(scale.dtype != torch.int64 or output == "float16" or not integers, "scale", "float32 or bfloat16 for this output", scale)
        packed = scale.dtype == torch.float32 and not (integers and output == "bfloat16")
        total = total * (fp19(scale).to(torch.float64) if packed else scale_values(scale))
    else:
        _CHECKS.expect(scale.dtype != torch.int64, "scale", "float32 or bfloat16, with pertoken_scale", scale)
        one = element == "e4m3" and pertoken.shape == (1,)
        _CHECKS.tensor("pertoken_scale", pertoken, (torch.float32,), (1,) if one else (m,))
        if one and scale.shape == (1,):
            # One scale for each operand: the device multiplies them first and keeps 19 bits.
            total = total * fp19(scale.to(torch.float32) * pertoken).to(torch.float64)
        else:
            total = total * scale_values(scale) * pertoken.to(torch.float64)[:, None]
    return (total if late is None else total + late).to(TORCH[output])


def _float_biases(element: str, output: str, pertoken: bool) -> tuple[torch.dtype, ...]:
    """Float dtypes that a bias, added last, may have."""
    if element == "int4":
        return ()
    if element == "e4m3":
        return (torch.float32,)
    if output == "bfloat16":
        return (torch.bfloat16, torch.float32)
    return (torch.float16, torch.float32) if pertoken else ()


def _bias(bias: Tensor, kinds: tuple[torch.dtype, ...], total: Tensor) -> Tensor:
    n = total.shape[-1]
    batched = (total.shape[0], 1, n) if total.dim() == 3 else (n,)
    return _CHECKS.tensor("bias", bias, (torch.int32, *kinds), (n,), batched).to(torch.float64)


def _requantize(total: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
    """Accumulators to int8, with a packed scale; a float32 scale is packed first, with its offset."""
    if scale.dtype == torch.int64:
        _CHECKS.absent("the packed scale has it", offset=offset)
    else:
        _CHECKS.expect(scale.dtype == torch.float32, "scale", "int64 or float32, where the output is int8", scale)
        n = total.shape[-1]
        scale = npu_trans_quant_param.reference(scale, None if offset is None else _CHECKS.tensor("offset", offset, (torch.float32,), (1,), (n,)))
    return requantize(_CHECKS, total, scale)


# ---- groups of k --------------------------------------------------------------------------------------------------------------------------------------


def _int8_int4(x1: Tensor, b: Tensor, scale: Tensor, offset: Tensor | None, pertoken: Tensor | None) -> Tensor:
    _CHECKS.rank("x1", x1, (torch.int8,))
    k, n = b.shape
    _CHECKS.expect(k % _GROUP == 0, "x2", f"a multiple of {_GROUP} rows", b)
    _CHECKS.tensor("scale", scale, (torch.int64,), (k // _GROUP, n))
    compensation = _CHECKS.tensor("offset", offset, (torch.float32,), (n,)).to(torch.float64)
    rows = _CHECKS.tensor("pertoken_scale", pertoken, (torch.float32,), (x1.shape[0], 1)).to(torch.float64)
    return (int8_times_int4(x1, b, scale) + compensation) * rows


def _blocks(a: Tensor, b: Tensor, scale: Tensor, pertoken: Tensor | None, bias: Tensor | None) -> Tensor:
    k, n = b.shape[-2:]
    count = -(-k // _BLOCK)
    _CHECKS.expect(a.dim() == 2 and b.dim() == 2, "x1", "2 dims, with blocks", a)
    scales = _CHECKS.tensor("scale", scale, (torch.float32,), (count, -(-n // _BLOCK))).to(torch.float64)
    rows = _CHECKS.tensor("pertoken_scale", pertoken, (torch.float32,), (a.shape[0], count)).to(torch.float64)
    total = torch.zeros(a.shape[0], n, dtype=torch.float64, device=a.device)
    for index in range(count):
        part = slice(index * _BLOCK, (index + 1) * _BLOCK)
        total += (a[:, part] @ b[part]) * rows[:, index, None] * scales[index].repeat_interleave(_BLOCK)[:n]
    return total if bias is None else total + _CHECKS.tensor("bias", bias, (torch.float32,), (n,)).to(torch.float64)


def _mx(a: Tensor, b: Tensor, scale: Tensor, pertoken: Tensor | None, bias: Tensor | None, weight_transposed: bool, mixed: bool) -> Tensor:
    _CHECKS.expect(a.dim() == 2 and b.dim() == 2, "x1", "2 dims, with block exponents", a)
    (m, k), n = a.shape, b.shape[1]
    pairs = -(-k // 64)
    weight_scale = _CHECKS.tensor("scale", scale, BYTES, (pairs, n, 2))
    alike = blocks_transposed(scale) in (None, weight_transposed)
    _CHECKS.expect(alike, "scale", "a transposed view exactly if x2 is one", f"strides {list(scale.stride())}")
    rows = row_blocks(_CHECKS.tensor("pertoken_scale", pertoken, BYTES, (m, pairs, 2)), k)
    y = (a * rows) @ (b * column_blocks(weight_scale, k))
    if bias is None:
        return y
    kind, shape = (torch.bfloat16, (1, n)) if mixed else (torch.float32, (n,))
    return y + _CHECKS.tensor("bias", bias, (kind,), shape).to(torch.float64)


def fake(
    x1: Tensor,
    x2: Tensor,
    scale: Tensor,
    *,
    offset: Tensor | None = None,
    pertoken_scale: Tensor | None = None,
    bias: Tensor | None = None,
    output_dtype: int | None = None,
    x1_dtype: int | None = None,
    x2_dtype: int | None = None,
    pertoken_scale_dtype: int | None = None,
    scale_dtype: int | None = None,
    group_sizes: Sequence[int] | None = None,
    y_scale: Tensor | None = None,
) -> Tensor:
    output = _CHECKS.dtype("output_dtype", output_dtype, "", "int8", "int32", "float16", "bfloat16", "float32") or "int8"
    lanes = {"int4": 8, "e2m1": 2}.get(_element("x2", x2, x2_dtype), 1)
    leading = (x1.new_empty(x1.shape[:-2], dtype=torch.float32) + x2.new_empty(x2.shape[:-2], dtype=torch.float32)).shape
    return x1.new_empty((*leading, x1.shape[-2], columns(x2, lanes)), dtype=TORCH[output])
