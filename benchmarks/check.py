"""How long `layoutdsl check` takes on a folder of 100 000 tensors in 200 files, and how much memory: headers only, the files are holes.

    python benchmarks/check.py [LAYERS] [EXPERTS] [FILES]

The folder is made in a temporary directory and removed. Prints what was written, then seconds and peak MiB of the command in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HIDDEN, INNER, HEADS, HEAD_DIM = 4096, 1536, 32, 128
SIZES = {"I8": 1, "BF16": 2}
MEASURED = """
import resource, sys
from layoutdsl.cli import main
code = main(sys.argv[1:])
print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "torch" in sys.modules, file=sys.stderr)
"""


def tensors(layers: int, experts: int) -> Iterator[tuple[str, str, tuple[int, ...], str]]:
    """Name, dtype, shape and type of every tensor of a W8A8_DYNAMIC model of experts."""
    for layer in range(layers):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", "BF16", (HIDDEN,), "FLOAT"
        yield f"{at}.mlp.gate.weight", "BF16", (experts, HIDDEN), "FLOAT"
        width = HEADS * HEAD_DIM
        modules = {f"{at}.self_attn.{name}": (width, HIDDEN) for name in ("q_proj", "k_proj", "v_proj")} | {f"{at}.self_attn.o_proj": (HIDDEN, width)}
        for expert in range(experts):
            modules |= {f"{at}.mlp.experts.{expert}.{name}": (INNER, HIDDEN) for name in ("gate_proj", "up_proj")}
            modules[f"{at}.mlp.experts.{expert}.down_proj"] = (HIDDEN, INNER)
        for name, (n, k) in modules.items():
            for suffix, dtype, shape in (("weight", "I8", (n, k)), ("weight_scale", "BF16", (n, 1)), ("weight_offset", "BF16", (n, 1))):
                yield f"{name}.{suffix}", dtype, shape, "W8A8_DYNAMIC"


def write(folder: Path, layers: int, experts: int, files: int) -> int:
    """The folder; how many tensors it has."""
    rows = list(tensors(layers, experts))
    per = -(-len(rows) // files)
    weight_map, description = {}, {"model_quant_type": "W8A8_DYNAMIC", "version": "1.0.0", "group_size": 0}
    for number in range(files):
        name, header, end = f"model-{number + 1:05}-of-{files:05}.safetensors", {}, 0
        for tensor, dtype, shape, kind in rows[number * per : (number + 1) * per]:
            start, end = end, end + shape[0] * (shape[1] if len(shape) > 1 else 1) * SIZES[dtype]
            header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
            weight_map[tensor], description[tensor] = name, kind
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / name, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
    config = {"model_type": "qwen3_moe", "torch_dtype": "bfloat16", "num_experts": experts, "num_attention_heads": HEADS, "num_key_value_heads": HEADS}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "quant_model_description.json").write_text(json.dumps(description))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return len(rows)


def main() -> None:
    layers, experts, files = (int(text) for text in (*sys.argv[1:], *("86", "128", "200")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as place:
        count = write(Path(place), layers, experts, files)
        print(f"{count} tensors in {files} files")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        for options in ([], ["-tp", "8"], ["-tp", "3"]):
            start = time.perf_counter()
            ran = subprocess.run([sys.executable, "-c", MEASURED, "check", place, *options], env=environment, capture_output=True, text=True, check=True)
            code, peak, torch = ran.stderr.split()[-3:]
            print(f"check {' '.join(options)}: {time.perf_counter() - start:.1f} s, peak {peak} MiB, exit {code}, torch imported: {torch}")


if __name__ == "__main__":
    main()
