"""Reloads a layer of every scheme again and again, under every protocol, and says what grew.

    python benchmarks/reload.py                          each scheme, each protocol, 1000 reloads of a small layer
    python benchmarks/reload.py --times 50 --only w4a8   fewer, of schemes whose name contains this
    python benchmarks/reload.py --peak                   instead: the memory that each policy takes, on a layer of some MiB

It fails if, after the second reload, an output lies elsewhere, there are more tensors or storages than there were, or the last results are not those of a fresh
load. ``objects`` are blocks of Python's allocator, ``rss`` is what the process grew by on the side of the operating system.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/runtime"))

import torch
from reloading import SCHEMES, Layerwise, Load, created, fill, held, scheme_layers, spoil, where
from torch.nn import Module, Parameter
from torch.utils._python_dispatch import TorchDispatchMode

import layoutdsl
from layoutdsl.plan.model import Plan as BoundPlan
from tests.golden.compare import assert_same

Reload = Callable[[Load], None]
MIB = 2**20
PAGE = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, default=1000, help="default 1000")
    parser.add_argument("--only", default="", help="schemes whose name contains this")
    parser.add_argument("--peak", action="store_true", help="memory by policy")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        peaks()
        return
    print(f"{options.times} reloads each; what grew between the second and the last")
    print(f"{'':36}{'protocol':12}{'ms each':>10}{'tensors':>10}{'bytes':>10}{'objects':>10}{'rss KiB':>10}")
    for name in (name for name in SCHEMES if options.only in name):
        for protocol in ("alias", "fresh", "stream", "layerwise", "lost"):
            measure(name, protocol, options.times)


def measure(name: str, protocol: str, times: int) -> None:
    plan, first, second = scheme_layers(name)[-1]
    layer = created(plan)
    reload = reloader(plan, layer, protocol)
    fill(layer, first)
    plan.apply(layer)
    for load in (second, first):
        reload(load)
    places = where(plan, layer)
    before, blocks, started = alive(), sys.getallocatedblocks(), time.perf_counter()
    resident = rss()
    for turn in range(times):
        reload((second, first)[turn % 2])
        assert where(plan, layer) == places, f"{name} {protocol}: reload {turn} moved an output"
    seconds = (time.perf_counter() - started) / max(times, 1)
    grown = rss() - resident
    after, python = alive(), sys.getallocatedblocks() - blocks
    want = (second, first)[(times - 1) % 2] if times else first
    numbers = {key for key, value in want.results.items() if not isinstance(value, (list, torch.Tensor))}
    assert_same(*({key: value for key, value in values.items() if key not in numbers} for values in (held(plan, layer), want.results)))
    assert after[0] <= before[0] and after[1] <= before[1], f"{name} {protocol}: {before} tensors and bytes became {after}"
    print(f"{name:36}{protocol:12}{seconds * 1e3:10.2f}{after[0] - before[0]:10}{after[1] - before[1]:10}{python:10}{grown // 1024:10}")


def reloader(plan: layoutdsl.Plan, layer: Module, protocol: str) -> Reload:
    if protocol == "layerwise":
        layerwise = Layerwise(layer)
        return lambda load: layerwise.reload(load, plan.apply)

    def reload(load: Load) -> None:
        if protocol == "lost":
            spoil(layer)
        plan.restore(layer, mode="fresh" if protocol == "fresh" else "alias")
        fill(layer, load)
        plan.apply(layer, policy="stream" if protocol == "stream" else "stage")

    return reload


def alive() -> tuple[int, int]:
    """Tensors, and the bytes of their storages."""
    gc.collect()
    return len(tensors_alive()), bytes_alive()


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


# ---- memory by policy ----------------------------------------------------------------------------------------------------------------------------------------


class Watch(TorchDispatchMode):
    """The most bytes that storages had together at any time, beyond what there was."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self.start = 0, 0

    def __enter__(self) -> Watch:
        gc.collect()
        self.start = bytes_alive()
        super().__enter__()
        return self

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        self.peak = max(self.peak, bytes_alive() - self.start)
        return result


def tensors_alive() -> list[torch.Tensor]:
    return [one for one in gc.get_objects() if type(one) in (torch.Tensor, Parameter) and not one.is_meta]


def bytes_alive() -> int:
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors_alive()}.values())


@contextmanager
def frozen() -> Iterator[None]:
    gc.freeze()
    yield
    gc.unfreeze()


def peaks() -> None:
    """Of a W4A8 linear layer and of experts: parameters, and what comes on top while it is applied."""
    cases = {
        "w4a8_dynamic.linear": {"input_size": 2048, "output_size": 2048},
        "w8a8_dynamic.moe": {"num_experts": 8, "hidden_size": 512, "intermediate_size_per_partition": 512},
    }
    for name, sizes in cases.items():
        plan = layoutdsl.compile_spec(name, sizes=sizes, params_dtype="bfloat16")
        print(f"{name}: parameters {of_inputs(plan.bound) / MIB:.2f} MiB")
        for policy in ("stage", "stream", "donate"):
            print(f"  first load, {policy:8} {peak_of(plan, policy, 'first') / MIB:8.2f} MiB")
        for policy in ("stage", "stream"):
            for mode in ("alias", "fresh", "layerwise"):
                print(f"  {mode:10}, {policy:8} {peak_of(plan, policy, mode) / MIB:8.2f} MiB")


def of_inputs(plan: BoundPlan) -> int:
    return sum(torch.empty(node.type.shape, dtype=getattr(torch, node.type.storage), device="meta").nbytes for node in plan.inputs)


def peak_of(plan: layoutdsl.Plan, policy: str, mode: str) -> int:
    with frozen():
        layer = created(plan)
        load = Load({name: zeros(parameter) for name, parameter in layer.named_parameters()}, {})
        fill(layer, load)
        if mode == "first":
            load.given.clear()
            with Watch() as watch:
                plan.apply(layer, policy=policy)  # type: ignore[arg-type]
            return watch.peak
        watch = Watch()

        def process(module: Module) -> None:
            with watch:
                plan.apply(module, policy=policy)  # type: ignore[arg-type]

        layerwise = Layerwise(layer)
        plan.apply(layer)
        if mode == "layerwise":
            layerwise.reload(load, process)
            return watch.peak
        plan.restore(layer, mode=mode)  # type: ignore[arg-type]
        fill(layer, load)
        load.given.clear()
        process(layer)
        return watch.peak


def zeros(parameter: torch.Tensor) -> torch.Tensor:
    return torch.zeros(parameter.shape, dtype=parameter.dtype)


if __name__ == "__main__":
    main()
