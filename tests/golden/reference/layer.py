# ruff: noqa: N802, E743 - sizes are capitals, as everywhere in this field
"""A layer that is asked about, a layer that was processed, and the primitives of more than one family of schemes.

K, N: input and output size of this partition; E experts, H hidden, I intermediate size; p: the dtype of the model. Casts to FRACTAL_NZ keep values on a CPU,
so here they only leave a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Union

import torch

Tensors = Mapping[str, torch.Tensor]
SEED, RELEASE, HEAD = "vllm-ascend-0.16", "vllm-ascend-0.23", "vllm-ascend-main"
f32, f16, bf16, i8, u8, i32, i64 = torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int32, torch.int64
e4m3, e8m0 = torch.float8_e4m3fn, torch.float8_e8m0fnu
E4M3, FP4 = "torch.float8_e4m3fn", "296"
"""As the casts of a packed weight were recorded: torch's dtype, and torch_npu's number for two FP4 in a byte."""


class Stored(NamedTuple):
    """A parameter. holds: what a checkpoint has there; ``int4``: one int4 per int8; ``positive``: no sign bit; ``power_of_two``: a float32 that was an E8M0."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    holds: Literal["any", "int4", "positive", "power_of_two"] = "any"


Declared = dict[str, Stored]


@dataclass(frozen=True)
class Case:
    """A layer of this partition. scheme, layer: as files are called. sizes, config: under the names that our specs have for them; ``consumer`` is always
    given, what else is left out is what the replaced system takes by default. params: the dtype of the model."""

    scheme: str
    layer: str
    sizes: Mapping[str, int]
    config: Mapping[str, Any]
    params: torch.dtype = bf16

    def __str__(self) -> str:
        values = [*self.sizes.values(), *(f"{key}={value}" for key, value in self.config.items()), str(self.params).removeprefix("torch.")]
        return " ".join([self.name, *map(str, values)])

    @property
    def name(self) -> str:
        return f"{self.scheme}.{self.layer}"

    @property
    def consumer(self) -> str:
        return str(self.config["consumer"])

    @property
    def on_310p(self) -> bool:
        return self.config.get("device") == "310p"

    @property
    def ct(self) -> bool:
        return self.config.get("quant_method") == "compressed-tensors"

    @property
    def row(self) -> bool:
        return self.config.get("layer_type") == "row"

    @property
    def tp(self) -> int:
        return int(self.config.get("tp_size", 1))

    @property
    def rank(self) -> int:
        return int(self.config.get("tp_rank", 0))

    @property
    def lists(self) -> bool:
        return bool(self.config.get("expert_lists"))

    @property
    def mega(self) -> bool:
        """Newer systems only; lists come first."""
        return self.consumer == HEAD and self.fused and bool(self.config.get("mega_moe")) and not self.lists

    @property
    def fused(self) -> bool:
        return self.config.get("fused_mc2") == 1

    @property
    def K(self) -> int:
        return self.sizes["input_size"]

    @property
    def N(self) -> int:
        return self.sizes["output_size"]

    @property
    def E(self) -> int:
        return self.sizes["num_experts"]

    @property
    def H(self) -> int:
        return self.sizes["hidden_size"]

    @property
    def I(self) -> int:
        return self.sizes["intermediate_size_per_partition"]

    @property
    def experts(self) -> tuple[tuple[str, int, int], ...]:
        """The two projections: name, outputs, inputs."""
        return ("w13", 2 * self.I, self.H), ("w2", self.H, self.I)


@dataclass
class Layer:
    """The layer afterwards.

    tensors: a tensor or a list of them by name; numbers: Python values; attributes: names of plain attributes, the others are parameters; computed: results of
    float arithmetic and casts, where a NaN is a NaN whatever its payload; casts: shape, dtype and arguments of every cast to FRACTAL_NZ, in order.
    """

    case: Case
    tensors: dict[str, Any]
    numbers: dict[str, Union[bool, float]] = field(default_factory=dict)
    attributes: set[str] = field(default_factory=set)
    computed: set[str] = field(default_factory=set)
    casts: list[tuple[list[int], torch.dtype, dict[str, str]]] = field(default_factory=list)

    def attribute(self, name: str, value: Union[torch.Tensor, list[torch.Tensor]], computed: bool = False) -> None:
        self.tensors[name] = value
        self.attributes.add(name)
        self.computed |= {name} if computed else set()

    def nz(self, tensor: torch.Tensor, **arguments: str) -> torch.Tensor:
        self.casts.append((list(tensor.shape), tensor.dtype, arguments))
        return tensor

    def maybe_trans_nz(self, tensor: torch.Tensor) -> torch.Tensor:
        """NZ?: integers of one byte are cast unless the mode is 0; on 310P always."""
        assert tensor.dtype == i8
        return self.nz(tensor) if self.case.on_310p or self.case.config.get("weight_nz_mode", 1) else tensor

    def unbind(self, name: str, into: str, clone: bool = False, flat: bool = False) -> None:
        """One tensor per expert, as a plain attribute."""
        parts = [part.flatten() if flat else part for part in self.tensors[name].unbind(0)]
        self.attribute(into, [part.clone() for part in parts] if clone else parts, name in self.computed)

    def delete(self, *names: str) -> None:
        for name in names:
            del self.tensors[name]
        self.attributes -= set(names)
        self.computed -= set(names)


def layer_of(case: Case, given: Tensors) -> Layer:
    return Layer(case, dict(given))


# ---- primitives ---------------------------------------------------------------------------------------------------------------------------------------------


def pack4(values: torch.Tensor) -> torch.Tensor:
    """PACK4 and Q4: eight codes of the last dim in an int32, the first in the lowest nibble."""
    values = values.to(i32).contiguous()
    eights = values.reshape(*values.shape[:-1], values.shape[-1] // 8, 8) & 0xF
    word = torch.zeros_like(eights[..., 0])
    for lane in range(8):
        word = word | (eights[..., lane] << (4 * lane))
    return word


def nib8(values: torch.Tensor) -> torch.Tensor:
    """NIB8: two int4 of the last dim in an int8, the even one in the low nibble."""
    even, odd = values[..., 0::2], values[..., 1::2]
    return ((odd << 4) | (even & 0xF)).clone()


def bytes_as_words(values: torch.Tensor) -> torch.Tensor:
    """I8->I32."""
    assert values.shape[-1] % 4 == 0
    return values.view(i32).contiguous()
