"""An endpoint patch costs what changed: its bytes do not depend on the number of routes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from edge.dataplane.tables import Tables
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
from edge.snapshot.slots import SlotTables


def model(routes: int) -> Model:
    """Build a model of so many routes to as many upstreams."""
    keys = [UpstreamKey("default", f"s{number}", "80") for number in range(routes)]
    return Model(
        listeners=(Listener(IPv4Address("127.0.0.1"), 80, Transport.PLAIN),),
        routes=tuple(
            Route(
                RouteKey("Ingress", "default", "web", f"h{number}.example.com", "Prefix", "/"),
                host=f"h{number}.example.com",
                path="/",
                path_type=PathType.PREFIX,
                references=((key, 1),),
                path_written="/",
                service=key.service,
            )
            for number, key in enumerate(keys)
        ),
        upstreams=tuple(Upstream(key) for key in keys),
        endpoints={key: (Endpoint(IPv4Address("198.18.101.2"), 8080),) for key in keys},
        certificates=(),
        policies=(),
        diagnostics=(),
    )


def patch_bytes(routes: int) -> int:
    before = model(routes)
    changed = UpstreamKey("default", "s0", "80")
    after = replace(
        before, endpoints={**before.endpoints, changed: (Endpoint(IPv4Address("198.18.102.2"), 8080),)}
    )
    slots, tables = SlotTables(), Tables()
    old = compile_snapshot(before, slots, 1)
    full = tables.full(old)
    patch = tables.patch(old, compile_snapshot(after, slots, 2))
    assert patch is not None and len(patch) < max(len(full), 4096)
    return len(patch)


def test_patch_bytes_do_not_depend_on_the_number_of_routes() -> None:
    assert patch_bytes(2) == patch_bytes(300)
