"""The recorded files: what the replaced system did at load time, one file per scheme and variant, and the config and sizes under which it did it.

A file is called ``[310p.]<scheme>.<layer>[.variant...]``, in a folder that names the system. Config and sizes follow from its name and its metadata alone, so a
file of a new scheme needs no edit here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from safetensors import safe_open

import layoutdsl
from layoutdsl.bundled import bundled
from tests.golden.compare import flat
from tests.golden.files import ALL_FILES, CONSUMERS, FOLDER, scheme_of

FILES = [file for file in ALL_FILES if ".".join(scheme_of(file)) in bundled()]
"""Those whose spec is there."""

_DESCRIBED = {"group_size": "group_size", "version": "version", "weight_strategy": "weight_strategy", "ascend_quant_method": "quant_method"}
_SIZES = {"K": "input_size", "N": "output_size", "E": "num_experts", "I": "intermediate_size_per_partition", "H": "hidden_size"}


@dataclass(frozen=True, eq=False)
class Recorded:
    """One file. scheme, layer, variants: of its name; meta: its JSON; inputs and outputs: its tensors by name (element i of a list ``x`` is ``x.i``)."""

    scheme: str
    layer: str
    variants: frozenset[str]
    consumer: str
    meta: dict[str, Any]
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]

    @property
    def config(self) -> dict[str, Any]:
        """What is recorded or said by the name, nothing else: the rest is as by default."""
        scalars, environment = self.meta["scalars"], self.meta["env"]
        config = {"consumer": self.consumer, **{ours: self.meta["desc"][key] for key, ours in _DESCRIBED.items() if key in self.meta["desc"]}}
        for device in self.variants & {"310p", "a5"}:
            config["device"] = device
        config |= {ours: scalars[key] for key, ours in (("prefix", "prefix"), ("ascend_quant_method", "quant_method")) if key in scalars}
        if self.meta["layer_type"]:
            config["layer_type"] = self.meta["layer_type"]
        if "tp" in environment:
            config["tp_size"] = int(environment["tp"])
        if environment.get("dynamic_eplb") == "True":
            config["expert_lists"] = True
        if "mc2" in environment:
            config["fused_mc2"] = int(environment["mc2"])
        if "mega" in self.variants:
            config["mega_moe"] = True
        if "kv_consumer" in environment:
            config["kv_role"] = "consumer" if environment["kv_consumer"] == "True" else "none"
        if "wo_a" in self.variants:
            config |= {"o_groups": 4, "o_lora_rank": 128}  # of the model; shown by the recorded shapes
        return config

    @property
    def sizes(self) -> dict[str, int]:
        return {_SIZES.get(name, name): size for name, size in self.meta["dims"].items()}

    @property
    def params_dtype(self) -> str:
        return str(self.meta["params_dtype"])

    @property
    def numbers(self) -> dict[str, Any]:
        """Python values that the scheme sets on the layer; the others are the layer's own."""
        own = ("prefix", "tp_size", "tp_rank", "ascend_quant_method")
        return {name: value for name, value in self.meta["scalars"].items() if name not in own}

    @cached_property
    def unbound(self) -> layoutdsl.Plan:
        return layoutdsl.compile_spec(self.scheme, layer=self.layer, config=self.config, params_dtype=self.params_dtype)

    @cached_property
    def plan(self) -> layoutdsl.Plan:
        return self.unbound.bind(self.sizes)

    @cached_property
    def results(self) -> dict[str, torch.Tensor]:
        return flat(self.plan.run(self.fresh()))

    def fresh(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.inputs.items()}


@cache
def recorded(name: str) -> Recorded:
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        meta = json.loads(file.metadata()["golden"])
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 - not a dict
    inputs, outputs = ({key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)} for start in ("in.", "out."))
    folder, _, case = name.partition("/")
    return Recorded(*scheme_of(name), frozenset(case.split(".")), CONSUMERS[folder], meta, inputs, outputs)
