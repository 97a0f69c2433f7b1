"""What went wrong, and where: diagnostics as values, the table of rules, and the one place that renders them.

A stage collects :class:`Diagnostic` values and returns them, or raises :class:`DiagnosticError` with them when it cannot go on.
Nothing here knows what is being diagnosed; every other package may import this one.
"""

from layoutdsl.diagnostics.model import Diagnostic, DiagnosticError, InternalError, Label, Severity, Source, Span

__all__ = ["Diagnostic", "DiagnosticError", "InternalError", "Label", "Severity", "Source", "Span"]
