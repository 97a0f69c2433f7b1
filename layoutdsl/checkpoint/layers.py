"""Which layers of a folder are quantized, with which scheme: from whatever format describes it to :class:`Layer`.

Between ``folder``, which read the files, and the checks, which compare layers with their specs. The formats have a reader each: ``modelslim``,
``compressed_tensors``, ``fp8``. Invariants: what is not read is named in words; a finding is an error only where a consumer would fail or compute garbage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from layoutdsl.checkpoint import compressed_tensors, fp8, modelslim
from layoutdsl.checkpoint.grouping import Modules, looks_quantized, modules_of
from layoutdsl.checkpoint.model import Folder, Layer
from layoutdsl.checkpoint.modules import QUANTIZED_DTYPES
from layoutdsl.checkpoint.registry import KINDS, Registry, shown
from layoutdsl.diagnostics import Diagnostic

_CONFIG_KEYS = ("quantization_config", "compression_config")
MOST_LAYERS = 10_000
_ASCEND = ("", "ascend", "modelslim")
_MXFP8 = ("mxfp8", "modelopt_mxfp8")
_ADD = """install layoutdsl beside the consumer, and start it with `--additional-config '{"layoutdsl": {"mode": "add"}}'`"""


def layers_of(folder: Folder, consumer: str, device: str) -> tuple[list[Layer], list[Diagnostic]]:
    """The quantized layers of a folder in the order in which it names them, and what is wrong with what is said of them.

    consumer, device: as in specs (``vllm-ascend-0.23``, ``a2``; an alias such as ``910b`` will do). Float modules give no layer.
    """
    modules, registry = modules_of(folder), Registry(consumer, device)
    layers, findings = _read(folder, modules, registry)
    findings += missing_layers(folder, findings)
    if layers or findings or _unreadable(folder):
        return layers, findings + _stacked_experts(modules) + _added(layers, registry)
    return [], [Diagnostic(code="not-quantized", message="nothing is quantized in this folder", where="config.json", severity="note")]


def _read(folder: Folder, modules: Modules, registry: Registry) -> tuple[list[Layer], list[Diagnostic]]:
    """By the reader of the format that the consumer would take."""
    config, said_by = _quantization_config(folder)
    method = _method_of(config, said_by)
    if isinstance(method, Diagnostic):
        return [], [method]
    # The oldest consumer looks for a description only where config.json names no method (override_quantization_method); later ones look for the file first.
    if folder.description is not None and (method in _ASCEND or registry.consumer != "vllm-ascend-0.16"):
        layers, findings = modelslim.layers(folder, folder.description, modules, registry, _described_by(folder, config))
        return layers, findings + _two_methods(method, registry.consumer)
    if config is None:
        return [], [] if _unreadable(folder) else _undescribed(modules)
    if method == "compressed-tensors":
        return compressed_tensors.layers(folder, config, modules, registry, said_by)
    if method in ("fp8", "deepseek_v4_fp8"):
        return fp8.blocks(folder, config, modules, registry, said_by)
    if method in _MXFP8 or (method == "modelopt" and _algorithm(config) == "MXFP8"):
        return fp8.mxfp8(folder, config, modules, registry, said_by)
    if method in _ASCEND:
        return modelslim.layers(folder, config, modules, registry, said_by)
    return [], [_unread(method, registry.consumer, said_by)]


def _quantization_config(folder: Folder) -> tuple[Mapping[str, Any] | None, str]:
    """The section of ``config.json`` on quantization, of the model or of its text part, and where it stands."""
    for outer, holder in (("", folder.config), ("text_config.", folder.config.get("text_config"))):
        for key in _CONFIG_KEYS:
            section = holder.get(key) if isinstance(holder, Mapping) else None
            if isinstance(section, Mapping) and section:
                return section, f"config.json: {outer}{key}"
    return None, "config.json"


def _method_of(config: Mapping[str, Any] | None, said_by: str) -> str | Diagnostic:
    method = (config or {}).get("quant_method") or ""
    if isinstance(method, str):
        return method.lower()
    message = f"`quant_method` is a word, not {type(method).__name__}"
    return Diagnostic(code="description-value", message=message, where=said_by, notes=(f"it is {shown(method)}",))


def _described_by(folder: Folder, config: Mapping[str, Any] | None) -> str:
    return "config.json: quantization_config" if folder.description is config else modelslim.FILE


def _algorithm(config: Mapping[str, Any]) -> str:
    section = config.get("quantization")
    value = config.get("quant_algo") or (section.get("quant_algo") if isinstance(section, Mapping) else "")
    return value.upper() if isinstance(value, str) else ""


# ---- findings ---------------------------------------------------------------------------------------------------------------------------------------


def _unreadable(folder: Folder) -> bool:
    """Was it said that what describes the layers cannot be read."""
    return any(finding.severity == "error" and finding.where in (modelslim.FILE, "config.json") for finding in folder.findings)


def missing_layers(folder: Folder, told: Sequence[Diagnostic]) -> list[Diagnostic]:
    """Layers of the model of which no file holds anything, where most are there: a folder of drafts holds the last layers only. told: found already, of
    modules that nothing is stored of. Files with faults are no evidence."""
    if any(finding.severity == "error" for finding in folder.findings):
        return []
    numbers: dict[str, set[int]] = {}
    for name in folder.tensors:
        stem, mark, rest = name.partition("layers.")
        number = rest.partition(".")[0]
        if mark and number.isascii() and number.isdigit() and len(number) < 7:
            numbers.setdefault(stem + mark, set()).add(int(number))
    stem = max(numbers, key=lambda stem: len(numbers[stem]), default="")
    there = numbers.get(stem, set())
    stated = next((count for holder in (folder.config, folder.config.get("text_config")) if (count := _layer_count(holder))), 0)
    absent = {*range(max(stated, max(there, default=-1) + 1))} - there if stated < MOST_LAYERS else set()
    known = {number for number in absent if any(finding.where.startswith(f"{stem}{number}.") for finding in told)}
    if len(absent) >= len(there):
        return []
    notes = (f"layers 0 to {max(there)} have some" + (f"; `num_hidden_layers` of config.json is {stated}" if stated else ""),)
    message = "the files have no tensor of this layer"
    return [Diagnostic(code="tensor-missing", message=message, where=f"{stem}{number}", notes=notes) for number in sorted(absent - known)]


def _layer_count(config: Any) -> int:
    found = config.get("num_hidden_layers") if isinstance(config, Mapping) else None
    return found if type(found) is int and found > 0 else 0


def _undescribed(modules: Modules) -> list[Diagnostic]:
    """Nothing describes the folder: right for a float one."""
    quantized = [name for name, tensors in modules.plain.items() if looks_quantized(tensors)]
    quantized += [prefix for prefix, experts in modules.experts.items() if any(map(looks_quantized, experts.modules.values()))]
    if not quantized:
        return []
    notes = (f"{len(quantized)} modules look quantized, such as `{quantized[0]}`", "a consumer would load them as if they were float")
    helps = (f"copy {modelslim.FILE} beside the weights, or `quantization_config` into config.json, from where the weights came from",)
    message = f"the tensors are quantized, and neither {modelslim.FILE} nor config.json says how"
    return [Diagnostic(code="description-missing", message=message, where=modelslim.FILE, notes=notes, helps=helps)]


def _two_methods(method: str, consumer: str) -> list[Diagnostic]:
    if method in _ASCEND:
        return []
    message = f"config.json says `{shown(method)}`, and there is a {modelslim.FILE} as well"
    notes = (f"{consumer} takes {modelslim.FILE} unless `--quantization` says otherwise; so it was done here",)
    helps = ("take out the one that is not meant",)
    return [Diagnostic(code="method-differs", message=message, where="config.json", notes=notes, helps=helps, severity="warning")]


def _added(layers: list[Layer], registry: Registry) -> list[Diagnostic]:
    """Schemes that the consumer has only with the plugin."""
    found = []
    for (scheme, kind), count in Counter((layer.scheme, layer.kind) for layer in layers).items():
        if registry.added(scheme, kind):
            message = f"{registry.consumer} itself has no `{scheme}` for {KINDS[kind]}: the plugin adds it"
            notes, where = (f"in {count} layer{'s' if count > 1 else ''}",), f"{scheme}.{kind}"
            found.append(Diagnostic(code="plugin-needed", message=message, where=where, notes=notes, helps=(_ADD,), severity="warning"))
    return found


def _stacked_experts(modules: Modules) -> list[Diagnostic]:
    """Experts in one tensor of three axes: the schemes' loaders want one tensor per expert."""
    found = []
    for name, tensors in modules.plain.items():
        if name.endswith(".experts") and any(tensor.dtype in QUANTIZED_DTYPES and len(tensor.shape) == 3 for tensor in tensors.values()):
            message = "the experts are stored in one tensor; quantized ones are loaded one by one"
            notes = (f"the files hold {', '.join(sorted(tensors)[:4])}",)
            found.append(
                Diagnostic(code="module-unsupported", message=message, where=name, notes=notes, helps=("store `experts.0.gate_proj.weight` and so on",))
            )
    return found


def _unread(method: str, consumer: str, said_by: str) -> Diagnostic:
    message = f"{consumer} does not read checkpoints of `{shown(method)}`"
    helps = ["quantize the float model anew, with msModelSlim or llm-compressor (`layoutdsl describe` shows what a scheme stores)"]
    if method in ("awq", "gptq"):
        helps.append("or convert it: groups of int4 are what W4A16 of compressed-tensors stores (pack-quantized)")
    return Diagnostic(code="format-unsupported", message=message, where=said_by, helps=tuple(helps))
