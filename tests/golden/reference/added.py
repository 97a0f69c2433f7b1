"""Schemes that the replaced system lacks, so that nobody recorded them: written from the writer's storage format and the document of the kernel.

compressed-tensors 0.17.1, pack-quantized: the word at ``[n, k // 8]`` holds the codes of eight neighbouring inputs, the first in the lowest four bits, each
the value plus 8. Zero points are packed the same way along the outputs. The weight is ``(code - zero point) * scale``. The kernel reads words of eight
neighbouring outputs of one input, each code in two's complement, and computes ``(code + offset) * scale`` with scales and offsets [groups, outputs].
"""

from __future__ import annotations

import numpy as np
import torch

from tests.golden.reference.layer import Case, Declared, Layer, Stored, Tensors, i32, i64, layer_of


def _groups(case: Case) -> int:
    """Groups of a row: one where a scale covers the channel. Raises ValueError for sizes that have no whole words or groups."""
    group = case.K if case.config.get("weight_strategy") == "channel" else case.config.get("group_size", 128)
    if case.K % 8 or case.N % 8 or case.K % group:
        raise ValueError(f"{case.N} outputs and {case.K} inputs are no whole words of int4, or no whole groups of {group}")
    return int(case.K // group)


def w4a16_parameters(case: Case) -> Declared:
    groups = _groups(case)
    declared = {"weight_packed": Stored((case.N, case.K // 8), i32), "weight_scale": Stored((case.N, groups), case.params)}
    if not case.config.get("symmetric", True):
        declared["weight_zero_point"] = Stored((case.N // 8, groups), i32)
    return {**declared, "weight_shape": Stored((2,), i64)}


def w4a16(case: Case, given: Tensors) -> Layer:
    layer, groups = layer_of(case, given), _groups(case)
    bits = np.unpackbits(given["weight_packed"].numpy().view(np.uint8), bitorder="little").reshape(case.N, case.K, 4)
    # Value plus 8 and two's complement differ in the highest bit of the four.
    bits[:, :, 3] ^= 1
    words = np.packbits(np.ascontiguousarray(bits.transpose(1, 0, 2)).reshape(-1), bitorder="little").view(np.int32)
    layer.tensors["weight_packed"] = torch.from_numpy(words.reshape(case.K, case.N // 8))
    layer.tensors["weight_scale"] = given["weight_scale"].T.contiguous()
    if "weight_zero_point" in given:
        words = given["weight_zero_point"].numpy().view(np.uint32).astype(np.int64)
        offset = np.empty((groups, case.N), np.float32)
        for lane in range(8):
            offset[:, lane::8] = -((words.T >> (4 * lane)) % 16 - 8).astype(np.float32)
        layer.tensors["weight_offset"] = torch.from_numpy(offset).to(case.params)
        layer.delete("weight_zero_point")
    return layer


SCHEMES = {"w4a16.linear": (w4a16_parameters, w4a16)}
