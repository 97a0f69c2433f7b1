"""Every recorded file through the public API: what the replaced system did at load time, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import layoutdsl
from tests.golden.compare import assert_alike, bits, digest, flat, strides
from tests.golden.recorded import FILES, Recorded, recorded


@pytest.fixture(params=FILES)
def case(request: pytest.FixtureRequest) -> Recorded:
    return recorded(request.param)


def test_all_files_are_here() -> None:
    assert len(FILES) == 31


def assert_recorded(case: Recorded, results: dict[str, Any]) -> None:
    """Names, lists, dtypes, shapes, strides, offsets, bits, and what is gone."""
    found = flat(results)
    assert set(found) == set(case.meta["outputs"])
    assert {name: len(value) for name, value in results.items() if isinstance(value, list)} == case.meta["lists"]
    for name, want in case.meta["outputs"].items():
        got = found[name]
        assert (str(got.dtype), list(got.shape)) == (f"torch.{want['dtype']}", want["shape"]), name
        assert strides(got) == [stride for stride, size in zip(want["stride"], want["shape"]) if size > 1], name
        assert got.is_contiguous() == want["contiguous"], name
        assert got.storage_offset() == want["offset"], name
        assert torch.equal(bits(got), bits(case.outputs[name])), name
    assert sorted(case.inputs.keys() - results.keys()) == sorted(case.meta["deleted"])


# ---- before loading -----------------------------------------------------------------------------------------------------------------------------------------


def test_parameters(case: Recorded) -> None:
    declared = case.plan.parameters
    assert {name: (list(parameter.shape), parameter.dtype) for name, parameter in declared.items()} == {
        name: (entry["shape"], entry["dtype"]) for name, entry in case.meta["inputs"].items()
    }


def test_loader_keys(case: Recorded) -> None:
    keys = case.meta["loader_keys"]
    for name, parameter in case.plan.parameters.items():
        wanted = (keys["_packed_dim"], keys["_packed_factor"]) if keys and name == "weight" else (None, None)
        assert (parameter.packed_dim, parameter.packed_factor) == wanted, name


def test_format_casts(case: Recorded) -> None:
    casts = case.plan.format_casts
    assert [[cast["shape"], f"torch.{cast['dtype']}", cast["format"], cast["arguments"]] for cast in casts] == case.meta["nz_casts"]


# ---- running ------------------------------------------------------------------------------------------------------------------------------------------------


def test_run(case: Recorded) -> None:
    given, before = case.fresh(), digest(case.inputs)
    results = case.plan.run(given)
    assert_recorded(case, results)
    assert list(given) == list(case.inputs)
    assert digest(given) == before


def test_sizes_from_shapes(case: Recorded) -> None:
    assert_recorded(case, case.unbound.run(case.fresh()))


def test_plan_from_json(case: Recorded, tmp_path: Any) -> None:
    written = case.unbound
    path = tmp_path / "plan.json"
    path.write_text(written.to_json(), encoding="utf-8")
    plan = layoutdsl.load_plan(path)
    assert (plan.to_json(), plan.hash) == (written.to_json(), written.hash)
    bound = plan.bind(case.sizes)
    assert bound.parameters == case.plan.parameters
    assert bound.format_casts == case.plan.format_casts
    assert_recorded(case, bound.run(case.fresh()))


def test_donate(case: Recorded) -> None:
    given = case.fresh()
    results = case.plan.run(given, donate=True)
    assert_recorded(case, results)
    assert not given


def test_fast_math_differs_in_sums_only(case: Recorded) -> None:
    results = flat(case.plan.run(case.fresh(), math="fast"))
    for name, want in case.outputs.items():
        if "bias" in name:
            torch.testing.assert_close(results[name], want, rtol=1e-4, atol=1e-3)
            continue
        assert torch.equal(bits(results[name]), bits(want)), name


def test_apply(case: Recorded) -> None:
    module = torch.nn.Module()
    for name, tensor in case.fresh().items():
        module.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=False))
    case.plan.apply(module)
    names = {*(name.rpartition(".")[0] or name if name.split(".")[0] in case.meta["lists"] else name for name in case.outputs)}
    assert_recorded(case, {name: getattr(module, name) for name in names})
    assert not any(hasattr(module, name) for name in case.meta["deleted"])
    # What was a parameter and still is there is one yet; lists are plain attributes.
    assert {name for name, _ in module.named_parameters()} >= case.inputs.keys() & names
    for name in case.meta["lists"]:
        assert isinstance(getattr(module, name), list)


# ---- strided, shared and read-only inputs -------------------------------------------------------------------------------------------------------------------


def test_inputs_that_do_not_lie_densely(case: Recorded) -> None:
    given = {name: _scattered(tensor) for name, tensor in case.inputs.items()}
    found = flat(case.plan.run(dict(given)))
    for name, want in case.outputs.items():
        assert torch.equal(bits(found[name]), bits(want)), name
        if found[name] is not given.get(name):
            assert_alike(name, found[name], case.results[name])


def _scattered(tensor: torch.Tensor) -> torch.Tensor:
    """The same values with gaps between them, at an offset."""
    wide = torch.zeros([2 * size + 1 for size in tensor.shape], dtype=tensor.dtype)
    view = wide[tuple(slice(1, None, 2) for _ in tensor.shape)]
    return view.copy_(tensor)
