"""Plans for the tests of this folder: small, by hand, together using every kind of node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from layoutdsl.plan.model import Call, Compute, Condition, Digit, Input, Limit, Move, Opaque, Output, Pad, Plan, TensorType


def kind(element: str, *dims: tuple[Digit, ...], storage: str = "", **fields: Any) -> TensorType:
    base = TensorType(element, 0, storage or element, "", dims, (), tuple(range(len(dims))), 0, (), "")
    return replace(base, **fields)


N, K = Digit("n", 1, "N"), Digit("k", 1, "K")
GROUPS = Digit("k", 32, ("cdiv", "K", 32))
PACKED = kind("int4", (K,), (Digit("n", 8, ("/", "N", 8)),), storage="int32", lanes=(Digit("n", 1, 8),))
BODY = ("*", ("cast", "float32", ("at", "v0", ())), ("cast", "float32", ("at", "v1", ())))
ROWS = Digit("rows", 1, "rows")
X, BIAS, X_SCALE = ("input", "x"), ("input", "bias"), ("input", "x_scale")
X_TURNED = ("view", X, kind("bfloat16", (ROWS,), (K,)), kind("bfloat16", (K,), (ROWS,), order=(1, 0)))
BYTES = ("view", ("layer", "weight"), PACKED, kind("int4", (K,), (Digit("n", 2, ("/", "N", 2)),), storage="int8", lanes=(Digit("n", 1, 2),)))
KEYWORDS = (
    ("scale", ("list", ("const", 1.5), ("const", None))),
    ("size", ("size", ("/", "N", 8))),
    ("rows", ("size", ("*", ("//", "N", 2), "rows"))),
    ("bias", ("cast", ("dtype", "float32"), BIAS)),
    ("word", ("const", '"\n')),
)
IS_HALF = ("==", ("dtype_of", X), ("dtype", "float16"))


def small_forward() -> tuple[Call, ...]:
    """Every form of a forward, two paths through it."""
    return (
        Call(("q", "_"), ("call", "npu::npu_small_quant", (X,), (("dst_type", ("dtype", "int8")),)), ("not", ("given", X_SCALE))),
        Call(("q",), X, ("given", X_SCALE)),
        Call(("y",), ("call", "npu::npu_small", (("local", "q"), BYTES, X_TURNED), KEYWORDS), ("const", True)),
        Call((), ("if", ("and", ("given", BIAS), IS_HALF), ("+", ("local", "y"), BIAS), ("neg", ("local", "y"))), ("const", True)),
    )


def small_plan() -> Plan:
    """int4 weights [n, k] with group scales: packed along n, and a column sum."""
    return Plan(
        scheme="SMALL",
        layer="linear",
        spec_hash="sha256:0",
        config=(("group_size", 32), ("version", "0"), ("nz", True), ("ratio", 0.5), ("absent", None), ("devices", ("a2", "a3"))),
        sizes=("N", "K"),
        axes=(("n", "N"), ("k", "K"), ("z", 0), ("two", 2)),
        require=(Condition("N % 8 == 0", ("==", ("%", "N", 8), 0)), Condition("K >= 32", (">=", "K", 32))),
        limits=(Limit("K <= 65535", ("<=", "K", 65535), "npu_small", "op document"),),
        inputs=(
            Input("v0", "weight", kind("int4", (N,), (K,), storage="int8"), None, (("output_dim", 0), ("quant_method", "group"))),
            Input("v1", "scale", kind("bfloat16", (N,), (GROUPS,)), None, ()),
            Input("v2", "offset", kind("float32", (N,)), 0.5, ()),
            Input("v3", "spare", kind("int8", (N,)), "uninitialised", ()),
        ),
        code=(
            Move("v4", "v0", kind("int4", (K,), (N,), storage="int8", order=(1, 0)), "must", "weight: transpose(k, n)"),
            Move("v5", "v4", PACKED, "never", "weight: pack(n, int32)"),
            Opaque("v6", "format_cast", "v5", replace(PACKED, format=32), (("format", 29),), "weight: nz"),
            Compute("v7", kind("float32", (N,)), ("*", ("const", "float32", 8), ("sum", (K,), (K, N), BODY)), "bias"),
            Compute(
                "v8", kind("float32", (N,)), ("neg", ("+", ("at", "v7", (("n", ("-", ("-", "N", 1), ("loop", "n", 1))),)), ("const", "float32", 0.5))), "turned"
            ),
            Move("v9", "v2", kind("float32", (N,), pads=(Pad("n", "N", 0),)), "may", "offset"),
        ),
        outputs=(
            Output("weight", "v6", "parameter", "exact", "permute"),
            Output("bias", "v7", "buffer", "sum", "derived"),
            Output("turned", "v8", "attribute", "sum", "derived"),
            Output("offset", "v9", "parameter", "exact", "alias"),
            Output("spare", "v3", "parameter", "exact", "alias"),
        ),
        forward=small_forward(),
    )
