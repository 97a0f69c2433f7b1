"""Grouped kernels give what their formula says for the rows of each expert, and poison for the rest; written out once more, expert by expert."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from plain import cut, e2m1, in_blocks, pack, quantized, row_exponents, spread, swiglu, unpack, values, weight_exponents, zext
from reference_cases import COUNTS, GROUPED_MATMUL, OTHERS, E, K, M, Maker, N, a8w4, case, counts, given, turned

from layoutdsl.runtime.reference_ops import reference_op

Operands = dict[str, Any]
GROUPED = "npu::npu_grouped_matmul"
LAST = sum(COUNTS)


def groups() -> Iterator[tuple[int, slice]]:
    """(expert, its rows)."""
    start = 0
    for expert, count in enumerate(COUNTS):
        yield expert, slice(start, start + count)
        start += count


def own(o: Operands, name: str, expert: int) -> torch.Tensor:
    """What of an argument is for one expert."""
    found = o[name]
    if isinstance(found, torch.Tensor):
        return found[expert]
    return found[0][expert] if len(found) == 1 else found[expert]


def bits(scale: torch.Tensor) -> torch.Tensor:
    return cut((scale & 0xFFFFFFFF).to(torch.uint32).view(torch.float32))


def poisoned(tensor: torch.Tensor) -> bool:
    worst = torch.isnan(tensor.float()) if tensor.dtype.is_floating_point else tensor == torch.iinfo(tensor.dtype).min
    return bool(worst.all())


# ---- npu_grouped_matmul -----------------------------------------------------------------------------------------------------------------------------------


def w8a8(o: Operands, e: int, rows: slice) -> torch.Tensor:
    total = o["x"][0][rows].double() @ own(o, "weight", e).double()
    total = total + own(o, "bias", e) if "bias" in o else total
    return total * own(o, "scale", e).double() * o["per_token_scale"][0][rows, None].double()


def to_int32(o: Operands, e: int, rows: slice) -> torch.Tensor:
    return o["x"][0][rows].double() @ own(o, "weight", e).double()


def to_int8(o: Operands, e: int, rows: slice) -> torch.Tensor:
    return torch.round(to_int32(o, e, rows) * bits(own(o, "scale", e))).clamp(-128, 127)


def int8_int4(o: Operands, e: int, rows: slice) -> torch.Tensor:
    """No trace of the split is left: the rows times the weight times its scale."""
    scale = bits(own(o, "scale", e))
    dense = values(own(o, "weight", e), "int4") * spread(scale, K // len(scale), K)
    return o["x"][0][rows].double() @ dense * o["per_token_scale"][0][rows, None].double()


def int4_int4(o: Operands, e: int, rows: slice) -> torch.Tensor:
    dense = values(own(o, "weight", e), "int4") * spread(bits(own(o, "scale", e)), K // 2, K)
    return values(o["x"][0], "int4")[rows] @ dense * o["per_token_scale"][0][rows, None].double()


def antiquantized(o: Operands, e: int, rows: slice) -> torch.Tensor:
    dtype, scale, offset = o["x"][0].dtype, own(o, "antiquant_scale", e).double(), own(o, "antiquant_offset", e).double()
    if scale.dim() == 2:
        scale, offset = spread(scale, K // len(scale), K), spread(offset, K // len(offset), K)
    shifted = (values(own(o, "weight", e), "int4" if scale.dim() == 2 else "") + offset).to(dtype)
    y = o["x"][0][rows].double() @ (shifted.double() * scale).to(dtype).double()
    return y + own(o, "bias", e).double() if "bias" in o else y


def mx(left: str, right: str, scale: str = "scale") -> Callable[[Operands, int, slice], torch.Tensor]:
    def expected(o: Operands, e: int, rows: slice) -> torch.Tensor:
        x = values(o["x"][0], left) * row_exponents(o["per_token_scale"][0], K)
        return x[rows] @ (values(own(o, "weight", e), right) * weight_exponents(own(o, scale, e), K))

    return expected


def exponents(o: Operands, e: int, rows: slice) -> torch.Tensor:
    factors = spread(torch.exp2(own(o, "antiquant_scale", e).double() - 127), 32, K)
    return o["x"][0][rows].double() @ (values(own(o, "weight", e), "e2m1") * factors)


EXPECTED: dict[str, Callable[[Operands, int, slice], torch.Tensor]] = {
    "W8A8": w8a8,
    "W8A8 to int32": to_int32,
    "W8A8 to int8": to_int8,
    "W8A8, one tensor per expert": w8a8,
    "A8W4 per channel": int8_int4,
    "A8W4 per group": int8_int4,
    "A8W4, one tensor per expert": int8_int4,
    "W4A4": int4_int4,
    "W4A16": antiquantized,
    "W8A16": antiquantized,
    "e4m3": w8a8,
    "mx e4m3": mx("", ""),
    "mx e2m1": mx("e2m1", "e2m1"),
    "mx e4m3 * e2m1": mx("", "e2m1", "antiquant_scale"),
    "mx W4A16": exponents,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_grouped_matmul_is_its_formula(name: str) -> None:
    kept, operands = case(GROUPED, name).operands(), case(GROUPED, name).operands()
    (found,) = reference_op(GROUPED)(**operands)
    dtype = kept.get("output_dtype", torch.int8 if name == "W8A8 to int8" else kept["x"][0].dtype)
    assert (found.dtype, found.shape) == (dtype, (M, N))
    for expert, rows in groups():
        assert torch.equal(found[rows], EXPECTED[name](kept, expert, rows).to(dtype)), expert
    assert poisoned(found[LAST:])


def test_no_case_of_the_grouped_matmul_is_left_out() -> None:
    assert {*EXPECTED, "A8W4, transposed"} == set(GROUPED_MATMUL)


def test_packed_along_k_in_a_transposed_view_is_the_same_weight() -> None:
    make = Maker(3)
    weight = make.int4(E, K, N)
    operands, other = a8w4(Maker(4), 2), a8w4(Maker(4), 2)
    run = reference_op(GROUPED)
    (found,) = run(**operands | given(weight=[pack(weight)]))
    (again,) = run(**other | given(weight=[turned(pack(weight.transpose(1, 2).contiguous()))]))
    assert torch.equal(found.nan_to_num(), again.nan_to_num())


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_groups_may_be_cumulated_counted_or_paired(kind: int) -> None:
    """Pairs name their expert, and come in the order of the rows."""
    operands = case(GROUPED, "W8A8").operands() | given(group_list=counts(kind), group_list_type=kind)
    kept = case(GROUPED, "W8A8").operands()
    order = [(2, slice(0, 1)), (0, slice(1, 3))] if kind == 2 else list(groups())
    (found,) = reference_op(GROUPED)(**operands)
    for expert, rows in order:
        assert torch.equal(found[rows], w8a8(kept, expert, rows).bfloat16())
    assert poisoned(found[LAST:])


def test_the_bias_of_a8w4_is_what_the_split_leaves_out() -> None:
    """x = 16 * hi + lo + 8: without 8 * sum_k weight * scale every number is wrong, by so much."""
    operands, kept = a8w4(Maker(5), 5), a8w4(Maker(5), 5)
    (found,) = reference_op(GROUPED)(**operands | given(bias=[torch.zeros(E, N)], output_dtype=torch.float16))
    for expert, rows in groups():
        missing = kept["bias"][0][expert].double() * kept["per_token_scale"][0][rows, None].double()
        assert torch.equal(found[rows], (int8_int4(kept, expert, rows) - missing).half())


def test_the_scale_of_a8w4_counts_with_its_top_19_bits() -> None:
    operands, kept = a8w4(Maker(6), 5), a8w4(Maker(6), 5)
    fine = Maker(7).fine(E, 5, N)
    compensation = torch.stack([8 * (values(kept["weight"][0][e], "int4") * spread(cut(fine[e]), K // 5, K)).sum(0) for e in range(E)]).float()
    kept["scale"] = [zext(fine)]
    (found,) = reference_op(GROUPED)(**operands | given(scale=[zext(fine)], bias=[compensation], output_dtype=torch.float16))
    for expert, rows in groups():
        assert torch.allclose(found[rows].double(), int8_int4(kept, expert, rows), rtol=2**-10)
    assert (fine.double() / cut(fine) - 1).max() > 2**-12


def test_a8w4_overwrites_its_rows() -> None:
    """The device splits them in place; a second call with the same rows is another call."""
    operands = a8w4(Maker(8), 5)
    first = reference_op(GROUPED)(**operands)[0]
    assert (operands["x"][0] == -128).all()
    assert not torch.equal(reference_op(GROUPED)(**operands)[0][:LAST], first[:LAST])


# ---- swiglu and requantization ---------------------------------------------------------------------------------------------------------------------------


def scaled(o: Operands, expert: int, rows: slice) -> torch.Tensor:
    """The product of int8 or e4m3 rows, with both scales."""
    weight, scale = own(o, "weight", expert), own(o, "weight_scale", expert)
    token = o["x_scale"][rows, None].double()
    if weight.dtype != torch.int32:
        return o["x"][rows].double() @ weight.double() * scale.double() * token
    scale = bits(scale if scale.dim() == 2 else scale[None])
    return o["x"][rows].double() @ (values(weight, "int4") * spread(scale, K // len(scale), K)) * token


SWIGLU_OPS = [op for op in OTHERS if "swiglu_quant" in op and "dequant" not in op]
SWIGLU = [(op, name) for op in SWIGLU_OPS for name in OTHERS[op] if not name.startswith("mx")]


@pytest.mark.parametrize(("op", "name"), SWIGLU)
def test_swiglu_quant_is_its_formula(op: str, name: str) -> None:
    operands, kept = case(op, name).operands(), case(op, name).operands()
    q, scale, *_ = reference_op(op)(**operands)
    assert torch.equal(operands["x"].float(), kept["x"].float()), "the rows are split elsewhere"
    for expert, rows in groups():
        for index, row in zip(range(rows.start, rows.stop), scaled(kept, expert, rows).tolist()):
            gated = swiglu(row, kept.get("swiglu_limit", 0.0))
            if q.dtype == torch.float8_e4m3fn:
                own_scale = torch.tensor(max(map(abs, gated)) / 448).item()
                assert torch.equal(q[index].float(), (torch.tensor(gated, dtype=torch.float64) / own_scale).to(q.dtype).float())
            else:
                integers, own_scale = quantized(gated)
                assert q[index].tolist() == integers
            assert scale[index].item() == pytest.approx(own_scale, rel=1e-6)
    assert poisoned(q[LAST:]) and poisoned(scale[LAST:])


def test_the_cap_of_swiglu_bites() -> None:
    """The first half from above only, the second on both sides."""
    op = "_C_ascend::grouped_matmul_swiglu_quant_weight_nz"
    plain, capped = case(op, "A8W8"), case(op, "A8W8, capped")
    assert not torch.equal(reference_op(op)(**plain.operands())[1][:LAST], reference_op(op)(**capped.operands())[1][:LAST])
    assert swiglu([-9.0, 9.0, -9.0, 9.0], 2.0) != swiglu([-9.0, 9.0, -9.0, 9.0])


@pytest.mark.parametrize("element", ["e4m3", "e2m1"])
def test_mx_swiglu_quant_is_its_formula(element: str) -> None:
    op = "npu::npu_grouped_matmul_swiglu_quant_v2"
    o = case(op, f"mx {element}").operands()
    q, scale = reference_op(op)(**o)
    codes = unpack(q) if element == "e2m1" else q.view(torch.uint8).tolist()
    x = values(o["x"], element) * row_exponents(o["x_scale"], K)
    for expert, rows in groups():
        dense = values(own(o, "weight", expert), element) * weight_exponents(own(o, "weight_scale", expert), K)
        for index, row in zip(range(rows.start, rows.stop), (x[rows] @ dense).tolist()):
            expected, data = in_blocks(swiglu(row), element)
            assert (codes[index], scale[index].flatten().tolist()) == (expected, data)
    assert (scale[LAST:] == 255).all(), "NaN"


@pytest.mark.parametrize("name", ["A8W8", "e4m3"])
def test_a_row_of_zeros_is_zeros(name: str) -> None:
    """q = 0 and scale 0 (assumed), not what a division by zero gives."""
    op = "npu::npu_grouped_matmul_swiglu_quant_v2"
    operands = case(op, name).operands()
    operands["x"][1] = 0
    q, scale = reference_op(op)(**operands)
    assert (q[1].float() == 0).all() and scale[1] == 0


# ---- npu_dequant_swiglu_quant ----------------------------------------------------------------------------------------------------------------------------

DEQUANT = "_C_ascend::npu_dequant_swiglu_quant"
DEQUANT_CASES = [(op, name) for op in (DEQUANT, "npu::npu_dequant_swiglu_quant") for name in OTHERS[op]]


def gated(op: str, name: str, row: list[float], o: Operands) -> list[float]:
    half = len(row) // 2
    if o.get("swiglu_mode", 0):
        joined = zip(row[0::2], row[1::2]) if name == "interleaved" else zip(row[:half], row[half:])
        pairs = [(min(gate, 2.5), max(-2.5, min(up, 2.5))) for gate, up in joined]
        sigmoid = torch.sigmoid(torch.tensor([1.702 * gate for gate, _ in pairs], dtype=torch.float64)).tolist()
        return [gate * s * (up + 1.0) for (gate, up), s in zip(pairs, sigmoid)]
    return swiglu(row if o.get("activate_left", op == DEQUANT) else row[half:] + row[:half])


@pytest.mark.parametrize(("op", "name"), DEQUANT_CASES)
def test_dequant_swiglu_quant_is_its_formula(op: str, name: str) -> None:
    """torch_npu's activates the second half unless told otherwise, vllm-ascend's the first."""
    o = case(op, name).operands()
    q, scale = reference_op(op)(**o)
    parts = list(groups()) if "group_index" in o else [(0, slice(0, M))]
    for expert, rows in parts:
        x = o["x"][rows].double()
        if name == "dynamic":
            x = x + o["bias"]
        if "weight_scale" in o:
            x = x * o["weight_scale"].reshape(-1, N)[expert].double() * o["activation_scale"][rows, None].double()
        if name == "static":
            x = x + o["bias"].double()
        for index, row in zip(range(rows.start, rows.stop), x.tolist()):
            found = gated(op, name, row, o)
            if name == "static":
                steps = [value / float(o["quant_scale"][0]) + float(shift) for value, shift in zip(found, o["quant_offset"])]
                assert q[index].tolist() == [max(-128, min(127, round(step))) for step in steps]
                continue
            integers, own_scale = quantized([value * float(s) for value, s in zip(found, o.get("quant_scale", torch.ones(N // 2)))])
            assert q[index].tolist() == integers
            assert scale[index].item() == pytest.approx(own_scale, rel=1e-6)
    tail = parts[-1][1].stop
    assert poisoned(q[tail:]) and poisoned(scale[tail:])


@pytest.mark.parametrize("name", OTHERS["_C_ascend::npu_swiglu_group_quant"])
def test_swiglu_group_quant_is_its_formula(name: str) -> None:
    o = case("_C_ascend::npu_swiglu_group_quant", name).operands()
    q, scale, _ = reference_op("_C_ascend::npu_swiglu_group_quant")(**o)
    assert scale.dtype == torch.float8_e8m0fnu
    for row, codes, own in zip(o["x"].double().tolist(), q.view(torch.uint8).tolist(), scale.view(torch.uint8)):
        assert (codes, own.flatten().tolist()) == in_blocks(swiglu(row, o.get("clamp_value", 0.0)), "e4m3")


def test_quant_grouped_matmul_dequant_is_its_formula() -> None:
    o = case("npu::npu_quant_grouped_matmul_dequant", "int8").operands()
    found = reference_op("npu::npu_quant_grouped_matmul_dequant")(**o)
    for expert, rows in groups():
        for index in range(rows.start, rows.stop):
            integers, scale = quantized(o["x"][index].double().tolist())
            sums = [sum(a * b for a, b in zip(integers, column)) for column in o["quantized_weight"][expert].tolist()]
            expected = [total * float(own) * scale for total, own in zip(sums, o["weight_scale"][expert])]
            assert torch.equal(found[index], torch.tensor(expected, dtype=torch.float64).half())
    assert poisoned(found[LAST:])


def test_ties_are_rounded_to_even() -> None:
    """Numbers that are exact at every step: half of gate * up, with a scale of 1."""
    x = torch.tensor([[254.0, 1.0, 5.0, 1.0, 7.0, 1.0, -5.0, 1.0]]).half()
    q, scale = reference_op(DEQUANT)(x, quant_mode=1, swiglu_mode=1, clamp_limit=300.0, glu_alpha=0.0)
    assert (q.tolist(), scale.tolist()) == ([[127, 2, 4, -2]], [1.0])


def test_every_code_of_e2m1_survives_a_grouped_matmul() -> None:
    codes = torch.arange(16).repeat(E, K, 1)
    operands = given(x=[torch.eye(K).bfloat16()], weight=[pack(codes, torch.float32)], antiquant_scale=[torch.full((E, 3, 16), 127, dtype=torch.uint8)])
    options = given(split_item=3, group_type=0, group_list_type=1, group_list=torch.tensor([0, K, 0]))
    assert torch.equal(reference_op(GROUPED)(**operands, **options)[0].double(), e2m1(codes[1]))
