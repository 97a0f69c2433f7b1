"""What a mode works on: the scheme classes that vllm-ascend has, its adapters, the plans, and the arounds that will be put on the classes.

Made by ``plugin`` each time something is installed; filled by the modes in their order; then put onto the classes in one go.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from layoutdsl.integrations.vllm_ascend.names import ADAPTERS, DIRECT, REGISTRIES
from layoutdsl.integrations.vllm_ascend.patches import Around, Patches
from layoutdsl.integrations.vllm_ascend.plans import Key, Plans

PROCESS = "process_weights_after_loading"
RESTORE = "restore_weights_for_rl_loading"


@dataclass(frozen=True, slots=True)
class Scheme:
    """A class of vllm-ascend: the key of its registry, and the device whose registry that is ("" for the main one)."""

    cls: type
    key: Key
    device: str


@dataclass(slots=True)
class Target:
    """arounds: by class, of ``process_weights_after_loading``; the first is the outermost."""

    plans: Plans
    patches: Patches
    schemes: list[Scheme]
    process: dict[type, list[Around]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def around_process(self, scheme: Scheme, around: Around) -> None:
        self.process.setdefault(scheme.cls, []).append(around)


Install = Callable[[Target], None]


def schemes() -> list[Scheme]:
    """The scheme classes of all registries that are there, each class once, and those that no registry has."""
    found: dict[type, Scheme] = {}
    for name, device in REGISTRIES.items():
        for key, cls in registry(name).items():
            found.setdefault(cls, Scheme(cls, key, device))
    for key, (module, name) in DIRECT.items():
        direct = getattr(sys.modules.get(module), name, None)
        if isinstance(direct, type):
            found.setdefault(direct, Scheme(direct, key, ""))
    return list(found.values())


def registry(name: str) -> dict[Key, type]:
    """The registry of a package; empty if it is not there, or is kept otherwise."""
    found = getattr(sys.modules.get(f"{name}.registry"), "_SCHEME_REGISTRY", None)
    return found if isinstance(found, dict) else {}


def adapters() -> Iterator[type]:
    """The classes between vLLM's layers and the schemes that have a ``create_weights`` of their own."""
    module: ModuleType | None = sys.modules.get(ADAPTERS)
    for cls in list(vars(module).values()) if module is not None else ():
        if isinstance(cls, type) and cls.__module__ == ADAPTERS and "create_weights" in cls.__dict__:
            yield cls


def scheme_of(adapter: Any) -> Any:
    """The scheme behind an adapter."""
    return getattr(adapter, "quant_method", None)
