"""The reachable configurations of a spec: finite config enumerated, sizes symbolic, facts from ``require``.

A name of finite domain is tried only where something asks for it (:class:`Undecided`), and values that no comparison in the spec tells apart are one
class. So the
number of worlds is that of the reachable cases, not of the product of all names.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from layoutdsl.compiler.config import ConfigValue, Setting
from layoutdsl.compiler.evaluate import Undecided, fail, truth
from layoutdsl.compiler.helps import help_for
from layoutdsl.compiler.require import facts_of
from layoutdsl.compiler.scope import SYMBOLIC, Context, World, members_of
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.ir.symbolic import Facts
from layoutdsl.syntax.document import Document, Facet
from layoutdsl.syntax.tree import Binary, Call, Constant, ElementText, Items, LayoutText, Name
from layoutdsl.syntax.walk import nodes, nodes_with_parents

MAX_WORLDS = 2000
MAX_LITERAL = 64
"""An integer of the config is compared with literals below this; otherwise it stays a symbol, and the comparison is refused."""


Atom = tuple[str, str, Any]


def alike_values(settings: Mapping[str, Setting], atoms: Sequence[Atom]) -> dict[str, tuple[tuple[ConfigValue, ...], ...]]:
    """The values of every name of finite domain, those together that nothing tells apart: the first of them is tried for all. Texts and integers that the spec
    only compares have one value per literal, and one for the rest."""
    found: dict[str, tuple[tuple[ConfigValue, ...], ...]] = {}
    for name, setting in settings.items():
        compared = _compared(name, setting, atoms)
        domain = _domain(setting, compared)
        if domain is not None:
            found[name] = tuple(_classes(name, domain, compared))
    return found


def classes_of(document: Document, settings: Mapping[str, Setting], name: str) -> list[tuple[ConfigValue, ...]]:
    """The values of a name of finite domain, those together that no comparison in the spec tells apart: the first of them is tried for all."""
    compared = _compared(name, settings[name], list(_comparisons(document)))
    return _classes(name, _domain(settings[name], compared) or (), compared)


def _compared(name: str, setting: Setting, atoms: Sequence[Atom]) -> list[tuple[str, Any]]:
    """What a name is compared with. A bare mention of a condition compares it with true; of anything else it is a use."""
    bare = "==" if setting.type == "bool" else "use"
    return [(bare if op == "truth" else op, literal) for atom, op, literal in atoms if atom == name]


def used_names(settings: Mapping[str, Setting], atoms: Sequence[Atom]) -> frozenset[str]:
    """Names of config whose value goes into sizes and types; all others are only compared."""
    return frozenset(name for name, op, _ in atoms if op in ("use", "truth") and name in settings and settings[name].type != "bool")


def _domain(setting: Setting, compared: list[tuple[str, Any]]) -> tuple[ConfigValue, ...] | None:
    if setting.values is not None:
        return tuple(setting.values) + ((None,) if setting.optional else ())
    literals = [v for op, literal in compared if op != "use" for v in (literal if isinstance(literal, tuple) else (literal,)) if v is not None]
    if setting.type == "str":
        return (*dict.fromkeys(literals), "(any other)")
    if setting.optional:
        return (None, SYMBOLIC)
    numbers = [v for v in literals if isinstance(v, int)]
    if setting.minimum < 1 and any(op == "use" for op, _ in compared):
        numbers.append(0)  # a symbol is at least 1, so what may be 0 is tried at 0 as well
    if numbers:
        # Every value up to the largest literal, then all the rest as one symbol above it: nothing is left untried.
        top = max(numbers)
        if top - setting.minimum >= MAX_LITERAL:
            return None
        return (*range(setting.minimum, max(top, setting.minimum - 1) + 1), SYMBOLIC)
    return None


def lower_bounds(settings: Mapping[str, Setting], domains: Mapping[str, tuple[ConfigValue, ...]]) -> dict[str, int]:
    """What the symbol of an integer stands above where small values are tried one by one."""
    found = {}
    for name, domain in domains.items():
        numbers = [value for value in domain if isinstance(value, int) and not isinstance(value, bool)]
        if SYMBOLIC in domain and numbers:
            found[name] = max(numbers) + 1
    return found


def _classes(name: str, domain: tuple[ConfigValue, ...], compared: list[tuple[str, Any]]) -> list[tuple[ConfigValue, ...]]:
    """The values that no comparison tells apart together; every value alone of a name that is used other than in comparisons."""
    # Contracts ask for the dtype of the activation whether or not the spec names it.
    if name == "params_dtype" or any(op == "use" for op, _ in compared) or SYMBOLIC in domain:
        return [(value,) for value in domain]
    found: dict[tuple[bool, ...], tuple[ConfigValue, ...]] = {}
    for value in domain:
        key = tuple(_holds(value, op, literal) for op, literal in compared)
        found[key] = (*found.get(key, ()), value)
    return list(found.values())


def _holds(value: ConfigValue, op: str, literal: Any) -> bool:
    if op == "in":
        return value in literal
    if value is SYMBOLIC or value is None or literal is None or op in ("==", "!="):
        return bool(value == literal) == (op == "==")
    compared: dict[str, Any] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
    return bool(compared[op](value, literal))


def _comparisons(document: Document) -> Iterator[Atom]:
    """(name, operator, literal) of every comparison of a name with a literal; operator ``use`` for any other mention."""
    for node, parents in nodes_with_parents(document):
        for name in _dtype_names(node):
            yield name, "use", None
        yield from _last_words(node)
        if not isinstance(node, Name):
            continue
        parent = parents[-1] if parents else None
        op, literal = "truth", True
        if isinstance(parent, Items) and len(parents) > 1:
            parent = parents[-2]
        if isinstance(parent, Binary) and parent.op in ("==", "!=", "<", "<=", ">", ">=", "in"):
            op, literal = _atom(node, parent)
        elif isinstance(parent, Binary) and parent.op not in ("and", "or"):
            op = "use"
        yield node.id, op, literal


def _last_words(node: Any) -> Iterator[Atom]:
    """The words that ``last(prefix)`` is compared with: a prefix that is just that word stands for all that end in it."""
    match node:
        case Binary("==" | "!=", Call("last", arguments=(argument,)), Constant(word)) if isinstance(argument.value, Name):
            yield argument.value.id, "==", word
        case Binary("in", Call("last", arguments=(argument,)), Items(items)) if isinstance(argument.value, Name):
            yield argument.value.id, "in", tuple(item.value for item in items if isinstance(item, Constant))


def _dtype_names(node: Any) -> tuple[str, ...]:
    """Names that stand where a dtype stands: in types, and as casts."""
    match node:
        case ElementText(name) | Call(name):
            return (name,)
        case LayoutText(storage=storage):
            return (storage,)
    return ()


def _atom(node: Name, parent: Binary) -> tuple[str, Any]:
    other = parent.right if parent.left is node else parent.left
    match other:
        case Constant(value):
            flipped = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(parent.op, parent.op) if parent.right is node else parent.op
            return flipped, value
        case Items(items) if all(isinstance(item, Constant) for item in items):
            return "in", tuple(item.value for item in items if isinstance(item, Constant))
        case Name(name):
            return "==", name
    return "use", None


# --- enumeration ----------------------------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Enumeration:
    """All reachable worlds, and the problems met on the way. ``unreachable`` counts those that ``require`` excludes."""

    worlds: list[World] = field(default_factory=list)
    problems: list[Diagnostic] = field(default_factory=list)


def enumerate_worlds(document: Document, settings: Mapping[str, Setting]) -> Enumeration:
    """Decide names until every case of every facet and every finite requirement has a value."""
    atoms = list(_comparisons(document))
    result, alike = Enumeration(), alike_values(settings, atoms)
    domains = {name: tuple(values[0] for values in classes) for name, classes in alike.items()}
    known_facts: dict[Any, Facts] = {}
    memos: dict[Any, dict[int, Any]] = {}
    uses, bounds = used_names(settings, atoms), Facts(lower=lower_bounds(settings, domains))
    outside = _names_outside_facets(document, domains)
    seen: dict[Any, World] = {}
    pending: list[dict[str, ConfigValue]] = [{}]
    while pending:
        config = pending.pop()
        if len(pending) + len(result.worlds) > MAX_WORLDS:
            span = document.variants[0].span if document.variants else document.span
            message = f"more than {MAX_WORLDS} combinations of cases"
            result.problems.append(Diagnostic(code="too-many-cases", message=message, span=span, helps=help_for("too-many-cases")))
            break
        world = World(document, settings, dict(config), domains, memos=memos, uses=uses, bounds=bounds, alike=alike)
        try:
            reachable = decide(world, known_facts)
        except Undecided as undecided:
            pending += [{**config, undecided.name: value} for value in reversed(domains[undecided.name])]
            continue
        except DiagnosticError as error:
            result.problems += error.diagnostics
            continue
        if not reachable:
            continue
        # Configurations that lead to the same cases are one world, unless something names the config directly.
        key = (tuple(world.cases.items()), world.facts, tuple(world.config.get(name) for name in outside))
        if key in seen:
            seen[key].merged.append(world.config)
        else:
            seen[key] = world
            result.worlds.append(world)
    open_names = [name for name in outside if any(name not in world.config for world in result.worlds)]
    for name in open_names:
        result.worlds = [forked for world in result.worlds for forked in ([world] if name in world.config else fork(world, name))]
    return result


def _names_outside_facets(document: Document, domains: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of finite domain that params, steps and the like mention themselves; tried at once, so that no elaboration starts in vain."""
    sections = (document.params, document.steps, document.axes, document.let, document.value, document.invariants, document.forward)
    found = {node.id for node in nodes(sections) if isinstance(node, Name)}
    found |= {name for node in nodes(sections) for name in _dtype_names(node)}
    return tuple(name for name in domains if name in found)


def fork(world: World, name: str) -> list[World]:
    """The worlds that decide one more name. Cases and facts stay: they do not depend on it, or it would have been asked for."""
    return [
        World(
            world.document,
            world.settings,
            {**world.config, name: value},
            world.domains,
            dict(world.cases),
            world.facts,
            world.concrete,
            world.memos,
            world.uses,
            world.bounds,
            set(world.used),
            world.alike,
            [{**config, name: value} for config in world.merged],
        )
        for value in world.domains[name]
    ]


def decide(world: World, known_facts: dict[Any, Facts] | None = None) -> bool:
    """Fill in the cases and facts of a world; False if ``require`` excludes it. Raises Undecided, DiagnosticError."""
    context = Context(world, members_of(world.document)[0], world.bounds)
    for facet in world.document.variants:
        decide_facet(world, facet, context)
    facts = facts_of(world, known_facts if known_facts is not None else {})
    if facts is None:
        return False
    world.facts = facts
    return True


def decide_facet(world: World, facet: Facet, context: Context) -> None:
    chosen = None
    for case in facet.cases:
        if case.condition is None or truth(case.condition, context):
            chosen = case.name.value
            break
    if chosen is None:
        fail("facet-not-exhaustive", facet.name.span, f"no case of `{facet.name.value}` holds in: {_shown(world)}", helps=("add a case for it",))
    for case in facet.cases:
        world.cases[case.name.value] = case.name.value == chosen


def _shown(world: World) -> str:
    return ", ".join(f"{name} = {value}" for name, value in world.config.items()) or "every configuration"


def check_facets(document: Document) -> list[Diagnostic]:
    """Closed worlds: no ``otherwise`` in a facet over consumers or devices, which would swallow the next release silently."""
    problems = []
    for facet in document.variants:
        names = {node.id for case in facet.cases for node in nodes(case.condition) if isinstance(node, Name)}
        open_case = next((case for case in facet.cases if case.condition is None), None)
        for name in sorted(names & {"consumer", "device"}):
            if open_case is not None:
                message = f"`otherwise` in a facet over `{name}`: the next {name} would fall into it unseen"
                problems.append(Diagnostic(code="open-world", message=message, span=open_case.span, helps=(f"list the {name}s of this case",)))
    return problems
