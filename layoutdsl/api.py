"""The public face: load a spec, compile it, run or apply its plan.

Above the compiler and the runtime. Importing this module imports neither torch nor the parsers; each is imported by the call that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from math import lcm
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypedDict

from layoutdsl.bundled import bundled, find_bundled, is_path
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.plan import model
from layoutdsl.plan.bind import bind, broken_limits, check_sizes
from layoutdsl.plan.codec import decode, encode, plan_hash
from layoutdsl.plan.lifecycle import OutputFacts, facts_of
from layoutdsl.plan.sizes import evaluate, layer_kind, names_in
from layoutdsl.plan.solve import solve_sizes

if TYPE_CHECKING:
    import torch

    from layoutdsl.runtime.forward import Forward
    from layoutdsl.syntax.document import Document

MathMode = Literal["exact", "fast"]
Policy = Literal["stage", "stream", "donate"]


class Format(IntEnum):
    """Storage formats by their ACL number (torch_npu 2.13, npu_format_cast)."""

    ND = 2
    FRACTAL_NZ = 29


class FormatCast(TypedDict):
    """One cast to FRACTAL_NZ: the parameter's name, the shape and dtype that torch sees, the format, and further arguments of npu_format_cast."""

    name: str
    shape: list[int]
    dtype: str
    format: Format
    arguments: dict[str, int | str]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter to create before weights are loaded.

    shape: of this partition. dtype: torch's name. element: what the elements mean, in the language's names (``int4``, ``e8m0``, ...). default: None where the
    checkpoint must have it, a number it is filled with, or ``uninitialised`` where it may be absent and nothing reads it. output_dim, input_dim, packed_dim,
    packed_factor, quant_method: attributes for vLLM's weight loaders, None where the loader must not see them.
    """

    shape: tuple[int, ...]
    dtype: str
    default: int | float | str | None = None
    output_dim: int | None = None
    input_dim: int | None = None
    packed_dim: int | None = None
    packed_factor: int | None = None
    quant_method: str | None = None
    element: str = ""

    @property
    def required(self) -> bool:
        return self.default is None

    @property
    def loader_attributes(self) -> dict[str, int | str]:
        """The attributes that are set, ready for ``setattr`` on a torch Parameter."""
        names = ("output_dim", "input_dim", "packed_dim", "packed_factor", "quant_method")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def allocate(self, device: torch.device | str | None = None) -> torch.Tensor:
        """A tensor of this shape and dtype, filled with poison (NaN; 0x80 in integers and packed data): what is not loaded into it can be told afterwards.

        device: torch's default device if None. The mark belongs to the tensor; of a Parameter made of it, ``layoutdsl.runtime.poison.mark`` says the same.
        """
        from layoutdsl.runtime.dtypes import torch_dtype
        from layoutdsl.runtime.poison import empty

        return empty(self.shape, torch_dtype(self.dtype), self.element, device)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


class Spec:
    """A spec file, read and parsed. Made by :func:`load_spec`."""

    def __init__(self, document: Document) -> None:
        self._document = document

    @property
    def document(self) -> Document:
        return self._document

    @property
    def scheme(self) -> str:
        return self._document.scheme.value

    @property
    def layer(self) -> str:
        return self._document.layer.value

    @property
    def title(self) -> str:
        return self._document.title.value

    @cached_property
    def config_names(self) -> tuple[str, ...]:
        """The names of config that this spec reads, its own and the shared ones, in the order of the shared table."""
        from layoutdsl.compiler.names import config_names

        return config_names(self._document)

    def __repr__(self) -> str:
        return f"<Spec {self.scheme}.{self.layer} from {self._document.source.name}>"


class Plan:
    """A compiled spec for one configuration; bound if the sizes of a layer are known. Made by :func:`compile_spec` or :func:`load_plan`."""

    def __init__(self, plan: model.Plan, bound: model.Plan | None = None, sizes: Mapping[str, int] | None = None) -> None:
        """bound: with all sizes, or with nominal ones where ``sizes`` lacks those of free axes."""
        self._plan, self._bound, self.sizes = plan, bound, dict(sizes or {})

    # -- data

    @property
    def data(self) -> model.Plan:
        """The symbolic plan."""
        return self._plan

    @property
    def scheme(self) -> str:
        return self._plan.scheme

    @property
    def layer(self) -> str:
        return self._plan.layer

    @cached_property
    def hash(self) -> str:
        return plan_hash(self._plan)

    @property
    def config(self) -> dict[str, Any]:
        """The config that decided this plan."""
        return dict(self._plan.config)

    @property
    def size_names(self) -> tuple[str, ...]:
        return self._plan.sizes

    def to_json(self) -> str:
        """The canonical JSON of the symbolic plan."""
        return encode(self._plan)

    def bind(self, sizes: Mapping[str, int]) -> Plan:
        """The plan for a layer of these sizes; those of free axes may be left to the tensors.

        Raises DiagnosticError: unknown or missing sizes, a broken requirement.
        """
        # A caller gives all sizes of the layer kind; a plan may need only some of them.
        plan, plain = self._plan, {name: _plain_int(value) for name, value in sizes.items()}
        known = {name: value for name, value in plain.items() if name in plan.sizes or name not in layer_kind(self.layer).sizes}
        check_sizes(plan, known, optional=plan.free)
        nominal = {name: evaluate(size, plain) for name, size in plan.nominal if names_in(size) <= plain.keys()}
        missing = set(plan.sizes) - (nominal | known).keys()
        return Plan(plan, None if missing else bind(plan, nominal | known), known)

    def bind_to(self, shapes: Mapping[str, tuple[int, ...]]) -> Plan:
        """The plan for tensors of these shapes, by parameter: sizes that are known stay, the others are solved. Raises: DiagnosticError."""
        if self._bound is not None and not self._open:
            return self
        sizes = solve_sizes(self._plan, shapes, self.sizes)
        return Plan(self._plan, bind(self._plan, sizes), sizes)

    @property
    def _open(self) -> list[str]:
        """The sizes that are not known."""
        return [name for name in self._plan.sizes if name not in self.sizes]

    @property
    def bound(self) -> model.Plan:
        """The plan with integers, nominal ones for free axes that nobody gave. Raises DiagnosticError (``size-missing``) for a plan without sizes."""
        if self._bound is None:
            self._refuse_open()
        return self._bound

    def _refuse_open(self) -> NoReturn:
        message = f"the sizes of the layer are not known: {', '.join(self._open)}"
        helps = ("pass `sizes` to `compile_spec`, or call `plan.bind(sizes)`; `run` and `apply` solve them from the shapes of the tensors",)
        raise DiagnosticError(Diagnostic(code="size-missing", message=message, where=self.scheme, helps=helps))

    @property
    def warnings(self) -> list[Diagnostic]:
        """Conditions of use of the kernels that these sizes break."""
        return [] if self._open else broken_limits(self._plan, self.sizes)

    # -- before loading

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """What to create before any weight is loaded, by name, in the spec's order."""
        return {
            parameter.name: Parameter(
                parameter.type.shape,
                parameter.type.storage,
                parameter.default,
                element=parameter.type.element,
                **dict(parameter.loader),  # type: ignore[arg-type]
            )
            for parameter in self.bound.inputs
        }

    @cached_property
    def granularity(self) -> dict[str, int]:
        """What every size of a rank must be a multiple of, so that no stored word and no group is cut when a tensor is split: size name to number."""
        axes, found = dict(self._plan.axes), dict.fromkeys(self._plan.sizes, 1)
        for parameter in self.bound.inputs:
            for axis, unit in parameter.type.units.items():
                for size in names_in(axes[axis]):
                    found[size] = lcm(found[size], unit)
        return found

    @cached_property
    def lifecycle(self) -> dict[str, OutputFacts]:
        """Per output how it follows from the checkpoint's tensors, where its parts lie on the ranks of a layer, and where its experts are."""
        return facts_of(self._plan)

    @cached_property
    def format_casts(self) -> list[FormatCast]:
        """The FRACTAL_NZ casts in the spec's order."""
        names = self._names_of_values()
        return [
            FormatCast(
                name=names[instruction.id],
                shape=list(instruction.type.shape),
                dtype=instruction.type.storage,
                format=Format(int(dict(instruction.arguments)["format"])),
                arguments={name: value for name, value in instruction.arguments if name != "format"},
            )
            for instruction in self.bound.code
            if isinstance(instruction, model.Opaque) and instruction.function == "format_cast"
        ]

    def _names_of_values(self) -> dict[str, str]:
        """For every value the parameter it was made from."""
        names = {parameter.id: parameter.name for parameter in self.bound.inputs}
        for instruction in self.bound.code:
            names[instruction.id] = names.get(instruction.of, "") if not isinstance(instruction, model.Compute) else instruction.id
        for output in self.bound.outputs:
            names.setdefault(output.value, output.name)
        return names

    # -- running

    def run(self, tensors: dict[str, torch.Tensor], *, math: MathMode = "exact", donate: bool = False) -> dict[str, Any]:
        """All that the layer has afterwards: name to tensor, list of tensors, or number.

        tensors: the parameters by name. They are never changed; with ``donate=True`` they may be: each is taken out of ``tensors`` after its last use.
        math: ``exact`` keeps the order of every float sum (bit-equal to the system that is replaced, on x86); ``fast`` may sum in any order.
        Sizes that are not known are solved from the shapes. Raises: DiagnosticError.
        """
        from layoutdsl.runtime.execute import run

        _one_of("math", math, ("exact", "fast"))
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if hasattr(tensor, "shape")}
        return run(self.bind_to(shapes).bound, tensors, math=math, donate=donate)

    # -- on a module

    def create_parameters(self, module: torch.nn.Module, *, weight_loader: Callable[..., Any] | None = None, device: torch.device | str | None = None) -> None:
        """Registers a Parameter for each of ``parameters``, filled with poison, with its loader attributes and, if given, ``weight_loader``.

        device: torch's default device if None. Raises: DiagnosticError (``size-missing``).
        """
        from layoutdsl.runtime.restore import create_parameters

        create_parameters(self.bound, module, weight_loader=weight_loader, device=device)

    def apply(self, module: torch.nn.Module, *, math: MathMode = "exact", policy: Policy = "stage") -> None:
        """The same as ``run`` in place on a module. A second call changes nothing; after ``restore`` and a load, or when parameters were created anew and
        loaded, it writes into the memory that it wrote into before.

        Inputs that still hold poison are filled with their default if nothing was loaded into them, else refused. policy: ``stage`` changes nothing before all
        is made, ``stream`` goes output by output, ``donate``, for a first load, lets go of inputs meanwhile; docs/reload.md says at what price.
        Raises: DiagnosticError (``partial-load``, ``torn``, and as ``run``); after ``stage`` the module is then as it was.
        """
        from layoutdsl.runtime.apply import apply, bound_plan_on, shapes_of

        _one_of("math", math, ("exact", "fast"))
        _one_of("policy", policy, ("stage", "stream", "donate"))
        if self._bound is not None and not self._open:
            return apply(self._bound, module, math=math, policy=policy)
        shapes, ran = shapes_of(self._plan, module), bound_plan_on(self._plan, module)
        all_there = len(shapes) == len(self._plan.inputs)
        return apply(self.bind_to(shapes).bound if ran is None or all_there else ran, module, math=math, policy=policy)

    def restore(self, module: torch.nn.Module, *, mode: Literal["alias", "fresh"] = "alias") -> None:
        """The module in the checkpoint's form again, filled with poison, ready to be loaded; nothing happens where nothing was applied.

        mode: ``alias`` lays parameters over the memory of what was made of them where the bytes agree, ``fresh`` takes new memory for all of them; then, until
        the next ``apply`` has returned, ``roll_back`` undoes it. Raises: DiagnosticError (``torn``) where somebody took away what was made.
        """
        from layoutdsl.runtime.apply import bound_plan_on
        from layoutdsl.runtime.restore import restore

        _one_of("mode", mode, ("alias", "fresh"))
        plan = self._bound if self._bound is not None and not self._open else bound_plan_on(self._plan, module)
        if plan is not None:
            restore(plan, module, mode=mode)

    def roll_back(self, module: torch.nn.Module) -> None:
        """Undoes ``restore(module, mode="fresh")``. Raises: DiagnosticError (``torn``) where there is nothing to undo."""
        from layoutdsl.runtime.restore import roll_back

        roll_back(module)

    # -- calling

    def forward(self, module: torch.nn.Module, x: torch.Tensor, **inputs: Any) -> Any:
        """What the layer gives for a batch: [..., output size] for ``x`` of [..., input size], in the dtype of the last kernel.

        module: what ``apply`` left. inputs: those that the scheme's forward reads, of ``bias``, ``x_scale`` (of a quantized ``x``: [..., further dims]), and
        for experts either ``topk_ids`` and ``topk_weights``, [..., top_k] both, or ``group_list`` for an ``x`` that is sorted by expert, with
        ``group_list_type`` (1: int64 rows per expert, the default; 0: their running sum). None counts as not given. With the routing the result is the
        weighted sum per token, added in float32 and rounded once to ``x.dtype``; ids outside this rank's experts add nothing. With a group list it is the rows
        as they lie; those behind the last group are undefined.
        Tensors on an npu device go through torch_npu, all others through the reference kernels. ``torch.compile`` traces it as one graph once it has been
        called, or ``forward_function`` has.
        Raises: DiagnosticError (``forward-external``, ``forward-inputs``, ``tensor-missing``, ``kernel-missing``, ``torch-npu-missing``).
        """
        return self._forward(module, x, inputs)

    def forward_function(self, device: str = "npu") -> Callable[..., Any]:
        """The generated function ``forward(layer, x, ...)`` for a device type, as ``forward_source`` shows it; what it is called with is not checked."""
        return self._forward.function(device)

    @property
    def forward_source(self) -> str:
        """The Python text of the forward: one line per kernel call. Raises: DiagnosticError (``forward-external``, ``size-missing``)."""
        return self._forward.source.text

    @cached_property
    def _forward(self) -> Forward:
        from layoutdsl.runtime.forward import Forward

        if self._plan.forward != "external" and self._open:
            self._refuse_open()
        if self.bound.forward == "external" and self._plan.forward != "external":
            raise DiagnosticError(*(replace(warning, severity="error") for warning in self.warnings))
        return Forward(self.bound)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}={value}" for name, value in self.sizes.items()) or "unbound"
        return f"<Plan {self.scheme}.{self.layer} {sizes}>"


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        names = " or ".join(f"`{one}`" for one in allowed)
        raise DiagnosticError(Diagnostic(code="config-value", message=f"`{name}` cannot be {value!r}", where=name, helps=(f"write {names}",)))


def _plain_int(value: Any) -> Any:
    """Sizes come from configs and tensors too: any exact integer will do (numpy's, torch's), a truth value will not; the rest is refused by ``bind``."""
    try:
        return value if isinstance(value, bool) else index(value)
    except (TypeError, ValueError):
        return value


# --- functions ----------------------------------------------------------------------------------------------------------------------------------------------


def load_spec(spec: str | Path, layer: str | None = None) -> Spec:
    """A spec by bundled id (``W4A8_DYNAMIC`` with ``layer="linear"``, or ``W4A8_DYNAMIC.linear``) or by path.

    Raises: DiagnosticError with everything that is wrong with the text.
    """
    from layoutdsl.reading import read_spec
    from layoutdsl.syntax.yaml_reader import read_source

    path = Path(spec) if isinstance(spec, Path) or is_path(spec) else find_bundled(spec, layer)
    document = read_spec(read_source(path))
    if layer is not None and document.layer.value != layer:
        message = f"the file holds layer `{document.layer.value}`, not `{layer}`"
        raise DiagnosticError(Diagnostic(code="layer-differs", message=message, span=document.layer.span))
    return Spec(document)


def validate(spec: Spec | str | Path, layer: str | None = None) -> list[Diagnostic]:
    """Everything that is wrong with a spec, proved for all sizes and every reachable configuration; an empty list for a right one."""
    from layoutdsl.compiler.driver import validate as prove

    try:
        loaded = spec if isinstance(spec, Spec) else load_spec(spec, layer)
    except DiagnosticError as error:
        return list(error.diagnostics)
    return prove(loaded.document)


def compile_spec(
    spec: Spec | str | Path,
    *,
    layer: str | None = None,
    config: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
    params_dtype: Any = None,
) -> Plan:
    """The plan of one configuration.

    config: values by name; what is missing takes the spec's default. params_dtype: ``bfloat16`` or ``float16``, as a name or a torch dtype. sizes: bind at
    once.
    Raises: DiagnosticError.
    """
    from layoutdsl.compiler.driver import compile_document

    loaded = spec if isinstance(spec, Spec) else load_spec(spec, layer)
    given = dict(config or {})
    if params_dtype is not None:
        given["params_dtype"] = str(params_dtype).removeprefix("torch.")
    plan = Plan(compile_document(loaded.document, given))
    return plan.bind(sizes) if sizes is not None else plan


def load_plan(path: str | Path) -> Plan:
    """A plan from its JSON file. Needs neither the language nor the spec. Raises: DiagnosticError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise DiagnosticError(
            Diagnostic(
                code="file-missing" if isinstance(error, FileNotFoundError) else "file-unreadable",
                message=str(error.strerror or error).lower(),
                where=str(path),
            )
        ) from None
    except UnicodeDecodeError:
        raise DiagnosticError(Diagnostic(code="plan-syntax", message="this is not UTF-8 text", where=str(path))) from None
    try:
        return Plan(decode(text))
    except DiagnosticError as error:
        raise DiagnosticError(*(replace(d, where=d.where or str(path)) for d in error.diagnostics)) from None


__all__ = ["Format", "FormatCast", "Parameter", "Plan", "Spec", "bundled", "compile_spec", "load_plan", "load_spec", "validate"]
