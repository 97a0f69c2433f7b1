"""The shipped vectors: independent, reproducible, complete, and compared to the last bit."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from layoutdsl.api import load_spec
from layoutdsl.bundled import bundled, folder
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.verify import vectors
from layoutdsl.verify.configurations import configurations, configured
from layoutdsl.verify.vectors import Vector, path_for, read
from tests.golden.reference import parameters
from tools import make_vectors

SPECS = {name: load_spec(path) for name, path in bundled().items()}
UNRECORDED = {
    "w4a8_dynamic.moe": {
        ("release", "unpacked", "channel", "plain"),
        *(("release", source, "grouped", "lists") for source in ("ct", "packed", "unpacked")),
    }
}
"""What nobody saw the newest release do."""


def shipped(name: str) -> list[Vector]:
    path = path_for(SPECS[name])
    assert path is not None
    return read(path)


def test_the_script_knows_nothing_of_us() -> None:
    """Neither it nor the reference that it runs."""
    root = Path(__file__).resolve().parents[2]
    golden = root / "tests" / "golden"
    for path in (root / "tools" / "make_vectors.py", golden / "cases.py", golden / "files.py", *(golden / "reference").glob("*.py")):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))]
        modules = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names} | {
            node.module for node in imports if isinstance(node, ast.ImportFrom)
        }
        assert not any(module.split(".")[0] == "layoutdsl" for module in modules if module)


def test_every_bundled_spec_has_vectors_and_they_are_made_again(tmp_path: Path) -> None:
    make_vectors.main(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(SPECS)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (folder() / "vectors" / path.name).read_bytes(), "run `python -m tools.make_vectors`"
        assert path.stat().st_size < 768 * 1024


@pytest.mark.parametrize("name", SPECS)
def test_every_combination_of_cases_has_a_vector(name: str) -> None:
    spec = SPECS[name]
    met = {configured(spec, vector.config).cases for vector in shipped(name)}
    assert {configuration.cases for configuration in configurations(spec, {})} - met == UNRECORDED.get(name, set())


@pytest.mark.parametrize("name", SPECS)
def test_values_that_are_easily_lost_are_there(name: str) -> None:
    """Where a parameter may hold them: scales of both signs and both zeros, the least and the greatest integer, bytes with all bits and with none."""
    seen: dict[Any, list[torch.Tensor]] = {}
    for vector in make_vectors.FILES[name]:
        tensors = make_vectors.inputs_of(vector)
        for key, stored in parameters(vector.case).items():
            if stored.holds not in ("positive", "power_of_two") and tensors[key].numel() > 2:
                seen.setdefault((stored.dtype, stored.holds), []).append(tensors[key].flatten())
    assert seen
    for (dtype, holds), parts in seen.items():
        values = torch.cat(parts)
        if dtype in (torch.int8, torch.uint8) or dtype.itemsize == 1:
            values = values.view(torch.int8 if dtype == torch.int8 else torch.uint8)
            low, high = (-8, 7) if holds == "int4" else (torch.iinfo(values.dtype).min, torch.iinfo(values.dtype).max)
            assert {low, high} <= set(values.tolist()), (dtype, holds)
        elif dtype.is_floating_point:
            assert bool((values < 0).any()) and {False, True} == set(torch.signbit(values[values == 0]).tolist()), dtype


def test_sums_do_not_depend_on_their_order() -> None:
    """But in the vectors that are there for the order: float32 agrees with float64, and then with every order."""
    for name, layer in (("w4a8_dynamic.linear", "weight_scale_bias"), ("w4a8_dynamic.moe", "w13_scale_bias")):
        spec = SPECS[name]
        for vector in shipped(name):
            if layer not in vector.outputs:
                continue
            plan = configured(spec, vector.config).plan.bind(vector.sizes)
            fast = plan.run(dict(vector.inputs), math="fast")[layer]
            flipped = {key: tensor.flip(-1) if key.endswith("scale_bias") else tensor for key, tensor in vector.inputs.items()}
            again = plan.run(flipped, math="fast")[layer]
            assert torch.equal(fast, vector.outputs[layer]) or vector.in_order, vector.name
            assert torch.equal(again, vector.outputs[layer]) or vector.in_order, vector.name


@pytest.mark.parametrize("name", SPECS)
def test_bundled_specs_agree(name: str) -> None:
    found = dict(vectors.check(SPECS[name], shipped(name), {}))
    assert found == dict.fromkeys(found)
    assert len(found) == len(shipped(name))


def changed(vector: Vector, output: str) -> Vector:
    """One bit of one element is another."""
    tensor = vector.outputs[output]
    part = tensor[-1] if isinstance(tensor, list) else tensor
    part.reshape(-1).view(torch.uint8)[-1] ^= 1
    return vector


def test_one_bit_is_a_finding() -> None:
    name = "w4a8_dynamic.moe"
    for position, vector in enumerate(shipped(name)):
        for output in vector.outputs:
            fresh = shipped(name)[position]
            made = fresh.outputs[output]
            if (made[0] if isinstance(made, list) else made).numel() == 0:
                continue
            ((_, finding),) = vectors.check(SPECS[name], [changed(fresh, output)], {})
            assert finding is not None
            assert finding.code == "verify-vectors"
            assert finding.where.partition(".")[0] == output
            assert "elements differ" in finding.notes[0]
        if position > 2:
            return


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"deleted": ("weight_scale",)}, "still there"),
        ({"parameters": frozenset()}, "parameter of the layer"),
        ({"format_casts": ()}, "cast to FRACTAL_NZ"),
        ({"sizes": {"input_size": 96, "output_size": 20}}, "cannot be run"),
        ({"config": {"group_size": 32, "nothing": 1}}, "cannot be run"),
    ],
    ids=["deleted", "kind", "casts", "sizes", "config"],
)
def test_other_differences_are_findings(change: dict[str, object], words: str) -> None:
    vector = replace(shipped("w4a8_dynamic.linear")[4], **change)  # type: ignore[arg-type]
    ((_, finding),) = vectors.check(SPECS["w4a8_dynamic.linear"], [vector], {})
    assert finding is not None
    assert words in finding.message


def test_a_number_counts() -> None:
    name = "w8a8_mix.linear"
    vector = shipped(name)[0]
    other = replace(vector, outputs={**vector.outputs, "is_kv_consumer": not vector.outputs["is_kv_consumer"]})
    ((_, finding),) = vectors.check(SPECS[name], [other], {})
    assert finding is not None
    assert finding.where == "is_kv_consumer"


def test_strides_and_places_in_storage_count() -> None:
    vector = shipped("w4a8_dynamic.linear")[4]
    weight = vector.outputs["weight"]
    assert isinstance(weight, torch.Tensor)
    transposed = replace(vector, outputs={**vector.outputs, "weight": weight.t().contiguous().t()})
    moved = replace(vector, outputs={**vector.outputs, "weight": torch.cat([weight[:1], weight])[1:]})
    for other, words in ((transposed, "strides"), (moved, "storage")):
        ((_, finding),) = vectors.check(SPECS["w4a8_dynamic.linear"], [other], {})
        assert finding is not None
        assert words in finding.message


def test_what_is_given_chooses_the_vectors() -> None:
    ran = [name for name, _ in vectors.check(SPECS["w4a8_dynamic.linear"], shipped("w4a8_dynamic.linear"), {"version": "1.0.0", "params_dtype": "float16"})]
    assert ran == ["packed row float16"]


def test_vectors_beside_a_spec_come_first(tmp_path: Path) -> None:
    path = tmp_path / "w4a8_dynamic.linear.yaml"
    path.write_text(bundled()["w4a8_dynamic.linear"].read_text())
    spec = load_spec(path)
    assert path_for(spec) == folder() / "vectors" / "w4a8_dynamic.linear.safetensors"
    (tmp_path / "vectors").mkdir()
    own = tmp_path / "vectors" / "w4a8_dynamic.linear.safetensors"
    own.write_bytes(b"nothing")
    assert path_for(spec) == own
    with pytest.raises(DiagnosticError) as error:
        read(own)
    assert error.value.diagnostics[0].code == "vectors-unreadable"
