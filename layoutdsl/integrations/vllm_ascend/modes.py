"""The modes, one row each: what a mode may do, and the functions that do it.

Read by ``plugin``, which installs what the settings ask for. To add a mode, add a row here and its word to ``settings.MODES``.
"""

from __future__ import annotations

from dataclasses import dataclass

from layoutdsl.integrations.vllm_ascend.add import install as add
from layoutdsl.integrations.vllm_ascend.guard import install as guard
from layoutdsl.integrations.vllm_ascend.override import install as override
from layoutdsl.integrations.vllm_ascend.shadow import install as shadow
from layoutdsl.integrations.vllm_ascend.target import Install


@dataclass(frozen=True, slots=True)
class Mode:
    """install: puts it on vllm-ascend's classes. any_version: also of a vllm-ascend that no spec was checked against. strict: a named spec that does not load
    stops the start. changes: what a layer holds is ours, so compiled graphs must not be taken from before."""

    install: Install
    any_version: bool = False
    strict: bool = False
    changes: bool = False


MODES = {
    "guard": Mode(guard, any_version=True),
    "shadow": Mode(shadow),
    "override": Mode(override, strict=True, changes=True),
    "add": Mode(add, any_version=True, strict=True, changes=True),
}
