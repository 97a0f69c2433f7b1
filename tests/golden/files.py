"""The recorded files by name: ``<system>/[310p.]<scheme>.<layer>[.variant...]``."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "data" / "golden"
CONSUMERS = {"seed": "vllm-ascend-0.16", "release": "vllm-ascend-0.23", "head": "vllm-ascend-main"}
"""What the folders are called, oldest first."""
ALL_FILES = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.safetensors"))


def scheme_of(file: str) -> tuple[str, str]:
    """Scheme and layer of a file."""
    scheme, layer, *_ = file.partition("/")[2].removeprefix("310p.").split(".")
    return scheme, layer


def holds(name: str) -> list[str]:
    """The systems of which there is a recording of ``scheme.layer``, oldest first; all, where none of them has it and there is none."""
    folders = {file.partition("/")[0] for file in ALL_FILES if ".".join(scheme_of(file)) == name}
    return [consumer for folder, consumer in CONSUMERS.items() if folder in folders or not folders]
