"""The oracle is right: bit for bit what was recorded, file by file."""

from __future__ import annotations

import pytest
import torch

from tests.golden.compare import bits, flat
from tests.golden.recorded import FILES, Recorded, recorded
from tests.golden.reference import Layer, LinearCase, MoeCase, linear, linear_parameters, moe, moe_parameters


def reference_case(case: Recorded) -> LinearCase | MoeCase:
    dims, config = case.meta["dims"], case.config
    packed = config.get("version") == "1.0.0"
    if case.meta["kind"] == "linear":
        return LinearCase(dims["K"], dims["N"], config["group_size"], packed, config.get("layer_type") == "row", getattr(torch, case.meta["params_dtype"]))
    return MoeCase(
        dims["E"],
        dims["H"],
        dims["I"],
        config["group_size"],
        config["consumer"],
        packed,
        config.get("quant_method") == "compressed-tensors",
        config.get("tp_size", 1),
        config.get("expert_lists", False),
        config.get("mega_moe", False),
    )


@pytest.mark.parametrize("name", FILES)
def test_reference_is_what_was_recorded(name: str) -> None:
    case = recorded(name)
    reference = reference_case(case)
    layer: Layer = linear(reference, case.inputs) if isinstance(reference, LinearCase) else moe(reference, case.inputs)
    found = flat(layer.tensors)
    assert set(found) == set(case.outputs)
    for output, want in case.meta["outputs"].items():
        got = found[output]
        assert (list(got.shape), list(got.stride()), got.storage_offset()) == (want["shape"], want["stride"], want["offset"]), output
        assert torch.equal(bits(got), bits(case.outputs[output])), output
    assert [[shape, str(dtype), 29, {}] for shape, dtype in layer.casts] == case.meta["nz_casts"]
    declared = linear_parameters(reference) if isinstance(reference, LinearCase) else moe_parameters(reference)
    assert {key: (list(shape), str(dtype)) for key, (shape, dtype) in declared.items()} == {
        key: (entry["shape"], f"torch.{entry['dtype']}") for key, entry in case.meta["inputs"].items()
    }
