"""Runs the forward of a bound plan on a module: the text is compiled once, its kernels are bound to the device's.

On top of ``layoutdsl.runtime.python_source``, which writes the text. ``torch.compile`` sees the generated function and nothing that interprets a plan.

Invariants: what a caller passes is used or refused; the leading dims of ``x`` are those of the result.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import torch

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.plan.codec import plan_hash
from layoutdsl.plan.forward import INPUTS
from layoutdsl.plan.model import FLOAT4_E2M1FN_X2, Plan
from layoutdsl.runtime import python_source, routing
from layoutdsl.runtime.dtypes import TORCH
from layoutdsl.runtime.kernels import Kernel, find_kernel
from layoutdsl.runtime.places import tensor_at
from layoutdsl.runtime.poison import poison_of
from layoutdsl.runtime.python_source import HELPERS, Source
from layoutdsl.runtime.record import record_of

Resolve = Callable[[str], Kernel]


def source(plan: Plan) -> str:
    """The Python text of a bound plan's forward. Raises: DiagnosticError, as ``layoutdsl.runtime.python_source.python_source``."""
    return python_source.python_source(plan).text


def generate(plan: Plan, resolve: Resolve) -> Callable[..., Any]:
    """The forward of a bound plan as a function ``forward(layer, x, ...)``; ``resolve`` gives the callable of ``namespace::name``. Raises: DiagnosticError."""
    return _function(plan, python_source.python_source(plan), resolve)


class Forward:
    """The forward of one bound plan, made when it is first wanted and kept: one function per device type, because kernels differ."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.source = python_source.python_source(plan)
        self._functions: dict[str, Callable[..., Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Forward, (self.plan,)  # generated functions are not copied; they are made again

    def function(self, device: str) -> Callable[..., Any]:
        """The generated function for tensors on a device type. Raises: DiagnosticError, ``kernel-missing`` among them."""
        if device not in self._functions:
            self._functions[device] = _function(self.plan, self.source, lambda op: find_kernel(op, device))
        return self._functions[device]

    def __call__(self, module: torch.nn.Module, x: torch.Tensor, inputs: Mapping[str, Any]) -> Any:
        """See ``layoutdsl.Plan.forward``."""
        given = {name: value for name, value in inputs.items() if value is not None}
        _check_inputs(self.source, x, given)
        if not torch.compiler.is_compiling():
            _check_applied(module, self.source.tensors)
        function = self._functions.get(x.device.type)
        if function is None:
            function = self.function(x.device.type)
        try:
            return function(module, x, **given)
        except (AttributeError, DiagnosticError):
            _check_module(self.plan, module, self.source.tensors)  # what is wrong is mostly the layer
            raise


def _function(plan: Plan, made: Source, resolve: Resolve) -> Callable[..., Any]:
    file = f"<forward of {plan.scheme}.{plan.layer} {plan_hash(plan)[7:19]}>"
    helpers = {
        "float8_e8m0fnu": 293,  # torch_npu's own numbers for dtypes that its kernels do not take as torch's (source: torch_npu 2.13)
        "float4_e2m1fn_x2": FLOAT4_E2M1FN_X2,
        "external": lambda: python_source.external(plan),
        "only": _only,
        "by_expert": routing.by_expert,
        "combined": routing.combined,
        "counts_of": routing.counts_of,
        "cumsum_of": routing.cumsum_of,
    }
    assert helpers.keys() == set(HELPERS)
    names: dict[str, Any] = {"torch": torch, **helpers, **{name: resolve(op) for name, op in made.kernels}}
    exec(compile(made.text, file, "exec"), names)
    linecache.cache[file] = (len(made.text), None, made.text.splitlines(keepends=True), file)  # for tracebacks
    function: Callable[..., Any] = names["forward"]
    return function


def _only(results: Iterable[torch.Tensor]) -> torch.Tensor:
    """The one result of a kernel that returns a list."""
    (result,) = results
    return result


# ---- what a caller passes ----------------------------------------------------------------------------------------------------------------------------------


def _refuse(message: str, *helps: str) -> NoReturn:
    raise DiagnosticError(Diagnostic(code="forward-inputs", message=message, where="forward", helps=helps))


def _check_inputs(made: Source, x: torch.Tensor, given: Mapping[str, Any]) -> None:
    for name, value in (("x", x), *given.items()):
        if name in INPUTS and name != "group_list_type" and not isinstance(value, torch.Tensor):
            _refuse(f"`{name}` is of type {type(value).__name__}, not a torch tensor", "pass a tensor")
        if name in ("group_list", "topk_ids") and value.is_floating_point():
            _refuse(f"`{name}` counts in {str(value.dtype).removeprefix('torch.')}", "pass integers")
    for name in given:
        if name not in INPUTS:
            _refuse(f"`{name}` is not an input of a layer", f"inputs are {', '.join(INPUTS)}")
        if name not in made.inputs:
            _refuse(f"this forward reads no `{name}`, so it would be lost", f"it reads {', '.join(('x', *made.inputs))}")
    if x.dim() < 2:
        _refuse(f"`x` has {x.dim()} dims, and rows have at least 2", "pass `x.unsqueeze(0)`")
    lead = x.shape[:-1]
    if "x_scale" in given and given["x_scale"].shape[: len(lead)] != lead:
        _refuse(f"`x_scale` of shape {list(given['x_scale'].shape)} is not for the rows of `x`, of shape {list(x.shape)}", "pass one scale or more per row")
    if made.experts is not None:
        _check_routing(made.experts, lead.numel(), given)


def _check_routing(experts: int, rows: int, given: Mapping[str, Any]) -> None:
    """The routing of every token, or rows that are sorted by expert and the list that says so."""
    routed, listed = ([name for name in names if name in given] for names in (("topk_ids", "topk_weights"), ("group_list", "group_list_type")))
    both = "pass `topk_ids` and `topk_weights`, or `x` sorted by expert and its `group_list`"
    if len(routed) == 1 or (routed and listed) or (not routed and "group_list" not in given):
        _refuse(f"experts need the routing or the result of it, and given are: {', '.join((*routed, *listed)) or 'neither'}", both)
    if listed:
        kind, shape = given.get("group_list_type", routing.COUNTS), list(given["group_list"].shape)
        if kind not in (routing.COUNTS, routing.CUMSUM):
            _refuse(f"`group_list_type` is {kind}", "1: rows per expert; 0: their running sum")
        if shape != [experts]:
            _refuse(f"`group_list` has shape {shape}, and the layer has {experts} experts", "pass one number per expert of this rank")
        return
    ids, weights = given["topk_ids"], given["topk_weights"]
    if ids.dim() < 2 or ids.shape[:-1].numel() != rows or ids.shape != weights.shape:
        message = f"`topk_ids` has shape {list(ids.shape)} and `topk_weights` {list(weights.shape)}, for {rows} tokens"
        _refuse(message, "pass both as [tokens, experts per token]")


def _check_applied(module: torch.nn.Module, names: Iterable[str]) -> None:
    """No parameter was created or restored, perhaps loaded, and then not applied: of a square weight the kernels would not tell."""
    waiting = [name for name in names if (tensor := tensor_at(module, name)) is not None and poison_of(tensor) is not None]
    record = record_of(module)
    if waiting or (record is not None and (record.done or record.restored)):
        notes = tuple(f"`{name}` is in the checkpoint's form" for name in waiting)
        raise DiagnosticError(
            Diagnostic(code="torn", message="no plan was applied to the layer since it was created or restored", where="forward", notes=notes, helps=(_APPLY,))
        )


_APPLY = "apply the plan to the module first"


def _check_module(plan: Plan, module: torch.nn.Module, names: Iterable[str]) -> None:
    """Everything that the forward reads is there, as the plan leaves it."""
    types = {node.id: node.type for node in (*plan.inputs, *plan.code)}
    wanted = {output.name: types[output.value] for output in plan.outputs if output.kind != "value"}
    helps = (_APPLY,)
    for name in names:
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is None:
            raise DiagnosticError(Diagnostic(code="tensor-missing", message=f"`{name}` is not on the module", where=name, helps=helps))
        kind = wanted.get(name)
        tensor = found[0] if isinstance(found, (list, tuple)) and found else found
        if kind is not None and isinstance(tensor, torch.Tensor) and (tensor.dtype != TORCH[kind.storage] or tuple(tensor.shape) != kind.shape):
            ours = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            message = f"`{name}` is {ours} on the module, and the plan leaves {kind.storage} {list(kind.shape)}"
            raise DiagnosticError(Diagnostic(code="tensor-shape", message=message, where=name, helps=helps))
