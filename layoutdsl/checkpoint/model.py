"""What is known of a checkpoint folder: its tensors, its layers, and the findings met while reading.

Made by ``folder`` and ``layers``; read by every check. Invariants: plain data, frozen; no tensor byte was read; names are those that the files hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layoutdsl.diagnostics import Diagnostic


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of one file. dtype: torch's name (``int8``, ``float8_e4m3fn``). begin, end: its bytes in the file, from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Folder:
    """A checkpoint folder. tensors: those that loaders read, by name. config: ``config.json``. description: the writer's quantization description
    (``quant_model_description.json``, or the one inside ``config.json``), None without one. findings: what is wrong with the files themselves. lost: tensors
    that an index names and no file gave; each is covered by a finding."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    description: Mapping[str, Any] | None = None
    findings: tuple[Diagnostic, ...] = ()
    lost: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """Which part of a layer's parameter one stored tensor is: of one expert, or all of it (None); one segment of the outputs (``gate``, ``up``), or all
    (``""``)."""

    expert: int | None = None
    segment: str = ""


@dataclass(frozen=True, slots=True)
class Layer:
    """One quantized layer of a checkpoint, as its spec sees it.

    prefix: what its tensors' names begin with (``model.layers.0.self_attn.q_proj``, ``model.layers.3.mlp.experts``). scheme, kind: the spec. config: what the
    checkpoint says, in the names of the spec's config (``group_size``, ``version``, ``quant_method``, ``weight_strategy``, ``layer_type``, ``prefix``). stored:
    per
    parameter of the spec, what the files hold of it; a parameter that no spec declares stands under its own name. fused: the module that loaders put it into
    with others (``model.layers.0.self_attn.qkv_proj``), or its own prefix. said_by: where the scheme was read, for messages.
    """

    prefix: str
    scheme: str
    kind: str
    config: Mapping[str, Any]
    stored: Mapping[str, Mapping[Part, StoredTensor]]
    fused: str
    said_by: str
