"""A plan cut to some of its outputs: what they are made from, and the plan that makes only them.

Between ``layoutdsl.plan`` and ``layoutdsl.runtime.apply``, which on a reload, or when it streams, does not make everything at once.

Invariants: a part gives, bit for bit, what the whole plan gives for these outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from layoutdsl.plan.model import Plan
from layoutdsl.plan.schedule import reads


def inputs_of(plan: Plan) -> Mapping[str, frozenset[str]]:
    """By output, the names of the inputs that it is made from."""
    found: dict[str, frozenset[str]] = {node.id: frozenset({node.name}) for node in plan.inputs}
    for node in plan.code:
        found[node.id] = frozenset[str]().union(*(found[value] for value in reads(node)))
    return {output.name: found[output.value] for output in plan.outputs}


def untouched(plan: Plan) -> frozenset[str]:
    """Outputs that are inputs of the same name, left as they are: both forms of such a parameter are one."""
    ids = {node.name: node.id for node in plan.inputs}
    return frozenset(output.name for output in plan.outputs if ids.get(output.name) == output.value)


def part(plan: Plan, names: Collection[str]) -> Plan:
    """The plan for some outputs, with the inputs that these need. It has no forward."""
    outputs = tuple(output for output in plan.outputs if output.name in names)
    needed = {output.value for output in outputs}
    code = []
    for node in reversed(plan.code):
        if node.id in needed:
            code.append(node)
            needed.update(reads(node))
    inputs = tuple(node for node in plan.inputs if node.id in needed)
    return replace(plan, inputs=inputs, code=tuple(reversed(code)), outputs=outputs, forward="external")
