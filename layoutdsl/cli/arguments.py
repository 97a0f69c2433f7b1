"""What is written on the command line: argparse with our wording, and the options that several commands share.

Invariants: whatever is wrong with the arguments themselves raises :class:`Usage`; what is wrong with the things they name is a diagnostic.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from layoutdsl.diagnostics import Diagnostic, DiagnosticError

if TYPE_CHECKING:
    from layoutdsl.api import Spec

FORMATS = ("text", "concise", "json", "github")
PAIRED = ("--set", "--sizes")
LARGEST = 2**63

# argparse's wording, which differs between versions of Python, and ours.
_WORDING = (
    (re.compile(r"the following arguments are required: (.*)"), r"missing: \1"),
    (re.compile(r"argument (\S+): expected (?:one|at least one) argument"), r"`\1` needs a value"),
    (re.compile(r"argument (\S+): ignored explicit argument (.*)"), r"`\1` takes no value, found \2"),
    (re.compile(r"argument (\S+): (.*)"), r"`\1`: \2"),
)


class Usage(Exception):
    """The arguments make no command."""

    def __init__(self, message: str, command: str = "") -> None:
        super().__init__(message)
        self.command = command


class Parser(argparse.ArgumentParser):
    """One command's options."""

    def __init__(self, command: str, summary: str) -> None:
        super().__init__(prog=f"layoutdsl {command}", description=summary, allow_abbrev=False)
        self.set_defaults(format="text")

    def error(self, message: str) -> NoReturn:
        for pattern, wording in _WORDING:
            if pattern.fullmatch(message):
                message = pattern.sub(wording, message)
                break
        raise Usage(message, self.prog)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The arguments. Raises Usage; SystemExit for ``--help``."""
        known, rest = self.parse_known_args(argv)
        for text in rest:
            if text.startswith("-"):
                raise Usage(f"there is no option `{text}`{close(text.partition('=')[0], self._option_string_actions)}", self.prog)
            raise Usage(f"nothing is expected where `{text}` stands", self.prog)
        return known


def close(word: str, known: Iterable[str]) -> str:
    """``; did you mean`` without the question."""
    found = get_close_matches(word, list(known), 1)
    return f"; one like it is `{found[0]}`" if found else ""


def rewritten(argv: Sequence[str]) -> list[str]:
    """Underscores in option names as dashes; ``--set a=1 b=2 SPEC`` as ``--set=a=1 --set=b=2 SPEC``."""
    result: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*result, word, *rest]
        if word.startswith("--"):
            name, mark, value = word.partition("=")
            word = name.replace("_", "-") + mark + value
        if word not in PAIRED or not rest or rest[0].startswith("-"):
            result.append(word)
            continue
        result.append(f"{word}={rest.pop(0)}")
        while rest and "=" in rest[0] and not rest[0].startswith("-"):
            result.append(f"{word}={rest.pop(0)}")
    return result


# ---- options -----------------------------------------------------------------------------------------------------------------------------------------------


def add_format(parser: Parser) -> None:
    parser.add_argument("--format", type=_format, default="text", metavar="|".join(FORMATS), help="how findings are printed (default: text)")


def _format(text: str) -> str:
    if text not in FORMATS:
        raise argparse.ArgumentTypeError(f"`{text}` is not one of {', '.join(FORMATS)}{close(text, FORMATS)}")
    return text


def add_layer(parser: Parser) -> None:
    parser.add_argument("--layer", metavar="KIND", help="linear, moe, ...; not needed in `SCHEME.layer`, nor with a path")


def add_config(parser: Parser) -> None:
    """``--set``, its synonyms, and ``--params-dtype``."""
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="a value of the config; may be repeated")
    parser.add_argument("--tensor-parallel-size", "-tp", metavar="N", help="the same as --set tp_size=N")
    parser.add_argument("--params-dtype", metavar="DTYPE", help="the same as --set params_dtype=DTYPE (bfloat16 or float16)")


def add_sizes(parser: Parser, purpose: str) -> None:
    parser.add_argument("--sizes", action="append", default=[], metavar="name=value", help=f"a size of the layer, {purpose}; may be repeated")


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """``name=value`` texts. Raises Usage."""
    found: dict[str, str] = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark or not name:
            raise Usage(f"`{option} {text}` is not of the form `{option} name=value`")
        if name in found:
            raise Usage(f"`{option}` gives `{name}` twice")
        found[name] = value
    return found


def sizes_of(arguments: argparse.Namespace) -> dict[str, int]:
    """``--sizes`` as integers. Raises Usage for what is no whole number."""
    found = {}
    for name, text in pairs(arguments.sizes, "--sizes").items():
        if not re.fullmatch(r"[0-9]{1,19}", text):
            raise Usage(f"`--sizes {name}={text}`: `{text}` is not a whole number of at most 19 digits")
        found[name] = int(text)
    return found


def config_texts(arguments: argparse.Namespace) -> dict[str, str]:
    """``--set`` and its synonyms as texts. Raises Usage, also where two of them differ."""
    found = pairs(arguments.set, "--set")
    for option, name, text in (("-tp", "tp_size", arguments.tensor_parallel_size), ("--params-dtype", "params_dtype", arguments.params_dtype)):
        if text is not None and found.setdefault(name, text) != text:
            raise Usage(f"`{option} {text}` and `--set {name}={found[name]}` contradict each other")
    return found


def config_of(texts: Mapping[str, str], spec: Spec) -> dict[str, Any]:
    """The values of ``--set`` by their declared types. Raises DiagnosticError (``config-unknown``, ``config-type``, ``config-value``, ``number-range``)."""
    from layoutdsl.compiler.config import check_declarations, parse_setting, resolve, settings_of

    problems = check_declarations(spec.document)
    if problems:
        raise DiagnosticError(*problems)
    settings = settings_of(spec.document)
    values = {name: parse_setting(settings, name, text.removeprefix("torch.") if name == "params_dtype" else text) for name, text in texts.items()}
    large = [name for name, value in values.items() if isinstance(value, int) and abs(value) >= LARGEST]
    if large:
        raise DiagnosticError(*(Diagnostic(code="number-range", message=f"the value of `{name}` does not fit into 64 bits", where=name) for name in large))
    resolve(settings, values)
    return values


# ---- specs -------------------------------------------------------------------------------------------------------------------------------------------------


def path_of(spec: str, layer: str | None) -> Path:
    """The file of a spec, by id or path. Raises DiagnosticError (``spec-unknown``, ``layer-missing``)."""
    from layoutdsl.bundled import find_bundled, is_path

    return Path(spec) if is_path(spec) else find_bundled(spec, layer)


def load(spec: str, layer: str | None) -> Spec:
    """A spec, by id or path. Raises DiagnosticError."""
    from layoutdsl.api import load_spec

    return load_spec(spec, layer)
