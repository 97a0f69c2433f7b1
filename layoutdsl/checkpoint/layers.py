"""Which layers of a folder are quantized, with which scheme: from whatever format describes it to :class:`Layer`.

Between ``folder``, which read the files, and the checks, which compare layers with their specs. The formats have a reader each: ``modelslim``,
``compressed_tensors``, ``fp8``. Invariants: what is not read is named in words; a finding is an error only where a consumer would fail or compute garbage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layoutdsl.checkpoint import compressed_tensors, fp8, modelslim
from layoutdsl.checkpoint.grouping import Modules, looks_quantized, modules_of
from layoutdsl.checkpoint.model import Folder, Layer
from layoutdsl.checkpoint.modules import QUANTIZED_DTYPES
from layoutdsl.checkpoint.registry import Registry, shown
from layoutdsl.diagnostics import Diagnostic

_CONFIG_KEYS = ("quantization_config", "compression_config")
_ASCEND = ("", "ascend", "modelslim")
_MXFP8 = ("mxfp8", "modelopt_mxfp8")


def layers_of(folder: Folder, consumer: str, device: str) -> tuple[list[Layer], list[Diagnostic]]:
    """The quantized layers of a folder in the order in which it names them, and what is wrong with what is said of them.

    consumer, device: as in specs (``vllm-ascend-0.23``, ``a2``; an alias such as ``910b`` will do). Float modules give no layer.
    """
    modules, registry = modules_of(folder), Registry(consumer, device)
    layers, findings = _read(folder, modules, registry)
    if layers or findings:
        return layers, findings + _stacked_experts(modules)
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
        return [], _undescribed(modules)
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
        helps.append("or convert it: groups of int4 are what W4A16 of compressed-tensors stores (pack-quantized, experts alone)")
    return Diagnostic(code="format-unsupported", message=message, where=said_by, helps=tuple(helps))
