"""Stand-ins for what unmodified vllm and vllm-ascend want while they are imported or while a layer is made, and what only a build or an NPU has.

A pytest plugin (``-p tests_vllm_ascend.stand_ins``): it is loaded before any conftest, so that the tests of vllm-ascend itself run with it unmodified.
Importing it puts the modules in place and imports neither torch nor vllm; ``device_functions`` is for tests that have the real torch_npu.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    import torch

UNUSED = ("torchvision", "xgrammar")
"""Names are imported from these, and nothing is done with them while a layer is made or loaded. torchvision: image processors of transformers, for models that
vllm-ascend patches; the package registry has it for CUDA only, and that needs a torch for CUDA. xgrammar: structured answers; it brings triton, 900 MB, with
which vllm and vllm-ascend would take other paths."""
CHIPS = {"a2": "A2", "a3": "A3", "a5": "A5", "310p": "_310P"}
"""Our names to those of ``AscendDeviceType``."""


class _Unused(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Any module of these packages: any name can be imported from it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in UNUSED else None

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = _anything  # type: ignore[method-assign]


def _modules() -> None:
    """``_build_info`` is written by setup.py of vllm-ascend when it is built for a chip; ``get_ascend_device_type`` reads the chip there."""
    build = ModuleType("vllm_ascend._build_info")
    build.__device_type__ = CHIPS["a2"]  # type: ignore[attr-defined]
    sys.modules.setdefault(build.__name__, build)
    sys.meta_path.insert(0, _Unused())


def _anything(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return mock.MagicMock(name=name)


_modules()
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")  # torch_npu is imported by who wants it; upstream's tests replace it first
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


# ---- what an NPU does ----------------------------------------------------------------------------------------------------------------------------------------


@contextmanager
def device_functions() -> Iterator[list[dict[str, Any]]]:
    """torch_npu's functions that the load-time code calls and that need an NPU, on a CPU. Gives the list of NZ casts, filled as they happen.

    ``Tensor.npu``: to where it is. ``npu_format_cast``: the values stay, the call is recorded. ``npu_convert_weight_to_int4pack`` and ``npu_quantize`` to
    quint4x2: eight codes in an int32, the first in the lowest nibble (op-plugin, ConvertWeightToINT4PackKernelNpuOpApi.cpp, and torch_npu's tests of both).
    """
    import torch
    import torch_npu

    casts: list[dict[str, Any]] = []

    def format_cast(tensor: torch.Tensor, acl_format: int, **arguments: Any) -> torch.Tensor:
        casts.append({"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch."), "format": int(acl_format), "arguments": arguments})
        return tensor

    stand_ins = {"npu_format_cast": format_cast, "npu_convert_weight_to_int4pack": _int4pack, "npu_quantize": _quantize}
    with mock.patch.multiple(torch_npu, **stand_ins), mock.patch.object(torch.Tensor, "npu", lambda self, *_, **__: self):
        yield casts


def _int4pack(weight: torch.Tensor, inner_k_tiles: int = 0) -> torch.Tensor:
    """int32 codes, or float32 values of e2m1 (the op makes codes of those), [..., n] to words of the same dtype [..., n // 8]."""
    import torch

    codes = weight if weight.dtype == torch.int32 else _e2m1_codes(weight)
    lanes = codes.contiguous().unflatten(-1, (-1, 8)) & 0xF
    return sum((lanes[..., lane] << (4 * lane) for lane in range(1, 8)), lanes[..., 0]).view(weight.dtype)


def _e2m1_codes(values: torch.Tensor) -> torch.Tensor:
    import torch

    magnitudes = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    found = torch.searchsorted(magnitudes, values.float().abs().contiguous())
    assert torch.equal(magnitudes[found], values.float().abs()), "not values of e2m1"
    return (found + 8 * values.float().signbit()).int()


def _quantize(values: torch.Tensor, scales: torch.Tensor, zero_points: Any, dtype: torch.dtype, axis: int, div_mode: bool) -> torch.Tensor:
    import torch

    assert dtype == torch.quint4x2 and zero_points is None and not div_mode and scales.eq(1).all()
    return _int4pack(values.round().clamp(-8, 7).int())
