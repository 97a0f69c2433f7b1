"""``bitcast(T)``: another storage dtype over the same bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from layoutdsl.ir.dtypes import ELEMENTS, STORAGES
from layoutdsl.ir.layout import Digit, Reject, Space, TensorType, cut, dims_text, letter, with_dims
from layoutdsl.ir.symbolic import Proved, Size
from layoutdsl.ops.base import Arguments, Example, Op, Parameter, Place, Position, Rejected, last_run, register


@register
class Bitcast(Op):
    """Bytes stay, little-endian. Wider: the fastest digit of the last dim gives its minor part to the lanes, in front, because a higher address means
    higher bits.
    Narrower: the front lanes become the end of the last dim. A FRACTAL_NZ value keeps its block width in bytes."""

    name = "bitcast"
    summary = "other storage dtype over the same bytes"
    parameters = (Parameter("storage", "storage"),)
    alias = "must"
    examples = (
        Example("int4[n, k] in int8[k, n//2 | n%2]", "bitcast(int32)", "int4[n, k] in int32[k, n//8 | n%8]"),
        Example("int4[n, k] in int32[k, n//8 | n%8]", "bitcast(int8)", "int4[n, k] in int8[k, n//2 | n%2]"),
        Example("float32[n]", "bitcast(int32)", "float32[n] in int32[n]"),
        Example("int8[e, n, k] in int8[n, 0, e, k] over [e, n, k, 0]", "bitcast(int32)", "int8[e, n, k] in int32[n, 0, e, k//4 | k%4] over [e, n, 0, k//4]"),
        Example("int4[n, k] in int8[n, k]", "bitcast(uint8)", "int4[n, k] in sext uint8[n, k]"),
        Example("int4[n, k] in int8[k, n//2 | n%2] over nz[k, n//2]", "bitcast(int32)", "int4[n, k] in int32[k, n//8 | n%8] over nz[k, n//8]"),
    )
    rejected = (
        Rejected("int4[n, k] in int8[n, k]", "bitcast(int32)", "bitcast-by-value"),
        Rejected("e2m1[n, k] in float32[n, k]", "bitcast(int32)", "bitcast-by-value"),
        Rejected("int4[n, k] in zext uint8[n, k]", "bitcast(int8)", "bitcast-by-value"),
        Rejected("float32[n]", "bitcast(int8)", "bitcast-splits-element"),
        Rejected("int8[n, k] in int8[k, n] over [n, k]", "bitcast(int32)", "bitcast-not-fastest"),
        Rejected("int8[k, e]", "bitcast(int32)", "bitcast-indivisible"),
        Rejected("int8[n, k]", "bitcast(int8)", "no-op"),
    )

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        old, new = STORAGES[kind.storage], STORAGES[args["storage"]]
        if old is new:
            raise Reject("no-op", f"`bitcast({new.name})`: the storage is {new.name} already", helps=["drop the stage"])
        if old.bits == new.bits:
            return _same_width(kind, new.name)
        if kind.carriage == "value" or (kind.carriage == "bits" and kind.extension):
            carried = f"{kind.element.name} is carried by value in {old.name}" if kind.carriage == "value" else f"{old.name} holds extended {kind.element.name}"
            raise Reject("bitcast-by-value", f"`bitcast({new.name})` joins or splits bytes, but {carried}: nothing is packed", helps=["`pack` first"])
        kind = _last_last(kind)
        if not kind.contiguous and kind.order[-1] != len(kind.dims) - 1:
            where = dims_text(space, [kind.dims[d] for d in kind.order])
            message = f"`bitcast({new.name})` joins neighbours of the last dim, which is not the fastest in memory"
            raise Reject("bitcast-not-fastest", message, [f"in memory it is [{where}]"], ["write `contiguous` before it"])
        if kind.contiguous:
            kind = with_dims(kind, kind.dims)  # dims of one index may stand anywhere in memory; the lanes that follow may not
        return _wider(space, kind, new.name, new.bits // old.bits) if new.bits > old.bits else _narrower(space, kind, new.name, old.bits // new.bits)

    def source_of(self, position: Position, before: Place, after: Place, kind: TensorType, args: Arguments, space: Space) -> Position | None:
        *index, last = position[0]
        slot = last * after.lanes + position[1]
        return (*index, slot // before.lanes), slot % before.lanes


def _last_last(kind: TensorType) -> TensorType:
    """Dims of one index may stand anywhere in memory (ND): where only they stand behind the last dim, it is the fastest."""
    last, real = len(kind.dims) - 1, [d for d in kind.order if not all(digit.unit for digit in kind.dims[d])]
    if kind.format or not real or real[-1] != last:
        return kind
    return with_dims(kind, kind.dims, (*(d for d in kind.order if d != last), last))


def _same_width(kind: TensorType, storage: str) -> TensorType:
    """What fills the slot beside the element's bits stays, so the new type must say the same of it."""
    if kind.lanes or kind.element_bits == STORAGES[storage].bits:
        return replace(kind, storage=storage, extension=None)
    after = replace(kind, storage=storage, extension=_fill(kind))
    if after.carriage == "value":
        after = replace(after, extension=None)
    if _fill(kind) is None or _fill(after) != _fill(kind):
        message = f"{kind.element.name} in {kind.storage} is not {kind.element.name} in {storage} with the same bytes"
        raise Reject("bitcast-by-value", message, helps=[f"`relayout` to {storage} writes what {storage} wants"])
    return after


def _fill(kind: TensorType) -> Literal["zero", "sign"] | None:
    """How a slot that is wider than its element is filled; None where it holds the value as a float."""
    if kind.carriage != "value":
        return kind.extension
    match ELEMENTS[kind.element.name].kind:
        case "float":
            return None
        case "int" if not kind.element.excess:
            return "sign"
    return "zero"


def _wider(space: Space, kind: TensorType, storage: str, ratio: int) -> TensorType:
    run = last_run(kind)
    if not run:
        raise Reject("bitcast-indivisible", f"the last dim has one element, {ratio} make one {storage}")
    last = run[-1]
    parts = cut(space, last, Size.of(ratio))
    if parts is None:
        name, extent = letter(last.axis), space.text(last.ext)
        need = f"{name.upper()} % {space.text(last.div * ratio)} == 0" if last.top else f"{extent} % {ratio} == 0"
        message = f"`bitcast({storage})` joins {ratio} {kind.storage} along `{name}`, which needs `{need}`, and nothing guarantees it"
        space.need(space.facts.divisible(last.ext, ratio), "bitcast-indivisible", message, [f"add `{need}` to `require`"])
        raise AssertionError("a refused proof")
    major, minor = parts
    dims = (*kind.dims[:-1], (*run[:-1], major))
    return replace(with_dims(kind, dims, kind.order), storage=storage, lanes=(minor, *kind.lanes))


def _narrower(space: Space, kind: TensorType, storage: str, ratio: int) -> TensorType:
    taken: list[Digit] = []
    lanes, left = list(kind.lanes), Size.of(ratio)
    while left != 1:
        if not lanes:
            raise Reject("bitcast-splits-element", f"one {kind.element.name} does not fit into {storage}")
        digit = lanes.pop(0)
        if isinstance(space.facts.divisible(left, digit.ext), Proved):
            taken.append(digit)
            left = space.facts.div(left, digit.ext)
            continue
        parts = cut(space, digit, space.facts.div(digit.ext, left))
        if parts is None:
            raise Reject("bitcast-splits-element", f"the lanes do not divide into {ratio} parts")
        taken.append(parts[0])
        lanes.insert(0, parts[1])
        left = Size.of(1)
    dims = (*kind.dims[:-1], (*kind.dims[-1], *taken))
    return replace(with_dims(kind, dims, kind.order), storage=storage, lanes=tuple(lanes))
