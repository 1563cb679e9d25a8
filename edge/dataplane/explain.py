"""Which route takes a request, and what became of the others: the workers' own matcher, asked.

Called by `edge explain` and the admin server with a Snapshot, of which an image is built that is sent
nowhere, or with an image that a data plane has or that was recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.dataplane.tables import Tables
from edge.errors import NativeError
from edge.model.matches import FieldMatch, FieldTarget
from edge.native import ERROR_REFERENCE, ImageReader, Request, RouteRow, lib
from edge.native import Candidate as NativeCandidate
from edge.native import explain as native_explain
from edge.snapshot.types import PlacedRoute, Snapshot

__all__ = ["Candidate", "Explanation", "ImageCandidate", "ImageExplanation", "Request"]


@dataclass(frozen=True, slots=True)
class ImageCandidate:
    """A route that was looked at. ``verdict``: won, shadowed, path, field or time (edge_verdict).

    ``host``: under which it was found, as written, "" any. ``field``: what did not match.
    """

    row: RouteRow
    verdict: str
    host: str
    field: FieldMatch | None = None


@dataclass(frozen=True, slots=True)
class ImageExplanation:
    """``winner`` None: answered 404. Shape: candidates in the order in which they are tried."""

    winner: RouteRow | None
    candidates: tuple[ImageCandidate, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """The same with the snapshot's own route."""

    placed: PlacedRoute
    verdict: str
    host: str = ""
    field: FieldMatch | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """``winner`` None: answered 404. Shape: candidates in the order in which they are tried."""

    winner: PlacedRoute | None
    candidates: tuple[Candidate, ...]


def explain_image(image: bytes, listener_slot: int, request: Request) -> ImageExplanation:
    """Match one request in an image.

    Errors: NativeError for bytes that are no image, a listener that is not there, a request that no
    client can send.
    """
    reader = ImageReader(image)
    slots = [entry.slot for entry in reader.entries("LISTENER", "edge_image_listener")]
    if listener_slot not in slots:
        reason = f"no listener in slot {listener_slot}"
        raise NativeError("matching", ERROR_REFERENCE, reason=reason)
    found = native_explain(image, slots.index(listener_slot), request)
    return ImageExplanation(
        reader.route(found.route) if found.route >= 0 else None,
        tuple(
            ImageCandidate(
                reader.route(one.route), one.verdict, _host(reader, one.host_entry), _field(reader, one)
            )
            for one in found.candidates
        ),
    )


def explain_request(snapshot: Snapshot, listener_slot: int, request: Request) -> Explanation:
    """Match one request in a snapshot.

    Errors: as above.
    """
    found = explain_image(Tables().full(snapshot), listener_slot, request)
    by_slot = {placed.slot.index: placed for placed in snapshot.routes}
    return Explanation(
        by_slot[found.winner.slot] if found.winner else None,
        tuple(Candidate(by_slot[one.row.slot], one.verdict, one.host, one.field) for one in found.candidates),
    )


def explain(snapshot: Snapshot, listener_slot: int, host: str, path: str) -> Explanation:
    """Match a plain GET. ``host`` as in a Host field, ``path`` without its query.

    Errors: as above.
    """
    return explain_request(snapshot, listener_slot, Request(host, path))


def _host(reader: ImageReader, index: int) -> str:
    entry = reader.entry("HOST_ENTRY", "edge_image_host_entry", index)
    name = reader.text_at(entry.name_offset, entry.name_length)
    return "*" + name if entry.wildcard else name


def _field(reader: ImageReader, candidate: NativeCandidate) -> FieldMatch | None:
    if candidate.field < 0:
        return None
    entry = reader.entry("FIELD_MATCH", "edge_image_field_match", candidate.field)
    return FieldMatch(
        FieldTarget(entry.target),
        reader.text(entry.value),
        reader.text(entry.name),
        entry.type == lib.EDGE_FIELD_REGEX,
    )
