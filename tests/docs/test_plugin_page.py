"""The commands of docs/vllm_ascend_plugin.md and examples/vllm_ascend_plugin.sh: no server is started, but what they switch on is what they say."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from layoutdsl.bundled import bundled
from layoutdsl.cli.arguments import Parser
from layoutdsl.cli.check import options
from layoutdsl.integrations.vllm_ascend.settings import KEY, MODES, read_settings

ROOT = Path(__file__).resolve().parents[2]
PAGE, SCRIPT = ROOT / "docs" / "vllm_ascend_plugin.md", ROOT / "examples" / "vllm_ascend_plugin.sh"
TEXT, SHELL = PAGE.read_text(encoding="utf-8"), SCRIPT.read_text(encoding="utf-8")


def modes(line: str) -> tuple[str, ...]:
    """What a command line of vLLM switches on."""
    words = shlex.split(line, comments=True)
    environ = dict(word.split("=", 1) for word in words[: words.index("vllm")])
    assert words[words.index("vllm") + 1] == "serve"
    given = json.loads(words[words.index("--additional-config") + 1]) if "--additional-config" in words else {}
    return read_settings(given, environ).modes


def lines(text: str) -> list[str]:
    return [line.strip().removesuffix(";;") for line in text.splitlines() if re.search(r"\bvllm serve\b", line) and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("line", lines("\n".join(re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))))
def test_a_command_of_the_page(line: str) -> None:
    assert modes(line)


def test_the_page_names_every_mode() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == {"off", *MODES}


def test_settings_of_the_page() -> None:
    for text in re.findall(r'`(\{"mode".*?\})`', TEXT):
        assert read_settings({KEY: json.loads(text)}, {}).modes
    named = {word.strip('" ') for listed in re.findall(r'"specs": \[([^\]{]*)\]', TEXT) for word in listed.split(",")}
    ids = {word.lower() for word in named if not word.endswith(".yaml")}
    assert ids and ids <= bundled().keys()


def test_the_script() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0
    cases = dict(re.findall(r"^(\w+)\) [^\n]*\n([^\n]*)", SHELL, re.MULTILINE))
    assert cases.keys() == set(MODES)
    assert all(name in modes(line.removesuffix(";;")) for name, line in cases.items())
    parser = Parser("check", "")
    options(parser)
    (check,) = re.findall(r"^layoutdsl check (.*)$", SHELL, re.MULTILINE)
    parser.parse_args(shlex.split(check))
