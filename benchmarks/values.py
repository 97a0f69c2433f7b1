"""The rate of ``layoutdsl check --data`` and ``layoutdsl diff`` beside the rate of reading the same bytes, in turns, and the memory that the values take.

    python benchmarks/values.py [CASE ...] [--gib 4] [--turns 5] [--cold]

Folders of random values that fit one another are made in a temporary directory and removed; every layer holds the same bytes, so that making them is quick. A
turn reads the files with one thread and with as many as the commands use (plain sequential reads into a buffer of 1 MiB that is used again), then runs the
command without values and with them, each in a process of its own. With ``--cold`` the pages of the files are given up before each.

Prints rates in GiB/s and ratios. ``values``: bytes by the seconds that the values add to the command, which is the rate of the work; numba, imported from 2 GiB
on, is in it with its 0.6 s. ``command``: by all seconds of the process, imports, specs and headers included, which a folder of this size does not outweigh.
Medians over the turns. ``cpu``: processor seconds of all threads, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from layoutdsl.checkpoint.reading import BLOCK, THREADS
from tests.checkpoint.filled import filled, swapped, unpack
from tests.checkpoint.folders import Draft, Tensor, compressed_tensors, float_model, fp8_block, modelslim

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
HEAD = (
    *("case", "GiB", "read, 1 thread", "read, all threads", "values", "to 1 thread", "to all threads", "command", "to 1 thread"),
    *("cpu s/GiB, read", "cpu s/GiB, values", "MiB more"),
)
LAYER = "layers.0."
DENSE = {"hidden": 4096, "intermediate": 12288, "heads": 32, "kv_heads": 8}
EXPERTS = {"hidden": 4096, "moe_intermediate": 1536, "heads": 32, "kv_heads": 8, "experts": 32}
SMALL = {"hidden": 2048, "moe_intermediate": 768, "heads": 32, "kv_heads": 4, "experts": 128}
MAIN, A5 = ("--consumer", "vllm-ascend-main"), ("--device", "a5")
MEASURED = """
import sys
from layoutdsl.cli import main
code = main(sys.argv[1:])
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(code, int(peak) >> 10, file=sys.stderr)
"""
"""The peak is that of the process itself: the one that ``getrusage`` gives begins with that of the parent."""


@dataclass(frozen=True)
class Case:
    """folders: each makes one of so many layers. options: of the command."""

    command: str
    folders: Sequence[Callable[[int], Draft]]
    options: tuple[str, ...] = ()

    def argv(self, paths: Sequence[Path], budget: str, *, values: bool) -> list[str]:
        """The command; without values: headers and next to nothing are read."""
        asked = {"check": ["--data"] if values else [], "diff": [] if values else ["--layers", "model.norm.weight"]}[self.command]
        return [self.command, *map(str, paths), *self.options, *(["--max-memory", budget] if values or self.command == "diff" else []), *asked]


# ---- folders ----------------------------------------------------------------------------------------------------------------------------------------------


def repeated(make: Callable[[int], Draft], one: Draft) -> Callable[[int], Draft]:
    """So many layers, each with the values of ``one``'s only layer."""

    def draft(layers: int) -> Draft:
        found = make(layers)
        found.tensors = {name: one.tensors[_first(name)] for name in found.tensors}
        return found

    return draft


def _first(name: str) -> str:
    """The tensor of the first layer that stands where this one does."""
    head, layers, rest = name.partition("layers.")
    return f"{head}{LAYER}{rest.partition('.')[2]}" if layers else name


def quantized(scheme: str, group_size: int = 256, **sizes: int) -> Callable[[int], Draft]:
    options = {"expert_scheme": scheme} if "experts" in sizes and scheme == "W4A8_DYNAMIC" else {"scheme": scheme}
    make = lambda layers: modelslim(layers=layers, group_size=group_size, shards=4, **options, **sizes)  # noqa: E731
    return repeated(make, filled(make(1), group_size))


def blocks() -> Callable[[int], Draft]:
    make = lambda layers: fp8_block(layers=layers, experts=32, hidden=4096, inner=2048, heads=64, shards=4)  # noqa: E731
    return repeated(make, make(1).fill())


def packed() -> Callable[[int], Draft]:
    make = lambda layers: compressed_tensors(scheme="W4A16", layers=layers, shards=4, ignore=[], **EXPERTS)  # noqa: E731
    source, one = np.random.default_rng(0), make(1).fill()
    for name in one.names("weight_packed"):
        one.tensors[name] = replace(one.tensors[name], data=source.bytes(one.tensors[name].size))
    return repeated(make, one)


def one_layer_differs(make: Callable[[int], Draft]) -> Callable[[int], Draft]:
    """Every weight of the first layer is another."""

    def draft(layers: int) -> Draft:
        found = make(layers)
        for name in found.names(LAYER):
            if name.endswith(".weight") and found.tensors[name].dtype == "I8":
                found.tensors[name] = Tensor.of(swapped(found.tensors[name].array()).view(np.int8))
        return found

    return draft


def every_weight_differs(make: Callable[[int], Draft]) -> Callable[[int], Draft]:
    """In its first byte, so that all must be decoded."""

    def draft(layers: int) -> Draft:
        found = make(layers)
        changed = {name: _first_byte(tensor) for name, tensor in make(1).tensors.items() if name.endswith(".weight")}
        found.tensors = {name: changed.get(_first(name), tensor) for name, tensor in found.tensors.items()}
        return found

    return draft


def _first_byte(tensor: Tensor) -> Tensor:
    assert tensor.data is not None
    return replace(tensor, data=bytes([tensor.data[0] ^ 1]) + tensor.data[1:])


def as_bfloat16(make: Callable[[int], Draft], **sizes: int) -> Callable[[int], Draft]:
    """The float model that a folder of int8, or of packed int4 with scales by groups, means."""
    one, plain = make(1), lambda layers: float_model(layers=layers, shards=4, **sizes)
    found = plain(1)
    for name in found.tensors:
        found.tensors[name] = _meant(one, name.removesuffix(".weight")) if f"{name}_scale" in one.tensors else one.tensors[name]
    return repeated(plain, found)


def _meant(one: Draft, module: str) -> Tensor:
    codes = one.tensors[f"{module}.weight"].array()
    weight = (unpack(codes) if f"{module}.scale_bias" in one.tensors else codes) * one.tensors[f"{module}.weight_scale"].array()
    if f"{module}.weight_scale_second" in one.tensors:
        second = one.tensors[f"{module}.weight_scale_second"].array()
        weight = weight * np.repeat(second, weight.shape[1] // second.shape[1], axis=1)
    return Tensor.of(weight.astype(np.float32), "BF16")


def cases() -> dict[str, Callable[[], Case]]:
    """By name; made when they are run."""

    def diff(scheme: str, other: Callable[[Callable[[int], Draft]], Callable[[int], Draft]], **sizes: int) -> Case:
        make = quantized(scheme, **sizes)
        return Case("diff", (make, other(make)))

    return {
        "check W8A8_DYNAMIC linear": lambda: Case("check", (quantized("W8A8_DYNAMIC", **DENSE),)),
        "check W4A8_DYNAMIC moe": lambda: Case("check", (quantized("W4A8_DYNAMIC", **EXPERTS),)),
        "check W4A8_DYNAMIC moe, small experts": lambda: Case("check", (quantized("W4A8_DYNAMIC", **SMALL),)),
        "check W4A4_MXFP4 linear": lambda: Case("check", (quantized("W4A4_MXFP4", 32, **DENSE),), A5),
        "check W8A8_MXFP8 linear": lambda: Case("check", (quantized("W8A8_MXFP8", 32, **DENSE),), A5),
        "check fp8 by blocks": lambda: Case("check", (blocks(),), (*A5, *MAIN)),
        "check pack-quantized W4A16 moe": lambda: Case("check", (packed(),), MAIN),
        "diff W8A8_DYNAMIC, equal": lambda: diff("W8A8_DYNAMIC", lambda make: make, **DENSE),
        "diff W8A8_DYNAMIC, one layer differs": lambda: diff("W8A8_DYNAMIC", one_layer_differs, **DENSE),
        "diff W8A8_DYNAMIC, every weight differs": lambda: diff("W8A8_DYNAMIC", every_weight_differs, **DENSE),
        "diff W8A8_DYNAMIC and bfloat16": lambda: diff("W8A8_DYNAMIC", lambda make: as_bfloat16(make, **DENSE), **DENSE),
        "diff W4A8_DYNAMIC moe, every weight differs": lambda: diff("W4A8_DYNAMIC", every_weight_differs, **EXPERTS),
        "diff W4A8_DYNAMIC moe and bfloat16": lambda: diff("W4A8_DYNAMIC", lambda make: as_bfloat16(make, **EXPERTS), **EXPERTS),
    }


# ---- clocks -----------------------------------------------------------------------------------------------------------------------------------------------


def read(files: Sequence[Path], threads: int) -> None:
    """All bytes, each thread its own part of every file."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: _read([_part(file, part, threads) for file in files]), range(threads)))


def _part(file: Path, part: int, parts: int) -> tuple[Path, int, int]:
    size = file.stat().st_size
    return file, size * part // parts, size * (part + 1) // parts


def _read(spans: Sequence[tuple[Path, int, int]]) -> None:
    room = memoryview(bytearray(BLOCK))
    for path, at, end in spans:
        with open(path, "rb", buffering=0) as file:
            file.seek(at)
            while at < end:
                at += file.readinto(room[: end - at])


def ran(argv: Sequence[str]) -> int:
    """Peak memory of a command in MiB. Raises if it finds something."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", MEASURED, *argv], env=environment, capture_output=True, text=True, check=True)
    found, peak = map(int, done.stderr.split()[-2:])
    if found:
        raise SystemExit(f"{' '.join(argv)}: exit {found}\n{done.stdout}{done.stderr}")
    return peak


def forgotten(files: Sequence[Path]) -> None:
    """Their pages leave the memory of the system."""
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def written(case: Case, place: Path, gib: float) -> tuple[list[Path], list[Path]]:
    """The folders and their files, about so many GiB together."""
    one, two = (sum(tensor.size for make in case.folders for tensor in make(layers).tensors.values()) for layers in (1, 2))
    layers = max(1, round((gib * GIB - one) / (two - one)) + 1)
    paths = [make(layers).write(place / name) for make, name in zip(case.folders, "ab")]
    return paths, sorted(file for path in paths for file in path.glob("*.safetensors"))


def turns(case: Case, place: Path, options: argparse.Namespace) -> Iterator[str]:
    paths, files = written(case, place, options.gib)
    amount = sum(file.stat().st_size for file in files) / GIB
    bare, full = (case.argv(paths, options.max_memory, values=values) for values in (False, True))
    peaks: dict[str, int] = {}
    runs: dict[str, Callable[[], object]] = {
        "one": lambda: read(files, 1),
        "many": lambda: read(files, THREADS),
        "bare": lambda: peaks.update(bare=ran(bare)),
        "full": lambda: peaks.update(full=ran(full)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    processor: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(options.turns + 1):
        for name, run in runs.items():
            if options.cold:
                forgotten(files)
            start, used = time.perf_counter(), sum(os.times()[:4])
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
                processor[name].append(sum(os.times()[:4]) - used)
    one, many, whole = (amount / statistics.median(seconds[name]) for name in ("one", "many", "full"))
    net = amount / statistics.median(full - bare for full, bare in zip(seconds["full"], seconds["bare"]))
    yield from (f"{amount:.2f}", f"{one:.2f}", f"{many:.2f}", f"{net:.2f}", f"{net / one:.2f}", f"{net / many:.2f}", f"{whole:.2f}", f"{whole / one:.2f}")
    used = statistics.median(full - bare for full, bare in zip(processor["full"], processor["bare"]))
    yield from (f"{statistics.median(processor['one']) / amount:.2f}", f"{used / amount:.2f}", str(peaks["full"] - peaks["bare"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", metavar="CASE", nargs="*", help="parts of names; without any: all")
    parser.add_argument("--gib", type=float, default=4, help="size of the folders of a case together (default: 4)")
    parser.add_argument("--turns", type=int, default=5, help="turns that count (default: 5)")
    parser.add_argument("--max-memory", default="1GiB", help="of the commands (default: 1GiB)")
    parser.add_argument("--cold", action="store_true", help="from the disk")
    options = parser.parse_args()
    print(f"{THREADS} threads, --max-memory {options.max_memory}, {'from the disk' if options.cold else 'from memory'}, {options.turns} turns")
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for name, make in cases().items():
        if options.cases and not any(part in name for part in options.cases):
            continue
        with tempfile.TemporaryDirectory() as place:
            print(f"| {name} | {' | '.join(turns(make(), Path(place), options))} |", flush=True)


if __name__ == "__main__":
    main()
