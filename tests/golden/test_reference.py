"""The oracle is right: bit for bit what was recorded, file by file."""

from __future__ import annotations

import pytest
import torch

from tests.golden.compare import bits, flat
from tests.golden.files import ALL_FILES, scheme_of
from tests.golden.recorded import recorded
from tests.golden.reference import ADDED, SCHEMES, Case, load, parameters


def test_every_recording_is_here_and_its_scheme_is_known() -> None:
    assert len(ALL_FILES) == 134
    assert {".".join(scheme_of(file)) for file in ALL_FILES} == SCHEMES.keys() - ADDED


@pytest.mark.parametrize("name", ALL_FILES)
def test_reference_is_what_was_recorded(name: str) -> None:
    case = recorded(name)
    asked = Case(case.scheme, case.layer, case.sizes, case.config, getattr(torch, case.params_dtype))
    layer = load(asked, case.fresh())
    found = flat(layer.tensors)
    assert set(found) == set(case.outputs)
    assert {key: len(value) for key, value in layer.tensors.items() if isinstance(value, list)} == case.meta["lists"]
    for output, want in case.meta["outputs"].items():
        got = found[output]
        assert (list(got.shape), str(got.dtype)) == (want["shape"], f"torch.{want['dtype']}"), output
        assert (list(got.stride()), got.storage_offset()) == (want["stride"], want["offset"]), output
        assert torch.equal(bits(got), bits(case.outputs[output])), output
    assert layer.numbers == case.numbers
    assert [[shape, str(dtype), 29, arguments] for shape, dtype, arguments in layer.casts] == case.meta["nz_casts"]
    assert sorted(case.inputs.keys() - layer.tensors.keys()) == sorted(case.meta["deleted"])
    assert {key: (list(stored.shape), str(stored.dtype)) for key, stored in parameters(asked).items()} == {
        key: (entry["shape"], f"torch.{entry['dtype']}") for key, entry in case.meta["inputs"].items()
    }
    assert layer.attributes | layer.computed <= set(layer.tensors)
