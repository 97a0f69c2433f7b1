"""Write ``specs/vectors/``: what the replaced system makes of small tensors, for ``layoutdsl verify`` to compare with bit for bit.

    python -m tools.make_vectors

Independent of ``layoutdsl``: the results are those of ``tests/golden/reference``, plain torch that was proved on recordings of that system. A file
holds, per case, ``CASE/in/NAME`` and ``CASE/out/NAME`` (element i of a list: ``CASE/out/NAME.i``), and in its metadata config, sizes, strides and storage
offsets, Python numbers, what is gone, and the casts to FRACTAL_NZ.

Float sums depend on their order, and that on the machine. So all sums but those of the cases called ``... in order`` are exact in float32: scales have few
significant bits, and the terms of one sum have nearly one exponent. The same script gives the same bytes everywhere.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tests.golden.cases import TABLE, small_cases
from tests.golden.reference import HEAD, RELEASE, SEED, Case, Declared, Layer, Stored, load, parameters

FOLDER = Path(__file__).resolve().parents[1] / "specs" / "vectors"
VERSION = 1


@dataclass(frozen=True)
class Vector:
    """One case: its name, and what the reference and the compiler are asked."""

    name: str
    case: Case

    @property
    def in_order(self) -> bool:
        return self.name.endswith("in order")


# ---- cases ----------------------------------------------------------------------------------------------------------------------------------------------


def _linear(name: str, K: int, N: int, g: int, **config: Any) -> Vector:  # noqa: N803
    groups = {} if name.endswith("by default") else {"group_size": g}
    params = torch.float16 if "float16" in name else torch.bfloat16
    version = {"version": "1.0.0"} if "unpacked" not in name and "packed" in name else {}
    split = {"layer_type": "row" if " row" in name else "column"}
    return Vector(name, Case("w4a8_dynamic", "linear", {"input_size": K, "output_size": N}, {"consumer": SEED, **split, **groups, **version, **config}, params))


def _moe(name: str, E: int, H: int, I: int, g: int, *, tp: int = 1) -> Vector:  # noqa: E741, N803
    consumer = {"0.16": SEED, "0.23": RELEASE, "main": HEAD}[name.split()[0]]
    config: dict[str, Any] = {"consumer": consumer, "tp_size": tp}
    if not name.endswith("by default"):
        config["group_size"] = g
    if "compressed" in name:
        config |= {"quant_method": "compressed-tensors", "weight_strategy": "group" if g else "channel"}
    elif " packed" in name:
        config["version"] = "1.0.0"
    if "lists" in name:
        config["expert_lists"] = True
    if "mega" in name:
        config |= {"mega_moe": True, "fused_mc2": 1}
    if "without nz" in name:
        config["weight_nz_mode"] = 0
    sizes = {"num_experts": E, "intermediate_size_per_partition": I, "hidden_size": H}
    return Vector(name, Case("w4a8_dynamic", "moe", sizes, config))


LINEAR = (
    _linear("packed column", 96, 24, 32),
    _linear("packed row", 80, 40, 16),
    _linear("packed row float16", 96, 40, 32),
    _linear("packed without nz", 48, 16, 16, weight_nz_mode=0),
    _linear("unpacked column", 96, 24, 32),
    _linear("unpacked row", 80, 40, 16),
    _linear("unpacked column float16", 96, 40, 32),
    _linear("unpacked without nz", 48, 16, 16, weight_nz_mode=0),
    _linear("one group", 32, 8, 32),
    _linear("packed by default", 512, 8, 256),
    _linear("unpacked row in order", 448, 40, 64),
    _linear("unpacked column float16 in order", 192, 24, 64),
)
SMALL, ODD = (3, 16, 24), (3, 40, 24)
MOE = (
    _moe("0.16 packed group", *ODD, 8, tp=2),
    _moe("0.16 packed channel", *SMALL, 0, tp=2),
    _moe("0.16 packed channel, one partial sum", *SMALL, 0, tp=16),
    _moe("0.16 packed without nz", 2, 16, 16, 0),
    _moe("0.16 unpacked group", *ODD, 8),
    _moe("0.16 unpacked group, one expert", 1, 24, 40, 8),
    _moe("0.16 unpacked channel", *SMALL, 0),
    _moe("0.16 compressed group", *ODD, 8),
    _moe("0.16 compressed channel", *SMALL, 0),
    _moe("0.23 packed group", *ODD, 8, tp=2),
    _moe("0.23 unpacked group", *ODD, 8),
    _moe("0.23 packed channel", *SMALL, 0, tp=2),
    _moe("0.23 packed channel, lists", *SMALL, 0, tp=2),
    _moe("0.23 compressed group", *ODD, 8),
    _moe("0.23 compressed channel", *SMALL, 0),
    _moe("0.23 compressed channel, lists", *SMALL, 0),
    _moe("0.16 packed group by default", 1, 256, 256, 256),
    _moe("main packed by default", *SMALL, 0, tp=2),
    _moe("main packed", *SMALL, 0, tp=2),
    _moe("main packed, lists", *SMALL, 0, tp=4),
    _moe("main packed, mega", *SMALL, 0, tp=2),
    _moe("main compressed", *SMALL, 0),
    _moe("main compressed, lists", *SMALL, 0),
    _moe("main compressed, mega", *SMALL, 0),
    _moe("0.16 packed channel in order", 2, 64, 16, 0),
    _moe("0.16 unpacked group in order", 1, 96, 48, 16),
    _moe("0.23 compressed group in order", 1, 96, 48, 16),
)


def _named(case: Case) -> Vector:
    """Called by what the config says: system, device, dtype of the model, and the rest."""
    rest = {name: value for name, value in case.config.items() if name not in ("consumer", "device", "prefix")}
    said = [case.consumer.removeprefix("vllm-ascend-"), case.config.get("device", ""), str(case.params).removeprefix("torch.")]
    return Vector(" ".join([*filter(None, said), *(f"{name}={value}" for name, value in rest.items())]), case)


FILES: dict[str, tuple[Vector, ...]] = {"w4a8_dynamic.linear": LINEAR, "w4a8_dynamic.moe": MOE}
FILES |= {name: tuple(_named(case) for case in small_cases(name)) for name in TABLE}


# ---- tensors --------------------------------------------------------------------------------------------------------------------------------------------


def inputs_of(vector: Vector) -> dict[str, torch.Tensor]:
    # The legacy generator: numpy promises that its stream never changes.
    random = np.random.RandomState(zlib.crc32(vector.name.encode()))
    declared = parameters(vector.case)
    if vector.case.scheme == "w4a8_dynamic":
        return {name: _summed(name, declared, vector.in_order, random) for name in declared}
    return {name: _moved(stored, random) for name, stored in declared.items()}


def _moved(stored: Stored, random: np.random.RandomState) -> torch.Tensor:
    """Every bit pattern of a byte, every int4, scales of both signs with zeros of both."""
    shape, dtype, holds = stored
    if holds == "power_of_two":
        return torch.from_numpy(np.exp2(random.randint(-127, 128, shape).astype(np.float64))).to(dtype)
    if dtype.is_floating_point and dtype.itemsize > 1:
        values = random.randint(1 - (1 << 23), 1 << 23, shape) / (1 << 22)
        values.reshape(-1)[1:3] = (0.0, -0.0)[: values.size - 1]
        return torch.from_numpy(np.abs(values) if holds == "positive" else values).to(dtype)
    # An int64 is a float32 whose sign was extended.
    kind = torch.uint8 if dtype.is_floating_point else torch.int32 if dtype == torch.int64 else dtype
    low, high = (-8, 7) if holds == "int4" else (torch.iinfo(kind).min, torch.iinfo(kind).max)
    codes = torch.from_numpy(random.randint(low, high + 1, shape, dtype=np.int64)).to(kind)
    codes.view(-1)[:2] = torch.tensor([low, high])[: codes.numel()]
    return codes.view(dtype) if dtype.is_floating_point else codes.to(dtype)


def _summed(name: str, declared: Declared, in_order: bool, random: np.random.RandomState) -> torch.Tensor:
    """Of W4A8, where float32 sums are made."""
    shape, dtype, holds = declared[name]
    if dtype == torch.int8:
        return torch.from_numpy(_integers(shape, holds == "any", random))
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
    values[..., :2] = (low, high - 1)[: shape[-1]]
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
        result = load(vector.case, inputs)
        tensors |= {f"{vector.name}/in/{name}": tensor for name, tensor in inputs.items()}
        outputs = {}
        for name, made in result.tensors.items():
            parts = {f"{name}.{i}": part for i, part in enumerate(made)} if isinstance(made, list) else {name: made}
            strides, offsets = [list(part.stride()) for part in parts.values()], [part.storage_offset() for part in parts.values()]
            outputs[name] = {"strides": strides, "offsets": offsets, "list": isinstance(made, list), "parameter": name not in result.attributes}
            tensors |= {f"{vector.name}/out/{key}": part.contiguous().clone() for key, part in parts.items()}
        cases.append(_case(vector, inputs, outputs, result))
    return tensors, {"version": VERSION, "spec": layer, "cases": cases}


def _case(vector: Vector, inputs: dict[str, torch.Tensor], outputs: dict[str, Any], result: Layer) -> dict[str, Any]:
    case = vector.case
    casts = [[shape, str(dtype).removeprefix("torch.")] for shape, dtype, _ in result.casts]
    return {
        "name": vector.name,
        "config": {**case.config, "params_dtype": str(case.params).removeprefix("torch.")},
        "sizes": dict(case.sizes),
        "in_order": vector.in_order,
        "outputs": outputs,
        "numbers": result.numbers,
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
