"""Times ``plan.run`` against the replaced system and against careful torch code, side by side in one process, and measures the temporary memory of each.

    python benchmarks/run.py                      linear K=7168, N=4096; MoE E=8, H=2048, I=1024
    python benchmarks/run.py --pages both         with plain and with huge pages
    python benchmarks/run.py --cases moe --experts 16 --reps 9

Nothing here passes or fails: see README.md for what the numbers mean.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import layoutdsl
from benchmarks import careful
from tests.golden import reference
from tests.golden.reference import HEAD, RELEASE, SEED, Case

MIB = 2**20
MMAP_THRESHOLD = -3
"""Of glibc's mallopt: larger blocks are mapped on their own and given back when they are freed."""
HUGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "THP_MEM_ALLOC_ENABLE": "1"}
Tensors = dict[str, torch.Tensor]
Run = Callable[[Tensors], Mapping[str, Any]]


@dataclass(frozen=True)
class Race:
    """One layer. runs: by name, each from the layer's parameters to its results; ``donates`` are given a copy of their own, made outside the clock."""

    name: str
    given: Callable[[], Tensors]
    runs: Mapping[str, Run]
    donates: frozenset[str]


@dataclass(frozen=True)
class Seconds:
    """wall: on the clock. processor: of all threads together, which other work on the machine disturbs less."""

    wall: float
    processor: float


def main() -> None:
    options = arguments()
    if options.pages == "both":
        for pages in ("plain", "huge"):
            again([*sys.argv[1:], "--pages", pages], pages)
        return
    if options.pages == "huge" and os.environ.get("GLIBC_TUNABLES") != HUGE["GLIBC_TUNABLES"]:
        again(sys.argv[1:], "huge")
        return
    describe(options)
    table = {race.name: {name: temporary(race, name) for name in race.runs} for race in races(options)}
    torch.set_num_threads(options.threads)
    for race in races(options):
        agree(race)
        report(race, timed(race, options.reps), table[race.name])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (("k", 7168), ("n", 4096), ("experts", 8), ("hidden", 2048), ("intermediate", 1024), ("group", 256), ("reps", 6)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--cases", default="", help="only cases whose name contains this")
    parser.add_argument("--pages", choices=("plain", "huge", "both"), default="plain", help="memory pages for all contestants (glibc on Linux)")
    return parser.parse_args()


def again(command: Sequence[str], pages: str) -> None:
    """The allocator reads its settings at start, so another page size is another process."""
    subprocess.run([sys.executable, __file__, *command], env={**os.environ, **(HUGE if pages == "huge" else {})}, check=True)


def describe(options: argparse.Namespace) -> None:
    print(f"torch {torch.__version__}, {platform.machine()}, {processor()}, {options.threads} threads, {options.pages} pages", end=" ")
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    print(f"(transparent huge pages: {setting.read_text().split('[')[1].split(']')[0]})" if setting.exists() else "")


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or "unknown processor")


# ---- contestants ---------------------------------------------------------------------------------------------------------------------------------------------


def races(options: argparse.Namespace) -> Iterator[Race]:
    for name, case in cases(options).items():
        if options.cases in name:
            yield race(name, case)


def cases(options: argparse.Namespace) -> dict[str, Case]:
    group, channel = {"group_size": options.group}, {"group_size": 0}
    packed, ct = {"version": "1.0.0"}, {"quant_method": "compressed-tensors"}

    def linear(**config: Any) -> Case:
        return Case("w4a8_dynamic", "linear", {"input_size": options.k, "output_size": options.n}, {"consumer": SEED, **config})

    def moe(consumer: str, **config: Any) -> Case:
        sizes = {"num_experts": options.experts, "hidden_size": options.hidden, "intermediate_size_per_partition": options.intermediate}
        return Case("w4a8_dynamic", "moe", sizes, {"consumer": consumer, **config})

    return {
        "linear unpacked": linear(**group),
        "linear packed": linear(**group, **packed),
        "moe group unpacked": moe(SEED, **group),
        "moe group packed": moe(SEED, **group, **packed),
        "moe channel packed": moe(RELEASE, **channel, **packed),
        "moe ct group": moe(RELEASE, **group, **ct),
        "moe ct channel": moe(HEAD, **channel, **ct, weight_strategy="channel"),
    }


def race(name: str, case: Case) -> Race:
    plan = layoutdsl.compile_spec(case.name, config=case.config, sizes=case.sizes, params_dtype=case.params)
    by_hand = careful.linear if case.layer == "linear" else careful.moe
    runs: dict[str, Run] = {
        "replaced": lambda given: reference.load(case, given).tensors,
        "careful": lambda given: by_hand(case, given),
        "exact": lambda given: plan.run(given),
        "fast": lambda given: plan.run(given, math="fast"),
        "fast donate": lambda given: plan.run(given, math="fast", donate=True),
    }
    return Race(name, lambda: parameters(case), runs, frozenset({"fast donate"}))


def parameters(case: Case) -> Tensors:
    torch.manual_seed(0)
    return {
        name: torch.randint(*((-8, 8) if holds == "int4" else (-128, 128)), shape, dtype=dtype) if dtype == torch.int8 else (torch.rand(shape) * 0.1).to(dtype)
        for name, (shape, dtype, holds) in reference.parameters(case).items()
    }


def agree(race: Race) -> None:
    """All make the same: bit for bit, sums of ``careful`` and ``fast`` within float32's reach."""
    given = race.given()
    want = race.runs["replaced"](given)
    for name, run in race.runs.items():
        got = run(dict(given))
        assert set(got) == set(want), (race.name, name)
        for output, tensor in want.items():
            close = "scale_bias" in output and name != "exact"
            torch.testing.assert_close(got[output], tensor, rtol=1e-3 if close else 0, atol=1e-1 if close else 0)


# ---- time ----------------------------------------------------------------------------------------------------------------------------------------------------


def timed(race: Race, reps: int) -> dict[str, list[Seconds]]:
    """Seconds of each, in turns; the first turn warms up and does not count."""
    given = race.given()
    found: dict[str, list[Seconds]] = {name: [] for name in race.runs}
    names = list(race.runs)
    for turn in range(reps + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            own = {key: tensor.clone() for key, tensor in given.items()} if name in race.donates else dict(given)
            gc.collect()
            wall, processor = time.perf_counter(), time.process_time()
            results = race.runs[name](own)
            seconds = Seconds(time.perf_counter() - wall, time.process_time() - processor)
            del results, own
            if turn:
                found[name].append(seconds)
    return found


# ---- memory --------------------------------------------------------------------------------------------------------------------------------------------------


def temporary(race: Race, name: str) -> float | None:
    """MiB beyond the parameters and the results, at the peak, in a process of its own; None where the system does not say."""
    if not (hasattr(os, "fork") and os.access("/proc/self/clear_refs", os.W_OK)):
        return None
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, json.dumps(_temporary(race, name)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return float(json.loads(text)) if text else None


def _temporary(race: Race, name: str) -> float:
    given = race.given()
    race.runs[name](dict(given))  # what a first run loads is not the layer's
    ours = {tensor.untyped_storage().data_ptr() for tensor in given.values()}
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(MMAP_THRESHOLD, 1 << 16)  # no cache of the allocator hides a peak, or makes one
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _resident("VmRSS")
    results = race.runs[name](given)
    made = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in results.values()}
    return (_resident("VmHWM") - before - sum(size for place, size in made.items() if place not in ours)) / MIB


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


# ---- table ---------------------------------------------------------------------------------------------------------------------------------------------------


def report(race: Race, times: Mapping[str, Sequence[Seconds]], memory: Mapping[str, float | None]) -> None:
    given = race.given()
    size = sum(tensor.nbytes for tensor in given.values()) / MIB
    print(f"\n{race.name} ({size:.0f} MiB of parameters)")
    print(f"  {'':12}{'ms':>8}{'median':>8}{'cpu ms':>8} | x replaced: ms, median, cpu | x careful: ms, median, cpu | temporary MiB")
    base = {name: figures(found) for name, found in times.items()}
    for name, own in base.items():
        ratios = ["".join(f"{theirs / ours:9.2f}" for theirs, ours in zip(base[rival], own)) for rival in ("replaced", "careful")]
        held = "" if memory[name] is None else f"{memory[name]:13.1f}"
        print(f"  {name:12}{''.join(f'{seconds * 1e3:8.1f}' for seconds in own)} | {ratios[0]} | {ratios[1]} | {held}")


def figures(found: Sequence[Seconds]) -> tuple[float, float, float]:
    """Least and median time on the clock, least processor time."""
    walls = [seconds.wall for seconds in found]
    return min(walls), statistics.median(walls), min(seconds.processor for seconds in found)


if __name__ == "__main__":
    main()
