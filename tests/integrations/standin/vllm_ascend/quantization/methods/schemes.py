"""Hand-written schemes of the shapes that real ones have: a right one, one that calls its parent, one for experts, and one that no spec describes."""

import torch

from .base import AscendLinearScheme
from .registry import register_scheme


@register_scheme("W8A8_DYNAMIC", "linear")
class DynamicLinear(AscendLinearScheme):
    calls = 0

    def get_weight(self, input_size, output_size, params_dtype):
        return {
            "weight": torch.empty(output_size, input_size, dtype=torch.int8),
            "weight_scale": torch.empty(output_size, 1, dtype=params_dtype),
            "weight_offset": torch.empty(output_size, 1, dtype=params_dtype),
        }

    def process_weights_after_loading(self, layer):
        type(self).calls += 1
        layer.weight.data = layer.weight.data.transpose(0, 1).contiguous()
        layer.weight_scale.data = layer.weight_scale.data.flatten()
        layer.weight_scale_fp32 = layer.weight_scale.data.to(torch.float32)
        layer.weight_offset.data = layer.weight_offset.data.flatten()

    def apply(self, layer, x, bias=None, tp_rank=0):
        raise NotImplementedError


class UnregisteredLinear(DynamicLinear):
    """Somebody's subclass: it may hold anything."""


@register_scheme("W8A16", "linear")
class ThroughAnother(AscendLinearScheme):
    """Calls another scheme for the same layer, as W8A8_MIX does."""

    def __init__(self):
        self.inner = DynamicLinear()

    def get_weight(self, input_size, output_size, params_dtype):
        return self.inner.get_weight(input_size, output_size, params_dtype)

    def process_weights_after_loading(self, layer):
        self.inner.process_weights_after_loading(layer)

    def apply(self, layer, x, bias=None, tp_rank=0):
        raise NotImplementedError


@register_scheme("W8A8_DYNAMIC", "moe")
class DynamicExperts:
    dynamic_eplb = False

    def get_weight(self, num_experts, intermediate_size_per_partition, hidden_sizes, params_dtype):
        e, i, h = num_experts, intermediate_size_per_partition, hidden_sizes
        return {
            "w13_weight": torch.empty(e, 2 * i, h, dtype=torch.int8),
            "w2_weight": torch.empty(e, h, i, dtype=torch.int8),
            "w13_weight_scale": torch.empty(e, 2 * i, 1, dtype=params_dtype),
            "w2_weight_scale": torch.empty(e, h, 1, dtype=params_dtype),
            "w13_weight_offset": torch.empty(e, 2 * i, 1, dtype=params_dtype),
            "w2_weight_offset": torch.empty(e, h, 1, dtype=params_dtype),
        }

    def process_weights_after_loading(self, layer):
        for name in ("w13", "w2"):
            weight, scale, offset = (getattr(layer, name + what) for what in ("_weight", "_weight_scale", "_weight_offset"))
            weight.data = weight.data.transpose(1, 2).contiguous()
            scale.data = scale.data.view(scale.shape[0], -1)
            offset.data = offset.data.view(offset.shape[0], -1)
        layer.w13_weight_scale_fp32 = layer.w13_weight_scale.data.to(torch.float32)

    def apply(self, layer, x):
        return "borrowed"


@register_scheme("HOMEMADE", "linear")
class Homemade(DynamicLinear):
    def get_weight(self, input_size, output_size, params_dtype):
        return {"weight": torch.empty(output_size, input_size, dtype=torch.int8), "table": torch.zeros(16, dtype=params_dtype)}

    def process_weights_after_loading(self, layer):
        layer.weight.data = layer.weight.data.t()
