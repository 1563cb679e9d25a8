"""Digests: sums that can be taken apart, and every field counts."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from edge.model.diagnostics import ObjectRef
from edge.model.types import (
    Certificate,
    Delay,
    Listener,
    PathType,
    PerSource,
    Policy,
    Route,
    RouteKey,
    Transport,
    Upstream,
    UpstreamKey,
)
from edge.snapshot import digests

REF = ObjectRef("X", "", "x")
UPSTREAM = UpstreamKey("n", "s", "80")
ROUTE = Route(RouteKey("Ingress", "n", "i", "h", "Prefix", "/"), "h", "/", PathType.PREFIX, ((UPSTREAM, 1),))


def test_total_is_a_sum_modulo() -> None:
    assert digests.total([]) == bytes(32)
    assert digests.total([1, (1 << 256) - 1]) == bytes(32)
    assert digests.total([3, 4]) == digests.total([4, 3]) == (7).to_bytes(32, "big")


def test_words_cannot_run_together() -> None:
    assert digests.object_digest("k", "ab", "c") != digests.object_digest("k", "a", "bc")


@pytest.mark.parametrize(
    "change",
    [
        {"host": "g"},
        {"path": "/x"},
        {"path_type": PathType.EXACT},
        {"references": ((UPSTREAM, 2),)},
        {"filters": (Delay(1),)},
        {"redirect_https": True},
        {"body_bytes_max": 1},
        {"path_written": "/x"},
        {"service": "x"},
        {"rule_index": 1},
        {"path_index": 1},
    ],
)
def test_every_field_of_a_route_counts(change: dict[str, object]) -> None:
    assert digests.route_digest(replace(ROUTE, **change)) != digests.route_digest(ROUTE)  # type: ignore[arg-type]


def test_fields_of_the_others_count() -> None:
    upstream = Upstream(UPSTREAM)
    assert digests.upstream_digest(replace(upstream, read_ms=1)) != digests.upstream_digest(upstream)
    listener = Listener(ip_address("::1"), 1, Transport.TLS)
    trusting = replace(listener, trusted_proxies=(ip_network("10.0.0.0/8"),))
    assert digests.listener_digest(trusting) != digests.listener_digest(listener)
    certificate = Certificate(REF, b"1", b"c", b"k", ("a",))
    assert digests.certificate_digest(replace(certificate, digest=b"2")) != digests.certificate_digest(
        certificate
    )
    default = replace(certificate, is_default=True)
    assert digests.certificate_digest(default) != digests.certificate_digest(certificate)
    assert digests.certificate_digest(replace(default, digest=b"2")) == digests.certificate_digest(default), (
        "every node makes its own; the digest of the routes is one for all nodes"
    )
    policy = Policy(REF)
    assert digests.policy_digest(replace(policy, per_source=PerSource(1))) != digests.policy_digest(policy)
    assert digests.endpoints_share(UPSTREAM, ()) != digests.endpoints_share(UPSTREAM._replace(port="81"), ())
