"""``layoutdsl diff A B``: how far two checkpoints of one model are apart, tensor by tensor, by what their tensors mean."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from layoutdsl.cli import output
from layoutdsl.cli.arguments import Parser, Usage, add_format
from layoutdsl.cli.check import bytes_of, named, params_dtype_of
from layoutdsl.diagnostics import Diagnostic

if TYPE_CHECKING:
    from layoutdsl.checkpoint.diff import Difference
    from layoutdsl.checkpoint.model import Folder, Layer
    from layoutdsl.checkpoint.sides import Model


def options(parser: Parser) -> None:
    parser.add_argument("a", metavar="A", help="the folder of a checkpoint, quantized or float")
    parser.add_argument("b", metavar="B", help="the folder of another one of the same model")
    parser.add_argument("--layers", metavar="GLOB", help="only tensors of such modules, as `model.layers.3.*`")
    parser.add_argument("--min-sqnr", metavar="DB", help="a tensor that is noisier than this is a finding")
    parser.add_argument("--top", metavar="N", default="20", help="how many tensors are printed, the worst first; 0: all (default: 20)")
    parser.add_argument("--max-memory", metavar="SIZE", default="1GiB", help="for the values (default: 1GiB)")
    parser.add_argument("--consumer", metavar="NAME", help="whose schemes decode the tensors (default: the first that has them)")
    parser.add_argument("--device", metavar="NAME", help="a2, a3, a5 or 310p (default: the first that has the schemes)")
    add_format(parser)


def run(arguments: Namespace) -> int:
    top, least, budget = _whole("--top", arguments.top), _decibels(arguments.min_sqnr), bytes_of(arguments.max_memory)
    named(arguments, {})  # refuses unknown names
    # Threads of our own share the work; BLAS would start as many again for each.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from layoutdsl.checkpoint.diff import diff
    from layoutdsl.checkpoint.folding import fold

    (one, first), (other, second) = (_model(Path(text), arguments) for text in (arguments.a, arguments.b))
    rows, findings = diff(one, other, max_memory=budget, progress=output.log, min_sqnr=least, wanted=_wanted(arguments.layers))
    if arguments.layers and not rows and not findings:
        raise Usage(f"no tensor of both folders is called `{arguments.layers}`; there are {', '.join(f'`{name}`' for name in list(one.tensors)[:2])}")
    return _report(rows, fold([*first, *second, *findings]), top, arguments.format)


# ---- the command line -----------------------------------------------------------------------------------------------------------------------------------


def _whole(option: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Usage(f"`{option} {text}`: `{text}` is not a whole number")
    return int(text)


def _decibels(text: str | None) -> float | None:
    try:
        found = None if text is None else float(text)
    except ValueError:
        raise Usage(f"`--min-sqnr {text}`: `{text}` is not a number") from None
    if found is not None and found != found:
        raise Usage(f"`--min-sqnr {text}`: `{text}` is not a number")
    return found


def _wanted(glob: str | None) -> Callable[[str], bool]:
    if glob is None:
        return lambda name: True
    return lambda name: fnmatchcase(name, glob) or fnmatchcase(name, f"{glob}.*")


# ---- folders --------------------------------------------------------------------------------------------------------------------------------------------


def _model(path: Path, arguments: Namespace) -> tuple[Model, list[Diagnostic]]:
    """One side, and what is wrong with its files or hides its layers. Raises: DiagnosticError, Usage."""
    from layoutdsl.checkpoint.folder import read_folder
    from layoutdsl.checkpoint.sides import Model

    folder = read_folder(path)
    consumer, device, layers, found = _layers(folder, arguments)
    # Both folders have files and layers of the same names.
    errors = [replace(finding, notes=(*finding.notes, f"in {path}")) for finding in (*folder.findings, *found) if finding.severity == "error"]
    return Model(folder.tensors, layers, consumer, device, params_dtype_of(folder, {})), errors


def _layers(folder: Folder, arguments: Namespace) -> tuple[str, str, list[Layer], list[Diagnostic]]:
    """The layers for the first consumer and device, of those that are not named, that support most of them: what is compared needs no device."""
    from layoutdsl.checkpoint.layers import layers_of
    from layoutdsl.compiler.consumers import CONSUMERS, DEVICES

    consumer, device = named(arguments, {})
    consumers = [consumer] if arguments.consumer else [consumer, *(name for name in CONSUMERS if name != consumer)]
    devices = [device] if arguments.device else [device, *(name for name in DEVICES if name != device)]
    best: tuple[str, str, list[Layer], list[Diagnostic]] | None = None
    for consumer, device in product(consumers, devices):
        layers, found = layers_of(folder, consumer, device)
        if best is None or len(layers) > len(best[2]):
            best = (consumer, device, layers, found)
        if not any(finding.code == "scheme-unsupported" for finding in found):
            break
    assert best is not None
    return best


# ---- results --------------------------------------------------------------------------------------------------------------------------------------------


def _report(rows: Sequence[Difference], findings: list[Diagnostic], top: int, format: str) -> int:
    shown = list(rows[: top or None])
    if format in ("text", "concise"):
        output.report(findings, format)
        output.write("".join(f"{line}\n" for line in output.columns([_HEAD, *map(_cells, shown)], indent="")) if shown else "")
    else:
        output.report([*findings, *map(_note, shown)], format)
    output.flush()
    equal = sum(row.error == 0 for row in rows)
    output.log(f"{_counted(len(rows), 'tensor')} compared, {equal} equal, {_counted(len(findings), 'finding')}" + _rest(rows, shown))
    return 1 if any(finding.severity == "error" for finding in findings) else 0


_HEAD = ("SQNR, dB", "max error", "at", "stored as", "tensor")


def _cells(row: Difference) -> tuple[str, ...]:
    return (f"{row.sqnr:.2f}", f"{row.error:.6g}", f"[{', '.join(map(str, row.place))}]" if row.place else "-", _schemes(row), row.name)


def _schemes(row: Difference) -> str:
    return row.schemes[0] if row.schemes[0] == row.schemes[1] else " | ".join(row.schemes)


def _note(row: Difference) -> Diagnostic:
    """A row for formats that know findings only."""
    message = f"SQNR {row.sqnr:.2f} dB, max error {row.error:.6g}"
    place = f" at [{', '.join(map(str, row.place))}]" if row.place else ""
    return Diagnostic(code="tensor-difference", message=message, severity="note", where=row.name, notes=(f"{_schemes(row)} {list(row.shape)}{place}",))


def _rest(rows: Sequence[Difference], shown: Sequence[Difference]) -> str:
    return f" ({len(rows) - len(shown)} more with --top 0)" if len(shown) < len(rows) else ""


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
