"""A spec against the hand-written class that it replaces: the same checkpoint through both, and what the layers have afterwards compared bit for bit.

Called by ``layoutdsl verify --against``. The class follows vLLM's protocol: a constructor that may take names of the config and of sizes, and
``process_weights_after_loading(layer)`` on a module with the parameters.

Invariants: the class is given exactly the tensors that the plan is given; whatever it raises is a finding, never a traceback.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NoReturn

import torch

from layoutdsl.api import Plan, Spec, validate
from layoutdsl.compiler.config import resolve, settings_of
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.verify import sizes
from layoutdsl.verify.compare import difference
from layoutdsl.verify.configurations import Configuration, configurations
from layoutdsl.verify.report import Progress, Report
from layoutdsl.verify.run import with_parameters
from layoutdsl.verify.tensors import checkpoint

HOOK = "process_weights_after_loading"
_SEEDS = 2


def against(spec: Spec, name: str, given: Mapping[str, Any], progress: Progress = lambda text: None) -> Report:
    """Every configuration, at sizes and on checkpoints that expose mistakes. name: ``package.module:Class``.

    Raises: DiagnosticError with ``against-import``.
    """
    report, started = Report(), time.perf_counter()
    report.add(*(finding for finding in validate(spec) if finding.severity == "error"))
    if report.findings:
        return report
    made = imported(name)
    # A class may tell apart what the spec does not.
    found = configurations(spec, resolve(settings_of(spec.document), given), all=True)
    progress(f"{spec.scheme}.{spec.layer} against {name}: {len(found)} configurations")
    for configuration in found:
        chosen = sizes.distinct(configuration.plan.data)
        if chosen is None:
            report.skip("no sizes were found that meet the requirements")
            continue
        report.count("configurations")
        finding = _compared(configuration, made, name, chosen)
        if finding is not None:
            report.add(finding)
    report.seconds = time.perf_counter() - started
    return report


def imported(name: str) -> type[Any]:
    """The class of ``package.module:Class``, looked for in the current folder too. Raises: DiagnosticError (``against-import``)."""
    module, mark, attribute = name.partition(":")
    if not mark or not module or not attribute:
        _not_imported(name, f"`{name}` is not of the form `package.module:Class`")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever a module does when it is imported
        _not_imported(name, f"`{name}` cannot be imported: {type(error).__name__}: {error}")
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(found, type) or not callable(getattr(found, HOOK, None)):
        _not_imported(name, f"`{name}` is no class with a method `{HOOK}`")
    cls: type[Any] = found
    return cls


def _not_imported(name: str, message: str) -> NoReturn:
    helps = ("write `package.module:Class`; the folder of the package is the current one, or on PYTHONPATH",)
    raise DiagnosticError(Diagnostic(code="against-import", message=message, where=name, helps=helps)) from None


def _compared(configuration: Configuration, made: type[Any], name: str, chosen: sizes.Sizes) -> Diagnostic | None:
    plan = configuration.plan.bind(chosen)
    notes = (f"in: {configuration.title}; {', '.join(f'{size} = {value}' for size, value in chosen.items())}",)
    config = {key: value for key, value in configuration.compiled.state.world.config.items() if value is None or isinstance(value, (bool, int, str))}
    for seed in range(_SEEDS):
        given = checkpoint(configuration, plan.bound, chosen, "full", seed)
        ours = plan.run(dict(given.tensors))
        try:
            theirs = _processed(made, plan, given.tensors, config)
        except Exception as error:  # the class is not ours
            message = f"`{name}` fails: {type(error).__name__}: {error}"
            return Diagnostic(code="against-failed", message=message, where=name, notes=notes)
        different = difference(ours, theirs)
        if different is not None:
            message = f"`{different.name}` of the spec, compared with that of `{name}`, {different.message}"
            return Diagnostic(code="verify-against", message=message, where=different.name, notes=(*different.notes, *notes))
    return None


def _processed(made: type[Any], plan: Plan, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """What the layer has after the class went over it: tensors, lists of them, and numbers under the names that the plan makes."""
    scheme = made(**_arguments(made, {**config, **plan.sizes}))
    layer = with_parameters(tensors)
    for name, value in {**config, **plan.sizes}.items():
        if not hasattr(layer, name):
            setattr(layer, name, value)
    getattr(scheme, HOOK)(layer)
    numbers = {output.name for output in plan.bound.outputs if output.kind == "value"}
    found: dict[str, Any] = dict(layer.named_parameters(remove_duplicate=False)) | dict(layer.named_buffers(remove_duplicate=False))
    for name, value in vars(layer).items():
        if isinstance(value, torch.Tensor) or _is_list(value) or name in numbers:
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(part, torch.Tensor) for part in value)


def _arguments(made: type[Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The names that the constructor takes, of those that are known."""
    if made.__init__ is object.__init__:
        return {}
    parameters = inspect.signature(made.__init__).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {name: known[name] for name in named if name in known}
