"""The command line: one small file per command, imported only when the command is used.

Outermost layer; everything it does is also in ``layoutdsl.api``.

Invariants: exit codes are 0 done, 1 findings, 2 usage, 3 our own bug (130 and 141 for an interrupt and a closed pipe); findings go to stdout, progress and logs
to stderr; a user's mistake is never a traceback; start-up imports neither torch nor numpy.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import TracebackType

from layoutdsl.cli import output
from layoutdsl.cli.arguments import Parser, Usage, rewritten
from layoutdsl.diagnostics import DiagnosticError

COMMANDS = {
    "validate": "is a spec right, for all sizes and in every configuration",
    "verify": "do the kernels compute what a spec says its tensors mean: numerically, on a CPU",
    "check": "does a checkpoint folder hold what its schemes say, and over how many ranks can it be split",
    "diff": "how far two checkpoints of one model are apart, tensor by tensor, by what their tensors mean",
    "apply": "run a plan on the tensors of one layer: safetensors to safetensors",
    "explain": "the pipeline of a spec step by step, or the page of a rule, an op or a kernel",
    "describe": "the tensors that a checkpoint must hold",
    "compile": "write the plan of one configuration as JSON",
    "new": "write the first draft of a spec from the headers of a layer",
    "schema": "print the JSON Schema of specs, for editors",
    "env": "which versions are installed, and which consumer and device follow from them",
}
FINDINGS, USAGE, BUG, INTERRUPTED, CLOSED_PIPE = 1, 2, 3, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    output.prepare()
    collecting = gc.isenabled()
    # A short process that builds trees and proofs, and makes no garbage in cycles worth looking for: the collector would cost a tenth of the time.
    gc.disable()
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        output.flush()
    except Usage as error:
        output.log(f"{error.command or 'layoutdsl'}: {error}")
        output.log(f"`{error.command or 'layoutdsl'} --help` shows what can be written")
        return USAGE
    except output.CannotWrite as error:
        output.log(f"layoutdsl: cannot write to standard output: {error}")
        output.abandon()
        return FINDINGS
    except BrokenPipeError:
        output.abandon()
        return CLOSED_PIPE
    except KeyboardInterrupt:
        output.log("interrupted")
        return INTERRUPTED
    except Exception as error:
        _ask_for_report(error)
        return BUG
    finally:
        if collecting:
            gc.enable()
    return code


def _run(argv: list[str]) -> int:
    if not argv:
        raise Usage("a command is missing", "layoutdsl")
    name, *rest = argv
    if name in ("-h", "--help"):
        output.write(_help())
        return 0
    if name == "--version":
        from layoutdsl import __version__

        output.write(f"layoutdsl {__version__}\n")
        return 0
    if name not in COMMANDS:
        raise Usage(_unknown(name), "layoutdsl")
    return _command(name, rest)


def _command(name: str, argv: list[str]) -> int:
    module = import_module(f"layoutdsl.cli.{name}")
    parser = Parser(name, COMMANDS[name])
    module.options(parser)
    try:
        arguments = parser.parse(rewritten(argv))
    except SystemExit:
        return 0  # --help
    try:
        code: int = module.run(arguments)
    except Usage as error:
        raise Usage(str(error), parser.prog) from None
    except DiagnosticError as error:
        output.report(error.diagnostics, arguments.format)
        return FINDINGS
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items()]
    head = "usage: layoutdsl COMMAND ...\n\nfrom quantized checkpoints to what Ascend NPU kernels want\n\ncommands:\n"
    tail = "\n\n`layoutdsl COMMAND --help` shows the options of a command\nexit codes: 0 done, 1 findings, 2 usage, 3 a bug of layoutdsl\n"
    return head + "\n".join(lines) + tail


def _unknown(name: str) -> str:
    from layoutdsl.cli.arguments import close

    kind = "option" if name.startswith("-") else "command"
    return f"there is no {kind} `{name}`{close(name, [*COMMANDS, '--help', '--version'])}"


def _ask_for_report(error: Exception) -> None:
    if os.environ.get("LAYOUTDSL_DEBUG") == "1":
        import traceback

        output.log("".join(traceback.format_exception(error)).rstrip("\n"), raw=True)
    output.log(f"internal error: {type(error).__name__}: {error} ({_place(error.__traceback__)})")
    output.log("this is a bug of layoutdsl, not a mistake in your input: please report it, with the command and this text")
    if os.environ.get("LAYOUTDSL_DEBUG") != "1":
        output.log("LAYOUTDSL_DEBUG=1 shows the traceback")


def _place(trace: TracebackType | None) -> str:
    """The innermost place in our own code."""
    package, place = os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "place unknown"
    while trace is not None:
        file = os.path.abspath(trace.tb_frame.f_code.co_filename)
        if file.startswith(package + os.sep):
            place = f"{os.path.relpath(file, os.path.dirname(package))}:{trace.tb_lineno} in {trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return place
