"""Calls a function after modules have been imported, without importing them.

Used by ``register``, which must not import vllm-ascend itself: that takes seconds, and must happen after vllm-ascend's own patches of vLLM.

Invariants: a module that is there already counts as imported; a watched module's spec and loader are as they would have been, once it has run; the finder
leaves ``sys.meta_path`` with the last module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from importlib.abc import Loader

Callback = Callable[[str], None]


def after_import(names: Iterable[str], callback: Callback) -> None:
    """Calls ``callback`` with each name once its module has been imported: at once, or when that happens. A name that is waited for already stays so."""
    waited_for = {name for finder in sys.meta_path if isinstance(finder, _Finder) for name in finder.callbacks}
    missing = []
    for name in names:
        if _is_ready(name):
            callback(name)
        elif name not in waited_for:
            missing.append(name)
    if missing:
        sys.meta_path.insert(0, _Finder(dict.fromkeys(missing, callback)))


def _is_ready(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)


class _Finder:
    """Finds watched modules through the other finders, and puts a loader around theirs."""

    def __init__(self, callbacks: dict[str, Callback]) -> None:
        self.callbacks = callbacks

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self.callbacks:
            return None
        for finder in sys.meta_path:
            find = None if isinstance(finder, _Finder) else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find is not None else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = cast("Loader", _Loader(spec.loader, self))
                return spec
        return None

    def done(self, name: str) -> None:
        callback = self.callbacks.pop(name, None)
        if not self.callbacks and self in sys.meta_path:
            sys.meta_path.remove(self)
        if callback is not None:
            callback(name)


class _Loader:
    """Another loader, and then the callback."""

    def __init__(self, loader: Any, finder: _Finder) -> None:
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        spec.loader = self._loader  # what the module sees of its own spec while it runs
        try:
            module: ModuleType | None = self._loader.create_module(spec)
            return module
        finally:
            spec.loader = cast("Loader", self)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._finder.done(module.__name__)
