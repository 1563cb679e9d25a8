"""Which objects are this instance's to judge: namespaces and labels that it watches.

Called by review.py. An object that the source would not hand to the model is nobody's business here. The API
server evaluates the selector for the source's watches; what it means is the same here.
Source: apimachinery's labels.Parse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edge.errors import OptionError
from edge.options import Options

Labels = Mapping[str, str]
_KEY = r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?"
_REQUIREMENT = re.compile(
    rf"\s*(?:(?P<absent>!)\s*)?(?P<key>{_KEY})\s*"
    r"(?:(?P<operator>==?|!=)\s*(?P<value>[-A-Za-z0-9_.]*)"
    r"|(?P<set>in|notin)\s*\((?P<values>[-A-Za-z0-9_.,\s]*)\))?\s*"
)
_COMMA = re.compile(r",(?![^(]*\))")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One part of a selector. ``values`` None: only whether the label is there."""

    key: str
    wanted: bool
    values: frozenset[str] | None = None

    def holds(self, labels: Labels) -> bool:
        """Say whether labels meet it; a label that is missing has none of the values."""
        value = labels.get(self.key)
        there = value is not None and (self.values is None or value in self.values)
        return there is self.wanted


def parse_selector(text: str) -> tuple[Requirement, ...]:
    """Read a selector such as ``app=shop,tier in (web, api),!draft``. Errors: OptionError."""
    if not text.strip():
        return ()
    return tuple(_requirement(part) for part in _COMMA.split(text))


def _requirement(text: str) -> Requirement:
    found = _REQUIREMENT.fullmatch(text)
    if found is None or (found["absent"] and (found["operator"] or found["set"])):
        raise OptionError(f"--watch-selector: {text[:80]!r} is no requirement of a label")
    if found["operator"]:
        return Requirement(found["key"], found["operator"] != "!=", frozenset((found["value"],)))
    if found["set"]:
        values = frozenset(value.strip() for value in found["values"].split(","))
        return Requirement(found["key"], found["set"] == "in", values)
    return Requirement(found["key"], not found["absent"])


def scope_of(options: Options) -> Callable[[str, str, Labels], bool]:
    """Shape: a function that says of kind, namespace ("" for none) and labels whether we read the object."""
    namespaces = frozenset(options.watch_namespace)
    selector = parse_selector(options.watch_selector)

    def ours(kind: str, namespace: str, labels: Labels) -> bool:
        if namespaces and namespace and namespace not in namespaces:
            return False
        return kind != "Ingress" or all(one.holds(labels) for one in selector)

    return ours
