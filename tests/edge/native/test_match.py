"""The C matcher against the plain one of oracle.py: random tables, random requests, same winner.

EDGE_LONG=1: 10 million pairs (EDGE_PAIRS: another number) in place of 200,000.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address

import pytest

from edge.dataplane.tables import Tables
from edge.errors import NativeError
from edge.model.matches import FieldMatch, FieldTarget, Matches, gateway_precedence
from edge.model.precedence import precedence
from edge.model.types import Listener, PathType, Route, RouteKey, Transport
from edge.native import ImageReader, Request, check_pattern, explain, match_requests
from edge.snapshot.types import PlacedListener, PlacedRoute, Slot, Snapshot
from tests.edge.native import oracle
from tests.edge.native.oracle import Asked, Field, Rule

PAIRS = int(os.environ.get("EDGE_PAIRS", 10_000_000 if os.environ.get("EDGE_LONG") else 200_000))
REQUESTS = 500  # for each table
LABELS = ("a", "b", "ab", "x")
ELEMENTS = ("", "a", "b", "aa", "a.b", "longer-element-of-a-path")
EXPRESSIONS = ("/a+", "/[ab]/.*", "/(a|aa)(/.*)?", ".*b", "/.{3}")
VALUES = ("1", "2", "on", "")
VALUE_EXPRESSIONS = ("[0-9]+", "o.", ".*")
QUERIES = ("", "a=1", "a=2&a=1", "b=on&a=1", "%61=%31", "a", "a=+&b", "&&a=1", "a=%zz", "c+d=1&b=o%6e")
HEADERS = ("a", "x-b")
ADDRESS = IPv4Address("127.0.0.1")
PATH_TYPES = {
    "Exact": PathType.EXACT,
    "Prefix": PathType.PREFIX,
    "PathPrefix": PathType.PREFIX,
    "RegularExpression": PathType.REGEX,
    "StringPrefix": PathType.STRING_PREFIX,
    "Default": PathType.PREFIX,
}
TARGETS = {"header": FieldTarget.HEADER, "query": FieldTarget.QUERY, "method": FieldTarget.METHOD}


def random_host(random_: random.Random) -> str:
    return ".".join(random_.choice(LABELS) for _ in range(random_.randint(1, 4)))


def random_path(random_: random.Random) -> str:
    if random_.random() < 0.01:
        return "/a" * random_.randint(60, 66)
    return "/" + "/".join(random_.choice(ELEMENTS) for _ in range(random_.randint(0, 4)))


def random_rule_host(random_: random.Random) -> str:
    return random_.choice(["", random_host(random_), random_host(random_), "*." + random_host(random_)])


def ingress_rules(random_: random.Random) -> list[Rule]:
    """As the model leaves them: of every host, type and path one, prefixes without their last slash."""
    rules: dict[tuple[str, str, str], Rule] = {}
    for ident in random_.sample(range(1000), random_.randint(0, 40)):
        kind = random_.choice(["Exact", "Prefix", "Prefix", "StringPrefix", "Default"])
        path = random_path(random_)
        if kind == "Prefix":
            path = path.rstrip("/") or "/"
        if kind == "Default":
            path = "/"
        rule = Rule(ident, random_rule_host(random_), kind, path, owner=("default", f"r{ident}"))
        rules.setdefault((rule.host, kind, path), rule)
    return list(rules.values())


def random_fields(random_: random.Random) -> tuple[Field, ...]:
    fields = []
    for _ in range(random_.choice([0, 0, 1, 2, 3])):
        kind = random_.choice(["header", "query", "method"])
        if kind == "method":
            fields.append(Field("method", "", random_.choice(["GET", "POST"])))
            continue
        regex = random_.random() < 0.3
        name = random_.choice(["A", "a", "X-b"] if kind == "header" else ["a", "b", "c d"])
        value = random_.choice(VALUE_EXPRESSIONS if regex else VALUES)
        fields.append(Field(kind, name, value, regex))
    return tuple(fields)


def gateway_rules(random_: random.Random) -> list[Rule]:
    """One listener's: its hostname meets those of the routes."""
    listener = random_.choice(["", "", random_host(random_), "*." + random.choice(LABELS)])
    rules = []
    for ident in random_.sample(range(1000), random_.randint(0, 40)):
        kind = random_.choice(["Exact", "PathPrefix", "PathPrefix", "RegularExpression"])
        path = random_.choice(EXPRESSIONS) if kind == "RegularExpression" else random_path(random_)
        rule = Rule(
            ident,
            random_rule_host(random_),
            kind,
            path,
            random_fields(random_),
            random_.choice([0, 0, 0, 100, 200]),
            random_.choice([0, 0, 0, 200, 300]),
            random_.randint(1, 3),
            (random_.choice(["n", "m"]), random_.choice(["r", "s"])),
            (ident, 0),
            listener,
        )
        if meeting(rule) is not None:
            rules.append(rule)
    return rules


def meeting(rule: Rule) -> str | None:
    """The host under which a listener serves a rule: the narrower of both; None: they do not meet."""
    for one, other in ((rule.host, rule.listener), (rule.listener, rule.host)):
        if not other or one == other:
            return one
        if other.startswith("*.") and one.endswith(other[1:]):
            return one
    return None


def placed(rule: Rule, gateway: bool) -> PlacedRoute:
    host = (meeting(rule) if gateway else rule.host) or ""
    fields = tuple(FieldMatch(TARGETS[one.kind], one.value, one.name, one.regex) for one in rule.fields)
    matches = Matches(fields, rule.not_before, rule.not_after, rule.created, gateway, gateway)
    key = RouteKey("Any", *rule.owner, host, rule.path_type, rule.path)
    route = Route(
        key,
        host.removeprefix("*"),
        rule.path,
        PATH_TYPES[rule.path_type],
        (),
        rule_index=rule.place[0],
        path_index=rule.place[1],
        matches=matches,
    )
    if gateway:
        number = gateway_precedence(rule.host, rule.path_type, rule.path, fields)
        return PlacedRoute(Slot(rule.ident, 1), number, route)
    return PlacedRoute(Slot(rule.ident, 1), precedence(route), route)


def snapshot(routes: Sequence[PlacedRoute]) -> Snapshot:
    listener = PlacedListener(Slot(0, 1), Listener(ADDRESS, 80, Transport.PLAIN))
    return Snapshot(1, bytes(32), bytes(32), (listener,), tuple(routes), {}, (), (), ())


def dress(random_: random.Random, host: str) -> str:
    """The same host as clients write it."""
    host = random_.choice([host, host.upper(), host.title()])
    return host + random_.choice(["", "", ".", ":80", ".:8443"])


def random_asked(random_: random.Random, hosts: list[str], paths: list[str], gateway: bool) -> Asked:
    host = dress(random_, random_.choice(hosts))
    path = random_.choice(paths)
    if not gateway:
        return Asked(host, path)
    headers = tuple(
        (random_.choice([name, name.upper()]), random_.choice(VALUES))
        for name in random_.choices(HEADERS, k=random_.randint(0, 3))
    )
    method = random_.choice(["GET", "POST", "get"])
    return Asked(
        host, path, method, random_.choice(QUERIES), headers, random_.choice([99, 100, 200, 201, 301])
    )


def requested(asked: Asked) -> Request:
    return Request(asked.host, asked.path, asked.method, asked.query, asked.headers, asked.now)


def compare(
    random_: random.Random,
    make: Callable[[random.Random], list[Rule]],
    decide: Callable[[Sequence[Rule], Asked], Rule | None],
) -> int:
    """One table and its requests; how many of them found a route."""
    gateway = make is gateway_rules
    rules = make(random_)
    image = Tables().full(snapshot([placed(rule, gateway) for rule in rules]))
    reader = ImageReader(image)
    slots = {-1: None} | {i: reader.route(i).slot for i in range(len(rules))}
    hosts = [random_host(random_) for _ in range(6)] + [
        rule.host.replace("*", random_.choice(["a", "b.a"])) for rule in rules[:8] if rule.host
    ]
    paths = [random_path(random_) for _ in range(8)] + ["/a/b", "/aa", "/a/"]
    paths += [
        rule.path + random_.choice(["", "/", "/a", "a"])
        for rule in rules[:12]
        if rule.path_type != "RegularExpression"
    ]
    asked = [random_asked(random_, hosts, paths, gateway) for _ in range(REQUESTS)]
    found = [slots[index] for index in match_requests(image, 0, [requested(one) for one in asked])]
    for one, slot in zip(asked, found, strict=True):
        winner = decide(rules, one)
        assert slot == (winner.ident if winner else None), f"{one}\n{rules}"
    for one, slot in list(zip(asked, found, strict=True))[:10]:
        verdicts = [candidate.verdict for candidate in explain(image, 0, requested(one)).candidates]
        assert verdicts.count("won") == (slot is not None)
    return sum(slot is not None for slot in found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ingress", "gateway"])
def test_matcher_agrees_with_a_slow_one(kind: str) -> None:
    seed = random.randrange(1 << 32)
    make, decide = {
        "ingress": (ingress_rules, oracle.decide_ingress),
        "gateway": (gateway_rules, oracle.decide_gateway),
    }[kind]
    tables = PAIRS // REQUESTS // 2
    won = 0
    for table in range(tables):
        try:
            won += compare(random.Random(seed + table), make, decide)
        except AssertionError as error:
            raise AssertionError(f"seed {seed + table}: {error}") from None
    assert won > tables * REQUESTS // 10


@pytest.mark.parametrize(("host", "path"), [("a b", "/"), ("a", "x"), ("a", "/?"), ("a:b", "/"), ("a", "")])
def test_what_no_request_can_have_is_refused(host: str, path: str) -> None:
    image = Tables().full(snapshot([]))
    with pytest.raises(NativeError):
        explain(image, 0, Request(host, path))
    with pytest.raises(NativeError):
        match_requests(image, 0, [Request(host, path)])


@pytest.mark.parametrize(
    "pattern", ["(", "[", "a" * 2000, "(" * 60 + ")" * 60, r"\C", "((a{1,500}){1,500}){1,500}"]
)
def test_what_no_expression_can_be_is_refused(pattern: str) -> None:
    check_pattern("/a+")
    with pytest.raises(NativeError):
        check_pattern(pattern)


def test_an_expression_that_would_never_end_does_not_match() -> None:
    rule = Rule(1, "", "RegularExpression", "(/a+)+b")
    image = Tables().full(snapshot([placed(rule, True)]))
    asked = [Request("a", "/aaab"), Request("a", "/" + "a" * 4000 + "c"), Request("a", "/a" * 30 + "c")]
    assert match_requests(image, 0, asked) == [0, -1, -1]
