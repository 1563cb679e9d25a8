"""From a refusal's section and index to the object that is behind it.

Called by edge/controller/publish.py. The order of entries in an image is C's; slots and digests in
them lead back to the snapshot. Never decides what to do about it.
"""

from __future__ import annotations

from typing import Any

from edge.errors import NativeError
from edge.model.diagnostics import ObjectRef
from edge.model.types import Certificate, Route
from edge.native import ImageReader, ffi, section_names
from edge.snapshot.types import PlacedUpstream, Snapshot


def refused_object(snapshot: Snapshot, image: bytes, section: int, index: int) -> ObjectRef | None:
    """Find who wrote entry ``index`` of a section; None when it is no object's, or is not there."""
    try:
        return owner(_subject(snapshot, ImageReader(image), section_names().get(section, ""), index))
    except (NativeError, IndexError, StopIteration):
        return None


def _subject(snapshot: Snapshot, reader: ImageReader, section: str, index: int) -> object:
    if section == "route":
        slot = reader.route(index).slot
        return next((one.route for one in snapshot.routes if one.slot.index == slot), None)
    if section in ("object", "action", "condition", "field_match", "pattern"):
        return _first_with(snapshot, reader, section, index)
    if section == "certificate":
        digest = bytes(ffi.buffer(reader.entries("CERTIFICATE", "edge_image_certificate")[index].digest))
        return next((one for one in snapshot.certificates if one.digest == digest), None)
    if section in ("upstream", "endpoint"):
        rows = reader.entries("UPSTREAM", "edge_image_upstream")
        if section == "upstream":
            row = rows[index]
        else:
            row = next(one for one in rows if 0 <= index - one.first_endpoint < one.endpoint_count)
        return next((one for one in snapshot.upstreams.values() if one.slot.index == row.slot), None)
    return None


def _held(reader: ImageReader, row: Any) -> dict[str, set[int]]:
    """What a row of ROUTE shares with others: indices by section."""
    held = {"object": {row.object}, "action": {row.action}, "condition": {row.condition - 1}}
    held["pattern"] = {row.pattern - 1}
    if row.condition:
        condition = reader.entry("CONDITION", "edge_image_condition", row.condition - 1)
        fields = range(condition.first_field_match, condition.first_field_match + condition.field_match_count)
        held["field_match"] = set(fields)
        held["pattern"] |= {
            reader.entry("FIELD_MATCH", "edge_image_field_match", index).pattern - 1 for index in fields
        }
    return held


def _first_with(snapshot: Snapshot, reader: ImageReader, section: str, index: int) -> Route | None:
    for row in reader.entries("ROUTE", "edge_image_route"):
        if index in _held(reader, row).get(section, ()):
            return next((one.route for one in snapshot.routes if one.slot.index == row.slot), None)
    return None


def owner(subject: object) -> ObjectRef | None:
    """Shape: who wrote what an image holds; None for a listener, which options make."""
    match subject:
        case Route():
            return ObjectRef(subject.key.kind, subject.key.namespace, subject.key.name)
        case Certificate():
            return subject.object
        case PlacedUpstream():
            key = subject.upstream.key
            return ObjectRef("Service", key.namespace, key.service)
    return None
