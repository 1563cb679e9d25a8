"""Snapshots to images and secrets: what stands where, what is encoded again, what is sealed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.dataplane import fragments, tables
from edge.dataplane.tables import Tables, sealed_memfd, secrets, subject
from edge.errors import NativeError
from edge.model.diagnostics import ObjectRef
from edge.model.ordered import Step
from edge.model.types import (
    Certificate,
    Delay,
    Endpoint,
    Listener,
    PathType,
    Route,
    RouteKey,
    Transport,
    Upstream,
    UpstreamKey,
)
from edge.native import ImageReader, ffi, lib
from edge.snapshot.types import PlacedListener, PlacedRoute, PlacedUpstream, Slot, Snapshot

KEY = UpstreamKey("default", "web", "http")
TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def route(slot: int, host: str, path: str = "/") -> PlacedRoute:
    key = RouteKey("Ingress", "default", "web", host, "PREFIX", path)
    return PlacedRoute(
        Slot(slot, 1),
        slot,
        Route(key, host, path, PathType.PREFIX, ((KEY, 3),), (Delay(100),), service="web:http"),
    )


def certificate(digest: bytes, *names: str, default: bool = False) -> Certificate:
    ref = ObjectRef("Secret", "default", "tls")
    return Certificate(ref, digest, b"chain " + digest, b"key " + digest, names, default)


def snapshot(version: int, *endpoints: str, routes: tuple[PlacedRoute, ...] | None = None) -> Snapshot:
    return Snapshot(
        version=version,
        routes_digest=repr(routes).encode()[:32].ljust(32),
        endpoints_digest=" ".join(endpoints).encode()[:32].ljust(32),
        listeners=(
            PlacedListener(Slot(0, 1), Listener(ip_address("127.0.0.1"), 80, Transport.PLAIN, TRUSTED)),
            PlacedListener(Slot(1, 1), Listener(ip_address("::1"), 443, Transport.TLS)),
        ),
        routes=routes if routes is not None else (route(0, "a.example"), route(1, ".example")),
        upstreams={
            KEY: PlacedUpstream(
                Slot(4, 2), Upstream(KEY), tuple(Endpoint(ip_address(e), 8080, zone="z") for e in endpoints)
            )
        },
        certificates=(
            certificate(b"2" * 32, "a.example", default=True),
            certificate(b"1" * 32, "*.example"),
        ),
        policies=(),
        diagnostics=(),
    )


def test_everything_stands_in_the_image() -> None:
    reader = ImageReader(Tables().full(snapshot(9, "10.1.2.3", "fd00::1")))
    assert reader.header.version == 9
    plain, tls = reader.entries("LISTENER", "edge_image_listener")
    assert bytes(plain.address) == fragments.MAPPED + bytes([127, 0, 0, 1])
    assert (plain.port, plain.trusted_count, plain.sni_table) == (80, 2, 0)
    assert (tls.port, tls.trusted_count, tls.sni_table) == (443, 0, 1)
    assert [entry.bits for entry in reader.entries("PREFIX", "edge_image_prefix")] == [104, 8]
    (upstream,) = reader.entries("UPSTREAM", "edge_image_upstream")
    assert (upstream.slot, upstream.generation, upstream.endpoint_count) == (4, 2, 2)
    assert reader.text(upstream.name) == "default/web:http"
    endpoints = reader.entries("ENDPOINT", "edge_image_endpoint")
    assert bytes(endpoints[1].address) == ip_address("fd00::1").packed
    assert reader.text(endpoints[0].zone) == "z"
    assert [entry.weight for entry in reader.entries("REFERENCE", "edge_image_reference")] == [3]
    assert [entry.argument for entry in reader.entries("FILTER", "edge_image_filter")] == [100]
    names = {
        reader.text(entry.name): (entry.certificate, entry.wildcard)
        for entry in reader.entries("SNI_ENTRY", "edge_image_sni_entry")
        if entry.name.length
    }
    assert names == {"a.example": (0, 0), ".example": (1, 1)}
    assert {reader.route(i).slot for i in range(2)} == {0, 1}


def test_only_what_changed_is_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    real = fragments.route_fragment

    def counting(placed: PlacedRoute, slots: list[int]) -> bytes:
        encoded.append(placed.slot.index)
        return real(placed, slots)

    monkeypatch.setattr(tables.fragments, "route_fragment", counting)
    kept = Tables()
    first = snapshot(1, "10.0.0.1")
    kept.full(first)
    kept.full(snapshot(2, "10.0.0.1", routes=(first.routes[0], route(1, ".example", "/new"))))
    assert encoded == [0, 1, 1]


def test_cached_and_fresh_images_are_equal() -> None:
    kept = Tables()
    kept.full(snapshot(1, "10.0.0.1", "10.0.0.2"))
    later = snapshot(2, "10.0.0.2", routes=(route(1, "b.example"),))
    assert kept.full(later) == Tables().full(later)


def test_a_moved_upstream_slot_reaches_its_routes() -> None:
    kept = Tables()
    first = snapshot(1, "10.0.0.1")
    kept.full(first)
    moved = replace(first, version=2, upstreams={KEY: replace(first.upstreams[KEY], slot=Slot(6, 1))})
    reader = ImageReader(kept.full(moved))
    assert {entry.upstream_slot for entry in reader.entries("REFERENCE", "edge_image_reference")} == {6}


def test_patch_holds_endpoints_alone() -> None:
    kept = Tables()
    old, new = snapshot(1, "10.0.0.1"), snapshot(2, "10.0.0.2", "10.0.0.3")
    kept.full(old)
    patch = kept.patch(old, new)
    assert patch is not None
    reader = ImageReader(patch)
    assert (reader.header.kind, reader.header.base_version) == (lib.EDGE_IMAGE_PATCH, 1)
    assert len(reader.entries("ENDPOINT", "edge_image_endpoint")) == 2
    assert len(reader.entries("ROUTE", "edge_image_route")) == 0


def test_patch_does_not_grow_with_routes() -> None:
    many = tuple(route(i, f"h{i}.example") for i in range(300))
    old, new = snapshot(1, "10.0.0.1", routes=many), snapshot(2, "10.0.0.2", routes=many)
    few = Tables().patch(snapshot(1, "10.0.0.1"), snapshot(2, "10.0.0.2"))
    patch = Tables().patch(old, new)
    assert few is not None and patch is not None
    assert len(few) == len(patch)


def test_no_patch_when_routes_changed() -> None:
    old = snapshot(1, "10.0.0.1")
    assert Tables().patch(old, snapshot(2, "10.0.0.1", routes=(route(0, "b.example"),))) is None


def test_a_refusal_leads_to_its_object() -> None:
    wrong = snapshot(1, "10.0.0.1", routes=(route(0, "a.example"), route(1, "b.example", "no-slash")))
    with pytest.raises(NativeError) as caught:
        Tables().full(wrong)
    assert caught.value.field == "path"
    assert subject(wrong, caught.value.index) is wrong.routes[1].route


def test_secrets_hold_chains_and_keys() -> None:
    raw = secrets(snapshot(1))
    header = ffi.cast("struct edge_secrets_header *", ffi.from_buffer(raw))
    entries = ffi.cast("struct edge_secret *", header + 1)
    assert header.count == 2
    assert bytes(entries[0].digest) == b"1" * 32
    key = raw[entries[1].key_offset : entries[1].key_offset + entries[1].key_bytes]
    assert key == b"key " + b"2" * 32
    assert b"key" not in Tables().full(snapshot(1))


def test_no_certificates_are_valid_secrets() -> None:
    assert len(secrets(replace(snapshot(1), certificates=()))) == ffi.sizeof("struct edge_secrets_header")


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = sealed_memfd("test", b"content")
    yield descriptor
    os.close(descriptor)


def test_sealed_memory_cannot_change(memory: int) -> None:
    assert os.pread(memory, 100, 0) == b"content"
    assert not os.get_inheritable(memory)
    with pytest.raises(PermissionError):
        os.pwrite(memory, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(memory, 1)


OTHER = UpstreamKey("default", "other", "http")
STATES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 12), unique=True, max_size=12),  # routes
        st.integers(0, 3),  # of which form
        st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]), unique=True),
        st.integers(3, 5),  # slot of the upstream
        st.integers(0, 2),  # certificates
        st.booleans(),  # another upstream
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=50, deadline=None)
@given(STATES)
def test_whatever_came_before_the_image_is_that_of_new_tables(
    states: list[tuple[list[int], int, list[str], int, int, bool]],
) -> None:
    kept = Tables()
    for version, (numbers, form, endpoints, slot, certificates, another) in enumerate(states, 1):
        routes = tuple(ROUTES[number][form if number % 3 == 0 else 0] for number in numbers)
        made = snapshot(version, *endpoints, routes=routes)
        upstreams = {KEY: replace(made.upstreams[KEY], slot=Slot(slot, version))}
        if another:
            upstreams[OTHER] = PlacedUpstream(Slot(3 if slot != 3 else 4, 1), Upstream(OTHER), ())
        made = replace(made, upstreams=upstreams, certificates=made.certificates[:certificates])
        assert kept.full(made) == Tables().full(made)


ROUTES = [
    [route(number, f"h{number % 4}.example", f"/{number}/{form}") for form in range(4)]
    for number in range(13)
]


def test_after_a_refusal_the_next_image_is_whole() -> None:
    kept = Tables()
    kept.full(snapshot(1, "10.0.0.1"))
    with pytest.raises(NativeError):
        kept.full(snapshot(2, "10.0.0.1", routes=(route(0, "a.example", "no-slash"),)))
    later = snapshot(3, "10.0.0.2", routes=(route(0, "a.example"), route(2, "c.example")))
    assert kept.full(later) == Tables().full(later)


def test_after_any_failure_the_next_image_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Tables()
    kept.full(snapshot(1, "10.0.0.1"))
    later = snapshot(2, "10.0.0.2", routes=(route(0, "a.example"), route(2, "c.example")))

    def no_memory(*_: object) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(fragments, "route_fragment", no_memory)
        with pytest.raises(MemoryError):
            kept.full(later)
    assert kept.full(later) == Tables().full(later)


def test_a_steps_routes_are_all_that_is_looked_at() -> None:
    kept = Tables()
    first = snapshot(1, "10.0.0.1")
    kept.full(first)
    come = route(2, "c.example")
    routes = (first.routes[0], come)
    later = replace(first, version=2, routes=routes, step=Step(first.routes, first.routes[1:], (come,)))
    assert kept.full(later) == Tables().full(later)
