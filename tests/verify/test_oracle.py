"""``value`` and ``invariants`` in float64 against loops over plain numbers, on a spec that uses every form of a read."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from layoutdsl.api import load_spec
from layoutdsl.verify import oracle
from layoutdsl.verify.configurations import Configuration, configured
from layoutdsl.verify.decode import Logical
from layoutdsl.verify.tensors import checkpoint

SPEC = """\
layoutdsl: 1
scheme: FORMS
layer: linear
title: every form of a read
holds: {consumer: [vllm-ascend-0.23], device: [a2]}
config:
  group_size: {type: int, default: 5}
  plain: {type: bool, default: false}
variants:
  form:
    simple: plain
    full: otherwise
axes: {n: output_size, k: input_size}
params:
  weight: int4[n, k] in int8[n//2, k | n%2] pad n to 2
  scale:  float32[n, k//group_size]
  column: float32[n, 0]
  one:    float32[0]
  shift:
    type: float32[n]
    range: positive
value:
  W[k, n]:
    simple: weight[n, k]
    full: (weight[n, k] + 3) * scale[n, k//group_size] * column[n, 0] / 2
  first[n]: scale[n, k//group_size = 0] + one
  turned[n]: column[n = N - 1 - n] - one[0] * group_size
  total[n, k//group_size]: sum[k%group_size](W[n, k] * shift[n] if full else weight[n, k])
  all: sum[n, k](W[n, k])
invariants:
  - shift[n] == sum[k](weight[n, k]) when simple
steps: []
forward: external
"""
N, K, G = 7, 13, 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "forms.linear.yaml").write_text(SPEC)
    return tmp_path


def made(folder: Path, plain: bool) -> tuple[Configuration, dict[str, Logical], dict[str, Logical]]:
    configuration = configured(load_spec(folder / "forms.linear.yaml"), {"plain": plain})
    sizes = {"output_size": N, "input_size": K}
    got = checkpoint(configuration, configuration.plan.bind(sizes).bound, sizes)
    return configuration, got.stored, got.values


def test_every_form(folder: Path) -> None:
    _, stored, values = made(folder, plain=False)
    w, s, c, one, b = (stored[name].values for name in ("weight", "scale", "column", "one", "shift"))
    assert (w.shape, s.shape) == ((N, K), (N, 3))
    c = c.reshape(N)
    weight = np.array([[(float(w[n, k]) + 3) * s[n, k // G] * c[n] / 2 for k in range(K)] for n in range(N)])
    assert values["W"].axes == ("k", "n")
    np.testing.assert_allclose(values["W"].values, weight.T, rtol=1e-15)
    assert values["first"].values.tolist() == [s[n, 0] + one.item() for n in range(N)]
    assert values["turned"].values.tolist() == [c[N - 1 - n] - one.item() * G for n in range(N)]
    # The last group has three indices.
    total = [[sum(weight[n, k] * b[n] for k in range(g * G, min(K, g * G + G))) for g in range(3)] for n in range(N)]
    assert values["total"].bases == (1, G)
    np.testing.assert_allclose(values["total"].values, total, rtol=1e-13)
    np.testing.assert_allclose(values["all"].values, weight.sum(), rtol=1e-12)


def test_cases_choose(folder: Path) -> None:
    _, stored, values = made(folder, plain=True)
    assert np.array_equal(values["W"].values.T, stored["weight"].values)


def test_what_an_invariant_derives_is_stored_rounded(folder: Path) -> None:
    _, stored, _ = made(folder, plain=True)
    assert np.array_equal(stored["shift"].values, stored["weight"].values.sum(1).astype(np.float32))
    _, free, _ = made(folder, plain=False)
    assert not np.array_equal(free["shift"].values, free["weight"].values.sum(1))
    assert (free["shift"].values > 0).all(), "its range is positive"


def test_the_bundled_experts_by_hand() -> None:
    """Group scales and the 16 partial sums of a packed layer, split over two ranks."""
    config = {"consumer": "vllm-ascend-0.16", "version": "1.0.0", "group_size": 8, "tp_size": 2}
    configuration = configured(load_spec("W4A8_DYNAMIC.moe"), config)
    sizes = {"num_experts": 2, "hidden_size": 16, "intermediate_size_per_partition": 24}
    got = checkpoint(configuration, configuration.plan.bind(sizes).bound, sizes)
    bytes_, first, second = (got.tensors[f"w2_weight{end}"].to(torch.float64) for end in ("", "_scale", "_scale_second"))
    for e, n, k in itertools.product(range(2), range(16), (0, 1, 7, 8, 23)):
        byte = int(bytes_[e, n // 2, k]) & 255
        nibble = byte >> 4 if n % 2 else byte & 15
        value = (nibble - 16 if nibble > 7 else nibble) * first[e, n, 0] * second[e, n, k // 8]
        assert got.values["w2"].values[e, n, k] == pytest.approx(float(value), rel=1e-15)
    columns = 8 * got.values["w2"].values.reshape(2, 16, 8, 3).sum(-1)
    np.testing.assert_allclose(got.tensors["w2_scale_bias"].numpy(), columns, rtol=1e-7)
    assert tuple(got.tensors["w2_scale_bias"].shape) == (2, 16, 8)


def test_a_rotation_comes_in_its_factors() -> None:
    """And their product is the sum that the spec writes."""
    configuration = configured(load_spec("W4A4_FLATQUANT_DYNAMIC.linear"), {})
    sizes = {"output_size": 5, "input_size": 24}
    got = checkpoint(configuration, configuration.plan.bind(sizes).bound, sizes)
    w, scale, left, right = (got.stored[name].values for name in ("weight", "weight_scale", "left_trans", "right_trans"))
    rows, columns = len(left), len(right)
    assert rows * columns == 24 and 1 < rows < columns
    rotated = got.values["W"]
    assert isinstance(rotated, oracle.Rotated)
    for n, k in itertools.product(range(5), range(24)):
        terms = [w[n, q] * scale[n].item() * left[k // columns, q // columns] * right[k % columns, q % columns] for q in range(24)]
        assert rotated.product.values[n, k] == pytest.approx(sum(terms), rel=1e-12)
    assert rotated.weight.values[3, 7] == w[3, 7] * scale[3].item()


def test_sums_that_are_no_rotation(folder: Path) -> None:
    _, _, values = made(folder, plain=False)
    assert not any(isinstance(value, oracle.Rotated) for value in values.values())


def test_invariants_are_named(folder: Path) -> None:
    configuration, stored, _ = made(folder, plain=True)
    sizes = {"output_size": N, "input_size": K}
    found = dict(oracle.invariants(configuration.spec.document, configuration.contexts, sizes, stored))
    assert list(found) == ["shift"]
