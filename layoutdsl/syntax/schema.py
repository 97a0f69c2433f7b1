"""The shape of a spec file as a JSON Schema, and the check of a read file against it.

``layoutdsl schema`` prints :data:`SCHEMA` for editors; ``layoutdsl.syntax.reader`` calls :func:`check` before it reads the parts.

Invariants: alternatives are told apart with ``if``/``then`` on what is written, never with ``oneOf``, so that each mistake gives one finding at its own
place; ``title`` of a schema completes the sentence "expected ...".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

from layoutdsl.diagnostics import Diagnostic, Span
from layoutdsl.syntax.document import RANGES
from layoutdsl.syntax.yaml_reader import MappingNode, Node, ScalarNode, has_leading_zero, has_too_many_digits, resolve

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

VERSION = 1
STEP_MODIFIERS = ("when", "as", "why", "accept")
LINE_MODIFIERS = ("when", "why", "accept")
PARAM_KEYS = ("type", "given", "init", "range", "shard", "disk")
CONFIG_KEYS = ("type", "default", "values", "none", "from")
KINDS = ("parameter", "buffer", "attribute", "list", "value")
HEADER = ("layoutdsl", "scheme", "layer", "title", "holds")
BODY = ("axes", "params", "value", "steps", "forward")

Schema = dict[str, Any]

# Words with a meaning as keys: a case of that name would make a case map look like something else.
_ATTRIBUTES = "type|given|init|range|shard|disk|default|values|none|from|when|as|why|accept|do|delete|otherwise|return"
_TEMPLATE = "<[A-Za-z][A-Za-z0-9_]*>"
_NAME = f"(?:[A-Za-z_]|{_TEMPLATE})(?:[A-Za-z0-9_.]|{_TEMPLATE})*"


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _map(values: Schema, title: str, names: str | None = None, **more: Any) -> Schema:
    schema: Schema = {"type": "object", "title": title, "minProperties": 1, "additionalProperties": values, **more}
    return schema if names is None else {**schema, "propertyNames": {"pattern": f"^(?:{names})$"}}


def _list(items: Schema, title: str, **more: Any) -> Schema:
    return {"type": "array", "title": title, "items": items, **more}


def _record(title: str, properties: Schema, required: tuple[str, ...] = ()) -> Schema:
    return {"type": "object", "title": title, "properties": properties, "required": list(required), "additionalProperties": False}


def _or_cases(name: str, title: str, **more: Any) -> Schema:
    """``name`` itself, or a case map of it."""
    return {
        "title": title,
        "type": ["string", "number", "boolean", "object"],
        "if": {"type": "object"},
        "then": {"minProperties": 1, "additionalProperties": _ref(name)},
        "else": _ref(name),
        **more,
    }


_EXPRESSION: Schema = {"type": ["string", "number", "boolean"], "title": "an expression"}
_WORD: Schema = {"type": "string", "title": "a word", "pattern": "^[A-Za-z0-9_.<>-]+$"}
_TEXT: Schema = {"type": "string", "title": "a text"}
_SLUG: Schema = {"type": "string", "title": "the slug of a rule", "pattern": "^[a-z][a-z0-9]*(?:-[a-z0-9]+)*$"}
_LITERAL: Schema = {"type": ["string", "number", "boolean"], "title": "a word or a number"}

_STEP_MODIFIER_SCHEMAS: Schema = {
    "when": {**_EXPRESSION, "description": "The step exists only where this holds."},
    "why": {**_TEXT, "description": "The reason, for those who read the spec."},
    "accept": {**_ref("slugs"), "description": "Rules that this step breaks on purpose; needs `why`."},
}

_DEFS: dict[str, Schema] = {
    "expression": _EXPRESSION,
    "type": {"type": "string", "title": "a type", "description": "`int4[n, k] in int8[n//2, k | n%2]`"},
    "pipeline": {"type": ["string", "number", "boolean"], "title": "a pipeline or an expression"},
    "literal": _LITERAL,
    "word": _WORD,
    "kind": {"type": "string", "title": "a kind of result", "enum": list(KINDS)},
    "slugs": {
        "title": "the slug of a rule, or a list of slugs",
        "type": ["string", "array"],
        "if": {"type": "array"},
        "then": {"minItems": 1, "items": _SLUG},
        "else": _SLUG,
    },
    "config": _record(
        "the attributes of a config entry",
        {
            "type": {**_WORD, "description": "int, str, bool or dtype."},
            "default": _or_cases("literal", "a value or a case map", description="The value when nobody gives one."),
            "values": _list(_LITERAL, "a list of the allowed values", minItems=1),
            "none": _list(_LITERAL, "a list of values", description='Values that mean "absent".'),
            "from": {**_TEXT, "description": "Where the value is read: `hf_config.o_groups`."},
        },
        ("type",),
    ),
    "param": {
        "title": "a type, a case map of types, or attributes",
        "type": ["string", "object"],
        "if": {"type": "string"},
        "then": _ref("type"),
        "else": {
            "if": {"required": ["type"]},
            "then": _ref("attributes"),
            "else": {"minProperties": 1, "additionalProperties": _ref("type")},
        },
    },
    "attributes": _record(
        "the attributes of a parameter",
        {
            "type": _or_cases("type", "a type or a case map of types"),
            "given": _or_cases("expression", "a condition", description="Where the checkpoint holds the tensor."),
            "init": {**_LITERAL, "description": "What fills the tensor where it is not given."},
            "range": {"type": "string", "title": "a range", "enum": list(RANGES)},
            "shard": {"type": "string", "title": "a way to shard", "enum": ["none"]},
            "disk": {**_WORD, "description": "The dtype in the checkpoint file, if it is another one."},
        },
        ("type",),
    ),
    "parts": {
        "title": "a list of names of equal parts, or a mapping of names to sizes",
        "type": ["array", "object"],
        "if": {"type": "array"},
        "then": {"minItems": 1, "items": _WORD},
        "else": {"minProperties": 1, "propertyNames": {"pattern": "^[a-z][a-z0-9_]*$"}, "additionalProperties": _EXPRESSION},
    },
    "step": {
        "type": "object",
        "title": "a step",
        "if": {"required": ["do"]},
        "then": _ref("step_block"),
        "else": {"if": {"required": ["delete"]}, "then": _ref("delete"), "else": _ref("single_step")},
    },
    "inner_step": {
        "type": "object",
        "title": "a step",
        "properties": {"do": False},
        "if": {"required": ["delete"]},
        "then": _ref("delete"),
        "else": _ref("single_step"),
    },
    "single_step": {
        "description": "One target (`name` or `name[digits]`) and its modifiers.",
        "minProperties": 1,
        "properties": {**_STEP_MODIFIER_SCHEMAS, "as": _or_cases("kind", "what the new name is")},
        "additionalProperties": _or_cases("pipeline", "a pipeline, an expression, or a case map of them"),
    },
    "delete": _record("a step that deletes", {"delete": {**_TEXT, "title": "names"}, "when": _EXPRESSION, "why": _TEXT}, ("delete",)),
    "step_block": _record("a block of steps", {"when": _EXPRESSION, "do": _list(_ref("inner_step"), "a list of steps", minItems=1)}, ("when", "do")),
    "line": {
        "type": "object",
        "title": "a line of the forward",
        "if": {"required": ["do"]},
        "then": _ref("line_block"),
        "else": _ref("single_line"),
    },
    "inner_line": {"type": "object", "title": "a line of the forward", "properties": {"do": False}, "allOf": [_ref("single_line")]},
    "single_line": {
        "description": "`return` or the names that are bound, and modifiers.",
        "minProperties": 1,
        "properties": _STEP_MODIFIER_SCHEMAS,
        "additionalProperties": _or_cases("expression", "an expression or a case map of them"),
    },
    "line_block": _record("a block of lines", {"when": _EXPRESSION, "do": _list(_ref("inner_line"), "a list of lines", minItems=1)}, ("when", "do")),
    "value": {
        "title": "a mapping of named results, `none` or `opaque`",
        "type": ["string", "object"],
        "if": {"type": "string"},
        "then": {"enum": ["none", "opaque"]},
        "else": {
            "minProperties": 1,
            "if": {"anyOf": [{"required": ["none"]}, {"required": ["opaque"]}]},
            "then": {"maxProperties": 1, "additionalProperties": {**_TEXT, "title": "a reason"}},
            "else": {"additionalProperties": _or_cases("expression", "an expression or a case map of them")},
        },
    },
    "forward": {
        "title": "a list of lines, or one word",
        "type": ["string", "array"],
        "if": {"type": "string"},
        "then": {**_WORD, "title": "`external` or the name of another spec"},
        "else": {"items": _ref("line")},
    },
}

_VARIANT_NAMES = f"(?!(?:{_ATTRIBUTES})$)[a-z][a-z0-9_]*"

SCHEMA: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "a spec file",
    "description": "One quantization scheme for one kind of layer: what the checkpoint stores, what it means, what the kernels want.",
    "type": "object",
    "properties": {
        "layoutdsl": {
            "type": "integer",
            "title": "the version of the language",
            "const": VERSION,
            "description": "The version of the language.",
        },
        "scheme": {**_WORD, "title": "the id of a scheme", "description": "The id of the scheme, as checkpoints spell it."},
        "layer": {**_WORD, "title": "a kind of layer", "description": "The kind of layer: linear, moe, attention, ..."},
        "title": {**_TEXT, "description": "One line that says what the scheme is."},
        "sources": _list(_TEXT, "a list of texts", description="Where the facts come from."),
        "holds": {
            **_record(
                "the consumers and devices",
                {
                    "consumer": _list(_WORD, "a list of consumers", minItems=1),
                    "device": _list(_WORD, "a list of devices", minItems=1),
                    "added": _list(_WORD, "a list of consumers", minItems=1),
                },
                ("consumer", "device"),
            ),
            "description": "The consumers and devices that the spec is for; added: consumers that have the scheme only through the plugin.",
        },
        "extends": {**_WORD, "title": "the name of a spec", "description": "The spec that this one adds to: `W8A8.linear`."},
        "config": _map(_ref("config"), "a mapping of config entries", "[a-z][a-z0-9_]*", description="What the checkpoint and the runtime say."),
        "variants": _map(
            _map(_EXPRESSION, "a mapping of cases", _VARIANT_NAMES),
            "a mapping of facets",
            "[a-z][a-z0-9_]*",
            description="Facets; in each, the first case that holds is the case.",
        ),
        "each": _map(
            _list(_WORD, "a list of words", minItems=1),
            "a mapping of word lists",
            "[a-z][a-z0-9_]*",
            description="Parallel word lists for templates: `<p>`.",
        ),
        "axes": _map(
            _or_cases("expression", "a size or a case map of sizes"),
            "a mapping of axes",
            "[a-z][0-9]?",
            description="A letter per axis, and its extent; `free` for one that the tensors tell, `free or SIZE` with what it is taken for until then.",
        ),
        "segments": _map(_ref("parts"), "a mapping of segments", _NAME, description="The parts of an axis, in order."),
        "let": _map(
            _or_cases("expression", "an expression or a case map of them"),
            "a mapping of names",
            "[A-Za-z][A-Za-z0-9_]*",
            description="Names for sizes and dtypes.",
        ),
        "require": _list(_ref("expression"), "a list of facts", description="Facts that the proofs may use; checked when sizes are known."),
        "params": _map(_ref("param"), "a mapping of parameters", _NAME, description="The tensors as the checkpoint stores them."),
        "value": {**_ref("value"), "description": "What the tensors mean, over the reals."},
        "invariants": _list(_ref("expression"), "a list of equations", description="Equations that a right checkpoint satisfies."),
        "steps": _list(_ref("step"), "a list of steps", description="The pipeline from the checkpoint to what the kernels want."),
        "forward": {**_ref("forward"), "description": "The kernel calls."},
    },
    "required": list(HEADER),
    "additionalProperties": False,
    "if": {"required": ["extends"]},
    "else": {"required": list(BODY)},
    "$defs": _DEFS,
}


# ---- the check --------------------------------------------------------------------------------------------------------------------------------------


@cache
def _validator() -> Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(SCHEMA)


def plain_data(node: Node) -> Any:
    """The node as JSON data; of two equal keys the first counts."""
    if isinstance(node, ScalarNode):
        return resolve(node)
    if isinstance(node, MappingNode):
        data: dict[str, Any] = {}
        for key, value in node.entries:
            data.setdefault(key.value, plain_data(value))
        return data
    return [plain_data(item) for item in node.items]


def check(root: Node) -> list[Diagnostic]:
    """All places where the nodes do not have the shape of a spec file."""
    data = plain_data(root)
    found: dict[tuple[str, Span | None, str], Diagnostic] = {}
    nested: list[Span] = []
    for error in _validator().iter_errors(data):
        place = _locate(root, list(error.absolute_path))
        if error.validator is None:
            nested += _values_of(place.node, "do")
        for diagnostic in _translate(place, error):
            # Of several ways to say that a value has the wrong kind, the first is said.
            message = "" if diagnostic.code in ("missing-value", "wrong-kind") else diagnostic.message
            found.setdefault((diagnostic.code, diagnostic.span, message), diagnostic)
    return [x for x in found.values() if not any(_contains(place, x.span) for place in nested)]


def _contains(place: Span, span: Span | None) -> bool:
    return span is not None and place.start <= span.start and span.end <= place.end


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a finding lies: the node, what it is called, and where to point when something is missing in it."""

    node: Node
    called: str
    span: Span
    is_root: bool


def _locate(root: Node, path: list[Any]) -> _Place:
    """The place at a path of keys and numbers."""
    key: ScalarNode | None = None
    node = root
    for step in path:
        if isinstance(node, MappingNode):
            key, node = next(entry for entry in node.entries if entry[0].value == step)
        elif not isinstance(node, ScalarNode):
            node = node.items[step]
    if key is not None and isinstance(path[-1], str):
        return _Place(node, f"`{key.value}`", key.span, False)
    called = "the file" if key is None else f"an entry of `{key.value}`"
    first = node.entries[0][0].span if isinstance(node, MappingNode) and node.entries else node.span
    return _Place(node, called, first, key is None)


def _translate(place: _Place, error: Any) -> Iterator[Diagnostic]:
    node, called = place.node, place.called
    match error.validator:
        case "additionalProperties":
            yield from _unknown_keys(node, error)
        case "required":
            yield from _missing_keys(place, error)
        case "type":
            yield _wrong_kind(place, error.schema, error.validator_value)
        case "const":
            if type(error.instance) is int:  # any other kind has been refused as such
                yield _wrong_version(node)
        case "enum":
            yield _unknown_word(node, error)
        case "pattern":
            yield _wrong_name(node, error)
        case "minItems" | "minProperties":
            yield Diagnostic(code="missing-value", message=f"{called} has no entries", span=place.span)
        case "maxProperties":
            yield Diagnostic(code="unknown-key", message=f"{called} takes one entry here", span=_last_key(node))
        case None:
            yield _nested_block(node)
        case _:
            yield Diagnostic(code="wrong-kind", message=f"{called} does not have the shape of a spec file", span=node.span)


def _unknown_keys(node: Node, error: Any) -> Iterator[Diagnostic]:
    assert isinstance(node, MappingNode)
    known = list(error.schema.get("properties", ()))
    for key, _ in node.entries:
        if key.value in known:
            continue
        close = get_close_matches(key.value, [x for x in known if x not in error.instance], n=1)
        helps = (f"a key like it is `{close[0]}`",) if close else (f"known keys are {_listed(known)}",)
        yield Diagnostic(code="unknown-key", message=f"the key `{key.value}` has no meaning here", span=key.span, helps=helps)


def _missing_keys(place: _Place, error: Any) -> Iterator[Diagnostic]:
    known = SCHEMA["properties"] if place.is_root else error.schema.get("properties", {})
    unknown = [name for name in error.instance if name not in known]
    missing = [name for name in error.validator_value if name not in error.instance]
    # A misspelt key is reported as such, and is not missing as well.
    missing = [name for name in missing if not any(get_close_matches(x, [name]) for x in unknown)]
    if missing:
        plural = "keys" if len(missing) > 1 else "key"
        titles = [f"`{name}:` is {title}" for name in missing if (title := _title(known.get(name, {})))]
        message = f"{place.called} lacks the {plural} {_listed(missing)}"
        yield Diagnostic(code="missing-key", message=message, span=place.span, helps=("; ".join(titles),) if titles else ())


def _title(schema: Schema) -> str:
    """What a value has to be; follows a reference."""
    target = _DEFS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else {}
    return str(schema.get("title") or target.get("title", ""))


_KINDS_OF_DATA = {
    "object": "a mapping",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}


def _wrong_kind(place: _Place, schema: Schema, types: str | list[str]) -> Diagnostic:
    node, called = place.node, place.called
    names = [types] if isinstance(types, str) else types
    expected = "a mapping" if place.is_root else schema.get("title") or " or ".join(_KINDS_OF_DATA[name] for name in names)
    if isinstance(node, ScalarNode) and resolve(node) is None:
        helps = ("write `none` for what is absent",) if not node.empty else ()
        at = place.span if node.empty else node.span
        return Diagnostic(code="missing-value", message=f"{called} has no value; expected {expected}", span=at, helps=helps)
    if isinstance(node, ScalarNode) and has_leading_zero(node):
        return leading_zero(node)
    quotes = isinstance(node, ScalarNode) and "string" in names
    helps = (f'put it in quotes: `"{node.span.text}"`',) if quotes else ()
    return Diagnostic(code="wrong-kind", message=f"{called}: expected {expected}, found {_kind(node)}", span=node.span, helps=helps)


def _kind(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    if not isinstance(node, ScalarNode):
        return "a list"
    value = resolve(node)
    if isinstance(value, bool):
        return f"the truth value `{node.value}`"
    return f"the number `{node.value}`" if isinstance(value, (int, float)) else "a text"


def leading_zero(node: ScalarNode) -> Diagnostic:
    """``010`` where a number may stand."""
    sign = "-" if node.value.startswith("-") else ""
    digits = node.value.lstrip("+-0") or "0"
    helps = (f"write `{sign}{digits}`" if len(digits) < 40 else "write it without the zeros", "put it in quotes if it is a text")
    return Diagnostic(code="leading-zero", message=f"`{node.value[:40]}` starts with a zero", span=node.span, helps=helps)


def too_many_digits(node: ScalarNode) -> Diagnostic:
    message = f"this number has {len(node.value)} characters; a whole number may have 19 digits"
    return Diagnostic(code="number-range", message=message, span=node.span)


def literal_problem(node: ScalarNode) -> Diagnostic | None:
    """What is wrong with a scalar as a number, if it looks like one."""
    if has_leading_zero(node):
        return leading_zero(node)
    return too_many_digits(node) if has_too_many_digits(node) else None


def _wrong_version(node: Node) -> Diagnostic:
    shown = node.span.text[:20]
    return Diagnostic(
        code="unsupported-language-version",
        message=f"this file is written in version {shown} of the language; this program knows version {VERSION}",
        span=node.span,
        helps=(f"write `layoutdsl: {VERSION}`, or use a program that knows version {shown}",),
    )


def _unknown_word(node: Node, error: Any) -> Diagnostic:
    words = [str(x) for x in error.validator_value]
    close = get_close_matches(str(error.instance), words, n=1)
    title = error.schema.get("title", "one of the known words")
    helps = (f"a word like it is `{close[0]}`",) if close else (f"known words are {_listed(words)}",) if len(words) > 1 else (f"the only word is `{words[0]}`",)
    return Diagnostic(code="unknown-word", message=f"expected {title}, found `{error.instance}`", span=node.span, helps=helps)


def _wrong_name(node: Node, error: Any) -> Diagnostic:
    name = str(error.instance)
    span = node.span
    if "propertyNames" in error.absolute_schema_path and isinstance(node, MappingNode):
        span = next((key.span for key, _ in node.entries if key.value == name), span)
        return Diagnostic(code="wrong-name", message=f"`{name}` is not a name that can stand here", span=span, notes=(_name_rule(error.validator_value),))
    title = error.schema.get("title", "a word")
    return Diagnostic(
        code="wrong-name",
        message=f"expected {title}, found `{name}`",
        span=span,
        notes=("letters, digits, `_`, `.` and `-`, without blanks",),
    )


def _name_rule(pattern: str) -> str:
    if pattern == "^(?:[a-z][0-9]?)$":
        return "an axis is one small letter, or a letter and a digit"
    if _ATTRIBUTES in pattern:
        return "a case is a word in small letters that is no key of the language"
    return "a name starts with a letter and has letters, digits and `_`"


def _nested_block(node: Node) -> Diagnostic:
    at = next((key.span for key, _ in node.entries if key.value == "do"), node.span) if isinstance(node, MappingNode) else node.span
    helps = ("join the two conditions with `and`",)
    return Diagnostic(code="nested-block", message="a block may not stand in a block", span=at, helps=helps)


def _values_of(node: Node, name: str) -> list[Span]:
    return [value.span for key, value in node.entries if key.value == name] if isinstance(node, MappingNode) else []


def _last_key(node: Node) -> Span:
    return node.entries[-1][0].span if isinstance(node, MappingNode) and node.entries else node.span


def _listed(words: list[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)
