"""What is written on the command line: commands, options, wording, exit code 2; and what happens when we are wrong ourselves."""

from __future__ import annotations

from pathlib import Path

import pytest

import layoutdsl
from layoutdsl.cli import COMMANDS
from layoutdsl.cli.arguments import rewritten
from tests.cli.conftest import Cli


def test_help_lists_the_commands(cli: Cli) -> None:
    ran = cli("--help")
    assert ran.code == 0
    assert all(name in ran.out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cli: Cli, command: str) -> None:
    ran = cli(command, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"usage: layoutdsl {command}")


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"layoutdsl {layoutdsl.__version__}\n"


def test_nothing(cli: Cli) -> None:
    cli().misused("a command is missing")


def test_unknown_command(cli: Cli) -> None:
    cli("valdate").misused("there is no command `valdate`; one like it is `validate`")


def test_unknown_top_option(cli: Cli) -> None:
    cli("--verson").misused("there is no option `--verson`; one like it is `--version`")


def test_unknown_option(cli: Cli) -> None:
    cli("validate", "--fromat", "json").misused("layoutdsl validate: there is no option `--fromat`; one like it is `--format`")


def test_options_are_not_abbreviated(cli: Cli) -> None:
    cli("compile", "W4A8_DYNAMIC.linear", "-o", "-", "--params", "float16").misused("there is no option `--params`; one like it is `--params-dtype`")


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ("compile W4A8_DYNAMIC.linear", "missing: -o/--output"),
        ("compile W4A8_DYNAMIC.linear -o", "`-o/--output` needs a value"),
        ("apply in -o out --scheme X --donate=1", "`--donate` takes no value"),
        ("apply in -o out --scheme X --math sloppy", "`sloppy` is not one of exact, fast"),
        ("apply in -o - --scheme X", "not written to standard output"),
        ("validate --format yaml", "`yaml` is not one of text, concise, json, github"),
        ("explain", "missing: SPEC|RULE|OP"),
        ("schema all", "nothing is expected where `all` stands"),
        ("explain W4A8_DYNAMIC.linear --set group_size", "`--set group_size` is not of the form"),
        ("explain W4A8_DYNAMIC.linear --set =3", "`--set =3` is not of the form"),
        ("explain W4A8_DYNAMIC.linear --set", "`--set` needs a value"),
        ("explain W4A8_DYNAMIC.linear --set version=0 version=1", "`--set` gives `version` twice"),
        ("explain W4A8_DYNAMIC.linear --sizes input_size=many", "`many` is not a whole number"),
        ("explain W4A8_DYNAMIC.linear --sizes input_size=-1", "`-1` is not a whole number"),
        ("explain W4A8_DYNAMIC.linear --set tp_size=2 -tp 4", "`-tp 4` and `--set tp_size=2` contradict each other"),
        ("explain pack --set version=0", "`pack` is a rule, an op or a kernel"),
    ],
)
def test_usage(cli: Cli, argv: str, reason: str) -> None:
    cli(*argv.split()).misused(reason)


def test_control_characters_do_not_reach_the_terminal(cli: Cli) -> None:
    assert "\x1b" not in cli("\x1b[31m").err
    ran = cli("explain", "W4A8_DYNAMIC.linear", "--set", "\x1b[31m=1")
    assert "\x1b" not in ran.out + ran.err
    ran.refused(r"\x1b[31m")


def test_lone_surrogates_in_arguments(cli: Cli) -> None:
    cli("explain", "\udcff.yaml").refused("file-missing")
    cli("\udcff").misused("there is no command")


def test_rewriting() -> None:
    assert rewritten(["--params_dtype=a_b", "--no_cache", "a_b"]) == ["--params-dtype=a_b", "--no-cache", "a_b"]
    assert rewritten(["--set", "a=1", "b=2", "SPEC", "--set", "c=--x"]) == ["--set=a=1", "--set=b=2", "SPEC", "--set=c=--x"]
    assert rewritten(["--", "--set", "a_b"]) == ["--", "--set", "a_b"]
    assert rewritten(["--set"]) == ["--set"]


def test_underscores_and_synonyms(cli: Cli) -> None:
    plain = cli("compile", "W4A8_DYNAMIC.moe", "-o", "-", "--params-dtype", "float16", "--set", "tp_size=4", "version=1.0.0")
    assert plain.code == 0
    for synonym in ("-tp 4", "--tensor-parallel-size 4", "--tensor_parallel_size=4", "--set tp_size=4"):
        other = cli("compile", "W4A8_DYNAMIC.moe", "-o", "-", "--params_dtype", "float16", *synonym.split(), "--set", "version=1.0.0")
        assert other.out == plain.out


# ---- configuration -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["explain", "describe", "compile -o -"])
@pytest.mark.parametrize(
    ("setting", "texts"),
    [
        ("group_sise=32", ("config-unknown", "a name like it is `group_size`")),
        ("group_size=many", ("config-type", "`group_size` is int, found 'many'")),
        ("group_size=-1", ("config-value",)),
        ("group_size=99999999999999999999", ("number-range", "64 bits")),
        ("layer_type=diagonal", ("config-value", "column, row")),
        ("mega_moe=maybe", ("config-type",)),
        ("consumer=vllm-ascend-main", ("config-value", "vllm-ascend-0.16")),
        ("params_dtype=float32", ("config-value",)),
    ],
)
def test_settings_refused(cli: Cli, command: str, setting: str, texts: tuple[str, ...]) -> None:
    name, *rest = command.split()
    cli(name, "W4A8_DYNAMIC.linear", *rest, "--set", setting).refused(*texts)


def test_settings_by_declared_type(cli: Cli) -> None:
    assert 'version = "0"\n' in cli("explain", "W4A8_DYNAMIC.linear", "--set", "version=0").out
    assert "group_size = none\n" in cli("explain", "W4A8_DYNAMIC.moe", "--set", "group_size=0", "version=1.0.0").out
    assert "expert_lists = true\n" in cli("explain", "W4A8_DYNAMIC.moe", "--set", "expert_lists=TRUE").out


def test_spec_by_id_and_path(cli: Cli, tiny: Path) -> None:
    by_id = cli("compile", "W4A8_DYNAMIC.linear", "-o", "-")
    assert cli("compile", "w4a8_dynamic", "--layer", "linear", "-o", "-").out == by_id.out
    assert cli("compile", Path("specs") / "w4a8_dynamic.linear.yaml", "-o", "-").out == by_id.out
    cli("compile", "W4A8_DYNAMIC", "-o", "-").refused("layer-missing", "layers: linear, moe")
    cli("compile", "W4A8_DYNAMIC", "--layer", "attention", "-o", "-").refused("layer-missing")
    cli("compile", "W4A8_DYNAMIK", "--layer", "linear", "-o", "-").refused("spec-unknown", "W4A8_DYNAMIC")
    assert cli("compile", tiny, "--layer", "linear", "-o", "-").code == 0
    cli("compile", tiny, "--layer", "moe", "-o", "-").refused("layer-differs")


@pytest.mark.parametrize("format", ["text", "concise", "json", "github"])
def test_findings_in_every_format(cli: Cli, format: str) -> None:
    ran = cli("explain", "W4A8_DYNAMIC.linear", "--set", "group_sise=32", "--format", format)
    assert ran.code == 1 and "config-unknown" in ran.out and ran.err == ""


# ---- our own mistakes --------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise KeyError("oh\x1bno")

    monkeypatch.setattr("layoutdsl.compiler.config.settings_of", fail)


@pytest.mark.usefixtures("broken")
def test_a_bug_asks_for_a_report(cli: Cli) -> None:
    ran = cli("compile", "W4A8_DYNAMIC.linear", "-o", "-")
    assert (ran.code, ran.out) == (3, "")
    assert "internal error: KeyError: 'oh\\x1bno' (layoutdsl/cli/arguments.py:" in ran.err
    assert "please report it" in ran.err and "Traceback" not in ran.err


@pytest.mark.usefixtures("broken")
def test_a_bug_with_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYOUTDSL_DEBUG", "1")
    ran = cli("compile", "W4A8_DYNAMIC.linear", "-o", "-")
    assert ran.code == 3 and "Traceback" in ran.err


def test_interrupt(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("layoutdsl.compiler.config.settings_of", interrupt)
    assert cli("compile", "W4A8_DYNAMIC.linear", "-o", "-").code == 130
