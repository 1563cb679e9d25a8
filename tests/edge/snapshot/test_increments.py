"""One change at a time is the same as everything at once: model, digests, slots, in any order of arrival."""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from ipaddress import IPv4Address, ip_network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edge.dataplane.tables import Tables
from edge.model.build import ModelBuilder, ModelSettings, build_model
from edge.model.certificates import given_certificate
from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.types import Certificate, Listener, Model, Transport
from edge.resources.kinds import RESOLVED_NAME
from edge.resources.store import ResourceEvent, ResourceStore
from edge.snapshot.compile import SnapshotCompiler, compile_snapshot
from edge.snapshot.slots import SlotTable, SlotTables
from edge.snapshot.types import Snapshot

PEM = (
    b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
    b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n",
)
DEFAULT = given_certificate(*PEM)
assert isinstance(DEFAULT, Certificate)
LISTENERS = (
    Listener(IPv4Address("0.0.0.0"), 80, Transport.PLAIN),
    Listener(IPv4Address("0.0.0.0"), 443, Transport.TLS),
)
SETTINGS = ModelSettings(LISTENERS, "edge", True, DEFAULT, "z1", (ip_network("127.9.0.0/16"),))

HOSTS = st.sampled_from(["", "a.test", "b.a.test", "*.a.test", "no host"])
PATHS = st.sampled_from(["/", "/x", "/x/", "/y", "//"])
TYPES = st.sampled_from(["Exact", "Prefix", "ImplementationSpecific", "Else"])
NAMES = st.sampled_from(["a", "b", "c"])
TARGETS = st.builds(
    lambda name, port: {"service": {"name": name, "port": port}},
    NAMES,
    st.sampled_from([{"number": 80}, {"number": 81}, {"name": "http"}, {}]),
) | st.just({"resource": {"kind": "Bucket"}})
RULES = st.lists(
    st.builds(
        lambda host, path, kind, target: {
            "host": host,
            "http": {"paths": [{"path": path, "pathType": kind, "backend": target}]},
        },
        HOSTS,
        PATHS,
        TYPES,
        TARGETS,
    ),
    max_size=3,
)
TLS = st.lists(
    st.builds(lambda hosts, name: {"hosts": hosts, "secretName": name}, st.lists(HOSTS, max_size=2), NAMES),
    max_size=2,
)


def ingress(rules: Any, tls: Any, default: Any, age: int, note: bool, kind: str) -> dict[str, Any]:
    notes = {"nginx.ingress.kubernetes.io/proxy-read-timeout": "9"} if note else {}
    meta = {"annotations": notes, "name": "i"} | (
        {"creationTimestamp": f"2026-01-0{age}T00:00:00Z"} if age else {}
    )
    spec = {"rules": rules, "tls": tls, "ingressClassName": kind}
    return {"metadata": meta, "spec": spec | ({"defaultBackend": default} if default else {})}


INGRESS = st.builds(
    ingress,
    RULES,
    TLS,
    st.none() | TARGETS,
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from(["edge", "edge", "edge", "other"]),
)
SERVICE = st.builds(
    lambda kind, port: {
        "metadata": {"name": "s"},
        "spec": {"ports": [{"name": "http", "port": port}], **kind},
    },
    st.sampled_from([{}, {}, {"type": "ExternalName", "externalName": "x.test"}]),
    st.sampled_from([80, 81, 0]),
)
SLICE = st.builds(
    lambda service, addresses, conditions: {
        "metadata": {"name": "e", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [one], "conditions": conditions} for one in addresses],
    },
    NAMES,
    st.lists(st.sampled_from(["198.18.0.1", "198.18.0.2", "bad"]), max_size=2),
    st.sampled_from([{}, {"ready": False}, {"ready": False, "serving": True, "terminating": True}]),
)
SECRET = st.builds(
    lambda good: {
        "metadata": {"name": "s"},
        "data": {
            "tls.crt": base64.b64encode(PEM[0]).decode() if good else "?",
            "tls.key": base64.b64encode(PEM[1]).decode(),
        },
    },
    st.booleans(),
)
CLASS = st.builds(
    lambda ours, meaning, scope, parameters: {
        "metadata": {"name": "edge", "annotations": {"xdp-edge.dev/implementation-specific": meaning}},
        "spec": {
            "controller": "xdp-edge.dev/ingress-controller" if ours else "another",
            "parameters": {"kind": "ConfigMap", "namespace": "default", "name": parameters, "scope": scope},
        },
    },
    st.sampled_from([True, True, False]),
    st.sampled_from(["prefix", "string-prefix", "?"]),
    st.sampled_from(["Namespace", "Namespace", "Cluster"]),
    NAMES,
)
SETTINGS_OF_CLASS = st.builds(
    lambda key, value: {"metadata": {"name": "x"}, "data": {key: value}},
    st.sampled_from(["proxy-body-size", "proxy-read-timeout", "ssl-redirect", "other"]),
    st.sampled_from(["8", "30", "false", "?"]),
)
NAME = st.builds(
    lambda addresses, error: {"addresses": addresses, "error": error},
    st.lists(st.sampled_from(["198.18.5.1", "127.0.0.1"]), max_size=2, unique=True),
    st.sampled_from(["", "no answer"]),
)
POISON = st.sampled_from([{}, {"metadata": 1}, {"metadata": {"name": "x"}, "spec": [], "endpoints": 1}])


def event(kind: str, names: st.SearchStrategy[str], raw: st.SearchStrategy[Any]) -> Any:
    namespace = "" if kind in ("IngressClass", RESOLVED_NAME) else "default"
    return st.builds(ResourceEvent, st.just(kind), st.just(namespace), names, st.none() | raw | raw)


EVENTS = (
    event("Ingress", NAMES, INGRESS)
    | event("Ingress", NAMES, INGRESS | POISON)
    | event("Service", NAMES, SERVICE | POISON)
    | event("EndpointSlice", NAMES, SLICE | POISON)
    | event("Secret", NAMES, SECRET | POISON)
    | event("IngressClass", st.just("edge"), CLASS)
    | event("ConfigMap", NAMES, SETTINGS_OF_CLASS | POISON)
    | event(RESOLVED_NAME, st.just("x.test"), NAME)
)
REFUSED = st.sets(
    st.builds(ObjectRef, st.sampled_from(["Ingress", "Service", "Secret"]), st.just("default"), NAMES),
    max_size=1,
)
STEPS = st.lists(st.tuples(st.lists(EVENTS, min_size=1, max_size=4), REFUSED), min_size=1, max_size=8)


def same(one: Snapshot, other: Snapshot) -> bool:
    """Everything but slots and versions, which know history."""
    words = [
        (
            snapshot.routes_digest,
            snapshot.endpoints_digest,
            snapshot.listeners,
            [(placed.precedence, placed.route) for placed in snapshot.routes],
            {key: (placed.upstream, placed.endpoints) for key, placed in snapshot.upstreams.items()},
            snapshot.certificates,
            snapshot.diagnostics,
        )
        for snapshot in (one, other)
    ]
    return words[0] == words[1]


@settings(max_examples=int(os.environ.get("EDGE_LONG", "0")) * 2000 or 25, deadline=None)
@given(STEPS, st.randoms(use_true_random=False))
def test_steps_are_the_whole(steps: list[tuple[list[ResourceEvent], set[ObjectRef]]], random: Any) -> None:
    store, slots = ResourceStore(), SlotTables()
    builder, compiler, tables = ModelBuilder(SETTINGS), SnapshotCompiler(slots), Tables()
    given_out: dict[Any, Any] = {}
    for version, (events, left_out) in enumerate(steps, 1):
        refused = [Diagnostic(ref, "", "Refused", "by the data plane") for ref in left_out]
        model = builder.update(store, store.apply(events), (), refused)
        snapshot = compiler.compile(model, version)

        there = [ResourceEvent(*key, raw) for key in store.all_keys() if (raw := store.get(*key)) is not None]
        random.shuffle(there)
        whole: Model = build_model(ResourceStore(there), SETTINGS, (), refused)
        assert whole == model
        assert same(compile_snapshot(whole, SlotTables(), 1), snapshot)
        if random.random() < 0.8:  # not every version is published as a whole image
            assert tables.full(snapshot) == Tables().full(snapshot)
        # No slot and generation is ever of two keys, and no two routes share one.
        assert len({placed.slot for placed in snapshot.routes}) == len(snapshot.routes) == len(model.routes)
        for placed in snapshot.routes:
            assert given_out.setdefault(placed.slot, placed.route.key) == placed.route.key
        again = SlotTables.from_json(slots.to_json())
        assert SlotTables.to_json(again) == slots.to_json()
        slots.release(version - random.randint(0, 2))


def test_what_did_not_change_is_the_same_object() -> None:
    store, builder = ResourceStore(), ModelBuilder(SETTINGS)
    target = {"service": {"name": "a", "port": {"number": 80}}}

    def rule(path: str) -> dict[str, Any]:
        return {"http": {"paths": [{"path": path, "pathType": "Exact", "backend": target}]}}

    def made(*paths: str) -> dict[str, Any]:
        return ingress([rule(path) for path in paths], [], None, 1, False, "edge")

    first = builder.update(store, store.apply([ResourceEvent("Ingress", "default", "a", made("/1", "/2"))]))
    same_again = builder.update(store, store.apply([ResourceEvent("Ingress", "default", "b", made("/3"))]))
    assert same_again.routes[0] is first.routes[0]
    assert same_again.routes[1] is first.routes[1]
    assert same_again.upstreams is first.upstreams and same_again.endpoints is first.endpoints


def test_a_slot_that_is_free_again_serves_who_waited() -> None:
    slots = SlotTables()
    slots.routes = SlotTable(1)
    compiler, store, builder = SnapshotCompiler(slots), ResourceStore(), ModelBuilder(SETTINGS)
    target = {"service": {"name": "a", "port": {"number": 80}}}
    rule = {"http": {"paths": [{"path": "/", "pathType": "Exact", "backend": target}]}}
    events = [
        ResourceEvent(
            "Ingress", "default", name, ingress([rule | {"host": f"{name}.test"}], [], None, 1, False, "edge")
        )
        for name in ("a", "b")
    ]
    model = builder.update(store, store.apply(events))
    one = compiler.compile(model, 1)
    assert [placed.route.key.name for placed in one.routes] == ["a"]
    assert [found.reason for found in one.diagnostics if found.object.name == "b"][-1] == "LimitReached"
    model = builder.update(store, store.apply([replace(events[0], raw=None)]))
    assert compiler.compile(model, 2).routes == ()
    slots.release(2)
    assert [placed.route.key.name for placed in compiler.compile(model, 3).routes] == ["b"]
