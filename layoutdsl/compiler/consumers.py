"""The consumers: the systems that hand us a layer and run the kernels. One row each.

Source: vllm-ascend's repository at the commits named here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Consumer:
    """name as in specs. versions: of the vllm-ascend package. commit: the state that the specs were checked against."""

    name: str
    versions: str
    commit: str
    note: str


CONSUMERS = {
    consumer.name: consumer
    for consumer in (
        Consumer("vllm-ascend-0.16", ">=0.16,<0.17", "c980e68d40", "the seed of this project, 2026-03-13"),
        Consumer("vllm-ascend-0.23", ">=0.23,<0.24", "0.23.0.post1", "the newest release"),
        Consumer("vllm-ascend-main", ">=0.24.dev0", "182b75ea84", "head of the main branch, 2026-08-22"),
    )
}
DEFAULT_CONSUMER = "vllm-ascend-0.23"
DEVICES = ("a2", "a3", "a5", "310p")
DEVICE_ALIASES = {"910b": "a2", "910c": "a3", "950": "a5"}
