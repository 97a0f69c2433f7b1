"""Plans written by hand: the linear layer and the experts of W4A8_DYNAMIC, unpacked, with group scales of 32. For all sizes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from layoutdsl.plan.model import Alias, Compute, Condition, Digit, Input, Instruction, Kind, Move, Opaque, Output, Plan, TensorType
from layoutdsl.plan.sizes import SizeExpr

Dims = tuple[tuple[Digit, ...], ...]
GROUP = 32


def kind(element: str, *dims: tuple[Digit, ...], storage: str = "", **fields: Any) -> TensorType:
    base = TensorType(element, 0, storage or element, "", dims, (), tuple(range(len(dims))), 0, (), "")
    return replace(base, **fields)


def f32(expr: tuple[Any, ...]) -> tuple[Any, ...]:
    return ("cast", "float32", expr)


def at(value: str) -> tuple[Any, ...]:
    return ("at", value, ())


@dataclass
class Writer:
    """Numbers the values of a plan as they are written down."""

    inputs: list[Input] = field(default_factory=list)
    code: list[Instruction] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)

    def fresh(self) -> str:
        return f"v{len(self.inputs) + len(self.code)}"

    def input(self, name: str, type: TensorType, default: Any = None) -> str:
        assert not self.code
        self.inputs.append(Input(self.fresh(), name, type, default, ()))
        return self.inputs[-1].id

    def move(self, of: str, type: TensorType, alias: Alias) -> str:
        self.code.append(Move(self.fresh(), of, type, alias, "move"))
        return self.code[-1].id

    def compute(self, type: TensorType, expr: tuple[Any, ...]) -> str:
        self.code.append(Compute(self.fresh(), type, expr, "compute"))
        return self.code[-1].id

    def nz(self, of: str) -> str:
        source = next(node.type for node in (*self.inputs, *self.code) if node.id == of)
        self.code.append(Opaque(self.fresh(), "format_cast", of, replace(source, format=32), (("format", 29),), "nz"))
        return self.code[-1].id

    def output(self, name: str, value: str, kind: Kind = "parameter", bits: Any = "exact") -> None:
        self.outputs.append(Output(name, value, kind, bits, "rebuild"))

    def plan(self, sizes: tuple[str, ...], axes: tuple[tuple[str, SizeExpr], ...], layer: str = "linear", require: tuple[Condition, ...] = ()) -> Plan:
        return Plan("W4A8_DYNAMIC", layer, "", (), sizes, axes, require, (), tuple(self.inputs), tuple(self.code), tuple(self.outputs), "external")


def linear(params_dtype: str = "bfloat16") -> Plan:
    n, k, groups, packed = Digit("n", 1, "N"), Digit("k", 1, "K"), Digit("k", GROUP, ("cdiv", "K", GROUP)), Digit("n", 8, ("/", "N", 8))
    w = Writer()
    weight = w.input("weight", kind("int4", (n,), (k,), storage="int8"))
    scale = w.input("weight_scale", kind(params_dtype, (n,), ()))
    offset = w.input("weight_offset", kind(params_dtype, (n,), ()))
    second = w.input("weight_scale_second", kind(params_dtype, (n,), (groups,)))
    offset_second = w.input("weight_offset_second", kind(params_dtype, (n,), (groups,)))
    turned = w.move(weight, kind("int4", (k,), (n,), storage="int8", order=(1, 0)), "must")
    dense = w.move(turned, kind("int4", (k,), (n,), storage="int8"), "never")
    cast = w.nz(dense)
    scale = w.compute(kind("float32", (n,)), f32(at(w.move(scale, kind(params_dtype, (n,)), "must"))))
    offset = w.move(offset, kind(params_dtype, (n,)), "must")
    body = ("*", ("*", f32(at(cast)), f32(at(second))), at(scale))
    bias = w.compute(kind("float32", (n,)), ("*", ("const", "float32", 8), ("sum", (k,), (k, n), body)))
    product = w.compute(kind("float32", (groups,), (n,)), ("*", at(scale), f32(at(second))))
    weight = w.move(cast, kind("int4", (k,), (packed,), storage="int32", lanes=(Digit("n", 1, 8),), format=32), "never")
    for name, value in (("weight", weight), ("weight_scale", scale), ("weight_offset", offset), ("weight_scale_second", product)):
        w.output(name, value)
    w.output("weight_offset_second", offset_second)
    w.output("weight_scale_bias", bias, bits="sum")
    require = (Condition("N % 8 == 0", ("==", ("%", "N", 8), 0)),)
    return w.plan(("N", "K"), (("n", "N"), ("k", "K")), require=require)


def experts(lists: bool = False) -> Plan:
    """w13 and w2. lists: the packed weights also as clones per expert, the biases also as views per expert."""
    w = Writer()
    members = {"w13": (("*", 2, "I"), "H"), "w2": ("H", "I")}
    given = {p: _expert_inputs(w, p, *members[p]) for p in members}
    for p, (rows, columns) in members.items():
        _expert_steps(w, p, rows, columns, *given[p], lists=lists)
    axes = tuple((f"{p}.{axis}", extent) for p in members for axis, extent in zip("nk", members[p]))
    return w.plan(("E", "I", "H"), (("e", "E"), *axes), layer="moe")


def _digits(p: str, rows: SizeExpr, columns: SizeExpr) -> tuple[Digit, Digit, Digit, Digit]:
    return Digit("e", 1, "E"), Digit(f"{p}.n", 1, rows), Digit(f"{p}.k", 1, columns), Digit(f"{p}.k", GROUP, ("cdiv", columns, GROUP))


def _expert_inputs(w: Writer, p: str, rows: SizeExpr, columns: SizeExpr) -> tuple[str, str, str, str]:
    e, n, k, groups = _digits(p, rows, columns)
    whole = Digit(f"{p}.k", columns, 1)
    weight = w.input(f"{p}_weight", kind("int4", (e,), (n,), (k,), storage="int8"))
    scale = w.input(f"{p}_weight_scale", kind("float32", (e,), (n,), (whole,)))
    offset = w.input(f"{p}_weight_offset", kind("float32", (e,), (n,), (whole,)))
    second = w.input(f"{p}_weight_scale_second", kind("float32", (e,), (n,), (groups,)))
    w.input(f"{p}_weight_offset_second", kind("float32", (e,), (n,), (groups,)))
    return weight, scale, offset, second


def _expert_steps(w: Writer, p: str, rows: SizeExpr, columns: SizeExpr, weight: str, scale: str, offset: str, second: str, lists: bool) -> None:
    e, n, k, groups = _digits(p, rows, columns)
    packed, lanes = Digit(f"{p}.n", 8, ("/", rows, 8)), (Digit(f"{p}.n", 1, 8),)
    turned = w.move(weight, kind("int4", (e,), (k,), (n,), storage="int8", order=(0, 2, 1)), "must")
    dense = w.move(turned, kind("int4", (e,), (k,), (n,), storage="int8"), "never")
    body = ("*", ("*", f32(at(dense)), at(second)), at(scale))
    bias = w.compute(kind("float32", (e,), (n,)), ("*", ("const", "float32", 8), ("sum", (k,), (e, k, n), body)))
    product = w.compute(kind("float32", (e,), (groups,), (n,)), f32(("cast", "float16", ("*", at(scale), at(second)))))
    wide = w.move(product, kind("float32", (e,), (groups,), (n,), storage="int64", extension="zero"), "never")
    int32 = w.move(w.nz(dense), kind("int4", (e,), (k,), (packed,), storage="int32", lanes=lanes, format=32), "never")
    w.output(f"{p}_weight", int32)
    w.output(f"{p}_weight_scale", wide)
    w.output(f"{p}_weight_offset", offset)
    w.output(f"{p}_scale_bias", bias, bits="sum")
    if lists:
        element = kind("int4", (k,), (packed,), storage="int32", lanes=lanes, format=32, listed="e")
        w.output(f"{p}_weight_list", w.move(w.move(int32, element, "must"), element, "never"), "list")
        w.output(f"{p}_scale_bias_list", w.move(bias, kind("float32", (n,), listed="e"), "must"), "list")
