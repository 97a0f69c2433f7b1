"""The first draft of a spec, from what the headers of one layer say: names, dtypes, extents, and what these make likely.

Behind ``new``. Reads what ``folder`` found; the compiler judges the result when it is filled in.

Invariants: the text parses; what headers cannot prove carries a comment ``# guess: ...``; what only a person knows is called ``TODO``, a name that ``validate``
refuses at its place; nothing that a file holds gets into the text unescaped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from layoutdsl.checkpoint.model import Folder, StoredTensor
from layoutdsl.checkpoint.modules import PROJECTIONS
from layoutdsl.compiler.consumers import DEFAULT_CONSUMER
from layoutdsl.diagnostics import Diagnostic, DiagnosticError
from layoutdsl.ir.dtypes import STORAGES

GROUP_SIZES = (32, 64, 128, 256, 512, 1024)
"""Inputs per scale that quantizers offer; the first that fits is taken."""
BLOCK = 128
"""Rows and columns per scale of fp8 checkpoints."""
PARAMS_DTYPES = ("bfloat16", "float16")
LETTERS = "srtuvyzabcfghijlopqwd"
"""For extents that are neither inputs nor outputs, in the order in which they are used; ``m`` counts rows of x, ``x`` is x."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_EXPERT = re.compile(r"(\d{1,6})\.([A-Za-z0-9_]+)\.(.+)")


def scaffold(folder: Folder, prefix: str, scheme: str | None = None) -> str:
    """The YAML text of a spec for the layer below a prefix. scheme: its name; None: what the folder's description calls it.

    Raises: DiagnosticError (``layer-not-stored`` where nothing, ``layer-ambiguous`` where several layers stand below the prefix).
    """
    below = prefix + "."
    tensors = {name[len(below) :]: tensor for name, tensor in folder.tensors.items() if name.startswith(below)}
    if not tensors:
        raise DiagnosticError(_not_stored(folder, prefix))
    described = _described(folder, prefix, tensors)
    draft = _Draft(folder, prefix, described)
    experts = _experts(tensors)
    if experts:
        draft.experts(experts)
    else:
        _refuse_several(prefix, tensors)
        draft.module(tensors)
    name = scheme or (described if re.fullmatch(r"[A-Za-z0-9_]+", described) else "TODO")
    return draft.text(name)


def _not_stored(folder: Folder, prefix: str) -> Diagnostic:
    """Where nothing stands below a prefix: the prefixes that are most like it."""
    known = list(dict.fromkeys(found for name in folder.tensors for found in _prefixes(name)))
    close = [name for name in known if name.endswith("." + prefix)][:3] or get_close_matches(prefix, known, 3, cutoff=0.5)
    helps = (f"{'prefixes' if len(close) > 1 else 'a prefix'} like it: {', '.join(f'`{name}`' for name in close)}",) if close else ()
    return Diagnostic(code="layer-not-stored", message=f"no tensor of {folder.path.name or folder.path} is called `{prefix}.*`", where=prefix, helps=helps)


def _prefixes(name: str) -> Iterator[str]:
    """The module of a tensor; for one of an expert, the experts together."""
    module = name.rpartition(".")[0]
    experts = re.match(r"(.*)\.\d+\.[^.]+$", module)
    if experts:
        yield experts[1]
    elif module:
        yield module


def _described(folder: Folder, prefix: str, tensors: Mapping[str, StoredTensor]) -> str:
    """The type that the folder's description gives the tensors of the layer; an empty text without one."""
    description = folder.description or {}
    types = [kind for name in tensors if isinstance(kind := description.get(f"{prefix}.{name}"), str) and kind != "FLOAT"]
    return Counter(types).most_common(1)[0][0] if types else ""


def _experts(tensors: Mapping[str, StoredTensor]) -> dict[str, dict[str, StoredTensor]]:
    """The tensors of the first expert by part (gate, up, down) and parameter; empty where these are no experts."""
    found = [match for name in tensors if (match := _EXPERT.fullmatch(name))]
    if len(found) < len(tensors):
        return {}
    first = min(int(match[1]) for match in found)
    parts: dict[str, dict[str, StoredTensor]] = {}
    for match in found:
        if int(match[1]) == first and match[2] in PROJECTIONS:
            parts.setdefault(PROJECTIONS[match[2]][1] or "down", {})[match[3]] = tensors[match[0]]
    return parts if {"gate", "down"} <= parts.keys() else {}


def _refuse_several(prefix: str, tensors: Mapping[str, StoredTensor]) -> None:
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in tensors if "." in name and name.rpartition(".")[2].startswith(("weight", "qweight"))))
    if not modules:
        return
    shown = ", ".join(f"`{prefix}.{module}`" for module in modules[:4]) + (", ..." if len(modules) > 4 else "")
    message = f"`{prefix}` is not one layer: weights stand in {len(modules)} {'modules' if len(modules) > 1 else 'module'} below it"
    helps = [f"name one of them: {shown}"]
    if expert := re.fullmatch(r"(.*\.experts)\.\d+", prefix):
        helps = [f"all experts are one layer: `{expert[1]}`"]
    raise DiagnosticError(Diagnostic(code="layer-ambiguous", message=message, where=prefix, helps=tuple(helps)))


# ---- types -------------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Guessed:
    """A type as it will be written. dims: as stored; logical: without packing, None where that is the same; lanes: what one storage unit holds."""

    element: str
    dims: tuple[str, ...]
    storage: str = ""
    logical: tuple[str, ...] = ()
    lanes: str = ""

    def text(self, *, experts: bool = False) -> str:
        first = ("e",) if experts else ()
        dims = ", ".join((*first, *self.dims)) + (f" | {self.lanes}" if self.lanes else "")
        logical = ", ".join((*first, *self.logical)) if self.logical else ", ".join((*first, *self.dims))
        return f"{self.element}[{logical}] in {self.storage}[{dims}]" if self.storage else f"{self.element}[{dims}]"


@dataclass(slots=True)
class _Linear:
    """What the extents of one module's tensors say: outputs, inputs, how many of each share a storage unit of the weight."""

    tensors: Mapping[str, StoredTensor]
    weight: str
    outputs: int = 0
    inputs: int = 0
    packed_outputs: int = 1
    packed_inputs: int = 1

    @classmethod
    def of(cls, tensors: Mapping[str, StoredTensor]) -> _Linear | None:
        """None where no tensor can be a weight."""
        matrices = [name for name, tensor in tensors.items() if len(tensor.shape) == 2 and 0 not in tensor.shape]
        named = [name for name in ("weight", "weight_packed", "qweight") if name in matrices]
        if not named:
            return None
        found = cls(tensors, named[0])
        rows, columns = tensors[found.weight].shape
        found.packed_outputs = found._packed(rows)
        found.packed_inputs = found._packed_inputs(columns) if found.packed_outputs == 1 else 1
        found.outputs, found.inputs = rows * found.packed_outputs, columns * found.packed_inputs
        return found

    @property
    def dtype(self) -> str:
        return self.tensors[self.weight].dtype

    @property
    def scales(self) -> list[StoredTensor]:
        return [tensor for name, tensor in self.tensors.items() if name != self.weight and "scale" in name and tensor.shape and tensor.shape[0] > 1]

    def _packed(self, rows: int) -> int:
        """Outputs per storage unit: what makes the rows of the weight as many as those of its scales."""
        lanes = {"int8": (2,), "uint8": (2,), "int32": (8,)}.get(self.dtype, ())
        heights = {scale.shape[0] for scale in self.scales}
        return 1 if rows in heights else next((lane for lane in lanes if rows * lane in heights), 1)

    def _packed_inputs(self, columns: int) -> int:
        if self.dtype == "int32":
            return 8
        if self.dtype == "uint8" or (self.dtype == "int8" and any(_exponents(s) and s.shape[-1] == -(-2 * columns // 32) for s in self.scales)):
            return 2
        return 1


def _exponents(scale: StoredTensor) -> bool:
    return scale.dtype in ("uint8", "float8_e8m0fnu")


# ---- the draft ---------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """An entry of ``params``: the name in the spec, by member (an empty text for all) the type and what the file has there, and what was guessed."""

    name: str
    types: Mapping[str, tuple[str, str]]
    guesses: tuple[str, ...] = ()

    def text(self, width: int) -> list[str]:
        guesses = [f"  # guess: {guess}" for guess in self.guesses]
        if "" in self.types:
            kind, stored = self.types[""]
            return [*guesses, f"  {self.name + ':':{width}} {kind}  # {stored}"]
        return [*guesses, f"  {self.name}:", *(f"    {member + ':':4} {kind}  # {stored}" for member, (kind, stored) in self.types.items())]

    @property
    def type(self) -> str:
        return next(iter(self.types.values()))[0]


@dataclass(slots=True)
class _Draft:
    """A spec that is being written."""

    folder: Folder
    prefix: str
    described: str
    kind: str = "attention"
    lines: list[_Line] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    axes: dict[str, int] = field(default_factory=dict)
    require: dict[str, None] = field(default_factory=dict)
    group_size: int | None = None
    inner: tuple[int, int] = (0, 0)

    # -- one module

    def module(self, tensors: Mapping[str, StoredTensor]) -> None:
        """A linear module; without a weight, a layer of the kind ``attention``, whose extents all become axes of their own."""
        linear = _Linear.of(tensors)
        if linear is not None:
            self.kind, self.inner = "linear", (linear.outputs, linear.inputs)
        for name, tensor in tensors.items():
            if linear is not None and name == "bias":
                self.left_out.append("bias: the layer's own, which `forward` is called with")
                continue
            guessed, guesses = self._type(name, tensor, linear)
            self._add(name, {"": (guessed.text(), _stored(tensor))}, guesses)

    def _add(self, name: str, types: Mapping[str, tuple[str, str]], guesses: Sequence[str], template: str = "") -> None:
        if _NAME.fullmatch(name):
            self.lines.append(_Line(template + name, types, tuple(dict.fromkeys(guesses))))
        else:
            self.left_out.append(f"{_quoted(name)}: a spec cannot call it so")

    # -- experts

    def experts(self, parts: Mapping[str, Mapping[str, StoredTensor]]) -> None:
        """Gate and up, stacked, are ``w13``; down is ``w2``. One type for both where they agree."""
        self.kind = "moe"
        sides = {member: (parts[part], _Linear.of(parts[part])) for member, part in (("w13", "gate"), ("w2", "down"))}
        gate = sides["w13"][1]
        self.inner = (gate.outputs, gate.inputs) if gate else (0, 0)
        for name in dict.fromkeys((*parts["gate"], *parts["down"])):
            types: dict[str, tuple[str, str]] = {}
            guesses: list[str] = []
            for member, (side, linear) in sides.items():
                if name in side:
                    guessed, found = self._type(name, side[name], linear)
                    types[member], guesses = (guessed.text(experts=True), _stored(side[name])), guesses + found
            if len(types) == 2 and len({kind for kind, _ in types.values()}) == 1:
                types = {"": (types["w13"][0], ", ".join(stored for _, stored in types.values()))}
            self._add(name, types, guesses, "<p>_")

    # -- one tensor

    def _type(self, name: str, tensor: StoredTensor, linear: _Linear | None) -> tuple[Guessed, list[str]]:
        if linear is not None and name == linear.weight:
            return self._weight(linear)
        guesses: list[str] = []
        used: list[str] = []
        for at, extent in enumerate(tensor.shape):
            used.append(self._dim(name, extent, at, used, tensor, linear, guesses))
        if not tensor.shape:
            used.append("0")
            guesses.append("the file's tensor has no dims; a loader may want one of extent 1")
        return self._element(name, tensor, tuple(used), guesses), guesses

    def _weight(self, linear: _Linear) -> tuple[Guessed, list[str]]:
        dtype, outputs, inputs = linear.dtype, linear.packed_outputs, linear.packed_inputs
        if outputs > 1:
            rows = ("N", "intermediate_size_per_partition") if self.kind == "moe" else ("N",)
            self.require |= dict.fromkeys(f"{size} % {outputs} == 0" for size in rows)
            guess = f"{outputs} int4 of neighbouring outputs in each {dtype}, since there are {outputs} times as many scales as rows"
            return Guessed("int4", (f"n//{outputs}", "k"), dtype, ("n", "k"), f"n%{outputs}"), [guess]
        if inputs > 1:
            self.require[f"K % {inputs} == 0"] = None
            exponents = inputs == 2 and any(map(_exponents, linear.scales))
            element = "e2m1" if exponents else "int4(excess 8)" if inputs == 8 else "int4"
            reason = (
                "its scales are exponents"
                if exponents
                else "codes stored as value + 8, as compressed-tensors packs"
                if inputs == 8
                else "uint8 holds no weights"
            )
            guess = f"{inputs} {element.partition('(')[0]} of neighbouring inputs in each {dtype}; {reason}"
            return Guessed(element, ("n", f"k//{inputs}"), dtype, ("n", "k"), f"k%{inputs}"), [guess]
        if dtype == "int8" and self.described.startswith("W4"):
            return Guessed("int4", ("n", "k"), "int8", ("n", "k")), [f"one int4 in each int8, since the description says {self.described}"]
        return Guessed(self._plain(dtype), ("n", "k")), []

    def _dim(self, name: str, extent: int, at: int, used: Sequence[str], tensor: StoredTensor, linear: _Linear | None, guesses: list[str]) -> str:
        """The entry for one dim of a tensor that is no weight."""
        if extent == 1:
            return "0"
        if linear is None:
            return self._own(extent, used)
        if linear.dtype.startswith("float8") and tensor.shape == (-(-linear.outputs // BLOCK), -(-linear.inputs // BLOCK)):
            return f"{'nk'[at]}//{BLOCK}"
        if extent == linear.outputs and "n" not in used:
            if linear.outputs == linear.inputs and len(tensor.shape) == 1:
                guesses.append("one per output; there are as many inputs")
            return "n"
        if extent == linear.inputs and "k" not in used and (at > 0 or len(tensor.shape) == 1):
            return "k"
        group = self._group(name, extent, tensor, linear) if at == 1 and used == ["n"] else None
        if group is None:
            guesses.append(f"{extent} is an axis of its own; say in `axes` what it is")
            return self._own(extent, used)
        if _exponents(tensor) and group == 32:
            guesses.append(f"one per 32 inputs, since ceil({linear.inputs} / 32) is {extent}")
            return "k//32"
        self.group_size = self.group_size or group
        guesses.append(f"one per group of {group} inputs, since ceil({linear.inputs} / {group}) is {extent}")
        return "k//group_size" if group == self.group_size else f"k//{group}"

    def _group(self, name: str, extent: int, tensor: StoredTensor, linear: _Linear) -> int | None:
        """The group size that makes this many groups; of several, what exponents have, what the description says, what was found before, what has no rest."""
        if "bias" in name or not any(word in name for word in ("scale", "offset", "zero")):
            return None
        said = (self.folder.description or {}).get("group_size")
        likely = [32] if _exponents(tensor) else [said] if isinstance(said, int) and said in GROUP_SIZES else []
        likely += [self.group_size] if self.group_size else []
        exact = [size for size in GROUP_SIZES if size * extent == linear.inputs]
        return next((size for size in (*likely, *exact, *GROUP_SIZES) if -(-linear.inputs // size) == extent), None)

    def _own(self, extent: int, used: Sequence[str]) -> str:
        """A letter for an extent: one that stands for it already, unless this tensor has used it; else a new one."""
        known = next((letter for letter, other in self.axes.items() if other == extent and letter not in used), None)
        free = (*LETTERS, *(f"{letter}{i}" for i in range(10) for letter in LETTERS))
        letter = known or next(letter for letter in free if letter not in self.axes)
        self.axes[letter] = extent
        return letter

    def _element(self, name: str, tensor: StoredTensor, dims: tuple[str, ...], guesses: list[str]) -> Guessed:
        if tensor.dtype == "uint8" and "scale" in name:
            guesses.append("the bytes are exponents")
            return Guessed("e8m0", dims, "uint8", dims)
        if tensor.dtype == "int64" and "scale" in name:
            guesses.append("the low half of each int64 is a float32")
            return Guessed("float32", dims, "zext int64", dims)
        if tensor.dtype not in STORAGES:
            guesses.append(f"{tensor.dtype} is not known here; its bytes can only be moved")
            return Guessed("opaque", dims, "uint8", dims)
        return Guessed(self._plain(tensor.dtype), dims)

    def _plain(self, dtype: str) -> str:
        model = self.folder.config.get("torch_dtype") or self.folder.config.get("dtype")
        names = {"float8_e4m3fn": "e4m3", "float8_e8m0fnu": "e8m0"}
        return "params_dtype" if dtype in PARAMS_DTYPES and model in (dtype, None) else names.get(dtype, dtype)

    # -- the text

    def text(self, scheme: str) -> str:
        blocks = [self._head(scheme), *([self._config()] if self.group_size else []), self._axes(), self._params(), *self._skeleton()]
        return "\n\n".join("\n".join(block) for block in blocks) + "\n"

    def _head(self, scheme: str) -> list[str]:
        """Header lines. What ``holds`` says is a guess until somebody has looked."""
        return [
            "layoutdsl: 1",
            f"scheme: {scheme}",
            f"layer: {self.kind}",
            "title: TODO, one line that says what is stored and what the activations are",
            "sources:",
            "  - TODO, the code that loads and runs such layers, with its commit",
            f"holds: {{consumer: [{DEFAULT_CONSUMER}], device: [a2]}}  # guess: name the systems and devices that you have checked",
        ]

    def _config(self) -> list[str]:
        return ["config:", f"  group_size: {{type: int, default: {self.group_size}}}  # guess: read off the number of scales"]

    def _axes(self) -> list[str]:
        outputs, inputs = self.inner
        lines = ["axes:"]
        if self.kind == "moe":
            lines = ["each: {p: [w13, w2]}", "axes:", "  e: num_experts"]
            lines += [f"  n: {{w13: 2 * intermediate_size_per_partition, w2: hidden_size}}  # here 2 * {outputs} and {inputs}"]
            lines += [f"  k: {{w13: hidden_size, w2: intermediate_size_per_partition}}  # here {inputs} and {outputs}"]
        if self.kind == "linear":
            lines += [f"  n: output_size  # here {outputs}", f"  k: input_size  # here {inputs}"]
        lines += [f"  {letter}: {extent}  # guess: a constant" for letter, extent in self.axes.items()]
        if lines[-1] == "axes:":
            lines[-1] = "axes: {}"
        if self.kind == "moe":
            lines.append("segments: {w13.n: [gate, up]}")
        return [*lines, *(["require:", *(f"  - {fact}" for fact in self.require)] if self.require else [])]

    def _params(self) -> list[str]:
        width = max((len(line.name) for line in self.lines), default=0) + 1
        place = _quoted(self.prefix) + (", of the first expert (gate and down)" if self.kind == "moe" else "")
        head = [f"# As stored below {place}. What may be absent gets `given` and `init`."]
        if any("params_dtype" in kind for line in self.lines for kind, _ in line.types.values()):
            head.append("# guess: `params_dtype`, the dtype of the model, where its own dtype is stored.")
        head += [f"# Left out: {text}." for text in self.left_out]
        lines = [text for line in self.lines for text in line.text(width)]
        return [*head, *(["params:", *lines] if lines else ["params: {}"])]

    def _skeleton(self) -> Iterator[list[str]]:
        names = ", ".join(line.name for line in self.lines)
        if self.kind == "attention":
            yield ["value:", "  none: TODO, why no weight is stored here (or what the tensors mean)"]
            yield ["# TODO: one line per tensor that changes when the layer is loaded.", "steps: []"]
            yield ["# TODO: the calls, if this layer makes them itself.", "forward: external"]
            return
        expert, target = ("e, ", "<p>") if self.kind == "moe" else ("", "W")
        weight = next((line.name for line in self.lines if "weight" in line.name), "weight")
        scale = next((line for line in self.lines if "scale" in line.name and "bias" not in line.name), None)
        index = f"[{scale.type.partition('[')[2].partition(']')[0]}]".replace(", 0", "") if scale else ""
        product = f"{weight}[{expert}n, k]" + (f" * {scale.name}{index}" if scale else "")
        yield [
            f"# TODO: what the layer multiplies with, of {names}.",
            f"# The least it can be: {product}",
            "value:",
            f"  {target}[{expert}n, k]: TODO",
        ]
        yield [
            "# TODO: one line per tensor that changes when the layer is loaded, say",
            f"#   - {weight}: transpose(k, n) | contiguous | nz when weight_nz_mode != 0",
            "steps: []",
        ]
        yield ["# TODO: the calls that multiply x with it, by the names that the steps leave; or `forward: external`.", "forward:", "  - return: TODO"]


def _stored(tensor: StoredTensor) -> str:
    return f"{_quoted(tensor.dtype)} {list(tensor.shape)}"


def _quoted(text: str) -> str:
    """A text of the files within one line of a comment."""
    return text if text.isascii() and text.isprintable() else text.encode("unicode_escape").decode("ascii")
