"""Folders that others wrote: compressed-tensors' compressors and msModelSlim's save handlers, on a real model's matrices.

The producers run in processes of their own, for they patch torch as they are imported. What is compared: what `check` says of the folder (nothing); what a
spec's `value` makes of every layer's tensors with what the producer decodes them to (the same bits, once rounded to the producer's dtype); and the weights that
the kernels multiply with after `plan.run`, read off the reference kernels, with that `value`.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from layoutdsl.api import Plan, load_spec
from layoutdsl.checkpoint.folder import read_folder
from layoutdsl.checkpoint.layers import layers_of
from layoutdsl.checkpoint.model import Layer, Part, StoredTensor
from layoutdsl.cli import main
from layoutdsl.plan.model import Input
from layoutdsl.runtime.dtypes import torch_dtype
from layoutdsl.verify import checks, movements, oracle
from layoutdsl.verify.configurations import Configuration, configured
from layoutdsl.verify.decode import Logical, decode
from layoutdsl.verify.layers import layer_of
from layoutdsl.verify.run import applied, counts_of, dtype_of, grid_of, inputs_for, left_on, run
from layoutdsl.verify.tensors import Checkpoint
from layoutdsl.verify.tolerance import FULL
from layoutdsl.verify.trace import Tracer

PRODUCERS = Path(__file__).parent / "producers"
FOLDERS = {
    "int-quantized": ("with_compressed_tensors.py", "a2", {"W8A8_DYNAMIC.linear": 18, "W8A8_DYNAMIC.moe": 1}),
    "pack-quantized": ("with_compressed_tensors.py", "a2", {"W4A16.moe": 1}),
    "modelslim-int": (
        "with_msmodelslim.py",
        "a2",
        {"W8A8_DYNAMIC.linear": 4, "W8A16.linear": 4, "W8A8.linear": 3, "W4A4_DYNAMIC.linear": 3, "W4A8_DYNAMIC.moe": 1},
    ),
    "modelslim-mx": ("with_msmodelslim.py", "a5", {"W8A8_MXFP8.linear": 8, "W4A4_MXFP4.linear": 6, "W4A8_MXFP.moe": 1}),
}
"""Who writes it, for which device, and the layers that it has."""
CONSUMER = "vllm-ascend-0.23"


@pytest.fixture(scope="session")
def produced(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The folders, written once by their producers, for all processes that test."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if hasattr(request.config, "workerinput") else base) / "produced"
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _produce(Path(f"{path}.unfinished"))
            Path(f"{path}.unfinished").rename(path)
    return path


def _produce(path: Path) -> None:
    path.mkdir(exist_ok=True)
    for script in dict.fromkeys(script for script, _, _ in FOLDERS.values()):
        ran = subprocess.run([sys.executable, str(PRODUCERS / script), str(path)], capture_output=True, text=True, check=False, cwd=path)
        assert ran.returncode == 0, f"{script} failed; `pip install -e .[torch,demo,dev]` installs what it needs:\n{ran.stderr[-4000:]}"


@dataclass(frozen=True)
class Loaded:
    """One layer as a loader gives it to a plan. exact: before the loader's conversion to the parameter's dtype."""

    layer: Layer
    configuration: Configuration
    shapes: dict[str, tuple[int, ...]]
    exact: dict[str, torch.Tensor]

    @cached_property
    def plan(self) -> Plan:
        return self.configuration.plan.bind_to(self.shapes)

    @property
    def inputs(self) -> dict[str, Input]:
        return {node.name: node for node in self.plan.bound.inputs}

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: tensor.to(torch_dtype(self.inputs[name].type.storage)) for name, tensor in self.exact.items()}

    def decoded(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, Logical]:
        """By each parameter's type, with the dtype of these tensors where they are plain floats."""
        found = {}
        extents = {axis: extent for axis, extent in self.plan.bound.axes if isinstance(extent, int)}
        for name, node in self.inputs.items():
            kind = node.type
            if name in tensors and tensors[name].dtype == torch.float32 and kind.element == kind.storage:
                kind = replace(kind, element="float32", storage="float32")
            given = tensors.get(name, torch.full(kind.shape, node.default if isinstance(node.default, (int, float)) else 0).to(torch_dtype(kind.storage)))
            found[name] = decode(given, kind, extents)
        return found

    def values(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, Logical]:
        configuration = self.configuration
        return oracle.values(configuration.spec.document, configuration.contexts, self.plan.sizes, self.decoded(tensors))


def loaded(layer: Layer, device: str) -> Loaded:
    spec = load_spec(layer.scheme, layer.kind)
    given = {"consumer": CONSUMER, "device": device, "params_dtype": "bfloat16", **layer.config}
    configuration = configured(spec, {name: value for name, value in given.items() if name in spec.config_names})
    exact = {name: stacked(parts) for name, parts in layer.stored.items()}
    return Loaded(layer, configuration, {name: tuple(tensor.shape) for name, tensor in exact.items()}, exact)


def stacked(parts: Mapping[Part, StoredTensor]) -> torch.Tensor:
    """Parts as a loader puts them together: experts stacked, gate above up."""
    tensors = {part: load_file(stored.file)[stored.name] for part, stored in parts.items()}
    if set(tensors) == {Part()}:
        return tensors[Part()]
    experts = range(1 + max(part.expert for part in tensors))
    rows = [[tensors[Part(expert, segment)] for segment in ("gate", "up", "") if Part(expert, segment) in tensors] for expert in experts]
    return torch.stack([torch.cat(own) if own[0].dim() > 1 or len(own) == 1 else own[0] for own in rows])


def producers(path: Path, layer: Layer) -> dict[str, torch.Tensor]:
    """What the producer decodes a layer to, by the names of the spec's values: float, stacked as the parameters are."""
    decoded = load_file(path.with_name(path.name + ".decoded.safetensors"))
    if layer.kind == "linear":
        return {"W": decoded[layer.prefix]}
    expert = [{name: decoded[f"{layer.prefix}.{e}.{name}_proj"] for name in ("gate", "up", "down")} for e in (0, 1)]
    return {"w13": torch.stack([torch.cat([own["gate"], own["up"]]) for own in expert]), "w2": torch.stack([own["down"] for own in expert])}


@pytest.fixture(scope="session", params=FOLDERS)
def folder(request: pytest.FixtureRequest, produced: Path) -> tuple[Path, list[Loaded]]:
    path = produced / request.param
    _, device, _ = FOLDERS[request.param]
    layers, findings = layers_of(read_folder(path), CONSUMER, device)
    assert findings == []
    return path, [loaded(layer, device) for layer in layers]


def test_layers_are_recognised(folder: tuple[Path, list[Loaded]]) -> None:
    path, layers = folder
    assert Counter(f"{one.layer.scheme}.{one.layer.kind}" for one in layers) == FOLDERS[path.name][2]


@pytest.mark.parametrize("options", [(), ("--data",), ("-tp", "2"), ("-tp", "2", "--enable-expert-parallel")], ids=" ".join)
def test_check_finds_nothing(folder: tuple[Path, list[Loaded]], options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = folder
    code = main(["check", str(path), "--device", FOLDERS[path.name][1], "--format", "json", *options])
    out, err = capsys.readouterr()
    assert code == 0, out + err
    assert [finding for finding in json.loads(out) if finding["severity"] != "note"] == []


def test_values_are_what_the_producer_decodes(folder: tuple[Path, list[Loaded]]) -> None:
    path, layers = folder
    for one in layers:
        values = one.values(one.exact)
        for name, theirs in producers(path, one.layer).items():
            ours = torch.from_numpy(values[name].values.copy())
            assert ours.shape == theirs.shape
            assert torch.equal(ours.to(theirs.dtype), theirs), (one.layer.prefix, name)


@pytest.mark.parametrize("fault", ["nibbles", "groups", "gate and up", "experts"])
def test_the_comparison_can_fail(produced: Path, fault: str) -> None:
    """One fault that no header shows, in the packed experts of compressed-tensors."""
    path = produced / "pack-quantized"
    (layer,) = layers_of(read_folder(path), CONSUMER, "a2")[0]
    one = loaded(layer, "a2")
    packed, scale = one.exact["w13_weight_packed"], one.exact["w13_weight_scale"]
    if fault == "nibbles":
        packed.copy_((packed & 0x0F0F0F0F) << 4 | packed >> 4 & 0x0F0F0F0F)
    if fault == "groups":
        scale.copy_(scale.roll(1, dims=2))
    if fault == "gate and up":
        packed.copy_(packed.roll(packed.shape[1] // 2, dims=1))
    if fault == "experts":
        packed.copy_(packed.flip(0))
    theirs = producers(path, layer)["w13"]
    assert not torch.equal(torch.from_numpy(one.values(one.exact)["w13"].values.copy()).to(theirs.dtype), theirs)


def test_kernels_multiply_with_these_values(folder: tuple[Path, list[Loaded]]) -> None:
    """One layer of every scheme and shape: what `plan.run` leaves, and what the kernels make of it."""
    _, layers = folder
    for one in {(one.layer.scheme, tuple(one.shapes.values())): one for one in layers}.values():
        plan, made = one.plan, Checkpoint(one.tensors, one.decoded(one.tensors), one.values(one.tensors))
        results, module = plan.run(dict(one.tensors)), applied(plan, one.tensors)
        assert movements.check(plan.bound, made, results, one.layer.prefix) is None
        assert movements.check(plan.bound, made, left_on(module, plan), one.layer.prefix) is None
        layer = layer_of(one.configuration.spec.document, one.configuration.plan.data, made)
        counts = counts_of(2) if layer.experts else None
        rows = inputs_for(sum(counts) if counts else 3, layer.products[0].whole, dtype_of(one.configuration), grid_of(plan, made.stored), counts)
        case = checks.Case(one.configuration, made, layer, run(plan, Tracer(plan.bound), module, rows), rows, one.layer.prefix, FULL)
        assert checks.not_comparable(case) is None
        assert checks.not_probed(case) == []
        assert checks.weights(case) is None
