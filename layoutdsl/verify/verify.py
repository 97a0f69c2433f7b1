"""The driver: a spec's vectors, then every configuration at sizes and on checkpoints that expose mistakes, then the layer split over ranks.

Above everything else of this package; called by the command line.

Invariants: a spec that ``validate`` refuses is not run; of a configuration the first failure is reported; one failure of several configurations is one
finding; what could not be run is said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch

from layoutdsl.api import Plan, Spec, validate
from layoutdsl.compiler.config import resolve, settings_of
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.plan.sizes import layer_kind
from layoutdsl.syntax.document import Document, NoValue
from layoutdsl.verify import checks, movements, routing, sizes, tensor_parallel, vectors
from layoutdsl.verify.configurations import Configuration, configurations
from layoutdsl.verify.layers import layer_of, with_bias
from layoutdsl.verify.report import Progress, Report
from layoutdsl.verify.run import applied, bias_of, counts_of, dtype_of, grid_of, inputs_for, left_on, quantized_before, run
from layoutdsl.verify.tensors import Checkpoint, checkpoint
from layoutdsl.verify.tolerance import FULL
from layoutdsl.verify.trace import Tracer, not_runnable, read_by_kernels

_LINEAR_ROWS = 5
_QUIET = 5.0
"""Seconds between two lines of progress."""
_SMALL, _HUGE = 2**19, 2**62


def verify(spec: Spec, given: Mapping[str, Any] | None = None, *, quick: bool = False, progress: Progress = lambda text: None) -> Report:
    """Everything that is numerically wrong with a spec.

    given: values of the config that are fixed. quick: one configuration per case, the vectors, nothing split. progress: takes one line at a time.
    A spec that does not validate is reported as ``validate`` does.
    """
    report, started = Report(), time.perf_counter()
    report.add(*(finding for finding in validate(spec) if finding.severity == "error"))
    if not report.findings:
        try:
            with _one_thread():
                _verify(spec, resolve(settings_of(spec.document), given or {}), report, quick, progress)
        except DiagnosticError as error:
            report.add(*error.diagnostics)
    report.seconds = time.perf_counter() - started
    return report


@contextmanager
def _one_thread() -> Iterator[None]:
    """The tensors are small: more threads of torch would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _verify(spec: Spec, given: Mapping[str, Any], report: Report, quick: bool, progress: Progress) -> None:
    _vectors(spec, given, report)
    quick = quick or bool(report.findings)  # what is wrong is known; whether it is the meaning, a few configurations say
    found = configurations(spec, given)
    name = f"{spec.scheme}.{spec.layer}"
    progress(f"{name}: {len(found)} configurations, {report.ran.get('vectors', 0)} vectors")
    last = time.perf_counter()
    for i, (configuration, depth) in enumerate(_depths(found, quick)):
        _guarded(report, lambda: _configuration(configuration, depth, report))  # noqa: B023 - called at once
        if time.perf_counter() - last > _QUIET:
            last = time.perf_counter()
            progress(f"{name}: {i + 1} of {len(found)} configurations, {len(report.findings)} findings")
    if not quick:
        _ranks(found, report, progress, name)
    unread = dict.fromkeys(output for configuration in found for output in _unread(configuration))
    if unread:
        report.skip(f"computed and, in some configurations, read by no kernel of the forward, so compared there with vectors alone: {', '.join(unread)}")


def _unread(configuration: Configuration) -> list[str]:
    """What the steps compute and no check but the vectors sees."""
    plan = configuration.plan.data
    read = read_by_kernels(plan) if not isinstance(configuration.spec.document.value, NoValue) else set()
    return [name for name in movements.computed(plan) if name not in read]


@dataclass(frozen=True, slots=True)
class Depth:
    """How much of a configuration is run. forward: the whole forward besides the weights. purposes: degenerate sizes too. model: x as a model passes it.
    large: the sizes of real models."""

    forward: bool = True
    purposes: bool = False
    model: bool = False
    large: bool = False


def _depths(found: list[Configuration], quick: bool) -> Iterator[tuple[Configuration, Depth]]:
    """Every configuration with its depth. quick: the smallest of every combination of cases.

    Degenerate sizes and the forward as a model calls it are run once per combination of cases, the sizes of real models once per set of parameters. Of the
    weights alone are run: what differs only in its casts to FRACTAL_NZ, which change nothing on a CPU; and what makes large layers where a small one does.
    """
    prices = {id(configuration): _price(configuration) for configuration in found}
    smallest: dict[Any, int] = {}
    for configuration in found:
        smallest[_kind(configuration)] = min(prices[id(configuration)], smallest.get(_kind(configuration), _HUGE))
    seen: set[Any] = set()
    for configuration in sorted(found, key=lambda configuration: prices[id(configuration)]) if quick else found:
        kind = _kind(configuration)
        own = tuple((name, value) for name, value in configuration.given.items() if name != "weight_nz_mode")
        keys = (configuration.cases, kind, own, _stored(configuration))
        if not quick:
            affordable = prices[id(configuration)] <= max(smallest[kind], _SMALL)
            yield configuration, Depth(own not in seen and affordable, kind not in seen, configuration.cases not in seen, keys[3] not in seen)
        elif configuration.cases not in seen:
            yield configuration, Depth()
        seen.update(keys)


def _kind(configuration: Configuration) -> Any:
    return configuration.cases, configuration.given.get("params_dtype")


def _stored(configuration: Configuration) -> Any:
    """What the checkpoint holds, whatever its sizes."""
    return tuple((node.name, node.type.element, node.type.storage, len(node.type.lanes)) for node in configuration.plan.data.inputs)


def _price(configuration: Configuration) -> int:
    """How many weights a layer has at the usual sizes."""
    chosen = sizes.distinct(configuration.plan.data)
    return prod(chosen.values()) if chosen else 0


def _guarded(report: Report, action: Callable[[], None]) -> None:
    """What is refused on the way is a finding, not the end."""
    try:
        action()
    except DiagnosticError as error:
        for reason in error.diagnostics[:1]:
            message = f"this cannot be run: {reason.message}"
            report.add(Diagnostic(code="verify-forward", message=message, where=reason.where, span=reason.span, notes=reason.notes, helps=reason.helps))


# ---- vectors --------------------------------------------------------------------------------------------------------------------------------------------


def _vectors(spec: Spec, given: Mapping[str, Any], report: Report) -> None:
    path = vectors.path_for(spec)
    if path is None:
        report.skip("no vectors are shipped with this spec")
        return
    for _, finding in vectors.check(spec, vectors.read(path), given):
        report.count("vectors")
        if finding is not None:
            report.add(finding)
            return


# ---- configurations -------------------------------------------------------------------------------------------------------------------------------------


def _configuration(configuration: Configuration, depth: Depth, report: Report) -> None:
    report.count("configurations")
    plan = configuration.plan.data
    usual = sizes.distinct(plan)
    if usual is None:
        report.skip("no sizes were found that meet the requirements")
        return
    wanted = [usual, *(other for other in sizes.chosen(plan).values() if depth.purposes and other != usual)]
    large = depth.large and layer_kind(configuration.spec.layer).columns is not None
    wanted += [chosen for size in sizes.LARGE if large and (chosen := sizes.large(plan, size)) is not None]
    if not all(_sizes(configuration, chosen, depth, report) for chosen in wanted):
        return
    if depth.model and not_runnable(plan) is None:
        finding = routing.check(configuration, usual)
        if finding is not None:
            report.add(finding)


def _sizes(configuration: Configuration, chosen: sizes.Sizes, depth: Depth, report: Report) -> bool:
    """All checks at one set of sizes; False once something failed."""
    for finding in _findings(configuration, chosen, depth, report):
        if finding is not None:
            report.add(finding)
            return False
    return True


def _findings(configuration: Configuration, chosen: sizes.Sizes, depth: Depth, report: Report) -> Iterator[Diagnostic | None]:
    """With full scales the weights, with short ones the forward, where no cast hides behind another."""
    plan = configuration.plan.bind(chosen)
    title = f"in: {configuration.title}; {', '.join(f'{name} = {size}' for name, size in chosen.items())}"
    full = checkpoint(configuration, plan.bound, chosen, "full")
    module = applied(plan, full.tensors)
    report.count("layers")
    yield movements.check(plan.bound, full, left_on(module, plan), title)
    why = not_runnable(plan.bound)
    if why is not None:
        report.skip(why)
        return
    tracer = Tracer(plan.bound)
    yield from _compared(configuration, plan, tracer, module, full, FULL, title, report)
    if depth.forward:
        short, bits = checkpoint(configuration, plan.bound, chosen, "short"), checks.short_bits(configuration)
        yield from _compared(configuration, plan, tracer, applied(plan, short.tensors), short, bits, title, report)


def _compared(
    configuration: Configuration, plan: Plan, tracer: Tracer, module: torch.nn.Module, made: Checkpoint, bits: int, title: str, report: Report
) -> Iterator[Diagnostic | None]:
    document = configuration.spec.document
    layer = layer_of(document, configuration.plan.data, made)
    if layer is None:
        yield _without_value(document, title, report)
        return
    counts, dtype = counts_of(plan.sizes["num_experts"]) if layer.experts else None, dtype_of(configuration)
    inputs = inputs_for(sum(counts) if counts else _LINEAR_ROWS, layer.products[0].whole, dtype, grid_of(plan, made.stored), counts)
    case = checks.Case(configuration, made, layer, run(plan, tracer, module, inputs), inputs, title, bits)
    why = checks.not_comparable(case)
    if why is not None:
        report.skip(why)
        return
    bias = None if layer.experts else bias_of(plan, layer.products[-1].matrix.shape[1], dtype)
    for known in (case, *(() if bias is None else (_with_bias(case, tracer, bias),))):
        if bits == FULL:
            yield _weights(known, report)
        # What has a default, such as an offset of the activation, is there with full scales alone.
        if bits != FULL or inputs.grid is not None:
            report.count("forwards")
            yield checks.forward(known)
    before = quantized_before(case.ran)
    if bits != FULL and before:
        report.count("forwards")
        yield checks.result(replace(case, ran=run(plan, tracer, module, inputs, **before), title=f"{title}; x quantized before"))


def _weights(case: checks.Case, report: Report) -> Diagnostic | None:
    unseen = checks.not_probed(case)
    for op in unseen:
        report.skip(f"no rows show the weights of `{op}` alone")
    if len(unseen) == len(case.matmuls):
        return None
    report.count("weights")
    return checks.weights(case)


def _with_bias(case: checks.Case, tracer: Tracer, bias: torch.Tensor) -> checks.Case:
    ran = run(case.ran.plan, tracer, case.ran.module, case.inputs, bias=bias)
    return replace(case, layer=with_bias(case.layer, bias.double().numpy()), ran=ran, title=f"{case.title}; with a bias")


def _without_value(document: Document, title: str, report: Report) -> Diagnostic | None:
    """Nothing to compare with: a mistake, unless the spec says so or this kind of layer is not known."""
    if isinstance(document.value, NoValue):
        why = f"`value` is {document.value.kind}" + (f" ({document.value.because.value})" if document.value.because is not None else "")
        report.skip(f"{why}: no kernel was run")
        return None
    if layer_kind(document.layer.value).columns is None:
        report.skip(f"what a layer of kind `{document.layer.value}` computes is not known: no kernel was run")
        return None
    message = "`value` does not say what the kernels multiply with here, so nothing can be compared"
    return Diagnostic(code="verify-value", message=message, span=document.value[0].span if document.value else document.span, notes=(title,))


# ---- ranks ----------------------------------------------------------------------------------------------------------------------------------------------


def _ranks(found: list[Configuration], report: Report, progress: Progress, name: str) -> None:
    """Per combination of cases a configuration with small layers: over all numbers of ranks once, over the least and the most once per set of parameters,
    over one of them after that."""
    runnable = sorted((configuration for configuration in found if not_runnable(configuration.plan.data) is None), key=_price)
    kinds: dict[tuple[tuple[str, ...], tensor_parallel.Split], list[Configuration]] = {}
    for configuration in runnable:
        for own, split in tensor_parallel.splits(configuration):
            kinds.setdefault((own.cases, split), []).append(own)
    progress(f"{name}: {len(kinds)} cases split over {', '.join(map(str, tensor_parallel.RANKS))} ranks")
    seen: set[Any] = set()
    for (_, split), choices in kinds.items():
        chosen = _most_ranks(choices, split)
        if chosen is None:
            report.skip("no sizes were found that ranks can share")
            continue
        stored = (_stored(chosen.configuration), split)
        numbers = tensor_parallel.ONE if stored in seen else tensor_parallel.SOME if split in seen else tensor_parallel.ALL
        _guarded(report, lambda: _split(chosen, split, numbers, report))  # noqa: B023 - called at once
        seen |= {stored, split}


def _most_ranks(choices: list[Configuration], split: tensor_parallel.Split) -> tensor_parallel.Ranks | None:
    """The first that can be split over as many ranks as are tried, else over the most."""
    best, most = None, 0
    for configuration in choices:
        ranks = tensor_parallel.Ranks(configuration)
        own = tensor_parallel.most(ranks, split)
        if own > most:
            best, most = ranks, own
        if own == tensor_parallel.RANKS[-1]:
            break
    return best


def _split(ranks: tensor_parallel.Ranks, split: tensor_parallel.Split, numbers: tuple[tuple[int, ...], ...], report: Report) -> None:
    for _, finding in tensor_parallel.check(ranks, split, numbers):
        report.count("splits")
        if finding is not None:
            report.add(finding)
            return
