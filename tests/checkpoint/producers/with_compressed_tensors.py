"""Two folders as compressed-tensors writes them, and what it decodes them to.

    python with_compressed_tensors.py OUT

`OUT/int-quantized`: int8 weights with a scale per output everywhere, tokens quantized one by one. `OUT/pack-quantized`: the experts in int4 with a scale per
32 inputs, all else float. `OUT/NAME.decoded.safetensors`: the weights after the package's own decompression, by module.
"""

import json
import sys
from pathlib import Path

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme, apply_quantization_config, preset_name_to_scheme
from compressed_tensors.quantization.utils import calculate_qparams, is_module_quantized
from matrices import CONFIG, model
from safetensors.torch import save_file
from torch import nn

INT4 = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=32))
FOLDERS = {
    "int-quantized": QuantizationConfig(config_groups={"group_0": preset_name_to_scheme("W8A8", ["Linear"])}),
    "pack-quantized": QuantizationConfig(config_groups={"group_0": INT4}, ignore=["re:.*self_attn", r"re:.*mlp\.\w+$"]),
}


def quantized(config: QuantizationConfig) -> nn.Module:
    """The model with the scales that the package computes from the extremes of every row, or of every group of a row."""
    found = model()
    apply_quantization_config(found, config)
    for module in found.modules():
        if not is_module_quantized(module):
            continue
        arguments = module.quantization_scheme.weights
        rows = module.weight.unflatten(1, (-1, arguments.group_size or module.weight.shape[1]))
        scale, zero = calculate_qparams(rows.amin(2), rows.amax(2), arguments)
        module.weight_scale.data.copy_(scale.reshape(module.weight_scale.shape))
        module.weight_zero_point.data.copy_(zero.reshape(module.weight_zero_point.shape))
    return found


def write(folder: Path, config: QuantizationConfig) -> None:
    folder.mkdir(parents=True)
    found = quantized(config)
    compressor = ModelCompressor.from_pretrained_model(found)
    compressor.compress_model(found)
    save_file({name: tensor.contiguous() for name, tensor in found.state_dict().items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    compressor.update_config(str(folder))
    compressor.decompress_model(found)
    decoded = {name: module.weight.detach().contiguous() for name, module in found.named_modules() if is_module_quantized(module)}
    save_file(decoded, folder.with_name(folder.name + ".decoded.safetensors"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, config in FOLDERS.items():
        write(Path(sys.argv[1]) / name, config)
