"""A stand-in for vllm-ascend, small enough to read: what the plugin hooks into, fresh for every test."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

STANDIN = Path(__file__).parent / "standin"
METHODS = "vllm_ascend.quantization.methods"


class World:
    """The stand-in before anything of it is imported, and what a process of vLLM does with it, in its order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def register(self) -> None:
        importlib.import_module("layoutdsl.integrations.vllm_ascend").register()

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(name)

    def config(self, layoutdsl: Any = None, **parts: Any) -> SimpleNamespace:
        """A VllmConfig, which is current from now on. layoutdsl: the key of ``additional_config``."""
        parts = {"additional_config": {} if layoutdsl is None else {"layoutdsl": layoutdsl}, "parallel_config": SimpleNamespace(rank=0), **parts}
        config = SimpleNamespace(model_config=SimpleNamespace(dtype=torch.bfloat16, hf_config=None), **parts)
        self.monkeypatch.setattr(self.module("vllm.config"), "current", config)
        return config

    def start(self, layoutdsl: Any = None, **parts: Any) -> SimpleNamespace:
        """Registers, reads the config, imports the schemes and the adapters."""
        self.register()
        config = self.config(layoutdsl, **parts)
        self.module("vllm_ascend.ascend_config").AscendConfig(config)
        self.module(METHODS)
        self.module("vllm_ascend.quantization.method_adapters")
        return config

    def scheme(self, name: str, kind: str = "linear") -> Any:
        return self.module(METHODS).get_scheme_class(name, kind)()

    def linear(self, scheme: Any, inputs: int = 64, outputs: tuple[int, ...] = (32,), dtype: torch.dtype = torch.bfloat16, **attributes: Any) -> Any:
        """A layer of this scheme with its adapter, created and not loaded."""
        layer = torch.nn.Module()
        vars(layer).update(prefix="model.layers.0.mlp.down_proj", tp_size=1, tp_rank=0, **attributes)
        adapter = self.module("vllm_ascend.quantization.method_adapters").AscendLinearMethod(scheme)
        adapter.create_weights(layer, inputs, list(outputs), inputs, sum(outputs), dtype, weight_loader=copy_into)
        return layer, adapter

    def experts(self, scheme: Any, e: int = 2, h: int = 32, i: int = 16, dtype: torch.dtype = torch.bfloat16) -> Any:
        layer = torch.nn.Module()
        adapter = self.module("vllm_ascend.quantization.method_adapters").AscendFusedMoEMethod(scheme)
        adapter.create_weights(layer, e, h, i, dtype, weight_loader=copy_into)
        return layer, adapter


def copy_into(param: torch.nn.Parameter, loaded_weight: torch.Tensor) -> None:
    param.data.copy_(loaded_weight)


def values(tensor: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Numbers that a checkpoint could hold."""
    made = torch.Generator().manual_seed(seed)
    if tensor.is_floating_point():
        return (torch.rand(tensor.shape, generator=made) + 0.5).to(tensor.dtype)
    return torch.randint(-100, 100, tensor.shape, generator=made).to(tensor.dtype)


def load(layer: torch.nn.Module, *leave_out: str, seed: int = 0) -> None:
    """Every parameter through its loader."""
    for name, parameter in layer.named_parameters():
        if name not in leave_out and hasattr(parameter, "weight_loader"):
            parameter.weight_loader(parameter, values(parameter, seed))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in ("LAYOUTDSL_MODE", "LAYOUTDSL_SPECS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(str(STANDIN))
    before, path = dict(sys.modules), list(sys.meta_path)
    _forget()
    yield World(monkeypatch)
    sys.meta_path[:] = path
    _forget()
    sys.modules.update({name: module for name, module in before.items() if _is_ours(name)})


def _forget() -> None:
    for name in [name for name in sys.modules if _is_ours(name)]:
        del sys.modules[name]


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in ("vllm", "vllm_ascend") or name.startswith("layoutdsl.integrations")
