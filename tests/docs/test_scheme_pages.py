"""docs/schemes/ is what the specs say: the pages are those that the generator makes now, and what stands in them is true.

The defaults of every page are compared with the plans that the compiler makes of them; the rest of its words is checked on a spec made for that.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from itertools import product
from pathlib import Path

import pytest

import layoutdsl
from layoutdsl.bundled import bundled
from layoutdsl.compiler.scope import members_of
from layoutdsl.syntax.document import Document, ForwardLine, Step
from layoutdsl.syntax.walk import nodes
from tools import scheme_pages

FOLDER = scheme_pages.FOLDER
RUN = f"run `{scheme_pages.COMMAND}` (or `make fix`)"

SPEC = """\
layoutdsl: 1
scheme: SMALL
layer: linear
title: a spec of the tests | with a bar, and <angles>
holds: {consumer: [vllm-ascend-0.16, vllm-ascend-0.23, vllm-ascend-main], device: [a2, a3, 310p]}
config:
  group_size:
    type: int
    default: {old: 256, new: 64}
variants:
  system:
    old: consumer == "vllm-ascend-0.16"
    new: consumer in ["vllm-ascend-0.23", "vllm-ascend-main"]
  chip:
    npu:  device in ["a2", "a3"]
    p310: device == "310p"
axes: {n: output_size, k: input_size}
require:
  - N % 8 == 0
  - new and params_dtype == float16 when p310
params:
  weight: int4[n, k] in int8[n//2, k | n%2]
  weight_scale: params_dtype[n, k//group_size]
  ones:
    type:
      old: bfloat16[n]
      new: float32[n]
    init: 1
value:
  W[n, k]: weight[n, k] * weight_scale[n, k//group_size]
steps:
  - weight: transpose(k, n) | contiguous | nz when weight_nz_mode != 0 | bitcast(int32)
    accept: nz-group-size
    why: its default is what < the kernel | refuses
  - weight_scale: transpose(k, n) | contiguous
  - ranks: tp_size
    as: value
  - delete: ones
    when: old
    why: nobody asked for them
forward:
  - return: npu_weight_quant_batchmatmul(x, weight, antiquant_scale=weight_scale, antiquant_group_size=group_size)
    when: npu
  - return: external
    when: p310
"""


@cache
def documents() -> dict[str, Document]:
    return {name: layoutdsl.load_spec(path).document for name, path in bundled().items()}


def text_of(name: str) -> str:
    path = FOLDER / f"{name}.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


# ---- the folder ------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", bundled())
def test_every_page_is_what_the_generator_makes_now(name: str) -> None:
    if text_of(name) != scheme_pages.page(layoutdsl.load_spec(bundled()[name])):
        pytest.fail(f"docs/schemes/{name}.md is {'stale' if text_of(name) else 'missing'}: {RUN}")


def test_no_page_without_a_spec() -> None:
    surplus = {path.name for path in FOLDER.iterdir()} - {scheme_pages.INDEX, *(f"{name}.md" for name in bundled())}
    assert not surplus, f"no spec is called like {sorted(surplus)}: {RUN}"


def test_the_index_lists_all() -> None:
    rows = [line for line in text_of("README").splitlines() if line.startswith("| [")]
    wanted = []
    for name, document in documents().items():
        held = {key.value: ", ".join(text.value.removeprefix("vllm-ascend-") for text in texts) for key, texts in document.holds}
        title = document.title.value.replace("|", "\\|").replace("<", "&lt;")
        wanted.append(f"| [{document.scheme.value}]({name}.md) | {document.layer.value} | {held['consumer']} | {held['device']} | {title} |")
    assert rows == wanted, RUN


@pytest.mark.parametrize("name", ["README", *bundled()])
def test_pages_read_well_everywhere(name: str) -> None:
    """Links lead somewhere, every row of a table has the cells of its header, and nothing is said that holds on one machine or one day only."""
    text = text_of(name)
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", re.sub(r"`[^`]*`", "", text))
    assert [link for link in links if not (FOLDER / link).exists()] == []
    assert str(scheme_pages.ROOT) not in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        cells = {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1, block


@pytest.mark.parametrize("name", bundled())
def test_nothing_of_the_spec_is_left_out(name: str) -> None:
    text, document = text_of(name), documents()[name]
    for param in document.params:
        for member in members_of(document):
            assert f"| `{member.expand(param.name.value)}` |" in text
    for config in layoutdsl.load_spec(bundled()[name]).config_names:
        assert f"\n| `{config}` |" in text
    for node in nodes(document):
        if isinstance(node, (Step, ForwardLine)) and node.why is not None:
            assert scheme_pages.prose(node.why.value) in text
            assert all(f"- **`{rule.value}`**" in text for rule in node.accept)
    assert all(scheme_pages.prose(source.value) in text for source in document.sources)


@pytest.mark.parametrize("name", bundled())
def test_the_defaults_are_those_of_the_plans(name: str) -> None:
    """Every consumer and device stands in one default, and its names, kinds and dtypes are those of the plan that is compiled for it."""
    held = {key.value: [text.value for text in texts] for key, texts in documents()[name].holds}
    pairs = [{"consumer": consumer, "device": device} for consumer, device in product(held["consumer"], held["device"])]
    seen = []
    for head, rows in re.findall(r"^By default(.*)\n\n((?:\|.*\n)*)", text_of(name), re.MULTILINE):
        where, cased = re.findall(r"^(?:, (.*?))?(?: \((.*)\))?:(?: refused, .*)?$", head)[0]
        group = [pair for pair in pairs if not where or any(inside(pair, box) for box in where.split(" *or* "))]
        seen += group
        chosen = {"params_dtype": "float16"} if "params_dtype: float16" in cased else {}
        for pair in group:
            assert shown(rows, chosen.get("params_dtype", "bfloat16")) == results(name, {**pair, **chosen}), (pair, RUN)
    assert sorted(map(str, seen)) == sorted(map(str, pairs)), RUN


def inside(pair: dict[str, str], box: str) -> bool:
    wanted = dict(part.split(": ") for part in box.split("; "))
    return all(pair[key] in values.split(" or ") for key, values in wanted.items())


def shown(rows: str, params_dtype: str) -> dict[str, tuple[str, str]]:
    """Name to kind and dtype; a number has no dtype."""
    header, *lines = [[cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in rows.splitlines()] or [[]]
    places = [header.index(title) for title in ("name", "kind", "dtype")] if lines else []
    found = {line[places[0]]: (line[places[1]], line[places[2]].replace("params_dtype", params_dtype)) for line in lines[1:]}
    return {name: what for name, what in found.items() if what[0] != "deleted"}


def results(name: str, config: dict[str, str]) -> dict[str, tuple[str, str]]:
    """What the plan leaves; nothing where the configuration is refused."""
    try:
        plan = layoutdsl.compile_spec(bundled()[name], config=config).data
    except layoutdsl.DiagnosticError:
        return {}
    types = {node.id: node.type.storage for node in (*plan.inputs, *plan.code)}
    numbers = {node.id for node in plan.code if getattr(node, "expr", ("",))[0] == "const" and not node.type.dims}
    return {output.name: (output.kind, "" if output.value in numbers else types[output.value]) for output in plan.outputs}


# ---- the generator ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of specs with one in it, and an empty folder of pages."""
    path = tmp_path / "specs" / "small.linear.yaml"
    path.parent.mkdir()
    path.write_text(SPEC, encoding="utf-8")
    monkeypatch.setattr(scheme_pages, "bundled", lambda: {found.stem: found for found in sorted(path.parent.glob("*.yaml"))})
    monkeypatch.setattr(scheme_pages, "FOLDER", tmp_path / "schemes")
    return path


def test_words(small: Path) -> None:
    """What is said of three consumers, three devices and two dtypes at once is said of those that it is true of."""
    text = scheme_pages.page(layoutdsl.load_spec(small))
    assert "\na spec of the tests | with a bar, and &lt;angles>.\n" in text
    assert "- refused: vllm-ascend-0.16 with 310p\n" in text
    assert "- **`nz-group-size`** (FRACTAL_NZ with a group size that the kernel does not take), at `weight`, as vllm-ascend-0.16 does it: " in text
    assert "its default is what &lt; the kernel | refuses.\n" in text
    assert "| `group_size` | int | `256` where `old`; `64` where `new` | at least 1 |\n" in text
    assert "| `ones` | `bfloat16[n]` | `[N]` | `bfloat16` | may be absent: 1 | for the loader: output_dim = 0 | consumer: vllm-ascend-0.16 |\n" in text
    assert "`float32` | may be absent: 1 | for the loader: output_dim = 0 | consumer: vllm-ascend-0.23 or vllm-ascend-main |\n" in text
    assert "| `weight_scale` | `params_dtype[n, k//group_size]` | `[N, cdiv(K, group_size)]` | `params_dtype` | required |" in text
    assert "| `weight` | parameter | `int4[n, k] in int32[k, n//8 \\| n//2%4, n%2] over nz[k, n//8] when weight_nz_mode != 0` |" in text
    assert "| `weight` | cast to FRACTAL_NZ | `int4[n, k] in int8[k, n//2 \\| n%2]` | weight_nz_mode: 1 or 2 |\n" in text
    assert "By default, consumer: vllm-ascend-0.16; device: 310p: refused, " in text
    assert "By default, consumer: vllm-ascend-0.23 or vllm-ascend-main; device: 310p (params_dtype: float16; system: new; chip: p310):\n" in text
    assert "| `ones` | deleted |" in text and "| `ranks` | value | `= tp_size` |" in text
    assert "\ndevice: a2 or a3:\n\n```text\nreturn npu::npu_weight_quant_batchmatmul(" in text
    assert "\ndevice: 310p:\n\n```text\nexternal: the consumer calls the kernels\n```\n" in text
    assert "| `N % 8 == 0` | always |\n| `new and params_dtype == float16` | `p310` |\n" in text
    assert "| `output_size` | `2` | `weight` |\n| `input_size` | `group_size` | `weight_scale` |\n" in text
    assert "- `ones`: nobody asked for them\n" in text


def test_pages_are_written_and_removed(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scheme_pages.main(["--check"]) == 1
    assert capsys.readouterr().out.splitlines() == ["stale: docs/schemes/README.md", "stale: docs/schemes/small.linear.md"]
    assert scheme_pages.main([]) == 0 and scheme_pages.main(["--check"]) == 0
    small.rename(small.with_name("other.linear.yaml"))
    small.with_name("other.linear.yaml").write_text(SPEC.replace("SMALL", "OTHER"), encoding="utf-8")
    assert scheme_pages.main([]) == 0
    assert sorted(path.name for path in scheme_pages.FOLDER.iterdir()) == ["README.md", "other.linear.md"]


@pytest.mark.parametrize(("old", "new", "rule"), [("transpose(k, n)", "transpse(k, n)", "op-unknown"), ("bitcast(int32)", "bitcast(uint8)", "contract-layout")])
def test_a_spec_with_a_finding_keeps_its_old_page_and_is_named(small: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, rule: str) -> None:
    assert scheme_pages.main([]) == 0
    page = (scheme_pages.FOLDER / "small.linear.md").read_text(encoding="utf-8")
    small.write_text(SPEC.replace(old, new), encoding="utf-8")
    assert scheme_pages.main([]) == 1
    out = capsys.readouterr().out
    assert f"error[{rule}]" in out and "small.linear" in out
    assert (scheme_pages.FOLDER / "small.linear.md").read_text(encoding="utf-8") == page
    assert "| [SMALL](small.linear.md) |" in (scheme_pages.FOLDER / "README.md").read_text(encoding="utf-8")


def test_torch_is_not_needed() -> None:
    name, path = next(iter(bundled().items()))
    lines = ("import sys", "from tools.scheme_pages import load_spec, page", f"page(load_spec({str(path)!r}))", "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=scheme_pages.ROOT, check=True, timeout=60)
    assert name
