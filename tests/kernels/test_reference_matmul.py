"""npu_quant_matmul and npu_weight_quant_batchmatmul give what the formula of each row says, exactly: written out once more, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from plain import cut, e2m1, pack, row_exponents, spread, values, weight_exponents, zext
from reference_cases import QUANT_MATMUL, WEIGHT_QUANT, K, M, Maker, N, case, given, turned

from layoutdsl.runtime.reference_ops import reference_op

Operands = dict[str, Any]
MATMUL, WEIGHT_ONLY = "npu::npu_quant_matmul", "npu::npu_weight_quant_batchmatmul"


def product(o: Operands, element: str = "", right: str | None = None) -> torch.Tensor:
    return values(o["x1"], element) @ values(o["x2"], element if right is None else right)


def mx(o: Operands, left: str, right: str) -> torch.Tensor:
    a = values(o["x1"], left) * row_exponents(o["pertoken_scale"], K)
    return a @ (values(o["x2"], right) * weight_exponents(o["scale"], K))


def token(o: Operands) -> torch.Tensor:
    return o["pertoken_scale"].double().reshape(-1, 1)


def requantized(acc: torch.Tensor, scale: torch.Tensor, offset: list[int]) -> torch.Tensor:
    """int8 by loops."""
    rows = [[min(127, max(-128, min(255, max(-256, round(a * s))) + shift)) for a, s, shift in zip(row, scale.tolist(), offset)] for row in acc.tolist()]
    return torch.tensor(rows, dtype=torch.int8)


def tiles(o: Operands) -> torch.Tensor:
    a, b = values(o["x1"]), values(o["x2"])
    rows, columns = a.shape[1], b.shape[1]
    left = torch.stack([o["pertoken_scale"].double()[:, k // 128] for k in range(rows)], dim=1)
    right = torch.tensor([[float(o["scale"][k // 128, n // 128]) for n in range(columns)] for k in range(rows)], dtype=torch.float64)
    return (a * left) @ (b * right) + o["bias"].double()


def int8_int4(o: Operands) -> torch.Tensor:
    """The operand ``offset`` plays the part of 8 * sum_k x2 * scale: here it is any number, so what is missing of it stays missing."""
    dense = values(o["x2"], "int4") * spread(cut_bits(o["scale"]), 256, 512)
    return (o["x1"].double() @ dense - 8 * dense.sum(0) + o["offset"].double()) * token(o)


def cut_bits(scale: torch.Tensor) -> torch.Tensor:
    return cut((scale & 0xFFFFFFFF).to(torch.uint32).view(torch.float32))


EXPECTED: dict[str, Callable[[Operands], torch.Tensor]] = {
    "static float16, packed scale": lambda o: (product(o) + o["bias"]) * cut_bits(o["scale"]),
    "static float16, float32 scale": lambda o: product(o) * cut(o["scale"]),
    "static bfloat16": lambda o: product(o) * o["scale"].double() + o["bias"].double(),
    "dynamic": lambda o: product(o) * o["scale"].double() * token(o) + o["bias"].double(),
    "dynamic, integer bias": lambda o: (product(o) + o["bias"]) * o["scale"].double() * token(o),
    "to int32": lambda o: product(o) + o["bias"],
    "to int8": lambda o: requantized(product(o), cut(o["scale"]), [int(x) for x in o["offset"]]),
    "to int8, packed scale": lambda o: requantized(product(o), cut_bits(o["scale"]), [507 - 512] * N),
    "int4 per token": lambda o: product(o, "int4") * o["scale"].double() * token(o),
    "int4, packed along n": lambda o: product(o, "int4") * cut_bits(o["scale"]),
    "int8 * int4": int8_int4,
    "blocks": tiles,
    "e4m3 per token": lambda o: product(o) * o["scale"].double() * token(o),
    "e4m3, one scale each": lambda o: product(o) * cut(o["scale"] * o["pertoken_scale"]),
    "mx e4m3": lambda o: mx(o, "", "") + o["bias"].double(),
    "mx e4m3, not transposed": lambda o: mx(o, "", ""),
    "mx e2m1": lambda o: mx(o, "e2m1", "e2m1"),
    "mx e4m3 * e2m1": lambda o: mx(o, "", "e2m1") + o["bias"].double(),
}


@pytest.mark.parametrize("name", QUANT_MATMUL)
def test_quant_matmul_is_its_formula(name: str) -> None:
    operands = case(MATMUL, name).operands()
    dtype = operands.get("output_dtype", torch.int8)
    found = reference_op(MATMUL)(**operands)
    assert found.dtype == dtype
    assert torch.equal(found, EXPECTED[name](operands).to(dtype))


def test_a_float32_scale_is_cut_only_where_it_is_packed() -> None:
    """Static, with float16 or int8 output; not for bfloat16, not with a scale per token."""
    operands = case(MATMUL, "static float16, float32 scale").operands()
    fine, kept = operands["scale"], (operands["scale"].double() != cut(operands["scale"])).any()
    assert kept, "a scale with more than 19 bits"
    run = reference_op(MATMUL)
    ones = torch.ones(M)
    exact = product(operands) * fine.double()
    assert not torch.equal(run(**operands), exact.to(torch.float16))
    assert torch.equal(run(**operands, pertoken_scale=ones), exact.to(torch.float16))
    assert torch.equal(run(**operands | {"output_dtype": torch.bfloat16}), exact.to(torch.bfloat16))


def test_the_split_of_int8_is_compensated_by_the_offset() -> None:
    """With 8 * sum_k x2 * scale the result is x1 @ x2 to the last bit; without it, it is another."""
    make = Maker(1)
    x, weight, scale, rows = make.int8(M, 512), make.int4(512, N), make.scale(2, N), make.scale(M, 1)
    dense = weight.double() * spread(scale.double(), 256, 512)
    right = (x.double() @ dense * rows.double()).to(torch.bfloat16)
    run = reference_op(MATMUL)
    options = given(pertoken_scale=rows, output_dtype=torch.bfloat16)
    assert torch.equal(run(x, pack(weight), zext(scale), offset=(8 * dense.sum(0)).float(), **options), right)
    wrong = run(x, pack(weight), zext(scale), offset=torch.zeros(N), **options)
    assert (wrong.double() - right.double()).abs().mean() > 1


# ---- npu_weight_quant_batchmatmul ----------------------------------------------------------------------------------------------------------------------


def rounded(o: Operands, element: str, scale: torch.Tensor, offset: torch.Tensor | None) -> torch.Tensor:
    """(w + offset) * scale, to the dtype of x after each."""
    dtype = o["x"].dtype
    weight = values(o["weight"], element)
    if offset is not None:
        weight = (weight + offset.double()).to(dtype).double()
    return (weight * scale.double()).to(dtype).double()


def weight_only(o: Operands, element: str, read: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    offset = o.get("antiquant_offset")
    y = o["x"].double() @ rounded(o, element, read(o["antiquant_scale"]), None if offset is None else read(offset))
    return y + o["bias"].double().reshape(-1) if "bias" in o else y


def by_32(scale: torch.Tensor) -> torch.Tensor:
    return spread(scale, 32, K)


def exponents(o: Operands) -> torch.Tensor:
    return o["x"].double() @ (values(o["weight"], "e2m1") * by_32(torch.exp2(o["antiquant_scale"].double() - 127)))


WEIGHT_ONLY_EXPECTED: dict[str, Callable[[Operands], torch.Tensor]] = {
    "int8 per channel": lambda o: weight_only(o, "int8", lambda s: s),
    "int8 per channel, transposed": lambda o: weight_only(o, "int8", lambda s: s.reshape(-1)),
    "int8 per tensor": lambda o: weight_only(o, "int8", lambda s: s),
    "int4 per group": lambda o: weight_only(o, "int4", by_32),
    "int4 per group, transposed": lambda o: weight_only(o, "int4", by_32),
    "e2m1": exponents,
    "e2m1 in bytes": exponents,
}


@pytest.mark.parametrize("name", WEIGHT_QUANT)
def test_weight_quant_batchmatmul_is_its_formula(name: str) -> None:
    operands = case(WEIGHT_ONLY, name).operands()
    dtype = operands["x"].dtype
    assert torch.equal(reference_op(WEIGHT_ONLY)(**operands), WEIGHT_ONLY_EXPECTED[name](operands).to(dtype))


def test_the_offset_is_added_before_the_scale() -> None:
    x, weight = torch.ones(1, 64, dtype=torch.bfloat16), torch.full((64, 1), 3, dtype=torch.int8)
    found = reference_op(WEIGHT_ONLY)(x, weight, torch.tensor([2.0]).bfloat16(), torch.tensor([-1.0]).bfloat16())
    assert found.item() == 64 * (3 - 1) * 2


def test_lanes_are_read_along_the_dim_that_is_dense_in_memory() -> None:
    """The same weight packed along n, or along k in a transposed view, is the same; made contiguous, the view is another weight and refused."""
    make = Maker(2)
    x, weight, scale = make.half(M, K), make.int4(K, N), make.half(N)
    run = reference_op(WEIGHT_ONLY)
    view = turned(pack(weight.t().contiguous()))
    assert torch.equal(run(x, pack(weight), scale), run(x, view, scale))
    with pytest.raises(Exception, match="kernel-arguments"):
        run(x, view.contiguous(), scale)


def test_e2m1_means_what_the_table_says() -> None:
    """Every code, against the identity: 16 columns of one code each."""
    codes = torch.arange(16).repeat(K, 1)
    x = torch.eye(K, dtype=torch.bfloat16)
    ones = torch.full((3, 16), 127, dtype=torch.uint8)
    found = reference_op(WEIGHT_ONLY)(x, pack(codes, torch.float32), ones, antiquant_group_size=32)
    assert torch.equal(found.double(), e2m1(codes))


@pytest.mark.parametrize(("k", "n"), [(2, 5), (6, 1)])
def test_one_row_or_one_column_is_a_view_by_its_strides(k: int, n: int) -> None:
    """Of e2m1 packed along k, one byte per column or one column: strides say what shapes leave open."""
    make = Maker(3)
    a, b = make.codes(M, k), make.codes(n, k)
    more = dict.fromkeys(("scale_dtype", "pertoken_scale_dtype"), 293) | dict.fromkeys(("x1_dtype", "x2_dtype"), 296)
    ones = [torch.full((rows, 1, 2), 127, dtype=torch.uint8) for rows in (n, M)]
    x, weight = pack(a, torch.uint8), pack(b, torch.uint8)
    run = reference_op(MATMUL)
    found = run(x, weight.t(), ones[0].transpose(0, 1), pertoken_scale=ones[1], group_sizes=[1, 1, 32], output_dtype=torch.float32, **more)
    assert torch.equal(found.double(), e2m1(a) @ e2m1(b).t())
