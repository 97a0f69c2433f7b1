"""docs/language.md is what the program does: its specs validate, its fragments type, its tables are those of the code, its commands run.

Info strings of fenced blocks: ``yaml spec`` (a whole spec), ``yaml part`` (some of its sections), ``types`` (one type per line, its shape in a comment),
``steps`` (the parameters in comments, then steps), each with ``refused CODE`` where the program must say no, and ``without facts`` where nothing divides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import layoutdsl
from layoutdsl.cli import main
from layoutdsl.compiler.config import SHARED, Setting
from layoutdsl.compiler.names import WORDS
from layoutdsl.diagnostics import DiagnosticError, Source, Span
from layoutdsl.diagnostics.rules import RULES
from layoutdsl.ir.dtypes import ARITHMETIC, ELEMENTS, STORAGES
from layoutdsl.ops import OPS
from layoutdsl.ops.index_math import CONVERSIONS
from layoutdsl.plan.sizes import LAYER_KINDS
from layoutdsl.syntax.expressions import parse_expression, parse_pipeline, parse_rule, parse_target, parse_targets, parse_type
from layoutdsl.syntax.schema import SCHEMA
from layoutdsl.syntax.yaml_reader import MappingNode, Node, ScalarNode, read_yaml

PAGE = Path(__file__).resolve().parents[2] / "docs" / "language.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXERCISE = Path(__file__).parent / "data" / "w8a16.linear.yaml"
SIZES = {"output_size": 64, "input_size": 128, "num_experts": 4}


@dataclass(frozen=True)
class Block:
    kind: str
    info: str
    text: str
    line: int

    @property
    def refused(self) -> str:
        found = re.search(r"refused (\S+)", self.info)
        return found.group(1) if found else ""

    @property
    def facts(self) -> bool:
        return "without facts" not in self.info

    def __str__(self) -> str:
        return f"line{self.line}"


def blocks(kind: str, info: str = "") -> list[Block]:
    found = []
    for match in re.finditer(r"^```(\w+)([^\n]*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        block = Block(match[1], match[2].strip(), match[3], TEXT.count("\n", 0, match.start()) + 1)
        if block.kind == kind and block.info.startswith(info):
            found.append(block)
    return found


def params(names: list[Block]) -> Any:
    return pytest.mark.parametrize("block", names, ids=str)


def table(*header: str) -> list[list[str]]:
    """The rows of the table with this header; ``\\|`` inside a cell is a bar."""
    lines = TEXT.splitlines()
    start = lines.index(f"| {' | '.join(header)} |") + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])])
    return rows


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def spec_of(parameters: dict[str, str], steps: str = "", facts: bool = True) -> str:
    """A spec around fragments, with the axes that the page announces."""
    # `frame` mentions every size, so that one may be bound whatever the fragment is.
    declared = "\n".join(f"  {name}: {kind}" for name, kind in {"frame": "int8[n, k]", **parameters}.items())
    indented = "\n".join(f"  {line}" for line in steps.splitlines() if line.strip())
    require = "require: [N % 64 == 0, K % 64 == 0, K % group_size == 0]\n" if facts else ""
    return (
        "layoutdsl: 1\nscheme: FRAGMENT\nlayer: linear\ntitle: a fragment of the page\nholds: {consumer: [vllm-ascend-0.23], device: [a2]}\n"
        "config:\n  group_size: {type: int, default: 64}\n"
        "axes: {n: output_size, k: input_size, e: num_experts, s: 16}\nlet: {chunk: K // 16}\n"
        f"{require}params:\n{declared}\nvalue: none\nsteps:{' []' if not indented else chr(10) + indented}\nforward: external\n"
    )


def findings(text: str, folder: Path) -> list[layoutdsl.Diagnostic]:
    path = folder / "fragment.linear.yaml"
    path.write_text(text, encoding="utf-8")
    return [finding for finding in layoutdsl.validate(path) if finding.severity == "error"]


def check(block: Block, text: str, folder: Path) -> None:
    found = findings(text, folder)
    if block.refused:
        assert block.refused in {finding.code for finding in found}
    else:
        assert found == []


# ---- specs ---------------------------------------------------------------------------------------------------------------------------------------------------


@params(blocks("yaml", "spec"))
def test_whole_specs_validate(block: Block, tmp_path: Path) -> None:
    assert findings(block.text, tmp_path) == []


def test_the_first_spec_has_no_finding_of_any_kind(tmp_path: Path) -> None:
    path = tmp_path / "w4a16_example.linear.yaml"
    path.write_text(blocks("yaml", "spec")[0].text, encoding="utf-8")
    assert layoutdsl.validate(path) == []


@pytest.mark.parametrize("row", table("write", "instead of", "rule that refuses it"), ids=lambda row: code(row[2])[0])
def test_the_slips_are_found(row: list[str], tmp_path: Path) -> None:
    right = blocks("yaml", "spec")[0].text
    (new,), (old,), (rule, *_) = code(row[0]), code(row[1]), code(row[2])
    assert right.count(old) == 1
    assert rule in {finding.code for finding in findings(right.replace(old, new), tmp_path)}


# ---- from another spec ---------------------------------------------------------------------------------------------------------------------------------------


HEADER = "layoutdsl: 1\nscheme: MORE\nlayer: linear\ntitle: more\nholds: {consumer: [vllm-ascend-0.23], device: [a2]}\n"


def test_the_extension_of_the_first_spec_validates(beside_the_first_spec: Path) -> None:
    (block,) = [block for block in blocks("yaml", "part") if block.text.startswith("extends:")]
    path = beside_the_first_spec / "more.linear.yaml"
    path.write_text(HEADER + block.text, encoding="utf-8")
    assert layoutdsl.validate(path) == []
    plan = layoutdsl.compile_spec(path)
    assert [node.name for node in plan.data.inputs] == ["weight", "weight_scale", "weight_offset"]
    assert len(plan.data.require) == 1
    assert [name for call in plan.data.forward for name, _ in call.expr[3]][:2] == ["antiquant_scale", "antiquant_offset"]


def test_forward_of_another_spec(beside_the_first_spec: Path) -> None:
    """`forward: SCHEME.layer` takes only the lines of `forward`."""
    path = beside_the_first_spec / "more.linear.yaml"
    head, _, _ = blocks("yaml", "spec")[0].text.partition("forward:")
    path.write_text(head.replace("scheme: W4A16_EXAMPLE", "scheme: MORE") + "forward: W4A16_EXAMPLE.linear\n", encoding="utf-8")
    assert layoutdsl.validate(path) == []


def test_every_section_is_said_to_be_taken_or_own() -> None:
    rows = table("section", "is")
    own = ["layoutdsl", "scheme", "layer", "title", "sources", "holds", "extends"]
    assert sorted(name for row in rows for name in code(row[0])) == sorted(set(SCHEMA["properties"]) - set(own))


# ---- parts: every leaf parses --------------------------------------------------------------------------------------------------------------------------------


@params(blocks("yaml", "part"))
def test_parts_parse(block: Block) -> None:
    root = read_yaml(Source("part", block.text))
    assert isinstance(root, MappingNode)
    for key, node in root.entries:
        assert key.value in SCHEMA["properties"]
        _SECTIONS.get(key.value, _nothing)(node)


@params(blocks("yaml", "refused"))
def test_yaml_that_is_refused(block: Block) -> None:
    with pytest.raises(DiagnosticError) as caught:
        read_yaml(Source("part", block.text))
    assert block.refused in {finding.code for finding in caught.value.diagnostics}


def _span(node: Node) -> Span:
    assert isinstance(node, ScalarNode)
    return node.inner


def _arms(node: Node, parse: Any) -> None:
    if isinstance(node, MappingNode):
        for key, value in node.entries:
            parse_expression(_span(key))
            parse(_span(value))
        return
    parse(_span(node))


def _nothing(node: Node) -> None:
    """A section without leaves of the language."""


def _variants(node: Node) -> None:
    for _, facet in entries(node):
        _arms(facet, parse_expression)


def _sized(node: Node) -> None:
    for _, value in entries(node):
        _arms(value, parse_expression)


def _rules(node: Node) -> None:
    for item in items(node):
        parse_rule(_span(item))


def _params(node: Node) -> None:
    for _, value in entries(node):
        types = {key.value: part for key, part in entries(value)} if isinstance(value, MappingNode) else {}
        _arms(types.get("type", value), parse_type)
        if "given" in types:
            _arms(types["given"], parse_expression)


def _value(node: Node) -> None:
    for key, body in entries(node):
        parse_target(_span(key))
        _arms(body, parse_expression)


def _steps(node: Node) -> None:
    for item in items(node):
        for key, body in entries(item):
            match key.value:
                case "when":
                    parse_expression(_span(body))
                case "do":
                    _steps(body)
                case "delete":
                    parse_targets(_span(body))
                case "as" | "why" | "accept":
                    pass
                case _:
                    target = parse_target(_span(key))
                    _arms(body, parse_pipeline if target.entries is None else parse_expression)


def _forward(node: Node) -> None:
    for item in items(node):
        for key, body in entries(item):
            if key.value == "do":
                _forward(body)
                continue
            if key.value not in ("when", "return"):
                parse_targets(_span(key))
            _arms(body, parse_expression)


_SECTIONS = {
    "variants": _variants,
    "axes": _sized,
    "let": _sized,
    "require": _rules,
    "invariants": _rules,
    "params": _params,
    "value": _value,
    "steps": _steps,
    "forward": _forward,
}


def entries(node: Node) -> tuple[tuple[ScalarNode, Node], ...]:
    assert isinstance(node, MappingNode)
    return node.entries


def items(node: Node) -> tuple[Node, ...]:
    assert not isinstance(node, (ScalarNode, MappingNode))
    return node.items


# ---- types and steps -----------------------------------------------------------------------------------------------------------------------------------------


@params(blocks("types"))
def test_types(block: Block, tmp_path: Path) -> None:
    lines = [re.split(r"\s+# shape ", line) for line in block.text.splitlines()]
    parameters = {f"t{i}": line[0].strip() for i, line in enumerate(lines)}
    text = spec_of(parameters, facts=block.facts)
    check(block, text, tmp_path)
    if block.refused:
        return
    made = layoutdsl.compile_spec(tmp_path / "fragment.linear.yaml", params_dtype="bfloat16")
    bound = made.bind({name: SIZES[name] for name in made.size_names}).parameters
    shapes = {name: re.sub(r"[^\d,]", "", line[1]) for name, line in zip(parameters, lines) if len(line) > 1}
    assert shapes == {name: re.sub(r"[^\d,]", "", str(bound[name].shape)) for name in shapes}


@pytest.mark.parametrize("row", table("meaning", "type"), ids=lambda row: row[0])
def test_the_table_of_types(row: list[str], tmp_path: Path) -> None:
    assert findings(spec_of({"t": code(row[1])[0]}), tmp_path) == []


@pytest.mark.parametrize("row", table("carriage", "when", "example"), ids=lambda row: row[0])
def test_carriages(row: list[str], tmp_path: Path) -> None:
    from layoutdsl.compiler.driver import worlds

    for text in code(row[2]):
        assert findings(spec_of({"t": text}), tmp_path) == []
        document = layoutdsl.load_spec(tmp_path / "fragment.linear.yaml").document
        for world in worlds(document):
            assert world.state.parameters["t"].value.type.carriage == row[0]


@pytest.mark.parametrize("row", table("type", "attributes"), ids=lambda row: row[0])
def test_loader_attributes(row: list[str], tmp_path: Path) -> None:
    assert findings(spec_of({"t": code(row[0])[0]}, facts=True).replace("N % 64", "N % 128"), tmp_path) == []
    plan = layoutdsl.compile_spec(tmp_path / "fragment.linear.yaml", config={"group_size": 64})
    bound = plan.bind(dict.fromkeys(plan.size_names, 256))
    wanted = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", row[1])}
    assert bound.parameters["t"].loader_attributes == wanted


@params(blocks("steps"))
def test_steps(block: Block, tmp_path: Path) -> None:
    lines = block.text.splitlines()
    parameters = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    steps = "\n".join(line for line in lines if not line.startswith("# "))
    check(block, spec_of(parameters, steps, block.facts), tmp_path)


# ---- tables of the code --------------------------------------------------------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    return {None: "none", True: "true", False: "false", "": '""'}.get(value, str(value)) if value is None or isinstance(value, (bool, str)) else str(value)


def values(setting: Setting) -> str:
    if setting.values is not None:
        return ", ".join(map(shown, setting.values))
    if setting.type == "str":
        return "any"
    absent = f", or none; {', '.join(map(shown, setting.none))} means none" if setting.none else ""
    return f"at least {setting.minimum}{absent}"


def test_the_table_of_shared_config_is_the_code() -> None:
    wanted = [[f"`{s.name}`", s.type, shown(s.default), values(s)] for s in SHARED.values()]
    assert [row[:4] for row in table("name", "type", "default", "values", "meaning")] == wanted


def test_every_op_has_its_row() -> None:
    """A new op needs a row here: the page is the reference for those who never see the code."""
    rows = table("op", "needs", "gives")
    named = [re.match(r"[a-z_]+", code(row[0])[0]) for row in rows]
    assert sorted(found.group() for found in named if found) == sorted([*OPS, "delete", "name"])
    assert {code(row[0])[0] for row in rows} >= {"delete: a, b", "name[digits]: expression"}


def test_the_arguments_of_ops_are_counted_right() -> None:
    for row in table("op", "needs", "gives"):
        for text in code(row[0]):
            match = re.fullmatch(r"(\w+)\((.*)\)", text)
            if match is None:
                continue
            parameters = OPS[match[1]].parameters
            given = len(match[2].split(", "))
            assert sum(not p.optional for p in parameters) <= given <= len(parameters), text


def test_the_keys_of_the_file_are_those_of_the_schema() -> None:
    rows = table("key", "holds")
    assert sorted(code(row[0])[0] for row in rows) == sorted(SCHEMA["properties"])
    assert [code(row[0])[0] for row in rows if row[0].endswith("*")] == [*SCHEMA["required"], *SCHEMA["else"]["required"]]


def test_attributes_are_those_of_the_schema() -> None:
    config = SCHEMA["$defs"]["config"]["properties"]
    attributes = SCHEMA["$defs"]["attributes"]["properties"]
    kinds = SCHEMA["$defs"]["kind"]["enum"]
    tables = [[code(row[0])[0] for row in rows] for rows in all_tables("attribute", "meaning")]
    assert tables == [list(config), list(attributes)]
    listed = TEXT.partition("- `as:` says what a new name is:")[2].partition(". ")[0]
    assert set(kinds) == set(code(listed))


def all_tables(*header: str) -> list[list[list[str]]]:
    line = f"| {' | '.join(header)} |"
    found, text = [], TEXT
    while line in text:
        text = text[text.index(line) + len(line) :]
        rows = []
        for row in text.split("\n")[2:]:
            if not row.startswith("|"):
                break
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip()[1:-1])])
        found.append(rows)
    return found


def test_elements_and_storages_are_those_of_the_code() -> None:
    ours = [[f"`{e.name}`", str(e.bits), e.kind, f"`{e.native}`" if e.native else ""] for e in ELEMENTS.values() if e.name not in STORAGES]
    assert table("element", "bits", "kind", "own torch dtype") == ours
    listed = TEXT.partition("torch dtypes known here:")[2].partition(". ")[0]
    assert set(code(listed)) == set(STORAGES)


def test_arithmetic_dtypes_are_those_of_the_code() -> None:
    rows = table("dtype", "operators")
    assert {name for row in rows for name in code(row[0])} == set(ARITHMETIC)


def test_sizes_are_those_of_the_code() -> None:
    rows = table("layer", "sizes")
    assert {name: tuple(code(row[1])) for row in rows for name in code(row[0])} == {name: kind.sizes for name, kind in LAYER_KINDS.items()}


def test_reserved_words_are_those_of_the_code() -> None:
    (block,) = blocks("words")
    assert set(block.text.split()) == WORDS | set(CONVERSIONS)


def test_inputs_of_forward_are_those_of_the_code() -> None:
    from layoutdsl.compiler.forward import INPUTS

    assert [name for row in table("input", "meaning") for name in code(row[0])] == list(INPUTS)


def test_the_rows_of_the_contract_are_those_of_the_code() -> None:
    from layoutdsl.kernels import CONTRACTS

    rows = [row for row in CONTRACTS["npu::npu_weight_quant_batchmatmul"].rows if "a5" not in row.devices]
    assert all(row.arguments["antiquant_offset"] == row.arguments["antiquant_scale"] for row in rows)
    shown = [(code(row[0])[0], code(row[1])[0], tuple(row[3].split(", "))) for row in table("weight", "antiquant_scale, antiquant_offset", "limits", "devices")]
    shortened = [(row.arguments["weight"], row.arguments["antiquant_scale"], row.devices) for row in rows]
    assert shown == list(dict.fromkeys(row for row in shortened if row[1] not in ("T[0, n]", "T[n, 0]")))


def test_rules_of_the_yaml_table_exist() -> None:
    """The other rules that the page names are seen at work: a block or a slip that they refuse."""
    assert {name for row in table("refused", "why", "rule") for name in code(row[2])} <= set(RULES)


def test_links_lead_somewhere() -> None:
    titles = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors


# ---- which values are tried ----------------------------------------------------------------------------------------------------------------------------------


def tried(name: str, condition: str, folder: Path) -> list[Any]:
    """The values of a config name over the worlds of a spec that asks this once."""
    from layoutdsl.compiler.driver import worlds

    path = folder / "fragment.linear.yaml"
    path.write_text(
        spec_of({"w": "int8[n, k]"}, f"- w: transpose(k, n)\n  when: {condition}").replace("config:", "config:\n  own: {type: int}"), encoding="utf-8"
    )
    document = layoutdsl.load_spec(path).document
    return sorted({str(world.state.world.config.get(name, "symbol")) for world in worlds(document)})


def test_an_integer_is_tried_up_to_the_largest_literal(tmp_path: Path) -> None:
    assert tried("own", "own == 3", tmp_path) == ["1", "2", "3", "any"]
    assert tried("tp_size", "tp_size >= 2", tmp_path) == ["1", "2", "any"]
    assert len(tried("own", "own == 64", tmp_path)) == 65


def test_a_larger_literal_is_refused(tmp_path: Path) -> None:
    text = spec_of({"w": "int8[n, k]"}, "- w: transpose(k, n)\n  when: own == 65").replace("config:", "config:\n  own: {type: int}")
    assert [finding.code for finding in findings(text, tmp_path)] == ["size-condition"]


def test_texts_and_dtypes_that_are_tried(tmp_path: Path) -> None:
    assert tried("version", 'version == "2"', tmp_path) == ["(any other)", "2"]
    path = tmp_path / "dtype.linear.yaml"
    path.write_text(spec_of({"w": "params_dtype[n, k]"}), encoding="utf-8")
    from layoutdsl.compiler.driver import worlds

    assert sorted(str(world.state.world.config["params_dtype"]) for world in worlds(layoutdsl.load_spec(path).document)) == ["bfloat16", "float16"]


# ---- members -------------------------------------------------------------------------------------------------------------------------------------------------


def test_a_block_is_asked_for_every_member(tmp_path: Path) -> None:
    text = blocks("yaml", "spec")[1].text
    step = "  - <p>_weight: transpose(k, n) | contiguous | nz when weight_nz_mode != 0\n"
    assert text.count(step) == 1
    path = tmp_path / "w8a8_moe_example.moe.yaml"
    path.write_text(text.replace(step, "  - when: w2\n    do:\n      - <p>_weight: transpose(k, n) | contiguous\n"), encoding="utf-8")
    plan = layoutdsl.compile_spec(path, sizes={"num_experts": 2, "intermediate_size_per_partition": 3, "hidden_size": 5})
    shapes = {output.name: next(node.type.shape for node in (*plan.bound.inputs, *plan.bound.code) if node.id == output.value) for output in plan.bound.outputs}
    assert (shapes["w13_weight"], shapes["w2_weight"]) == ((2, 6, 5), (2, 3, 5))


def test_the_method_of_a_moe_scale() -> None:
    """`group` is a parameter with one value per several indices of an axis."""
    plan = layoutdsl.compile_spec(
        "W4A8_DYNAMIC",
        layer="moe",
        config={"version": "1.0.0"},
        sizes={"num_experts": 2, "intermediate_size_per_partition": 512, "hidden_size": 512},
    )
    found = {name: parameter.quant_method for name, parameter in plan.parameters.items()}
    assert (found["w13_weight"], found["w13_weight_scale"], found["w13_weight_scale_second"]) == ("channel", "channel", "group")


# ---- programs and commands -----------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def beside_the_first_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w4a16_example.linear.yaml").write_text(blocks("yaml", "spec")[0].text, encoding="utf-8")
    return tmp_path


def _write_layer(folder: Path) -> None:
    """`layer.safetensors` of the page: the parameters of the first spec."""
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("safetensors.torch")
    weight = torch.randint(-128, 128, (32, 256), dtype=torch.int8)
    files.save_file({"weight": weight, "weight_scale": torch.rand(64, 4).to(torch.bfloat16)}, folder / "layer.safetensors")


@params(blocks("python"))
def test_python_blocks_run(block: Block, beside_the_first_spec: Path) -> None:
    pytest.importorskip("torch")
    exec(compile(block.text, "docs/language.md", "exec"), {})


@params(blocks("sh"))
def test_commands_run(block: Block, beside_the_first_spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in block.text.splitlines():
        program, *arguments = line.split()
        assert program == "layoutdsl"
        if "layer.safetensors" in arguments:
            _write_layer(beside_the_first_spec)
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code
        assert status in (0, None), f"{line}\n{''.join(capsys.readouterr())}"


# ---- the exercise --------------------------------------------------------------------------------------------------------------------------------------------


def test_the_exercise_is_short_and_valid() -> None:
    """W8A16, written from the page alone: int8 weights with a scale and an offset per channel."""
    assert len(EXERCISE.read_text(encoding="utf-8").splitlines()) < 30
    assert layoutdsl.validate(EXERCISE) == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("mode", [0, 1, 2])
def test_the_exercise_runs_bit_equal(dtype: str, mode: int) -> None:
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    torch.manual_seed(mode)
    outputs, inputs = 96, 160
    stored = {
        "weight": torch.randint(-128, 128, (outputs, inputs), dtype=torch.int8),
        "weight_scale": torch.rand(outputs, 1).to(kind),
        "weight_offset": torch.randn(outputs, 1).to(kind),
    }
    plan = layoutdsl.compile_spec(EXERCISE, config={"weight_nz_mode": mode}, sizes={"output_size": outputs, "input_size": inputs}, params_dtype=dtype)
    assert {name: (tuple(t.shape), str(t.dtype)) for name, t in stored.items()} == {name: (p.shape, f"torch.{p.dtype}") for name, p in plan.parameters.items()}
    expected = {
        "weight": stored["weight"].transpose(0, 1).contiguous(),
        "weight_scale": stored["weight_scale"].flatten(),
        "weight_offset": stored["weight_offset"].flatten(),
    }
    ready = plan.run(stored)
    assert ready.keys() == expected.keys()
    for name, wanted in expected.items():
        assert torch.equal(ready[name], wanted)
        assert (ready[name].dtype, ready[name].stride()) == (wanted.dtype, wanted.stride())
    assert [cast["name"] for cast in plan.format_casts] == (["weight"] if mode else [])


@pytest.mark.parametrize("consumer", ["vllm-ascend-0.16", "vllm-ascend-0.23", "vllm-ascend-main"])
@pytest.mark.parametrize("device", ["a2", "a3"])
def test_the_exercise_holds_for_all(consumer: str, device: str) -> None:
    plan = layoutdsl.compile_spec(EXERCISE, config={"consumer": consumer, "device": device})
    (call,) = plan.data.forward
    assert call.expr[1] == "npu::npu_weight_quant_batchmatmul"
    assert {name for name, _ in call.expr[3]} == {"antiquant_scale", "antiquant_offset", "bias"}


def test_the_value_of_the_exercise_is_the_kernel() -> None:
    """x @ ((w + offset) * scale) + bias: the offset is added before the scale."""
    (result,) = layoutdsl.load_spec(EXERCISE).document.value  # type: ignore[misc]
    assert result.body.span.text == "(weight[n, k] + weight_offset[n]) * weight_scale[n]"  # type: ignore[union-attr]
