"""``layoutdsl schema``: the JSON Schema of specs, for editors."""

from __future__ import annotations

import json
from argparse import Namespace

from layoutdsl.cli import output
from layoutdsl.cli.arguments import Parser


def options(parser: Parser) -> None:
    del parser


def run(arguments: Namespace) -> int:
    from layoutdsl.syntax.schema import SCHEMA

    del arguments
    output.write(json.dumps(SCHEMA, indent=2) + "\n")
    return 0
