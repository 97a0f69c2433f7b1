"""What a load calls on a device, against torch_npu's schemas: it has no meta function of these ops, so nothing more can be asked of it here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from layoutdsl.plan.model import Opaque
from layoutdsl.runtime import npu
from layoutdsl.runtime.dtypes import TORCH
from layoutdsl.verify.configurations import Configuration
from tests_npu.test_forwards import CONFIGURATIONS
from tests_npu.wheel import META, SCHEMA, Wheel, report

UNCHECKED = {"npu::npu_format_cast": SCHEMA}
"""Every op of a load of which torch_npu has no meta function."""


def loads(configuration: Configuration) -> set[tuple[str, str, tuple[tuple[str, int | str], ...]]]:
    """Function, dtype of its tensor, and arguments."""
    return {(node.function, node.type.storage, node.arguments) for node in configuration.plan.data.code if isinstance(node, Opaque)}


def test_every_call_of_a_load_has_the_arguments_of_its_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = Wheel()
    monkeypatch.setattr(npu, "torch_npu", lambda: SimpleNamespace(npu_format_cast=wheel.resolve("npu::npu_format_cast")))
    for function, storage, arguments in set().union(*map(loads, CONFIGURATIONS)):
        tensor, options = torch.empty(64, 64, dtype=TORCH[storage], device="meta"), dict(arguments)
        if function == "format_cast":
            npu.format_cast(tensor, int(options.pop("format")), **options)
        else:
            wheel.resolve(str(options["kernel"]))(tensor)
    report("loads", {op: (verdict, wheel.calls[op]) for op, verdict in wheel.verdicts.items()})
    assert {op: verdict for op, verdict in wheel.verdicts.items() if verdict != META} == UNCHECKED


def test_a_load_with_another_argument_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu, "torch_npu", lambda: SimpleNamespace(npu_format_cast=Wheel().resolve("npu::npu_format_cast")))
    with pytest.raises(RuntimeError, match="Unknown keyword arg"):
        npu.format_cast(torch.empty(64, 64, device="meta"), 29, customise_dtype="bfloat16")
