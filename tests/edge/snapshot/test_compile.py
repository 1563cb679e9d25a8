"""Model to Snapshot: slots, precedence, digests that know neither order nor history."""

from __future__ import annotations

from ipaddress import ip_address

from edge.model.types import (
    Endpoint,
    Listener,
    Model,
    PathType,
    Route,
    RouteKey,
    Transport,
    Upstream,
    UpstreamKey,
)
from edge.snapshot.compile import compile_snapshot
from edge.snapshot.slots import SlotTable, SlotTables

LISTENER = Listener(ip_address("127.0.0.1"), 80, Transport.PLAIN)


def model(*names: str, port: int = 80) -> Model:
    """A route and an upstream for each name."""
    keys = {name: UpstreamKey("default", name, "80") for name in names}
    routes = tuple(
        Route(
            key=RouteKey("Ingress", "default", name, "a.test", "Prefix", f"/{name}"),
            host="a.test",
            path=f"/{name}",
            path_type=PathType.PREFIX,
            references=((keys[name], 1),),
        )
        for name in names
    )
    endpoints = {key: (Endpoint(ip_address("198.18.0.1"), port),) for key in keys.values()}
    upstreams = tuple(Upstream(key) for key in keys.values())
    return Model((LISTENER,), routes, upstreams, endpoints, (), (), ())


def test_slots_survive_publishes_and_versions_are_kept() -> None:
    tables = SlotTables()
    one = compile_snapshot(model("b"), tables, 7)
    two = compile_snapshot(model("a", "b"), tables, 8)
    assert (one.version, two.version) == (7, 8)
    slot = {entry.route.key.name: entry.slot for entry in two.routes}
    assert slot["b"] == one.routes[0].slot
    assert slot["a"].index != slot["b"].index
    assert [entry.slot.index for entry in one.listeners] == [0]


def test_digests_know_neither_order_nor_history() -> None:
    tables = SlotTables()
    compile_snapshot(model("x", "y"), tables, 1)
    after = compile_snapshot(model("b", "a"), tables, 2)
    fresh = compile_snapshot(model("a", "b"), SlotTables(), 1)
    assert after.routes[0].slot != fresh.routes[0].slot
    assert after.routes_digest == fresh.routes_digest
    assert after.endpoints_digest == fresh.endpoints_digest


def test_endpoints_change_one_digest_alone() -> None:
    one = compile_snapshot(model("a"), SlotTables(), 1)
    two = compile_snapshot(model("a", port=81), SlotTables(), 1)
    assert one.routes_digest == two.routes_digest
    assert one.endpoints_digest != two.endpoints_digest


def test_what_finds_no_slot_is_named_and_the_rest_is_served() -> None:
    tables = SlotTables()
    tables.routes = SlotTable(1)
    found = compile_snapshot(model("a", "b"), tables, 1)
    assert [entry.route.key.name for entry in found.routes] == ["a"]
    assert [(one.object.name, one.reason) for one in found.diagnostics] == [("b", "LimitReached")]
