"""What a checkpoint has, tensor by tensor, under the names of a float model: values that are stored, and values that a quantized module means.

Under ``diff``, which compares two of them.

Invariants: every tensor of the files is one of these, or part of one, or named as what cannot be decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Union

from layoutdsl.checkpoint.model import Layer, StoredTensor
from layoutdsl.checkpoint.units import Meaning, Unit, Units
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.ir.dtypes import STORAGES
from layoutdsl.syntax.document import NoValue


@dataclass(frozen=True, slots=True)
class Model:
    """One side. tensors: all that its files hold. layers: its quantized layers, found for this consumer and device. params_dtype: of the model."""

    tensors: Mapping[str, StoredTensor]
    layers: Sequence[Layer]
    consumer: str
    device: str
    params_dtype: str = "bfloat16"


@dataclass(frozen=True, slots=True)
class Plain:
    """A tensor that is what it stores."""

    tensor: StoredTensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def scheme(self) -> str:
        return self.tensor.dtype


@dataclass(frozen=True, slots=True)
class Quantized:
    """One result of ``value`` of a unit."""

    unit: Unit
    result: str

    @property
    def shape(self) -> tuple[int, ...]:
        return meaning_of(self).result_shapes[self.result]

    @property
    def scheme(self) -> str:
        return self.unit.layer.scheme


Source = Union[Plain, Quantized]


@dataclass(frozen=True, slots=True)
class Sources:
    """What one side has, by the name that it has in a float model. optional: what the other side need not have. undecoded: what has no values
    here, and why."""

    found: Mapping[str, Source]
    optional: frozenset[str]
    undecoded: Mapping[str, str]

    def only(self, wanted: Callable[[str], bool]) -> Sources:
        found = {name: source for name, source in self.found.items() if wanted(name)}
        return Sources(found, self.optional, {name: why for name, why in self.undecoded.items() if wanted(name)})


def meaning_of(source: Quantized) -> Meaning:
    assert source.unit.meaning is not None
    return source.unit.meaning


def sources(model: Model, units: Units) -> Sources:
    """What a side has."""
    found: dict[str, Source] = {}
    optional: set[str] = set()
    undecoded: dict[str, str] = {}
    taken: set[str] = set()
    for layer in model.layers:
        taken |= {tensor.name for parts in layer.stored.values() for tensor in parts.values()}
        for unit in units.of(layer):
            meaning = unit.meaning
            if meaning is not None and meaning.weight:
                for result in meaning.results:
                    whole = len(meaning.result_shapes[result]) == 2
                    name = f"{unit.name}.{'weight' if whole else 'bias'}"
                    found[name] = Quantized(unit, result)
                    # A folded bias is there even for a layer without one.
                    optional |= set() if whole else {name}
            elif _has_value(unit, units):
                why = f"its tensors do not fit {layer.scheme}, or that says nothing of their values"
                undecoded |= {f"{unit.name}.weight": why for tensor in unit.tensors.values() if tensor.name.rpartition(".")[2].startswith("weight")}
                plain = {tensor.name: tensor for tensor in unit.tensors.values() if tensor.name.endswith(".bias")}
                found |= {name: Plain(tensor) for name, tensor in plain.items()}
            else:
                found |= {tensor.name: Plain(tensor) for tensor in unit.tensors.values()}
                optional |= {tensor.name for tensor in unit.tensors.values()}
    rest = {name: tensor for name, tensor in model.tensors.items() if name not in taken}
    undecoded |= {name: f"it is {tensor.dtype}" for name, tensor in rest.items() if tensor.dtype not in STORAGES}
    undecoded = {name: why for name, why in undecoded.items() if name not in found}
    return Sources({**{name: Plain(tensor) for name, tensor in rest.items() if tensor.dtype in STORAGES}, **found}, frozenset(optional), undecoded)


def _has_value(unit: Unit, units: Units) -> bool:
    try:
        return not isinstance(units.plans.spec(unit.layer.scheme, unit.layer.kind).document.value, NoValue)
    except DiagnosticError:
        return True
