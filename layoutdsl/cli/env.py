"""``layoutdsl env``: what is installed, and what follows from it, for reports and for those who choose ``--consumer`` and ``--device``.

Invariants: nothing that is reported on is imported here (torch_npu kills a process where CANN is missing, so it is asked in another one); what cannot be found
out is said to be unknown, and is no error.
"""

from __future__ import annotations

import json
import platform
import sys
from argparse import Namespace
from importlib import metadata, util
from typing import Any

from layoutdsl.cli import output
from layoutdsl.cli.arguments import Parser, add_format

PACKAGES = ("layoutdsl", "torch", "torch_npu", "numpy", "safetensors", "vllm", "vllm-ascend")
ABSENT, UNKNOWN = "not installed", "unknown"
PROBE = "import torch, torch_npu; print('device:', torch.npu.get_device_name(0))"
PATIENCE = 60
"""Seconds for torch_npu to start and to name its first device."""


def options(parser: Parser) -> None:
    add_format(parser)


def run(arguments: Namespace) -> int:
    facts = collect()
    if arguments.format == "json":
        output.write(json.dumps(facts, indent=2) + "\n")
        return 0
    rows = [("python", facts["python"]), *facts["packages"].items()]
    rows += [(name, f"{facts[name]['name']}: {facts[name]['because']}") for name in ("consumer", "device")]
    rows += [("cache", facts["cache"]), ("specs", str(facts["specs"]))]
    output.write("\n".join(output.columns([(name, str(text)) for name, text in rows], indent="")) + "\n")
    return 0


def collect() -> dict[str, Any]:
    """The facts by name, as ``--format json`` prints them."""
    from layoutdsl.bundled import bundled
    from layoutdsl.cache_folder import folder

    packages = {name: version(name) or ABSENT for name in PACKAGES}
    return {
        "python": f"{platform.python_version()} ({platform.system().lower()}, {platform.machine()})",
        "packages": packages,
        "consumer": _consumer(version("vllm-ascend")),
        "device": _device(),
        "cache": str(folder()),
        "specs": len(bundled()),
    }


def version(package: str) -> str | None:
    """The version that a package's metadata states; None where there is none, or where it is broken."""
    try:
        return metadata.version(package) or None
    except Exception:  # a half-removed package has metadata of any shape
        return None


def _consumer(installed: str | None) -> dict[str, str]:
    from layoutdsl.compiler.consumers import CONSUMERS, DEFAULT_CONSUMER, consumer_of

    if installed is None:
        return {
            "name": UNKNOWN,
            "because": f"vllm-ascend is not installed; specs are for {DEFAULT_CONSUMER} unless `--consumer` or `--set consumer=` says more",
        }
    found = consumer_of(installed)
    if found is None:
        known = "; ".join(f"{consumer.name}: {consumer.versions}" for consumer in CONSUMERS.values())
        return {"name": UNKNOWN, "because": f"nothing was checked against vllm-ascend {installed} ({known})"}
    return {"name": found.name, "because": f"vllm-ascend {installed} is in {found.versions}; checked against {found.commit}"}


def _device() -> dict[str, str]:
    """Which of our devices torch_npu names, asked in a process of its own."""
    import subprocess

    from layoutdsl.compiler.consumers import device_of

    try:
        present = util.find_spec("torch_npu") is not None
    except (ImportError, ValueError):
        present = False
    if not present:
        return {"name": UNKNOWN, "because": "torch_npu is not installed"}
    try:
        asked = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return {"name": UNKNOWN, "because": f"torch_npu did not answer within {PATIENCE} seconds"}
    except OSError as error:
        return {"name": UNKNOWN, "because": f"torch_npu could not be asked: {output.reason(error)}"}
    name = next((line.removeprefix("device: ").strip() for line in asked.stdout.splitlines() if line.startswith("device: ")), "")
    if not name:
        last = (asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"])[-1]
        return {"name": UNKNOWN, "because": f"torch_npu is installed, but names no device: {last}"}
    return {"name": device_of(name) or UNKNOWN, "because": f"torch_npu calls it {name}"}
