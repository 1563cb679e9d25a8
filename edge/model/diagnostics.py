"""What is wrong with an object: the words that `edge check`, the admin API and conditions share.

Made by sources and model, read by everyone above. A Diagnostic never stops the rest from being served.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """ERROR: the named part is not served. WARNING: served, but not as its author may expect."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """Which object: kind, namespace ("" for cluster scope), name; or a file, as kind "File"."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """Shape: Kind/namespace/name."""
        return "/".join(part for part in (self.kind, self.namespace, self.name) if part)


@dataclass(frozen=True, slots=True, order=True)
class Diagnostic:
    """One finding. ``field`` is a path such as ``spec.rules[0].host``; ``reason`` a CamelCase code."""

    object: ObjectRef
    field: str
    reason: str
    message: str
    severity: Severity = Severity.ERROR
