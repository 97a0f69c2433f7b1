"""What the tests found, collected while they run, and the page that says it: docs/vllm_ascend.md, written by ``make test-vllm-ascend``."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version

from tests_vllm_ascend.cases import Known
from tests_vllm_ascend.harness import Case
from tests_vllm_ascend.partial import Partial
from tests_vllm_ascend.world import World

COMPARED: list[tuple[Case, World, Known | None]] = []
PARTIAL: list[Partial] = []
UPSTREAM: dict[str, tuple[int, int, list[str]]] = {}
"""Part to passed, skipped, and the names of what failed."""

HEAD = """\
# Against the real vllm-ascend

<!-- Written by `make test-vllm-ascend`; what is edited here is lost. -->

```sh
make test-vllm-ascend
```

takes the source distributions of vllm and vllm-ascend from the package registry, unpacks their Python unchanged into an environment of its own
(`.venv-vllm-ascend`), with torch_npu and stand-ins for the CANN libraries, and tests layoutdsl against them. It needs gcc and no NPU. What stands in for a
device, for other ranks and for a model folder is in `tests_vllm_ascend/stand_ins.py` and `tests_vllm_ascend/world.py`, each with its reason.
"""
EQUAL = """\
## The same results

Every key of both scheme registries: a layer is made by vllm's own classes through the quantization config, the registry and the adapter, a checkpoint is
loaded into it by vllm's own weight loaders, and it is processed; once by the hand-written code, once by our plan for the same configuration. Names,
dtypes, shapes, strides and bits of every tensor, every number, and the casts to FRACTAL_NZ are compared. *Layers* counts kinds of layers, ranks (tp 1, 2,
4; ep 1, 2; all of them) and settings (dtype, `weight_nz_mode`, fused MC2, dynamic EPLB, role in split prefill and decode, chip).
"""
PARTLY = """\
## Loads that vllm accepts and that are not whole

No error upstream: what is *left* of a parameter is what the memory held before. Measured by loading over two backgrounds. Every other right checkpoint of
the table above is loaded whole, by upstream's declarations and by ours.
"""
TESTS = """\
## vllm-ascend's own unit tests

Of its quantization package (`tests/ut/quantization`, `tests/ut/_310p/quantization`), unmodified.
"""


def compared(case: Case, world: World, exception: Known | None) -> None:
    COMPARED.append((case, world, exception))


def page() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("vllm", "vllm-ascend", "torch", "torch_npu"))
    return "\n".join([HEAD, f"Versions: {versions}.\n", EQUAL, *_equal(), PARTLY, *_partial(), TESTS, *_upstream()]) + "\n"


def _equal() -> Iterable[str]:
    yield from _row("key", "registry", "our spec", "layers", "equal", "exceptions")
    yield from _row(*["---"] * 6)
    groups: dict[tuple[str, str, str], list[tuple[Case, World, Known | None]]] = {}
    for case, world, exception in COMPARED:
        groups.setdefault((case.scheme, case.layer, "310P" if world.device == "310p" else "main"), []).append((case, world, exception))
    reasons = list(dict.fromkeys(exception.reason for _, _, exception in COMPARED if exception is not None))
    for (scheme, layer, registry), group in groups.items():
        numbers = sorted({reasons.index(exception.reason) + 1 for _, _, exception in group if exception is not None})
        equal = sum(exception is None for _, _, exception in group)
        yield from _row(f"{scheme}, {layer}", registry, str(group[0][0].spec), str(len(group)), str(equal), ", ".join(f"({number})" for number in numbers))
    total = sum(exception is None for _, _, exception in COMPARED)
    yield from _row("all", "", "", str(len(COMPARED)), str(total), "")
    yield ""
    stages = {"load": "upstream refuses to load", "apply": "our plan refuses", "compare": "results differ"}
    for number, reason in enumerate(reasons, 1):
        found = [(case, world, exception) for case, world, exception in COMPARED if exception is not None and exception.reason == reason]
        yield f"({number}) {stages[found[0][2].stage]}, {len(found)} layers: {reason}.\n"  # type: ignore[union-attr]


def _partial() -> Iterable[str]:
    yield from _row("what", "key", "rank", "left")
    yield from _row(*["---"] * 4)
    for partial in PARTIAL:
        left = ", ".join(f"`{name}` {count} of {total}" for name, (count, total) in partial.left.items())
        yield from _row(partial.title, str(partial.case), str(partial.world), left)
    yield ""


def _upstream() -> Iterable[str]:
    yield from _row("part", "passed", "skipped by itself", "failed")
    yield from _row(*["---"] * 4)
    for part, (passed, skipped, failed) in UPSTREAM.items():
        yield from _row(part, str(passed), str(skipped), f"{len(failed)}: forwards on an NPU" if failed else "0")


def _row(*cells: str) -> Iterable[str]:
    yield f"| {' | '.join(cells)} |"
