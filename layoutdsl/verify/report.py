"""What a verification found, what it ran, and what it could not run.

Filled by the drivers, ``verify`` and ``against``; printed by the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from layoutdsl.diagnostics import Diagnostic

Progress = Callable[[str], None]


@dataclass(slots=True)
class Report:
    """ran: how many of what were run. not_run: what could not be, and why, with the number of configurations."""

    ran: dict[str, int] = field(default_factory=dict)
    not_run: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    _found: dict[Any, list[Diagnostic]] = field(default_factory=dict)

    def count(self, what: str) -> None:
        self.ran[what] = self.ran.get(what, 0) + 1

    def skip(self, why: str) -> None:
        self.not_run[why] = self.not_run.get(why, 0) + 1

    def add(self, *findings: Diagnostic) -> None:
        for finding in findings:
            place = finding.span.start if finding.span is not None else None
            self._found.setdefault((finding.code, finding.message, place), []).append(finding)

    @property
    def findings(self) -> list[Diagnostic]:
        """What failed, in order; of what failed in several runs the first, which then says in how many more."""
        return [first if not others else _repeated(first, len(others)) for first, *others in self._found.values()]


def _repeated(finding: Diagnostic, more: int) -> Diagnostic:
    return replace(finding, notes=(*finding.notes, f"also in {more} more run{'s' if more > 1 else ''}"))
