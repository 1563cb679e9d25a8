"""A Snapshot: the model with a version and stable slots, ready to be encoded for C and BPF.

Written once by compile.py, frozen, compared by version and digests; read by dataplane, xdp, admin.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edge.model.diagnostics import Diagnostic
from edge.model.ordered import Step
from edge.model.types import (
    Certificate,
    Endpoint,
    Listener,
    Policy,
    Route,
    Upstream,
    UpstreamKey,
)


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """A stable small integer, and how often it was given out (design page §2)."""

    index: int
    generation: int


@dataclass(frozen=True, slots=True)
class PlacedListener:
    """A listener; its slot is its place among the options."""

    slot: Slot
    listener: Listener


@dataclass(frozen=True, slots=True)
class PlacedRoute:
    """``precedence``: smaller wins among the routes of a host."""

    slot: Slot
    precedence: int
    route: Route


@dataclass(frozen=True, slots=True)
class PlacedUpstream:
    """An upstream with the endpoints that it has in this version."""

    slot: Slot
    upstream: Upstream
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of everything. Digests are canonical: no slots, no history (design page §2).

    ``step``: how the routes came from those of the version before, None where that is not told.
    """

    version: int
    routes_digest: bytes
    endpoints_digest: bytes
    listeners: tuple[PlacedListener, ...]
    routes: tuple[PlacedRoute, ...]
    upstreams: dict[UpstreamKey, PlacedUpstream]
    certificates: tuple[Certificate, ...]
    policies: tuple[Policy, ...]
    diagnostics: tuple[Diagnostic, ...]
    step: Step[PlacedRoute] | None = field(default=None, compare=False, repr=False)
