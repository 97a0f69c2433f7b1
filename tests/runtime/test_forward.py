"""The generated forward: a function of one line per call, whatever the shape of x, whoever sorts the tokens, whatever is given."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from handwritten import kind
from torch._dynamo.testing import CompileCounter
from torch.nn import Module

import layoutdsl
from layoutdsl.diagnostics import DiagnosticError
from layoutdsl.plan.groups import group_list_kind
from layoutdsl.plan.model import Call, Digit, Input, Output, Plan, TensorType
from layoutdsl.runtime import forward as runtime_forward
from layoutdsl.runtime.forward import Forward, generate, source
from layoutdsl.runtime.move import restride
from layoutdsl.runtime.python_source import python_source

ALWAYS = ("const", True)
X, BIAS, X_SCALE = ("input", "x"), ("input", "bias"), ("input", "x_scale")
K, N, E = Digit("k", 1, 6), Digit("n", 1, 4), Digit("e", 1, 3)
MATMUL, QUANT, SWIGLU = "npu::npu_quant_matmul", "npu::npu_dynamic_quant", "npu::npu_swiglu"
GROUPED, FUSED = "npu::npu_grouped_matmul", "npu::npu_grouped_matmul_swiglu_quant"


def call(op: str, *arguments: Any, **keywords: Any) -> Any:
    return ("call", op, arguments, tuple(keywords.items()))


def const(value: Any) -> Any:
    return ("const", value)


def local(name: str) -> Any:
    return ("local", name)


def line(names: str, expr: Any, when: Any = ALWAYS) -> Call:
    return Call(tuple(names.split()), expr, when)


def plan(*lines: Call, **tensors: TensorType) -> Plan:
    """A bound plan of these lines on a layer with these tensors; a type of a list makes a list."""
    inputs = tuple(Input(f"v{place}", name, type, None, ()) for place, (name, type) in enumerate(tensors.items()))
    outputs = tuple(Output(i.name, i.id, "list" if i.type.listed else "parameter", "exact", "alias") for i in inputs)
    return Plan("TINY", "linear", "", (), (), (("k", 6), ("n", 4), ("e", 3)), (), (), inputs, (), outputs, lines)


LINEAR = plan(
    line("xq xs", call(QUANT, X), ("not", ("given", X_SCALE))),
    line("xq", X, ("given", X_SCALE)),
    line("xs", X_SCALE, ("given", X_SCALE)),
    line("y", call(MATMUL, local("xq"), ("layer", "weight"), ("layer", "scale"), pertoken_scale=local("xs"), bias=("cast", ("dtype", "float32"), BIAS))),
    line("", local("y")),
    weight=kind("int8", (K,), (N,)),
    scale=kind("float32", (N,)),
)


# ---- naive kernels -----------------------------------------------------------------------------------------------------------------------------------------


def quant(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = x.abs().amax(-1).clamp(min=1e-6) / 127
    return (x / scale[:, None]).round().to(torch.int8), scale


def matmul(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, *, pertoken_scale: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    assert x.dim() == 2 and pertoken_scale.shape[0] == x.shape[0] and (bias is None or bias.dtype == torch.float32)
    rows = pertoken_scale.flatten(1)[:, :1] if pertoken_scale.dim() > 1 else pertoken_scale[:, None]
    y = x.float() @ weight.float() * scale * rows
    return y if bias is None else y + bias


def grouped(x: list[torch.Tensor], weight: list[torch.Tensor], *, group_list: torch.Tensor, group_list_type: int = 0, **others: Any) -> list[torch.Tensor]:
    """Rows times their expert's weight; rows behind the last group hold what lay there."""
    assert group_list.dtype == torch.int64 and x[0].dim() == 2
    each = weight[0] if len(weight) == 1 else weight
    ends = group_list.cumsum(0) if group_list_type == 1 else group_list
    rows = torch.arange(len(x[0]))
    expert = (rows[:, None] >= ends).sum(-1)
    result = torch.full((len(rows), each[0].shape[1]), torch.nan)
    for place in range(len(each)):
        result = torch.where((expert == place)[:, None], x[0].float() @ each[place].float(), result)
    return [result]


def fused(x: torch.Tensor, weight: torch.Tensor, group_list: torch.Tensor, weight_scale: torch.Tensor, x_scale: torch.Tensor) -> Any:
    (rows,) = grouped([x * x_scale[:, None]], [weight], group_list=group_list)
    return rows, x_scale, x_scale


KERNELS: dict[str, Callable[..., Any]] = {QUANT: quant, MATMUL: matmul, GROUPED: grouped, FUSED: fused, SWIGLU: lambda x: x.chunk(2, -1)[0].tanh()}


def made(plan: Plan) -> Callable[..., Any]:
    return generate(plan, KERNELS.__getitem__)


def layer(plan: Plan, seed: int = 0) -> Module:
    """A module with random tensors of the types of the plan's outputs."""
    generator = torch.Generator().manual_seed(seed)
    module, types = Module(), {node.id: node.type for node in plan.inputs}
    for output in plan.outputs:
        kind = types[output.value]
        drawn = torch.randint(-5, 6, (3, *kind.shape) if kind.listed else kind.shape, generator=generator).to(getattr(torch, kind.storage))
        setattr(module, output.name, [*drawn] if kind.listed else drawn)
    return module


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def naive_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_forward, "find_kernel", lambda op, device: KERNELS[op])


# ---- rows --------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(), (1,), (2,), (2, 3), (0,), (2, 0)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("quantized", [(), (1,), (3, 2)], ids=str)
def test_leading_dims(lead: tuple[int, ...], bias: bool, quantized: tuple[int, ...]) -> None:
    """A batch is its rows; a scale of a quantized x has the same leading dims, and perhaps more behind them."""
    module, forward = layer(LINEAR), made(LINEAR)
    x, options = numbers(*lead, 5, 6), {"bias": numbers(4)} if bias else {}
    scales: dict[str, Any] = {"x_scale": numbers(*lead, 5, *quantized, seed=1)} if quantized else {}
    whole = forward(module, x, **options, **scales)
    flat = {name: scale.reshape(-1, *quantized) for name, scale in scales.items()}
    rows = x.reshape(-1, 6)
    assert torch.equal(whole, forward(module, rows, **options, **flat).reshape(*lead, 5, 4))
    xq, xs = (rows, flat["x_scale"]) if quantized else quant(rows)
    assert torch.equal(whole.reshape(-1, 4), matmul(xq, module.weight, module.scale, pertoken_scale=xs, bias=options.get("bias")))


def test_text() -> None:
    """What somebody reads who debugs a layer."""
    assert source(LINEAR) == (
        "def forward(layer, x, bias=None, x_scale=None):\n"
        "    lead = x.shape[:-1]\n"
        "    if x_scale is not None:\n"
        "        x_scale = x_scale.flatten(0, x.dim() - 2)\n"
        "    x = x.flatten(0, -2)\n"
        "    if x_scale is None:\n"
        "        xq, xs = npu__npu_dynamic_quant(x)\n"
        "    if x_scale is not None:\n"
        "        xq = x\n"
        "        xs = x_scale\n"
        "    y = npu__npu_quant_matmul(xq, layer.weight, layer.scale, pertoken_scale=xs, bias=bias.to(torch.float32) if bias is not None else None)\n"
        "    result = y\n"
        "    return result.unflatten(0, lead)\n"
    )


# ---- expressions -------------------------------------------------------------------------------------------------------------------------------------------

F16 = ("dtype", "float16")
EXPRESSIONS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "size": (("*", X, ("size", ("*", 2, ("+", "rows", 1)))), lambda x, b: x * (2 * (len(x) + 1))),
    "exact size": (("*", X, ("size", ("/", ("*", "rows", 6), 3))), lambda x, b: x * (len(x) * 2)),
    "rounded up": (("*", X, ("size", ("cdiv", "rows", 2))), lambda x, b: x * -(-len(x) // 2)),
    "precedence": (("*", ("-", X, const(1)), ("neg", ("+", X, const(-2.5)))), lambda x, b: (x - 1) * -(x - 2.5)),
    "choice": (("if", ("given", BIAS), ("+", X, BIAS), X), lambda x, b: x if b is None else x + b),
    "choice in a choice": (
        ("if", ("given", BIAS), ("if", ("==", ("dtype_of", X), F16), X, ("neg", X)), ("*", X, const(3))),
        lambda x, b: x * 3 if b is None else x if x.dtype == torch.float16 else -x,
    ),
    "cast of a choice": (("cast", F16, ("if", ("given", BIAS), BIAS, X)), lambda x, b: (x if b is None else b.expand_as(x)).half()),
    "connectives": (
        ("if", ("or", ("not", ("given", BIAS)), ("and", ("in", ("dtype_of", X), ("list", F16)), ("!=", ("dtype_of", X), ("dtype", "e4m3")))), X, ("neg", X)),
        lambda x, b: x if b is None or x.dtype == torch.float16 else -x,
    ),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_expressions(name: str, bias: bool, dtype: torch.dtype) -> None:
    expr, meaning = EXPRESSIONS[name]
    x, b = numbers(5, 6).to(dtype), numbers(5, 6, seed=1).to(dtype) if bias else None
    assert torch.equal(Forward(plan(line("", ("if", ("given", BIAS), expr, expr))))(Module(), x, {"bias": b}), meaning(x, b))


def test_arguments() -> None:
    """Dtypes as kernels know them, texts, lists, and what is absent."""
    seen: list[Any] = []
    keywords = {name: ("dtype", name) for name in ("bfloat16", "int8", "int4", "e4m3", "e8m0", "e2m1")}
    keywords |= {"word": const('it\'s\n"so"'), "none": const(None), "yes": const(True), "sizes": ("list", const(1), const(-1), ("size", 32))}
    keywords |= {"bias": ("cast", ("dtype_of", X), BIAS), "seen": ("if", ("given", BIAS), ("dtype", "e8m0"), ("dtype_of", X))}
    forward = generate(plan(line("", call("npu::npu_any", X, **keywords))), lambda op: lambda x, **given: seen.append((op, given)) or x)
    forward(Module(), numbers(2, 6))
    (op, given), dtypes = seen[0], (torch.bfloat16, torch.int8, torch.quint4x2, torch.float8_e4m3fn, 293, 296)
    assert op == "npu::npu_any" and tuple(given.values()) == (*dtypes, 'it\'s\n"so"', None, True, [1, -1, 32], None, torch.float32)


@pytest.mark.parametrize(
    "name", ["x", "bias", "layer", "torch", "lead", "result", "lambda", "None", "npu__npu_dynamic_quant", "only", "rows", "item", "forward"]
)
def test_names_that_python_or_the_text_needs(name: str) -> None:
    total = ("+", ("+", ("cast", ("dtype_of", X), local(name)), X), ("cast", ("dtype_of", X), BIAS))
    forward = made(plan(line(f"{name} s", call(QUANT, X)), line("", ("*", total, ("size", "rows")))))
    x = numbers(5, 6)
    assert torch.equal(forward(Module(), x, bias=torch.ones(6)), (quant(x)[0] + x + 1) * 5)


def test_results() -> None:
    """The only result of a kernel that returns a list is that tensor; several results need several names."""
    inner = ("layer", "weights")
    options = {"group_list": ("cast", ("dtype", "int64"), BIAS), "split_item": const(2), "group_type": const(0)}
    nested = plan(line("", call(SWIGLU, call(GROUPED, ("list", X), inner, **options))), weights=kind("int8", (K,), (N,), listed="e"))
    x, ends = numbers(6, 6), torch.tensor([2, 2, 6])
    got = made(nested)(module := layer(nested), x, bias=ends)
    assert torch.equal(got, KERNELS[SWIGLU](*grouped([x], module.weights, group_list=ends)))
    for wrong in (line("y", call(QUANT, X)), line("a b", call(MATMUL, X, X, X))):
        assert refusal(lambda wrong=wrong: source(plan(wrong, line("", X)))) == "plan-invalid"
    with pytest.raises(ValueError):
        generate(nested, lambda op: (lambda *a, **k: [x, x]) if op == GROUPED else SWIGLU)(module, x, bias=ends)


def refusal(work: Callable[[], Any]) -> str:
    with pytest.raises(DiagnosticError) as caught:
        work()
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.message and "?" not in "".join((diagnostic.message, *diagnostic.notes, *diagnostic.helps))
    return diagnostic.code


# ---- views -------------------------------------------------------------------------------------------------------------------------------------------------

WIDE = kind("int4", (K,), (Digit("n", 8, 4),), storage="int32", lanes=(Digit("n", 1, 8),))
ROWS = Digit("rows", 1, "rows")
HIGH, LOW = Digit("k", 3, 2), Digit("k", 1, 3)
VIEWS: dict[str, tuple[TensorType, TensorType, str]] = {
    "nothing": (kind("int8", (K,), (N,)), kind("int8", (K,), (N,)), ""),
    "another element of the same bytes": (kind("int8", (K,), (N,)), kind("uint4", (K,), (N,), storage="int8", extension="zero"), ""),
    "transposed": (kind("int8", (K,), (N,)), kind("int8", (N,), (K,), order=(1, 0)), ".permute(1, 0)"),
    "transposed back": (kind("int8", (N,), (K,), order=(1, 0)), kind("int8", (K,), (N,)), ".permute(1, 0)"),
    "split": (kind("int8", (K,), (N,)), kind("int8", (HIGH,), (LOW,), (N,)), ".reshape(2, 3, 4)"),
    "merged": (kind("int8", (HIGH,), (LOW,), (N,)), kind("int8", (K,), (N,)), ".reshape(6, 4)"),
    "a dim of one element": (kind("int8", (N,), ()), kind("int8", (N,)), ".reshape(4)"),
    "one number": (kind("int8", ()), kind("int8"), ".reshape(())"),
    "wider": (replace(WIDE, storage="int8", dims=((K,), (Digit("n", 2, 16),)), lanes=(Digit("n", 1, 2),)), WIDE, ".view(torch.int32)"),
    "narrower": (WIDE, replace(WIDE, storage="int16", dims=((K,), (Digit("n", 4, 8),)), lanes=(Digit("n", 1, 4),)), ".view(torch.int16)"),
    "wider than the last dim": (
        kind("int8", (Digit("n", 2, 4),), (Digit("n", 1, 2),)),
        kind("opaque", (Digit("n", 4, 2),), storage="int32"),
        ".reshape(8).view(torch.int32)",
    ),
    "wider, and transposed": (
        kind("int8", (N,), (K,), order=(1, 0)),
        kind("opaque", (N,), (HIGH,), (LOW,), storage="int8", order=(1, 2, 0)),
        ".permute(1, 0).reshape(2, 3, 4).permute(2, 0, 1)",
    ),
    "narrower, turned, split and turned": (
        kind("opaque", (N,), (K,), storage="int16", order=(1, 0)),
        kind("opaque", (Digit("n", 1, 8),), (LOW,), (HIGH,), storage="int8", order=(2, 1, 0)),
        ".permute(1, 0).view(torch.int8).reshape(2, 3, 8).permute(2, 1, 0)",
    ),
    "rows split": (kind("float32", (ROWS,), (K,)), kind("float32", (ROWS,), (HIGH,), (LOW,)), ".reshape(-1, 2, 3)"),
    "rows merged": (kind("float32", (ROWS,), (HIGH,), (LOW,)), kind("float32", (ROWS,), (K,)), ".reshape(-1, 6)"),
    "rows turned": (kind("float32", (ROWS,), (K,)), kind("float32", (K,), (ROWS,), order=(1, 0)), ".permute(1, 0)"),
    "rows as bytes": (kind("int32", (ROWS,), (K,)), kind("opaque", (ROWS,), (Digit("k", 1, 24),), storage="int8"), ".view(torch.int8)"),
}


def with_rows(type: TensorType, rows: int) -> TensorType:
    return replace(type, dims=tuple(tuple(replace(d, ext=rows if d.ext == "rows" else d.ext) for d in dim) for dim in type.dims))


@pytest.mark.parametrize("name", VIEWS)
def test_views(name: str) -> None:
    """The memory under another type: what the executor of plans sees through strides, and no copy."""
    source_type, target_type, text = VIEWS[name]
    view = ("view", X, source_type, target_type)
    written = source(plan(line("y", view), line("", X)))
    assert f"    y = x{text}\n" in written
    ours, theirs = with_rows(source_type, 5), with_rows(target_type, 5)
    bytes_of = torch.arange(64 * 8, dtype=torch.int16).to(torch.uint8).view(getattr(torch, ours.storage))
    x = bytes_of.as_strided(ours.shape, ours.strides)
    got, want = eval(f"x{text}", {"torch": torch, "x": x}), restride(x, ours, theirs)
    assert (got.shape, got.stride(), got.dtype, got.data_ptr()) == (want.shape, want.stride(), want.dtype, want.data_ptr())


def test_views_of_lists_and_of_what_may_be_absent() -> None:
    turned = (kind("int8", (K,), (N,), listed="e"), kind("int8", (N,), (K,), order=(1, 0), listed="e"))
    column = (kind("float32", (N,)), kind("float32", (N,), ()))
    lines = (line("w", ("view", ("layer", "weights"), *turned)), line("b", ("view", BIAS, *column)), line("", call("npu::npu_any", X, local("w"), local("b"))))
    seen: list[Any] = []
    made_plan = plan(*lines, weights=turned[0])
    forward = generate(made_plan, lambda op: lambda x, w, b: seen.append((w, b)) or x)
    module = layer(made_plan)
    forward(module, numbers(2, 6))
    forward(module, numbers(2, 6), bias=numbers(4))
    assert [w.shape for w in seen[0][0]] == [(4, 6)] * 3 and all(ours.data_ptr() == w.data_ptr() for ours, w in zip(seen[0][0], module.weights))
    assert seen[0][1] is None and seen[1][1].shape == (4, 1)


# ---- experts -----------------------------------------------------------------------------------------------------------------------------------------------

GROUP_LIST, CALLERS = ("input", "group_list"), ("input", "group_list_type")
WIDTH = Digit("k", 1, 4)


def experts(*types: Any, lists: bool = False, scaled: bool = False) -> Plan:
    """Two grouped matmuls; ``types``: the group_list_type of each, None for none."""
    told = [{} if type is None else {"group_list_type": type if type == CALLERS else const(type)} for type in types]
    front: dict[str, Any] = {"listed": "e"} if lists else {}
    dims = [((K,), (N,)), ((WIDTH,), (Digit("n", 1, 6),))]
    tensors = {name: kind("float32", *(() if lists else ((E,),)), *dim, **front) for name, dim in zip(("w13", "w2"), dims)}
    weights = [("layer", name) if lists else ("list", ("layer", name)) for name in tensors]
    x = ("*", X, ("cast", ("dtype_of", X), ("view", X_SCALE, kind("float32", (ROWS,)), kind("float32", (ROWS,), ())))) if scaled else X
    return plan(
        line("h", call(GROUPED, ("list", x), weights[0], group_list=GROUP_LIST, **told[0])),
        line("", call(GROUPED, ("list", local("h")), weights[1], group_list=GROUP_LIST, **told[1])),
        **tensors,
    )


FUSED_EXPERTS = plan(
    line("xq xs", call(QUANT, X)),
    line("h hs _", call(FUSED, local("xq"), ("layer", "w13"), GROUP_LIST, ("layer", "w13"), local("xs"))),
    line("", call(GROUPED, ("list", local("h")), ("list", ("layer", "w2")), group_list=GROUP_LIST)),
    w13=kind("float32", (E,), (K,), (N,)),
    w2=kind("float32", (E,), (WIDTH,), (Digit("n", 1, 6),)),
)
WORLDS = {
    "counts": experts(1, 1),
    "cumsum": experts(0, None),
    "caller": experts(CALLERS, CALLERS),
    "caller and counts": experts(CALLERS, 1),
    "lists": experts(1, 1, lists=True),
    "fused": FUSED_EXPERTS,
}


def by_hand(plan: Plan, module: Module, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Each token through its experts, one at a time."""
    total = torch.zeros(len(x), 6)
    for token, choice in ((t, c) for t in range(len(x)) for c in range(ids.shape[1])):
        expert = int(ids[token, choice])
        if 0 <= expert < 3:
            row = x[token : token + 1]
            if plan is FUSED_EXPERTS:
                q, scale = quant(row)
                row = q * scale[:, None]
            total[token] += (row @ module.w13[expert] @ module.w2[expert])[0] * weights[token, choice]
    return total


IDS = {
    "one choice": [[0], [2], [1], [2]],
    "three choices": [[0, 1, 2], [2, 0, 1], [1, 2, 0]],
    "an expert without tokens": [[0, 2], [2, 0], [0, 2]],
    "the same expert twice": [[1, 1], [0, 0]],
    "one token": [[2, 1]],
    "no token": [],
    "experts of other ranks": [[0, 3], [-1, 2], [7, -5], [1, 2]],
    "other ranks only": [[3, -1], [9, 4]],
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", IDS)
def test_routing(world: str, name: str) -> None:
    made_plan, ids = WORLDS[world], torch.tensor(IDS[name], dtype=torch.int32).reshape(len(IDS[name]), -1 if IDS[name] else 2)
    module, x, weights = layer(made_plan), numbers(len(ids), 6), numbers(*ids.shape, seed=2)
    got = Forward(made_plan)(module, x, {"topk_ids": ids, "topk_weights": weights})
    torch.testing.assert_close(got, by_hand(made_plan, module, x, ids, weights))
    assert torch.isfinite(got).all()


def test_routing_of_batches_scales_and_dtypes() -> None:
    """[B, S, H] in and out, one rounding to the dtype of x; a scale goes with its token."""
    made_plan = experts(1, 1, scaled=True)
    module, ids, weights = layer(made_plan), torch.tensor([[0, 2], [1, -1], [2, 0], [3, 1], [0, 1], [2, 2]]), numbers(6, 2, seed=2)
    x, scale = numbers(6, 6).to(torch.bfloat16), torch.tensor([0.5, 1, 2, 4, 0.25, 8])
    inputs = {"topk_ids": ids.reshape(2, 3, 2), "topk_weights": weights.reshape(2, 3, 2), "x_scale": scale.reshape(2, 3)}
    got = Forward(made_plan)(module, x.reshape(2, 3, 6), inputs)
    want = by_hand(made_plan, module, x.float() * scale[:, None], ids, weights)
    assert got.dtype == torch.bfloat16 and got.shape == (2, 3, 6)
    torch.testing.assert_close(got.reshape(6, 6), want.to(torch.bfloat16))
    whole = Forward(made_plan)(module, torch.ones(6, 6, dtype=torch.int8), {"topk_ids": ids, "topk_weights": weights, "x_scale": scale})
    assert whole.dtype == torch.float32


@pytest.mark.parametrize("world", WORLDS)
def test_group_lists_of_the_caller(world: str) -> None:
    """Rows that are sorted already, told either way; the rows come back as they lie."""
    made_plan, x, counts = WORLDS[world], numbers(7, 6), torch.tensor([2, 0, 3], dtype=torch.int32)
    forward, module = Forward(made_plan), layer(made_plan)
    told = [forward(module, x, {"group_list": counts}), forward(module, x, {"group_list": counts, "group_list_type": 1})]
    told.append(forward(module, x, {"group_list": counts.cumsum(0), "group_list_type": 0}))
    ids = torch.tensor([[0], [0], [2], [2], [2]])
    for rows in told:
        assert rows.shape == (7, 6)
        torch.testing.assert_close(rows[:5], by_hand(made_plan, module, x[:5], ids, torch.ones(5, 1)))


OWN = "_C_ascend::own_grouped_matmul"
KINDS = [
    ((0, 0), "cumsum"),
    ((None, None), "cumsum"),
    ((1, 1), "counts"),
    ((CALLERS, CALLERS), "caller"),
    ((CALLERS, 0), "cumsum"),
    ((1, 0), "group-list-mixed"),
    ((None, 1), "group-list-mixed"),
    ((2, 2), "group-list-unknown"),
]


@pytest.mark.parametrize(("types", "wanted"), KINDS, ids=str)
def test_how_a_group_list_is_wanted(types: Any, wanted: str) -> None:
    lines = experts(*types).forward
    assert lines != "external"
    if "-" in wanted:
        assert refusal(lambda: group_list_kind(lines)) == wanted == refusal(lambda: source(experts(*types)))
        return
    assert group_list_kind(lines) == wanted


def test_how_a_group_list_is_wanted_by_kernels_that_cannot_be_told() -> None:
    carried = line("g", ("cast", ("dtype", "int32"), GROUP_LIST))
    assert group_list_kind([line("y", X)]) is None
    assert group_list_kind([line("", call(FUSED, X, X, GROUP_LIST, X, X))]) == "cumsum"
    assert group_list_kind([carried, line("", call("npu::npu_dequant_swiglu_quant", X, group_index=local("g")))]) == "counts"
    assert group_list_kind([line("", call(OWN, X, GROUP_LIST, group_list_type=const(1)))]) == "counts"
    assert refusal(lambda: group_list_kind([line("", call(OWN, X, GROUP_LIST))])) == "group-list-unknown"
    assert refusal(
        lambda: group_list_kind([carried, line("", call(GROUPED, call(FUSED, X, X, GROUP_LIST, X, X), X, group_list=local("g"), group_list_type=const(1)))])
    )


def test_experts_that_differ() -> None:
    other = plan(*WORLDS["counts"].forward, w13=kind("float32", (E,), (K,), (N,)), w2=kind("float32", (K,), (WIDTH,), (N,)))  # type: ignore[arg-type]
    assert refusal(lambda: source(other)) == "plan-invalid"


# ---- what a caller passes ----------------------------------------------------------------------------------------------------------------------------------

T, PAIRS = numbers(4, 6), {"topk_ids": torch.zeros(4, 2, dtype=torch.int64), "topk_weights": torch.ones(4, 2)}
LISTED = {"group_list": torch.tensor([1, 2, 1])}
UNBIASED = plan(line("", X))
REFUSED: dict[str, tuple[Plan, torch.Tensor, dict[str, Any]]] = {
    "no dims for rows": (LINEAR, numbers(6), {}),
    "an unknown input": (LINEAR, T, {"gate": T}),
    "a bias that nobody reads": (UNBIASED, T, {"bias": T}),
    "a routing that nobody reads": (LINEAR, T, PAIRS),
    "a scale of other rows": (LINEAR, T, {"x_scale": numbers(3)}),
    "neither routing nor list": (WORLDS["counts"], T, {}),
    "routing and list": (WORLDS["counts"], T, PAIRS | LISTED),
    "ids without weights": (WORLDS["counts"], T, {"topk_ids": PAIRS["topk_ids"]}),
    "a type without a list": (WORLDS["counts"], T, {"group_list_type": 1}),
    "a type that nobody makes": (WORLDS["counts"], T, {**LISTED, "group_list_type": 2}),
    "a list for other experts": (WORLDS["counts"], T, {"group_list": torch.tensor([1, 2])}),
    "ids of other tokens": (WORLDS["counts"], T, {name: value[:3] for name, value in PAIRS.items()}),
    "weights of another shape": (WORLDS["counts"], T, {**PAIRS, "topk_weights": torch.ones(4, 1)}),
    "ids without choices": (WORLDS["counts"], T, {name: value[:, 0] for name, value in PAIRS.items()}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_inputs(name: str) -> None:
    made_plan, x, inputs = REFUSED[name]
    assert refusal(lambda: Forward(made_plan)(layer(made_plan), x, inputs)) == "forward-inputs"


def test_absent_inputs_are_none() -> None:
    assert torch.equal(Forward(UNBIASED)(Module(), T, {"bias": None, "topk_ids": None}), T)


def test_the_public_face() -> None:
    face = layoutdsl.Plan(LINEAR, LINEAR)
    assert face.forward_source == source(LINEAR)
    module = layer(LINEAR)
    assert torch.equal(face.forward(module, T, bias=torch.ones(4)), made(LINEAR)(module, T, bias=torch.ones(4)))
    assert face.forward_function("cpu") is face.forward_function("cpu")
    assert torch.equal(pickle.loads(pickle.dumps(face)).forward(module, T), face.forward(module, T))
    del module.scale
    assert refusal(lambda: face.forward(module, T)) == "tensor-missing"
    outside = layoutdsl.Plan(replace(LINEAR, forward="external"), replace(LINEAR, forward="external"))
    assert refusal(lambda: outside.forward(module, T)) == refusal(lambda: outside.forward_source) == "forward-external"
    assert refusal(lambda: layoutdsl.Plan(LINEAR).forward_source) == "size-missing"


def test_other_errors_stay_what_they_are() -> None:
    forward = Forward(plan(line("", call(SWIGLU, X))))
    forward._functions["cpu"] = generate(forward.plan, lambda op: lambda x: x.nothing_of_that_name)
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        forward(Module(), T, {})


def test_external_on_one_path() -> None:
    forward = made(plan(line("", ("external",), ("given", BIAS)), line("", X, ("not", ("given", BIAS)))))
    assert torch.equal(forward(Module(), T), T)
    assert refusal(lambda: forward(Module(), T, bias=T)) == "forward-external"


def test_a_function_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(runtime_forward, "find_kernel", lambda op, device: asked.append(op) or KERNELS[op])
    face = layoutdsl.Plan(LINEAR, LINEAR)
    for _ in range(3):
        face.forward(layer(LINEAR), T)
    assert sorted(asked) == sorted([QUANT, MATMUL])


def test_tensors_of_submodules() -> None:
    made_plan = plan(line("", ("*", X, ("layer", "fa.lambda.scale"))), **{"fa.lambda.scale": kind("float32", ())})
    module = Module()
    module.add_module("fa", Module())
    module.fa.add_module("lambda", Module())
    getattr(module.fa, "lambda").scale = torch.tensor([3.0])
    assert torch.equal(made(made_plan)(module, T), T * 3)
    assert python_source(made_plan).tensors == ("fa.lambda.scale",)


# ---- one graph ---------------------------------------------------------------------------------------------------------------------------------------------

ROUTING = {"topk_ids": torch.tensor([[0, 5], [2, 1], [-1, 1], [1, 1], [2, 0]]), "topk_weights": torch.rand(5, 2)}
CALLS: dict[str, tuple[Plan, dict[str, Any]]] = {
    "linear": (LINEAR, {}),
    "bias": (LINEAR, {"bias": torch.ones(4)}),
    "quantized": (LINEAR, {"x_scale": torch.ones(5)}),
    **{f"routed {name}": (made_plan, ROUTING) for name, made_plan in WORLDS.items()},
    "listed": (WORLDS["cumsum"], LISTED),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_graph(name: str) -> None:
    """torch.compile sees straight-line code, through the public face too, and more rows make no second graph."""
    torch._dynamo.reset()
    made_plan, inputs = CALLS[name]
    face, module, graphs = layoutdsl.Plan(made_plan, made_plan), layer(made_plan), CompileCounter()
    more = {name: torch.cat([value, value]) if name in ("x_scale", *PAIRS) else value for name, value in inputs.items()}
    x = numbers(5, 6)
    pairs = [(x, inputs), (torch.cat([x, -x]), more)]
    eager = [face.forward(module, x, **given) for x, given in pairs]
    compiled = torch.compile(face.forward, fullgraph=True, dynamic=True, backend=graphs)
    for (x, given), want in zip(pairs, eager):
        torch.testing.assert_close(compiled(module, x, **given), want, rtol=0, atol=0, equal_nan=True)
    assert graphs.frame_count == 1
