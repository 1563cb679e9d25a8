"""The C matcher against a slow one in plain Python: random tables, random requests, same winner."""

from __future__ import annotations

import random
from ipaddress import IPv4Address

import pytest

from edge.dataplane.tables import Tables
from edge.errors import NativeError
from edge.model.types import Listener, PathType, Route, RouteKey, Transport
from edge.native import ImageReader, Request, explain
from edge.snapshot.types import PlacedListener, PlacedRoute, Slot, Snapshot

TABLES = 100
REQUESTS = 220  # for each: 22,000 pairs
LABELS = ("a", "b", "ab", "x")
ELEMENTS = ("", "a", "b", "aa", "a.b")
ADDRESS = IPv4Address("127.0.0.1")


def random_host(random_: random.Random) -> str:
    return ".".join(random_.choice(LABELS) for _ in range(random_.randint(1, 4)))


def random_path(random_: random.Random) -> str:
    return "/" + "/".join(random_.choice(ELEMENTS) for _ in range(random_.randint(0, 4)))


def random_routes(random_: random.Random) -> list[PlacedRoute]:
    count = random_.randint(0, 40)
    slots = random_.sample(range(1000), count)
    routes = []
    for slot in slots:
        host = random_.choice(["", random_host(random_), random_host(random_), "." + random_host(random_)])
        path, kind = random_path(random_), random_.choice([PathType.EXACT, PathType.PREFIX])
        key = RouteKey("Ingress", "default", f"r{slot}", host, kind.name, path)
        route = Route(key, host, path, kind, ())
        routes.append(PlacedRoute(Slot(slot, 1), random_.randint(0, 20), route))
    return routes


def snapshot(routes: list[PlacedRoute]) -> Snapshot:
    listener = PlacedListener(Slot(0, 1), Listener(ADDRESS, 80, Transport.PLAIN))
    return Snapshot(1, bytes(32), bytes(32), (listener,), tuple(routes), {}, (), (), ())


def matches(route: Route, path: str) -> bool:
    """By elements, as the Ingress documentation says it; nothing like the C code."""
    if route.path_type is PathType.EXACT:
        return route.path == path
    wanted = route.path.split("/")
    if wanted[-1] == "":
        wanted.pop()
    return path.split("/")[: len(wanted)] == wanted


def slow_match(routes: list[PlacedRoute], host: str, path: str) -> PlacedRoute | None:
    def rank(placed: PlacedRoute) -> tuple[int, int, int, str]:
        route = placed.route
        return placed.precedence, route.path_type.value, -len(route.path), route.key.name

    ordered = sorted(routes, key=rank)
    name = host.lower().partition(":")[0].removesuffix(".")
    suffix = name[name.find(".") :] if "." in name else None
    for wanted in (name, suffix, ""):
        own = [placed for placed in ordered if placed.route.host == wanted]
        if own:
            found = next((placed for placed in own if matches(placed.route, path)), None)
            if found is not None or wanted == "":
                return found
            defaults = (
                placed
                for placed in ordered
                if (placed.route.host, placed.route.path) == ("", "/")
                and placed.route.path_type is PathType.PREFIX
            )
            return next(defaults, None)
    return None


def dress(random_: random.Random, host: str) -> str:
    """The same host as clients write it."""
    host = random_.choice([host, host.upper(), host.title()])
    return host + random_.choice(["", "", ".", ":80", ".:8443"])


@pytest.mark.slow
def test_matcher_agrees_with_a_slow_one() -> None:
    seed = random.randrange(1 << 32)
    random_ = random.Random(seed)
    won = 0
    for _ in range(TABLES):
        routes = random_routes(random_)
        image = Tables().full(snapshot(routes))
        reader = ImageReader(image)
        hosts = [placed.route.host for placed in routes if placed.route.host[:1] not in ("", ".")]
        for _ in range(REQUESTS):
            host = dress(random_, random_.choice([random_host(random_), *hosts[:3]]))
            path = random_path(random_)
            expected = slow_match(routes, host, path)
            found = explain(image, 0, Request(host, path))
            slot = reader.route(found.route).slot if found.route >= 0 else None
            wanted = expected.slot.index if expected else None
            assert slot == wanted, f"seed {seed}: {host} {path}"
            verdicts = [one.verdict for one in found.candidates]
            assert verdicts.count("won") == (expected is not None)
            won += expected is not None
    assert won > TABLES * REQUESTS // 10


@pytest.mark.parametrize(("host", "path"), [("a b", "/"), ("a", "x"), ("a", "/?"), ("a:b", "/"), ("a", "")])
def test_what_no_request_can_have_is_refused(host: str, path: str) -> None:
    image = Tables().full(snapshot([]))
    with pytest.raises(NativeError):
        explain(image, 0, Request(host, path))
