"""The model: what the objects mean, free of Kubernetes, frozen, hashable.

Built by edge/model from raw objects; edge/snapshot gives it slots and a version. Names are the
Gateway API's and Envoy's (design page §10).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.matches import NO_MATCHES, Matches
from edge.model.ordered import Step

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Transport(Enum):
    """Values are enum edge_transport in edge.h."""

    PLAIN = 1
    TLS = 2


class PathType(Enum):
    """Values are enum edge_path_type in edge.h."""

    EXACT = 1
    PREFIX = 2
    REGEX = 3
    STRING_PREFIX = 4


class EndpointState(Enum):
    """Values are enum edge_endpoint_state in edge.h."""

    READY = 1
    DRAINING = 2


@dataclass(frozen=True, slots=True)
class Listener:
    """One served address and port. Units: bytes, milliseconds. Source: the --http/--https options."""

    address: Address
    port: int
    transport: Transport
    trusted_proxies: tuple[Network, ...] = ()
    head_bytes_max: int = 32768
    target_bytes_max: int = 8192
    idle_ms: int = 75_000
    head_ms: int = 60_000


class UpstreamKey(NamedTuple):
    """Identity of an upstream: the Service port as the object wrote it, and its policy's digest."""

    namespace: str
    service: str
    port: str
    policy: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address and port of an upstream."""

    address: Address
    port: int
    state: EndpointState = EndpointState.READY
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where requests go, without its endpoints (they change on their own). Units: milliseconds."""

    key: UpstreamKey
    connect_ms: int = 5_000
    read_ms: int = 60_000
    send_ms: int = 60_000
    idle_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class Delay:
    """Filter: hold every request for so long before it is routed on (Envoy's fault delay)."""

    milliseconds: int


@dataclass(frozen=True, slots=True, order=True)
class RouteKey:
    """Identity of a route: never a rule's index, so that reordering rules moves no counter."""

    kind: str
    namespace: str
    name: str
    host: str
    path_type: str
    path: str
    matches: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """Host and path to weighted upstreams. ``host``: lower case, "" any, ".x.org" for *.x.org."""

    key: RouteKey
    host: str
    path: str
    path_type: PathType
    references: tuple[tuple[UpstreamKey, int], ...]
    filters: tuple[Delay, ...] = ()
    redirect_https: bool = False
    body_bytes_max: int = 0
    path_written: str = ""
    service: str = ""
    rule_index: int = 0
    path_index: int = 0
    matches: Matches = NO_MATCHES


@dataclass(frozen=True, slots=True)
class Certificate:
    """Chain and key for server names. ``digest``: SHA-256 of chain and key; key never printed.

    ``withheld``: there is no key; handshakes for the names are rejected until there is one.
    """

    object: ObjectRef
    digest: bytes
    chain_pem: bytes
    key_pem: bytes
    names: tuple[str, ...]
    is_default: bool = False
    withheld: bool = False

    def __repr__(self) -> str:
        """Shape: without the key."""
        return f"Certificate({self.object}, {self.digest.hex()[:12]}, names={self.names})"


@dataclass(frozen=True, slots=True)
class PerSource:
    """Token bucket for each source prefix. Units: packets and connections a second."""

    packets_per_second: int = 0
    connections_per_second: int = 0
    burst: int = 0
    prefix_v4: int = 32
    prefix_v6: int = 64


@dataclass(frozen=True, slots=True)
class Policy:
    """What XDP does with packets (EdgePolicy, design page §5)."""

    object: ObjectRef
    scope: str = "listener"
    deny: tuple[Network, ...] = ()
    allow: tuple[Network, ...] = ()
    per_source: PerSource | None = None
    dead_man_s: int = 0
    dead_man_pass: bool = True
    trusted_proxies: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Moved:
    """How endpoints came from those before: all but those of ``keys`` are the same."""

    before: dict[UpstreamKey, tuple[Endpoint, ...]]
    keys: frozenset[UpstreamKey]


@dataclass(frozen=True, slots=True)
class Model:
    """All objects, linked and judged.

    Shape: routes ordered by precedence; ``endpoints`` has one entry for every upstream key. ``step``: how the
    routes came from those of an earlier Model, where that is known; ``moved``: and the endpoints.
    """

    listeners: tuple[Listener, ...]
    routes: tuple[Route, ...]
    upstreams: tuple[Upstream, ...]
    endpoints: dict[UpstreamKey, tuple[Endpoint, ...]]
    certificates: tuple[Certificate, ...]
    policies: tuple[Policy, ...]
    diagnostics: tuple[Diagnostic, ...]
    step: Step[Route] | None = field(default=None, compare=False, repr=False)
    moved: Moved | None = field(default=None, compare=False, repr=False)
