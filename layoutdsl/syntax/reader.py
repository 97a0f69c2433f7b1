"""Reads a spec file into a :class:`Document`: YAML, then the shape, then every leaf.

The last stage of ``layoutdsl.syntax``; ``layoutdsl.compiler`` takes the document.

Invariants: all findings of a file are raised together, in the order of the file; what the shape check refused is passed over in silence here, so one
mistake gives one finding; a document is returned only if nothing was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import TypeVar

from layoutdsl.diagnostics import Diagnostic, DiagnosticError, InternalError, Label, Source, Span
from layoutdsl.syntax import expressions, schema
from layoutdsl.syntax.document import (
    Arm,
    AxisDecl,
    Cased,
    CaseMap,
    ConfigDecl,
    Delete,
    Document,
    EachDecl,
    Facet,
    FacetCase,
    ForwardBlock,
    ForwardLine,
    ForwardWord,
    LetDecl,
    Literal,
    NoValue,
    ParamDecl,
    SegmentDecl,
    Step,
    StepBlock,
    Text,
    ValueDecl,
)
from layoutdsl.syntax.tree import Binary, Constant, ElementText, Expr, Name, Pipeline, Rule, Target, TypeText
from layoutdsl.syntax.yaml_reader import MappingNode, Node, ScalarNode, SequenceNode, read_all, resolve

T = TypeVar("T")
Entry = tuple[ScalarNode, Node]


def read_document(source: Source) -> Document:
    """The document of a spec file; raises :class:`DiagnosticError` with everything that is wrong with it."""
    reading = read_all(source)
    diagnostics = list(reading.diagnostics)
    document: Document | None = None
    if reading.root is not None:
        found = schema.check(reading.root)
        if any(x.code == "unsupported-language-version" for x in found):
            # A file of another version may be right in all that looks wrong here.
            raise DiagnosticError(*(x for x in found if x.code == "unsupported-language-version"))
        reader = _Reader(source)
        document = reader.document(reading.root)
        found += reader.diagnostics
        diagnostics += [x for x in found if not any(_inside(x.span, place) for place in reading.distrusted)]
        if reader.passed_over and not diagnostics:
            raise InternalError(f"{source.name}: the shape of the file was accepted, but a part of it could not be read")
    if diagnostics:
        raise DiagnosticError(*_in_order(diagnostics))
    if document is None:
        raise InternalError(f"{source.name}: neither a document nor a finding")
    return document


def _inside(span: Span | None, place: Span) -> bool:
    return span is not None and place.start <= span.start and span.end <= place.end


def _in_order(diagnostics: list[Diagnostic]) -> list[Diagnostic]:
    unique = list(dict.fromkeys(diagnostics))
    return sorted(unique, key=lambda x: (x.span.start, x.span.end) if x.span is not None else (-1, -1))


class _Reader:
    """Walks the nodes. Findings are collected; what cannot be read becomes a stand-in, which never leaves with findings present."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.diagnostics: list[Diagnostic] = []
        self.passed_over = False

    # ---- nodes

    def entries(self, node: Node | None) -> tuple[Entry, ...]:
        if isinstance(node, MappingNode):
            return node.entries
        self.passed_over |= node is not None
        return ()

    def items(self, node: Node | None) -> tuple[Node, ...]:
        if isinstance(node, SequenceNode):
            return node.items
        self.passed_over |= node is not None
        return ()

    def attributes(self, node: Node | None) -> dict[str, Entry]:
        """The entries of a mapping by key; of two equal keys the first counts."""
        found: dict[str, Entry] = {}
        for entry in self.entries(node):
            found.setdefault(entry[0].value, entry)
        return found

    def text(self, node: Node) -> Text:
        if isinstance(node, ScalarNode):
            return Text(node.value, node.inner)
        self.passed_over = True
        return Text("", node.span)

    def optional_text(self, entry: Entry | None) -> Text | None:
        return None if entry is None else self.text(entry[1])

    def texts(self, node: Node | None) -> tuple[Text, ...]:
        return tuple(self.text(item) for item in self.items(node))

    def literal(self, node: Node) -> Literal:
        if not isinstance(node, ScalarNode):
            self.passed_over = True
            return Literal(None, node.span)
        problem = schema.literal_problem(node)
        if problem is not None:
            self.diagnostics.append(problem)
        value = resolve(node)
        self.passed_over |= value is None
        return Literal(None if node.plain and value == "none" else value, node.inner)

    def literals(self, node: Node) -> tuple[Literal, ...]:
        return tuple(self.literal(item) for item in self.items(node))

    # ---- leaves

    def leaf(self, node: Node, parse: Callable[[Span], T], stand_in: T) -> T:
        """Parse the raw slice of a scalar; on a finding, keep it and go on with the stand-in."""
        if not isinstance(node, ScalarNode) or (node.plain and resolve(node) is None):
            self.passed_over = True
            return stand_in
        problem = _leaf_problem(node)
        if problem is not None:
            self.diagnostics.append(problem)
            return stand_in
        try:
            return parse(node.inner)
        except DiagnosticError as error:
            self.diagnostics += error.diagnostics
            return stand_in

    def expression(self, node: Node) -> Expr:
        stand_in: Expr = Constant(None, node.span)
        return self.leaf(node, expressions.parse_expression, stand_in)

    def pipeline(self, node: Node) -> Pipeline:
        return self.leaf(node, expressions.parse_pipeline, Pipeline((), node.span))

    def rule(self, node: Node) -> Rule:
        return self.leaf(node, expressions.parse_rule, Rule(Constant(None, node.span), None, node.span))

    def type(self, node: Node) -> TypeText:
        return self.leaf(node, expressions.parse_type, TypeText(ElementText("", 0, node.span), (), None, (), node.span))

    def target(self, node: Node) -> Target:
        return self.leaf(node, expressions.parse_target, Target("", node.span, None, node.span))

    def targets(self, node: Node) -> tuple[Target, ...]:
        return self.leaf(node, expressions.parse_targets, ())

    def condition(self, entry: Entry | None) -> Expr | None:
        return None if entry is None else self.expression(entry[1])

    def cased(self, node: Node, read: Callable[[Node], T]) -> Cased[T]:
        """``node`` itself, or the arms of a case map."""
        if not isinstance(node, MappingNode):
            return read(node)
        arms = tuple(Arm(self.case(key), read(value), _from_to(key, value)) for key, value in node.entries)
        return CaseMap(arms, node.span)

    def expressions(self, node: Node) -> Cased[Expr]:
        return self.cased(node, self.expression)

    def pipelines(self, node: Node) -> Cased[Pipeline]:
        return self.cased(node, self.pipeline)

    # ---- the document

    def document(self, root: Node) -> Document:
        parts = self.attributes(root)

        def part(name: str) -> Node | None:
            return parts[name][1] if name in parts else None

        def header(name: str) -> Text:
            return self.text(parts[name][1]) if name in parts else Text("", root.span)

        return Document(
            source=self.source,
            version=schema.VERSION,
            scheme=header("scheme"),
            layer=header("layer"),
            title=header("title"),
            sources=self.texts(part("sources")),
            holds=tuple((self.text(key), self.texts(value)) for key, value in self.entries(part("holds"))),
            extends=self.optional_text(parts.get("extends")),
            config=tuple(self.config(*entry) for entry in self.entries(part("config"))),
            variants=tuple(self.facet(*entry) for entry in self.entries(part("variants"))),
            each=tuple(EachDecl(self.text(key), self.texts(value), _from_to(key, value)) for key, value in self.entries(part("each"))),
            axes=tuple(self.axis(*entry) for entry in self.entries(part("axes"))),
            segments=tuple(self.segment(*entry) for entry in self.entries(part("segments"))),
            let=tuple(LetDecl(self.text(key), self.expressions(value), _from_to(key, value)) for key, value in self.entries(part("let"))),
            require=tuple(self.rule(item) for item in self.items(part("require"))),
            params=tuple(self.param(*entry) for entry in self.entries(part("params"))),
            value=self.value(part("value")),
            invariants=tuple(self.rule(item) for item in self.items(part("invariants"))),
            steps=tuple(self.steps(self.items(part("steps")))),
            forward=self.forward(part("forward")),
            span=root.span,
        )

    def config(self, key: ScalarNode, node: Node) -> ConfigDecl:
        found = self.attributes(node)
        return ConfigDecl(
            name=self.text(key),
            type=self.text(found["type"][1]) if "type" in found else Text("", key.span),
            default=self.cased(found["default"][1], self.literal) if "default" in found else None,
            values=self.literals(found["values"][1]) if "values" in found else None,
            none=self.literals(found["none"][1]) if "none" in found else (),
            source=self.optional_text(found.get("from")),
            span=_from_to(key, node),
        )

    def facet(self, key: ScalarNode, node: Node) -> Facet:
        cases = tuple(FacetCase(self.text(name), self.case(test), _from_to(name, test)) for name, test in self.entries(node))
        return Facet(self.text(key), cases, _from_to(key, node))

    def case(self, node: Node) -> Expr | None:
        return None if isinstance(node, ScalarNode) and node.value == "otherwise" else self.expression(node)

    def axis(self, key: ScalarNode, node: Node) -> AxisDecl:
        extent = self.expressions(node)
        match extent:
            case Name("free"):
                return AxisDecl(self.text(key), None, True, _from_to(key, node))
            case Binary("or", Name("free"), nominal):
                return AxisDecl(self.text(key), nominal, True, _from_to(key, node))
        return AxisDecl(self.text(key), extent, False, _from_to(key, node))

    def segment(self, key: ScalarNode, node: Node) -> SegmentDecl:
        if not isinstance(node, MappingNode):
            return SegmentDecl(self.text(key), self.texts(node), (), _from_to(key, node))
        parts = self.entries(node)
        names, sizes = tuple(self.text(name) for name, _ in parts), tuple(self.expression(size) for _, size in parts)
        return SegmentDecl(self.text(key), names, sizes, _from_to(key, node))

    def param(self, key: ScalarNode, node: Node) -> ParamDecl:
        found = self.attributes(node) if isinstance(node, MappingNode) else {}
        if "type" not in found:
            found = {"type": (key, node)}
        return ParamDecl(
            name=self.text(key),
            type=self.cased(found["type"][1], self.type),
            given=self.expressions(found["given"][1]) if "given" in found else None,
            init=self.literal(found["init"][1]) if "init" in found else None,
            range=self.optional_text(found.get("range")),
            shard=self.optional_text(found.get("shard")),
            disk=self.optional_text(found.get("disk")),
            span=_from_to(key, node),
        )

    def value(self, node: Node | None) -> tuple[ValueDecl, ...] | NoValue:
        if isinstance(node, ScalarNode):
            return NoValue(node.value, None, node.inner)
        entries = self.entries(node)
        for key, reason in entries:
            if key.value in ("none", "opaque"):
                return NoValue(key.value, self.text(reason), _from_to(key, reason))
        return tuple(ValueDecl(self.target(key), self.expressions(body), _from_to(key, body)) for key, body in entries)

    # ---- steps

    def steps(self, nodes: tuple[Node, ...]) -> Iterator[Step | Delete | StepBlock]:
        for node in nodes:
            found = self.attributes(node)
            if "do" not in found:
                yield from self.step(node)
            elif "when" in found:
                inner = tuple(step for item in self.items(found["do"][1]) for step in self.step(item))
                yield StepBlock(self.expression(found["when"][1]), inner, node.span)
            else:
                self.passed_over = True

    def step(self, node: Node) -> Iterator[Step | Delete]:
        found = self.attributes(node)
        if "delete" in found:
            names = self.targets(found["delete"][1])
            yield Delete(names, self.condition(found.get("when")), self.optional_text(found.get("why")), node.span)
            return
        if "do" in found:
            self.passed_over = True
            return
        entry = self.single(node, found, schema.STEP_MODIFIERS)
        if entry is None:
            return
        key, body = entry
        kind = self.cased(found["as"][1], self.text) if "as" in found else None
        # `as: value` reads one element to a number: its body is an expression, as behind a target with digits.
        computes = "[" in key.value or (isinstance(kind, Text) and kind.value == "value")
        yield Step(
            target=self.target(key),
            body=self.body(body, computes),
            when=self.condition(found.get("when")),
            kind=kind,
            why=self.optional_text(found.get("why")),
            accept=self.accept(found),
            span=node.span,
        )

    def body(self, node: Node, computes: bool) -> Cased[Pipeline] | Cased[Expr]:
        return self.expressions(node) if computes else self.pipelines(node)

    def single(self, node: Node, found: dict[str, Entry], modifiers: tuple[str, ...]) -> Entry | None:
        """The one entry of a step that is not a modifier."""
        others = [entry for name, entry in found.items() if name not in modifiers]
        if len(others) == 1:
            return others[0]
        if not others and found:
            self.diagnostics.append(
                Diagnostic(
                    code="step-target",
                    message="this entry has modifiers and no target",
                    span=node.span,
                    helps=("add `name: ...` as its first line",),
                )
            )
        elif not others:
            self.passed_over = True
        for key, _ in others[1:]:
            self.diagnostics.append(_second_target(others[0][0], key, modifiers, found))
        return None

    def accept(self, found: dict[str, Entry]) -> tuple[Text, ...]:
        if "accept" not in found:
            return ()
        key, node = found["accept"]
        if "why" not in found:
            helps = ("add `why:` with the reason",)
            self.diagnostics.append(Diagnostic(code="accept-without-why", message="`accept` needs a reason", span=key.span, helps=helps))
        return (self.text(node),) if isinstance(node, ScalarNode) else self.texts(node)

    # ---- forward

    def forward(self, node: Node | None) -> tuple[ForwardLine | ForwardBlock, ...] | ForwardWord:
        if isinstance(node, ScalarNode):
            return ForwardWord(self.text(node), node.inner)
        return tuple(self.lines(self.items(node)))

    def lines(self, nodes: tuple[Node, ...]) -> Iterator[ForwardLine | ForwardBlock]:
        for node in nodes:
            found = self.attributes(node)
            if "do" not in found:
                yield from self.line(node)
            elif "when" in found:
                inner = tuple(line for item in self.items(found["do"][1]) for line in self.line(item))
                yield ForwardBlock(self.expression(found["when"][1]), inner, node.span)
            else:
                self.passed_over = True

    def line(self, node: Node) -> Iterator[ForwardLine]:
        found = self.attributes(node)
        if "do" in found:
            self.passed_over = True
            return
        entry = self.single(node, found, schema.LINE_MODIFIERS)
        if entry is None:
            return
        key, body = entry
        yield ForwardLine(
            targets=() if key.value == "return" else self.targets(key),
            body=self.expressions(body),
            when=self.condition(found.get("when")),
            accept=self.accept(found),
            why=self.optional_text(found.get("why")),
            span=node.span,
        )


def _from_to(first: Node, last: Node) -> Span:
    return Span(first.span.source, first.span.start, max(first.span.end, last.span.end))


def _leaf_problem(node: ScalarNode) -> Diagnostic | None:
    """Why the raw slice of a scalar is not the text that YAML means; positions would be wrong."""
    if node.block:
        message = "an expression may not be a block text"
        return Diagnostic(
            code="expression-quoting",
            message=message,
            span=node.span,
            helps=("write it plain; a long one goes on in the next line, indented",),
        )
    if node.plain:
        return None
    raw, quote = node.inner.text, node.span.text[:1]
    if (quote == '"' and "\\" in raw) or (quote == "'" and "''" in raw):
        message = "an expression may not be a quoted text with escapes"
        return Diagnostic(code="expression-quoting", message=message, span=node.span, helps=("write it plain, without the outer quotes",))
    return None


def _second_target(first: ScalarNode, key: ScalarNode, modifiers: tuple[str, ...], found: dict[str, Entry]) -> Diagnostic:
    close = get_close_matches(key.value, [x for x in modifiers if x not in found], n=1)
    helps: tuple[str, ...]
    if close:
        helps = (f"a key like it is `{close[0]}`",)
    else:
        helps = ("start each target with its own `-`", f"the other keys that can stand here are {', '.join(f'`{x}`' for x in modifiers)}")
    return Diagnostic(
        code="step-target",
        message=f"one entry has two targets, `{first.value}` and `{key.value}`",
        span=key.span,
        labels=(Label(first.span, "the first"),),
        helps=helps,
    )
