"""Write ``layoutdsl/kernels/schemas.json`` from the installed torch_npu: the schema of every op that it registers under ``npu::``.

To follow a new torch_npu: change its version in constraints.txt, then ``make schemas``; ``make test-npu`` fails while the file and the wheel disagree.

The file: package and version of the wheel, then a line for each op, sorted by name: ``"npu::op"`` or ``"npu::op.overload"``, and the schema as torch prints it.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "layoutdsl" / "kernels" / "schemas.json"
PACKAGE = "torch_npu"


def schemas() -> dict[str, Any]:
    """The content of the file, from the installed wheel."""
    import torch
    import torch_npu  # noqa: F401  registers the ops

    found = {f"{s.name}.{s.overload_name}".rstrip("."): str(s) for s in torch._C._jit_get_all_schemas() if s.name.startswith("npu::")}
    return {"package": PACKAGE, "version": version(PACKAGE), "schemas": dict(sorted(found.items()))}


def text() -> str:
    return json.dumps(schemas(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(f"{FILE.name}: {len(schemas()['schemas'])} schemas of {PACKAGE} {version(PACKAGE)}")
