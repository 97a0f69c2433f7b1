"""The YAML layer: exact places, YAML 1.2 scalars, refused constructions, bounds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Source
from layoutdsl.diagnostics.rules import RULES
from layoutdsl.syntax.yaml_reader import MAX_BYTES, MappingNode, Node, ScalarNode, SequenceNode, read_source, read_yaml, resolve


def node(text: str) -> Node:
    return read_yaml(Source("spec.yaml", text))


def refused(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(DiagnosticError) as caught:
        node(text)
    check_findings(caught.value)
    return caught.value.diagnostics


def check_findings(error: DiagnosticError) -> None:
    assert all(x.code in RULES for x in error.diagnostics)
    assert str(error)


def scalars(tree: Node) -> list[ScalarNode]:
    match tree:
        case ScalarNode():
            return [tree]
        case SequenceNode():
            return [x for item in tree.items for x in scalars(item)]
        case MappingNode():
            return [x for entry in tree.entries for part in entry for x in scalars(part)]


PLACES = """\
# ü comment
title: int4 – über 𝔸 全
list: [a, 'b c', "d"]
step:
  - x: call(a,
      b)   # not part of it
    when: y

  - z: 1
"""


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_places_are_exact(start: str, end: str) -> None:
    tree = node(start + PLACES.replace("\n", end))
    assert [x.inner.text for x in scalars(tree)] == [
        *["title", "int4 – über 𝔸 全", "list", "a", "b c", "d"],
        *["step", "x", f"call(a,{end}      b)", "when", "y", "z", "1"],
    ]
    assert [x.span.text for x in scalars(tree)][4:6] == ["'b c'", '"d"']
    assert isinstance(tree, MappingNode)
    steps = tree.entries[2][1]
    assert isinstance(steps, SequenceNode)
    assert steps.items[0].span.text.endswith("when: y")
    assert steps.span.text.endswith("z: 1")
    assert tree.entries[1][1].span.text == "[a, 'b c', \"d\"]"


def test_block_scalars_and_empty_values() -> None:
    tree = node("why: >\n  two\n  lines\na:\nb: ''\n")
    assert isinstance(tree, MappingNode)
    why, a, b = (value for _, value in tree.entries)
    assert isinstance(why, ScalarNode)
    assert (why.value, why.plain, why.block, why.empty) == ("two lines\n", False, True, False)
    assert isinstance(a, ScalarNode)
    assert a.empty
    assert isinstance(b, ScalarNode)
    assert (b.empty, b.inner.text, b.span.text) == (False, "", "''")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2001-01-01", "2001-01-01"),
        ("010", "010"),
        ("0", 0),
        ("-12", -12),
        ("0x1F", 31),
        ("0o17", 15),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        (".inf", ".inf"),
        ("1e999", "1e999"),
        ("9" * 5000, "9" * 5000),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("none", "none"),
        ("'1'", "1"),
        ('"true"', "true"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    (scalar,) = scalars(node(f"[{text}]"))
    assert resolve(scalar) == value
    assert type(resolve(scalar)) is type(value)


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("", "yaml-empty", None),
        ("# nothing\n", "yaml-empty", None),
        ("---\n", "yaml-empty", None),
        ("a: 1\nb: &x 2\n", "yaml-alias", 2),
        ("a: *x\n", "yaml-alias", 1),
        ("a: 1\nb: !!str 2\n", "yaml-tag", 2),
        ("a: !x [1]\n", "yaml-tag", 1),
        ("a: 1\n? [n, k]\n: 2\n", "yaml-key", 2),
        ("{[a]: 1}", "yaml-key", 1),
        ("? |\n  a\n: 1\n", "yaml-key", 1),
        ("~: 1\n", "yaml-key", 1),
        ("a: 1\n---\nb: 1\n", "yaml-documents", 2),
        ("a: 1\nb: 2\na: 3\n", "yaml-duplicate-key", 3),
        ("a: {b: 1, 'b': 2}\n", "yaml-duplicate-key", 1),
        ("a: 1\n<<: {b: 1}\n", "yaml-merge-key", 2),
        ("a:\n\tb: 1\n", "yaml-tab", 2),
        ("a:\n  - b\n  -\t- c\n", "yaml-tab", 3),
        ("a: 1\nb: \x07\n", "file-characters", 2),
        ("a: \x00\n", "file-characters", 1),
        ("a: \ud800\n", "file-characters", 1),
        ("a: 'x\nb: 1\n", "yaml-syntax", 3),
        ("a: b: c\n", "yaml-syntax", 1),
        ("a: [1, 2\nb: 1\n", "yaml-syntax", 2),
        ("a:\n    b: 1\n  c: 1\n", "yaml-syntax", 3),
        ("a: @x\n", "yaml-syntax", 1),
        ("w: {unpacked: transpose(k, n) | pack(int32)}\n", "yaml-cut", 1),
        ("w:\n  - [f(a, b), c]\n", "yaml-cut", 2),
        ("- " * 30 + "a", "yaml-depth", 1),
        ("\n".join(["- [" + "a, " * 100 + "]"] * 300), "yaml-size", 199),
        ("a: " + "x" * MAX_BYTES, "file-too-large", None),
        ("a: " + "全" * (MAX_BYTES // 3), "file-too-large", None),
    ],
)
def test_refused(text: str, code: str, line: int | None) -> None:
    (diagnostic,) = refused(text)
    assert diagnostic.code == code
    assert (diagnostic.span.source.position(diagnostic.span.start)[0] if diagnostic.span else None) == line


def test_duplicate_names_both_places() -> None:
    (diagnostic,) = refused("a: 1\nb: 2\na: 3\n")
    assert [x.span.start for x in diagnostic.labels] == [0]
    assert diagnostic.span is not None
    assert diagnostic.span.start == 10


def test_helps_for_what_yaml_breaks() -> None:
    assert "sum[k](...)" in " ".join(refused("- a[n]: 8 * sum(k: b)\n")[0].helps)
    assert "block style" in " ".join(refused("a: {b: view [n, k]}\n")[0].helps)
    assert "block style" in " ".join(refused("a: {b: f(x, y)}\n")[0].helps)


def test_what_is_not_cut() -> None:
    node("a: {b: f(x), c: none}\nd: [K // 2, 'f(a']\ntitle: (see, a\n")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}, *{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(14)),
        "[" * 5000,
        "[" * 100_000,
        "[" * 5000 + "]" * 5000,
        "{a: " * 5000,
        "- " * 5000 + "a",
        "? " * 5000,
        "'" * 4999,
        "{" * 5000 + "}" * 5000,
        "\n".join(" " * i + "a:" for i in range(500)),
        "a: " + "*a " * 5000,
    ],
)
def test_bombs_end_quickly(text: str) -> None:
    start = time.perf_counter()
    refused(text)
    assert time.perf_counter() - start < 1


def test_files(tmp_path: Path) -> None:
    def code(path: Path) -> str:
        with pytest.raises(DiagnosticError) as caught:
            read_source(path)
        (diagnostic,) = caught.value.diagnostics
        assert diagnostic.where == str(path)
        return diagnostic.code

    path = tmp_path / "a.yaml"
    assert code(path) == "file-missing"
    assert code(tmp_path) == "file-unreadable"
    assert code(Path("nul\0byte")) == "file-unreadable"
    path.write_bytes(b"a: \xff")
    assert code(path) == "file-encoding"
    path.write_bytes(b"a" * (MAX_BYTES + 1))
    assert code(path) == "file-too-large"
    path.write_bytes("\ufeffa: ü\r\n".encode())
    assert read_source(path).text == "a: ü\r\n"
    assert read_source(str(path)).name == str(path)


def test_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", deny)
    with pytest.raises(DiagnosticError) as caught:
        read_source(tmp_path / "a.yaml")
    assert caught.value.diagnostics[0].code == "file-unreadable"


@given(st.text(alphabet=st.sampled_from("ab:-[]{},'\"&*!|>#%@\n\r\t ?<~0é全"), max_size=60))
def test_any_text_is_a_node_or_a_diagnostic(text: str) -> None:
    source = Source("f", text)
    try:
        tree = read_yaml(source)
    except DiagnosticError as error:
        check_findings(error)
        return
    for scalar in scalars(tree):
        assert 0 <= scalar.span.start <= scalar.inner.start <= scalar.inner.end <= scalar.span.end <= len(text)
        if scalar.plain and not scalar.empty:
            assert " ".join(scalar.inner.text.split()) == " ".join(scalar.value.split())
