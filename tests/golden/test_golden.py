"""Every recorded file through the public API: what the replaced system did at load time, to the bit."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import pytest
import torch

import layoutdsl
from layoutdsl.plan.sizes import names_in
from tests.golden.compare import assert_alike, bits, digest, flat, strides
from tests.golden.files import ALL_FILES
from tests.golden.recorded import FILES, Recorded, recorded


@pytest.fixture(params=FILES)
def case(request: pytest.FixtureRequest) -> Recorded:
    return recorded(request.param)


def test_every_recording_has_a_spec() -> None:
    assert sorted(set(ALL_FILES) - set(FILES)) == []


def tensors_of(results: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in results.items() if isinstance(value, (torch.Tensor, list))}


def assert_recorded(case: Recorded, results: dict[str, Any]) -> None:
    """Names, lists, numbers, dtypes, shapes, strides, offsets, bits, and what is gone."""
    tensors = tensors_of(results)
    found = flat(tensors)
    numbers = {name: value for name, value in results.items() if name not in tensors}
    assert (numbers, {name: type(value) for name, value in numbers.items()}) == (case.numbers, {name: type(value) for name, value in case.numbers.items()})
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
    """One parameter has fewer rows than the layer has outputs, or none has."""
    keys = case.meta["loader_keys"]
    packed = [parameter for parameter in case.plan.parameters.values() if (parameter.packed_dim, parameter.packed_factor) != (None, None)]
    assert [(parameter.packed_dim, parameter.packed_factor) for parameter in packed] == ([(keys["_packed_dim"], keys["_packed_factor"])] if keys else [])
    for parameter in packed:
        assert parameter.shape[keys["_packed_dim"]] * keys["_packed_factor"] == case.sizes["output_size"]


def test_format_casts(case: Recorded) -> None:
    casts = [[cast["shape"], f"torch.{cast['dtype']}", cast["format"], _logged(cast["arguments"])] for cast in case.plan.format_casts]
    assert casts == case.meta["nz_casts"]


def _logged(arguments: dict[str, int | str]) -> dict[str, str]:
    """As they were recorded: the texts of torch's dtypes and of torch_npu's numbers."""
    return {name: str(value) if isinstance(value, int) else f"torch.{value}" for name, value in arguments.items()}


# ---- running ------------------------------------------------------------------------------------------------------------------------------------------------


def test_run(case: Recorded) -> None:
    given, before = case.fresh(), digest(case.inputs)
    results = case.plan.run(given)
    assert_recorded(case, results)
    assert list(given) == list(case.inputs)
    assert digest(given) == before


def test_sizes_from_shapes(case: Recorded) -> None:
    """All of them, unless no parameter has one in its shape."""
    try:
        assert_recorded(case, case.unbound.run(case.fresh()))
        return
    except layoutdsl.DiagnosticError as error:
        codes = [diagnostic.code for diagnostic in error.diagnostics]
    axes = dict(case.unbound.data.axes)
    told = {size for node in case.plan.bound.inputs for axis in node.type.units for size in names_in(axes[axis])}
    assert codes == ["size-unsolved"]
    assert set(case.unbound.size_names) - told


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
    results = flat(tensors_of(case.plan.run(case.fresh(), math="fast")))
    for name, want in case.outputs.items():
        if "scale_bias" in name:
            torch.testing.assert_close(results[name], want, rtol=1e-4, atol=1e-3)
            continue
        assert torch.equal(bits(results[name]), bits(want)), name


def test_apply(case: Recorded) -> None:
    module = torch.nn.Module()
    for name, tensor in case.fresh().items():
        owner, leaf = _owner(module, name)
        owner.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
    case.plan.apply(module)
    lists, names = case.meta["lists"], set(case.outputs)
    names = {name.rpartition(".")[0] if name.rpartition(".")[0] in lists else name for name in names} | set(case.numbers)
    assert_recorded(case, {name: attrgetter(name)(module) for name in names})
    for name in case.meta["deleted"]:
        owner, leaf = _owner(module, name)
        assert not hasattr(owner, leaf)
    # What was a parameter and still is there is one yet; lists are plain attributes.
    assert {name for name, _ in module.named_parameters()} >= case.inputs.keys() & names
    for name in lists:
        assert isinstance(getattr(module, name), list)


def _owner(module: torch.nn.Module, name: str) -> tuple[torch.nn.Module, str]:
    """``fa_k.scale`` is ``scale`` of the submodule ``fa_k``, which is made where it is not there yet."""
    *path, leaf = name.split(".")
    for part in path:
        if not hasattr(module, part):
            module.add_module(part, torch.nn.Module())
        module = getattr(module, part)
    return module, leaf


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
