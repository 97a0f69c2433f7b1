"""From a spec to the configurations that are run: every reachable world of the proofs, with values in place of symbols.

First stage of ``verify``. Worlds whose plans are equal are one configuration.

Invariants: a configuration compiles; names given by the caller have that value everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from layoutdsl.api import Plan, Spec
from layoutdsl.compiler.config import Setting, settings_of
from layoutdsl.compiler.driver import Compiled, elaborate_one, plan_of, worlds
from layoutdsl.compiler.emit import test_expr
from layoutdsl.compiler.require import conditions_of
from layoutdsl.compiler.scope import SYMBOLIC, Context, World
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.syntax.document import CaseMap
from layoutdsl.verify import sizes

OTHER = "(any other)"
GROUPS = (64, 96, 128, 32, 256, 512)
"""Values tried for an open group size; 96 is no power of two, 256 is what one kernel takes alone."""
OTHERS = (2, 3, 1, 5, 8, 16)
"""Values tried for any other open integer; one hides what is multiplied by it."""
REFUSED = {"requirement-failed", "config-value", "plan-invalid"}
"""What a spec answers for values that it does not hold for."""
RANKS = {"tp_size": 1, "tp_rank": 0}
"""What an open configuration is run with; ``tensor_parallel`` has the others."""


@dataclass(frozen=True, slots=True, eq=False)
class Configuration:
    """One configuration of a spec: what the compiler is given, the cases that hold, and the plan, not bound yet."""

    spec: Spec
    given: Mapping[str, Any]
    cases: tuple[str, ...]
    plan: Plan
    compiled: Compiled

    @property
    def contexts(self) -> dict[str, Context]:
        return self.compiled.state.contexts

    @property
    def title(self) -> str:
        """The cases and the values that decide them, for messages."""
        words = [*self.cases, *(f"{name} = {'none' if value is None else value}" for name, value in self.given.items() if name not in ("version",))]
        return ", ".join(words) or "the only configuration"

    def with_config(self, **config: Any) -> Configuration:
        """The same with other values, such as ``tp_size``. Raises DiagnosticError where the spec refuses them."""
        return configured(self.spec, {**self.given, **config})


def configured(spec: Spec, given: Mapping[str, Any]) -> Configuration:
    """One configuration, compiled. Raises: DiagnosticError."""
    compiled = elaborate_one(spec.document, given)
    cases = tuple(name for name, holds in compiled.state.world.cases.items() if holds)
    return Configuration(spec, dict(given), cases, Plan(plan_of(compiled)), compiled)


def configurations(spec: Spec, given: Mapping[str, Any], *, all: bool = False) -> list[Configuration]:
    """The configurations whose plans differ, in the order of the worlds; or all of them. Values that the spec does not hold for are left out.

    Raises: DiagnosticError.
    """
    settings = settings_of(spec.document)
    found: dict[Any, Configuration] = {}
    for compiled in worlds(spec.document, given):
        for values in _concrete(compiled, settings, given):
            try:
                made = configured(spec, values)
            except DiagnosticError as error:
                if {finding.code for finding in error.diagnostics} & REFUSED:
                    continue
                raise
            found.setdefault(len(found) if all else _content(made), made)
    return list(found.values())


def same_plan(one: Configuration, other: Configuration) -> bool:
    """Do two configurations do the same?"""
    return bool(_content(one) == _content(other))


def _content(configuration: Configuration) -> Any:
    """The plan without the config that it was made for."""
    return replace(configuration.plan.data, config=())


# ---- values ---------------------------------------------------------------------------------------------------------------------------------------------


def _concrete(compiled: Compiled, settings: Mapping[str, Setting], given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The world with a value for every symbol: of several open integers one varies at a time."""
    world = compiled.state.world
    decided = {name: _plain(settings[name], world, value) for name, value in world.config.items() if value is not SYMBOLIC} | dict(given)
    opened = [name for name in (*world.config, *sorted(world.used)) if name not in decided and settings[name].type == "int"]
    opened = [name for name in dict.fromkeys(opened) if name not in RANKS]
    # A name without a default must be given, even where nothing depends on it.
    needed = [setting for name, setting in settings.items() if setting.default is None and not setting.optional and name not in (*decided, *opened)]
    decided |= {setting.name: setting.values[0] if setting.values else 1 if setting.type == "int" else OTHER for setting in needed}
    if not opened:
        yield decided
        return
    conditions = [*(c.test for c in conditions_of(world, test_expr)), *(limit.test for limit in compiled.forward.limits)]
    first = {name: _candidates(settings[name], world)[0] for name in opened}
    for name in opened:
        fits = [v for v in _candidates(settings[name], world) if sizes.feasible(conditions, {**RANKS, **first, name: v})]
        for value in _chosen(fits, _default(settings[name]), first[name]):
            yield {**decided, **first, name: value}


def _chosen(fits: list[int], default: int | None, small: int) -> list[int]:
    """Two values that the kernels' limits allow, the spec's default though they may not, and a small one where the others make large layers."""
    found = fits[:2] + ([] if default is None else [default])
    return list(dict.fromkeys(found if found and min(found) <= small else [*found, small]))


def _plain(setting: Setting, world: World, value: Any) -> Any:
    """The value itself; for a text that stands for all others the default, or a text that no spec compares with."""
    if value != OTHER:
        return value
    return setting.default if isinstance(setting.default, str) and setting.default not in world.domains[setting.name] else "other"


def _candidates(setting: Setting, world: World) -> list[int]:
    lowest = max(setting.minimum, world.bounds.lower.get(setting.name, 1))
    values = GROUPS if "group_size" in setting.name else OTHERS
    return [value for value in values if value >= lowest] or [lowest]


def _default(setting: Setting) -> int | None:
    default = setting.default
    if isinstance(default, CaseMap):
        return None
    return default if isinstance(default, int) and default not in setting.none else None
