"""Every field of every kind, fed with what an attacker or an accident would write: the others serve on.

100 canary requests are answered by the workers' matcher after each poison, and must be answered as before. A
poisoned object gets a Diagnostic, or the field is one that may hold any text.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest

from edge.dataplane.tables import Tables
from edge.model.build import ModelBuilder, ModelSettings
from edge.model.certificates import given_certificate
from edge.model.types import Certificate, Listener, Model, Transport
from edge.native import Request, match_requests
from edge.resources.kinds import KINDS, identify
from edge.resources.store import ResourceEvent, ResourceStore
from edge.snapshot.compile import SnapshotCompiler
from edge.snapshot.slots import SlotTables

PEM = (
    "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
    "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n",
)
DEFAULT = given_certificate(PEM[0].encode(), PEM[1].encode())
assert isinstance(DEFAULT, Certificate)
LISTENERS = (
    Listener(IPv4Address("0.0.0.0"), 80, Transport.PLAIN),
    Listener(IPv4Address("0.0.0.0"), 443, Transport.TLS),
)
CANARIES = 100


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


TEXTS = [
    '"',
    "'; DROP",
    "a\nb",
    "a\r\nX-Evil: 1",
    "\0",
    "$(id)",
    "`id`",
    "${jndi:ldap://x}",
    "} return 200; {",
    "../../etc/passwd",
    "#",
    "x" * 65_536,
    "ü",
    "\u202eevil",
    "İ.test",
    "\ud800",
    "%00",
    "*",
    "",
]
OTHERS = [0, -1, 2**63, 1.5, float("nan"), True, None, [], {}, ["x"], {"x": "y"}, deep(200)]

INGRESS: dict[str, Any] = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "Ingress",
    "metadata": {
        "name": "poison",
        "namespace": "default",
        "creationTimestamp": "2020-01-01T00:00:00Z",
        "labels": {"app": "x"},
        "annotations": {
            "example.org/note": "x",
            "nginx.ingress.kubernetes.io/ssl-redirect": "true",
            "nginx.ingress.kubernetes.io/force-ssl-redirect": "false",
            "nginx.ingress.kubernetes.io/proxy-body-size": "1m",
            "nginx.ingress.kubernetes.io/proxy-connect-timeout": "5",
            "nginx.ingress.kubernetes.io/proxy-read-timeout": "5",
            "nginx.ingress.kubernetes.io/proxy-send-timeout": "5",
            "xdp-edge.dev/ssl-redirect": "true",
            "xdp-edge.dev/fault-delay": "1ms",
            "xdp-edge.dev/implementation-specific": "prefix",
        },
    },
    "spec": {
        "ingressClassName": "edge",
        "defaultBackend": {"service": {"name": "poison", "port": {"name": "http"}}},
        "tls": [{"hosts": ["poison.test"], "secretName": "poison"}],
        "rules": [
            {
                "host": "poison.test",
                "http": {
                    "paths": [
                        {
                            "path": "/p",
                            "pathType": "Prefix",
                            "backend": {"service": {"name": "poison", "port": {"number": 80}}},
                        }
                    ]
                },
            }
        ],
    },
}
SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "poison", "namespace": "default"},
    "spec": {
        "type": "ClusterIP",
        "clusterIP": "None",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
    },
}
EXTERNAL: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "poison", "namespace": "default"},
    "spec": {"type": "ExternalName", "externalName": "x.test", "ports": [{"name": "http", "port": 80}]},
}
SLICE: dict[str, Any] = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {
        "name": "poison-1",
        "namespace": "default",
        "labels": {"kubernetes.io/service-name": "poison"},
    },
    "addressType": "IPv4",
    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    "endpoints": [
        {
            "addresses": ["198.18.0.1"],
            "conditions": {"ready": True},
            "zone": "z",
            "hints": {"forZones": [{"name": "z"}]},
        }
    ],
}
SECRET: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "poison", "namespace": "default"},
    "type": "kubernetes.io/tls",
    "stringData": {"tls.crt": PEM[0], "tls.key": PEM[1]},
}
CLASS: dict[str, Any] = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "IngressClass",
    "metadata": {
        "name": "other",
        "annotations": {
            "ingressclass.kubernetes.io/is-default-class": "false",
            "xdp-edge.dev/implementation-specific": "prefix",
        },
    },
    "spec": {"controller": "someone.example/else"},
}
POLICY: dict[str, Any] = {
    "apiVersion": "xdp-edge.dev/v1alpha1",
    "kind": "EdgePolicy",
    "metadata": {"name": "poison"},
    "spec": {
        "scope": "listener",
        "deny": ["198.51.100.0/24"],
        "allow": ["198.51.100.7"],
        "trustedProxies": ["198.18.0.0/15"],
        "perSource": {"packetsPerSecond": 10, "connectionsPerSecond": 10, "burst": 20},
        "deadMan": {"seconds": 5, "action": "pass"},
    },
}
OBJECTS = {
    "ingress": INGRESS,
    "service": SERVICE,
    "external": EXTERNAL,
    "slice": SLICE,
    "secret": SECRET,
    "class": CLASS,
    "policy": POLICY,
}
# Where any text is good: what nobody here reads, what others may use, what decides only whose object it is.
ANY_TEXT = {
    "ingress metadata.labels.app",
    "ingress metadata.annotations.example.org/note",
    "ingress spec.ingressClassName",
    "external metadata.name",
}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value that is no mapping or list, and of those themselves."""
    if path and path[0] not in ("apiVersion", "kind"):
        yield path
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield from leaves(child, (*path, key))


def poisoned(raw: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    result = copy.deepcopy(raw)
    place: Any = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return result


def canary(number: int) -> dict[str, Any]:
    backend = {"service": {"name": "canary", "port": {"number": 80}}}
    rule = {"http": {"paths": [{"path": f"/c{number}", "pathType": "Prefix", "backend": backend}]}}
    host = {"host": f"canary-{number % 10}.test"} if number % 3 else {}
    return {
        "metadata": {"name": f"canary-{number}", "creationTimestamp": "2019-01-01T00:00:00Z"},
        "spec": {"ingressClassName": "edge", "rules": [{**host, **rule}]},
    }


class Farm:
    """Canaries beside what is poisoned, built step by step as the controller does."""

    def __init__(self) -> None:
        self.store = ResourceStore()
        self.builder = ModelBuilder(ModelSettings(LISTENERS, default_certificate=DEFAULT, zone="z"))
        self.compiler = SnapshotCompiler(SlotTables())
        self.tables = Tables()
        self.version = 0
        events = [ResourceEvent("Ingress", "default", f"canary-{n}", canary(n)) for n in range(CANARIES)]
        service = {"metadata": {"name": "canary"}, "spec": {"ports": [{"name": "http", "port": 80}]}}
        piece = copy.deepcopy(SLICE)
        piece["metadata"]["labels"]["kubernetes.io/service-name"] = "canary"
        events.append(ResourceEvent("Service", "default", "canary", service))
        events.append(ResourceEvent("EndpointSlice", "default", "canary-1", piece))
        self.put(events)
        self.asked = [
            Request(f"canary-{n % 10}.test" if n % 3 else f"elsewhere-{n}.test", f"/c{n}/x")
            for n in range(CANARIES)
        ]
        self.good = self.answers()
        assert len({row for row in self.good}) == CANARIES

    def put(self, events: list[ResourceEvent]) -> Model:
        self.version += 1
        model = self.builder.update(self.store, self.store.apply(events))
        self.snapshot = self.compiler.compile(model, self.version)
        self.image = self.tables.full(self.snapshot)
        return model

    def answers(self) -> list[tuple[str, int]]:
        names = {placed.slot.index: placed.route.key.name for placed in self.snapshot.routes}
        from edge.native import ImageReader

        reader = ImageReader(self.image)
        found = match_requests(self.image, 0, self.asked)
        ends = {
            placed.route.key.name: len(self.snapshot.upstreams[placed.route.references[0][0]].endpoints)
            for placed in self.snapshot.routes
            if placed.route.references
        }
        rows = [names[reader.route(index).slot] for index in found]
        return [(name, ends[name]) for name in rows]


def event(raw: dict[str, Any]) -> ResourceEvent | None:
    """As the source sends it; None where its identity is refused already."""
    found = identify(raw)
    if not isinstance(found, tuple):
        return None
    return ResourceEvent(*found, raw)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTS)
def test_every_field(name: str) -> None:
    farm, good = Farm(), OBJECTS[name]
    beside = [one for other, one in OBJECTS.items() if other != name and other not in ("external", "service")]
    if name != "external" and name != "service":
        beside.append(SERVICE)
    farm.put([one for raw in beside if (one := event(raw))])
    quiet: set[str] = set()
    for path in leaves(good):
        told = False
        for value in [*TEXTS, *OTHERS]:
            bad = poisoned(good, path, value)
            sent = event(bad)
            if sent is None:
                told = True  # its file gets the Diagnostic
                continue
            model = farm.put([sent])
            told = told or any(
                (one.object.kind, one.object.namespace, one.object.name) == sent.key
                for one in model.diagnostics
            )
            assert farm.answers() == farm.good, f"{path} = {value!r:.60}"
            farm.put([ResourceEvent(*sent.key, None)])
        if not told:
            quiet.add(f"{name} {'.'.join(map(str, path))}")
    assert quiet <= ANY_TEXT, f"nothing is said about {sorted(quiet - ANY_TEXT)}"


def test_every_kind_is_tried() -> None:
    about_us = {"Node", "ConfigMap"}  # settings of an instance; nothing that is routed
    assert {raw["kind"] for raw in OBJECTS.values()} == set(KINDS) - about_us
