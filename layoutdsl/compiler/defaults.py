"""One configuration: the names that a caller left out take the spec's defaults, and a configuration that ``require`` excludes is explained."""

from __future__ import annotations

from typing import Any

from layoutdsl.compiler.config import Setting
from layoutdsl.compiler.evaluate import Undecided, truth
from layoutdsl.compiler.require import Learned, learn
from layoutdsl.compiler.scope import Context, World, members_of
from layoutdsl.compiler.worlds import decide_facet
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.ir.symbolic import Facts
from layoutdsl.syntax.document import CaseMap


def fill_defaults(world: World) -> None:
    """Plain defaults first; a default that depends on cases is taken once those cases are decided."""
    cased = {}
    for name, setting in world.settings.items():
        if name in world.config:
            continue
        if isinstance(setting.default, CaseMap):
            cased[name] = setting
        elif setting.default is None and not setting.optional:
            message = f"`{name}` has no default here"
            helps = (f"one of: {', '.join(map(str, setting.values))}",) if setting.values else ()
            raise DiagnosticError(Diagnostic(code="config-missing", message=message, where=name, helps=helps))
        else:
            world.config[name] = None if setting.default in setting.none and not isinstance(setting.default, bool) else setting.default
    for name, setting in cased.items():
        world.config[name] = _cased_default(world, name, setting)


def _cased_default(world: World, name: str, setting: Setting) -> Any:
    context = Context(world, members_of(world.document)[0], Facts())
    for facet in world.document.variants:
        try:
            decide_facet(world, facet, context)
        except Undecided:
            break
    for arm in sorted(setting.default.arms, key=lambda arm: arm.condition is None):
        if arm.condition is None or truth(arm.condition, context):
            value = arm.value.value
            return None if value in setting.none and not isinstance(value, bool) else value
    raise DiagnosticError(Diagnostic(code="config-missing", message=f"`{name}` has no default here", where=name))


def why_excluded(world: World) -> Diagnostic:
    """The requirement that a configuration breaks."""
    for member in members_of(world.document):
        context = Context(world, member, Facts())
        for rule in world.document.require:
            if context.holds(rule.condition) and not learn(rule.expr, context, Learned()):
                when = f" when {rule.condition.span.text}" if rule.condition else ""
                shown = ", ".join(sorted({f"{n} = {world.config[n]}" for n in world.used if n in rule.span.text}))
                message = f"this configuration breaks `{rule.expr.span.text}`{when}"
                return Diagnostic(code="requirement-failed", message=message, span=rule.span, notes=(shown,) if shown else ())
    raise AssertionError("a requirement failed, but none does")
