"""Which route takes a request, and what became of the others: the workers' own matcher, asked.

Called by `edge explain` and the admin server with a Snapshot; builds an image of it, sends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.dataplane.tables import Tables
from edge.errors import NativeError
from edge.native import ERROR_REFERENCE, ImageReader
from edge.native import explain as native_explain
from edge.snapshot.types import PlacedRoute, Snapshot


@dataclass(frozen=True, slots=True)
class Candidate:
    """A route that was looked at. ``verdict``: won, shadowed, path, field or time (edge_verdict)."""

    placed: PlacedRoute
    verdict: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """``winner`` None: answered 404. Shape: candidates in the order in which they are tried."""

    winner: PlacedRoute | None
    candidates: tuple[Candidate, ...]


def explain(snapshot: Snapshot, listener_slot: int, host: str, path: str) -> Explanation:
    """Match one request. ``host`` as in a Host field, ``path`` without its query.

    Errors: NativeError for a listener that is not there, a host or path that no request can have.
    """
    image = Tables().full(snapshot)
    slots = [placed.slot.index for placed in snapshot.listeners]
    if listener_slot not in slots:
        reason = f"no listener in slot {listener_slot}"
        raise NativeError("matching", ERROR_REFERENCE, reason=reason)
    # The image keeps the order of the listeners.
    found = native_explain(image, slots.index(listener_slot), host, path)
    by_slot = {placed.slot.index: placed for placed in snapshot.routes}
    reader = ImageReader(image)

    def placed_at(index: int) -> PlacedRoute:
        return by_slot[reader.route(index).slot]

    candidates = tuple(Candidate(placed_at(index), verdict) for index, verdict in found.candidates)
    return Explanation(placed_at(found.route) if found.route >= 0 else None, candidates)
