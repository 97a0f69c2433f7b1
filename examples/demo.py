"""The whole road on a real model: quantize, lay the weights out for the NPU kernel with layoutdsl, decode, compare.

Run by `make demo`. Every linear layer goes through the Python API in both checkpoint layouts; one layer of each layout goes
through the command line as well, whose file must hold the same bits; at the end a wrong spec is refused.

Invariant: the exit code is 0 only when no code, no decoded weight and no SQNR changed by one bit, and the wrong spec was refused.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from decode import checkpoint_codes, decode_kernel, dequantize_checkpoint, kernel_codes, sqnr_db
from quantize_minilm import (
    GROUP_SIZE,
    PACKAGE,
    VERSIONS,
    Layer,
    Layout,
    checkpoint_file,
    linear_layers,
    model_path,
    write_layer,
)
from safetensors.torch import load_file
from torch import Tensor

import layoutdsl

SCHEME = "W4A8_DYNAMIC"
CONSUMER = "vllm-ascend-0.16"
SPEC_FILE = Path(__file__).resolve().parent.parent / "specs" / "w4a8_dynamic.linear.yaml"
COMMAND_LINE_LAYER = "encoder.layer.0.output.dense"
RIGHT_STAGE, WRONG_STAGE = "pack(n, int32)", "pack(k, int32)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of one layer in one layout; the SQNRs are in decibels, `equal` is bit for bit."""

    layer: str
    sizes: list[int]
    layout: Layout
    before: float
    after: float
    equal: bool


def lay_out(layer: Layer, layout: Layout, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """One layer's stored tensors to what the kernel takes, through the Python API."""
    output_size, input_size = layer.weight.shape
    plan = layoutdsl.compile_spec(
        layoutdsl.load_spec(SCHEME, layer="linear"),
        config={"consumer": CONSUMER, "group_size": GROUP_SIZE, "version": VERSIONS[layout], "layer_type": layer.layer_type},
        sizes={"input_size": input_size, "output_size": output_size},
        params_dtype="bfloat16",
    )
    return {name: value for name, value in plan.run(stored).items() if isinstance(value, Tensor)}


def compare(layer: Layer, layout: Layout, stored: dict[str, Tensor], ready: dict[str, Tensor]) -> Row:
    """Decode the stored form and the kernel-ready form, each by its own contract, and compare both with the float weights."""
    packed = layout == "packed"
    stored_weight = dequantize_checkpoint(stored, packed=packed)
    ready_weight = decode_kernel(ready["weight"], ready["weight_scale_second"]).t().contiguous()
    before, after = sqnr_db(layer.weight, stored_weight), sqnr_db(layer.weight, ready_weight)
    same_codes = torch.equal(checkpoint_codes(stored["weight"], packed=packed), kernel_codes(ready["weight"]).t())
    return Row(
        layer=layer.name,
        sizes=list(layer.weight.shape),
        layout=layout,
        before=before,
        after=after,
        equal=same_codes and torch.equal(stored_weight, ready_weight) and before == after,
    )


def show(row: Row) -> None:
    """One line of the table."""
    sizes = f"[{row.sizes[0]}, {row.sizes[1]}]"
    equal = "yes" if row.equal else "NO"
    print(f"{row.layer:40} {sizes:>12}  {row.layout:8} {row.before:14.6f} {row.after:13.6f}  {equal}")


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the installed `layoutdsl` in `folder`, showing the call and all it prints."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    program = shutil.which("layoutdsl", path=search)
    if program is None:
        raise FileNotFoundError("the command `layoutdsl` is not installed: python -m pip install -e .[torch]")
    print(f"\n$ {shlex.join(['layoutdsl', *arguments])}", flush=True)
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    print((done.stdout + done.stderr).rstrip() or "(no output)")
    print(f"exit code {done.returncode}")
    return done


def apply_by_command(layer: Layer, layout: Layout, folder: Path) -> dict[str, Tensor]:
    """The same step as `lay_out`, through `layoutdsl apply`; empty when the command failed."""
    source = checkpoint_file(folder, layer.name, layout)
    target = folder / f"kernel-ready.{layout}.safetensors"
    done = command(
        *("apply", source.name, "-o", target.name, "--scheme", SCHEME, "--layer", "linear"),
        *("--set", f"group_size={GROUP_SIZE}", "--set", f"version={VERSIONS[layout]}"),
        *("--set", f"layer_type={layer.layer_type}", "--set", f"consumer={CONSUMER}", "--params-dtype", "bfloat16"),
        folder=folder,
    )
    return load_file(target) if done.returncode == 0 else {}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors agree in names, dtypes, shapes and every bit."""
    return one.keys() == other.keys() and all(same_tensor(one[name], other[name]) for name in one)


def same_tensor(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree in dtype, shape and every bit (NaN and the sign of zero included)."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def command_line_agrees(layer: Layer, folder: Path) -> bool:
    """Run `layoutdsl apply` on one layer in both layouts and compare its files with the Python API's tensors."""
    agrees = True
    for layout in VERSIONS:
        written = apply_by_command(layer, layout, folder)
        ready = lay_out(layer, layout, load_file(checkpoint_file(folder, layer.name, layout)))
        same = same_bits(written, ready)
        print(f"{layer.name}, {layout}: {len(written)} tensors, {'bit for bit as' if same else 'NOT THE SAME AS'} from the Python API")
        agrees = agrees and same
    return agrees


def wrong_spec_is_refused(folder: Path) -> bool:
    """Validate the real spec (accepted) and a copy that packs along the wrong axis (refused, with a diagnostic)."""
    text = SPEC_FILE.read_text(encoding="utf-8")
    if RIGHT_STAGE not in text:
        raise ValueError(f"{SPEC_FILE.name} has no `{RIGHT_STAGE}` to spoil")
    (folder / "right.yaml").write_text(text, encoding="utf-8")
    (folder / "wrong.yaml").write_text(text.replace(RIGHT_STAGE, WRONG_STAGE), encoding="utf-8")
    print(f"\nwrong.yaml is {SPEC_FILE.name} with `{WRONG_STAGE}` instead of `{RIGHT_STAGE}`: packed along the wrong axis.")
    right = command("validate", "right.yaml", folder=folder)
    wrong = command("validate", "wrong.yaml", folder=folder)
    return right.returncode == 0 and wrong.returncode == 1 and bool(wrong.stdout.strip())


def run_all_layers(layers: list[Layer], folder: Path) -> list[Row]:
    """Every layer in both layouts: quantize, write, read, lay out, decode, compare, print."""
    print(f"{'layer':40} {'[N, K]':>12}  {'layout':8} {'SQNR before dB':>14} {'SQNR after dB':>13}  equal")
    rows: list[Row] = []
    for layer in layers:
        write_layer(layer, folder)
        for layout in VERSIONS:
            stored = load_file(checkpoint_file(folder, layer.name, layout))
            row = compare(layer, layout, stored, lay_out(layer, layout, stored))
            show(row)
            rows.append(row)
    return rows


def main() -> int:
    """The demo as a user sees it; 0 when everything agreed."""
    start = time.monotonic()
    try:
        path = model_path()
    except FileNotFoundError as missing:
        print(missing, file=sys.stderr)
        return 1
    layers = list(linear_layers(path))
    print(f"{PACKAGE}: {len(layers)} linear layers, int4 in groups of {GROUP_SIZE}, ModelSlim W4A8 layouts, {SCHEME} for {CONSUMER}.")
    print("before: the stored tensors, dequantized.  after: layoutdsl's kernel-ready tensors, decoded by the contract of")
    print("npu_weight_quant_batchmatmul. Both against the float weights, summed in float64. The two scales are multiplied in")
    print("float32 on both sides, rounded once, as the load-time code does. `equal`: codes, decoded weights and SQNR, bit for bit.")
    print("unpacked: version 0, one int4 per byte.  packed: version 1.0.0, two int4 per byte along N.\n")
    with tempfile.TemporaryDirectory(prefix="layoutdsl-demo-") as name:
        folder = Path(name)
        rows = run_all_layers(layers, folder)
        example = next(layer for layer in layers if layer.name == COMMAND_LINE_LAYER)
        agrees = command_line_agrees(example, folder)
        refused = wrong_spec_is_refused(folder)
    return report(rows, agrees=agrees, refused=refused, seconds=time.monotonic() - start)


def report(rows: list[Row], *, agrees: bool, refused: bool, seconds: float) -> int:
    """The summary and the exit code."""
    equal = sum(row.equal for row in rows)
    after = [row.after for row in rows]
    print(f"\n{equal} of {len(rows)} equal bit for bit; SQNR {min(after):.2f} to {max(after):.2f} dB; {seconds:.1f} s.")
    print(f"command line and Python API: {'the same bits' if agrees else 'DIFFERENT'}.")
    print(f"wrong spec: {'refused' if refused else 'NOT REFUSED'}.")
    if equal < len(rows) or not agrees or not refused:
        print("FAILED: see the lines above.")
        return 1
    print("Shown: one YAML file turned real quantized weights, from both checkpoint layouts, into what the NPU kernel reads without")
    print("changing one of them, from Python and from the shell alike, and the same file with its weight packed along the wrong axis")
    print("was refused before any byte was read.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
