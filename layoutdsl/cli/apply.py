"""``layoutdsl apply IN -o OUT --scheme ID``: the tensors of one layer as its kernels want them."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from layoutdsl.cli import output, tensor_file
from layoutdsl.cli.arguments import Parser, Usage, add_config, add_format, add_layer, add_sizes, config_of, config_texts, load, sizes_of
from layoutdsl.cli.files import replacing
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, InternalError

if TYPE_CHECKING:
    import torch

    from layoutdsl.api import Plan
    from layoutdsl.plan import model

MATH = ("exact", "fast")


def options(parser: Parser) -> None:
    parser.add_argument("input", metavar="IN.safetensors", help="tensors by the names of the layer's parameters")
    parser.add_argument("-o", "--output", required=True, metavar="OUT.safetensors", help="what the layer has afterwards; may be IN; a list `x` is `x.0`, `x.1`")
    parser.add_argument("--scheme", required=True, metavar="ID", help="an id (`W4A8_DYNAMIC.linear`) or the path of a spec")
    add_layer(parser)
    add_config(parser)
    add_sizes(parser, "solved from the shapes unless given")
    parser.add_argument("--donate", action="store_true", help="free every input after its last use")
    parser.add_argument("--math", type=_math, default="exact", metavar="exact|fast", help="exact (default) keeps the order of every float sum, fast need not")
    add_format(parser)


def _math(text: str) -> str:
    if text not in MATH:
        raise ArgumentTypeError(f"`{text}` is not one of {', '.join(MATH)}")
    return text


def run(arguments: Namespace) -> int:
    if arguments.output == "-":
        raise Usage("`-o -`: tensors are not written to standard output")
    texts, sizes = config_texts(arguments), sizes_of(arguments)
    from layoutdsl.api import compile_spec

    spec = load(arguments.scheme, arguments.layer)
    given = config_of(texts, spec)
    plan = compile_spec(spec, config=given)
    need_torch("apply")
    with _memory_explained(arguments.input), tensor_file.opened(arguments.input) as source:
        bound = _bound(plan, source.headers, sizes)
        output.warn(bound.warnings)
        with replacing(arguments.output) as file:
            tensors = {name: source.tensor(name) for name in source.headers}
            results = bound.run(tensors, math=arguments.math, donate=arguments.donate)
            made, numbers = _flat(results)
            written = tensor_file.write(file, made, _metadata(plan, _consumer(spec, given), arguments.math, numbers))
    output.report((), arguments.format)
    output.log(f"wrote {arguments.output}: {len(made)} tensors, {written} bytes")
    return 0


def need_torch(command: str) -> None:
    """Torch is an extra. Its device plugins stay out of it: tensors of files are on the CPU."""
    if "torch" not in sys.modules:
        os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    try:
        import safetensors
        import torch
    except ImportError as error:
        message = f"`{command}` needs torch and safetensors, which cannot be imported here: {error}"
        raise DiagnosticError(Diagnostic(code="torch-missing", message=message, helps=("install them: `pip install layoutdsl[torch]`",))) from None
    del safetensors, torch


@contextmanager
def _memory_explained(path: str) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        helps = ("`--donate` frees every input after its last use",)
        raise DiagnosticError(
            Diagnostic(code="memory-exhausted", message="this machine has too little memory for the layer", where=path, helps=helps)
        ) from None


# ---- before a byte is read ---------------------------------------------------------------------------------------------------------------------------------


def _bound(plan: Plan, headers: Mapping[str, tuple[str, tuple[int, ...]]], sizes: dict[str, int]) -> Plan:
    """The plan for these tensors. Raises DiagnosticError with all that does not fit."""
    from layoutdsl.plan.inputs import check_inputs

    stated = plan.bind(sizes) if sizes else plan
    try:
        bound = stated.bind_to({name: shape for name, (_, shape) in headers.items()})
    except DiagnosticError as error:
        # A tensor that is not there explains a size that is not known.
        names = _wrong_names(plan.data, headers)
        raise DiagnosticError(*names, *(finding for finding in error.diagnostics if not names or finding.code != "size-unsolved")) from None
    findings = check_inputs(bound.bound, headers)
    if findings:
        raise DiagnosticError(*findings)
    return bound


def _wrong_names(plan: model.Plan, headers: Mapping[str, tuple[str, tuple[int, ...]]]) -> list[Diagnostic]:
    """Tensors that are missing, and tensors that nobody asked for, where the sizes are not known."""
    wanted = [node.name for node in plan.inputs]
    missing = [node for node in plan.inputs if node.default is None and node.name not in headers]
    surplus = [name for name in headers if name not in wanted]
    findings = []
    for node in missing:
        notes = (
            f"expected {node.type.storage}[{_shape_text(node.type)}]",
            *(f"the nearest name in the file is `{name}`" for name in get_close_matches(node.name, surplus, 1)),
        )
        helps = (f"add `{node.name}` to the file, or choose the config (`--set`) of a checkpoint without it",)
        findings.append(Diagnostic(code="tensor-missing", message=f"`{node.name}` is missing", where=node.name, notes=notes, helps=helps))
    for name in surplus:
        dtype, shape = headers[name]
        notes = (f"found {dtype}[{', '.join(map(str, shape))}]", f"the layer has {', '.join(wanted)}")
        helps = ("leave it out, or choose the config (`--set`) of a checkpoint that has it",)
        findings.append(Diagnostic(code="tensor-unexpected", message=f"`{name}` is not a tensor of this layer", where=name, notes=notes, helps=helps))
    return findings


def _shape_text(kind: model.TensorType) -> str:
    from layoutdsl.plan.sizes import size_text

    dims = []
    for dim in kind.dims:
        extents = [digit.ext for digit in dim if digit.ext != 1]
        dims.append(size_text(("*", *extents) if len(extents) > 1 else extents[0] if extents else 1))
    return ", ".join(dims)


# ---- results -----------------------------------------------------------------------------------------------------------------------------------------------


def _flat(results: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, int | float | bool]]:
    """Tensors by the name they get in the file, and numbers."""
    import torch

    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, int | float | bool] = {}
    for name, result in results.items():
        if isinstance(result, list):
            named = {f"{name}.{i}": tensor for i, tensor in enumerate(result)}
        elif isinstance(result, torch.Tensor):
            named = {name: result}
        else:
            numbers[name] = result
            continue
        if named.keys() & tensors.keys():
            raise InternalError(f"two results are called {sorted(named.keys() & tensors.keys())}")
        tensors |= named
    return tensors, numbers


def _consumer(spec: Any, given: Mapping[str, Any]) -> str:
    from layoutdsl.compiler.config import settings_of

    return str(given.get("consumer", settings_of(spec.document)["consumer"].default))


def _metadata(plan: Plan, consumer: str, math: str, numbers: Mapping[str, int | float | bool]) -> dict[str, str]:
    """No paths and no times: the same input gives the same bytes."""
    found = {"format": "pt", "scheme": plan.scheme, "layer": plan.layer, "consumer": consumer, "plan": plan.hash, "math": math}
    return found | ({"values": json.dumps(dict(sorted(numbers.items())))} if numbers else {})
