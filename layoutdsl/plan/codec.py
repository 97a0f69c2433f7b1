"""Plans as canonical JSON: ``encode`` and ``decode``.

Between the compiler, which makes plans, and ``layoutdsl.plan.bind``, which takes them; the text is what is shipped, cached and compared.

Invariants: ``decode(encode(plan)) == plan``; equal plans have equal text (sorted keys, no blanks, integers and strings only, a float as
``{"float": float.hex()}``); the text carries the hash of itself; whatever the text, ``decode`` returns a well-formed plan or raises
:class:`DiagnosticError`. Nothing is executed, nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from keyword import iskeyword
from typing import Any, NoReturn, get_args

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.ir.dtypes import ELEMENTS, STORAGES
from layoutdsl.plan import forward
from layoutdsl.plan.model import (
    BINARY,
    CONVERSIONS,
    FORMAT,
    FORMAT_CAST_ARGUMENTS,
    FRACTAL_NZ,
    LOADER_ATTRIBUTES,
    OPAQUE_FUNCTIONS,
    VERSION,
    Alias,
    Call,
    Compute,
    Condition,
    Digit,
    Input,
    Instruction,
    Kind,
    Limit,
    Move,
    Opaque,
    Output,
    Pad,
    Plan,
    TensorType,
)
from layoutdsl.plan.sizes import ARITY, FOLDS, KIND_SIZES

Json = Any
DEPTH = 64
"""How deep a plan may be nested: far above any real expression, far below Python's recursion limit."""
LARGEST = 2**63
# torch's name of an operator that writes to its argument ends in an underscore.
_KERNEL = re.compile(r"(?!__)[A-Za-z_]\w*::\w*[A-Za-z0-9]", re.ASCII)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.']*", re.ASCII)
# Names that become Python's: in a forward nothing begins with two underscores, so no special name can be reached.
_PYTHON_NAME = re.compile(r"(?!__)[A-Za-z_]\w*", re.ASCII)


def encode(plan: Plan) -> str:
    """The canonical JSON of a plan. Raises ValueError for a plan that no text can hold (a list, an object, NaN where data is expected)."""
    data = _body(plan)
    return _canonical({**data, "hash": _hash_of(data)})


def plan_hash(plan: Plan) -> str:
    """The hash that ``encode`` writes: ``sha256:`` and 64 hex digits."""
    return _hash_of(_body(plan))


def decode(text: str) -> Plan:
    """The plan that a text holds.

    Raises: DiagnosticError with ``plan-syntax`` (not the JSON of a plan), ``plan-version``, ``plan-hash`` (changed after it was written) or ``plan-invalid``.
    """
    data = _parsed(text)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        _refuse("plan-syntax", "this is not a plan", [f'a plan is a JSON object with `"format": "{FORMAT}"`'])
    if type(data.get("version")) is not int or data["version"] != VERSION:
        shown = _shown(data["version"]) if "version" in data else "missing"
        message = f"the version of this plan is {shown}; this program reads version {VERSION}"
        _refuse("plan-version", message, helps=["compile the spec again with this program"])
    found = data.pop("hash", None)
    if found != _hash_of(data):
        notes = [f"it says {_shown(found)}", f"its content has {_hash_of(data)}"] if found else ["it has no `hash`"]
        _refuse("plan-hash", "the plan is not what was written: its hash is wrong", notes, ["compile the spec again; a plan is not edited by hand"])
    plan = _PLAN.read({key: data[key] for key in data.keys() - {"format", "version"}}, "plan")
    assert isinstance(plan, Plan)
    _check(plan)
    return plan


# ---- text ----------------------------------------------------------------------------------------------------------------------------------------------------


def _body(plan: Plan) -> dict[str, Json]:
    return {"format": FORMAT, "version": VERSION, **_PLAN.write(plan)}


def _canonical(data: Json) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _hash_of(data: Json) -> str:
    return "sha256:" + hashlib.sha256(_canonical(data).encode("ascii")).hexdigest()


class _Unfit(ValueError):
    """JSON that parses, with something in it that a plan never has."""


def _parsed(text: str) -> Json:
    try:
        data = json.loads(text, object_pairs_hook=_object, parse_int=_integer, parse_float=_no_float, parse_constant=_no_float)
    except _Unfit as unfit:
        _refuse("plan-syntax", str(unfit))
    except json.JSONDecodeError as error:
        _refuse("plan-syntax", "the text is not JSON", [f"line {error.lineno}, column {error.colno}: {error.msg[:1].lower()}{error.msg[1:]}"])
    except RecursionError:
        _refuse("plan-syntax", "the text is nested too deep for a plan")
    _check_depth(data)
    return data


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Unfit(f"the key {_shown(next(key for key in keys if keys.count(key) > 1))} stands twice in one object")
    return data


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > LARGEST:
        raise _Unfit(f"the integer {digits[:24]}{'...' if len(digits) > 24 else ''} does not fit into 64 bits")
    return int(digits)


def _no_float(text: str) -> NoReturn:
    raise _Unfit(f'{text[:24]} is not an integer; a plan writes a float as {{"float": "0x1.8p+0"}}')


def _check_depth(data: Json) -> None:
    """Nested no deeper than ``DEPTH``, so that every later walk may recurse."""
    level: list[Json] = [data]
    for _ in range(DEPTH):
        level = [item for node in level if isinstance(node, (list, dict)) for item in (node.values() if isinstance(node, dict) else node)]
        if not level:
            return
    _refuse("plan-syntax", f"the text is nested deeper than {DEPTH} levels")


def _shown(data: Json) -> str:
    text = json.dumps(data)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refuse(code: str, message: str, notes: Iterable[str] = (), helps: Iterable[str] = ()) -> NoReturn:
    raise DiagnosticError(Diagnostic(code=code, message=message, notes=tuple(notes), helps=tuple(helps)))


def _invalid(place: str, message: str, notes: Iterable[str] = ()) -> NoReturn:
    raise DiagnosticError(Diagnostic(code="plan-invalid", message=message, where=place, notes=tuple(notes)))


# ---- kinds of data -------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Codec:
    """How one kind of value is written as JSON data and read back. ``read`` takes the place for messages and refuses whatever ``write`` cannot have written."""

    write: Callable[[Any], Json]
    read: Callable[[Json, str], Any]


def _read_int(data: Json, place: str) -> int:
    if type(data) is not int:
        _invalid(place, f"expected an integer, found {_shown(data)}")
    return data


def _read_text(data: Json, place: str) -> str:
    if not isinstance(data, str):
        _invalid(place, f"expected a text, found {_shown(data)}")
    return data


def _read_name(data: Json, place: str) -> str:
    if not isinstance(data, str) or not _IDENTIFIER.fullmatch(data):
        _invalid(place, f"expected a name, found {_shown(data)}")
    return data


def _write_int(value: Any) -> int:
    if type(value) is not int or abs(value) > LARGEST:
        raise ValueError(f"{value!r} is not an integer of 64 bits")
    return value


def _write_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


INT, TEXT, NAME = Codec(_write_int, _read_int), Codec(_write_text, _read_text), Codec(_write_text, _read_name)


def _word(what: str, words: Iterable[str]) -> Codec:
    """One text out of a closed list."""
    known = sorted(words)

    def read(data: Json, place: str) -> str:
        if not isinstance(data, str) or data not in known:
            close = get_close_matches(data, known, 1) if isinstance(data, str) else []
            _invalid(place, f"{_shown(data)} is not {what}", [f"the nearest is `{close[0]}`"] if close else [f"known are {', '.join(map(_shown, known))}"])
        return data

    return Codec(_write_text, read)


def _many(item: Codec) -> Codec:
    """A tuple of any length."""

    def read(data: Json, place: str) -> tuple[Any, ...]:
        return tuple(item.read(entry, f"{place}[{index}]") for index, entry in enumerate(_items(data, place)))

    return Codec(lambda value: [item.write(entry) for entry in value], read)


def _row(make: Callable[..., Any], take: Callable[[Any], Iterable[Any]], *columns: Codec) -> Codec:
    """A short record, written as an array."""

    def read(data: Json, place: str) -> Any:
        cells = _items(data, place, len(columns))
        return make(*(column.read(cell, f"{place}[{index}]") for index, (column, cell) in enumerate(zip(columns, cells))))

    return Codec(lambda value: [column.write(cell) for column, cell in zip(columns, take(value))], read)


def _pair(left: Codec, right: Codec) -> Codec:
    return _row(lambda *cells: cells, tuple, left, right)


def _record(make: Callable[..., Any], **fields: Codec) -> Codec:
    """A class with named fields, written as an object with exactly these keys."""

    def read(data: Json, place: str) -> Any:
        _keys(data, fields, place)
        return make(**{name: codec.read(data[name], f"{place}.{name}") for name, codec in fields.items()})

    return Codec(lambda value: {name: codec.write(getattr(value, name)) for name, codec in fields.items()}, read)


def _items(data: Json, place: str, length: int | None = None) -> list[Json]:
    if not isinstance(data, list):
        _invalid(place, f"expected an array, found {_shown(data)}")
    if length is not None and len(data) != length:
        _invalid(place, f"expected {length} entries, found {_shown(data)}")
    return data


def _keys(data: Json, fields: Mapping[str, object], place: str) -> None:
    if not isinstance(data, dict):
        _invalid(place, f"expected an object, found {_shown(data)}")
    for name in data:
        if name not in fields:
            close = get_close_matches(name, fields, 1)
            _invalid(place, f"unknown key {_shown(name)}", [f"the nearest is `{close[0]}`"] if close else [])
    for name in fields:
        if name not in data:
            _invalid(place, f"the key `{name}` is missing")


def _write_float(value: float) -> Json:
    if value != value:
        raise ValueError("NaN cannot stand in a plan")
    return {"float": value.hex()}


def _read_float(data: Json, place: str) -> float:
    _keys(data, {"float": 0}, place)
    text = _read_text(data["float"], place)
    try:
        value = float.fromhex(text)
    except (ValueError, OverflowError):
        value = float("nan")
    if value != value or value.hex() != text:
        _invalid(place, f"{_shown(text)} is not the hexadecimal text of a float")
    return value


def _write_literal(value: Any) -> Json:
    """Plain data: integers, texts and tuples as they are; the rest is tagged, so that no reader confuses 1, 1.0 and true."""
    match value:
        case bool():
            return {"bool": int(value)}
        case None:
            return {"none": 0}
        case float():
            return _write_float(value)
        case int():
            return _write_int(value)
        case str():
            return value
        case tuple():
            return [_write_literal(item) for item in value]
        case _:
            raise ValueError(f"{value!r} cannot stand in a plan")


def _read_literal(data: Json, place: str) -> Any:
    match data:
        case list():
            return tuple(_read_literal(item, f"{place}[{index}]") for index, item in enumerate(data))
        case {"bool": 0 | 1 as bit} if len(data) == 1 and type(bit) is int:
            return bit == 1
        case {"none": 0 as zero} if len(data) == 1 and type(zero) is int:
            return None
        case dict():
            return _read_float(data, place)
        case str():
            return data
        case _:
            return _read_int(data, place)


LITERAL = Codec(_write_literal, _read_literal)


def _one_of(*choices: tuple[type, type, Codec]) -> Codec:
    """A union told apart by kind: (Python class, JSON class, codec)."""

    def write(value: Any) -> Json:
        for kind, _, codec in choices:
            if type(value) is kind:
                return codec.write(value)
        raise ValueError(f"{value!r} cannot stand here in a plan")

    def read(data: Json, place: str) -> Any:
        for _, kind, codec in choices:
            if type(data) is kind:
                return codec.read(data, place)
        _invalid(place, f"{_shown(data)} cannot stand here")

    return Codec(write, read)


# ---- size expressions ----------------------------------------------------------------------------------------------------------------------------------------


def _nested(name: str, count: int, place: str) -> None:
    """Is (name, operand, ...) a known operator with as many operands as it takes?"""
    if name in FOLDS:
        if count < 1:
            _invalid(place, f"`{name}` has no operand")
    elif name not in ARITY:
        close = get_close_matches(name, [*ARITY, *FOLDS], 1)
        _invalid(place, f"unknown size function {_shown(name)}", [f"the nearest is `{close[0]}`"] if close else [])
    elif count != ARITY[name]:
        _invalid(place, f"`{name}` takes {ARITY[name]} operand{'s' if ARITY[name] > 1 else ''}, not {count}")


def _read_size_call(data: list[Json], place: str) -> tuple[Any, ...]:
    if not data:
        _invalid(place, "an empty size expression")
    _nested(_read_text(data[0], place), len(data) - 1, place)
    return (data[0], *(SIZE.read(operand, place) for operand in data[1:]))


SIZE: Codec = _one_of((int, int, INT), (str, str, NAME), (tuple, list, Codec(lambda value: [value[0], *map(SIZE.write, value[1:])], _read_size_call)))


# ---- types ---------------------------------------------------------------------------------------------------------------------------------------------------

AXIS_OR_NONE = _one_of((str, str, Codec(_write_text, lambda data, place: data if data == "" else _read_name(data, place))))
DIGIT = _row(Digit, lambda digit: (digit.axis, digit.div, digit.ext), NAME, SIZE, SIZE)
PAD = _row(Pad, lambda pad: (pad.axis, pad.capacity, pad.fill), NAME, SIZE, INT)
DTYPE = _word("a dtype", ELEMENTS)
TYPE = _record(
    TensorType,
    element=_word("an element", ELEMENTS),
    excess=INT,
    storage=_word("a storage dtype", STORAGES),
    extension=_word("an extension", ("", "zero", "sign")),
    dims=_many(_many(DIGIT)),
    lanes=_many(DIGIT),
    order=_many(INT),
    format=INT,
    pads=_many(PAD),
    listed=AXIS_OR_NONE,
)
PAIRS = _many(_pair(NAME, _one_of((int, int, INT), (str, str, TEXT))))


def _write_default(value: Any) -> Json:
    return "required" if value is None else value if value == "uninitialised" else _write_literal(value)


def _read_default(data: Json, place: str) -> Any:
    if data == "required":
        return None
    if data == "uninitialised":
        return data
    if isinstance(data, dict):
        return _read_float(data, place)
    return _read_int(data, place)


# ---- expressions ---------------------------------------------------------------------------------------------------------------------------------------------

# An index expression is a size expression whose leaves may also be loops, ("loop", axis, div); above a loop it is linear, or a digit of something linear.
_INDEX_OPERATORS = ("+", "-", "*", "//", "%")


def _write_index(value: Any) -> Json:
    if not _has_loop(value):
        return SIZE.write(value)
    return _LOOP.write(value) if value[0] == "loop" else [value[0], *map(_write_index, value[1:])]


def _read_index(data: Json, place: str) -> Any:
    if not _has_loop(data):
        return SIZE.read(data, place)
    if data[0] == "loop":
        return _LOOP.read(data, place)
    if data[0] not in _INDEX_OPERATORS:
        _invalid(place, f"{_shown(data[0])} is not an operator on indices", [f"known are {', '.join(_INDEX_OPERATORS)}"])
    name, left, right = _items(data, place, 3)
    return (name, _read_index(left, place), _read_index(right, place))


def _has_loop(index: Any) -> bool:
    return isinstance(index, (list, tuple)) and len(index) > 0 and (index[0] == "loop" or any(map(_has_loop, index[1:])))


_LOOP = _row(lambda *cells: cells, tuple, _word("a leaf of an index", ["loop"]), NAME, SIZE)
INDEX = Codec(_write_index, _read_index)
NUMBER = _one_of((int, int, INT), (float, dict, Codec(_write_float, _read_float)), (str, str, NAME), (tuple, list, SIZE))


def _tree(what: str, forms: Mapping[str, tuple[Codec, ...]], lists: Iterable[str] = ()) -> Codec:
    """Nested tuples that begin with a word: ``forms`` gives the operands of each, ``lists`` the words that take any number of operands of the same kind."""

    def columns(name: Any, count: int) -> tuple[Codec, ...] | None:
        return (tree,) * count if name in lists else forms.get(name)

    def write(value: Any) -> Json:
        name, *operands = value
        codecs = columns(name, len(operands))
        if codecs is None or len(codecs) != len(operands):
            raise ValueError(f"{value!r} is not {what}")
        return [name, *(codec.write(operand) for codec, operand in zip(codecs, operands))]

    def read(data: Json, place: str) -> tuple[Any, ...]:
        name = _items(data, place)[0] if _items(data, place) else None
        codecs = columns(name, len(data) - 1) if isinstance(name, str) else None
        if codecs is None:
            _invalid(place, f"{_shown(name)} does not begin {what}")
        cells = _items(data, place, len(codecs) + 1)
        return (name, *(codec.read(cell, f"{place}[{index}]") for index, (codec, cell) in enumerate(zip(codecs, cells[1:]), 1)))

    tree = Codec(write, read)
    return tree


_MATH: dict[str, tuple[Codec, ...]] = {}
EXPR = _tree("an expression", _MATH)
_MATH |= {
    "at": (NAME, _many(_pair(NAME, INDEX))),
    "const": (DTYPE, NUMBER),
    "neg": (EXPR,),
    "sum": (_many(DIGIT), _many(DIGIT), EXPR),
    **dict.fromkeys(CONVERSIONS, (DTYPE, EXPR)),
    **dict.fromkeys(BINARY, (EXPR, EXPR)),
}

# ---- forward expressions, which become Python: a closed list of forms, and no name or constant that is more than it says -----------------------------------


def _write_constant(value: Any) -> Json:
    if not forward.is_constant(value):
        raise ValueError(f"{value!r} is not a constant of a forward")
    return _write_literal(value)


def _read_constant(data: Json, place: str) -> Any:
    value = _read_literal(data, place)
    if not forward.is_constant(value):
        _invalid(place, f"{_shown(data)} is not a constant of a forward")
    return value


def _read_python_name(data: Json, place: str) -> str:
    if not isinstance(data, str) or not _PYTHON_NAME.fullmatch(data):
        _invalid(place, f"expected a name of Python that is no special one, found {_shown(data)}")
    return data


def _read_keyword(data: Json, place: str) -> str:
    name = _read_python_name(data, place)
    if iskeyword(name):
        _invalid(place, f"{_shown(data)} is a word of Python, not an argument")
    return name


def _read_kernel(data: Json, place: str) -> str:
    if not isinstance(data, str) or not _KERNEL.fullmatch(data):
        _invalid(place, f"a kernel is named `namespace::name`, and does not write to its argument: {_shown(data)}")
    return data


def _read_layer_name(data: Json, place: str) -> str:
    name = _read_text(data, place)
    for part in name.split("."):
        _read_python_name(part, place)
    return name


LOCAL, KEYWORD, KERNEL = Codec(_write_text, _read_python_name), Codec(_write_text, _read_keyword), Codec(_write_text, _read_kernel)
_CALL_FORMS: dict[str, tuple[Codec, ...]] = {}
CALL_EXPR = _tree("an expression of a forward", _CALL_FORMS, ("list", "given"))
_CALL_FORMS |= {
    "const": (Codec(_write_constant, _read_constant),),
    "layer": (Codec(_write_text, _read_layer_name),),
    "input": (_word("an input of a forward", forward.INPUTS),),
    "local": (LOCAL,),
    "dtype": (DTYPE,),
    "dtype_of": (CALL_EXPR,),
    "size": (SIZE,),
    "if": (CALL_EXPR, CALL_EXPR, CALL_EXPR),
    "cast": (CALL_EXPR, CALL_EXPR),
    "view": (CALL_EXPR, TYPE, TYPE),
    "call": (KERNEL, _many(CALL_EXPR), _many(_pair(KEYWORD, CALL_EXPR))),
    "not": (CALL_EXPR,),
    "neg": (CALL_EXPR,),
    **dict.fromkeys(forward.OPERATORS, (CALL_EXPR, CALL_EXPR)),
    "external": (),
}


# ---- the plan ------------------------------------------------------------------------------------------------------------------------------------------------

_STEP = {"id": NAME, "type": TYPE, "step": TEXT}
_INSTRUCTIONS: dict[str, tuple[type, Codec]] = {
    "move": (Move, _record(Move, of=NAME, alias=_word("an alias rule", get_args(Alias)), **_STEP)),
    "compute": (Compute, _record(Compute, expr=EXPR, **_STEP)),
    "opaque": (Opaque, _record(Opaque, function=_word("an opaque function", OPAQUE_FUNCTIONS), of=NAME, arguments=PAIRS, **_STEP)),
}


def _write_instruction(value: Instruction) -> Json:
    name, codec = next((name, codec) for name, (kind, codec) in _INSTRUCTIONS.items() if isinstance(value, kind))
    return {"do": name, **codec.write(value)}


def _read_instruction(data: Json, place: str) -> Instruction:
    if not isinstance(data, dict) or not isinstance(data.get("do"), str) or data["do"] not in _INSTRUCTIONS:
        _invalid(place, f"unknown instruction {_shown(data.get('do') if isinstance(data, dict) else data)}", [f"known are {', '.join(_INSTRUCTIONS)}"])
    instruction: Instruction = _INSTRUCTIONS[data["do"]][1].read({key: data[key] for key in data.keys() - {"do"}}, place)
    return instruction


def _read_forward(data: Json, place: str) -> Any:
    return "external" if data == "external" else _CALLS.read(data, place)


_BITS = _word("a promise about bits", ("exact", "sum"))
_OUTPUT = _record(Output, name=NAME, value=NAME, kind=_word("a kind of output", get_args(Kind)), bits=_BITS, reload=TEXT)
_CALLS = _many(_record(Call, targets=_many(LOCAL), expr=CALL_EXPR, when=CALL_EXPR))
_PLAN = _record(
    Plan,
    scheme=TEXT,
    layer=TEXT,
    spec_hash=TEXT,
    config=_many(_pair(NAME, LITERAL)),
    sizes=_many(NAME),
    free=_many(NAME),
    nominal=_many(_pair(NAME, SIZE)),
    axes=_many(_pair(NAME, SIZE)),
    require=_many(_record(Condition, text=TEXT, test=SIZE)),
    limits=_many(_record(Limit, text=TEXT, test=SIZE, kernel=TEXT, source=TEXT)),
    inputs=_many(_record(Input, id=NAME, name=NAME, type=TYPE, default=Codec(_write_default, _read_default), loader=PAIRS)),
    code=_many(Codec(_write_instruction, _read_instruction)),
    outputs=_many(_OUTPUT),
    forward=Codec(lambda value: "external" if value == "external" else _CALLS.write(value), _read_forward),
)


# ---- consistency ---------------------------------------------------------------------------------------------------------------------------------------------


def _check(plan: Plan) -> None:
    """What no single field shows: names are declared, values are defined once and before they are used, types are types."""
    _check_unique("size", plan.sizes)
    _check_unique("axis", (axis for axis, _ in plan.axes))
    _check_unique("input", (node.name for node in plan.inputs))
    _check_unique("output", (output.name for output in plan.outputs))
    for axis, extent in plan.axes:
        _check_size(plan, extent, f"axis {axis}", 0)
    _check_unique("free size", plan.free)
    _check_unique("nominal size", (name for name, _ in plan.nominal))
    for name in plan.free:
        _check_names(plan, name, "free")
    for name, size in plan.nominal:
        _check_names(replace(plan, sizes=plan.free), name, "nominal")
        _check_names(replace(plan, sizes=KIND_SIZES), size, f"nominal {name}")
    for text, test in [*((c.text, c.test) for c in plan.require), *((limit.text, limit.test) for limit in plan.limits)]:
        _check_names(plan, test, f"condition {text}")
    values: dict[str, TensorType] = {}
    for node in (*plan.inputs, *plan.code):
        place = f"input {node.name}" if isinstance(node, Input) else f"value {node.id}"
        if node.id != f"v{len(values)}":
            _invalid(place, f"values are numbered in order: this one is `v{len(values)}`, not {_shown(node.id)}")
        _check_type(plan, node.type, place)
        if isinstance(node, Input):
            _check_pairs(node.loader, LOADER_ATTRIBUTES, place)
        else:
            _check_instruction(plan, node, values, place)
        values[node.id] = node.type
    for output in plan.outputs:
        _check_defined(output.value, values, f"output {output.name}")
    if plan.forward != "external":
        _check_forward(plan, plan.forward)


def _check_unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            _invalid("plan", f"the {what} `{name}` is declared twice")
        seen.add(name)


def _check_pairs(pairs: tuple[tuple[str, int | str], ...], known: Mapping[str, type], place: str) -> None:
    """Pairs that become keyword arguments: known names, each once, with values of their types."""
    _check_unique("argument", (name for name, _ in pairs))
    for name, value in pairs:
        if name not in known:
            _invalid(place, f"{_shown(name)} is not known here", [f"known are {', '.join(known)}"])
        if not isinstance(value, known[name]):
            _invalid(place, f"`{name}` is not the {'number' if known[name] is int else 'text'} it must be: {_shown(value)}")


def _check_size(plan: Plan, size: Any, place: str, least: int) -> None:
    if isinstance(size, int) and size < least:
        _invalid(place, f"{size} is not a possible extent")
    _check_names(plan, size, place)


def _check_names(plan: Plan, size: Any, place: str) -> None:
    """The sizes, and in an index the axes, that an expression mentions are declared."""
    match size:
        case str() if size not in plan.sizes:
            _invalid(place, f"`{size}` is not a size of this plan")
        case ("loop", axis, div):
            _check_digit(plan, Digit(axis, div, 1), place)
        case tuple():
            for operand in size[1:]:
                _check_names(plan, operand, place)


def _check_digit(plan: Plan, digit: Digit, place: str) -> None:
    if digit.axis not in {axis for axis, _ in plan.axes}:
        _invalid(place, f"`{digit.axis}` is not an axis of this plan")
    _check_size(plan, digit.div, place, 1)
    _check_size(plan, digit.ext, place, 0)


def _check_type(plan: Plan, kind: TensorType, place: str) -> None:
    if sorted(kind.order) != list(range(len(kind.dims))):
        _invalid(place, f"the memory order {list(kind.order)} is not an order of {len(kind.dims)} dims")
    if kind.format < 0:
        _invalid(place, f"{kind.format} is not a format")
    for digit in (*(digit for dim in kind.dims for digit in dim), *kind.lanes):
        _check_digit(plan, digit, place)
    for pad in kind.pads:
        _check_digit(plan, Digit(pad.axis, 1, pad.capacity), place)
    _check_unique("pad", [pad.axis for pad in kind.pads])
    if kind.listed:
        _check_digit(plan, Digit(kind.listed, 1, 1), place)


def _check_instruction(plan: Plan, node: Instruction, values: Mapping[str, TensorType], place: str) -> None:
    if isinstance(node, Compute):
        _check_expr(plan, node.expr, values, place)
        return
    source = _check_defined(node.of, values, place)
    if isinstance(node, Opaque) and node.function == "kernel" and not _KERNEL.fullmatch(str(dict(node.arguments).get("kernel"))):
        _invalid(place, "a kernel is named `namespace::name`, and does not write to its argument")
    if isinstance(node, Opaque) and node.function == "format_cast":
        _check_pairs(node.arguments, FORMAT_CAST_ARGUMENTS, place)
        arguments = dict(node.arguments)
        if arguments.get("format") != FRACTAL_NZ:
            _invalid(place, f"a format cast goes to FRACTAL_NZ, `format` {FRACTAL_NZ}")
        if arguments.get("customize_dtype", node.type.storage) not in STORAGES:
            _invalid(place, f"{_shown(arguments['customize_dtype'])} is not a dtype")
        if replace(node.type, format=source.format) != source:
            _invalid(place, "a format cast changes the format and nothing else")
    if isinstance(node, Move) and node.type.element != source.element:
        _invalid(place, f"a move keeps the element: `{source.element}` does not become `{node.type.element}`")


def _check_forward(plan: Plan, calls: tuple[Call, ...]) -> None:
    """Names, sizes and types of the lines, and that every path binds what it reads and returns."""
    _check_unique("size", (*plan.sizes, forward.ROWS))
    open_plan = replace(plan, sizes=(*plan.sizes, forward.ROWS))
    for index, call in enumerate(calls):
        place = f"forward[{index}]"
        for expr in (*forward.walk(call.expr), *forward.walk(call.when)):
            _check_forward_expr(open_plan, expr, place)
        if any(expr == ("external",) for expr in forward.walk(call.expr)) and (call.targets or call.expr != ("external",)):
            _invalid(place, "`external` can only be returned")
        if len(call.targets) > 1 and not _makes_several(call.expr):
            _invalid(place, "only a call has several results")
    problem = forward.fault(calls)
    if problem:
        _invalid("forward", problem)


def _check_forward_expr(plan: Plan, expr: Any, place: str) -> None:
    match expr:
        case ("layer", name) if name not in {output.name for output in plan.outputs}:
            _invalid(place, f"the layer has no `{name}` after the steps")
        case ("size", size):
            _check_names(plan, size, place)
        case ("view", _, source, target):
            for kind in (source, target):
                # A forward has axes of its own: the rows of x, and what its calls make.
                own = {digit.axis for digit in (*(digit for dim in kind.dims for digit in dim), *kind.lanes)}
                _check_type(replace(plan, axes=tuple((axis, 1) for axis in {*own, kind.listed})), kind, place)
        case ("dtype_of", ("input" | "layer" | "local", _)):
            return
        case ("dtype_of", _):
            _invalid(place, "the dtype of what has no name")
        case ("call", _, _, keywords):
            _check_unique("argument", (name for name, _ in keywords))


def _makes_several(expr: Any) -> bool:
    match expr:
        case ("if", _, then, otherwise):
            return _makes_several(then) and _makes_several(otherwise)
    return bool(expr[0] == "call")


def _check_defined(value: str, values: Mapping[str, TensorType], place: str) -> TensorType:
    if value not in values:
        _invalid(place, f"`{value}` is not defined before it is used")
    return values[value]


def _check_expr(plan: Plan, expr: tuple[Any, ...], values: Mapping[str, TensorType], place: str) -> None:
    match expr:
        case ("at", value, picks):
            _check_defined(value, values, place)
            for axis, index in picks:
                _check_digit(plan, Digit(axis, 1, 1), place)
                _check_names(plan, index, place)
        case ("const", _, number):
            _check_names(plan, number, place)
        case ("sum", loops, order, body):
            for digit in (*loops, *order):
                _check_digit(plan, digit, place)
            _check_expr(plan, body, values, place)
        case (_, *operands):
            for operand in operands:
                if isinstance(operand, tuple):
                    _check_expr(plan, operand, values, place)
