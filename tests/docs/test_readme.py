"""README.md and CONTRIBUTING.md are what the program does: every fenced block is run, every path and command that they name exists.

``make`` itself is not run: its targets must be there, and so must what they call. ``pytest`` in a block is not run either: its paths must hold tests.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest

import layoutdsl
from layoutdsl import cli
from layoutdsl.bundled import bundled
from layoutdsl.diagnostics.rules import RULES
from layoutdsl.kernels import CONTRACTS
from layoutdsl.ops import OPS, Op
from tests.docs.test_language import findings, spec_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/verify.md", "docs/schemes/README.md")
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SPEC_FILE = "my_w8.linear.yaml"


@dataclass(frozen=True)
class Block:
    page: str
    kind: str
    text: str
    line: int

    def __str__(self) -> str:
        return f"{self.page}-line{self.line}"


def blocks(kind: str, page: str | None = None) -> list[Block]:
    found = [
        Block(name, match[2], dedent(match[3]), text.count("\n", 0, match.start()) + 1)
        for name, text in TEXTS.items()
        for match in re.finditer(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    ]
    return [block for block in found if block.kind == kind and page in (None, block.page)]


def params(found: list[Block]) -> Any:
    return pytest.mark.parametrize("block", found, ids=str)


def commands() -> list[Any]:
    lines = [(block, line.partition(" #")[0].strip()) for block in blocks("sh") for line in block.text.splitlines()]
    return [pytest.param(shlex.split(line), id=f"{block}-{line}") for block, line in lines]


def inline(page: str) -> list[str]:
    """What stands in single backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```$", "", TEXTS[page], flags=re.MULTILINE | re.DOTALL))


def the_spec() -> str:
    (block,) = blocks("yaml")
    return block.text


def test_every_block_is_run() -> None:
    """A kind without a test here would be text that nobody checks; the picture is the one block without a kind."""
    fences = sum(len(re.findall(r"^ *```", text, re.MULTILINE)) for text in TEXTS.values())
    counts = {kind: len(blocks(kind)) for kind in ("", "sh", "yaml", "python", "text")}
    assert fences == 2 * sum(counts.values())
    assert (counts[""], counts["yaml"], counts["python"], counts["text"]) == (1, 1, 1, 1)


# ---- the picture, the example ----------------------------------------------------------------------------------------------------------------------------


def test_the_picture_is_a_right_pipeline(tmp_path: Path) -> None:
    (picture,) = blocks("")
    stored, ready = re.findall(r"int4\[[nk], [nk]\] in int\d+\[[^\]]+\]", picture.text)
    stages = re.findall(r"transpose \| contiguous \| bitcast", picture.text)
    assert len(stages) == 1
    step = f"- weight: transpose(k, n) | contiguous | bitcast(int32) | is {ready}"
    assert findings(spec_of({"weight": stored}, step), tmp_path) == []


def test_the_example_has_no_finding_of_any_kind(tmp_path: Path) -> None:
    path = tmp_path / SPEC_FILE
    path.write_text(the_spec(), encoding="utf-8")
    assert layoutdsl.validate(path) == []


def test_the_wrong_example_prints_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """To the letter, and nothing else."""
    monkeypatch.chdir(tmp_path)
    right = the_spec()
    assert right.count(" | contiguous") == 1
    Path(SPEC_FILE).write_text(right.replace(" | contiguous", ""), encoding="utf-8")
    assert cli.main(["validate", "--no-cache", SPEC_FILE]) == 1
    printed = capsys.readouterr().out.rstrip("\n").split("\n\n")
    (shown,) = blocks("text")
    assert printed[0] == shown.text.rstrip("\n")
    assert printed[1:] == []


@params(blocks("python"))
def test_python_blocks_run(block: Block) -> None:
    """`tensors`, `module` and `x` are the reader's own; here they are what `plan.parameters` and the sizes say."""
    torch = pytest.importorskip("torch")
    before, mark, _ = block.text.partition("plan.run(")
    assert mark
    known: dict[str, Any] = {}
    exec(compile(before, block.page, "exec"), known)
    parameters = known["plan"].parameters
    made = {name: torch.randint(0, 8, p.shape).to(getattr(torch, p.dtype)) for name, p in parameters.items()}
    module = torch.nn.Module()
    for name, tensor in made.items():
        module.register_parameter(name, torch.nn.Parameter(tensor.clone(), requires_grad=False))
    x = torch.ones(2, 3, known["plan"].sizes["input_size"], dtype=torch.bfloat16)
    found = {"tensors": dict(made), "module": module, "x": x}
    exec(compile(block.text, block.page, "exec"), found)
    assert found["y"].shape == (2, 3, known["plan"].sizes["output_size"])
    for name, wanted in known["plan"].run(made).items():
        assert torch.equal(getattr(module, name), wanted)


# ---- commands --------------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example, the repository's specs, and the parameters of one layer beside each other."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / SPEC_FILE).write_text(the_spec(), encoding="utf-8")
    shutil.copytree(ROOT / "specs", tmp_path / "specs")
    return tmp_path


def _write_layer(folder: Path, arguments: list[str]) -> None:
    """`layer.safetensors`: what the scheme stores under the settings of the command."""
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("safetensors.torch")
    settings = dict(text.split("=") for option, text in zip(arguments, arguments[1:]) if option == "--set")
    config = {name: int(text) if text.isdecimal() else text for name, text in settings.items()}
    scheme, layer = (arguments[arguments.index(option) + 1] for option in ("--scheme", "--layer"))
    plan = layoutdsl.compile_spec(scheme, layer=layer, config=config, sizes={"input_size": 192, "output_size": 96})
    files.save_file({name: torch.ones(p.shape).to(getattr(torch, p.dtype)) for name, p in plan.parameters.items()}, folder / "layer.safetensors")


@pytest.mark.parametrize("words", commands())
def test_commands_run(words: list[str], workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = words
    match program:
        case "make":
            for target in arguments:
                check_target(target)
        case "pytest":
            assert all(list((ROOT / path).glob("test_*.py")) for path in arguments)
        case _:
            assert program == "layoutdsl"
            if "layer.safetensors" in arguments:
                _write_layer(workplace, arguments)
            assert cli.main(arguments) == 0, "".join(capsys.readouterr())


def targets() -> dict[str, SimpleNamespace]:
    found: dict[str, SimpleNamespace] = {}
    for match in re.finditer(r"^([\w$()/.-]+):([^=#\n]*)(?:#[^\n]*)?\n((?:\t[^\n]*\n?)*)", MAKEFILE, re.MULTILINE):
        found[match[1]] = SimpleNamespace(needs=match[2].split(), recipe=[line.strip() for line in match[3].splitlines()])
    return found


def check_target(name: str) -> None:
    """The target is there, and so are the programs, modules and files that it and what it needs call."""
    target = targets().get(name)
    assert target is not None, f"no target {name}"
    for need in target.needs:
        if need in targets():
            check_target(need)
        else:
            assert (ROOT / need).exists()
    for line in target.recipe:
        program, *arguments = line.split()
        if program.startswith("$(BIN)/"):
            assert shutil.which(program.removeprefix("$(BIN)/"), path=f"{Path(sys.executable).parent}:/usr/bin"), line
        for option, module in zip(arguments, arguments[1:]):
            assert option != "-m" or importlib.util.find_spec(module), line
        assert all((ROOT / word).is_file() for word in arguments if word.endswith((".py", ".txt"))), line


def test_the_check_of_targets_checks() -> None:
    environments = {f"$({name})/.ready" for name in ("VENV", "NPU_VENV", "VA_VENV")}
    tests = {"test", "test-npu", "test-vllm-ascend", "check"}
    assert {"demo", "schemas", "schemes", "fix", "clean", *tests, *environments} == targets().keys() - {".PHONY"}
    with pytest.raises(AssertionError):
        check_target("deploy")


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_exist(page: str) -> None:
    for text in inline(page):
        program, *arguments = text.split()
        if program == "make":
            assert arguments[0] in targets()
        if program == "layoutdsl" and arguments:
            assert arguments[0] in cli.COMMANDS
        if arguments[:1] == ["explain"] and len(arguments) > 1:
            kernels = {op.partition("::")[2] for op in CONTRACTS}
            assert arguments[1] in {*RULES, *OPS, *kernels} or arguments[1].lower() in bundled()


# ---- claims ----------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_lead_somewhere(page: str) -> None:
    paths = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXTS[page])
    paths += [text for text in inline(page) if re.fullmatch(r"(?:layoutdsl|tests|specs|docs|benchmarks|examples|tools)/[\w./-]*", text)]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists() and not ((ROOT / page).parent / path).exists()] == []


def test_the_steps_of_contributing_name_what_there_is() -> None:
    text = TEXTS["CONTRIBUTING.md"]
    attributes = text.partition("one class with ")[2].partition(", decorated")[0]
    assert all(hasattr(Op, name) or name in Op.__annotations__ for name in re.findall(r"`(\w+)`", attributes))
    order = text.partition("The code is read in the order of its layers: ")[2].partition(". A layer imports")[0]
    package = Path(layoutdsl.__file__).parent
    assert [name for name in re.findall(r"`(\w+)`", order) if not (package / name).is_dir() and not (package / f"{name}.py").is_file()] == []


def test_the_changelog_counts_right() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"{len(OPS)} ops" in text
    assert layoutdsl.__version__ in text
    assert set(re.findall(r"`(\w+)`", text.partition("- Commands: ")[2].partition("\n")[0])) == set(cli.COMMANDS)
