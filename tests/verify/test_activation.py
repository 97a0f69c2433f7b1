"""What a quantized activation stands for, and how far quantization may have moved it: the nearest number of the element and no other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layoutdsl.ir.dtypes import ELEMENTS
from layoutdsl.kernels.numerics import mx_quantize, quantize_rows
from layoutdsl.runtime.kernels import find_kernel
from layoutdsl.verify.activation import Grid, Rows, quantized_inside, rows_of
from layoutdsl.verify.decode import number_of

STEP = 0.3


def numbers(element: str) -> np.ndarray:
    """All numbers of an element, in order."""
    found = number_of(np.arange(1 << ELEMENTS[element].bits, dtype=np.uint64), ELEMENTS[element]).astype(np.float64)
    return np.unique(found[~np.isnan(found)])


@pytest.mark.parametrize("element", ["int8", "int4", "e4m3", "e2m1"])
def test_the_nearest_number_is_right_and_its_neighbours_are_wrong(element: str) -> None:
    own = numbers(element)
    random = np.random.default_rng(0)
    exact = np.concatenate([random.uniform(own[0], own[-1], 400), random.uniform(-2, 2, 400)]) * STEP
    distances = np.sort(np.abs(own[None] * STEP - exact[:, None]), axis=1)
    exact = exact[distances[:, 0] < 0.99 * distances[:, 1]]  # not in the middle
    order = np.abs(own[None] * STEP - exact[:, None]).argsort(axis=1)
    for place, right in ((0, True), (1, False)):
        values = own[order[:, place]] * STEP
        rows = Rows(values[None], np.full((1, len(values)), STEP), element)
        assert ((np.abs(values - exact) <= rows.error(exact[None])[0] * 1.001) == right).all()


@pytest.mark.parametrize("element", ["int8", "e2m1"])
def test_either_neighbour_is_right_in_the_middle_and_where_the_exact_number_is_not_known(element: str) -> None:
    rows = Rows(np.zeros((1, 1)), np.full((1, 1), STEP), element)
    spacing = 1.0 if element == "int8" else 0.5
    middle, beside = np.array([[2.5 * STEP * spacing]]), np.array([[2.4 * STEP * spacing]])
    assert rows.error(middle)[0, 0] == pytest.approx(STEP * spacing / 2, rel=1e-4)
    assert rows.error(beside)[0, 0] == pytest.approx(0.4 * STEP * spacing, rel=1e-4)
    assert rows.error(beside, moved=0.2 * STEP * spacing)[0, 0] == pytest.approx(0.7 * STEP * spacing, rel=1e-4)


def test_beyond_the_largest_number() -> None:
    rows = Rows(np.full((1, 1), 7 * STEP), np.full((1, 1), STEP), "int4")
    assert rows.error(np.array([[9.2 * STEP]]))[0, 0] == pytest.approx(2.2 * STEP, rel=1e-4)


def test_rows_of_zeros_have_no_step() -> None:
    q, scale = quantize_rows(torch.zeros(2, 8, dtype=torch.float64))
    rows = rows_of(q, scale)
    assert not rows.values.any()
    assert not rows.error(np.zeros((2, 8))).any()


def test_what_kernels_quantize_is_the_nearest() -> None:
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((6, 96))).to(torch.bfloat16)
    exact = x.double().numpy()
    for element in ("int8", "e4m3"):
        found = rows_of(*quantize_rows(x.double(), element))
        assert (np.abs(found.values - exact) <= found.error(exact) * 1.001).all()
    for element in ("e4m3", "e2m1"):
        found = rows_of(*mx_quantize(x.double(), element))
        assert found.element == element
        assert (np.abs(found.values - exact) <= found.error(exact) * 1.001).all()


def test_what_a_kernel_quantizes_inside() -> None:
    x = torch.from_numpy(np.random.default_rng(2).standard_normal((40, 64))).to(torch.float16)
    x[0] = x[0, :1] * torch.arange(64) / 128  # many ties
    q, scale = quantize_rows(x.double())
    rows = quantized_inside(x)
    seen = q.double().numpy() * scale.double().numpy()[:, None]
    assert (np.abs(rows.values - seen) <= rows.blur + 1e-6 * rows.step).all()
    assert np.count_nonzero(rows.blur) < 40


def test_a_grid() -> None:
    """Integers of the static quantizer, and rows that it does not move."""
    grid = Grid(scale=-0.0371, offset=5.0)
    wanted = np.rint(np.random.default_rng(3).uniform(-50, 50, (4, 32))) * grid.scale
    x = torch.from_numpy(wanted).to(torch.bfloat16)
    assert np.array_equal(grid.nearest(x.double().numpy()), wanted)
    one = torch.tensor([grid.scale]).to(torch.bfloat16)
    q = find_kernel("npu::npu_quantize", "cpu")(x, 1 / one, torch.tensor([grid.offset]).to(torch.bfloat16), torch.int8, -1, False)
    assert np.array_equal(rows_of(q, None, grid).values, wanted)
