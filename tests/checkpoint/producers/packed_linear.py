"""A folder of int4 layers as compressed-tensors packs them, and what it decodes them to.

    python packed_linear.py OUT

`OUT/packed-linear` has groups and channels, with zero points and without, and experts. `OUT/packed-linear.decoded.safetensors`: the weights after the
package's own decompression, by module.
"""

import sys
from pathlib import Path

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from with_compressed_tensors import write

KINDS = {
    r"re:.*layers\.0\.self_attn\.\w+$": {"symmetric": True, "strategy": "group", "group_size": 64},
    r"re:.*layers\.0\.mlp\.\w+_proj$": {"symmetric": False, "strategy": "group", "group_size": 128},
    r"re:.*layers\.1\.self_attn\.\w+$": {"symmetric": True, "strategy": "channel"},
    r"re:.*layers\.1\.mlp\.\w+_proj$": {"symmetric": False, "strategy": "channel"},
    r"re:.*layers\.2\.self_attn\.\w+$": {"symmetric": False, "strategy": "group", "group_size": 32, "actorder": "weight"},
    r"re:.*experts\.\d\.\w+_proj$": {"symmetric": True, "strategy": "group", "group_size": 32},
}
GROUPS = {
    f"group_{i}": QuantizationScheme(targets=[target], weights=QuantizationArgs(num_bits=4, type="int", **kind))
    for i, (target, kind) in enumerate(KINDS.items())
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    write(Path(sys.argv[1]) / "packed-linear", QuantizationConfig(config_groups=GROUPS))
