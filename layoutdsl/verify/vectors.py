"""The vectors that are shipped with a spec: small tensors, and what the replaced system makes of them, compared bit for bit.

First check of ``verify``. The vectors are written by a script that knows nothing of layoutdsl (``tools/make_vectors.py``).

Invariants: a difference in a name, a dtype, a shape, a stride or one bit is a finding; the first of a vector is reported.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from layoutdsl.api import Plan, Spec
from layoutdsl.bundled import folder
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.verify.compare import difference
from layoutdsl.verify.configurations import configured

VERSION = 1
_SUMS_IN_ORDER = platform.machine().lower() in ("x86_64", "amd64")
"""Where torch adds in the order of the machine on which the vectors were written; elsewhere the last bits of rounded float sums may differ."""


@dataclass(frozen=True, slots=True)
class Vector:
    """One case. outputs: a tensor with the strides that it has, a list of them or a Python number by name; parameters: those of them that are parameters of
    the layer; deleted: names that are gone; format_casts: shape and dtype."""

    name: str
    config: Mapping[str, Any]
    sizes: Mapping[str, int]
    in_order: bool
    inputs: Mapping[str, torch.Tensor]
    outputs: Mapping[str, torch.Tensor | list[torch.Tensor] | float]
    parameters: frozenset[str]
    deleted: tuple[str, ...]
    format_casts: tuple[tuple[tuple[int, ...], str], ...]


def path_for(spec: Spec) -> Path | None:
    """The vectors beside a spec, else those that are bundled for its scheme and layer; None if there are none."""
    name = f"{spec.scheme.lower()}.{spec.layer.lower()}.safetensors"
    beside = Path(spec.document.source.name).parent / "vectors" / name
    return next((path for path in (beside, folder() / "vectors" / name) if path.is_file()), None)


def read(path: Path) -> list[Vector]:
    """All vectors of a file. Raises: DiagnosticError (``vectors-unreadable``)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {})["vectors"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        if described["version"] != VERSION:
            raise ValueError(f"its version is {described['version']}, not {VERSION}")
        return [_vector(case, tensors) for case in described["cases"]]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        message = f"these are no vectors: {error if isinstance(error, ValueError) else type(error).__name__ + ' ' + str(error)}"
        raise DiagnosticError(
            Diagnostic(code="vectors-unreadable", message=message, where=str(path), helps=("write them with tools/make_vectors.py",))
        ) from None


def _vector(case: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Vector:
    name = case["name"]
    inputs = {key.removeprefix(f"{name}/in/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/in/")}
    outputs: dict[str, torch.Tensor | list[torch.Tensor] | float] = dict(case.get("numbers", {}))
    for output, entry in case["outputs"].items():
        keys = [f"{name}/out/{output}.{i}" for i in range(len(entry["strides"]))] if entry["list"] else [f"{name}/out/{output}"]
        parts = [_strided(tensors[key], strides, offset) for key, strides, offset in zip(keys, entry["strides"], entry["offsets"])]
        outputs[output] = parts if entry["list"] else parts[0]
    casts = tuple((tuple(shape), dtype) for shape, dtype in case["format_casts"])
    parameters = frozenset(output for output, entry in case["outputs"].items() if entry["parameter"])
    return Vector(name, case["config"], case["sizes"], case["in_order"], inputs, outputs, parameters, tuple(case["deleted"]), casts)


def _strided(tensor: torch.Tensor, strides: list[int], offset: int) -> torch.Tensor:
    """A copy that lies in memory as the recorded tensor did."""
    length = offset + 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, strides))
    return torch.zeros(length, dtype=tensor.dtype).as_strided(tensor.shape, strides, offset).copy_(tensor)


# ---- the check ------------------------------------------------------------------------------------------------------------------------------------------


def check(spec: Spec, vectors: list[Vector], given: Mapping[str, Any]) -> Iterator[tuple[str, Diagnostic | None]]:
    """Every vector whose config agrees with what is given: its name, and the first difference if there is one."""
    for vector in vectors:
        try:
            made = configured(spec, vector.config)
            config = made.compiled.state.world.config
            if any(config.get(name) != value for name, value in given.items()):
                continue
            found = _compared(made.plan.bind(vector.sizes), vector)
        except DiagnosticError as error:
            found = _refused(vector, error.diagnostics[0])
        yield vector.name, found


def _refused(vector: Vector, reason: Diagnostic) -> Diagnostic:
    message = f"the vector `{vector.name}` cannot be run: {reason.message}"
    return Diagnostic(code="verify-vectors", message=message, where=reason.where or vector.name, span=reason.span, notes=reason.notes)


def _compared(plan: Plan, vector: Vector) -> Diagnostic | None:
    results = plan.run({name: tensor.clone() for name, tensor in vector.inputs.items()})
    kept = [name for name in vector.deleted if name in results]
    if kept:
        return _finding(vector, kept[0], "is still there, and should be gone")
    loose = () if _SUMS_IN_ORDER or not vector.in_order else [output.name for output in plan.bound.outputs if output.bits == "sum"]
    found = difference(results, vector.outputs, close=loose, offsets=True)
    if found is not None:
        return _finding(vector, found.name, found.message, *found.notes)
    for output in plan.bound.outputs:
        if (output.kind == "parameter") != (output.name in vector.parameters):
            return _finding(vector, output.name, f"is {'no' if output.name in vector.parameters else 'a'} parameter of the layer")
    casts = tuple((tuple(cast["shape"]), cast["dtype"]) for cast in plan.format_casts)
    if casts != vector.format_casts:
        return _finding(vector, "weight", "is cast to FRACTAL_NZ otherwise", f"found {_casts_text(casts)}", f"expected {_casts_text(vector.format_casts)}")
    return None


def _casts_text(casts: tuple[tuple[tuple[int, ...], str], ...]) -> str:
    return ", ".join(f"{dtype}{list(shape)}" for shape, dtype in casts) or "no cast"


def _finding(vector: Vector, name: str, message: str, *notes: str) -> Diagnostic:
    config = ", ".join(f"{key} = {value}" for key, value in vector.config.items())
    return Diagnostic(code="verify-vectors", message=f"`{name}` {message}", where=name, notes=(*notes, f"in the shipped vector `{vector.name}`: {config}"))
