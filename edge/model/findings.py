"""Collecting diagnostics while a model is built: one list, each finding once.

Used by every module of edge/model and gone when `build_model` returns. Never raises.
"""

from __future__ import annotations

from edge.model.diagnostics import Diagnostic, ObjectRef, Severity
from edge.resources.kinds import Problem


class Findings:
    """What is wrong, in no order; `sorted()` gives it in the order of objects and fields."""

    def __init__(self) -> None:
        self._found: set[Diagnostic] = set()

    def error(self, ref: ObjectRef, field: str, reason: str, message: str) -> None:
        """Note that the named part is not served."""
        self._found.add(Diagnostic(ref, field, reason, message, Severity.ERROR))

    def warning(self, ref: ObjectRef, field: str, reason: str, message: str) -> None:
        """Note that the object is served, but not as its author may expect."""
        self._found.add(Diagnostic(ref, field, reason, message, Severity.WARNING))

    def problem(self, ref: ObjectRef, problem: Problem) -> None:
        """Note a Problem of the resources layer as an error of the object."""
        self.error(ref, problem.field, problem.reason, problem.message)

    def take(self, diagnostic: Diagnostic) -> None:
        """Note a finished Diagnostic of somebody else."""
        self._found.add(diagnostic)

    def sorted(self) -> tuple[Diagnostic, ...]:
        """Shape: every finding once, by object, field and reason."""
        return tuple(sorted(self._found))
