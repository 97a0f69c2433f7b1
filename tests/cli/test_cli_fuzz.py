"""Whatever is given, no command ends in an internal error: wrong specs, odd settings, odd sizes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from layoutdsl.compiler.config import SHARED
from tests.cli.conftest import Cli

TESTS = Path(__file__).resolve().parents[1]
SPECS = [*sorted((TESTS / "wrong").rglob("*.yaml"))[::3], *sorted((TESTS / "syntax" / "sketches").glob("*.yaml"))]
VALUES = (
    *("0", "1", "3", "7", "16", "-1", "none", "true", "", "[]", "1e3", "a\udcff", "\u0663", "1.0.0", "9223372036854775807", "9223372036854775808"),
    *("row", "channel", "group", "compressed-tensors", "vllm-ascend-main", "a5", "310p", "910b"),
)
SIZES = (0, 1, 7, 8, 256, 4096, 2**31, 2**62, 2**63 - 1, 10**19 - 1)
NAMES = {
    "W4A8_DYNAMIC.linear": ("input_size", "output_size"),
    "W4A8_DYNAMIC.moe": ("num_experts", "intermediate_size_per_partition", "hidden_size"),
}


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_wrong_specs(cli: Cli, path: Path) -> None:
    for command in (("explain", path), ("describe", path), ("compile", path, "-o", "-")):
        ran = cli(*command)
        assert ran.code in (0, 1), ran
        assert ran.code == 0 or "error[" in ran.out


@pytest.mark.parametrize("seed", range(4))
def test_odd_settings_and_sizes(cli: Cli, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(30):
        spec = chance.choice(list(NAMES))
        argv = [f"--set={name}={chance.choice(VALUES)}" for name in chance.sample([*SHARED, "other"], chance.randint(0, 3))]
        if chance.random() < 0.7:
            argv += [f"--sizes={name}={chance.choice(SIZES)}" for name in NAMES[spec] if chance.random() < 0.9]
        ran = cli(chance.choice(["explain", "describe"]), spec, *argv)
        assert ran.code in (0, 1), (argv, ran)
