"""Sizes from shapes: what the given tensors say about the sizes of a plan.

Used where nobody states the sizes; the result goes to ``layoutdsl.plan.bind``.

Invariants: never a guess. An extent determines a size only where it is a product with that one unknown (``N``, ``2 * I``, ``N / 8`` where exact); a rounded
extent is only checked, and so is a requirement, unless it says what a size equals. Either all sizes are determined and every shape agrees, or there is a
diagnostic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.plan.model import Input, Plan
from layoutdsl.plan.sizes import SizeExpr, evaluate, names_in, size_text

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Observation:
    """One dim of one given tensor: what the plan says its extent is, and what it is."""

    tensor: str
    dim: int
    size: SizeExpr
    found: int


@dataclass(frozen=True, slots=True)
class _Conflict:
    """An observation that no positive integer explains."""


def solve_sizes(plan: Plan, shapes: Mapping[str, Shape], known: Mapping[str, int] | None = None) -> dict[str, int]:
    """The sizes of a plan, from the shapes of given inputs (names that are no inputs are left to ``check_inputs``). known: sizes that were stated.

    Raises: DiagnosticError with ``tensor-shape`` (a rank, or extents of two tensors that contradict each other) or ``size-unsolved``.
    """
    sizes = known_sizes(plan, shapes, known)
    _refuse_unsolved(plan, sizes, shapes)
    return {name: sizes[name] for name in plan.sizes}


def known_sizes(plan: Plan, shapes: Mapping[str, Shape], known: Mapping[str, int] | None = None) -> dict[str, int]:
    """As ``solve_sizes``, without the sizes that these shapes leave open. Raises: DiagnosticError with ``tensor-shape``."""
    observations = [observation for node in plan.inputs if node.name in shapes for observation in _observed(node, shapes[node.name])]
    sizes: dict[str, int] = dict(known or {})
    origin: dict[str, _Observation] = {}
    progress = True
    while progress:
        progress = False
        for observation in observations:
            solved = _solve(observation.size, observation.found, sizes)
            if isinstance(solved, _Conflict):
                raise DiagnosticError(_contradiction(plan, observation, sizes, origin, shapes))
            if solved is not None:
                name, value = solved
                sizes[name], origin[name], progress = value, observation, True
    return sizes | _stated(plan, sizes)


def _stated(plan: Plan, known: Mapping[str, int]) -> dict[str, int]:
    """Sizes that no extent mentions, since a requirement says what they equal."""
    found: dict[str, int] = {}
    for condition in plan.require:
        match condition.test:
            case ("==", str(name), size) if name not in known and names_in(size) <= known.keys():
                value = _value(size, known)
                found |= {name: value} if value is not None else {}
    return found


def _observed(node: Input, shape: Shape) -> list[_Observation]:
    if len(shape) != len(node.type.dims):
        text = ", ".join(size_text(_extent(node, dim)) for dim in range(len(node.type.dims)))
        message = f"`{node.name}` has {len(shape)} dims, {list(shape)}; the scheme stores it with {len(node.type.dims)}: [{text}]"
        raise DiagnosticError(Diagnostic(code="tensor-shape", message=message, where=node.name, helps=("pass the tensor as the checkpoint stores it",)))
    return [_Observation(node.name, dim, _extent(node, dim), extent) for dim, extent in enumerate(shape)]


def _extent(node: Input, dim: int) -> SizeExpr:
    factors = [digit.ext for digit in node.type.dims[dim] if digit.ext != 1]
    return 1 if not factors else factors[0] if len(factors) == 1 else ("*", *factors)


def _solve(size: SizeExpr, found: int, known: Mapping[str, int]) -> tuple[str, int] | _Conflict | None:
    """The size that ``size == found`` determines; None if none, or if it merely holds; a conflict if it cannot hold."""
    if not names_in(size) - known.keys():
        return None if _value(size, known) == found else _Conflict()
    match size:
        case str():
            return (size, found) if found > 0 else _Conflict()
        case ("*", *factors):
            return _solve_product(factors, found, known)
        case ("/", dividend, divisor) if not names_in(divisor) - known.keys():
            value = _value(divisor, known)
            return _Conflict() if value is None else _solve(dividend, found * value, known)
        case _:
            return None


def _solve_product(factors: list[SizeExpr], found: int, known: Mapping[str, int]) -> tuple[str, int] | _Conflict | None:
    unknown = [factor for factor in factors if names_in(factor) - known.keys()]
    if len(unknown) > 1:
        return None
    product = _value(("*", 1, *(factor for factor in factors if factor is not unknown[0])), known)
    if not product:
        return _Conflict() if product is None or found else None
    return _solve(unknown[0], found // product, known) if found % product == 0 else _Conflict()


def _value(size: SizeExpr, known: Mapping[str, int]) -> int | None:
    try:
        return evaluate(size, known)
    except (ValueError, ZeroDivisionError):
        return None


# ---- messages ------------------------------------------------------------------------------------------------------------------------------------------------


def _contradiction(plan: Plan, guilty: _Observation, sizes: Mapping[str, int], origin: Mapping[str, _Observation], shapes: Mapping[str, Shape]) -> Diagnostic:
    names = [name for name in plan.sizes if name in names_in(guilty.size) and name in sizes]
    tensors = _sources([name for name in names if name in origin], origin)
    wanted = _value(guilty.size, sizes) if set(names) == names_in(guilty.size) else None
    needs = f"which needs {wanted}" if wanted is not None else "which no size gives"
    message = f"dim {guilty.dim} of `{guilty.tensor}` is {guilty.found}, but the scheme stores `{size_text(guilty.size)}` there, {needs}"
    if tensors:
        message += f" to agree with {', '.join(f'`{tensor}`' for tensor in tensors)}"
    notes = [f"`{tensor}` has shape {list(shapes[tensor])}" for tensor in dict.fromkeys([guilty.tensor, *tensors])]
    notes += [f"`{name}` = {sizes[name]} {_reason(origin.get(name))}" for name in names]
    helps = ("check that both tensors are of one layer, and that `config` says what the checkpoint is (group size, version, packing)",)
    return Diagnostic(code="tensor-shape", message=message, where=guilty.tensor, notes=tuple(notes), helps=helps)


def _reason(origin: _Observation | None) -> str:
    return "was given" if origin is None else f"follows from dim {origin.dim} of `{origin.tensor}`"


def _sources(names: Iterable[str], origin: Mapping[str, _Observation]) -> list[str]:
    """The tensors that the values of these sizes come from, directly."""
    return list(dict.fromkeys(origin[name].tensor for name in names))


def _refuse_unsolved(plan: Plan, sizes: Mapping[str, int], shapes: Mapping[str, Shape]) -> None:
    missing = [name for name in plan.sizes if name not in sizes]
    given = [node.name for node in plan.inputs if node.name in shapes]
    solved = ", ".join(f"{name} = {value}" for name, value in sizes.items())
    notes = (f"given are {', '.join(given)}" if given else "no tensor of this layer is given", *([f"known are {solved}"] if solved else []))
    findings = [_unsolved(name, notes) for name in missing]
    if findings:
        raise DiagnosticError(*findings)


def _unsolved(name: str, notes: tuple[str, ...]) -> Diagnostic:
    message = f"the shapes of the tensors do not determine the size `{name}`"
    return Diagnostic(code="size-unsolved", message=message, notes=notes, helps=(f"pass `sizes` with `{name}`",))
