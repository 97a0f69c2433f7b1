"""What is stored, read and kept: parameters that nothing uses, and parameters consumed but left on the layer."""

from __future__ import annotations

from layoutdsl.compiler.elaborate import Elaboration
from layoutdsl.diagnostics import Diagnostic
from layoutdsl.ir.program import Compute, Move, Opaque, Value, values_in


def check_liveness(state: Elaboration) -> list[Diagnostic]:
    """Findings about one world. ``consumed-kept`` is a warning, ``loaded-unused`` a note: what a consumer keeps is its own business, and what another world
    uses is not unused (:func:`used`).

    A scalar or a vector is not worth a finding; a tensor over two axes is memory.
    """
    findings = []
    read_by_math = {value.number for instruction in state.code if isinstance(instruction, Compute) for value in values_in(instruction.expr)}
    moved = {instruction.of.number for instruction in state.code if isinstance(instruction, (Move, Opaque))}
    forward_reads = {binding.value.number for binding in state.bindings.values() if binding.read and isinstance(binding.value, Value)}
    for name, parameter in state.parameters.items():
        binding = state.bindings.get(name)
        if binding is None or binding.value is not parameter.value:
            continue
        number = parameter.value.number
        worth_it = sum(not digit.unit for digit in parameter.value.type.logical) > 1
        if number in read_by_math and number not in moved and worth_it and not _last_read_is_forward(state, name) and not state.accept("consumed-kept", {name}):
            message = f"`{name}` is consumed by the steps and kept on the layer, where nothing reads it again"
            findings.append(
                Diagnostic(
                    code="consumed-kept", severity="warning", message=message, span=parameter.value.span, helps=(f"add `delete: {name}` behind its last use",)
                )
            )
        elif number not in read_by_math and number not in forward_reads:
            message = f"`{name}` is loaded and kept, but no step and no kernel uses it"
            findings.append(Diagnostic(code="loaded-unused", severity="note", message=message, span=parameter.value.span))
    return findings


def used(state: Elaboration) -> set[int]:
    """Where the parameters are declared that math or the forward reads in this world."""
    math = {value.number for instruction in state.code if isinstance(instruction, Compute) for value in values_in(instruction.expr)}
    called = {name for name, binding in state.bindings.items() if binding.read}
    return {p.value.span.start for name, p in state.parameters.items() if p.value.number in math or name in called}


def _last_read_is_forward(state: Elaboration, name: str) -> bool:
    return name in state.forward_names
