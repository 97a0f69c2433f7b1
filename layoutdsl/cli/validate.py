"""``layoutdsl validate [SPEC ...]``: everything that is wrong with specs."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from layoutdsl.bundled import is_path
from layoutdsl.cli import output
from layoutdsl.cli.arguments import Parser, add_format, add_layer, load, path_of
from layoutdsl.diagnostics import Diagnostic, DiagnosticError


def options(parser: Parser) -> None:
    parser.add_argument("specs", nargs="*", metavar="SPEC", help="an id (`W4A8_DYNAMIC.linear`) or a path; none: every bundled spec")
    add_layer(parser)
    add_format(parser)
    parser.add_argument("--no-cache", action="store_true", help="prove again what was proved before")
    parser.add_argument("--notes", action="store_true", help="print notes as well as errors and warnings")


def run(arguments: Namespace) -> int:
    specs = list(dict.fromkeys(arguments.specs)) if arguments.specs else _bundled(arguments.layer)
    found: list[Diagnostic] = []
    for spec in specs:
        found += _validate(spec, arguments.layer, use_cache=not arguments.no_cache)
    shown = [finding for finding in found if arguments.notes or finding.severity != "note"]
    output.report(shown, arguments.format)
    output.flush()
    output.log(_summary(len(specs), found, hidden=len(found) - len(shown)))
    return 1 if any(finding.severity == "error" for finding in found) else 0


def _bundled(layer: str | None) -> list[Path]:
    from layoutdsl.bundled import bundled

    return [path for name, path in bundled().items() if layer is None or name.rpartition(".")[2] == layer.lower()]


def _validate(spec: str | Path, layer: str | None, *, use_cache: bool) -> list[Diagnostic]:
    from layoutdsl.result_cache import validate_file

    try:
        path = spec if isinstance(spec, Path) else path_of(spec, layer)
        if layer is not None and isinstance(spec, str) and is_path(spec):
            load(spec, layer)  # refuses a file that holds another layer
    except DiagnosticError as error:
        return list(error.diagnostics)
    return validate_file(path, use_cache=use_cache)


def _summary(specs: int, found: list[Diagnostic], hidden: int) -> str:
    counts = [_count(sum(finding.severity == severity for finding in found), severity) for severity in ("error", "warning", "note")]
    return f"{_count(specs, 'spec')}: {', '.join(counts)}" + (" (shown with --notes)" if hidden else "")


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
