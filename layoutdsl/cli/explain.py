"""``layoutdsl explain SPEC``: one configuration as a straight pipeline; ``explain RULE``, ``OP`` and ``KERNEL``: their pages."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from layoutdsl.bundled import is_path
from layoutdsl.cli import output
from layoutdsl.cli.arguments import Parser, Usage, add_config, add_format, add_layer, add_sizes, config_of, config_texts, load, sizes_of


def options(parser: Parser) -> None:
    parser.add_argument(
        "subject", metavar="SPEC|RULE|OP|KERNEL", help="an id (`W4A8_DYNAMIC.linear`), a path, the code of a finding, an op, or a kernel with a contract"
    )
    add_layer(parser)
    add_config(parser)
    add_sizes(parser, "to print numbers")
    add_format(parser)


def run(arguments: Namespace) -> int:
    from layoutdsl.cli import pages

    texts, sizes = config_texts(arguments), sizes_of(arguments)
    page = None if is_path(arguments.subject) else pages.page(arguments.subject)
    if page is not None and (texts or sizes or arguments.layer):
        raise Usage(f"`{arguments.subject}` is a rule, an op or a kernel: it has no layer, no config and no sizes")
    lines = page if page is not None else _spec(arguments, texts, sizes)
    output.write("\n".join(map(output.escape, lines)) + "\n")
    return 0


def _spec(arguments: Namespace, texts: Mapping[str, str], sizes: Mapping[str, int]) -> list[str]:
    from layoutdsl.cli import pages
    from layoutdsl.cli.pipeline import explained

    if not is_path(arguments.subject):
        pages.need_spec(arguments.subject)
    spec = load(arguments.subject, arguments.layer)
    given: dict[str, Any] = config_of(texts, spec)
    return list(_joined(explained(spec, given, sizes)))


def _joined(sections: Iterator[tuple[str, list[str]]]) -> Iterator[str]:
    """Sections with their titles, a blank line between them; empty ones left out."""
    first = True
    for title, lines in sections:
        if lines:
            yield from ([] if first else [""])
            yield from ([title] if title else [])
            yield from lines
            first = False
