"""A plan cut to some of its outputs.

Between ``layoutdsl.plan`` and ``layoutdsl.runtime.apply``, which on a reload, or when it streams, does not make everything at once.

Invariants: a part gives, bit for bit, what the whole plan gives for these outputs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from layoutdsl.plan.model import Plan
from layoutdsl.plan.schedule import reads


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
