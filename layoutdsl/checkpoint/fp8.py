"""Checkpoints of 8-bit floats whose ``quantization_config`` has no groups: DeepSeek-V4's blocks (``fp8``) and microscaled ones (``mxfp8``).

Two of the readers that ``layers`` asks; the rules are those of vllm-ascend 182b75ea84 (quantization/fp8_config.py, modelopt_mxfp8_config.py).
Invariants: which modules are quantized is told by their tensors: the config names only those that are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layoutdsl.checkpoint.grouping import Maker, Modules, Said, looks_quantized
from layoutdsl.checkpoint.model import Folder, Layer
from layoutdsl.checkpoint.registry import Refusal, Registry, shown
from layoutdsl.diagnostics import Diagnostic

NAMES = {"scale": "weight_scale", "weight_scale_inv": "weight_scale"}
BLOCK = [128, 128]


def blocks(folder: Folder, config: Mapping[str, Any], modules: Modules, registry: Registry, said_by: str) -> tuple[list[Layer], list[Diagnostic]]:
    """Layers of a ``quant_method: fp8`` folder. Only DeepSeek-V4 has kernels, for blocks of 128 by 128 and experts of fp4."""
    if modules.model_type != "deepseek_v4":
        message = f"{registry.consumer} reads `fp8` of DeepSeek-V4 alone, and this model is `{shown(modules.model_type) or 'unnamed'}`"
        helps = ("quantize the float model with msModelSlim or llm-compressor instead: W8A8_DYNAMIC, or on a5 W8A8_MXFP8",)
        return [], [Diagnostic(code="format-unsupported", message=message, where=said_by, helps=helps)]
    block = config.get("weight_block_size")
    if block != BLOCK:
        notes = (f"{said_by} has weight_block_size {shown(block)}",)
        return [], [Diagnostic(code="format-unsupported", message="`fp8` must have one scale per block of 128 by 128", where=said_by, notes=notes)]
    experts: str | Refusal = "ds_w4a8_moe"
    dtype = folder.config.get("expert_dtype", "fp4")
    if dtype != "fp4":
        message = f"{registry.consumer} reads experts of `fp4`, and `expert_dtype` is `{shown(dtype)}`"
        experts = Refusal("format-unsupported", message, (), ("keep the experts as they were released, or quantize them with msModelSlim",))
    return _layers(folder, modules, registry, Said("fp8", said_by), "ds_linear", experts)


def mxfp8(folder: Folder, config: Mapping[str, Any], modules: Modules, registry: Registry, said_by: str) -> tuple[list[Layer], list[Diagnostic]]:
    """Layers of an ``mxfp8`` or ``modelopt_mxfp8`` folder: W8A8_MXFP8 all over."""
    if registry.consumer != "vllm-ascend-main":
        message = f"{registry.consumer} does not read `{shown(config.get('quant_method'))}`"
        helps = ("vllm-ascend-main reads it; others take the same weights from a ModelSlim folder of W8A8_MXFP8",)
        return [], [Diagnostic(code="format-unsupported", message=message, where=said_by, helps=helps)]
    return _layers(folder, modules, registry, Said("W8A8_MXFP8", said_by), "linear", "moe")


def _layers(folder: Folder, modules: Modules, registry: Registry, said: Said, linear: str, experts: str | Refusal) -> tuple[list[Layer], list[Diagnostic]]:
    maker, made, findings = Maker(folder, modules, NAMES), [], []
    quantized = [name for name, tensors in modules.plain.items() if looks_quantized(tensors) or ("scale" in tensors and "weight" in tensors)]
    for name in quantized:
        found = registry.find(said.scheme, linear, said.by)
        if isinstance(found, Refusal):
            findings.append(found.at(name))
        else:
            made.append(maker.linear(name, said, found))
    for prefix, held in modules.experts.items():
        if not any(map(looks_quantized, held.modules.values())):
            continue
        spec = experts if isinstance(experts, Refusal) else registry.find(said.scheme, experts, said.by)
        if isinstance(spec, Refusal):
            findings.append(spec.at(prefix))
        else:
            made.append(maker.experts(prefix, said, spec))
    return made, findings
