"""The recorded files: what the replaced system did at load time, one file per scheme and variant, and the config and sizes under which it did it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

import layoutdsl
from tests.golden.compare import flat

FOLDER = Path(__file__).resolve().parents[1] / "data" / "golden"
CONSUMERS = {"seed": "vllm-ascend-0.16", "release": "vllm-ascend-0.23", "head": "vllm-ascend-main"}
FILES = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/w4a8_dynamic.*.safetensors"))


@dataclass(frozen=True, eq=False)
class Recorded:
    """One file. meta: its JSON; inputs and outputs: its tensors by name (element i of a list ``x`` is ``x.i``)."""

    meta: dict[str, Any]
    consumer: str
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]

    @property
    def config(self) -> dict[str, Any]:
        desc, env = self.meta["desc"], self.meta["env"]
        config = {"consumer": self.consumer, **{key: desc[key] for key in ("group_size", "version", "weight_strategy") if key in desc}}
        if "ascend_quant_method" in desc:
            config["quant_method"] = desc["ascend_quant_method"]
        if self.meta["layer_type"]:
            config["layer_type"] = self.meta["layer_type"]
        if "tp" in env:
            config["tp_size"] = int(env["tp"])
        if env.get("dynamic_eplb") == "True":
            config["expert_lists"] = True
        if "mc2" in env:
            config["fused_mc2"] = int(env["mc2"])
        if ".mega" in self.meta["case"]:
            config["mega_moe"] = True
        return config

    @property
    def sizes(self) -> dict[str, int]:
        dims = self.meta["dims"]
        if self.meta["kind"] == "linear":
            return {"input_size": dims["K"], "output_size": dims["N"]}
        return {"num_experts": dims["E"], "intermediate_size_per_partition": dims["I"], "hidden_size": dims["H"]}

    @cached_property
    def unbound(self) -> layoutdsl.Plan:
        return layoutdsl.compile_spec("W4A8_DYNAMIC", layer=self.meta["kind"], config=self.config, params_dtype=self.meta["params_dtype"])

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
    return Recorded(meta, CONSUMERS[name.partition("/")[0]], inputs, outputs)
