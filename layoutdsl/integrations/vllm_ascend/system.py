"""What is asked of the running vLLM: its config, the chip, ranks. Modules are looked up, never imported: whoever asks is called by them.

Read by ``config_of`` and ``plugin``. Everything has an answer, also where half of vLLM is missing or mocked: then it is None.
Source of the names: vllm 0.23.0 (config, distributed, model_executor/layers/linear.py), vllm-ascend 0.23.0.post1 (ascend_config.py, utils.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

DEVICES = {"A2": "a2", "A3": "a3", "_310P": "310p", "A5": "a5"}
"""vllm-ascend's ``AscendDeviceType`` by name."""


def vllm_ascend_version() -> str:
    """As its distribution says, or its package; "" where neither does."""
    try:
        return version("vllm-ascend")
    except PackageNotFoundError:
        found = getattr(sys.modules.get("vllm_ascend"), "__version__", None) or getattr(sys.modules.get("vllm_ascend._version"), "__version__", None)
        return found if isinstance(found, str) else ""


def vllm_config() -> Any:
    """The config that is current, None outside of any."""
    return _ask("vllm.config", "get_current_vllm_config_or_none")


def ascend_config() -> Any:
    return _ask("vllm_ascend.ascend_config", "get_ascend_config")


def device() -> str | None:
    """``a2`` and so on; None where vllm-ascend does not know its chip."""
    return DEVICES.get(getattr(_ask("vllm_ascend.utils", "get_ascend_device_type"), "name", ""))


def tp_rank() -> int | None:
    return _number(_ask("vllm.distributed", "get_tensor_model_parallel_rank"))


def tp_size() -> int | None:
    return _number(_ask("vllm.distributed", "get_tensor_model_parallel_world_size"))


def is_row_parallel(layer: Any) -> bool:
    """Are the inputs of a linear layer split over the ranks?"""
    kind = getattr(sys.modules.get("vllm.model_executor.layers.linear"), "RowParallelLinear", None)
    return isinstance(kind, type) and isinstance(layer, kind)


def loads_dummies(config: Any) -> bool:
    """``--load-format dummy``: random numbers go into floats, and nothing into the rest."""
    found = getattr(getattr(config, "load_config", None), "load_format", None)
    return str(getattr(found, "value", found)) == "dummy"


def quant_description(config: Any) -> dict[str, Any]:
    """What the checkpoint says of its quantization, as vllm-ascend's quantization configs keep it."""
    found = getattr(getattr(config, "quant_config", None), "quant_description", None)
    return found if isinstance(found, dict) else {}


def _ask(module: str, function: str) -> Any:
    asked: Callable[[], Any] | None = getattr(sys.modules.get(module), function, None)
    try:
        return asked() if asked is not None else None
    except Exception:  # not initialized: an assertion, a RuntimeError, an import that fails
        return None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
