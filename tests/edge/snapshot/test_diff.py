"""What changed: nothing, endpoints, more."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from edge.model.types import Endpoint, Upstream, UpstreamKey
from edge.snapshot.diff import Change, ChangeKind, compare
from edge.snapshot.types import PlacedUpstream, Slot, Snapshot

KEY, OTHER = UpstreamKey("default", "a", "80"), UpstreamKey("default", "b", "80")
ENDPOINT = Endpoint(ip_address("198.18.0.1"), 80)


def snapshot(routes: bytes, endpoints: bytes, count: int, slot: int = 0) -> Snapshot:
    upstreams = {
        KEY: PlacedUpstream(Slot(slot, 1), Upstream(KEY), (ENDPOINT,) * count),
        OTHER: PlacedUpstream(Slot(9, 1), Upstream(OTHER), (ENDPOINT,)),
    }
    return Snapshot(1, routes, endpoints, (), (), upstreams, (), (), ())


def test_compare() -> None:
    old = snapshot(b"r", b"e", 1)
    assert compare(None, old) == Change(ChangeKind.FULL)
    assert compare(old, replace(old, version=2)) == Change(ChangeKind.NOTHING)
    assert compare(old, snapshot(b"R", b"e", 1)) == Change(ChangeKind.FULL)
    assert compare(old, snapshot(b"r", b"E", 2)) == Change(ChangeKind.ENDPOINTS, (KEY,))
    assert compare(old, snapshot(b"r", b"E", 2, slot=3)) == Change(ChangeKind.FULL)
