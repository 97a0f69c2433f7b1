"""The data of a contract: rows of argument types in the notation of the language, in the kernel's own letters.

Read by ``layoutdsl.compiler.contracts``, which unifies a row with the operands of a call. *Layout rows* (the types) are proved, an error otherwise; *limit
rows* are
conditions of use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRow:
    """A condition of use. slug: what ``accept`` names. test: a predicate over the row's letters (capital: extent) and the integers it binds."""

    slug: str
    test: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One accepted combination of operands.

    arguments: type text per argument, in the kernel's letters; ``x_dtype`` stands for the dtype of the activation. integers: letters that stand for an
    integer argument
    (``g`` for ``antiquant_group_size``); 0 or an absent argument means one group, all of k. listed: the arguments are lists over the experts, each element
    of the type given.
    selected_by: arguments whose presence means that this row may be meant. required: arguments that this row cannot do without. source: where the row is
    from; printed in diagnostics so that a wrong row can be challenged.
    """

    name: str
    devices: tuple[str, ...]
    arguments: Mapping[str, str]
    integers: Mapping[str, str]
    selected_by: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    limits: tuple[LimitRow, ...] = ()
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """op: namespace and name as torch registers them. parameters: names in positional order, keyword-only ones too."""

    op: str
    parameters: tuple[str, ...]
    rows: tuple[Row, ...]
