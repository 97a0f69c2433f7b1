"""Type texts to tensor types: elements, storages, dims, lanes, memory order, padding; and the well-formedness proof."""

from __future__ import annotations

from dataclasses import replace

from layoutdsl.compiler.evaluate import DtypeName, fail
from layoutdsl.compiler.helps import help_for
from layoutdsl.compiler.scope import Context
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Span
from layoutdsl.ir.dtypes import ELEMENTS, STORAGES
from layoutdsl.ir.layout import Digit, Dim, Element, Pad, Reject, TensorType, check_well_formed, merge
from layoutdsl.ir.symbolic import Size
from layoutdsl.syntax.tree import Entry, LayoutText, PadText, TypeText


def reject(error: Reject, span: Span, label: str = "") -> DiagnosticError:
    """A refusal of the algebra as a diagnostic at its place."""
    helps = error.helps or help_for(error.code)
    return DiagnosticError(Diagnostic(code=error.code, message=error.message, span=span, label=label, notes=error.notes, helps=helps))


def dtype_name(context: Context, name: str, span: Span) -> str:
    """An element or storage name: ours, torch's, or a name of ``let`` or config that stands for one."""
    if name in ELEMENTS:
        return name
    value = context.lookup(name, span)
    if not isinstance(value, DtypeName):
        fail("not-a-dtype", span, f"`{name}` is not a dtype", helps=(f"elements: {', '.join(ELEMENTS)}",))
    return str(value)


def tensor_type(text: TypeText, context: Context) -> TensorType:
    """The type that a text states. Raises DiagnosticError (rules of docs/language.md, types)."""
    return context.memo.once((text,), lambda: _tensor_type(text, context))


def _tensor_type(text: TypeText, context: Context) -> TensorType:
    element = Element(dtype_name(context, text.element.name, text.element.span), text.element.excess)
    logical_dims = context.dims(text.logical)
    logical = tuple(digit for dim in logical_dims for digit in dim)
    native = ELEMENTS[element.name].native
    if text.layout is None:
        if native is None:
            fail(
                "storage-missing",
                text.span,
                f"no torch dtype is {element.name}, so the type must say what stores it",
                helps=(f"write `{text.span.text} in int8[...]`",),
            )
        kind = TensorType(element, native, logical_dims, logical, tuple(range(len(logical_dims))))
    else:
        kind = _with_layout(element, logical, text.layout, context)
    kind = replace(kind, pads=tuple(_pad(pad, context) for pad in text.pads))
    if text.pads:
        kind = _raise_capacity(kind, context)
    try:
        check_well_formed(context.space, kind)
    except Reject as error:
        raise reject(error, text.span) from None
    return kind


def _with_layout(element: Element, logical: tuple[Digit, ...], text: LayoutText, context: Context) -> TensorType:
    storage = dtype_name(context, text.storage, text.storage_span)
    if storage not in STORAGES:
        storage = ELEMENTS[storage].native or fail("not-a-storage", text.storage_span, f"`{storage}` is an element, not a dtype that torch can store")
    dims = context.dims(text.dims)
    lanes = tuple(digit for dim in context.dims(text.lanes) for digit in dim)
    order, width = tuple(range(len(dims))), 0
    if text.order is not None:
        order = _memory_order(dims, text.order, context)
    if text.format not in (None, "nd"):
        if text.format != "nz":
            fail("format-unknown", text.span, f"`{text.format}` is not a format", helps=("known: nd, nz, nz(BYTES)",))
        width = text.width or 32
    extension = {None: None, "zext": "zero", "sext": "sign"}[text.extension]
    return TensorType(element, storage, dims, logical, order, lanes, extension, width)  # type: ignore[arg-type]


def _memory_order(dims: tuple[Dim, ...], entries: tuple[Entry, ...], context: Context) -> tuple[int, ...]:
    """``over [...]`` lists the same dims in memory order."""
    order: list[int] = []
    for entry in entries:
        wanted = context.dim(entry)
        place = next((i for i, dim in enumerate(dims) if i not in order and merge(dim) == merge(wanted)), None)
        if place is None:
            fail(
                "over-dims-differ",
                entry.span,
                f"`{entry.span.text}` is not one of the dims as seen",
                helps=("`over` lists the same dims, slowest in memory first",),
            )
        order.append(place)
    if len(order) != len(dims):
        fail("over-dims-differ", entries[0].span, f"`over` lists {len(order)} of {len(dims)} dims")
    return tuple(order)


def _pad(text: PadText, context: Context) -> Pad:
    axis = context.axes.get(text.axis)
    if axis is None:
        fail("not-an-axis", text.span, f"`{text.axis}` is not an axis", helps=(f"axes: {', '.join(context.axes)}",))
    multiple = context.divisor(text.multiple)
    return Pad(axis, multiple * context.facts.cdiv(context.space.extents[axis], multiple), text.fill)


def _raise_capacity(kind: TensorType, context: Context) -> TensorType:
    """Top digits of a padded axis reach its capacity."""

    def raised(digit: Digit) -> Digit:
        pad = next((pad for pad in kind.pads if pad.axis == digit.axis), None)
        return replace(digit, ext=context.facts.cdiv(pad.capacity, digit.div)) if pad is not None and digit.top else digit

    return replace(kind, dims=tuple(tuple(map(raised, dim)) for dim in kind.dims), lanes=tuple(map(raised, kind.lanes)))


def native_type(element: str, dims: tuple[Dim, ...]) -> TensorType:
    """A contiguous native tensor over the dims: what index math makes."""
    native = ELEMENTS[element].native
    assert native is not None
    return TensorType(Element(element), native, dims, tuple(digit for dim in dims for digit in dim), tuple(range(len(dims))))


def size_text(context: Context, size: Size) -> str:
    return context.space.text(size)
