"""vllm-ascend's own unit tests of its quantization package, run unmodified in a process of their own.

Its conftest puts a mock in place of torch_npu where no NPU is found (``npu-smi`` does not run). Folder a2 is for a machine with an NPU; it is run with the real
torch_npu and the stand-ins of ``stand_ins.device_functions``, so that only what computes on a device fails (``with_torch_npu``).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

Outcome = Literal["passed", "failed", "skipped"]
UNIT = "tests/ut"
A2 = f"{UNIT}/quantization/methods/a2"
PARTS: dict[str, tuple[list[str], list[str]]] = {
    "mocked torch_npu": ([f"{UNIT}/quantization", f"{UNIT}/_310p/quantization", f"--ignore={A2}"], []),
    "real torch_npu, stand-ins for the device": ([A2], ["tests_vllm_ascend.with_torch_npu"]),
}
"""Name to folders and further pytest plugins."""


def run(part: str, plugins: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> dict[str, Outcome]:
    """Outcome by test. plugins: further pytest plugins, importable in this environment. Raises RuntimeError if pytest did not come to an end."""
    folders, own = PARTS[part]
    loaded = [argument for plugin in ("tests_vllm_ascend.stand_ins", *own, *plugins) for argument in ("-p", plugin)]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.xml")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-c",
            os.devnull,
            "--rootdir",
            ".",
            "-p",
            "no:cacheprovider",
            *loaded,
            f"--junitxml={results}",
            *folders,
        ]
        done = subprocess.run(command, cwd=sources(), env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1) or not results.exists():
            raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout[-4000:]}{done.stderr[-4000:]}")
        return {f"{case.get('classname')}.{case.get('name')}": _outcome(case) for case in ElementTree.parse(results).getroot().iter("testcase")}


def sources() -> Path:
    """The folder that holds ``tests`` of the source distribution of vllm-ascend, beside the distribution itself: see tools/unpack_sources.py."""
    spec = find_spec("vllm_ascend")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parents[2] / "unit_tests"


def _outcome(case: ElementTree.Element) -> Outcome:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"
