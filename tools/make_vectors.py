"""Write ``specs/vectors/``: what the replaced system makes of small tensors, for ``layoutdsl verify`` to compare with bit for bit.

    python -m tools.make_vectors

Independent of ``layoutdsl``: the results are those of ``tests/golden/reference.py``, plain torch that was proved on recordings of that system. A file
holds, per case, ``CASE/in/NAME`` and ``CASE/out/NAME`` (element i of a list: ``CASE/out/NAME.i``), and in its metadata config, sizes, strides and storage
offsets, what is gone, and the casts to FRACTAL_NZ.

Float sums depend on their order, and that on the machine. So all sums but those of the cases called ``... in order`` are exact in float32: scales have few
significant bits, and the terms of one sum have nearly one exponent. The same script gives the same bytes everywhere.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
from safetensors.torch import save_file

from tests.golden.reference import HEAD, RELEASE, SEED, Declared, Layer, LinearCase, MoeCase, linear, linear_parameters, moe, moe_parameters

FOLDER = Path(__file__).resolve().parents[1] / "specs" / "vectors"
VERSION = 1


@dataclass(frozen=True)
class Vector:
    """One case: its name, what the reference is asked, and what of the config the reference has no name for."""

    name: str
    case: Union[LinearCase, MoeCase]
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def in_order(self) -> bool:
        return self.name.endswith("in order")


LINEAR = (
    Vector("packed column", LinearCase(96, 24, 32, packed=True)),
    Vector("packed row", LinearCase(80, 40, 16, packed=True, row=True)),
    Vector("packed row float16", LinearCase(96, 40, 32, packed=True, row=True, params=torch.float16)),
    Vector("packed without nz", LinearCase(48, 16, 16, packed=True), {"weight_nz_mode": 0}),
    Vector("unpacked column", LinearCase(96, 24, 32)),
    Vector("unpacked row", LinearCase(80, 40, 16, row=True)),
    Vector("unpacked column float16", LinearCase(96, 40, 32, params=torch.float16)),
    Vector("unpacked without nz", LinearCase(48, 16, 16), {"weight_nz_mode": 0}),
    Vector("one group", LinearCase(32, 8, 32)),
    Vector("packed by default", LinearCase(512, 8, 256, packed=True)),
    Vector("unpacked row in order", LinearCase(448, 40, 64, row=True)),
    Vector("unpacked column float16 in order", LinearCase(192, 24, 64, params=torch.float16)),
)
SMALL, ODD = (3, 16, 24), (3, 40, 24)
MOE = (
    Vector("0.16 packed group", MoeCase(*ODD, 8, SEED, packed=True, tp=2)),
    Vector("0.16 packed channel", MoeCase(*SMALL, 0, SEED, packed=True, tp=2)),
    Vector("0.16 packed channel, one partial sum", MoeCase(*SMALL, 0, SEED, packed=True, tp=16)),
    Vector("0.16 packed without nz", MoeCase(2, 16, 16, 0, SEED, packed=True), {"weight_nz_mode": 0}),
    Vector("0.16 unpacked group", MoeCase(*ODD, 8, SEED)),
    Vector("0.16 unpacked group, one expert", MoeCase(1, 24, 40, 8, SEED)),
    Vector("0.16 unpacked channel", MoeCase(*SMALL, 0, SEED)),
    Vector("0.16 compressed group", MoeCase(*ODD, 8, SEED, ct=True)),
    Vector("0.16 compressed channel", MoeCase(*SMALL, 0, SEED, ct=True)),
    Vector("0.23 packed group", MoeCase(*ODD, 8, RELEASE, packed=True, tp=2)),
    Vector("0.23 unpacked group", MoeCase(*ODD, 8, RELEASE)),
    Vector("0.23 packed channel", MoeCase(*SMALL, 0, RELEASE, packed=True, tp=2)),
    Vector("0.23 packed channel, lists", MoeCase(*SMALL, 0, RELEASE, packed=True, tp=2, lists=True)),
    Vector("0.23 compressed group", MoeCase(*ODD, 8, RELEASE, ct=True)),
    Vector("0.23 compressed channel, lists", MoeCase(*SMALL, 0, RELEASE, ct=True, lists=True)),
    Vector("0.16 packed group by default", MoeCase(1, 256, 256, 256, SEED, packed=True)),
    Vector("main packed by default", MoeCase(*SMALL, 0, HEAD, packed=True, tp=2)),
    Vector("main packed", MoeCase(*SMALL, 0, HEAD, packed=True, tp=2)),
    Vector("main packed, lists", MoeCase(*SMALL, 0, HEAD, packed=True, tp=4, lists=True)),
    Vector("main packed, mega", MoeCase(*SMALL, 0, HEAD, packed=True, tp=2, mega=True)),
    Vector("main compressed", MoeCase(*SMALL, 0, HEAD, ct=True)),
    Vector("main compressed, lists", MoeCase(*SMALL, 0, HEAD, ct=True, lists=True)),
    Vector("main compressed, mega", MoeCase(*SMALL, 0, HEAD, ct=True, mega=True)),
    Vector("0.16 packed channel in order", MoeCase(2, 64, 16, 0, SEED, packed=True)),
    Vector("0.16 unpacked group in order", MoeCase(1, 96, 48, 16, SEED)),
    Vector("0.23 compressed group in order", MoeCase(1, 96, 48, 16, RELEASE, ct=True)),
)
FILES = {"w4a8_dynamic.linear": LINEAR, "w4a8_dynamic.moe": MOE}


# ---- what the compiler is given -------------------------------------------------------------------------------------------------------------------------


def config_of(vector: Vector) -> dict[str, Any]:
    case = vector.case
    groups = {} if vector.name.endswith("by default") else {"group_size": case.g}
    config = {**groups, **({"version": "1.0.0"} if case.packed else {}), **vector.config}
    if isinstance(case, LinearCase):
        return {"layer_type": "row" if case.row else "column", "params_dtype": str(case.params).removeprefix("torch."), **config}
    config |= {"consumer": case.consumer, "tp_size": case.tp}
    if case.ct:
        config |= {"quant_method": "compressed-tensors", "weight_strategy": "group" if case.g else "channel"}
    return config | ({"expert_lists": True} if case.lists else {}) | ({"mega_moe": True, "fused_mc2": 1} if case.mega else {})


def sizes_of(case: Union[LinearCase, MoeCase]) -> dict[str, int]:
    if isinstance(case, LinearCase):
        return {"input_size": case.K, "output_size": case.N}
    return {"num_experts": case.E, "intermediate_size_per_partition": case.I, "hidden_size": case.H}


# ---- tensors --------------------------------------------------------------------------------------------------------------------------------------------


def inputs_of(vector: Vector) -> dict[str, torch.Tensor]:
    # The legacy generator: numpy promises that its stream never changes.
    random = np.random.RandomState(zlib.crc32(vector.name.encode()))
    declared = linear_parameters(vector.case) if isinstance(vector.case, LinearCase) else moe_parameters(vector.case)
    packed = vector.case.packed and not getattr(vector.case, "ct", False)
    return {name: _tensor(name, declared, packed, vector.in_order, random) for name in declared}


def _tensor(name: str, declared: Declared, packed: bool, in_order: bool, random: np.random.RandomState) -> torch.Tensor:
    shape, dtype = declared[name]
    if dtype == torch.int8:
        return torch.from_numpy(_integers(shape, packed, random))
    if "offset" in name:
        return torch.from_numpy(random.randint(-9, 10, shape).astype(np.float64)).to(dtype)
    if in_order:
        return torch.from_numpy(random.standard_normal(shape)).to(dtype)
    # Bits of a significand: a scale of two levels has 8 + 6, more than float16 takes, and a sum of at most 96 terms with int4 weights still fits into float32.
    two_levels = name + "_second" in declared
    bits = 6 if name.endswith("second") else 16 if name.endswith("bias") else 8
    values = _scales(shape, bits, random)
    if not name.endswith("second"):
        values = values * _row_exponents(shape, two_levels, random)
    return torch.from_numpy(values).to(dtype)


def _integers(shape: tuple[int, ...], packed: bool, random: np.random.RandomState) -> np.ndarray:
    """Every byte, or every int4; the least and the greatest side by side."""
    low, high = (-128, 128) if packed else (-8, 8)
    values = random.randint(low, high, shape).astype(np.int8)
    values[..., :2] = (low, high - 1)
    return values


def _scales(shape: tuple[int, ...], bits: int, random: np.random.RandomState) -> np.ndarray:
    """Odd significands of this many bits in one octave, both signs, with zeros of both signs."""
    significand = random.randint(1 << (bits - 2), 1 << (bits - 1), shape) * 2 + 1
    sign = np.where(random.random_sample(shape) < 0.5, -1.0, 1.0)
    values = sign * significand / (1 << (bits - 1))
    return np.where(random.random_sample(shape) < 0.05, 0.0 * sign, values)


def _row_exponents(shape: tuple[int, ...], two_levels: bool, random: np.random.RandomState) -> np.ndarray:
    """A power of two per row, the same for all terms of a sum. Two rows are beyond float16, one of them, where the dtype is not that, far beyond it."""
    rows = random.randint(-9, 3, (*shape[:-1], 1))
    rows[..., 1, :], rows[..., 2, :] = (15, -19) if two_levels else (18, -27)
    return np.exp2(rows.astype(np.float64))


# ---- files ----------------------------------------------------------------------------------------------------------------------------------------------


def vectors(layer: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata of one file."""
    tensors: dict[str, torch.Tensor] = {}
    cases = []
    for vector in FILES[layer]:
        inputs = inputs_of(vector)
        result = linear(vector.case, inputs) if isinstance(vector.case, LinearCase) else moe(vector.case, inputs)
        tensors |= {f"{vector.name}/in/{name}": tensor for name, tensor in inputs.items()}
        outputs = {}
        for name, made in result.tensors.items():
            parts = {f"{name}.{i}": part for i, part in enumerate(made)} if isinstance(made, list) else {name: made}
            # The replaced system swaps the data of parameters or makes new ones; only its lists are plain attributes.
            listed = isinstance(made, list)
            strides, offsets = [list(part.stride()) for part in parts.values()], [part.storage_offset() for part in parts.values()]
            outputs[name] = {"strides": strides, "offsets": offsets, "list": listed, "parameter": not listed}
            tensors |= {f"{vector.name}/out/{key}": part.contiguous().clone() for key, part in parts.items()}
        cases.append(_case(vector, inputs, outputs, result))
    return tensors, {"version": VERSION, "spec": layer, "cases": cases}


def _case(vector: Vector, inputs: dict[str, torch.Tensor], outputs: dict[str, Any], result: Layer) -> dict[str, Any]:
    casts = [] if vector.config.get("weight_nz_mode") == 0 else [[shape, str(dtype).removeprefix("torch.")] for shape, dtype in result.casts]
    return {
        "name": vector.name,
        "config": config_of(vector),
        "sizes": sizes_of(vector.case),
        "in_order": vector.in_order,
        "outputs": outputs,
        "deleted": sorted(inputs.keys() - result.tensors.keys()),
        "format_casts": casts,
    }


def main(folder: Path = FOLDER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        tensors, metadata = vectors(name)
        save_file(tensors, folder / f"{name}.safetensors", {"vectors": json.dumps(metadata)})
        print(f"{name}: {len(metadata['cases'])} cases, {(folder / f'{name}.safetensors').stat().st_size} bytes")


if __name__ == "__main__":
    main()
