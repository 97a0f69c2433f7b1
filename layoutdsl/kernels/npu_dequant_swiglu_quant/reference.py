"""The result of an integer matmul scaled, through swiglu, and quantized to int8.

v = (x + bias_int32) * weight_scale * activation_scale + bias_float; halves l and r; y = silu(l) * r if ``activate_left`` else silu(r) * l.
``swiglu_mode`` 1: gate at even places, up at odd ones (2: in halves), gate capped from above and up on both sides by ``clamp_limit``;
y = gate * sigmoid(glu_alpha * gate) * (up + glu_bias).
``quant_mode`` 0: rint(y / quant_scale + quant_offset). 1: y * quant_scale, then scale = max / 127 per row and rint(y / scale).
``group_index`` counts the rows that each row of weight_scale and quant_scale is for; rows after the last group stay poisoned.
Source: torch_npu 2.13.0 schema, meta function and document; op-plugin 517f2e7d test_npu_dequant_swiglu_quant (formula); vllm-ascend 001c5b567b,
csrc/torch_binding.cpp (its own op of that name: schema, results, checks).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from layoutdsl.kernels.grouped import COUNTS, Group, row_groups
from layoutdsl.kernels.numerics import HALVES, Checks, poisoned, quantize_rows, silu

OP = "npu::npu_dequant_swiglu_quant"
_CHECKS = Checks(OP)


def reference(
    x: Tensor,
    *,
    weight_scale: Tensor | None = None,
    activation_scale: Tensor | None = None,
    bias: Tensor | None = None,
    quant_scale: Tensor | None = None,
    quant_offset: Tensor | None = None,
    group_index: Tensor | None = None,
    activate_left: bool = False,
    quant_mode: int = 0,
    dst_type: int | None = None,
    round_mode: int | None = None,
    activate_dim: int | None = None,
    swiglu_mode: int = 0,
    clamp_limit: float = 7.0,
    glu_alpha: float = 1.702,
    glu_bias: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """x: int32 [m, 2h] with weight_scale float32 [e, 2h] ([2h] without groups) and activation_scale float32 [m]; or float16 or bfloat16 without them.

    quant_scale, quant_offset: float32 [e, h], without groups [h] or [1]. Results: int8 [m, h] and float32 [m], which static quantization leaves unset.
    Raises: DiagnosticError ``kernel-arguments``.
    """
    _CHECKS.dtype("dst_type", dst_type, "", "int8")
    _CHECKS.expect(not round_mode, "round_mode", "0, ties to even", round_mode)
    _CHECKS.expect(activate_dim in (None, -1, x.dim() - 1), "activate_dim", "the last dim", activate_dim)
    _CHECKS.expect(swiglu_mode in (0, 1, 2), "swiglu_mode", "0, 1 or 2", swiglu_mode)
    glu = _Glu(activate_left, swiglu_mode, clamp_limit, glu_alpha, glu_bias)
    return _run(_CHECKS, glu, x, weight_scale, activation_scale, bias, quant_scale, quant_offset, group_index, quant_mode)


def fake(
    x: Tensor,
    *,
    weight_scale: Tensor | None = None,
    activation_scale: Tensor | None = None,
    bias: Tensor | None = None,
    quant_scale: Tensor | None = None,
    quant_offset: Tensor | None = None,
    group_index: Tensor | None = None,
    activate_left: bool = False,
    quant_mode: int = 0,
    dst_type: int | None = None,
    round_mode: int | None = None,
    activate_dim: int | None = None,
    swiglu_mode: int = 0,
    clamp_limit: float = 7.0,
    glu_alpha: float = 1.702,
    glu_bias: float = 1.0,
) -> tuple[Tensor, Tensor]:
    return _shapes(x)


def of_vllm_ascend(
    x: Tensor,
    *,
    weight_scale: Tensor | None = None,
    activation_scale: Tensor | None = None,
    bias: Tensor | None = None,
    quant_scale: Tensor | None = None,
    quant_offset: Tensor | None = None,
    group_index: Tensor | None = None,
    activate_left: bool = True,
    quant_mode: int = 0,
    swiglu_mode: int = 0,
    clamp_limit: float = 0.0,
    glu_alpha: float = 1.0,
    glu_bias: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """As :func:`reference`, with other defaults."""
    checks = Checks("_C_ascend::npu_dequant_swiglu_quant")
    checks.expect(swiglu_mode in (0, 1), "swiglu_mode", "0 or 1", swiglu_mode)
    glu = _Glu(activate_left, swiglu_mode, clamp_limit, glu_alpha, glu_bias)
    return _run(checks, glu, x, weight_scale, activation_scale, bias, quant_scale, quant_offset, group_index, quant_mode)


def fake_of_vllm_ascend(
    x: Tensor,
    *,
    weight_scale: Tensor | None = None,
    activation_scale: Tensor | None = None,
    bias: Tensor | None = None,
    quant_scale: Tensor | None = None,
    quant_offset: Tensor | None = None,
    group_index: Tensor | None = None,
    activate_left: bool = True,
    quant_mode: int = 0,
    swiglu_mode: int = 0,
    clamp_limit: float = 0.0,
    glu_alpha: float = 1.0,
    glu_bias: float = 0.0,
) -> tuple[Tensor, Tensor]:
    return _shapes(x)


ALSO = {"_C_ascend::npu_dequant_swiglu_quant": (of_vllm_ascend, fake_of_vllm_ascend)}


def _shapes(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty((x.shape[0], x.shape[1] // 2), dtype=torch.int8), x.new_empty((x.shape[0],), dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class _Glu:
    """How the two halves of a row are joined."""

    activate_left: bool
    mode: int
    limit: float
    alpha: float
    bias: float

    def __call__(self, values: Tensor) -> Tensor:
        left, right = values.chunk(2, dim=-1)
        if self.mode == 0:
            return silu(left) * right if self.activate_left else silu(right) * left
        gate, up = (values[:, 0::2], values[:, 1::2]) if self.mode == 1 else (left, right)
        gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        return gate * torch.sigmoid(self.alpha * gate) * (up + self.bias)


def _run(
    checks: Checks,
    glu: _Glu,
    x: Tensor,
    weight_scale: Tensor | None,
    activation_scale: Tensor | None,
    bias: Tensor | None,
    quant_scale: Tensor | None,
    quant_offset: Tensor | None,
    group_index: Tensor | None,
    quant_mode: int,
) -> tuple[Tensor, Tensor]:
    checks.rank("x", x, (torch.int32, *HALVES))
    checks.expect(x.shape[1] % 2 == 0, "x", "an even number of columns", x)
    checks.expect(quant_mode in (0, 1), "quant_mode", "0 or 1", quant_mode)
    m, width = x.shape
    counts = 1
    if group_index is not None:
        checks.expect(quant_mode == 1, "quant_mode", "1, with group_index", quant_mode)
        checks.absent("with group_index", bias=bias, quant_offset=quant_offset)
        counts = group_index.shape[0] if group_index.dim() else 0
    found = [Group(0, slice(0, m))] if group_index is None else row_groups(checks, group_index, COUNTS, counts, m, "group_index")
    y = glu(_dequantized(checks, x, weight_scale, activation_scale, bias, counts, found))
    scales = None if quant_scale is None else _per_group(checks, "quant_scale", quant_scale, counts, width // 2, (1,))
    output, scale = poisoned((m, width // 2), torch.int8, x.device), poisoned((m,), torch.float32, x.device)
    for group in found:
        part = y[group.rows]
        if quant_mode == 1:
            output[group.rows], scale[group.rows] = quantize_rows(part if scales is None else part * scales[group.expert])
        else:
            output[group.rows] = _static(checks, part, scales, quant_offset)
    return output, scale


def _per_group(checks: Checks, argument: str, tensor: Tensor, count: int, width: int, *others: tuple[int, ...]) -> Tensor:
    """float64 [count, width], or [1, 1] for one number."""
    shapes = ((count, width), (width,), *others) if count == 1 else ((count, width),)
    found = checks.tensor(argument, tensor, (torch.float32,), *shapes).to(torch.float64)
    return found if found.dim() == 2 else found[None]


def _dequantized(
    checks: Checks, x: Tensor, weight_scale: Tensor | None, activation_scale: Tensor | None, bias: Tensor | None, count: int, found: list[Group]
) -> Tensor:
    m, width = x.shape
    values = x.to(torch.float64)
    if x.dtype != torch.int32:
        checks.absent("where x is no int32", weight_scale=weight_scale, activation_scale=activation_scale, bias=bias)
        return values
    if weight_scale is None:
        checks.refuse("weight_scale", "a tensor, where x is int32", None)
    scales = _per_group(checks, "weight_scale", weight_scale, count, width)
    rows = checks.tensor("activation_scale", activation_scale, (torch.float32,), (m,)).to(torch.float64)[:, None]
    late = 0.0 if bias is None else checks.tensor("bias", bias, (torch.int32, torch.float32, *HALVES), (width,)).to(torch.float64)
    if bias is not None and bias.dtype == torch.int32:
        values, late = values + late, 0.0
    for group in found:
        values[group.rows] = values[group.rows] * scales[group.expert] * rows[group.rows] + late
    return values


def _static(checks: Checks, y: Tensor, scales: Tensor | None, offset: Tensor | None) -> Tensor:
    if scales is None:
        checks.refuse("quant_scale", "a tensor, with quant_mode 0", None)
    shift = 0.0 if offset is None else _per_group(checks, "quant_offset", offset, 1, y.shape[1], (1,))
    return torch.round(y / scales + shift).clamp(-128, 127).to(torch.int8)
