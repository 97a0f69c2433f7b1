"""``name[axis = expression]``: what is read where, against Python's integers, from the text of a spec to the tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import layoutdsl

N = 24
SPEC = """layoutdsl: 1
scheme: PICKS
layer: linear
title: one gather
holds: {{consumer: [vllm-ascend-0.23], device: [a2]}}
axes: {{n: output_size, k: input_size}}
require:
  - N % 8 == 0
params:
  a: float32[n]
value: none
steps:
  - {step}
forward: external
"""
READS: dict[str, Callable[[int], int]] = {
    "n": lambda n: n,
    "n//2": lambda n: n // 2,
    "n%4": lambda n: n % 4,
    "n//2%2": lambda n: n // 2 % 2,
    "n//2 + N//2": lambda n: n // 2 + N // 2,
    "N - 1 - n": lambda n: N - 1 - n,
    "N - 1 - n//2": lambda n: N - 1 - n // 2,
    "n%(N//2) + N//2 * (1 - n//(N//2))": lambda n: (n + N // 2) % N,
    "n//8 + N//8 * (n%8)": lambda n: n // 8 + N // 8 * (n % 8),
}


@pytest.mark.parametrize("loops", ["n", "n//4, n%4", "n//8, n//2%4, n%2"])
@pytest.mark.parametrize("read", READS)
def test_what_is_picked(loops: str, read: str, tmp_path: Path) -> None:
    path = tmp_path / "picks.linear.yaml"
    path.write_text(SPEC.format(step=f"b[{loops}]: a[n = {read}]"), encoding="utf-8")
    plan = layoutdsl.compile_spec(path, sizes={"output_size": N, "input_size": 4})
    found = plan.run({"a": torch.arange(N, dtype=torch.float32)})["b"].flatten()
    assert found.tolist() == [READS[read](n) for n in range(N)]
