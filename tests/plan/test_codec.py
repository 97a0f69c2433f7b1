"""The text of a plan: what goes in comes out, and nothing else ever does."""

from __future__ import annotations

import ast
import copy
import dataclasses
import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_plans import small_plan

from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.plan import codec
from layoutdsl.plan.bind import bind
from layoutdsl.plan.codec import decode, encode, plan_hash
from layoutdsl.plan.model import FORMAT, VERSION, Plan
from layoutdsl.runtime.python_source import python_source

PLAN = small_plan()
DATA = json.loads(encode(PLAN))


def signed(data: dict[str, Any]) -> str:
    """The text of changed data, with the hash that it should have: what a forger would write."""
    body = {key: value for key, value in data.items() if key != "hash"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return json.dumps({**body, "hash": "sha256:" + hashlib.sha256(text.encode()).hexdigest()})


def refusal(text: str) -> str:
    with pytest.raises(DiagnosticError) as caught:
        decode(text)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.message
    assert "?" not in "".join((diagnostic.message, *diagnostic.notes, *diagnostic.helps))
    return diagnostic.code


@pytest.mark.parametrize("plan", [PLAN, bind(PLAN, {"N": 64, "K": 100}), dataclasses.replace(PLAN, forward="external", code=(), outputs=())])
def test_round_trip(plan: Plan) -> None:
    text = encode(plan)
    assert decode(text) == plan
    assert encode(decode(text)) == text


def test_canonical() -> None:
    text = encode(PLAN)
    assert " " not in text.replace("weight: transpose(k, n)", "").replace("weight: pack(n, int32)", "").replace("weight: nz", "").replace(
        "N % 8 == 0", ""
    ).replace("K >= 32", "").replace("K <= 65535", "").replace("op document", "")
    assert text.isascii()
    assert list(DATA) == sorted(DATA)
    assert DATA["format"] == FORMAT
    assert DATA["version"] == VERSION
    assert DATA["hash"] == plan_hash(PLAN)
    assert "null" not in text
    assert "true" not in text


def test_kinds_survive() -> None:
    config = dict(decode(encode(PLAN)).config)
    assert config["nz"] is True
    assert type(config["ratio"]) is float
    assert type(config["group_size"]) is int
    assert config["absent"] is None


def test_every_field_is_written() -> None:
    """A field that somebody adds to the model must reach the text."""
    empty = dataclasses.replace(PLAN, code=(), outputs=())
    assert {field.name for field in dataclasses.fields(Plan)} | {"format", "version", "hash"} == set(json.loads(encode(empty)))
    for key, name in (("inputs", "Input"), ("outputs", "Output"), ("limits", "Limit"), ("require", "Condition"), ("forward", "Call")):
        fields = {field.name for field in dataclasses.fields(getattr(codec, name))}
        assert fields == set(DATA[key][0])
    for node in PLAN.code:
        written = next(entry for entry in DATA["code"] if entry["id"] == node.id)
        assert {field.name for field in dataclasses.fields(node)} | {"do"} == set(written)
        assert {field.name for field in dataclasses.fields(node.type)} == set(written["type"])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "plan-syntax"),
        ("\x80\x03pickle", "plan-syntax"),
        ("[]", "plan-syntax"),
        ("{}", "plan-syntax"),
        ("null", "plan-syntax"),
        ('{"format": "gguf"}', "plan-syntax"),
        (encode(PLAN)[:-1], "plan-syntax"),
        (encode(PLAN)[:500], "plan-syntax"),
        (encode(PLAN) + "{}", "plan-syntax"),
        ("[" * 100_000, "plan-syntax"),
        ('{"a":' * 100_000, "plan-syntax"),
        ("[" * 90 + "]" * 90, "plan-syntax"),
        ("1" * 5000, "plan-syntax"),
        (encode(PLAN).replace('"version":3', '"version":1.0'), "plan-syntax"),
        (encode(PLAN).replace('"version":3', '"version":NaN'), "plan-syntax"),
        (encode(PLAN).replace('"version":3', '"version":9223372036854775809'), "plan-syntax"),
        (encode(PLAN).replace('"version":3', '"version":3,"version":3'), "plan-syntax"),
        (encode(PLAN).replace('"version":3', '"version":2'), "plan-version"),
        (encode(PLAN).replace('"version":3', '"version":true'), "plan-version"),
        (encode(PLAN).replace(',"version":3', ""), "plan-version"),
        (encode(PLAN).replace('"SMALL"', '"small"'), "plan-hash"),
        (encode(PLAN).replace('"hash":"sha256:', '"hash":"sha512:'), "plan-hash"),
        (encode(PLAN).replace('"hash":', '"hush":'), "plan-hash"),
        (encode(PLAN).replace('"hash":"', '"hash":["').replace('","inputs"', '"],"inputs"'), "plan-hash"),
        ('{"format":"layoutdsl-plan","version":3,"hash":"\\ud800"}', "plan-hash"),
    ],
)
def test_refused_texts(text: str, code: str) -> None:
    assert refusal(text) == code


CHANGES: dict[str, tuple[tuple[Any, ...], Any]] = {
    "unknown key": (("colour",), 1),
    "missing key": (("axes",), ...),
    "unknown key inside": (("inputs", 0, "colour"), 1),
    "missing key inside": (("inputs", 0, "default"), ...),
    "unknown instruction": (("code", 0, "do"), "exec"),
    "instruction of the wrong kind": (("code", 0), ["move"]),
    "unknown expression": (("code", 3, "expr", 0), "eval"),
    "expression without a name": (("code", 3, "expr"), []),
    "too few operands": (("code", 3, "expr"), ["*", ["const", "float32", 8]]),
    "unknown conversion dtype": (("code", 3, "expr", 1), ["const", "float12", 8]),
    "unknown size function": (("axes", 0, 1), ["system", "N"]),
    "size function without operands": (("axes", 0, 1), ["+"]),
    "size function with too many operands": (("axes", 0, 1), ["//", "N", 2, 2]),
    "unknown size": (("axes", 0, 1), "M"),
    "unknown size in a condition": (("require", 0, "test"), ["==", "M", 0]),
    "size of the wrong kind": (("axes", 0, 1), {"float": "0x1.0p+3"}),
    "unknown dtype": (("inputs", 0, "type", "storage"), "int7"),
    "unknown element": (("inputs", 0, "type", "element"), "int7"),
    "unknown opaque function": (("code", 2, "function"), "run"),
    "a kernel without a name": (("code", 2, "function"), "kernel"),
    "unknown alias rule": (("code", 0, "alias"), "perhaps"),
    "unknown kind of output": (("outputs", 0, "kind"), "module"),
    "unknown promise": (("outputs", 0, "bits"), "most"),
    "unknown extension": (("inputs", 0, "type", "extension"), "one"),
    "null": (("scheme",), None),
    "a number for a text": (("scheme",), 1),
    "a text for a number": (("inputs", 0, "type", "excess"), "0"),
    "a boolean for a number": (("inputs", 0, "type", "excess"), True),
    "not a name": (("inputs", 0, "name"), "../weight"),
    "bad float": (("inputs", 2, "default"), {"float": "0.5"}),
    "nan": (("inputs", 2, "default"), {"float": "nan"}),
    "huge float": (("inputs", 2, "default"), {"float": "0x1.0p+99999"}),
    "undefined value": (("code", 0, "of"), "v77"),
    "forward reference": (("code", 0, "of"), "v5"),
    "reference to itself": (("code", 0, "of"), "v4"),
    "forward reference in an expression": (("code", 3, "expr", 2, 3, 1, 2, 1), "v8"),
    "duplicate id": (("code", 1, "id"), "v4"),
    "id out of order": (("code", 1, "id"), "v9"),
    "duplicate input name": (("inputs", 1, "name"), "weight"),
    "duplicate output name": (("outputs", 1, "name"), "weight"),
    "duplicate axis": (("axes", 1, 0), "n"),
    "output of nothing": (("outputs", 0, "value"), "v99"),
    "order that repeats": (("code", 0, "type", "order"), [0, 0]),
    "order that is short": (("code", 0, "type", "order"), [0]),
    "unknown axis": (("inputs", 0, "type", "dims", 0, 0, 0), "q"),
    "unknown listed axis": (("inputs", 0, "type", "listed"), "q"),
    "unknown padded axis": (("code", 5, "type", "pads", 0, 0), "q"),
    "negative extent": (("inputs", 0, "type", "dims", 0, 0, 2), -8),
    "zero divisor": (("inputs", 0, "type", "dims", 0, 0, 1), 0),
    "digit with a cell too many": (("inputs", 0, "type", "dims", 0, 0), ["n", 1, "N", 0]),
    "negative format": (("inputs", 0, "type", "format"), -1),
    "element changed by a move": (("code", 1, "type", "element"), "uint4"),
    "dims changed by a format cast": (("code", 2, "type", "dims"), []),
    "a format cast without a format": (("code", 2, "arguments"), []),
    "a format cast to another format": (("code", 2, "arguments", 0, 1), 2),
    "a format cast with an unknown argument": (("code", 2, "arguments", 0, 0), "acl_format"),
    "a format cast for an unknown dtype": (("code", 2, "arguments"), [["format", 29], ["customize_dtype", "int7"]]),
    "a format given twice": (("code", 2, "arguments"), [["format", 29], ["format", 29]]),
    "an unknown attribute for the loader": (("inputs", 0, "loader"), [["shape", 1]]),
    "a loader attribute of the wrong type": (("inputs", 0, "loader"), [["output_dim", "0"]]),
    "a pick by an unknown axis": (("code", 4, "expr", 1, 1, 2, 0, 0), "q"),
    "an index by an unknown axis": (("code", 4, "expr", 1, 1, 2, 0, 1, 2, 1), "q"),
    "a loop with a cell too many": (("code", 4, "expr", 1, 1, 2, 0, 1, 2), ["loop", "n", 1, 1]),
    "an operator that indices do not have": (("code", 4, "expr", 1, 1, 2, 0, 1, 0), "cdiv"),
    "an order by an unknown axis": (("code", 3, "expr", 2, 2, 0, 0), "q"),
    "a call with an unknown size function": (("forward", 2, "expr", 3, 1, 1, 1, 0), "system"),
    "forward of the wrong kind": (("forward",), "internal"),
}
_LINE, _READ, _OPTIONS = ("forward", 2, "expr"), ("forward", 2, "expr", 2), ("forward", 2, "expr", 3)
EVIL = '__import__("os").system("id")'
FORGED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "code for an expression": (_LINE, EVIL),
    "an unknown form": ((*_LINE, 0), "eval"),
    "an unknown form with one operand": (_LINE, ["exec", ["const", EVIL]]),
    "no form": (_LINE, []),
    "plain data": (_LINE, 5),
    "code for a kernel": ((*_LINE, 1), f"npu::{EVIL}"),
    "a kernel of no namespace": ((*_LINE, 1), "npu_small"),
    "a kernel of a special namespace": ((*_LINE, 1), "__class__::mro"),
    "a special kernel": ((*_LINE, 1), "npu::__init__"),
    "a kernel that writes to its argument": ((*_LINE, 1), "npu::npu_small_"),
    "a kernel of two namespaces": ((*_LINE, 1), "os::path::join"),
    "a kernel behind a line break": ((*_LINE, 1), "npu::a\nb"),
    "a namespace that is no name": ((*_LINE, 1), "1npu::a"),
    "code for an argument": ((*_OPTIONS, 1, 0), f"size={EVIL}, n"),
    "a special argument": ((*_OPTIONS, 1, 0), "__debug__"),
    "a word of Python for an argument": ((*_OPTIONS, 1, 0), "lambda"),
    "an argument given twice": ((*_OPTIONS, 1, 0), "scale"),
    "an argument without a name": ((*_OPTIONS, 1), ["size"]),
    "a list for a constant": ((*_OPTIONS, 0, 1, 1), ["const", ["a", "b"]]),
    "a type for a constant": ((*_OPTIONS, 0, 1, 1), ["const", {"type": DATA["inputs"][0]["type"]}]),
    "an infinite constant": ((*_OPTIONS, 0, 1, 1), ["const", {"float": "inf"}]),
    "a constant that is none": ((*_OPTIONS, 0, 1, 1), ["const", None]),
    "a constant too many": ((*_OPTIONS, 0, 1, 1), ["const", 1, 2]),
    "an unknown size": ((*_OPTIONS, 1, 1), ["size", "Q"]),
    "code for a size": ((*_OPTIONS, 1, 1), ["size", EVIL]),
    "a size that is a text": ((*_OPTIONS, 1, 1), ["size", {"bool": 1}]),
    "a local for a target": (("forward", 2, "targets"), [EVIL]),
    "a special target": (("forward", 2, "targets"), ["__builtins__"]),
    "a dotted target": (("forward", 2, "targets"), ["layer.weight"]),
    "two names for what is no call": (("forward", 1, "targets"), ["q", "s"]),
    "code for a local": ((*_READ, 0, 1), EVIL),
    "a special local": ((*_READ, 0, 1), "__builtins__"),
    "a local that is bound later": ((*_READ, 0, 1), "y"),
    "a local that was dropped": ((*_READ, 0, 1), "_"),
    "a local that one path lacks": (("forward", 1, "when"), ["given", ["input", "bias"]]),
    "an unknown input": ((*_READ, 0), ["input", "self"]),
    "a special input": ((*_READ, 0), ["input", "__class__"]),
    "code for a tensor": ((*_READ, 0), ["layer", EVIL]),
    "a special tensor": ((*_READ, 0), ["layer", "__class__"]),
    "a tensor behind a special name": ((*_READ, 0), ["layer", "__class__.weight"]),
    "a tensor that the steps do not leave": ((*_READ, 0), ["layer", "scale"]),
    "an unknown dtype": ((*_READ, 0), ["dtype", "float12"]),
    "code for a dtype": ((*_READ, 0), ["cast", ["dtype", EVIL], ["input", "x"]]),
    "the dtype of a number": ((*_READ, 0), ["dtype_of", ["const", 1]]),
    "a view of one type": ((*_READ, 1), ["view", ["layer", "weight"], DATA["inputs"][0]["type"]]),
    "a view of no type": ((*_READ, 1, 2), {}),
    "a view with an unknown size": ((*_READ, 1, 2, "dims", 0, 0, 2), "Q"),
    "a view with an order that repeats": ((*_READ, 2, 3, "order"), [0, 0]),
    "a view with an unknown storage": ((*_READ, 2, 3, "storage"), EVIL),
    "a condition that is a tensor": (("forward", 0, "when"), ["input", "x"]),
    "a condition that is code": (("forward", 0, "when"), EVIL),
    "a choice that asks a tensor": (("forward", 3, "expr", 1), ["local", "y"]),
    "nothing is returned": (("forward", 3, "targets"), ["z"]),
    "one path returns nothing": (("forward", 3, "when"), ["given", ["input", "bias"]]),
    "no line": (("forward",), []),
    "an external result with a name": (("forward", 1, "expr"), ["external"]),
    "an external argument": ((*_READ, 0), ["external"]),
    "more questions than can be walked": (("forward", 3, "expr", 1), ["in", ["input", "x"], ["list"]]),
}
for _number in range(12):
    _path, _value = FORGED["more questions than can be walked"]
    FORGED["more questions than can be walked"] = _path, ["and", _value, ["==", ["const", _number], ["input", "x"]]]


@pytest.mark.parametrize("name", [*CHANGES, *FORGED])
def test_refused_changes(name: str) -> None:
    path, value = {**CHANGES, **FORGED}[name]
    data = copy.deepcopy(DATA)
    node: Any = data
    for key in path[:-1]:
        node = node[key]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    assert refusal(signed(data)) == "plan-invalid"


def test_unnamed_things_are_not_written() -> None:
    for config in ((("a", float("nan")),), (("a", [1]),), (("a", object()),), (("a", 2**70),)):
        with pytest.raises(ValueError, match=r"plan|bits"):
            encode(dataclasses.replace(PLAN, config=config))


X = ["input", "x"]
ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["v0", "v4", "v9", "N", "K", "n", "at", "sum", "cast", "//", "near_square", "move", "int4", "float32", "", "external", "uninitialised"]),
    st.sampled_from([EVIL, "__class__", "lambda", "x", "layer", "torch", "rows", "bias", "weight", "local", "input", "given", "in", "npu::npu_other"]),
    st.sampled_from([X, ["const", {"none": 0}], ["list", X, ["local", "q"]], ["size", "rows"], ["layer", "weight"], ["dtype", "e8m0"], ["not", ["given", X]]]),
    st.just([]),
    st.just({}),
    st.just({"float": "0x1.0000000000000p+0"}),
    st.just(["loop", "n", 1]),
)


def paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(found for key, child in inner for found in paths(child, (*path, key)))]


PATHS = paths({key: value for key, value in DATA.items() if key not in ("hash", "format", "version")})[1:]


def parent(data: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        data = data[key]
    return data


def outcome(work: Callable[[], Any]) -> Any:
    """What comes out, or the code of the diagnostic."""
    try:
        return work()
    except DiagnosticError as error:
        return error.diagnostics[0].code


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(PATHS) - 1), st.sampled_from(["set", "delete", "repeat", "swap", "rename"]), ATOMS, st.randoms(use_true_random=False))
def test_mutations_end_in_a_plan_or_a_diagnostic(place: int, action: str, atom: Any, rng: random.Random) -> None:
    data = copy.deepcopy(DATA)
    path = PATHS[place]
    node = parent(data, path)
    if action == "delete":
        del node[path[-1]]
    elif action == "repeat" and isinstance(node, list):
        node.insert(path[-1], copy.deepcopy(node[path[-1]]))
    elif action == "swap":
        other = rng.choice(PATHS)
        node[path[-1]] = copy.deepcopy(parent(DATA, other)[other[-1]])
    elif action == "rename" and isinstance(node, dict):
        node["renamed"] = node.pop(path[-1])
    else:
        node[path[-1]] = atom
    text = signed(data)
    plan = outcome(lambda: decode(text))
    if isinstance(plan, str):
        assert plan in ("plan-syntax", "plan-invalid", "plan-version")
        return
    assert decode(encode(plan)) == plan
    bound = outcome(lambda: bind(plan, dict.fromkeys(plan.sizes, 64)))
    if isinstance(bound, str):
        assert bound in ("plan-invalid", "requirement-failed")
        return
    text = outcome(lambda: python_source(bound).text)
    assert is_harmless(text) or text in ("plan-invalid", "forward-external", "group-list-unknown"), text


NODES = (ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.If, ast.Expr, ast.expr_context, ast.Name, ast.Attribute, ast.Constant)
NODES += (ast.Call, ast.keyword, ast.List, ast.ListComp, ast.comprehension, ast.Tuple, ast.Subscript, ast.Slice, ast.IfExp, ast.BoolOp, ast.boolop)
NODES += (ast.BinOp, ast.operator, ast.UnaryOp, ast.unaryop, ast.Compare, ast.cmpop)
CALLED = ("to", "view", "reshape", "permute", "flatten", "unflatten", "dim", "only", "external", "by_expert", "combined", "counts_of", "cumsum_of", "getattr")


def is_harmless(text: str) -> bool:
    """Is it a function that calls kernels by name, and nothing else?"""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return False
    found = [*ast.walk(tree)]
    called = [node.func.id if isinstance(node.func, ast.Name) else node.func.attr for node in found if isinstance(node, ast.Call)]
    named = [node.id if isinstance(node, ast.Name) else node.attr for node in found if isinstance(node, (ast.Name, ast.Attribute))]
    return (
        len(tree.body) == 1
        and all(isinstance(node, NODES) for node in found)
        and all(name in CALLED or name.startswith("npu__npu_") for name in called)
        and not any(name.startswith("__") for name in named)
    )


def test_the_check_for_harmless_texts_sees_harm() -> None:
    assert is_harmless(python_source(bind(PLAN, {"N": 64, "K": 100})).text)
    for line in (EVIL, "layer.__class__", "eval(x)", "import os", "lambda: x", "x.tofile(x)", "f'{x}'", "y = x\n)"):
        assert not is_harmless(f"def forward(layer, x):\n    {line}\n")


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(), st.recursive(ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)).map(json.dumps)
    )
)
def test_any_text_ends_in_a_diagnostic(text: str) -> None:
    refusal(text)
