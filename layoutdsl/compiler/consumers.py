"""The consumers: the systems that hand us a layer and run the kernels. One row each.

Source: vllm-ascend's repository at the commits named here.
"""

from __future__ import annotations

import re
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
SOC_NAMES = {"ascend910b": "a2", "ascend910_93": "a3", "ascend910_95": "a5", "ascend950": "a5", "ascend310p": "310p"}
"""What torch_npu's device names begin with, in lower case. Source: vllm-ascend 0.23.0.post1, setup.py and utils.py (soc_version to device type)."""
_CLAUSE = re.compile(r"(>=|<)(.*)")


def consumer_of(version: str) -> Consumer | None:
    """The consumer that a version of the vllm-ascend package is; None for one that no spec was checked against. Release candidates and builds between releases
    count as the release that they lead to."""
    release = _release(version)
    return next((consumer for consumer in CONSUMERS.values() if release and _inside(release, consumer.versions)), None)


def device_of(soc: str) -> str | None:
    """Our name of a chip that torch_npu names ``Ascend910B3`` or the like."""
    return next((device for start, device in SOC_NAMES.items() if soc.lower().startswith(start)), None)


def _release(version: str) -> tuple[int, ...]:
    """(0, 23, 0) of ``0.23.0rc1.dev2+g1234``."""
    found = re.match(r"v?(\d{1,9}(?:\.\d{1,9})*)", version)
    return tuple(map(int, found[1].split("."))) if found else ()


def _inside(release: tuple[int, ...], versions: str) -> bool:
    clauses = [(match[1], _release(match[2])) for text in versions.split(",") if (match := _CLAUSE.fullmatch(text))]
    return all(release >= bound if sign == ">=" else release < bound for sign, bound in clauses)
