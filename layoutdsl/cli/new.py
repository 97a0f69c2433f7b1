"""``layoutdsl new --from DIR --layer PREFIX``: the first draft of a spec, from the headers of a layer that somebody wrote already."""

from __future__ import annotations

import os
import re
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

from layoutdsl.cli import output
from layoutdsl.cli.arguments import Parser, add_format
from layoutdsl.cli.files import replacing
from layoutdsl.diagnostics import Diagnostic, DiagnosticError


def options(parser: Parser) -> None:
    parser.add_argument("--from", dest="folder", metavar="DIR", required=True, help="the folder of a checkpoint")
    parser.add_argument("--layer", metavar="PREFIX", required=True, help="what the names of the layer's tensors begin with: `model.layers.0.mlp.down_proj`")
    parser.add_argument("--scheme", type=_scheme, metavar="NAME", help="the name of the scheme; without it, what the checkpoint calls it")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write it; without it, to standard output")
    add_format(parser)


def run(arguments: Namespace) -> int:
    from layoutdsl.checkpoint.folder import read_folder
    from layoutdsl.checkpoint.scaffold import scaffold

    folder = read_folder(Path(arguments.folder))
    output.warn([finding for finding in folder.findings if folder.tensors])
    if folder.findings and not folder.tensors:
        raise DiagnosticError(*folder.findings)
    text = scaffold(folder, arguments.layer.rstrip("."), arguments.scheme)
    if arguments.output is None:
        output.write(text)
        return 0
    if os.path.lexists(arguments.output):
        helps = ("name another file, or remove this one first",)
        raise DiagnosticError(Diagnostic(code="file-unwritable", message="this file exists, and a draft would replace it", where=arguments.output, helps=helps))
    with replacing(arguments.output) as file:
        file.write(text.encode())
    output.log(f"written: {arguments.output}; `layoutdsl validate {arguments.output}` says what to fill in")
    return 0


def _scheme(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]+", text):
        raise ArgumentTypeError(f"`{text}` is no name of a scheme; letters, digits and `_` make one")
    return text
