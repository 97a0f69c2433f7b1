"""The plugin of one process: what the user wants, what of vllm-ascend is there, and what is installed on it.

Called by ``register``'s hook for every module that it watched for, and by ``AscendConfig``, the one place where vllm-ascend reads ``additional_config``, in
every process: the driver, which hands its config on to all ranks, and each worker.

Invariants: off means that nothing but the constructor of ``AscendConfig`` is touched; what is installed is what the last config said; a fault of ours is a line
in the log, and only what the user asked for by name stops the start.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.integrations.vllm_ascend.log import LOGGER
from layoutdsl.integrations.vllm_ascend.names import CONFIG
from layoutdsl.integrations.vllm_ascend.patches import Patches, wrapped
from layoutdsl.integrations.vllm_ascend.settings import KEY, Settings, read_settings

if TYPE_CHECKING:
    from layoutdsl.integrations.vllm_ascend.plans import Plans
    from layoutdsl.integrations.vllm_ascend.target import Target

_MARK = "_layoutdsl_reads_config"


class Plugin:
    """One per process."""

    def __init__(self) -> None:
        self._patches = Patches()
        self._settings: Settings | None = None
        self._rank: Any = None
        self._logged: set[Any] = set()
        self.plans: Plans | None = None

    # -- events

    def imported(self, name: str) -> None:
        """A watched module is there. Raises: DiagnosticError, if what the user named cannot be done; before the config was read that is only logged."""
        if name == CONFIG:
            self._read_by_config()
        try:
            self._install(self._current())
        except DiagnosticError as error:
            if self._settings is not None:
                raise
            LOGGER.warning("layoutdsl waits for the config: %s", _text(error))

    def configured(self, vllm_config: Any) -> None:
        """vllm-ascend reads its config. Raises: DiagnosticError for bad settings, named specs that do not load, and others than the driver's."""
        additional = getattr(vllm_config, "additional_config", None)
        settings = read_settings(additional, os.environ)
        self._rank = getattr(getattr(vllm_config, "parallel_config", None), "rank", None)
        self._settings = settings
        try:
            self._install(settings)
            if self.plans is not None and self._changes(settings) and isinstance(additional, dict):
                additional[KEY] = self._with_digests(settings, self.plans).as_config()
        except DiagnosticError:
            raise
        except Exception as error:
            self._patches.undo()
            LOGGER.warning("layoutdsl is off: %s: %s", type(error).__name__, error)

    def _current(self) -> Settings:
        """What the last config said, or the environment as long as there was none."""
        return self._settings if self._settings is not None else read_settings(None, os.environ)

    def _read_by_config(self) -> None:
        """Lets ``AscendConfig`` call us first. It is the class that is changed: modules that have imported a function of its module would not notice."""
        cls = getattr(sys.modules[CONFIG], "AscendConfig", None)
        original: Callable[..., None] | None = getattr(cls, "__init__", None)
        if not isinstance(cls, type) or original is None or hasattr(original, _MARK):
            return

        @functools.wraps(original)
        def init(config: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
            self.configured(vllm_config)
            original(config, vllm_config, *args, **kwargs)

        setattr(init, _MARK, True)
        setattr(cls, "__init__", init)  # noqa: B010

    # -- installing

    def _install(self, settings: Settings) -> None:
        """Puts the modes on the classes that are there, anew. Raises: DiagnosticError for specs that the user named, in modes that work with them."""
        self._patches.undo()
        if not settings.modes:
            return
        from layoutdsl.integrations.vllm_ascend.modes import MODES
        from layoutdsl.integrations.vllm_ascend.target import PROCESS, Target, schemes

        modes = {name: MODES[name] for name in settings.modes}
        try:
            plans, version, known = self._plans(settings)
            left_out = [] if known else [name for name, mode in modes.items() if not mode.any_version]
            target = Target(plans, self._patches, schemes())
            for name, mode in modes.items():
                if name not in left_out:
                    mode.install(target)
            originals = {cls: getattr(cls, PROCESS) for cls in target.process}
            for cls, arounds in target.process.items():
                self._patches.put(cls, PROCESS, wrapped(cls, originals[cls], arounds))
        except DiagnosticError as error:
            if any(mode.strict for mode in modes.values()):
                raise
            LOGGER.warning("layoutdsl is off: %s", _text(error))
            self._patches.undo()
            return
        self.plans = plans
        self._log(settings, version, left_out, target)

    def _plans(self, settings: Settings) -> tuple[Plans, str, bool]:
        """The plans for the settings, the version of vllm-ascend, and whether specs were checked against it."""
        from layoutdsl.compiler.consumers import DEFAULT_CONSUMER, consumer_of
        from layoutdsl.integrations.vllm_ascend import system
        from layoutdsl.integrations.vllm_ascend.plans import Plans, Specs

        version = system.vllm_ascend_version()
        consumer = consumer_of(version)
        name = consumer.name if consumer is not None else DEFAULT_CONSUMER
        if self.plans is not None and self.plans.specs.wanted == settings.specs and self.plans.consumer == name:
            return self.plans, version, consumer is not None
        return Plans(Specs(settings.specs, name), name), version, consumer is not None

    def _changes(self, settings: Settings) -> bool:
        from layoutdsl.integrations.vllm_ascend.modes import MODES

        return any(MODES[name].changes for name in settings.modes)

    def _with_digests(self, settings: Settings, plans: Plans) -> Settings:
        """The settings with the digests of their specs, so that graphs compiled for others are not taken. Raises: DiagnosticError if the driver's differ."""
        ours = tuple(sorted(plans.specs.digests.items()))
        if settings.digests and settings.digests != ours:
            differing = sorted(dict(set(settings.digests) ^ set(ours)))
            raise DiagnosticError(
                Diagnostic(
                    code="plugin-specs-differ",
                    message=f"the spec `{differing[0]}` is not the one that the first process read",
                    where=KEY,
                    notes=(f"here {dict(ours)}", f"there {dict(settings.digests)}"),
                    helps=("put the same files, and the same layoutdsl, on every node",),
                )
            )
        return Settings(settings.modes, settings.specs, ours)

    def _log(self, settings: Settings, version: str, left_out: list[str], target: Target) -> None:
        """One line per process, once the config is read and there are schemes."""
        line = (settings.modes, settings.specs, tuple(left_out))
        if self._settings is None or not target.schemes or line in self._logged:
            return
        self._logged.add(line)
        running = ",".join(name for name in settings.modes if name not in left_out) or "off"
        specs = " ".join(f"{name}@{digest}" for name, digest in target.plans.specs.digests.items())
        parts = [
            f"rank {'?' if self._rank is None else self._rank}",
            f"vllm-ascend {version or 'of unknown version'} as {target.plans.consumer}",
            f"mode {running}",
            f"specs {specs}",
            f"{len(target.schemes)} schemes: {' '.join(sorted('.'.join(one.key) for one in target.schemes))}",
            *target.log,
            *(f"{name} is left out: no spec was checked against this version" for name in left_out),
        ]
        LOGGER.info("layoutdsl: %s", "; ".join(parts))


def _text(error: DiagnosticError) -> str:
    return "; ".join(one.message for one in error.diagnostics)


PLUGIN = Plugin()
