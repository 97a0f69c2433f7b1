"""Config: the names that mean the same in every spec, what a spec declares of its own, and the values a caller gives.

Invariant: after :func:`resolve` every name has one value of its declared type; unknown names and values are diagnostics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from layoutdsl.compiler.consumers import CONSUMERS, DEFAULT_CONSUMER, DEVICE_ALIASES, DEVICES
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Span
from layoutdsl.syntax.document import CaseMap, ConfigDecl, Document, Literal

ConfigValue = int | float | bool | str | None
TYPES = {"int": int, "bool": bool, "str": str}


@dataclass(frozen=True, slots=True)
class Setting:
    """One name of the config. type: int, bool or str. values: the closed domain, or None. none: values that mean absent. ``declared``: where the spec says
    so."""

    name: str
    type: str
    default: Any
    values: tuple[ConfigValue, ...] | None = None
    none: tuple[ConfigValue, ...] = ()
    optional: bool = False
    minimum: int = 1
    declared: Span | None = None


SHARED = {
    setting.name: setting
    for setting in (
        Setting("consumer", "str", DEFAULT_CONSUMER, tuple(CONSUMERS)),
        Setting("device", "str", "a2", DEVICES),
        Setting("params_dtype", "str", "bfloat16", ("bfloat16", "float16")),
        Setting("quant_method", "str", "ascend", ("ascend", "compressed-tensors")),
        Setting("weight_strategy", "str", "group", ("group", "channel")),
        Setting("version", "str", "0"),
        Setting("group_size", "int", None, none=(0,), optional=True),
        Setting("layer_type", "str", "column", ("column", "row")),
        Setting("tp_size", "int", 1),
        Setting("tp_rank", "int", 0, minimum=0),
        Setting("weight_nz_mode", "int", 1, (0, 1, 2)),
        Setting("fused_mc2", "int", 0, (0, 1, 2)),
        Setting("mega_moe", "bool", False, (False, True)),
        Setting("expert_lists", "bool", False, (False, True)),
        Setting("kv_role", "str", "none", ("none", "producer", "consumer")),
        Setting("prefix", "str", ""),
    )
}


def settings_of(document: Document) -> dict[str, Setting]:
    """Every name that the spec may use: the shared ones, as the spec overrides them, and its own."""
    settings = dict(SHARED)
    held = {name: values for name, values in document.held.items() if name in SHARED}
    for name, values in held.items():
        shared = SHARED[name]
        default = shared.default if shared.default in values else values[0] if len(values) == 1 else None
        settings[name] = Setting(name, "str", default, values, optional=False)
    for declared in document.config:
        settings[declared.name.value] = _declared(declared, settings.get(declared.name.value))
    return settings


def _declared(declared: ConfigDecl, shared: Setting | None) -> Setting:
    kind = declared.type.value
    none = tuple(literal.value for literal in declared.none)
    default: Any = declared.default if isinstance(declared.default, CaseMap) else declared.default.value if declared.default else None
    values = tuple(literal.value for literal in declared.values) if declared.values else (False, True) if kind == "bool" else None
    if values is None and shared is not None and shared.type == kind:
        values = shared.values
    optional = bool(none) or (isinstance(declared.default, Literal) and declared.default.value is None)
    return Setting(declared.name.value, kind, default, values, none, optional, declared=declared.name.span)


def check_declarations(document: Document) -> list[Diagnostic]:
    """Problems of the ``config`` and ``holds`` sections."""
    problems = []
    held = document.held.get("consumer", ())
    for name, texts in document.holds:
        what, known = {"consumer": ("a consumer", CONSUMERS), "device": ("a device", DEVICES), "added": ("a consumer of this spec", held)}[name.value]
        problems += [
            Diagnostic(code="unknown-value", message=f"`{text.value}` is not {what}", span=text.span, helps=(f"known: {', '.join(known)}",))
            for text in texts
            if text.value not in known
        ]
    for declared in document.config:
        if declared.type.value not in TYPES:
            message = f"`{declared.type.value}` is not a type of config"
            problems.append(Diagnostic(code="unknown-value", message=message, span=declared.type.span, helps=("write int, bool or str",)))
            continue
        defaults = _defaults(declared)
        literals = [literal for literal in (*(declared.values or ()), *defaults) if literal.value is not None]
        wrong = [literal for literal in literals if not _fits(literal.value, declared.type.value)]
        problems += [_mistyped(declared, literal) for literal in wrong]
        problems += [_outside(declared, literal) for literal in defaults if literal not in wrong and not _allowed(declared, literal)]
    return problems


def _defaults(declared: ConfigDecl) -> list[Literal]:
    if isinstance(declared.default, CaseMap):
        return [arm.value for arm in declared.default.arms]
    return [declared.default] if declared.default is not None else []


def _allowed(declared: ConfigDecl, literal: Literal) -> bool:
    """Is a default one of the values that the proofs go through?"""
    none = [other.value for other in declared.none]
    if literal.value is None or literal.value in none:
        return True
    if declared.values is not None:
        return literal.value in [other.value for other in declared.values]
    minimum = SHARED[declared.name.value].minimum if declared.name.value in SHARED else 1
    return declared.type.value != "int" or not isinstance(literal.value, int) or literal.value >= minimum


def _outside(declared: ConfigDecl, literal: Literal) -> Diagnostic:
    name = declared.name.value
    helps = ("take one of its `values`",) if declared.values is not None else (f"an absent number is written `none: [{literal.value}]` beside the default",)
    message = f"the default of `{name}` is {literal.value}, which `{name}` cannot be"
    return Diagnostic(code="config-value", message=message, span=literal.span, helps=helps)


def _mistyped(declared: ConfigDecl, literal: Literal) -> Diagnostic:
    message = f"`{declared.name.value}` is {declared.type.value}, but this is {type(literal.value).__name__}"
    helps = (f'write `"{literal.value}"`',) if declared.type.value == "str" else (f"write a value of type {declared.type.value}",)
    return Diagnostic(code="config-type", message=message, span=literal.span, helps=helps)


def _fits(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and not (kind == "int" and isinstance(value, bool))


def resolve(settings: Mapping[str, Setting], given: Mapping[str, Any]) -> dict[str, ConfigValue]:
    """The values a caller gives, checked; names without a value are left out (their defaults may depend on cases).

    Raises: DiagnosticError (``config-unknown``, ``config-type``, ``config-value``) with every problem.
    """
    problems, values = [], {}
    for name, value in given.items():
        setting = settings.get(name)
        if setting is None:
            close = get_close_matches(name, settings, 1)
            helps = (f"a name like it is `{close[0]}`",) if close else (f"known: {', '.join(sorted(settings))}",)
            problems.append(Diagnostic(code="config-unknown", message=f"no config is called `{name}`", where=name, helps=helps))
            continue
        try:
            values[name] = _checked(setting, value)
        except DiagnosticError as error:
            problems += error.diagnostics
    if problems:
        raise DiagnosticError(*problems)
    return values


def _checked(setting: Setting, value: Any) -> ConfigValue:
    name = setting.name
    if name == "device" and isinstance(value, str):
        value = DEVICE_ALIASES.get(value.lower().removeprefix("ascend"), value)
    if value in setting.none and not isinstance(value, bool):
        return None
    if value is None and setting.optional:
        return None
    if not _fits(value, setting.type):
        found = f"{value!r} of type {type(value).__name__}"
        raise DiagnosticError(Diagnostic(code="config-type", message=f"`{name}` is {setting.type}, found {found}", where=name))
    if setting.values is not None and value not in setting.values:
        listed = ", ".join(str(v) for v in setting.values)
        raise DiagnosticError(
            Diagnostic(code="config-value", message=f"`{name}` cannot be {value!r} here", where=name, helps=(f"this spec holds for: {listed}",))
        )
    if setting.type == "int" and setting.values is None and value >= 2**63:
        raise DiagnosticError(Diagnostic(code="config-value", message=f"`{name}` is beyond 64 bits", where=name))
    if setting.type == "int" and setting.values is None and value < setting.minimum:
        raise DiagnosticError(Diagnostic(code="config-value", message=f"`{name}` cannot be {value}", where=name, notes=(f"it is at least {setting.minimum}",)))
    checked: ConfigValue = value
    return checked


def parse_setting(settings: Mapping[str, Setting], name: str, text: str) -> Any:
    """The text of ``--set name=text`` as a value of the declared type; a text that does not fit is returned as it is, for :func:`resolve` to refuse."""
    setting = settings.get(name)
    kind = setting.type if setting else "str"
    if text == "none" and setting is not None and setting.optional:
        return None
    if kind == "bool":
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if kind == "int":
        try:
            return int(text)
        except ValueError:
            return text
    return text
