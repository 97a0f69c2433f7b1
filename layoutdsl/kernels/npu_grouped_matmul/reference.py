"""One matmul per expert over consecutive rows of x; rows after the last group stay poisoned (the device leaves them uninitialised).

W8A8    (acc + bias_int32) * scale [* per_token_scale]; without scale int32; with an int64 scale int8, as npu_quant_matmul requantizes. e4m3 alike.
A8W4    (16 * C_hi + C_lo + bias) * per_token_scale with x = 16 * hi + lo + 8, so bias = 8 * sum_k weight * scale is required.
        The device splits x in place: x is overwritten, here with -128.
W4A4    sum_g (x_g @ weight_g) * scale_g [* per_token_scale]
W4A16, W8A16   x @ ((weight + antiquant_offset) * antiquant_scale) + bias, the weight rounded to the dtype of x after each step
MX      operands times 2**e of their block of 32, then the matmul; the exponents of an e2m1 weight with e4m3 or 16-bit rows come as antiquant_scale

An int64 scale is float32 bits of which the top 19 count. Sums are ideal; what is rounded is that scale, the antiquantized weight, and the output.
Source: torch_npu 2.13.0 schema and meta function; ops-transformer 3a280bcc aclnnGroupedMatmulV5 document, grouped_matmul_antiquant_a8w4_msd.h and executors of
its tests; op-plugin 517f2e7d test_npu_grouped_matmul (that x is overwritten).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from layoutdsl.kernels.grouped import Experts, Group, experts, group_scales, int8_times_int4, row_groups, run_groups, weight_of
from layoutdsl.kernels.numerics import (
    BYTES,
    FLOATS,
    MX_BLOCK,
    TORCH,
    Checks,
    antiquant,
    blocks_transposed,
    column_blocks,
    columns,
    e8m0_values,
    elements,
    groups,
    poisoned,
    requantize,
    row_blocks,
    scale_of_bits,
    scale_values,
    transposed,
)

OP = "npu::npu_grouped_matmul"
MUTATES = ("x",)
_CHECKS = Checks(OP)
_GARBAGE = -128
Tensors = Sequence[Tensor] | None
_Product = Callable[[Group], Tensor]


def reference(
    x: Sequence[Tensor],
    weight: Sequence[Tensor],
    *,
    bias: Sequence[Tensor] | None = None,
    scale: Sequence[Tensor] | None = None,
    offset: Sequence[Tensor] | None = None,
    antiquant_scale: Sequence[Tensor] | None = None,
    antiquant_offset: Sequence[Tensor] | None = None,
    per_token_scale: Sequence[Tensor] | None = None,
    group_list: Tensor | None = None,
    activation_input: Sequence[Tensor] | None = None,
    activation_quant_scale: Sequence[Tensor] | None = None,
    activation_quant_offset: Sequence[Tensor] | None = None,
    split_item: int | None = 0,
    group_type: int | None = None,
    group_list_type: int | None = 0,
    act_type: int | None = 0,
    tuning_config: Sequence[int] | None = None,
    output_dtype: int | None = None,
    x_dtype: int | None = None,
    weight_dtype: int | None = None,
    scale_dtype: int | None = None,
    per_token_scale_dtype: int | None = None,
) -> list[Tensor]:
    """x: one tensor [m, k]. weight: one tensor [e, k, n] or e tensors [k, n]; scales and bias likewise, [e, ..] or e of [..].

    int4 as 8 to an int32, e2m1 as two to a uint8 with ``*_dtype`` 296 or 8 to a float32, along k or n as the strides say. Result: one tensor [m, n].
    tuning_config is a hint and changes nothing. Raises: DiagnosticError ``kernel-arguments``.
    """
    _CHECKS.absent("reserved by the op", activation_input=activation_input, activation_quant_scale=activation_quant_scale)
    _CHECKS.absent("reserved by the op", activation_quant_offset=activation_quant_offset)
    _CHECKS.absent("the reference has no asymmetric int4", offset=offset)
    _CHECKS.expect(group_type == 0, "group_type", "0, groups of rows", group_type)
    _CHECKS.expect(split_item in (2, 3), "split_item", "2 or 3, one output", split_item)
    _CHECKS.expect(not act_type, "act_type", "0, no activation", act_type)
    _CHECKS.expect(len(x) == 1 and x[0].dim() == 2, "x", "one tensor [m, k]", list(x))
    rows, own = x[0], experts(_CHECKS, weight)
    found = row_groups(_CHECKS, group_list, group_list_type, len(own.weights), rows.shape[0])
    left, right = _elements(rows, own.weights[0], x_dtype, weight_dtype)
    blocks = per_token_scale_dtype is not None or scale_dtype is not None
    tokens = _tokens(per_token_scale, rows, left, per_token_scale_dtype)
    output = _CHECKS.dtype("output_dtype", output_dtype, "", "int32", "float16", "bfloat16", "float32")
    if left in ("float16", "bfloat16"):
        _CHECKS.absent("with 16-bit rows", scale=scale, per_token_scale=per_token_scale, scale_dtype=scale_dtype)
        _CHECKS.expect(output in ("", left), "output_dtype", f"{left}, as x", output)
        product = _antiquantized(rows, own, right, antiquant_scale, antiquant_offset, bias)
        return [_run(own, rows, found, product, left)]
    _CHECKS.absent("with quantized rows", antiquant_offset=antiquant_offset)
    if blocks:
        _CHECKS.absent("with block exponents", bias=bias)
        product = _mx(rows, own, (left, right), tokens, scale, antiquant_scale, scale_dtype)
        return [_run(own, rows, found, product, _float(output, "float16", "bfloat16", "float32"))]
    _CHECKS.absent("with these operands", antiquant_scale=antiquant_scale)
    if left != right:
        _CHECKS.expect((left, right) == ("int8", "int4"), "weight", f"{left}, as x, or int4 with int8", list(weight))
        product = _int8_int4(rows, own, tokens, scale, bias)
        y = _run(own, rows, found, product, _float(output, "float16", "bfloat16"))
        rows.fill_(_GARBAGE)
        return [y]
    if left == "int4":
        _CHECKS.absent("with int4 rows", bias=bias)
        return [_run(own, rows, found, _int4(rows, own, tokens, scale), _float(output, "float16", "bfloat16"))]
    return [_plain(rows, own, left, found, tokens, scale, bias, output)]


def _elements(x: Tensor, weight: Tensor, x_dtype: int | None, weight_dtype: int | None) -> tuple[str, str]:
    """What x and weight hold."""
    kinds = {torch.int8: "int8", torch.int32: "int4", torch.float8_e4m3fn: "e4m3"}
    found = []
    for argument, tensor, number in (("x", x, x_dtype), ("weight", weight, weight_dtype)):
        own = kinds | ({torch.float16: "float16", torch.bfloat16: "bfloat16"} if argument == "x" else {torch.float32: "e2m1"})
        if number is not None:
            _CHECKS.dtype(f"{argument}_dtype", number, "e2m1")
            own = {torch.uint8: "e2m1", torch.float32: "e2m1"} if argument == "weight" else {torch.uint8: "e2m1"}
        if tensor.dtype not in own:
            _CHECKS.refuse(argument, " or ".join(f"{str(dtype).removeprefix('torch.')} ({element})" for dtype, element in own.items()), tensor)
        found.append(own[tensor.dtype])
    return found[0], found[1]


def _tokens(tensors: Tensors, x: Tensor, element: str, number: int | None) -> Tensor | None:
    """float64 [m, 1], or [m, k] where it is exponents of blocks; None where there is none."""
    if tensors is None:
        _CHECKS.absent("without per_token_scale", per_token_scale_dtype=number)
        return None
    _CHECKS.expect(len(tensors) == 1, "per_token_scale", "one tensor", tensors)
    m, k = x.shape[0], x.shape[1] * {"int4": 8, "e2m1": 2}.get(element, 1)
    if number is None:
        return _CHECKS.tensor("per_token_scale", tensors[0], (torch.float32,), (m,)).to(torch.float64)[:, None]
    _CHECKS.dtype("per_token_scale_dtype", number, "e8m0")
    return row_blocks(_CHECKS.tensor("per_token_scale", tensors[0], BYTES, (m, -(-k // 64), 2)), k)


def _float(output: str, *allowed: str) -> str:
    _CHECKS.expect(output in allowed, "output_dtype", " or ".join(allowed), output or None)
    return output


def _run(own: Experts, x: Tensor, found: Sequence[Group], product: _Product, output: str) -> Tensor:
    return run_groups(poisoned((x.shape[0], _columns(own.weights[0])), TORCH[output], x.device), found, product)


def _columns(weight: Tensor) -> int:
    return columns(weight, {torch.int32: 8, torch.float32: 8, torch.uint8: 2}.get(weight.dtype, 1))


def _scaled(y: Tensor, tokens: Tensor | None, group: Group) -> Tensor:
    return y if tokens is None else y * tokens[group.rows]


# ---- products of one group -----------------------------------------------------------------------------------------------------------------------------


def _plain(x: Tensor, own: Experts, element: str, found: Sequence[Group], tokens: Tensor | None, scale: Tensors, bias: Tensors, output: str) -> Tensor:
    """int8 with int8, e4m3 with e4m3."""
    biases = None if bias is None else own.each("bias", bias)
    scales = None if scale is None else own.each("scale", scale)
    packed = scales is not None and scales[0].dtype == torch.int64
    if element == "e4m3":
        _CHECKS.absent("with e4m3", bias=bias)
        _CHECKS.expect(scales is not None and not packed, "scale", "float32", scale)
    if scales is None:
        _CHECKS.expect(output == "int32", "output_dtype", "int32, without scale", output or None)
        _CHECKS.expect(tokens is None, "per_token_scale", "nothing, without scale", "a tensor")
    elif packed:
        _CHECKS.expect(output == "" and tokens is None, "output_dtype", "nothing, with an int64 scale: the output is int8", output or None)
    else:
        _float(output, "float16", "bfloat16", "float32") if element == "e4m3" else _float(output, "float16", "bfloat16")

    def product(group: Group) -> Tensor:
        weight = weight_of(_CHECKS, own.weights[group.expert], element, x.shape[1])
        n = weight.shape[1]
        y = x[group.rows].to(torch.float64) @ weight
        if biases is not None:
            y = y + _CHECKS.tensor("bias", biases[group.expert], (torch.int32,), (n,)).to(torch.float64)
        if scales is None:
            return y.to(torch.int64)
        if packed:
            return requantize(_CHECKS, y, _CHECKS.tensor("scale", scales[group.expert], (torch.int64,), (n,)))
        values = scale_values(_CHECKS.tensor("scale", scales[group.expert], FLOATS, (n,)))
        return _scaled(y * values, tokens, group)

    return _run(own, x, found, product, "int8" if packed else output)


def _int8_int4(x: Tensor, own: Experts, tokens: Tensor | None, scale: Tensors, bias: Tensors) -> _Product:
    if tokens is None:
        _CHECKS.refuse("per_token_scale", "a tensor, with int8 rows and an int4 weight", None)
    scales, biases = own.each("scale", scale), own.each("bias", bias)

    def product(group: Group) -> Tensor:
        weight = weight_of(_CHECKS, own.weights[group.expert], "int4", x.shape[1])
        k, n = weight.shape
        compensation = _CHECKS.tensor("bias", biases[group.expert], (torch.float32,), (n,)).to(torch.float64)
        return (int8_times_int4(x[group.rows], weight, group_scales(_CHECKS, "scale", scales[group.expert], k, n)) + compensation) * tokens[group.rows]

    return product


def _int4(x: Tensor, own: Experts, tokens: Tensor | None, scale: Tensors) -> _Product:
    scales, values = own.each("scale", scale), elements(x, "int4")

    def product(group: Group) -> Tensor:
        weight = weight_of(_CHECKS, own.weights[group.expert], "int4", values.shape[1])
        k, n = weight.shape
        found = scales[group.expert]
        rows = scale_of_bits(group_scales(_CHECKS, "scale", found[None] if found.dim() == 1 else found, k, n))
        size = k // rows.shape[0]
        parts = [slice(index * size, (index + 1) * size) for index in range(rows.shape[0])]
        return _scaled(torch.stack([(values[group.rows, part] @ weight[part]) * row for part, row in zip(parts, rows)]).sum(0), tokens, group)

    return product


def _antiquantized(x: Tensor, own: Experts, element: str, scale: Tensors, offset: Tensors, bias: Tensors) -> _Product:
    _CHECKS.expect(element != "e4m3", "weight", "int8, int4 or e2m1, with 16-bit rows", own.weights[0])
    scales = own.each("antiquant_scale", scale)
    offsets = None if offset is None else own.each("antiquant_offset", offset)
    biases = None if bias is None else own.each("bias", bias)
    k = x.shape[1]
    if element == "e2m1":
        _CHECKS.absent("where the weight is e2m1", antiquant_offset=offset, bias=bias)

    def per_channel_or_group(argument: str, found: Tensor, n: int) -> Tensor:
        if found.dim() == 1:
            return _CHECKS.tensor(argument, found, (x.dtype,), (n,))
        fits = found.dim() == 2 and found.shape[0] > 0 and k % found.shape[0] == 0 and element == "int4"
        _CHECKS.expect(fits, argument, f"[{n}], or for int4 [groups, {n}] with {k} rows in groups of one size", found)
        return groups(_CHECKS.tensor(argument, found, (x.dtype,), (found.shape[0], n)), k // found.shape[0], k)

    def product(group: Group) -> Tensor:
        values = weight_of(_CHECKS, own.weights[group.expert], element, k)
        n = values.shape[1]
        if element == "e2m1":
            exponents = _CHECKS.tensor("antiquant_scale", scales[group.expert], BYTES, (-(-k // MX_BLOCK), n))
            return x[group.rows].to(torch.float64) @ (values * groups(e8m0_values(exponents), MX_BLOCK, k))
        shift = None if offsets is None else per_channel_or_group("antiquant_offset", offsets[group.expert], n)
        weight = antiquant(values, per_channel_or_group("antiquant_scale", scales[group.expert], n), shift)
        y = x[group.rows].to(torch.float64) @ weight.to(torch.float64)
        if biases is None:
            return y
        kind = torch.float16 if x.dtype == torch.float16 else torch.float32
        return y + _CHECKS.tensor("bias", biases[group.expert], (kind,), (n,)).to(torch.float64)

    return product


def _mx(x: Tensor, own: Experts, kinds: tuple[str, str], tokens: Tensor | None, scale: Tensors, antiquant_scale: Tensors, number: int | None) -> _Product:
    _CHECKS.expect(kinds in (("e4m3", "e4m3"), ("e2m1", "e2m1"), ("e4m3", "e2m1")), "weight", "e4m3 or e2m1, as x, or e2m1 with e4m3", own.weights[0])
    if tokens is None or tokens.shape[1] == 1:
        _CHECKS.refuse("per_token_scale_dtype", "293 (e8m0), and a tensor as per_token_scale", None)
    if kinds[0] == kinds[1]:
        _CHECKS.dtype("scale_dtype", number, "e8m0")
        _CHECKS.absent("with alike operands", antiquant_scale=antiquant_scale)
    else:
        _CHECKS.absent("with an e2m1 weight and e4m3 rows", scale=scale, scale_dtype=number)
    argument = "scale" if kinds[0] == kinds[1] else "antiquant_scale"
    scales = own.each(argument, scale if kinds[0] == kinds[1] else antiquant_scale)
    values = elements(x, kinds[0]) * tokens
    k = values.shape[1]

    def product(group: Group) -> Tensor:
        raw = own.weights[group.expert]
        weight = weight_of(_CHECKS, raw, kinds[1], k)
        found = _CHECKS.tensor(argument, scales[group.expert], BYTES, (-(-k // 64), weight.shape[1], 2))
        alike = blocks_transposed(found) in (None, transposed(raw))
        _CHECKS.expect(alike, argument, "a transposed view exactly if the weight is one", f"strides {list(found.stride())}")
        return values[group.rows] @ (weight * column_blocks(found, k))

    return product


def fake(
    x: Sequence[Tensor],
    weight: Sequence[Tensor],
    *,
    bias: Sequence[Tensor] | None = None,
    scale: Sequence[Tensor] | None = None,
    offset: Sequence[Tensor] | None = None,
    antiquant_scale: Sequence[Tensor] | None = None,
    antiquant_offset: Sequence[Tensor] | None = None,
    per_token_scale: Sequence[Tensor] | None = None,
    group_list: Tensor | None = None,
    activation_input: Sequence[Tensor] | None = None,
    activation_quant_scale: Sequence[Tensor] | None = None,
    activation_quant_offset: Sequence[Tensor] | None = None,
    split_item: int | None = 0,
    group_type: int | None = None,
    group_list_type: int | None = 0,
    act_type: int | None = 0,
    tuning_config: Sequence[int] | None = None,
    output_dtype: int | None = None,
    x_dtype: int | None = None,
    weight_dtype: int | None = None,
    scale_dtype: int | None = None,
    per_token_scale_dtype: int | None = None,
) -> list[Tensor]:
    output = _CHECKS.dtype("output_dtype", output_dtype, "", "int32", "float16", "bfloat16", "float32")
    return [x[0].new_empty((x[0].shape[0], _columns(weight[0])), dtype=TORCH[output] if output else x[0].dtype)]
