"""The data of a contract: rows of argument and result types in the notation of the language, in the kernel's own letters.

Read by ``layoutdsl.compiler.contracts``, which unifies a row with the operands of a call. *Layout rows* (types, constants, what must be there) are proved, an
error otherwise; *limit rows* are conditions of use.

Invariant: a row lists everything that it accepts. An argument that it does not name is left out, or has the default of the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from layoutdsl.kernels.schemas import Schema, parse_schema, schema_text

LIST = "list e of "
"""How the type text of a list of tensors over the experts begins."""
ANY: tuple[Any, ...] = ()
"""The values of a constant that may be anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRow:
    """A condition of use. slug: what ``accept`` names. test: a predicate over the row's letters (capital: extent) and the integers it binds."""

    slug: str
    test: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One accepted combination of operands.

    source: where the row is from; printed in diagnostics so that a wrong row can be challenged. devices, consumers: for which it holds (no consumers: all).
    arguments: type text per tensor argument, in the kernel's letters, the weight first; ``list e of TYPE`` where a list of tensors over the experts is wanted.
    required: arguments that this row cannot do without; those that the schema requires are so anyway.
    results: type text per result, in the same letters, empty where it means nothing; the dtype may be a letter of ``dtypes`` or the name of an argument that
    gives a dtype.
    dtypes: letters that stand for a dtype, with the dtypes that they may be. constants: what an argument that is no tensor may be; None is left out, ``ANY`` is
    anything.
    integers: letters that stand for an integer argument (``g`` for ``antiquant_group_size``; 0 or left out means one group, all of k), or, with an empty name,
    for the divisor that the operands show. derived: letters of axes that only the results have, with their extents.
    segments: named parts that an axis must have, in this order. reciprocal: arguments that must be the reciprocal of a scale; no other operand may be one.
    quantizes: the first two results are a quantized tensor and its scale. scales: scales of operands, by argument, with the argument that they belong to.
    mutates: arguments that the kernel overwrites. sums: the letter that the kernel sums over. addends: arguments that it adds to that sum.
    """

    name: str
    source: str
    devices: tuple[str, ...]
    consumers: tuple[str, ...] = ()
    arguments: Mapping[str, str]
    required: tuple[str, ...] = ()
    results: tuple[str, ...]
    dtypes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    constants: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    integers: Mapping[str, str] = field(default_factory=dict)
    derived: Mapping[str, str] = field(default_factory=dict)
    segments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reciprocal: tuple[str, ...] = ()
    quantizes: bool = False
    scales: Mapping[str, str] = field(default_factory=dict)
    mutates: tuple[str, ...] = ()
    sums: str = ""
    addends: tuple[str, ...] = ()
    limits: tuple[LimitRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contract:
    """op: namespace and name as torch registers them. own_schema: of an op that torch_npu's wheel does not have, with its source in the module's docstring.

    group_list: of an op that cannot be told by ``group_list_type``, how it reads the list of groups: rows per expert (``counts``) or their running sum
    (``cumsum``). most_tokens: as many rows of ``x`` as one call takes, where that is documented; a forward cuts longer ones.
    """

    op: str
    rows: tuple[Row, ...]
    own_schema: str = ""
    group_list: Literal["", "counts", "cumsum"] = ""
    most_tokens: int | None = None

    @property
    def schema(self) -> Schema:
        text = self.own_schema or schema_text(self.op)
        assert text is not None, self.op
        return parse_schema(text)
