"""What vllm-ascend keeps on a layer beside its tensors, and its other code or its users read.

Used by ``override``, which takes the place of the code that writes it. Source: vllm-ascend 0.23.0.post1, quantization/methods/w8a8_mxfp8.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layoutdsl.api import Plan

_MXFP8 = {("W8A8_MXFP8", "linear"), ("W8A8_MXFP8", "moe")}
_BUFFERS = {"_mxfp8_weight_buf": "weight", "_mxfp8_scale_buf": "weight_scale"}
"""The tensors at the addresses that graphs have captured (linear layers)."""


def after_apply(key: tuple[str, str], plan: Plan, layer: Any) -> None:
    """Says what the original would have said once the layer is prepared."""
    if key not in _MXFP8:
        return
    layer._mxfp8_original_shapes = {name: parameter.shape for name, parameter in plan.parameters.items()}
    layer._mxfp8_transformed = True
    for buffer, name in _BUFFERS.items() if key[1] == "linear" else ():
        setattr(layer, buffer, getattr(layer, name).data)


def after_restore(key: tuple[str, str], layer: Any) -> None:
    """The same once it can be loaded again."""
    if key in _MXFP8:
        layer._mxfp8_transformed = False
