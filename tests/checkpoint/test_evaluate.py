"""`value` and `invariants` over blocks of rows against `layoutdsl.verify.oracle`, index by index: every bundled spec, every configuration that differs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layoutdsl.api import load_spec
from layoutdsl.bundled import bundled
from layoutdsl.checkpoint.decoded import Decoded, Programs
from layoutdsl.checkpoint.evaluate import bodies_of
from layoutdsl.checkpoint.model import Layer, Part, StoredTensor
from layoutdsl.checkpoint.numbers import LONGEST, Reader, WeighedSums, by_bytes
from layoutdsl.checkpoint.plans import Plans
from layoutdsl.checkpoint.units import Unit, Units
from layoutdsl.checkpoint.values import check_values
from layoutdsl.cli.tensor_file import write
from layoutdsl.compiler.config import settings_of
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.ir.dtypes import ELEMENTS, STORAGES
from layoutdsl.plan import model
from layoutdsl.plan.model import Digit, TensorType
from layoutdsl.runtime.dtypes import dtype_name, torch_dtype
from layoutdsl.syntax.document import NoValue
from layoutdsl.verify.configurations import Configuration, configurations
from layoutdsl.verify.decode import decode
from layoutdsl.verify.oracle import plain
from layoutdsl.verify.tensors import Checkpoint, checkpoint

SIZES = {"input_size": 384, "output_size": 64, "num_experts": 2, "intermediate_size_per_partition": 192, "hidden_size": 384}
WITH_VALUE = [name for name in bundled() if not isinstance(load_spec(name).document.value, NoValue)]


def cases(name: str) -> Iterator[tuple[Configuration, Checkpoint]]:
    """A fresh layer for each way to store one."""
    for configuration, bound, sizes in stored_differently(name):
        yield configuration, checkpoint(configuration, bound, sizes)


@cache
def stored_differently(name: str) -> tuple[tuple[Configuration, model.Plan, dict[str, int]], ...]:
    """One configuration for each way to store a layer, with its plan at some sizes."""
    found = {}
    for configuration in configurations(load_spec(name), {}):
        sizes = {size: SIZES[size] for size in configuration.plan.data.sizes}
        try:
            bound = configuration.plan.bind(sizes).bound
        except DiagnosticError:
            continue  # a group size that does not divide these sizes
        contexts = list(configuration.contexts.values())
        bodies = tuple(id(body) for _, body, _ in bodies_of(configuration.spec.document, contexts).values())
        rules = tuple(contexts[0].holds(rule.condition) for rule in configuration.spec.document.invariants)
        key = (tuple((node.name, node.type) for node in bound.inputs), bodies, rules, configuration.given.get("tp_size"))
        found.setdefault(key, (configuration, bound, sizes))
    return tuple(found.values())


def layer_of(configuration: Configuration, made: Checkpoint, path: Path) -> Layer:
    with open(path, "wb") as file:
        write(file, made.tensors, {})
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header: dict[str, Any] = {name: entry for name, entry in json.loads(raw[8:start]).items() if name != "__metadata__"}
    stored = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = dtype_name(made.tensors[name].dtype)
        stored[name] = {Part(): StoredTensor(f"m.{name}", dtype, tuple(entry["shape"]), path, start + begin, start + end)}
    return Layer("m", configuration.spec.scheme, configuration.spec.layer, dict(configuration.given), stored, "m", "a test")


def platform(configuration: Configuration) -> tuple[str, str, str]:
    settings, given = settings_of(configuration.spec.document), configuration.given
    consumers, devices = settings["consumer"].values or (), settings["device"].values or ()
    return str(given.get("consumer") or consumers[-1]), str(given.get("device") or devices[0]), str(given.get("params_dtype", "bfloat16"))


def test_there_are_enough() -> None:
    assert len(WITH_VALUE) > 20


@pytest.mark.parametrize("name", WITH_VALUE)
def test_value_is_what_the_oracle_says(name: str, tmp_path: Path) -> None:
    ran = 0
    for configuration, made in cases(name):
        layer = layer_of(configuration, made, tmp_path / "layer.safetensors")
        found = {key: array for unit in Units(Plans(*platform(configuration))).of(layer) for key, array in results(unit).items()}
        wanted = {(result, expert): array for result, logical in made.values.items() for expert, array in apart(plain(logical), layer.kind)}
        assert found.keys() == wanted.keys(), configuration.title
        for key, array in wanted.items():
            assert found[key].shape == array.shape
            # float32 rounds a product of up to four factors
            assert np.abs(found[key] - array).max() <= 4 * 2.0**-23 * np.abs(array).max(), (key, configuration.title)
        ran += 1
    assert ran


def test_compiled_loops_read_what_numpy_reads(kernels: Any, tmp_path: Path) -> None:
    """Every number of every block, of one configuration of each spec."""
    if kernels is None:
        pytest.skip("nothing to compare")
    nothing, schemes = np.empty((0, 0), np.float32), set()
    for name in WITH_VALUE:
        configuration, made = next(cases(name))
        for unit in Units(Plans(*platform(configuration))).of(layer_of(configuration, made, tmp_path / "layer.safetensors")):
            if unit.meaning is None or not unit.meaning.weight:
                continue
            decoded, result = Decoded(unit, unit.meaning, Programs()), next(iter(unit.meaning.results))
            sides = decoded.sides(result, 3 * decoded.step, lambda count: None)
            for side, block in zip(sides or (), decoded.blocks(3 * decoded.step, lambda count: None, [result])):
                plain_side = (block[result].reshape(-1).view(np.uint8), kernels.FLOAT32, nothing, nothing)
                signal, noise, largest, _ = kernels.compared(side, plain_side, *block[result].shape, False)
                assert (noise, largest) == (0, 0), configuration.title
                assert signal == pytest.approx(float((block[result].astype(np.float64) ** 2).sum()), rel=1e-5)
                schemes.add(name)
    assert len(schemes) > 15, set(WITH_VALUE) - schemes


def results(unit: Unit) -> dict[tuple[str, int | None], Any]:
    if unit.meaning is None or not unit.meaning.weight:
        return {}
    decoded = Decoded(unit, unit.meaning, Programs())
    blocks: dict[str, list[Any]] = {}
    # Three steps at a time: the last block is shorter.
    for block in decoded.blocks(3 * decoded.step, lambda count: None):
        for name, array in block.items():
            blocks.setdefault(name, []).append(array.astype(np.float64))
    return {(name, unit.expert): np.concatenate(arrays) for name, arrays in blocks.items()}


def apart(logical: Any, kind: str) -> Iterator[tuple[int | None, Any]]:
    if kind.endswith("moe"):
        yield from enumerate(logical.values)
    else:
        yield None, logical.values


@pytest.mark.parametrize("name", [name for name in WITH_VALUE if load_spec(name).document.invariants])
def test_invariants_hold_for_what_the_oracle_makes(name: str, tmp_path: Path, kernels: Any) -> None:
    for configuration, made in cases(name):
        if any(name.endswith("scale_bias") for name in made.tensors) and configuration.given.get("tp_size", 1) != 1:
            continue
        layer = layer_of(configuration, made, tmp_path / "layer.safetensors")
        consumer, device, dtype = platform(configuration)
        findings = list(check_values([layer], Plans(consumer, device, dtype), max_memory=1 << 28, progress=print))
        # Its scales are negative too, and its offsets are never zero unless an invariant says so.
        assert [finding for finding in findings if finding.severity == "error" or finding.code == "invariant-unchecked"] == [], configuration.title


# ---- bytes ---------------------------------------------------------------------------------------------------------------------------------------------------

N, K = 48, 256


def kind(element: str, storage: str, dims: str, lanes: str = "", excess: int = 0) -> TensorType:
    """`n//2 k | n%2` as digits of axes of N and K."""

    def digit(text: str) -> Digit:
        axis, _, rest = text.partition("//")
        whole = {"n": N, "k": K}[text[0]]
        if "%" in text:
            return Digit(text[0], 1, int(text.partition("%")[2]))
        return Digit(axis, int(rest or 1), whole // int(rest or 1))

    parts = [(digit(text),) for text in dims.split()]
    return TensorType(element, excess, storage, "", tuple(parts), tuple(map(digit, lanes.split())), tuple(range(len(parts))), 0, (), "")


KINDS = [
    kind("int8", "int8", "n k"),
    kind("int4", "int8", "n//2 k", "n%2"),
    kind("int4", "uint8", "n k//2", "k%2"),
    kind("int4", "int32", "n k//8", "k%8"),
    kind("int4", "int32", "n k//8", "k%8", 8),
    kind("uint4", "int32", "k n//8", "n%8"),
    kind("int4", "int8", "n k"),
    kind("e2m1", "uint8", "n k//2", "k%2"),
    kind("e2m1", "uint8", "n//2 k", "n%2"),
    kind("e4m3", "float8_e4m3fn", "n k"),
    kind("e8m0", "uint8", "n k"),
    kind("bfloat16", "bfloat16", "n k"),
    kind("float16", "float16", "k n"),
    kind("float32", "float32", "n k"),
]


@pytest.mark.parametrize("one", KINDS, ids=lambda one: f"{one.element}-{one.storage}-{one.excess}-{one.dims[0][0].axis}{len(one.lanes)}")
def test_numbers_are_read_as_bit_by_bit(one: TensorType, kernels: Any) -> None:
    import torch

    size = STORAGES[one.storage].bits // 8 * int(np.prod(one.shape))
    raw = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    tensor = torch.from_numpy(raw.copy()).view(torch_dtype(one.storage)).reshape(one.shape)
    logical = decode(tensor, one, {"n": N, "k": K})
    wanted = logical.values if logical.axes[0] == "n" else logical.values.T
    with np.errstate(invalid="ignore", over="ignore"):
        assert np.array_equal(Reader.of(by_bytes(one), "n")(raw, np.float64), wanted.astype(np.float64), equal_nan=True)
        assert np.array_equal(Reader.of(one, "n")(raw), wanted.astype(np.float32), equal_nan=True)
    for run in (1, 8, 16, 24, 64, 256) if ELEMENTS[one.element].kind in ("int", "uint") else ():
        if K % run == 0:
            for parts in {1, K // run}:
                weights = np.random.default_rng(2).integers(-8, 8, (N, K // run)).astype(np.float64)
                sums = WeighedSums.of(by_bytes(one), "n", run, parts, kernels)(raw, weights)
                added = wanted.astype(np.float64).reshape(N, -1, run).sum(axis=2) * weights
                for found, terms in zip(sums, (added, np.abs(added))):
                    assert np.array_equal(found, terms.reshape(N, parts, -1).sum(axis=2)), (run, parts)
                if one.element != "int4" or one.lanes:  # alone in a byte, these bytes are no int4
                    assert (sums[2] >= sums[1]).all()


def test_sums_of_runs_do_not_overflow(kernels: Any) -> None:
    """A row of the largest and of the smallest codes, far longer than any lane of a word holds."""
    long = 1 << 17
    for element, storage, digits, lanes, code, number in (("int8", "int8", (long,), (), 0x7F, 127), ("int4", "int8", (long // 2,), (2,), 0x88, -8)):
        dims = ((Digit("n", 1, 2),), (Digit("k", lanes[0] if lanes else 1, digits[0]),))
        one = TensorType(element, 0, storage, "", dims, tuple(Digit("k", 1, lane) for lane in lanes), (0, 1), 0, (), "")
        raw = np.full(2 * digits[0], code, np.uint8)
        assert (WeighedSums.of(one, "n", LONGEST, 1, kernels)(raw, np.ones((2, long // LONGEST)))[0] == number * long).all()
