"""Routes that look at more than host and path, through a running data plane inside its sandbox."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from edge import messages
from edge.dataplane import tables
from edge.dataplane.refusals import refused_object
from edge.model.matches import FieldMatch, FieldTarget, Matches, gateway_precedence
from edge.model.types import PathType, UpstreamKey
from edge.snapshot.types import PlacedRoute, Snapshot
from tests.e2e.plane import Plane, Server, World, listener, named

pytestmark = pytest.mark.slow
PATH_WORDS = {PathType.EXACT: "Exact", PathType.PREFIX: "PathPrefix", PathType.REGEX: "RegularExpression"}


class Gateway(World):
    """A world whose precedence is the Gateway API's."""

    def matching(self, host: str, kind: PathType, path: str, key: UpstreamKey, **matches: object) -> None:
        """Add a route with conditions."""
        self.route(host, path, key)
        fields = Matches(any_depth=True, fall_through=True, **matches)  # type: ignore[arg-type]
        self.routes[-1] = replace(self.routes[-1], path_type=kind, matches=fields)

    def snapshot(self, version: int) -> Snapshot:
        """Precedence by what each route matches."""
        made = super().snapshot(version)
        placed = tuple(
            PlacedRoute(
                one.slot,
                gateway_precedence(
                    one.route.host, PATH_WORDS[one.route.path_type], one.route.path, one.route.matches.fields
                ),
                one.route,
            )
            for one in made.routes
        )
        return replace(made, routes=placed)


@pytest.fixture(params=["uring", "epoll"])
def plane(request: pytest.FixtureRequest) -> Iterator[Plane]:
    servers = {name: Server(named(name)) for name in ("plain", "canary", "query", "post", "regex", "wide")}
    world = Gateway(listeners=[listener()])
    keys = {name: world.upstream(name, [server.port]) for name, server in servers.items()}
    header = FieldMatch(FieldTarget.HEADER, "yes, always", "X-Canary")
    version = FieldMatch(FieldTarget.QUERY, "v[0-9]+", "version", regex=True)
    method = FieldMatch(FieldTarget.METHOD, "POST")
    prefix, regex = PathType.PREFIX, PathType.REGEX
    world.matching("a.example", prefix, "/", keys["plain"])
    world.matching("a.example", prefix, "/", keys["canary"], fields=(header,))
    world.matching("a.example", prefix, "/", keys["query"], fields=(version,))
    world.matching("a.example", prefix, "/", keys["post"], fields=(method,))
    world.matching("b.example", regex, "/[a-z]+/[0-9]{2}", keys["regex"])
    world.matching(".example", prefix, "/", keys["wide"], not_after=int(time.time()) + 3600)
    world.matching(".late.example", prefix, "/", keys["wide"], not_before=int(time.time()) + 3600)
    with Plane(world, loop=request.param, workers=1) as made:
        yield made
    for server in servers.values():
        server.close()


def test_each_condition_decides(plane: Plane) -> None:
    asked = {
        ("a.example", "/", "", "GET"): b"plain",
        ("a.example", "/", "X-Canary: yes\r\nX-CANARY: always\r\n", "GET"): b"canary",
        ("a.example", "/", "X-Canary: yes\r\n", "GET"): b"plain",
        ("a.example", "/x?a=1&version=v12", "", "GET"): b"query",
        ("a.example", "/x?version=v1x", "", "GET"): b"plain",
        ("a.example", "/", "Content-Length: 0\r\nX-Canary: yes, always\r\n", "POST"): b"post",
        ("b.example", "/abc/12", "", "GET"): b"regex",
        ("b.example", "/abc/123", "", "GET"): b"wide",
        ("x.y.example", "/", "", "GET"): b"wide",
    }
    for (host, path, extra, method), body in asked.items():
        assert plane.get(host, path, extra=extra, method=method).body == body, (host, path, extra)
    assert plane.get("x.late.example", "/").body == b"wide"  # falls through to *.example
    assert plane.get("example", "/").status == 404


def test_an_expression_that_cannot_be_compiled_is_refused_by_its_place(plane: Plane) -> None:
    key = next(iter(plane.world.upstreams))
    plane.world.route("c.example", "/good", key)
    plane.world.routes[-1] = replace(plane.world.routes[-1], path_type=PathType.REGEX, path="/(bad")
    snapshot = plane.world.snapshot(9)
    image = tables.Tables().full(snapshot)
    descriptors = [
        tables.sealed_memfd("image", image),
        tables.sealed_memfd("secrets", tables.secrets(snapshot)),
    ]
    messages.send(plane.control, "image", descriptors, version=9, kind=1)
    for descriptor in descriptors:
        os.close(descriptor)
    refused = plane.expect("refused")
    owner = refused_object(snapshot, image, refused.number("section"), refused.number("index"))
    assert owner is not None and owner.name == plane.world.routes[-1].key.name
    assert refused.fields["reason"].endswith("missing closing parenthesis")
    assert plane.get("a.example", "/").body == b"plain"
