"""No key of a registry is missing from the table, and nothing in the table is without a key."""

from __future__ import annotations

import pytest

from tests_vllm_ascend.cases import A2, A5, ALL, ON_310P
from tests_vllm_ascend.harness import registry

UNREGISTERED = {("C8", "attention")}
"""Made by the ModelSlim config itself."""


@pytest.mark.parametrize(("device", "tables"), [("a2", (A2, A5)), ("310p", (ON_310P,))], ids=["all but 310p", "310p"])
def test_every_key_has_a_case(device: str, tables: tuple[list, ...]) -> None:
    assert {(case.scheme, case.layer) for table in tables for case in table} - UNREGISTERED == registry(device).keys()


def test_ids_are_unique() -> None:
    names = [f"{case}/{world}" for case, world in ALL]
    assert len(names) == len(set(names))
