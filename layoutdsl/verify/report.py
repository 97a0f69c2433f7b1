"""What a verification found, what it ran, and what it could not run.

Filled by the drivers, ``verify`` and ``against``; printed by the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from layoutdsl.diagnostics import Diagnostic

Progress = Callable[[str], None]


@dataclass(slots=True)
class Report:
    """findings: what failed. ran: how many of what were run. not_run: what could not be, and why, with the number of configurations."""

    findings: list[Diagnostic] = field(default_factory=list)
    ran: dict[str, int] = field(default_factory=dict)
    not_run: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def count(self, what: str) -> None:
        self.ran[what] = self.ran.get(what, 0) + 1

    def skip(self, why: str) -> None:
        self.not_run[why] = self.not_run.get(why, 0) + 1

    def add(self, finding: Diagnostic) -> None:
        """A finding; of those with one rule and one message the first stays, and counts the others."""
        for i, known in enumerate(self.findings):
            if (known.code, known.message) == (finding.code, finding.message):
                others = sum(note.startswith("also in ") for note in known.notes)
                notes = known.notes[:-1] if others else known.notes
                count = int(known.notes[-1].split()[2]) + 1 if others else 1
                self.findings[i] = replace(known, notes=(*notes, f"also in {count} more run{'s' if count > 1 else ''}"))
                return
        self.findings.append(finding)
