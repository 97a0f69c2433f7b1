"""From a file to a document: the sketches parse, places are exact, mistakes are found where they are, and no text escapes as another exception."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Source, Span
from layoutdsl.diagnostics.rules import RULES
from layoutdsl.syntax.document import CaseMap, Delete, Document, ForwardBlock, ForwardLine, ForwardWord, NoValue, Step, StepBlock
from layoutdsl.syntax.reader import read_document
from layoutdsl.syntax.schema import SCHEMA
from layoutdsl.syntax.tree import Argument, Call, Constant, ElementText, Index, LayoutText, Name, Pipeline, Stage, Target
from layoutdsl.syntax.yaml_reader import read_source

SKETCHES = sorted(Path(__file__).with_name("sketches").glob("*.yaml"))
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in SKETCHES}
W4A8 = TEXTS["2_1_w4a8_dynamic.linear"]
MOE = TEXTS["2_2_w4a8_dynamic.moe"]


def read(text: str) -> Document:
    return read_document(Source("spec.yaml", text))


def refused(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(DiagnosticError) as caught:
        read(text)
    check_findings(caught.value)
    return caught.value.diagnostics


def check_findings(error: DiagnosticError) -> None:
    assert all(x.code in RULES for x in error.diagnostics)
    assert str(error)


def nodes(value: object) -> Iterator[object]:
    """All dataclass nodes below ``value``, itself included."""
    if isinstance(value, tuple):
        for item in value:
            yield from nodes(item)
    elif is_dataclass(value) and not isinstance(value, (Source, Span)):
        yield value
        for field in fields(value):
            yield from nodes(getattr(value, field.name))


# ---- right files


def test_there_are_twelve_sketches() -> None:
    assert len(SKETCHES) == 12


@pytest.mark.parametrize("path", SKETCHES, ids=lambda x: x.stem)
def test_sketches_parse(path: Path) -> None:
    document = read_document(read_source(path))
    assert document.scheme.value
    assert document.params
    assert document.steps


@pytest.mark.parametrize("change", ["none", "bom", "crlf", "cr", "wide"])
@pytest.mark.parametrize("name", TEXTS)
def test_places_slice_back_to_their_text(name: str, change: str) -> None:
    text = TEXTS[name]
    text = {
        "none": text,
        "bom": "\ufeff" + text,
        "crlf": text.replace("\n", "\r\n"),
        "cr": text.replace("\n", "\r"),
        "wide": "# 全 𝔸 é\n" + text.replace("title: ", "title: 全 𝔸 é "),
    }[change]
    document = read(text)
    counted = 0
    for node in nodes(document):
        counted += 1
        span: Span = node.span if not isinstance(node, Document) else document.span  # type: ignore[attr-defined]
        assert span.source is document.source
        assert span.start < span.end or isinstance(node, NoValue)
        match node:
            case Name():
                assert span.text == node.id
            case Index() | Call() | Target():
                assert node.name_span.text == node.name
                assert span.text.startswith(node.name)
                assert span.text[-1] in ")]" or isinstance(node, Target)
            case Constant(value=int() as value) if not isinstance(value, bool):
                assert span.text == str(value)
            case Constant(value=str() as value):
                assert span.text[1:-1] == value
            case Stage():
                assert node.op_span.text == node.op
            case ElementText():
                assert span.text.startswith(node.name)
            case LayoutText():
                assert node.storage_span.text == node.storage
            case Argument(keyword=str() as word):
                assert span.text.startswith(word)
    assert counted > 50


def test_the_document_of_the_first_sketch() -> None:
    document = read(W4A8)
    assert (document.version, document.scheme.value, document.layer.value) == (1, "W4A8_DYNAMIC", "linear")
    assert [(key.value, [x.value for x in values]) for key, values in document.holds] == [
        ("consumer", ["vllm-ascend-0.16", "vllm-ascend-0.23"]),
        ("device", ["a2", "a3"]),
    ]
    group_size, version = document.config
    assert (group_size.name.value, group_size.type.value) == ("group_size", "int")
    assert not isinstance(group_size.default, CaseMap)
    assert group_size.default is not None
    assert group_size.default.value == 256
    assert not isinstance(version.default, CaseMap)
    assert version.default is not None
    assert version.default.value == "0"
    assert [(x.name.value, x.free) for x in document.axes] == [("n", False), ("k", False), ("s", False)]
    assert [[case.condition is None for case in x.cases] for x in document.variants] == [[False, True], [False, True]]
    assert [x.condition is None for x in document.require] == [True, False]
    assert isinstance(document.params[0].type, CaseMap)
    assert [x.condition.span.text for x in document.params[0].type.arms] == ["packed", "unpacked"]
    first, bias = document.steps[0], document.steps[3]
    assert isinstance(first, Step)
    assert isinstance(first.body, Pipeline)
    assert [x.value for x in first.accept] == ["nz-group-size"]
    assert first.why is not None
    assert isinstance(bias, Step)
    assert bias.target.entries is not None
    assert not isinstance(bias.body, (Pipeline, CaseMap))
    assert bias.kind is not None
    (line,) = document.forward if isinstance(document.forward, tuple) else ()
    assert isinstance(line, ForwardLine)
    assert line.targets == ()


def test_the_parts_that_others_use() -> None:
    moe = read(MOE)
    assert [(x.name.value, [y.value for y in x.members]) for x in moe.each] == [("p", ["w13", "w2"])]
    assert [(x.axis.value, [y.value for y in x.names]) for x in moe.segments] == [("w13.n", ["gate", "up"])]
    default = moe.config[0].default
    assert isinstance(default, CaseMap)
    assert [x.value.value for x in default.arms] == [256, None]
    assert [x.value for x in moe.config[0].none] == [0]
    assert [x.value for x in moe.config[2].values or ()] == ["group", "channel"]
    assert {type(x) for x in moe.steps} == {Step, Delete, StepBlock}
    assert isinstance(moe.forward, tuple)
    assert {type(x) for x in moe.forward} == {ForwardBlock, ForwardLine}
    w8a8 = read(TEXTS["2_3_w8a8.linear"])
    offset, deq = w8a8.params[2], w8a8.params[4]
    assert offset.given is not None
    assert offset.init is not None
    assert offset.init.value == 0
    assert isinstance(deq.type, CaseMap)
    assert deq.range is not None
    kind = w8a8.steps[1].kind if isinstance(w8a8.steps[1], Step) else None
    assert isinstance(kind, CaseMap)
    fak = read(TEXTS["2_11_fakquant.attention"])
    assert isinstance(fak.value, NoValue)
    assert fak.value.kind == "none"
    assert isinstance(fak.forward, ForwardWord)
    assert fak.forward.word.value == "external"


HEADER = "layoutdsl: 1\nscheme: X\nlayer: linear\ntitle: t\nholds: {consumer: [c], device: [d]}\n"
MINIMAL = HEADER + "axes: {n: output_size}\nparams: {w: 'int8[n]'}\nvalue: none\nsteps: []\nforward: external\n"


def test_short_files() -> None:
    assert read(MINIMAL).steps == ()
    child = read(HEADER + "extends: W8A8.linear\nsteps:\n  - is_kv: kv_consumer\n    as: value\n  - c: clip[0]\n    as: value\n")
    assert child.extends is not None
    assert (child.extends.value, child.value, child.forward) == ("W8A8.linear", (), ())
    first = child.steps[0]
    assert isinstance(first, Step)
    assert isinstance(first.body, Name)


def test_further_forms() -> None:
    document = read(MINIMAL.replace("value: none", "value: {opaque: nobody knows}").replace("{n: output_size}", "{n: free}"))
    assert isinstance(document.value, NoValue)
    assert document.value.because is not None
    assert document.value.because.value == "nobody knows"
    assert document.axes[0].free
    lists = MINIMAL.replace(
        "forward: external",
        "forward:\n  - a, _: f(x)\n    why: |\n      prose\n    accept: [one-two, three]\n  - return:\n      packed: a\n      not packed: f(a, x=1)\n",
    )
    first, second = read(lists).forward  # type: ignore[misc]
    assert isinstance(first, ForwardLine)
    assert ([x.name for x in first.targets], [x.value for x in first.accept]) == (["a", "_"], ["one-two", "three"])
    assert isinstance(second, ForwardLine)
    assert isinstance(second.body, CaseMap)


# The fragments that stress the notation further.
FRAGMENTS = """
steps:
  - left_trans[q//R, k//R]: left_trans[u = tp_rank * (K//R) + k//R, v = tp_rank * (K//R) + q//R]
    when: row
  - weight_1[k, c]: weight[k, n = c]
  - weight_2[k, d]: weight[k, n = N//2 + d]
  - weight: nz(e4m3) | transpose(k, n)
  - weight: pack(k, int32) | transpose(k, n) | is int4[n, k] in int32[k//8, n | k%8] over [n, k//8]
  - weight_scale_fp32[n]: float32(weight_scale[n])
"""


def test_fragments() -> None:
    assert len(read(HEADER + "extends: W8A8.linear\n" + FRAGMENTS).steps) == 6


# ---- wrong files

STEP = "  - weight_offset: view [n]\n"


@pytest.mark.parametrize(
    ("old", "new", "code", "line", "hint"),
    [
        ("layoutdsl: 1", "layoutdsl: 2", "unsupported-language-version", 1, "version 1"),
        ("layoutdsl: 1", "layoutdsl: 01", "leading-zero", 1, "write `1`"),
        ("layoutdsl: 1", "layoutdsl: '1'", "wrong-kind", 1, "found a text"),
        ("layoutdsl: 1", "layoutdsl: true", "wrong-kind", 1, "truth value"),
        ("params:", "parms:", "unknown-key", 22, "a key like it is `params`"),
        ("layer: linear\n", "", "missing-key", 1, "`layer`"),
        ("holds: {consumer: [vllm-ascend-0.16, vllm-ascend-0.23], ", "holds: {", "missing-key", 5, "`consumer`"),
        ("device: [a2, a3]", "device: []", "missing-value", 5, "has no entries"),
        ("{type: int, default", "{type: int, defualt", "unknown-key", 8, "`default`"),
        ("{type: int, default", "{default", "missing-key", 8, "`type`"),
        ("default: 256", "default: 010", "leading-zero", 8, "write `10`"),
        ("default: 256", "default: " + "9" * 30, "number-range", 8, ""),
        ("default: 256", "default: ", "missing-value", 8, "`default`"),
        ("default: 256", "default: ~", "missing-value", 8, "`none`"),
        ("title: int4", "title: 4 #", "wrong-kind", 4, "quotes"),
        ("axes: {n:", "axes: {rows: 1, n:", "wrong-name", 10, "small letter"),
        ("    packed:   version", "    type:   version", "wrong-name", 16, "no key of the language"),
        ("  - N % 8 == 0", "  - N % 8 = 0", "expression-syntax", 12, "=="),
        ("  - N % 8 == 0", "  -", "missing-value", 12, "an entry of `require`"),
        ("  - N % 8 == 0", "  - 'last(x) == ''y'''", "expression-quoting", 12, "plain"),
        ("  - N % 8 == 0", '  - "last(x) == \\"y\\""', "expression-quoting", 12, "plain"),
        ("  - N % 8 == 0", "  - |\n    N == 8", "expression-quoting", 12, "plain"),
        ("  - N % 8 == 0", "  - N % 08 == 0", "leading-zero", 12, ""),
        ("  - N % 8 == 0", f"  - N{' + 1' * 70} == 0", "expression-depth", 12, ""),
        ("weight_scale:         params_dtype[n, 0]", "weight_scale:", "missing-value", 26, ""),
        ("params_dtype[n, 0]\n  weight_offset:", "params_dtype[n, 0\n  weight_offset:", "expression-syntax", 26, "never closed"),
        ("    packed:   int4[n, k]", "    packed &&  x:   int4[n, k]", "expression-syntax", 24, "`and`"),
        ("  W[n, k]: weight", "  W[n k]: weight", "expression-syntax", 35, ""),
        ("value:\n", "value:\n  none: x\n", "unknown-key", 36, "one entry"),
        (STEP, STEP + "    whn: unpacked\n", "step-target", 43, "`when`"),
        (STEP, STEP + "    foo: unpacked\n", "step-target", 43, "own `-`"),
        (STEP, "  - when: packed\n", "step-target", 42, "no target"),
        (STEP, "  - weight_offset: {unpacked: transpose(k, n)}\n", "yaml-cut", 42, "block style"),
        (STEP, "  - weight_offset: {packed: view [n, k]}\n", "yaml-syntax", 42, "block style"),
        (STEP, "  - nothing\n", "wrong-kind", 42, "a step"),
        (STEP, "  - {}\n", "missing-value", 42, ""),
        (STEP, "  - delete: a\n    as: list\n", "unknown-key", 43, ""),
        (STEP, "  - delete: a, b[n]\n", "expression-syntax", 42, ""),
        (STEP, "  - do:\n    - a: b\n", "missing-key", 42, "`when`"),
        (STEP, "  - when: packed\n    do:\n    - when: x\n      do: [{a: b}]\n", "nested-block", 45, "`and`"),
        (STEP, "  - when: packed\n    do: []\n", "missing-value", 43, ""),
        ("8 * sum[k](", "8 * sum(k, ", "expression-syntax", 43, "sum[k](...)"),
        ("8 * sum[k](", "8 * sum(k: ", "yaml-syntax", 43, "sum[k](...)"),
        ("as: parameter", "as: param", "unknown-word", 45, "`parameter`"),
        ("accept: nz-group-size", "accept: NZ size", "wrong-name", 39, "slug"),
        ("accept: nz-group-size", "acept: nz-group-size", "step-target", 39, "`accept`"),
        ("    why: at its own", "    # at its own", "accept-without-why", 39, "`why:`"),
        ("title:", "title: a\ntitle:", "yaml-duplicate-key", 5, ""),
        ("forward:\n", "forward: W8A8 linear\nfoo:\n", "wrong-name", 53, ""),
        ("  - return: npu", "  - return x: npu", "expression-syntax", 54, ""),
    ],
)
def test_wrong_files(old: str, new: str, code: str, line: int, hint: str) -> None:
    assert old in W4A8
    found = [x for x in refused(W4A8.replace(old, new, 1)) if x.code == code]
    assert found, "another code"
    (diagnostic,) = found[:1]
    assert diagnostic.span is not None
    assert diagnostic.span.source.position(diagnostic.span.start)[0] == line
    assert hint in " ".join([diagnostic.message, *diagnostic.notes, *diagnostic.helps])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("params:", "parms:"),
        ("weight_scale:         params_dtype[n, 0]", "weight_scale:"),
        (STEP, "  - weight_offset: {unpacked: transpose(k, n)}\n"),
        (STEP, "  - when: packed\n    do:\n    - when: x\n      do: [{a: b}]\n"),
        ("title: int4", "title: 4 #"),
    ],
)
def test_one_mistake_gives_one_finding(old: str, new: str) -> None:
    assert len(refused(W4A8.replace(old, new, 1))) == 1


def test_a_bad_leaf_does_not_hide_the_others() -> None:
    text = (
        W4A8.replace("N % 8 == 0", "N % 8 = 0")
        .replace("params:", "parms:")
        .replace(STEP, "  - weight_offset: view (n)\n")
        .replace("title:", "sources: 3\ntitle:")
    )
    found = refused(text)
    assert [x.code for x in found] == ["wrong-kind", "expression-syntax", "unknown-key", "expression-syntax"]
    starts = [x.span.start for x in found if x.span is not None]
    assert starts == sorted(starts)


def test_another_version_is_not_read_further() -> None:
    assert [x.code for x in refused(W4A8.replace("layoutdsl: 1", "layoutdsl: 7").replace("params:", "parms:"))] == ["unsupported-language-version"]


@pytest.mark.parametrize("text", ["[]", "a", "{}", "layoutdsl: 1", "- layoutdsl", "1", "null", "layoutdsl: {a: [b]}"])
def test_files_that_are_something_else(text: str) -> None:
    assert refused(text)


def test_no_question_in_any_message() -> None:
    for text in (W4A8.replace("params:", "parms:"), W4A8.replace("as: parameter", "as: param"), "layoutdsl: 1"):
        for diagnostic in refused(text):
            assert "?" not in "".join([diagnostic.message, *diagnostic.helps, *diagnostic.notes])


# ---- properties

CHARS = st.sampled_from([*"abknNK019_ \n\t\r:-[](){}<>|,.'\"&*!#%=+/~é全\u202e\ud800\x00", "\n  - ", ": ", " #", "[n, k]", "''", "when: ", "do:\n", "null"])


@st.composite
def mutants(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(list(TEXTS.values())))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(text) - 2, 0)))
        match draw(st.sampled_from(["delete", "insert", "swap", "replace", "line"])):
            case "delete":
                text = text[:at] + text[at + draw(st.integers(1, 8)) :]
            case "insert":
                text = text[:at] + draw(CHARS) + text[at:]
            case "swap":
                text = text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :]
            case "replace":
                text = text[:at] + draw(CHARS) + text[at + 1 :]
            case "line":
                lines = text.split("\n")
                del lines[draw(st.integers(0, len(lines) - 1))]
                text = "\n".join(lines)
    return text


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(mutants())
def test_any_mutant_is_a_document_or_a_diagnostic(text: str) -> None:
    try:
        assert isinstance(read(text), Document)
    except DiagnosticError as error:
        check_findings(error)


@pytest.mark.parametrize("leaf", ["(" * 3000, "f(" * 1500 + ")" * 1500, "+".join("1" * 1500), "not " * 900 + "a", "[" * 41 + "]" * 41, "'" * 99])
def test_deep_leaves_end_quickly(leaf: str) -> None:
    start = time.perf_counter()
    refused(W4A8.replace("  - N % 8 == 0", f"  - x + {leaf}"))
    assert time.perf_counter() - start < 1


# ---- schema and start-up


def test_the_schema_is_a_schema() -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert all("description" in x for x in SCHEMA["properties"].values())


def test_importing_costs_no_parser() -> None:
    code = (
        "import sys, layoutdsl.syntax.reader, layoutdsl.syntax.expressions, layoutdsl.syntax.schema, layoutdsl.diagnostics.render;"
        "bad = {'lark', 'yaml', 'jsonschema', 'torch', 'numpy'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
