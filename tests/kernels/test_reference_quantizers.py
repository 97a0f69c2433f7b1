"""Quantizers, packers and the like give what their formula says, element by element."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from plain import E2M1, in_blocks, pack, signed, unpack
from reference_cases import OTHERS, Maker, N, case

from layoutdsl.runtime.reference_ops import reference_op

LARGEST = {"int8": 127, "int4": 7, "e4m3": 448}


def table(op: str) -> list[str]:
    return list(OTHERS[op])


@pytest.mark.parametrize("name", table("npu::npu_dynamic_quant"))
def test_dynamic_quant(name: str) -> None:
    """float32 throughout: max times the reciprocal of the largest integer, then a division."""
    operands = case("npu::npu_dynamic_quant", name).operands()
    x = operands["input"].float() * operands.get("smooth_scales", torch.ones(1)).float()
    rows = x.numpy().reshape(-1, N)
    y, scale = reference_op("npu::npu_dynamic_quant")(**operands)
    assert (scale.shape, scale.dtype) == (operands["input"].shape[:-1], torch.float32)
    found = unpack(y) if name == "int4" else y.reshape(-1, N).float().tolist()
    for row, numbers, own in zip(rows, found, scale.flatten().numpy()):
        expected = np.float32(np.abs(row).max()) * np.float32(1 / LARGEST[name])
        assert own == expected
        steps = row / expected
        if name == "e4m3":
            assert numbers == torch.from_numpy(steps).to(torch.float8_e4m3fn).float().tolist()
        else:
            assert [signed(code) if name == "int4" else code for code in numbers] == np.rint(steps).tolist()


def test_a_row_of_zeros_is_zeros() -> None:
    y, scale = reference_op("npu::npu_dynamic_quant")(torch.zeros(2, 8).half())
    assert (y == 0).all() and (scale == 0).all()


@pytest.mark.parametrize("name", table("npu::npu_dynamic_mx_quant"))
def test_dynamic_mx_quant(name: str) -> None:
    op = "npu::npu_dynamic_mx_quant"
    operands = case(op, name).operands()
    operands["input"][..., 0, 40] = 1000.0
    element = name[:4]
    y, scale = reference_op(op)(**operands)
    codes = unpack(y) if element == "e2m1" else y.view(torch.uint8).reshape(-1, y.shape[-1]).tolist()
    rows = operands["input"].double().flatten(0, -2).tolist()
    for row, found, data in zip(rows, codes, scale.flatten(0, -3).flatten(1).tolist()):
        assert (found, data) == in_blocks(row, element, away="away" in name, up="up" in name)


def test_mx_blocks_at_the_edges() -> None:
    """Ties go to even or away; zeros have the byte 0; an infinity has 255; no exponent is below -127."""
    run = reference_op("npu::npu_dynamic_mx_quant")
    block = torch.zeros(1, 128).bfloat16()
    block[0, :4] = torch.tensor([4.0, 2.5, -3.5, 0.25])
    block[0, 64] = torch.inf
    block[0, 96] = 2.0**-126
    y, scale = run(block)
    assert [E2M1[code] for code in unpack(y)[0][:4]] == [4.0, 2.0, -4.0, 0.0]
    assert scale.flatten().tolist() == [127, 0, 255, 0]
    assert E2M1[unpack(y)[0][96]] == 2.0
    away, _ = run(block, round_mode="round")
    assert [E2M1[code] for code in unpack(away)[0][:4]] == [4.0, 3.0, -4.0, 0.5]


@pytest.mark.parametrize(("largest", "byte"), [(448.0, 127), (449.0, 128), (447.0, 127), (224.0, 126), (0.0, 0)])
def test_the_exponent_that_holds_the_largest(largest: float, byte: int) -> None:
    """``scale_alg`` 1: the least power of two that makes everything fit into e4m3."""
    block = torch.zeros(1, 32).half()
    block[0, 5] = -largest
    y, scale = reference_op("npu::npu_dynamic_mx_quant")(block, dst_type=292, scale_alg=1)
    assert scale.flatten().tolist() == [byte, 0]
    assert -256 - 192 <= y.float().min() <= 0


@pytest.mark.parametrize("name", table("npu::npu_quantize"))
def test_quantize(name: str) -> None:
    operands = case("npu::npu_quantize", name).operands()
    x, scale = operands["input"].float().numpy(), operands["scales"].float().numpy()
    zero = operands["zero_points"]
    offset = np.float32(0) if zero is None else zero.float().numpy()
    found = reference_op("npu::npu_quantize")(**operands)
    expected = np.rint(x / scale) + offset if name == "divided" else np.rint(x * scale + offset)
    low, high = (-8, 7) if name == "int4" else (-128, 127)
    clipped = torch.from_numpy(np.clip(expected, low, high)).long()
    assert torch.equal(found, pack(clipped) if name == "int4" else clipped.to(torch.int8))


def test_quantize_multiplies_by_the_reciprocal() -> None:
    """The scale beside it is there for others: the op does not read it."""
    operands = case("vllm::quantize", "int8").operands()
    x, reciprocal, offset = (operands[name].float().numpy() for name in ("in_tensor", "input_scale_reciprocal", "input_offset"))
    expected = torch.from_numpy(np.clip(np.rint(x * reciprocal + offset), -128, 127)).to(torch.int8)
    operands["input_scale"] = torch.full((N,), torch.nan)
    assert torch.equal(reference_op("vllm::quantize")(**operands), expected)


@pytest.mark.parametrize("name", table("npu::npu_swiglu"))
def test_swiglu(name: str) -> None:
    """silu is on the first half."""
    operands = case("npu::npu_swiglu", name).operands()
    dim = operands.get("dim", -1)
    gate, up = operands["input"].double().split(operands["input"].shape[dim] // 2, dim)
    expected = gate / (1 + torch.exp(-gate)) * up
    assert torch.equal(reference_op("npu::npu_swiglu")(**operands), expected.to(operands["input"].dtype))


def test_int4pack() -> None:
    """Values beyond four bits lose the others."""
    weight = Maker(1).integers(-100, 100, 3, 16, dtype=torch.int32)
    run = reference_op("npu::npu_convert_weight_to_int4pack")
    assert torch.equal(run(weight), pack(weight))
    floats = torch.tensor([[*E2M1[:8]], [*E2M1[8:]], [0.3, 5.0, 6.0, -7.0, 0.5, 1.0, -1.0, 3.0]])
    codes = torch.tensor([[*range(8)], [*range(8, 16)], [0, 0, 7, 0, 1, 2, 10, 5]])
    assert torch.equal(run(floats).view(torch.int32), pack(codes))
    assert torch.equal(run(weight[None])[0], pack(weight))


@pytest.mark.parametrize("name", table("npu::npu_format_cast"))
def test_format_cast_changes_nothing_that_torch_shows(name: str) -> None:
    operands = case("npu::npu_format_cast", name).operands()
    found, given = reference_op("npu::npu_format_cast")(**operands), operands["input"]
    assert torch.equal(found, given)
    assert (found.stride(), found.dtype) == (given.stride(), given.dtype)
    assert found.data_ptr() != given.data_ptr()


@pytest.mark.parametrize("name", table("npu::npu_trans_quant_param"))
def test_trans_quant_param(name: str) -> None:
    operands = case("npu::npu_trans_quant_param", name).operands()
    scale = operands["scale"]
    found = reference_op("npu::npu_trans_quant_param")(**operands)
    assert found.shape == scale.shape
    offsets = operands.get("offset", torch.zeros(N)).flatten().tolist()
    for number, offset, packed in zip(scale.flatten().tolist(), offsets, found.flatten().tolist()):
        (bits,) = struct.unpack("I", struct.pack("f", number))
        kept = bits >> 13
        if name == "rounded":
            below = bits & 0x1FFF
            kept += below > 0x1000 or (below == 0x1000 and kept % 2 == 1)
        shift = int(max(-256, min(255, offset))) % 512
        assert packed == kept << 13 | shift << 37 | 1 << 46


def test_scales_at_the_edges() -> None:
    """Rounded, ties go to even and subnormals to nought; one scale serves many offsets."""
    run = reference_op("npu::npu_trans_quant_param")
    ties = torch.tensor([0x3F801000, 0x3F803000, 0x3F803001], dtype=torch.int32).view(torch.float32)
    assert [packed & 0xFFFFFFFF for packed in run(ties, None, 1).tolist()] == [0x3F800000, 0x3F804000, 0x3F804000]
    assert run(torch.tensor([1e-40]), None, 1).item() == 1 << 46
    assert run(torch.tensor([1.0]), torch.tensor([1.0, 2.0])).tolist() == [(127 << 23) | 1 << 46 | shift << 37 for shift in (1, 2)]


@pytest.mark.parametrize("name", table("npu::npu_kronecker_quant"))
def test_kronecker_quant(name: str) -> None:
    operands = case("npu::npu_kronecker_quant", name).operands()
    left, right = operands["kronecker_p1"].double(), operands["kronecker_p2"].double()
    y, scale = reference_op("npu::npu_kronecker_quant")(**operands)
    for token, codes, own in zip(operands["x"].double(), y, scale):
        rotated = (left @ (token @ right)).bfloat16()
        if name == "e2m1":
            expected, data = in_blocks(rotated.double().flatten().tolist(), "e2m1")
            assert (unpack(codes[None])[0], own.flatten().tolist()) == (expected, data)
            continue
        factor = np.float32(rotated.abs().max().item()) * np.float32(0.9) / np.float32(7)
        assert own.item() == pytest.approx(float(factor), rel=1e-6)
        steps = np.rint(rotated.float().numpy() / own.item()).clip(-8, 7)
        assert [[signed(code) for code in row] for row in unpack(codes)] == steps.tolist()
