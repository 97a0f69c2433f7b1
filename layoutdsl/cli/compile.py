"""``layoutdsl compile SPEC -o plan.json``: the plan of one configuration, as canonical JSON."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from layoutdsl.cli import output
from layoutdsl.cli.arguments import Parser, add_config, add_format, add_layer, config_of, config_texts, load
from layoutdsl.cli.files import replacing
from layoutdsl.diagnostics import Diagnostic, DiagnosticError


def options(parser: Parser) -> None:
    parser.add_argument("spec", metavar="SPEC", help="an id (`W4A8_DYNAMIC.linear`) or a path")
    parser.add_argument("-o", "--output", required=True, metavar="PLAN.json", help="where the plan goes; `-` for standard output")
    add_layer(parser)
    add_config(parser)
    add_format(parser)


def run(arguments: Namespace) -> int:
    from layoutdsl.api import compile_spec

    texts = config_texts(arguments)
    spec = load(arguments.spec, arguments.layer)
    plan = compile_spec(spec, config=config_of(texts, spec))
    text = plan.to_json() + "\n"
    if arguments.output == "-":
        output.write(text)
        return 0
    written, read = Path(arguments.output), Path(spec.document.source.name)
    if written.exists() and read.exists() and written.samefile(read):
        message = "the output is the spec itself, which the plan would replace"
        raise DiagnosticError(Diagnostic(code="file-unwritable", message=message, where=arguments.output, helps=("give `-o` another name",)))
    with replacing(arguments.output) as file:
        file.write(text.encode("ascii"))
    output.report((), arguments.format)
    output.log(f"wrote {arguments.output}: the plan of {plan.scheme}.{plan.layer}, {plan.hash}")
    return 0
