"""Canonical digests: a sum of one SHA-256 for each object.

Called by compile.py. The sum (modulo 2^256) does not depend on the order of arrival, on slots or on
history, and an object can be taken out and put in without touching the others: equal objects give
equal digests on every node. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from edge.model.matches import NO_MATCHES
from edge.model.types import Certificate, Endpoint, Listener, Policy, Route, Upstream, UpstreamKey

_MODULUS = 1 << 256


def total(parts: Iterable[int]) -> bytes:
    """Shape: 32 bytes, big-endian."""
    return (sum(parts) % _MODULUS).to_bytes(32, "big")


def object_digest(kind: str, *values: object) -> int:
    """Shape: one object's share of the sum; values are such whose repr is one to one."""
    return int.from_bytes(hashlib.sha256(repr((kind, *values)).encode("utf-8", "replace")).digest(), "big")


def route_digest(route: Route) -> int:
    """Everything of a route that is served or shown."""
    return object_digest(
        "route",
        _words(route.key),
        route.host,
        route.path,
        route.path_type.value,
        tuple((_upstream_words(key), weight) for key, weight in route.references),
        tuple(filter_.milliseconds for filter_ in route.filters),
        route.redirect_https,
        route.body_bytes_max,
        route.path_written,
        route.service,
        route.rule_index,
        route.path_index,
        *([route.matches] if route.matches != NO_MATCHES else []),
    )


def upstream_digest(upstream: Upstream) -> int:
    """An upstream's policy, without its endpoints."""
    times = (upstream.connect_ms, upstream.read_ms, upstream.send_ms, upstream.idle_ms)
    return object_digest("upstream", _upstream_words(upstream.key), times)


def listener_digest(listener: Listener) -> int:
    """A listener with its limits and trusted proxies."""
    return object_digest(
        "listener",
        str(listener.address),
        listener.port,
        listener.transport.value,
        tuple(map(str, listener.trusted_proxies)),
        (listener.head_bytes_max, listener.target_bytes_max, listener.idle_ms, listener.head_ms),
    )


def certificate_digest(certificate: Certificate) -> int:
    """A certificate by its own digest; never the key's bytes. The default one is each node's own."""
    return object_digest(
        "certificate",
        str(certificate.object),
        "" if certificate.is_default else certificate.digest.hex(),
        certificate.names,
        certificate.is_default,
    )


def policy_digest(policy: Policy) -> int:
    """What the kernel is told."""
    per_source = policy.per_source
    return object_digest(
        "policy",
        str(policy.object),
        policy.scope,
        tuple(map(str, policy.deny)),
        tuple(map(str, policy.allow)),
        per_source
        and (
            per_source.packets_per_second,
            per_source.connections_per_second,
            per_source.burst,
            per_source.prefix_v4,
            per_source.prefix_v6,
        ),
        (policy.dead_man_s, policy.dead_man_pass),
        tuple(map(str, policy.trusted_proxies)),
    )


def endpoints_share(key: UpstreamKey, endpoints: Iterable[Endpoint]) -> int:
    """All endpoints of one upstream: the unit of an endpoint patch."""
    written = tuple((str(one.address), one.port, one.state.value, one.zone) for one in endpoints)
    return object_digest("endpoints", _upstream_words(key), written)


def _upstream_words(key: UpstreamKey) -> tuple[str, ...]:
    return (key.namespace, key.service, key.port, key.policy)


def _words(key: object) -> tuple[str, ...]:
    return tuple(getattr(key, name) for name in type(key).__dataclass_fields__)  # type: ignore[attr-defined]
