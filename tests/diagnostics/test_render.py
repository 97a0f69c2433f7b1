"""Rendering: the picture, the other formats, and that nothing a file holds can break them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Label, Source, Span
from layoutdsl.diagnostics.render import FORMATS, WIDTH, render
from layoutdsl.diagnostics.rules import GROUPS, RULES


def place(source: Source, text: str) -> Span:
    at = source.text.index(text)
    return Span(source, at, at + len(text))


SPEC = Source("specs/w4a8_dynamic.linear.yaml", "\n" * 40 + "  - weight: transpose(k, n) | pack(n, int32)\n")
PACK = Diagnostic(
    code="pack-indivisible",
    message="`pack(n, int32)` needs `N % 8 == 0`, which nothing guarantees",
    span=place(SPEC, "pack(n, int32)"),
    label="packs 8 int4 of axis `n` into one int32",
    labels=(Label(place(SPEC, "transpose(k, n)"), "`n` becomes the last axis here"),),
    notes=("fails for output_size = 100",),
    helps=("add `N % 8 == 0` to `require`, or `pad(n, 8, 0)` before it",),
)

PICTURE = """\
error[pack-indivisible]: `pack(n, int32)` needs `N % 8 == 0`, which nothing guarantees
  --> specs/w4a8_dynamic.linear.yaml:41:31
   |
41 |   - weight: transpose(k, n) | pack(n, int32)
   |             ---------------   ^^^^^^^^^^^^^^ packs 8 int4 of axis `n` into one int32
   |             |
   |             `n` becomes the last axis here
   = note: fails for output_size = 100
   = help: add `N % 8 == 0` to `require`, or `pad(n, 8, 0)` before it
"""


def test_picture() -> None:
    assert render([PACK], "text") == PICTURE
    assert str(DiagnosticError(PACK)) == PICTURE.rstrip("\n")


def test_labels_on_one_line_hang_right_to_left() -> None:
    source = Source("f", "aaa bbb ccc")
    diagnostic = Diagnostic(
        code="x",
        message="m",
        span=place(source, "aaa"),
        label="first",
        labels=(Label(place(source, "ccc"), "third"), Label(place(source, "bbb"), "second")),
    )
    assert render([diagnostic], "text").splitlines()[3:] == [
        " 1 | aaa bbb ccc",
        "   | ^^^ --- --- third",
        "   | |   |",
        "   | |   second",
        "   | first",
    ]


def test_a_label_inside_another_hangs() -> None:
    source = Source("f", "outer(inner)")
    diagnostic = Diagnostic(code="x", message="m", span=place(source, "outer(inner)"), label="all", labels=(Label(place(source, "inner"), "part"),))
    assert render([diagnostic], "text").splitlines()[4:] == ["   | ^^^^^^^^^^^^", "   | |     |", "   | |     part", "   | all"]


def test_labels_on_other_lines_and_in_other_files() -> None:
    source, other = Source("f", "one\ntwo\nthree\nfour"), Source("g", "x: 1")
    labels = (Label(place(source, "one"), "here"), Label(place(other, "x"), "there"))
    diagnostic = Diagnostic(code="x", message="m", severity="warning", span=place(source, "four"), labels=labels)
    assert render([diagnostic], "text").splitlines() == [
        "warning[x]: m",
        "  --> f:4:1",
        "   |",
        " 1 | one",
        "   | --- here",
        "...",
        " 4 | four",
        "   | ^^^^",
        "  ::: g:1:1",
        "   |",
        " 1 | x: 1",
        "   | - there",
    ]


def test_several_lines_show_the_first_to_its_end() -> None:
    source = Source("f", "call(a,  \n  b)")
    assert render([Diagnostic(code="x", message="m", span=Span(source, 0, 14))], "text").splitlines()[3:] == [" 1 | call(a,", "   | ^^^^^^^"]


def test_without_a_span() -> None:
    diagnostic = Diagnostic(code="x", message="m", where="w13_weight", notes=("one\ntwo",))
    assert render([diagnostic], "text") == "error[x]: m\n  --> w13_weight\n   = note: one\n           two\n"
    assert render([diagnostic], "concise") == "w13_weight: error[x]: m\n"
    assert render([diagnostic], "github") == "::error title=x::w13_weight: m\n"
    assert render([Diagnostic(code="x", message="m")], "concise") == "error[x]: m\n"


def test_two_diagnostics_have_a_blank_line_between() -> None:
    assert render([Diagnostic(code="x", message="m")] * 2, "text") == "error[x]: m\n\nerror[x]: m\n"
    assert all(render([], name) == ("[]\n" if name == "json" else "") for name in FORMATS)


def test_concise_and_json() -> None:
    assert render([PACK], "concise") == f"specs/w4a8_dynamic.linear.yaml:41:31: error[pack-indivisible]: {PACK.message}\n"
    (data,) = json.loads(render([PACK], "json"))
    assert (data["file"], data["line"], data["column"], data["end_line"], data["end_column"]) == (SPEC.name, 41, 31, 41, 45)
    assert (data["code"], data["severity"], data["notes"], data["helps"]) == ("pack-indivisible", "error", list(PACK.notes), list(PACK.helps))
    assert data["labels"][0]["column"] == 13
    assert data["labels"][0]["text"] == "`n` becomes the last axis here"


def test_github_escapes_its_own_signs() -> None:
    source = Source("a,b:c%.yaml", "x")
    diagnostic = Diagnostic(code="x", message="50% of\nit", severity="note", span=Span(source, 0, 1))
    assert render([diagnostic], "github") == "::notice file=a%2Cb%3Ac%25.yaml,line=1,col=1,title=x::50%25 of\\nit\n"


@pytest.mark.parametrize("char", ["\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\ud800", "\u2028", "\x00", "\x7f", "\u200b"])
def test_what_a_terminal_acts_on_is_escaped(char: str) -> None:
    source = Source(f"n{char}", f"a{char}b: c")
    diagnostic = Diagnostic(
        code="x", message=f"m{char}", span=place(source, "c"), label=char, notes=(char,), helps=(char,), labels=(Label(place(source, "a"), char),)
    )
    for name in FORMATS:
        assert char not in render([diagnostic], name)
    assert (f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}") in render([diagnostic], "text")
    rows = render([diagnostic], "text").splitlines()
    assert rows[4].index("^") == rows[3].index("c")


def test_carets_align_under_tabs_and_wide_characters() -> None:
    source = Source("f", "\t全角 x")
    rows = render([Diagnostic(code="x", message="m", span=place(source, "x"))], "text").splitlines()
    assert rows[3] == " 1 |  全角 x"
    assert rows[4] == "   |       ^"


def test_long_lines_are_cut_to_a_window() -> None:
    source = Source("f", "a" * 1000 + "HERE" + "b" * 1000)
    rows = render([Diagnostic(code="x", message="m", span=place(source, "HERE"), labels=(Label(Span(source, 0, 1), "far"),))], "text").splitlines()
    assert len(rows[3]) <= WIDTH + 5
    assert rows[3].startswith(" 1 | ...a")
    assert rows[3].endswith("b...")
    assert rows[4].index("^^^^") == rows[3].index("HERE")


def test_spans_at_and_past_the_end() -> None:
    for text in ("", "a", "a\n", "\n\n", "a\r\n", "a\rb"):
        source = Source("f", text)
        for start, end in ((0, 0), (len(text), len(text)), (len(text), len(text) + 9), (-3, 1), (5, 2)):
            for name in FORMATS:
                assert "error" in render([Diagnostic(code="x", message="error", span=Span(source, start, end))], name)


@given(st.text(), st.lists(st.tuples(st.integers(-2, 40), st.integers(-2, 40), st.text(max_size=5)), max_size=4), st.text(max_size=5))
def test_never_raises(text: str, places: list[tuple[int, int, str]], words: str) -> None:
    source = Source(words, text)
    labels = tuple(Label(Span(source, start, end), label) for start, end, label in places)
    span = labels[0].span if labels else None
    diagnostic = Diagnostic(code="x", message=words, span=span, where=words, label=words, labels=labels[1:], notes=(words,))
    for name in FORMATS:
        render([diagnostic], name)


def test_rules_are_unique_and_complete() -> None:
    rules = [rule for group in GROUPS.values() for rule in group]
    assert len(rules) == len(RULES)
    for rule in rules:
        assert rule.code == rule.code.lower()
        assert rule.title
        assert "Wrong:" in rule.explanation
        assert "Right:" in rule.explanation
