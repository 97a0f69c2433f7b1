"""Routing of a mixture of experts: tokens sorted by expert and back, and the two ways to say how many rows an expert has.

Called by the forwards that ``layoutdsl.runtime.forward`` makes. Every shape follows from the shapes of the arguments, never from their values, so
``torch.compile`` and graph capture see straight-line code.
"""

from __future__ import annotations

import torch

COUNTS, CUMSUM = 1, 0
"""Values of ``group_list_type`` (source: npu_grouped_matmul, torch_npu 2.13): rows per expert, and their running sum."""


def by_expert(topk_ids: torch.Tensor, experts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort the pairs (token, choice) by expert.

    topk_ids: integers [T, top_k]; an id outside [0, experts) belongs to another rank. Returns order, int64 [T * top_k]: the pairs in the order of their
    experts, equal ones as they came, those of other ranks last; and counts, int64 [experts].
    """
    ids = torch.where(_here(topk_ids, experts), topk_ids, experts).flatten()
    counts = (ids == torch.arange(experts, device=ids.device).unsqueeze(1)).sum(1)
    return ids.argsort(stable=True), counts


def combined(rows: torch.Tensor, order: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor, experts: int, dtype: torch.dtype) -> torch.Tensor:
    """The tokens again: the weighted sum of each token's rows, in float32, rounded once.

    rows: [T * top_k, N] in the order of ``by_expert``. What stands in the rows of other ranks is never looked at: a kernel leaves them uninitialised. Returns
    [T, N] in ``dtype``, or in the dtype of ``rows`` where ``dtype`` is of a quantized activation.
    """
    parts = rows[order.argsort()].to(torch.float32).reshape(*topk_ids.shape, rows.shape[-1])
    weighted = parts * topk_weights.to(torch.float32).unsqueeze(-1)
    total = torch.where(_here(topk_ids, experts).unsqueeze(-1), weighted, 0.0).sum(1)
    return total.to(dtype if dtype.is_floating_point and dtype.itemsize > 1 else rows.dtype)


def _here(topk_ids: torch.Tensor, experts: int) -> torch.Tensor:
    return (topk_ids >= 0) & (topk_ids < experts)


def counts_of(group_list: torch.Tensor, group_list_type: int) -> torch.Tensor:
    """Rows per expert, int64 [experts], from a ``group_list`` of either type."""
    group_list = group_list.to(torch.int64)
    return group_list if group_list_type == COUNTS else group_list.diff(prepend=group_list.new_zeros(1))


def cumsum_of(group_list: torch.Tensor, group_list_type: int) -> torch.Tensor:
    """The running sum of the rows per expert, int64 [experts], from a ``group_list`` of either type."""
    group_list = group_list.to(torch.int64)
    return group_list if group_list_type == CUMSUM else group_list.cumsum(0)
