"""Explanations of a request: the winner and every candidate's verdict, as objects of the snapshot."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from edge.dataplane.explain import explain
from edge.errors import NativeError
from edge.model.types import Listener, PathType, Route, RouteKey, Transport
from edge.snapshot.types import PlacedListener, PlacedRoute, Slot, Snapshot


def placed(slot: int, host: str, path: str) -> PlacedRoute:
    key = RouteKey("Ingress", "default", f"r{slot}", host, "PREFIX", path)
    return PlacedRoute(Slot(slot, 1), slot, Route(key, host, path, PathType.PREFIX, ()))


LISTENER = PlacedListener(Slot(3, 1), Listener(ip_address("127.0.0.1"), 80, Transport.PLAIN))
ROUTES = (placed(0, "a.example", "/x/y"), placed(1, "a.example", "/x"), placed(2, "", "/"))
SNAPSHOT = Snapshot(1, bytes(32), bytes(32), (LISTENER,), ROUTES, {}, (), (), ())


def test_winner_and_candidates_are_objects_of_the_snapshot() -> None:
    found = explain(SNAPSHOT, 3, "A.example:80", "/x/y/z")
    assert found.winner is ROUTES[0]
    assert [(c.placed, c.verdict) for c in found.candidates] == [(ROUTES[0], "won"), (ROUTES[1], "shadowed")]


def test_default_stands_behind_what_failed() -> None:
    found = explain(SNAPSHOT, 3, "a.example", "/other")
    assert found.winner is ROUTES[2]
    assert [c.verdict for c in found.candidates] == ["path", "path", "won"]


def test_listener_must_be_there() -> None:
    with pytest.raises(NativeError, match="slot 0"):
        explain(SNAPSHOT, 0, "a.example", "/")
