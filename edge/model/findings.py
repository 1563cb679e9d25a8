"""Collecting diagnostics while a model is built: each finding once, kept by where it came from.

`Findings` is what one part collects; `Ledger` holds the parts of a model that is built again and again,
so that a part that did not change is not judged again. Never raises.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from edge.model.diagnostics import Diagnostic, ObjectRef, Severity
from edge.model.ordered import Ordered
from edge.resources.kinds import Problem

_NOTHING: frozenset[Diagnostic] = frozenset()  # one for all that are in order


class Findings:
    """What is wrong, in no order; `all()` gives it as a set."""

    def __init__(self, found: Iterable[Diagnostic] = ()) -> None:
        self._found: set[Diagnostic] = set(found)

    def error(self, ref: ObjectRef, field: str, reason: str, message: str) -> None:
        """Note that the named part is not served."""
        self._found.add(Diagnostic(ref, field, reason, message, Severity.ERROR))

    def warning(self, ref: ObjectRef, field: str, reason: str, message: str) -> None:
        """Note that the object is served, but not as its author may expect."""
        self._found.add(Diagnostic(ref, field, reason, message, Severity.WARNING))

    def problem(self, ref: ObjectRef, problem: Problem) -> None:
        """Note a Problem of the resources layer as an error of the object."""
        self.error(ref, problem.field, problem.reason, problem.message)

    def update(self, found: Iterable[Diagnostic]) -> None:
        """Take in what was found elsewhere."""
        self._found.update(found)

    def all(self) -> frozenset[Diagnostic]:
        """Return what was found so far."""
        return frozenset(self._found) if self._found else _NOTHING


class Ledger:
    """Findings by their source; a finding that two sources share is shown once."""

    def __init__(self) -> None:
        self._parts: dict[Hashable, frozenset[Diagnostic]] = {}
        self._holders: dict[Diagnostic, int] = {}
        self._sorted: Ordered[Diagnostic] = Ordered()

    def put(self, source: Hashable, found: Iterable[Diagnostic]) -> None:
        """Replace what one source has found."""
        new = frozenset(found)
        old = self._parts.get(source, frozenset())
        if new == old:
            return
        for one in old - new:
            self._holders[one] -= 1
            if not self._holders[one]:
                del self._holders[one]
                self._sorted.remove(_key(one))
        for one in new - old:
            holders = self._holders.get(one, 0)
            self._holders[one] = holders + 1
            if not holders:
                self._sorted.put(_key(one), one)
        if new:
            self._parts[source] = new
        else:
            self._parts.pop(source, None)

    def sorted(self) -> tuple[Diagnostic, ...]:
        """Shape: every finding once, by object, field and reason."""
        return self._sorted.values()


def _key(one: Diagnostic) -> tuple[str, ...]:
    ref = one.object
    return (ref.kind, ref.namespace, ref.name, one.field, one.reason, one.message, one.severity)
