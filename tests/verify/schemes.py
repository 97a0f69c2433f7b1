"""Hand-written classes for the tests of ``--against``: what the replaced system does for W4A8 linear layers, and the same with a fault each."""

from __future__ import annotations

import torch


class W4A8Linear:
    """Both layouts of the checkpoint."""

    def __init__(self, group_size: int = 256, version: str = "0", layer_type: str = "column") -> None:
        self.group_size, self.packed, self.row = group_size, version == "1.0.0", layer_type == "row"

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        weight = layer.weight.data.transpose(0, 1).contiguous()
        first, second = layer.weight_scale.data.flatten().to(torch.float32), layer.weight_scale_second.data.transpose(0, 1).contiguous()
        layer.weight_scale.data, layer.weight_offset.data = first, layer.weight_offset.data.flatten()
        layer.weight_scale_second.data = first * second
        if self.packed:
            layer.weight.data = weight.view(torch.int32)
            self.flatten(layer)
            return
        k, n = weight.shape
        terms = weight.to(torch.float32).reshape(-1, self.group_size, n) * second.reshape(-1, 1, n)
        layer.weight_scale_bias = torch.nn.Parameter(self.factor() * (terms.reshape(k, n) * first).sum(0), requires_grad=False)
        layer.weight.data = ((weight.to(torch.int64).reshape(k, n // 8, 8) & 15) << (4 * torch.arange(8))).sum(-1).to(torch.int32)

    def flatten(self, layer: torch.nn.Module) -> None:
        if not self.row:
            layer.scale_bias.data = layer.scale_bias.data.flatten()

    def factor(self) -> int:
        return 8


class WithoutTheFactor(W4A8Linear):
    def factor(self) -> int:
        return 1


class NeverFlat(W4A8Linear):
    def flatten(self, layer: torch.nn.Module) -> None:
        pass


class Forgetful(W4A8Linear):
    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        super().process_weights_after_loading(layer)
        del layer.weight_offset_second


class Talkative(W4A8Linear):
    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        super().process_weights_after_loading(layer)
        layer.copies = [layer.weight.data.clone()]


class Strided(W4A8Linear):
    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        super().process_weights_after_loading(layer)
        layer.weight.data = layer.weight.data.t().contiguous().t()


class Failing(W4A8Linear):
    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        raise RuntimeError("no device")


class NoScheme:
    pass
