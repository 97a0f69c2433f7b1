"""Replaces attributes of classes, and puts them back.

Used by every mode: what the plugin does to vllm-ascend, it does here, on class objects that exist. So identity, names and constructors stay, and whoever holds
such a class, a registry or a direct constructor, has the new method.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

_ABSENT = object()
Next = Callable[[], Any]
Around = Callable[[Any, Any, Next], Any]
"""``around(scheme, layer, next)``: what happens instead of, before or behind ``next``, which is the original or the around of the next mode."""


class Patches:
    """What was replaced, to be undone in one go."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []

    def put(self, owner: type, name: str, value: Any) -> None:
        """Sets an attribute of a class; what it had itself, not what it inherited, comes back with :meth:`undo`."""
        before = owner.__dict__.get(name, _ABSENT)
        self._undo.append((lambda: delattr(owner, name)) if before is _ABSENT else (lambda: setattr(owner, name, before)))
        setattr(owner, name, value)

    def put_item(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:
        """The same for an item that a mapping does not have yet."""
        self._undo.append(lambda: mapping.pop(key, None))
        mapping[key] = value

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


def wrapped(cls: type, original: Callable[..., Any], arounds: list[Around]) -> Callable[..., Any]:
    """A method ``(scheme, layer, ...)`` that goes through the arounds, the first outermost, and then to the original.

    Schemes call each other: W8A8_MIX the static one, a subclass its parent. Only the first call for a layer goes through the arounds, and only on an instance
    of ``cls`` itself, because a subclass that nobody registered may hold other tensors.
    """

    @functools.wraps(original)
    def method(scheme: Any, layer: Any, *args: Any, **kwargs: Any) -> Any:
        def last() -> Any:
            return original(scheme, layer, *args, **kwargs)

        if type(scheme) is not cls or id(layer) in _active():
            return last()
        _active().add(id(layer))
        try:
            return _through(arounds, scheme, layer, last)()
        finally:
            _active().discard(id(layer))

    return method


def _through(arounds: list[Around], scheme: Any, layer: Any, last: Next) -> Next:
    if not arounds:
        return last
    first, *rest = arounds
    return lambda: first(scheme, layer, _through(rest, scheme, layer, last))


_LOCAL = threading.local()


def _active() -> set[int]:
    """The layers that this thread is working on, by ``id``."""
    if not hasattr(_LOCAL, "layers"):
        _LOCAL.layers = set()
    found: set[int] = _LOCAL.layers
    return found
