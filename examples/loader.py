"""A loader of forty lines, with plain torch modules: create, load, apply, run; and the same weights again into the same memory.

    python examples/loader.py FOLDER

FOLDER: a checkpoint of msModelSlim (`quant_model_description.json` beside the shards). Every linear layer of a supported scheme becomes a module; the float
tensors, the experts and the order in which a model calls its layers are left to the model's own code.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

import layoutdsl

ROW = ("o_proj", "down_proj")
"""Layers that tensor parallelism cuts along their inputs: some schemes store more for them."""


class QuantizedLinear(nn.Module):
    """A linear layer of a scheme; empty parameters until `load` has filled them. shapes: of the stored tensors by parameter; they tell the layer's sizes."""

    def __init__(self, scheme: str, config: dict[str, object], shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.plan = layoutdsl.compile_spec(scheme, layer="linear", config=config, params_dtype="bfloat16").bind_to(shapes)
        self.plan.create_parameters(self)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.plan.forward(self, x)
        return result


def build(folder: Path) -> dict[str, QuantizedLinear]:
    """The quantized linear layers by name. Experts are layers of another kind, and need their own."""
    description = json.loads((folder / "quant_model_description.json").read_text())
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as shard:
            for prefix, _, parameter in (name.rpartition(".") for name in sorted(shard.keys()) if ".experts." not in name):
                shapes.setdefault(prefix, {})[parameter] = tuple(shard.get_slice(f"{prefix}.{parameter}").get_shape())
    layers = {}
    for prefix, found in shapes.items():
        if (scheme := description.get(f"{prefix}.weight", "FLOAT")) != "FLOAT":
            config = {name: description[name] for name in ("group_size", "version") if name in description}
            layers[prefix] = QuantizedLinear(scheme, config | {"layer_type": "row" if prefix.endswith(ROW) else "column"}, found)
    return layers


def load(folder: Path, layers: dict[str, QuantizedLinear]) -> None:
    """Fill the parameters from the files, then bring them into the kernels' form. A second call reloads: the kernels' memory stays where it is."""
    for layer in layers.values():
        layer.plan.restore(layer)
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as shard:
            for name in sorted(shard.keys()):
                prefix, _, parameter = name.rpartition(".")
                if prefix in layers:
                    layers[prefix].get_parameter(parameter).data.copy_(shard.get_tensor(name))
    for layer in layers.values():
        layer.plan.apply(layer)  # refuses a layer whose parameters were not filled wholly


def main() -> None:
    folder = Path(sys.argv[1])
    layers = build(folder)
    load(folder, layers)
    name, layer = next(iter(layers.items()))
    x = torch.ones(1, layer.plan.sizes["input_size"], dtype=torch.bfloat16)
    before = layer(x), {key: parameter.data_ptr() for key, parameter in layer.named_parameters()}
    load(folder, layers)
    same = {key: parameter.data_ptr() for key, parameter in layer.named_parameters()} == before[1] and torch.equal(layer(x), before[0])
    print(f"{len(layers)} layers loaded twice; {name}: {layer.plan.scheme}, the same memory and the same result again: {'yes' if same else 'NO'}")


if __name__ == "__main__":
    main()
