"""The expression grammar: forms, precedence, places, bounds, and what is said about mistakes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Source, Span
from layoutdsl.diagnostics.rules import RULES
from layoutdsl.syntax.expressions import parse_expression, parse_pipeline, parse_rule, parse_target, parse_targets, parse_type
from layoutdsl.syntax.tree import (
    Binary,
    Call,
    Conditional,
    Constant,
    Expr,
    Group,
    Index,
    Inline,
    Items,
    Name,
    Pick,
    Sum,
    Unary,
)


def span(text: str) -> Span:
    """``text`` somewhere in a larger source, so that relative offsets would show."""
    return Span(Source("spec.yaml", f"before\n  {text}\nafter"), 9, 9 + len(text))


def show(expr: object) -> str:
    """A tree with all its brackets."""
    match expr:
        case Name():
            return expr.id
        case Constant():
            return repr(expr.value)
        case Unary():
            return f"({expr.op} {show(expr.operand)})"
        case Binary():
            return f"({show(expr.left)} {expr.op} {show(expr.right)})"
        case Conditional():
            return f"({show(expr.then)} if {show(expr.condition)} else {show(expr.otherwise)})"
        case Items():
            return f"[{', '.join(map(show, expr.items))}]"
        case Group():
            return f"<{', '.join(map(show, expr.items))}>"
        case Pick():
            return f"{show(expr.digit)} = {show(expr.at)}"
        case Index():
            return f"{expr.name}[{', '.join(map(show, expr.entries))}]"
        case Sum():
            return f"sum[{', '.join(map(show, expr.entries))}]({show(expr.body)})"
        case Call():
            return f"{expr.name}({', '.join((f'{x.keyword}=' if x.keyword else '') + show(x.value) for x in expr.arguments)})"
        case Inline():
            return f"({expr.name.id}{''.join(f' | {x.op}' for x in expr.stages)})"
        case _:
            raise AssertionError(expr)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a - b - c", "((a - b) - c)"),
        ("a + b * c // d % e", "(a + (((b * c) // d) % e))"),
        ("(a + b) * c", "((a + b) * c)"),
        ("-a * b", "((- a) * b)"),
        ("a - -1", "(a - (- 1))"),
        ("a >> 23 & 255", "((a >> 23) & 255)"),
        ("a & b == c", "((a & b) == c)"),
        ("not a == b", "(not (a == b))"),
        ("not not a", "(not (not a))"),
        ("a and not b or c and d", "((a and (not b)) or (c and d))"),
        ("not a and b", "((not a) and b)"),
        ("unpacked or ct and seed", "(unpacked or (ct and seed))"),
        ("a if b else c if d else e", "(a if b else (c if d else e))"),
        ("x + 1 if a == b or c else y", "((x + 1) if ((a == b) or c) else y)"),
        ("device in ['a2', \"a3\"] and b", "((device in ['a2', 'a3']) and b)"),
        ("none == true", "(None == True)"),
        ("1.5e-3 + 0 + 1e3", "((0.0015 + 0) + 1000.0)"),
        ("sum[k%g, j](w[n, k])", "sum[(k % g), j](w[n, k])"),
        ("f()", "f()"),
        ("f(x, scale=[w], axis=-1)", "f(x, scale=[w], axis=(- 1))"),
        ("[]", "[]"),
        ("w[(e, n), k = N//2 + d, 0]", "w[<e, n>, k = ((N // 2) + d), 0]"),
        ("(x | view [m, k//R] | bitcast(int32) when a)", "(x | view | bitcast)"),
        ("<p>_weight[n] * fa_k.scale[b] + x.dtype", "((<p>_weight[n] * fa_k.scale[b]) + x.dtype)"),
        ("pad + to + over + is + view1 + zext", "(((((pad + to) + over) + is) + view1) + zext)"),
        ("n/2", "(n / 2)"),
        ("a\n      + b", "(a + b)"),
        ("a\r\n\t+ b", "(a + b)"),
        ("((((a))))", "a"),
    ],
)
def test_forms_and_precedence(text: str, tree: str) -> None:
    assert show(parse_expression(span(text))) == tree


def test_every_operator_agrees_with_python() -> None:
    """Precedence against Python's own parser, for the operators on which we agree."""
    import ast
    from itertools import product

    names = {"Add": "+", "Sub": "-", "Mult": "*", "FloorDiv": "//", "Mod": "%", "LShift": "<<", "BitAnd": "&", "Or": "or", "And": "and", "Eq": "=="}

    def python(node: ast.expr) -> str:
        match node:
            case ast.Name():
                return node.id
            case ast.BinOp():
                return f"({python(node.left)} {names[type(node.op).__name__]} {python(node.right)})"
            case ast.BoolOp():
                parts = list(map(python, node.values))
                while len(parts) > 1:
                    parts[:2] = [f"({parts[0]} {names[type(node.op).__name__]} {parts[1]})"]
                return parts[0]
            case ast.Compare():
                return f"({python(node.left)} == {python(node.comparators[0])})"
            case _:
                raise AssertionError(node)

    for first, second, third in product(names.values(), repeat=3):
        text = f"a {first} b {second} c {third} d"
        tree = ast.parse(text, mode="eval").body
        if any(isinstance(x, ast.Compare) and len(x.ops) > 1 for x in ast.walk(tree)):
            continue
        assert show(parse_expression(span(text))) == python(tree)


def test_places_are_absolute_and_include_brackets() -> None:
    expr = parse_expression(span("(a + b) * (c) - sum[k](w[k]) if f(x, y=1) else (w | nz)"))
    assert isinstance(expr, Conditional)
    assert expr.span.text == "(a + b) * (c) - sum[k](w[k]) if f(x, y=1) else (w | nz)"
    assert expr.then.span.text == "(a + b) * (c) - sum[k](w[k])"
    assert isinstance(expr.then, Binary)
    assert expr.then.left.span.text == "(a + b) * (c)"
    assert isinstance(expr.then.left, Binary)
    assert expr.then.left.left.span.text == "a + b"
    assert expr.then.left.right.span.text == "c"
    assert expr.then.right.span.text == "sum[k](w[k])"
    assert expr.condition.span.text == "f(x, y=1)"
    assert isinstance(expr.condition, Call)
    assert [x.span.text for x in expr.condition.arguments] == ["x", "y=1"]
    assert expr.otherwise.span.text == "(w | nz)"


def test_types() -> None:
    tree = parse_type(span("int4(excess 8)[e, n, k] in zext int32[(e, n), k//8 | k%2, k//2%4] over nz(64)[k, n] pad k to 64 = -1 pad n to g"))
    assert (tree.element.name, tree.element.excess, tree.element.span.text) == ("int4", 8, "int4(excess 8)")
    assert [show(x) for x in tree.logical] == ["e", "n", "k"]
    layout = tree.layout
    assert layout is not None
    assert (layout.extension, layout.storage, layout.storage_span.text, layout.format, layout.width) == ("zext", "int32", "int32", "nz", 64)
    assert [show(x) for x in layout.dims] == ["<e, n>", "(k // 8)"]
    assert [show(x) for x in layout.lanes] == ["(k % 2)", "((k // 2) % 4)"]
    assert layout.order is not None
    assert [show(x) for x in layout.order] == ["k", "n"]
    assert [(x.axis, show(x.multiple), x.fill, x.span.text) for x in tree.pads] == [("k", "64", -1, "pad k to 64 = -1"), ("n", "g", 0, "pad n to g")]
    assert layout.span.text.startswith("zext int32")
    assert layout.span.text.endswith("[k, n]")
    assert tree.span.text.endswith("pad n to g")


def test_short_types() -> None:
    scalar = parse_type(span("int8[]"))
    assert (scalar.logical, scalar.layout, scalar.pads, scalar.span.text) == ((), None, (), "int8[]")
    layout = parse_type(span("int8[k, n] in int8[k, n] over [n, k]")).layout
    assert layout is not None
    assert (layout.format, layout.width, [show(x) for x in layout.order or ()]) == (None, None, ["n", "k"])
    plain = parse_type(span("float32[n] in int64[n]")).layout
    assert plain is not None
    assert (plain.extension, plain.order, plain.lanes) == (None, None, ())


def test_pipelines() -> None:
    text = "weight | pad(k, 64, 0) when later | view [n, k//64] | relayout int4[n] in int8[n] pad n to 3 | is int8[n] when a and b | nz() | nz(bfloat16)"
    tree = parse_pipeline(span(text))
    assert [x.op for x in tree.stages] == ["weight", "pad", "view", "relayout", "is", "nz", "nz"]
    assert [x.called for x in tree.stages] == [False, True, False, False, False, True, True]
    assert [x.span.text for x in tree.stages] == text.split(" | ")
    assert show(tree.stages[1].condition) == "later"
    assert [show(x) for x in tree.stages[2].dims or ()] == ["n", "(k // 64)"]
    assert tree.stages[3].type is not None
    assert tree.stages[3].type.span.text == "int4[n] in int8[n] pad n to 3"
    assert show(tree.stages[4].condition) == "(a and b)"
    assert [show(x.value) for x in tree.stages[1].arguments] == ["k", "64", "0"]
    assert tree.span.text == text


def test_targets_and_rules() -> None:
    target = parse_target(span("<p>_scale_bias[e, k//g, (e, n)]"))
    assert (target.name, target.name_span.text) == ("<p>_scale_bias", "<p>_scale_bias")
    assert [show(x) for x in target.entries or ()] == ["e", "(k // g)", "<e, n>"]
    assert parse_target(span("fa_k.scale")).entries is None
    assert [x.name for x in parse_targets(span("h, hs, _"))] == ["h", "hs", "_"]
    rule = parse_rule(span("16 % tp_size == 0 when packed"))
    assert (show(rule.expr), show(rule.condition), rule.span.text) == ("((16 % tp_size) == 0)", "packed", "16 % tp_size == 0 when packed")
    assert parse_rule(span("N % 8 == 0")).condition is None


# ---- mistakes


def mistake(parse: Callable[[Span], object], text: str) -> Diagnostic:
    with pytest.raises(DiagnosticError) as caught:
        parse(span(text))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code in RULES
    assert str(caught.value)
    return diagnostic


@pytest.mark.parametrize(
    ("parse", "text", "guilty", "message", "help_"),
    [
        (parse_expression, "8 * sum(k: w[k])", "(", "expected `[`, found `(`", "sum[k](...)"),
        (parse_expression, "sum(j, w[j])", "(", "expected `[`", "sum[j](...)"),
        (parse_expression, "sum(w", "(", "`(` is never closed", "sum["),
        (parse_expression, "a | b", "|", "found `|`", "no bit-or"),
        (parse_expression, "a || b", "|", "found `|`", "write `or`"),
        (parse_expression, "a && b", "&", "found `&`", "write `and`"),
        (parse_expression, "a != b and !c", "!", "expected a value, found `!`", "write `not`"),
        (parse_expression, "a = b", "=", "found `=`", "write `==`"),
        (parse_expression, "a < b <= c", "<=", "comparisons cannot be chained", "`and`"),
        (parse_expression, "a == b == c", "==", "comparisons cannot be chained", "`and`"),
        (parse_expression, "a + not b", "not", "binds less tightly", "brackets"),
        (parse_expression, "a not in [b]", "not", "found `not`", "not (a in [..])"),
        (parse_expression, "a ** 2", "*", "expected a value, found `*`", "powers"),
        (parse_expression, "a and and b", "and", "found `and`", ""),
        (parse_expression, "f(a, [b, c)", ")", "expected `]`, found `)`", ""),
        (parse_expression, "f(a, (b)", "(", "`(` is never closed", ""),
        (parse_expression, "a)", ")", "never opened", ""),
        (parse_expression, "a +", "", "expected a value, found the end", ""),
        (parse_expression, "", "", "expected a value, found the end", ""),
        (parse_expression, "a b", "b", "expected an operator or the end, found `b`", ""),
        (parse_expression, "f(a b)", "b", "expected an operator, `,` or `)`, found `b`", ""),
        (parse_expression, "x[1,]", "]", "expected a value, found `]`", ""),
        (parse_expression, "a if b", "", "`else`", ""),
        (parse_expression, "'abc", "'", "never closed", ""),
        (parse_expression, "'a\\n'", "'", "no escapes", ""),
        (parse_expression, "a ? b", "?", "found `?`", ""),
        (parse_expression, "sum[n = 2](a)", "=", "found `=`", ""),
        (parse_type, "int8", "", "found the end", "int8[n, k]"),
        (parse_type, "int8[n][k]", "[", "found `[`", "element[digits] in storage[digits]"),
        (parse_type, "int8[n = 1]", "=", "found `=`", ""),
        (parse_type, "int4(8)[n]", "8", "expected `excess`", ""),
        (parse_pipeline, "view(n)", "(", "expected `[`", "view [n, k]"),
        (parse_pipeline, "weight[n, k]", "[", "found `[`", "names its digits"),
        (parse_pipeline, "a | | b", "|", "expected a stage", ""),
        (parse_pipeline, "a + b", "+", "found `+`", ""),
        (parse_target, "a, b", ",", "found `,`", ""),
        (parse_target, "a[n = 1]", "=", "found `=`", ""),
        (parse_targets, "a, b[n]", "[", "expected `,` or the end", "one target"),
        (parse_rule, "a == b when", "", "expected a value, found the end", ""),
    ],
)
def test_mistakes_are_explained(parse: Callable[[Span], object], text: str, guilty: str, message: str, help_: str) -> None:
    diagnostic = mistake(parse, text)
    assert diagnostic.code == "expression-syntax"
    assert diagnostic.span is not None
    assert diagnostic.span.text == guilty
    assert message in diagnostic.message
    assert help_ in " ".join(diagnostic.helps)


def test_numbers() -> None:
    assert mistake(parse_expression, "K % 010").code == "leading-zero"
    assert mistake(parse_expression, "1" * 20).code == "number-range"
    assert mistake(parse_expression, "1e999").code == "number-range"


@pytest.mark.parametrize(
    "text",
    [
        "(" * 41 + "a" + ")" * 41,
        "f(" * 200 + ")" * 200,
        "+".join(["1"] * 80),
        "not " * 80 + "a",
        "-" * 80 + "a",
        " if b else ".join(["a"] * 80),
        "a" * 4001,
        "[" * 1900 + "]" * 1900,
        "f(" * 1300,
    ],
)
def test_bounds_end_in_a_diagnostic(text: str) -> None:
    start = time.perf_counter()
    assert mistake(parse_expression, text).code in ("expression-depth", "expression-syntax")
    assert time.perf_counter() - start < 1


def test_what_is_inside_the_bounds_is_parsed() -> None:
    parse_expression(span("(" * 40 + "a" + ")" * 40))
    parse_expression(span("+".join(["1"] * 58)))
    parse_expression(span(f"f({', '.join(['a'] * 900)})"))


def test_threads_do_not_mix_sources() -> None:
    from concurrent.futures import ThreadPoolExecutor

    def check(number: int) -> bool:
        expr: Expr = parse_expression(span(f"name_{number} * {number + 1}"))
        return isinstance(expr, Binary) and expr.left.span.text == f"name_{number}" and expr.right.span.text == str(number + 1)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(200)))
