"""The config and the sizes of a layer's plan, from the scheme object that vllm-ascend built for it, the layer, and vLLM's config.

Between the modes and the compiler. A scheme's own attributes come first, because they are what the hand-written code reads; then what the layer, the
checkpoint's description and the configs say; names that nobody knows are left to the spec's defaults.

Invariants: only values of the right type are taken (a mock of a test is none); what a layer cannot have is found by ``misfit``, not guessed away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layoutdsl.integrations.vllm_ascend import system

if TYPE_CHECKING:
    from layoutdsl.api import Plan

COMPRESSED_TENSORS = "compressed-tensors"
DTYPES = ("bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Asked:
    """Whose config is wanted. vllm: the VllmConfig, or None. model_names: names of the spec's config that the model's ``config.json`` gives, and the key
    there."""

    scheme: Any
    layer: Any
    vllm: Any
    consumer: str
    device: str
    model_names: Mapping[str, str]


def config_of(names: Mapping[str, str], asked: Asked) -> dict[str, Any]:
    """Values for those names of a spec's config (name to type: int, bool or str) that anybody knows. ``params_dtype`` is not among them: see ``dtypes_of``."""
    found = {}
    for name, kind in names.items():
        value = next((value for value in _said(name, asked) if _is(value, kind)), None)
        if value is not None and name != "params_dtype":
            found[name] = value
    return found


def dtypes_of(asked: Asked) -> list[str]:
    """What ``params_dtype`` may be, the likeliest first: the layer's, the model's, any."""
    model = getattr(getattr(asked.vllm, "model_config", None), "dtype", None)
    said = [str(dtype).removeprefix("torch.") for dtype in (getattr(asked.layer, "params_dtype", None), model)]
    return list(dict.fromkeys([dtype for dtype in said if dtype in DTYPES] + list(DTYPES)))


def sizes_of(asked: Asked) -> dict[str, int]:
    """Sizes of this rank that shapes do not always tell (of compressed weights, of latent keys); the plan solves the others from its tensors."""
    said = {
        "input_size": (getattr(asked.layer, "input_size_per_partition", None), getattr(asked.scheme, "input_size", None)),
        "output_size": (getattr(asked.layer, "output_size_per_partition", None),),
        "kv_lora_rank": (getattr(asked.scheme, "kv_lora_rank", None),),
    }
    known = {name: next((value for value in values if _is(value, "int")), None) for name, values in said.items()}
    return {name: value for name, value in known.items() if value is not None}


def misfit(plan: Plan, tensors: Mapping[str, Any]) -> str | None:
    """Why a bound plan is not for the tensors of a layer, by name; None if it is."""
    for name, parameter in plan.parameters.items():
        tensor = tensors.get(name)
        if tensor is None:
            if parameter.required:
                return f"the layer has no `{name}`"
            continue
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype != parameter.dtype or tuple(tensor.shape) != parameter.shape:
            return f"`{name}` is {dtype} {list(tensor.shape)}, and the plan wants {parameter.dtype} {list(parameter.shape)}"
    return None


# ---- who says what -------------------------------------------------------------------------------------------------------------------------------------------


def _said(name: str, asked: Asked) -> Iterator[Any]:
    """Everything that is said of a name, the most trusted first."""
    yield from _SOURCES.get(name, _nobody)(asked)
    yield getattr(asked.scheme, name, None)
    yield _weights(asked).get(name)
    yield system.quant_description(asked.vllm).get(name)
    if name in asked.model_names:
        yield getattr(getattr(getattr(asked.vllm, "model_config", None), "hf_config", None), asked.model_names[name], None)


def _nobody(asked: Asked) -> Iterator[Any]:
    return iter(())


def _weights(asked: Asked) -> dict[str, Any]:
    """What compressed-tensors says of this layer's weights (its ``QuantizationArgs``); nothing for other checkpoints."""
    ask = getattr(getattr(asked.layer, "quant_config", None), "get_scheme_dict", None)
    if ask is None:
        return {}
    said = ask(asked.layer, getattr(asked.layer, "prefix", None))
    weights = said.get("weights") if isinstance(said, dict) else None
    strategy = getattr(weights, "strategy", None)
    return {
        "group_size": getattr(weights, "group_size", None),
        "symmetric": getattr(weights, "symmetric", None),
        "weight_strategy": getattr(strategy, "value", strategy),
    }


def _quant_method(asked: Asked) -> Iterator[Any]:
    said = (getattr(asked.layer, "ascend_quant_method", None), getattr(asked.scheme, "quant_method", None))
    yield COMPRESSED_TENSORS if COMPRESSED_TENSORS in said else "ascend"


def _version(asked: Asked) -> Iterator[Any]:
    """W4A8 keeps a truth value of the description's word."""
    if getattr(asked.scheme, "new_quant_version", None) is True:
        yield "1.0.0"


def _layer_type(asked: Asked) -> Iterator[Any]:
    yield "row" if system.is_row_parallel(asked.layer) else "column"


def _tp_size(asked: Asked) -> Iterator[Any]:
    yield getattr(asked.scheme, "tp_size", None)
    yield getattr(asked.layer, "tp_size", None)
    yield system.tp_size()


def _tp_rank(asked: Asked) -> Iterator[Any]:
    yield getattr(asked.layer, "tp_rank", None)
    yield system.tp_rank()


def _kv_role(asked: Asked) -> Iterator[Any]:
    transfer = getattr(asked.vllm, "kv_transfer_config", None)
    if getattr(asked.scheme, "_is_kv_consumer", getattr(transfer, "is_kv_consumer", None)) is True:
        yield "consumer"
    elif getattr(transfer, "is_kv_producer", None) is True:
        yield "producer"
    else:
        yield "none"


def _switch(name: str) -> Iterator[Any]:
    """A number of ``AscendConfig``, which is a truth value where the user wrote one."""
    value = getattr(system.ascend_config(), name, None)
    yield int(value) if isinstance(value, bool) else value


_SOURCES: dict[str, Callable[[Asked], Iterator[Any]]] = {
    "consumer": lambda asked: iter((asked.consumer,)),
    "device": lambda asked: iter((asked.device,)),
    "quant_method": _quant_method,
    "version": _version,
    "layer_type": _layer_type,
    "tp_size": _tp_size,
    "tp_rank": _tp_rank,
    "kv_role": _kv_role,
    "weight_nz_mode": lambda asked: _switch("weight_nz_mode"),
    "fused_mc2": lambda asked: _switch("enable_fused_mc2"),
    "expert_lists": lambda asked: iter((getattr(asked.scheme, "dynamic_eplb", None),)),
    "prefix": lambda asked: iter((getattr(asked.layer, "prefix", None),)),
}
_TYPES = {"int": int, "bool": bool, "str": str}


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _TYPES[kind]) and not (kind == "int" and isinstance(value, bool))
