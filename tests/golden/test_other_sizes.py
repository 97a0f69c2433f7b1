"""Every scheme at sizes, seeds and values that nobody recorded, against the oracle in ``reference``: bit for bit. W4A8 is in ``test_other_sizes_w4a8.py``."""

from __future__ import annotations

from typing import Any

import pytest

from layoutdsl.bundled import bundled
from layoutdsl.diagnostics import DiagnosticError
from tests.golden.cases import TABLE, Config, Sizes, case_of, cases, row
from tests.golden.reference import SCHEMES, Case
from tests.golden.values import KINDS, Kind, assert_as_the_oracle, plan_of, values

CASES = {name: cases(name) for name in TABLE if name in bundled()}


def test_every_scheme_is_here() -> None:
    assert {*TABLE, "w4a8_dynamic.linear", "w4a8_dynamic.moe"} == set(SCHEMES)


@pytest.mark.parametrize("case", [case for cases in CASES.values() for case in cases], ids=str)
def test_sizes(case: Case) -> None:
    assert_as_the_oracle(case, values(case, seed=1))


@pytest.mark.parametrize("content", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_values(name: str, content: Kind) -> None:
    """Every config once, at the largest sizes that it has here."""
    largest: dict[tuple[tuple[str, Any], ...], Case] = {}
    for case in sorted(CASES[name], key=lambda case: sum(case.sizes.values())):
        largest[(*sorted(case.config.items()), ("dtype", case.params))] = case
    for seed, case in enumerate(largest.values()):
        assert_as_the_oracle(case, values(case, content, seed), exact=content not in ("extreme", "special"))


REFUSED: list[tuple[str, Sizes, Config]] = [
    # Nor does the replaced system take these: no whole words, bytes or groups, no two sides, sides that are too long, more ranks than there are blocks.
    ("w4a4_dynamic.linear", (12, 8), {}),
    ("w4a4_flatquant_dynamic.linear", (12, 8), {}),
    ("w4a16.moe", (2, 32, 36), {}),
    ("w4a16.moe", (2, 48, 32), {}),
    *(("w4a16.linear", sizes, {"group_size": 32}) for sizes in ((64, 12), (48, 8), (16, 8))),
    *(("w4a16.linear", sizes, {"weight_strategy": "channel"}) for sizes in ((12, 8), (8, 12))),
    ("w4a16.linear", (128, 8), {"group_size": 0}),
    ("w4a16.linear", (16, 8), {"group_size": 32, "layer_type": "row", "tp_size": 2}),
    ("w4a16_mxfp4.moe", (2, 36, 32), {}),
    ("w4a16_mxfp4.moe", (2, 32, 34), {}),
    *((name, (33, 8), {}) for name in ("w4a4_mxfp4.linear", "w4a8_mxfp.linear", "w4a4_mxfp4_flatquant.linear")),
    *((name, (2, *sizes), {}) for name in ("w4a4_mxfp4.moe", "w4a8_mxfp.moe", "fp8.ds_w4a8_moe") for sizes in ((33, 32), (32, 33))),
    ("w4a4_mxfp4_flatquant.linear", (6, 8), {}),
    ("w4a4_mxfp4_flatquant.linear", (1028, 8), {}),
    ("w4a4_mxfp4_flatquant.linear", *row(256, 8, 8, 0)),
    ("fp8.ds_linear", (128, 384), {"prefix": "wo_a", "o_groups": 4, "o_lora_rank": 128}),
    # A block of scales that would lie on two ranks: there the second of them reads beyond the end.
    *((name, (48, 8), {"layer_type": "row", "tp_size": 2}) for name in ("w8a8_mxfp8.linear", "w4a4_mxfp4.linear", "w4a8_mxfp.linear")),
    *((name, (2, 64, 48), {"tp_size": 2}) for name in ("w8a8_mxfp8.moe", "w4a4_mxfp4.moe", "w4a8_mxfp.moe", "fp8.ds_w4a8_moe", "w4a16_mxfp4.moe")),
    ("w4a4_mxfp4_flatquant.linear", *row(64, 8, 4, 0)),
    ("fp8.ds_linear", (64, 128), {"layer_type": "row", "tp_size": 2}),
    ("fp8.ds_linear", (128, 64), {"layer_type": "column", "tp_size": 2}),
]


@pytest.mark.parametrize(("name", "sizes", "config"), REFUSED, ids=str)
def test_impossible_sizes_are_diagnosed(name: str, sizes: Sizes, config: Config) -> None:
    with pytest.raises(DiagnosticError) as caught:
        plan_of(case_of(name, sizes, config))
    assert {diagnostic.code for diagnostic in caught.value.diagnostics} == {"requirement-failed"}
