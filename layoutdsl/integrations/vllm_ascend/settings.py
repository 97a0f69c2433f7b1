"""The switches: ``--additional-config '{"layoutdsl": {...}}'`` first, ``LAYOUTDSL_MODE`` and ``LAYOUTDSL_SPECS`` second.

Read by ``plugin`` when vllm-ascend reads its own config. The first reaches every rank and is part of vLLM's compile cache key; variables of the environment may
stay behind on the node where they were set (Ray hands on ``LAYOUTDSL_`` only if ``VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY`` says so).

Invariants: a key of the config beats the variable, key by key; nothing set is ``off``; a word that nobody knows is a diagnostic, never ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from layoutdsl.diagnostics import Diagnostic, DiagnosticError

KEY = "layoutdsl"
MODE_VARIABLE, SPECS_VARIABLE = "LAYOUTDSL_MODE", "LAYOUTDSL_SPECS"
MODES = ("guard", "shadow", "override", "add")
OFF = "off"


@dataclass(frozen=True, slots=True)
class Named:
    """A spec that the user named: the id of a bundled one, or a path. like: the scheme whose forward an added scheme for experts borrows."""

    spec: str
    like: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """modes: in the order of ``MODES``, none for off. specs: empty for all bundled ones. digests: of the specs, by name, as the first process found them."""

    modes: tuple[str, ...] = ()
    specs: tuple[Named, ...] = ()
    digests: tuple[tuple[str, str], ...] = ()

    def as_config(self) -> dict[str, Any]:
        """The same for ``additional_config``: what another rank reads there are these settings."""
        specs = [{"spec": named.spec, "like": named.like} if named.like else named.spec for named in self.specs]
        return {"mode": ",".join(self.modes) or OFF, "specs": specs, "digests": dict(self.digests)}


def read_settings(additional_config: Any, environ: Mapping[str, str]) -> Settings:
    """What the user wants. additional_config: vLLM's, of any type. Raises: DiagnosticError (``plugin-settings``)."""
    given = additional_config.get(KEY, {}) if isinstance(additional_config, Mapping) else {}
    if not isinstance(given, Mapping):
        _bad_setting(f"`{KEY}` in additional_config is {type(given).__name__}, not an object", 'write {"layoutdsl": {"mode": "guard"}}')
    unknown = sorted(str(key) for key in given if key not in ("mode", "specs", "digests"))
    if unknown:
        _bad_setting(f"`{unknown[0]}` is no setting of layoutdsl", "settings are mode and specs")
    modes = _modes(given["mode"] if "mode" in given else environ.get(MODE_VARIABLE, OFF))
    specs = _specs(given["specs"] if "specs" in given else _listed(environ.get(SPECS_VARIABLE, "")))
    digests = given.get("digests", {})
    return Settings(modes, specs, tuple(sorted(digests.items())) if isinstance(digests, Mapping) else ())


def _modes(given: Any) -> tuple[str, ...]:
    words = given.split(",") if isinstance(given, str) else given if isinstance(given, (list, tuple)) else [given]
    named = [word.strip().lower() if isinstance(word, str) else str(word) for word in words]
    for word in named:
        if word not in (*MODES, OFF, ""):
            _bad_setting(f"`{word}` is no mode", f"modes are {', '.join((OFF, *MODES))}; several are joined by commas")
    if "shadow" in named and "override" in named:
        _bad_setting("`shadow` keeps the results of the original code and `override` those of the plan", "take one of the two")
    return tuple(mode for mode in MODES if mode in named and OFF not in named)


def _listed(text: str) -> Any:
    if not text.strip().startswith("["):
        return [word.strip() for word in text.split(",") if word.strip()]
    try:
        return json.loads(text)
    except ValueError:
        _bad_setting(f"{SPECS_VARIABLE} is no JSON", 'write ids or paths with commas between them, or ["W8A8.linear"]')


def _specs(given: Any) -> tuple[Named, ...]:
    if not isinstance(given, (list, tuple)):
        _bad_setting(f"`specs` is {type(given).__name__}, not a list", 'write "specs": ["W4A8_DYNAMIC.linear", "my_scheme.linear.yaml"]')
    return tuple(_named(item) for item in given)


def _named(item: Any) -> Named:
    if isinstance(item, str):
        return Named(item)
    if isinstance(item, Mapping) and isinstance(item.get("spec"), str) and isinstance(item.get("like"), (str, type(None))) and item.keys() <= {"spec", "like"}:
        return Named(item["spec"], item.get("like"))
    _bad_setting(f"{item!r} names no spec", 'write "my_scheme.linear.yaml", or {"spec": "my_scheme.moe.yaml", "like": "W8A8_DYNAMIC"}')


def _bad_setting(message: str, help: str) -> NoReturn:
    raise DiagnosticError(Diagnostic(code="plugin-settings", message=message, where=KEY, helps=(help,)))
