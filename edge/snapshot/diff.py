"""What changed between two snapshots: nothing, endpoints alone, or more.

Called by the controller to choose between no publish, an endpoint patch and a full image. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from edge.model.types import UpstreamKey
from edge.snapshot.types import Snapshot


class ChangeKind(Enum):
    """How much has to be published."""

    NOTHING = 0
    ENDPOINTS = 1
    FULL = 2


@dataclass(frozen=True, slots=True)
class Change:
    """``upstreams``: for ENDPOINTS, the keys whose endpoints differ, in order; else empty."""

    kind: ChangeKind
    upstreams: tuple[UpstreamKey, ...] = ()


def compare(previous: Snapshot | None, current: Snapshot) -> Change:
    """Say what publishing ``current`` after ``previous`` takes; None: nothing was published yet."""
    if previous is None or previous.routes_digest != current.routes_digest:
        return Change(ChangeKind.FULL)
    if previous.endpoints_digest == current.endpoints_digest:
        return Change(ChangeKind.NOTHING)
    if len(previous.upstreams) != len(current.upstreams):
        return Change(ChangeKind.FULL)
    changed = []
    # In the same order as a rule: no look-up for those that did not change.
    for before, (key, placed) in zip(previous.upstreams.values(), current.upstreams.items(), strict=True):
        if before is placed:
            continue
        old = previous.upstreams.get(key)
        if old is None or old.slot != placed.slot:
            # Equal routes digests mean equal keys; another slot means that slots were lost.
            return Change(ChangeKind.FULL)
        if old.endpoints != placed.endpoints:
            changed.append(key)
    return Change(ChangeKind.ENDPOINTS, tuple(sorted(changed)))
