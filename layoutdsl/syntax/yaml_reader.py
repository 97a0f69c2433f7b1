"""Reads the YAML skeleton of a spec file into nodes with exact places.

First stage after the file is read; ``layoutdsl.syntax.reader`` makes a document of the nodes. Built from PyYAML's *events*, not its nodes: one pass, no
recursion, and everything that makes YAML large or ambiguous (aliases, tags, complex keys, several documents) is refused when its event comes.

Invariants: spans are character offsets into ``source.text``, also with a BOM, CRLF and non-ASCII text; scalars are resolved here, by the core schema of
YAML 1.2 (``no``, ``on``, ``1:30`` are texts), never by PyYAML; time and memory are linear in a text of at most 256 KiB.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Label, Source, Span

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_NODES = 20_000
MAX_DIGITS = 19


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """A scalar. ``value``: the text as YAML means it; ``plain``: without quotes; ``inner``: the raw slice between the quotes."""

    value: str
    plain: bool
    inner: Span
    span: Span

    @property
    def block(self) -> bool:
        """Whether it is written as ``|`` or ``>``."""
        return not self.plain and self.span.text[:1] in ("|", ">")

    @property
    def empty(self) -> bool:
        """Whether nothing is written at all."""
        return self.plain and not self.value


@dataclass(frozen=True, slots=True)
class SequenceNode:
    items: tuple[Node, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class MappingNode:
    """``entries`` in the order of the file; of two equal keys the first counts."""

    entries: tuple[tuple[ScalarNode, Node], ...]
    span: Span


Node = Union[ScalarNode, SequenceNode, MappingNode]


@dataclass(frozen=True, slots=True)
class Reading:
    """What could be read: the root (None when there is none), the findings, and the places whose content must not be trusted."""

    root: Node | None
    diagnostics: tuple[Diagnostic, ...]
    distrusted: tuple[Span, ...]


def read_yaml(source: Source) -> Node:
    """The root node of a text; raises :class:`DiagnosticError` with all that is wrong with it as YAML."""
    reading = read_all(source)
    if reading.diagnostics:
        raise DiagnosticError(*reading.diagnostics)
    assert reading.root is not None
    return reading.root


def read_all(source: Source) -> Reading:
    """The same for a caller who goes on after findings that leave a usable tree (a duplicate key, say)."""
    composer = _Composer(source)
    try:
        _check_text(source)
        root = composer.compose()
    except DiagnosticError as error:
        return Reading(None, (*composer.diagnostics, *error.diagnostics), ())
    return Reading(root, tuple(composer.diagnostics), tuple(composer.distrusted))


# ---- files ------------------------------------------------------------------------------------------------------------------------------------------


def read_source(path: Path | str) -> Source:
    """The text of a file; raises :class:`DiagnosticError` when there is none that could be a spec."""
    name = str(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _file_error("file-missing", name, "there is no such file") from None
    except IsADirectoryError:
        raise _file_error("file-unreadable", name, "this is a directory, not a file") from None
    except PermissionError:
        raise _file_error("file-unreadable", name, "this file may not be read", "check its permissions") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _file_error("file-unreadable", name, f"this file cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise _file_error("file-too-large", name, f"a spec file may have {MAX_BYTES // 1024} KiB, this one has more")
    try:
        return Source(name, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _file_error("file-encoding", name, f"byte {error.start}, in line {line}, is not UTF-8", "save the file as UTF-8") from None


def _file_error(code: str, name: str, message: str, *helps: str) -> DiagnosticError:
    return DiagnosticError(Diagnostic(code=code, message=message, where=name, helps=helps))


# ---- the text as a whole ----------------------------------------------------------------------------------------------------------------------------

_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INDENTED_BY_TAB = re.compile(r"^ *(?:- *)*\t+(?=[ \t]*[^\s#])", re.MULTILINE)


def _check_text(source: Source) -> None:
    text = source.text
    size = len(text)
    if size > MAX_BYTES or (size > MAX_BYTES // 4 and len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES):
        raise _file_error("file-too-large", source.name, f"a spec file may have {MAX_BYTES // 1024} KiB, this one has more")
    odd = _FORBIDDEN.search(text)
    if odd:
        span = Span(source, odd.start(), odd.end())
        message = f"the character U+{ord(odd.group()):04X} may not stand in a spec file"
        raise DiagnosticError(Diagnostic(code="file-characters", message=message, span=span, helps=("delete it",)))
    tab = _INDENTED_BY_TAB.search(text)
    if tab:
        at = tab.group().index("\t") + tab.start()
        span = Span(source, at, tab.end())
        raise DiagnosticError(Diagnostic(code="yaml-tab", message="a tab indents this line", span=span, helps=("indent with spaces",)))


# ---- events to nodes --------------------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Frame:
    """A collection that is still open."""

    mapping: bool
    flow: bool
    start: int
    children: list[Node] = field(default_factory=list)


class _Composer:
    """Builds nodes bottom-up from the events of one text."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.diagnostics: list[Diagnostic] = []
        self.distrusted: list[Span] = []
        # PyYAML drops a byte order mark and does not count it.
        self.shift = 1 if source.text.startswith("\ufeff") else 0
        self.frames: list[_Frame] = []
        self.nodes = 0

    def compose(self) -> Node:
        root: Node | None = None
        for event in self._events():
            node = self._take(event, root)
            if node is not None:
                root = node
        if root is None or (isinstance(root, ScalarNode) and root.empty):
            message = "the file is empty"
            raise DiagnosticError(Diagnostic(code="yaml-empty", message=message, where=self.source.name, helps=("start with `layoutdsl: 1`",)))
        return root

    def _events(self) -> Iterable[Any]:
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            yield from yaml.parse(self.source.text[self.shift :], Loader=loader)
        except yaml.YAMLError as error:
            raise DiagnosticError(self._syntax_error(error)) from None

    def _take(self, event: Any, root: Node | None) -> Node | None:
        """Handle one event; return the root when it is complete."""
        import yaml

        if isinstance(event, yaml.DocumentStartEvent):
            if root is not None:
                raise self._error("yaml-documents", "a spec file is one YAML document", self._span(event), "delete this line, or split the file")
            return None
        if isinstance(event, yaml.AliasEvent):
            raise self._error("yaml-alias", "aliases are not allowed", self._span(event), "write the text again, or use a template or a case map")
        if isinstance(event, yaml.NodeEvent):
            self._check_node(event)
        if isinstance(event, yaml.ScalarEvent):
            return self._add(self._scalar(event))
        if isinstance(event, yaml.CollectionStartEvent):
            self._open(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            return self._add(self._close(event))
        return None

    def _check_node(self, event: Any) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self._error("yaml-size", f"a spec file may have {MAX_NODES} nodes, this one has more", self._span(event))
        if event.anchor is not None:
            raise self._error("yaml-alias", "anchors are not allowed", self._span(event), "write the text where it is needed")
        if event.tag is not None:
            raise self._error("yaml-tag", "tags are not allowed", self._span(event), "delete the tag; quote a value that must be a text")

    def _open(self, event: Any) -> None:
        import yaml

        if len(self.frames) >= MAX_DEPTH:
            raise self._error("yaml-depth", f"nested deeper than {MAX_DEPTH} levels", self._span(event))
        if self._expects_key():
            raise self._error("yaml-key", "a key must be one line of text", self._span(event), "a key that starts with `[` or `{` needs another form")
        self.frames.append(_Frame(isinstance(event, yaml.MappingStartEvent), bool(event.flow_style), event.start_mark.index + self.shift))

    def _close(self, event: Any) -> Node:
        frame = self.frames.pop()
        end = event.end_mark.index + self.shift
        if not frame.flow:
            # The mark of a block collection stands at the next token, past blank lines and comments.
            end = frame.children[-1].span.end if frame.children else frame.start
        span = Span(self.source, frame.start, end)
        node = self._mapping(frame, span) if frame.mapping else SequenceNode(tuple(frame.children), span)
        if frame.flow:
            self._check_cut(node)
        return node

    def _add(self, node: Node) -> Node | None:
        if not self.frames:
            return node
        if self._expects_key() and isinstance(node, ScalarNode):
            self._check_key(node)
        self.frames[-1].children.append(node)
        return None

    def _expects_key(self) -> bool:
        return bool(self.frames) and self.frames[-1].mapping and len(self.frames[-1].children) % 2 == 0

    def _check_key(self, key: ScalarNode) -> None:
        if key.block:
            raise self._error("yaml-key", "a key must be one line of text", key.span)
        if key.plain and resolve(key) is None:
            raise self._error("yaml-key", "a key is missing here", key.span)
        if key.plain and key.value == "<<":
            helps = ("write the entries out, or use `extends`",)
            self.distrusted.append(key.span)
            self.diagnostics.append(Diagnostic(code="yaml-merge-key", message="merge keys are not allowed", span=key.span, helps=helps))

    def _scalar(self, event: Any) -> ScalarNode:
        span = self._span(event)
        plain = not event.style
        if plain:
            text = span.text.rstrip()
            span = Span(self.source, span.start, span.start + len(text))
        quoted = event.style in ("'", '"')
        inner = Span(self.source, span.start + 1, span.end - 1) if quoted else span
        return ScalarNode(event.value, plain, inner, span)

    def _mapping(self, frame: _Frame, span: Span) -> MappingNode:
        entries: list[tuple[ScalarNode, Node]] = []
        seen: dict[str, ScalarNode] = {}
        for key, value in zip(frame.children[::2], frame.children[1::2], strict=True):
            assert isinstance(key, ScalarNode)
            first = seen.setdefault(key.value, key)
            if first is not key:
                self.diagnostics.append(_duplicate(first, key))
            entries.append((key, value))
        return MappingNode(tuple(entries), span)

    def _check_cut(self, node: Node) -> None:
        """YAML cuts ``{a: f(x, y)}`` at the comma, silently: into the keys ``a`` and ``y)``."""
        texts = [x for x in _parts(node) if isinstance(x, ScalarNode) and x.plain]
        cut = next((x for x in texts if _unbalanced(x.value)), None)
        if cut is None or (isinstance(node, MappingNode) and not any(x.empty for x in texts)):
            return
        self.distrusted.append(node.span)
        self.diagnostics.append(
            Diagnostic(
                code="yaml-cut",
                message="YAML cuts this entry at the comma",
                span=cut.span,
                label=f"this is all that it takes for {'one entry' if isinstance(node, MappingNode) else 'one item'}",
                helps=(_BLOCK_STYLE,),
            )
        )

    def _span(self, event: Any) -> Span:
        return Span(self.source, event.start_mark.index + self.shift, event.end_mark.index + self.shift)

    def _error(self, code: str, message: str, span: Span, *helps: str) -> DiagnosticError:
        return DiagnosticError(Diagnostic(code=code, message=message, span=span, helps=helps))

    def _syntax_error(self, error: Any) -> Diagnostic:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = str(getattr(error, "problem", None) or error)
        context = str(getattr(error, "context", None) or "")
        if mark is None:
            return Diagnostic(code="yaml-syntax", message=f"this is not YAML: {problem}", where=self.source.name)
        at = min(mark.index + self.shift, len(self.source.text))
        message, helps = _plain_words(problem, context)
        here = Span(self.source, at, min(at + 1, len(self.source.text)))
        return Diagnostic(code="yaml-syntax", message=message, span=here, labels=self._context_label(error, at), helps=helps)

    def _context_label(self, error: Any, at: int) -> tuple[Label, ...]:
        mark, context = getattr(error, "context_mark", None), str(getattr(error, "context", None) or "")
        if mark is None or not context or mark.index + self.shift == at:
            return ()
        start = min(mark.index + self.shift, len(self.source.text))
        what = context.removeprefix("while ").replace("parsing", "reading").replace("scanning", "reading")
        return (Label(Span(self.source, start, start), what),)


_BLOCK_STYLE = "write this in block style, one entry per line: commas and brackets are then part of the text"


def _plain_words(problem: str, context: str) -> tuple[str, tuple[str, ...]]:
    """PyYAML's message, said so that one knows what to do."""
    if "mapping values are not allowed" in problem:
        return "a second `: ` in one entry: YAML takes it for another key", (
            "no expression is written with `: `; a sum is `sum[k](...)`",
            "quote a sentence that needs `: `",
        )
    if "flow mapping" in context or "flow sequence" in context:
        return f"YAML cannot read what stands in these brackets: {problem}", (_BLOCK_STYLE,)
    if "cannot start any token" in problem:
        return "YAML does not allow this character at the start of a text", ("put the text in quotes",)
    if "block mapping" in context or "block collection" in context or "could not find expected ':'" in problem:
        return f"the structure breaks off here: {problem}", ("check the indentation, and that every entry is `key: text`",)
    return f"this is not YAML: {problem}", ()


def _duplicate(first: ScalarNode, second: ScalarNode) -> Diagnostic:
    return Diagnostic(
        code="yaml-duplicate-key",
        message=f"the key `{second.value}` stands here twice",
        span=second.span,
        label="again here",
        labels=(Label(first.span, "first here"),),
    )


def _parts(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [part for entry in node.entries for part in entry]
    return list(node.items) if isinstance(node, SequenceNode) else []


def _unbalanced(text: str) -> bool:
    return text.count("(") != text.count(")") or text.count("[") != text.count("]")


# ---- scalars ----------------------------------------------------------------------------------------------------------------------------------------

_INT = re.compile(r"[-+]?[0-9]+\Z")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+\Z")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(["", "~", "null", "Null", "NULL"]),
    **dict.fromkeys(["true", "True", "TRUE"], True),
    **dict.fromkeys(["false", "False", "FALSE"], False),
}


def has_leading_zero(node: ScalarNode) -> bool:
    """``010``: eight to YAML 1.1, ten to YAML 1.2, so neither here."""
    return node.plain and bool(_LEADING_ZERO.match(node.value))


def has_too_many_digits(node: ScalarNode) -> bool:
    return node.plain and len(node.value) > MAX_DIGITS + 1 and bool(_INT.match(node.value) or _OCTAL_OR_HEX.match(node.value))


def resolve(node: ScalarNode) -> int | float | bool | str | None:
    """The value of a scalar in the core schema of YAML 1.2.

    Left as texts: quoted scalars, numbers with leading zeros or too many digits, ``.inf`` and ``.nan`` (the language has no such numbers).
    """
    text = node.value
    if not node.plain or has_leading_zero(node) or has_too_many_digits(node):
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text)
    if _OCTAL_OR_HEX.match(text):
        return int(text, 0)
    if _FLOAT.match(text) and abs(float(text)) != float("inf"):
        return float(text)
    return text
