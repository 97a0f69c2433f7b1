"""``layoutdsl verify [SPEC ...]``: what the kernels compute from a spec's tensors, against what the spec says that they mean."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from layoutdsl.bundled import bundled
from layoutdsl.cli import output
from layoutdsl.cli.apply import need_torch
from layoutdsl.cli.arguments import Parser, Usage, add_config, add_format, add_layer, config_of, config_texts, load
from layoutdsl.diagnostics import Diagnostic, DiagnosticError

if TYPE_CHECKING:
    from layoutdsl.api import Spec
    from layoutdsl.verify.report import Report


def options(parser: Parser) -> None:
    parser.add_argument("specs", nargs="*", metavar="SPEC", help="an id (`W4A8_DYNAMIC.linear`) or a path; none: every bundled spec")
    add_layer(parser)
    add_config(parser)
    parser.add_argument("--quick", action="store_true", help="one configuration of every combination of cases, at one set of sizes, on one rank")
    parser.add_argument("--against", metavar="MODULE:CLASS", help="compare with a hand-written class instead: its process_weights_after_loading, bit for bit")
    add_format(parser)


def run(arguments: Namespace) -> int:
    texts = config_texts(arguments)
    if arguments.against is not None and len(arguments.specs) != 1:
        raise Usage("`--against` compares one spec with one class: name the spec")
    need_torch("verify")
    specs: list[str | Path] = list(dict.fromkeys(arguments.specs)) or _bundled(arguments.layer)
    found: list[Diagnostic] = []
    for spec in specs:
        found += _verify(spec, texts, arguments)
    output.report(found, arguments.format)
    return 1 if any(finding.severity == "error" for finding in found) else 0


def _bundled(layer: str | None) -> list[str | Path]:
    return [path for name, path in bundled().items() if layer is None or name.rpartition(".")[2] == layer.lower()]


def _verify(spec: str | Path, texts: dict[str, str], arguments: Namespace) -> list[Diagnostic]:
    """The findings on one spec; progress and a summary go to stderr."""
    from layoutdsl.verify.against import against
    from layoutdsl.verify.verify import verify

    try:
        loaded = load(str(spec), arguments.layer)
        given = config_of(texts, loaded)
        if arguments.against is not None:
            report = against(loaded, arguments.against, given, progress=output.log)
        else:
            report = verify(loaded, given, quick=arguments.quick, progress=output.log)
    except DiagnosticError as error:
        return list(error.diagnostics)
    output.log(summary(loaded, report))
    return report.findings


def summary(spec: Spec, report: Report) -> str:
    """One line: what ran, what could not, how many findings."""
    ran = ", ".join(f"{count} {what}" for what, count in report.ran.items()) or "nothing was run"
    skipped = "".join(f"; not run: {why} ({count})" for why, count in report.not_run.items())
    count = len(report.findings)
    return f"{spec.scheme}.{spec.layer}: {ran}{skipped}; {count} finding{'' if count == 1 else 's'} in {report.seconds:.1f} s"
