"""``view [dims]``: the same bytes under other dimension boundaries."""

from __future__ import annotations

from collections.abc import Sequence

from layoutdsl.ir.layout import Digit, Dim, Reject, Space, TensorType, at_capacity, digit_text, dim_text, dims_text, refine, with_dims
from layoutdsl.ops.base import Arguments, Example, Op, Parameter, Place, Position, Rejected, need_nd, register


@register
class View(Op):
    """Splits, merges, drops and adds dims of one index. Every new dim must be a run of digits that is consecutive in memory, so no copy is ever hidden."""

    name = "view"
    summary = "same bytes, other dimension boundaries and order, if the strides allow it"
    parameters = (Parameter("dims", "dims"),)
    alias = "must"
    examples = (
        Example("float32[n, 0]", "view [n]", "float32[n]"),
        Example("float32[e, n]", "view [(e, n)]", "float32[e, n] in float32[(e, n)]"),
        Example("uint8[n, k]", "view [n, k//64, k%64]", "uint8[n, k] in uint8[n, k//64, k%64]"),
        Example("int8[n, k]", "view [k, n]", "int8[n, k] in int8[k, n] over [n, k]"),
    )
    rejected = (
        Rejected("int8[n, k] in int8[k, n] over [n, k]", "view [(k, n)]", "view-not-consecutive"),
        Rejected("int8[n, k]", "view [n]", "view-digits-differ"),
        Rejected("int8[n, k]", "view [n, k//100, k%100]", "view-digits-differ"),
        Rejected("int8[n, k] over nz[n, k]", "view [(n, k)]", "movement-on-nz"),
    )

    def result(self, space: Space, kind: TensorType, args: Arguments) -> TensorType:
        need_nd(kind, "`view`")
        wanted = tuple(tuple(at_capacity(space, kind, digit) for digit in dim) for dim in args["dims"])
        memory = refine(space, _real(space, kind.memory), [d for dim in wanted for d in dim])
        dims = [refine(space, _real(space, dim), memory) for dim in wanted]
        _same_digits(space, kind, memory, dims)
        starts = [_start(space, memory, atoms, dim) for atoms, dim in zip(dims, wanted)]
        return with_dims(kind, wanted, _order(starts))

    def source_of(self, position: Position, before: Place, after: Place, kind: TensorType, args: Arguments, space: Space) -> Position | None:
        offset = sum(i * stride for i, stride in zip(position[0], after.strides))
        return tuple(offset // stride % extent for stride, extent in zip(before.strides, before.shape)), position[1]


def _real(space: Space, digits: Sequence[Digit]) -> list[Digit]:
    return [digit for digit in digits if not digit.unit]


def _same_digits(space: Space, kind: TensorType, memory: list[Digit], dims: list[list[Digit]]) -> None:
    ours, theirs = set(memory), {digit for dim in dims for digit in dim}
    if ours == theirs and len(memory) == sum(map(len, dims)):
        return
    missing = ", ".join(f"`{digit_text(space, digit)}`" for digit in memory if digit not in theirs)
    extra = ", ".join(f"`{digit_text(space, digit)}`" for dim in dims for digit in dim if digit not in ours)
    notes = [f"{text} {digits}" for text, digits in (("left over:", missing), ("not there:", extra)) if digits]
    helps = []
    for dim in dims:
        for digit in dim:
            if digit not in ours and digit.div != 1:
                name = digit.axis.rpartition(".")[2]
                helps.append(
                    f"a split of `{name}` by {space.text(digit.div)} needs a proof that nothing is left over: `require` it, or `pad({name}, ...)` first"
                )
    raise Reject("view-digits-differ", f"the dims do not hold the digits of [{dims_text(space, kind.dims)}]", notes, helps[:1])


def _start(space: Space, memory: list[Digit], atoms: list[Digit], dim: Dim) -> int | None:
    if not atoms:
        return None
    start = memory.index(atoms[0])
    if memory[start : start + len(atoms)] != atoms:
        raise Reject(
            "view-not-consecutive",
            f"`{dim_text(space, dim)}` is not one run in memory, which holds [{', '.join(digit_text(space, d) for d in memory)}]",
            helps=["write `contiguous` before it"],
        )
    return start


def _order(starts: list[int | None]) -> list[int]:
    """Dims by their place in memory; a dim of one index goes where it is seen, after the dim before it."""
    keys: list[tuple[int, int]] = []
    for i, start in enumerate(starts):
        keys.append((keys[-1][0] if keys else -1, i) if start is None else (start, i))
    return sorted(range(len(starts)), key=lambda i: keys[i])
