"""What runs while a layer is loaded: ``nz``, ``pack`` and ``call`` make the types that the contracts of their kernels say, where the device has them."""

from __future__ import annotations

import pytest
from contract_calls import AXES, calls

from layoutdsl.compiler.driver import validate
from layoutdsl.diagnostics import Diagnostic, Source
from layoutdsl.ir.dtypes import STORAGES
from layoutdsl.kernels import CONTRACTS, Row
from layoutdsl.ops import OPS
from layoutdsl.syntax.reader import read_document

CAST, PACK = CONTRACTS["npu::npu_format_cast"], CONTRACTS["npu::npu_convert_weight_to_int4pack"]
DEVICES = ("a2", "a3", "a5", "310p")
TEXT = """
layoutdsl: 1
scheme: LOADING
layer: linear
title: one step
holds: {{consumer: [vllm-ascend-main], device: [{device}]}}
axes: {{n: output_size, k: input_size}}
require: [K % 64 == 0, N % 64 == 0]
params: {{weight: "{kind}"}}
value: none
steps:
  - weight: {step}
forward: external
"""


def findings(kind: str, step: str, device: str) -> list[Diagnostic]:
    return validate(read_document(Source("loading.linear.yaml", TEXT.format(kind=kind, step=step, device=device))))


@pytest.mark.parametrize("row", CAST.rows, ids=lambda row: f"{row.devices[0]} {row.name}")
def test_nz_makes_what_the_cast_makes(row: Row) -> None:
    (element,) = row.constants["input_dtype"]
    for call in calls(CAST, row):
        kind, wanted = call.type(row.arguments["input"]), call.type(row.results[0])
        if element is not None:
            lanes = "2"
            packed = row.arguments["input"].replace("c]", f"c//{lanes} | c%{lanes}]").replace("S[", "uint8[")
            kind = call.type(f"{element}[{row.arguments['input'].partition('[')[2].rstrip(']')}] in {packed}")
        for activation in row.constants["customize_dtype"]:
            made = OPS["nz"].result(call.context.space, kind, {} if activation is None else {"activation": activation})
            assert made.format == wanted.format


def older(row: Row) -> bool:
    """``pack`` knows no device, and blocks int4 as A2 and A3 do; no kernel takes int4 in FRACTAL_NZ on a5."""
    return "a5" not in row.devices or not ("int4" in row.name and "nz" in row.results[0])


@pytest.mark.parametrize("row", [row for row in PACK.rows if older(row)], ids=lambda row: f"{row.devices[0]} {row.name}")
def test_pack_makes_what_the_kernel_makes(row: Row) -> None:
    (call,) = calls(PACK, row)
    kind, wanted = call.type(row.arguments["weight"]), call.type(row.results[0])
    made = OPS["pack"].result(call.context.space, kind, {"axis": AXES["c"], "storage": kind.storage})
    assert (made.dims, made.lanes, made.format, made.element, made.storage) == (wanted.dims, wanted.lanes, wanted.format, wanted.element, wanted.storage)


@pytest.mark.parametrize("device", DEVICES)
def test_nz_where_the_device_has_it(device: str) -> None:
    """Every storage, with and without a dtype of the activation: the findings agree with the rows."""
    for storage in STORAGES:
        for activation in (None, "bfloat16", "int8", "e4m3"):
            taken = any(
                storage in row.dtypes["S"] and activation in row.constants["customize_dtype"] and row.constants["input_dtype"] == (None,)
                for row in CAST.rows
                if device in row.devices and row.name.endswith("2 dims")
            )
            found = findings(f"{storage}[n, k]", "nz" if activation is None else f"nz({activation})", device)
            assert ([x.code for x in found] == []) == taken, (storage, activation, [x.message for x in found])
            assert all(x.code in ("contract-layout", "nz-dtype") for x in found)
            assert all(f"device {device}" in x.message and x.notes for x in found if x.code == "contract-layout")


def test_e2m1_is_cast_as_what_it_is() -> None:
    kind = "e2m1[n, k] in uint8[n, k//2 | k%2]"
    assert findings(kind, "nz(e4m3)", "a5") == []
    (found,) = findings(kind, "nz(e4m3)", "a2")
    assert found.code == "contract-layout"
    assert "`npu_format_cast` casts no e2m1 in uint8 in 2 dims for e4m3 to FRACTAL_NZ on device a2" in found.message


def test_a_kernel_that_packs_scales() -> None:
    assert findings("float32[n]", "call(npu_trans_quant_param, int64)", "a2") == []
    (found,) = findings("float16[n]", "call(npu_trans_quant_param, int64)", "a2")
    assert found.code == "contract-layout"
    assert "`scale` as `float32[n]`" in found.message
    (found,) = findings("float32[n]", "call(npu_trans_quant_param, int32)", "a2")
    assert found.message == "`npu_trans_quant_param` makes int64, the step says int32"


def test_a_kernel_of_another_device() -> None:
    (found,) = findings("float32[n, k]", "call(npu_dynamic_mx_quant, uint8)", "a2")
    assert found.code == "contract-device"
    assert found.helps == ("rows hold for: a5",)


def test_what_a_step_accepts() -> None:
    step = "nz\n    accept: contract-layout\n    why: the reference casts it"
    assert findings("uint8[n, k]", step, "310p") == []


def test_no_kernel_takes_int4_in_fractal_nz_on_a5() -> None:
    texts = {text for contract in CONTRACTS.values() for row in contract.rows if "a5" in row.devices for text in row.arguments.values()}
    assert not [text for text in texts if "int4[" in text and "nz" in text and "n//8" in text]
