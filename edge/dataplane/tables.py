"""Snapshot to bytes for the data plane: a full image, an endpoint patch, the secrets, sealed memory.

Called by the controller's publishing and by `edge explain`. Each object is encoded once and kept by the
builder, so that one changed object costs its own size; what the values may be is C's check alone.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from edge.dataplane import fragments
from edge.errors import NativeError
from edge.model.ordered import Step, alike
from edge.model.types import Certificate, Listener, Route
from edge.native import BuildOptions, ImageBuilder, check_secrets, ffi, lib, place_of
from edge.snapshot.diff import ChangeKind, compare
from edge.snapshot.types import PlacedListener, PlacedRoute, PlacedUpstream, Snapshot

Key = TypeVar("Key")


class _Cache(Generic[Key]):
    """The fragment of what stood last under a key, valid as long as the same stands there."""

    def __init__(self) -> None:
        self._kept: dict[Key, tuple[Any, bytes]] = {}

    def get(self, key: Key, subject: Any, encode: Callable[[], bytes]) -> bytes:
        kept = self._kept.get(key)
        if kept is not None and kept[0] == subject:
            return kept[1]
        fragment = encode()
        self._kept[key] = (subject, fragment)
        return fragment

    def keep_only(self, keys: Iterable[Key]) -> None:
        for key in self._kept.keys() - set(keys):
            del self._kept[key]


class Tables:
    """Encodes snapshots. What is in the builder is kept in mind as the rows that were put there last."""

    def __init__(self) -> None:
        self._certificate_fragments: _Cache[bytes] = _Cache()
        self._start()

    def _start(self) -> None:
        self._builder: ImageBuilder | None = None
        self._listeners: tuple[PlacedListener, ...] = ()
        self._routes: tuple[PlacedRoute, ...] = ()
        self._upstreams: tuple[PlacedUpstream, ...] = ()
        self._certificates: tuple[Certificate, ...] = ()

    def full(self, snapshot: Snapshot) -> bytes:
        """One whole image, checked.

        Errors: NativeError; its index is what `subject` takes.
        """
        return bytes(self._full(snapshot))

    def full_memory(self, snapshot: Snapshot) -> tuple[int, int]:
        """Shape: the same as a sealed memory file, which is the caller's to close, and its size."""
        image = self._full(snapshot)
        return sealed_memfd("edge-image", image), len(image)

    def _full(self, snapshot: Snapshot) -> memoryview:
        options = BuildOptions(
            version=snapshot.version,
            routes_digest=snapshot.routes_digest,
            endpoints_digest=snapshot.endpoints_digest,
        )
        try:
            if self._builder is None:
                self._builder = ImageBuilder()
            self._bring(self._builder, snapshot)
            return self._builder.image(options)
        except BaseException:  # whatever it was, what the builder holds is not what we note
            self._start()
            raise

    def patch(self, old: Snapshot, new: Snapshot) -> bytes | None:
        """An image of the upstreams whose endpoints changed; None: more changed, send a full one.

        Errors: NativeError; its index is what `subject` takes.
        """
        change = compare(old, new)
        if change.kind is ChangeKind.FULL or old.listeners != new.listeners:
            return None
        options = BuildOptions(
            version=new.version,
            base_version=old.version,
            routes_digest=new.routes_digest,
            endpoints_digest=new.endpoints_digest,
            patch=True,
        )
        builder = ImageBuilder()
        builder.put(b"".join(_upstream(new.upstreams[key]) for key in change.upstreams))
        return bytes(builder.image(options))

    # ---- what changed ----------------------------------------------------------------------

    def _bring(self, builder: ImageBuilder, snapshot: Snapshot) -> None:
        """Make what the builder holds this snapshot. After an error it holds nobody knows what."""
        if snapshot.listeners != self._listeners:
            builder.drop(lib.EDGE_FRAGMENT_LISTENER)
            builder.put(b"".join(map(fragments.listener_fragment, snapshot.listeners)))
            self._listeners = snapshot.listeners
        if self._bring_upstreams(builder, tuple(snapshot.upstreams.values())):
            for placed in self._routes:  # slots were lost: routes name them
                builder.drop(lib.EDGE_FRAGMENT_ROUTE, placed.slot.index)
            self._routes = ()
        gone, come = _difference(self._routes, snapshot.routes, snapshot.step)
        for placed in gone:
            builder.drop(lib.EDGE_FRAGMENT_ROUTE, placed.slot.index)
        builder.put(b"".join([_route(placed, snapshot) for placed in come]))
        self._routes = snapshot.routes
        if snapshot.certificates != self._certificates:
            builder.drop(lib.EDGE_FRAGMENT_CERTIFICATE)
            builder.put(b"".join(map(self._certificate, snapshot.certificates)))
            self._certificate_fragments.keep_only(one.digest for one in snapshot.certificates)
            self._certificates = snapshot.certificates

    def _bring_upstreams(self, builder: ImageBuilder, row: tuple[PlacedUpstream, ...]) -> bool:
        """Shape: whether one stands in another slot than before."""
        head, tail = alike(self._upstreams, row)
        gone = {one.upstream.key: one for one in self._upstreams[head : len(self._upstreams) - tail]}
        come = {one.upstream.key: one for one in row[head : len(row) - tail]}
        moved = False
        for key, old in gone.items():
            new = come.get(key)
            if new is old:
                continue
            builder.drop(lib.EDGE_FRAGMENT_ENDPOINTS, old.slot.index)
            if new is None or new.slot != old.slot or new.upstream != old.upstream:
                builder.drop(lib.EDGE_FRAGMENT_UPSTREAM, old.slot.index)
            moved |= new is not None and new.slot.index != old.slot.index
        parts: list[bytes] = []
        for key, new in come.items():
            before = gone.get(key)
            if before is new:
                continue
            if before is None or new.slot != before.slot or new.upstream != before.upstream:
                parts.append(fragments.upstream_fragment(new.slot, new.upstream))
            parts.append(fragments.endpoints_fragment(new))
        builder.put(b"".join(parts))
        self._upstreams = row
        return moved

    def _certificate(self, certificate: Certificate) -> bytes:
        return self._certificate_fragments.get(
            certificate.digest, certificate, lambda: fragments.certificate_fragment(certificate)
        )


def _difference(
    old: tuple[PlacedRoute, ...], new: tuple[PlacedRoute, ...], step: Step[PlacedRoute] | None
) -> tuple[Iterable[PlacedRoute], Iterable[PlacedRoute]]:
    """Shape: the routes that are gone, and those that came. One that did not change is the same object."""
    if old is new:
        return (), ()
    if step is not None and step.before is old:
        return step.removed, step.added
    before, after = set(map(id, old)), set(map(id, new))
    return [one for one in old if id(one) not in after], [one for one in new if id(one) not in before]


def _upstream(placed: PlacedUpstream) -> bytes:
    policy = fragments.upstream_fragment(placed.slot, placed.upstream)
    return policy + fragments.endpoints_fragment(placed)


def _route(placed: PlacedRoute, snapshot: Snapshot) -> bytes:
    slots = [snapshot.upstreams[key].slot.index for key, _ in placed.route.references]
    return fragments.route_fragment(placed, slots)


def subject(snapshot: Snapshot, number: int) -> Listener | PlacedUpstream | Route | Certificate | None:
    """Find what the fragment was made from that a refusal's index names."""
    kind, slot = place_of(number)
    if kind == lib.EDGE_FRAGMENT_ROUTE:
        return next((one.route for one in snapshot.routes if one.slot.index == slot), None)
    if kind in (lib.EDGE_FRAGMENT_UPSTREAM, lib.EDGE_FRAGMENT_ENDPOINTS):
        return next((one for one in snapshot.upstreams.values() if one.slot.index == slot), None)
    if kind == lib.EDGE_FRAGMENT_LISTENER and slot < len(snapshot.listeners):
        return snapshot.listeners[slot].listener
    if kind == lib.EDGE_FRAGMENT_CERTIFICATE and slot < len(snapshot.certificates):
        return snapshot.certificates[slot]
    return None


def secrets(snapshot: Snapshot) -> bytes:
    """Chains and keys of all certificates, sorted by digest; layout in edge.h, section 6.

    Errors: NativeError.
    """
    unique = {one.digest: one for one in snapshot.certificates if not one.withheld}
    ordered = [unique[digest] for digest in sorted(unique)]
    header = ffi.new("struct edge_secrets_header *")
    entries = ffi.new("struct edge_secret[]", len(ordered))
    texts = bytearray()
    first = ffi.sizeof("struct edge_secrets_header") + ffi.sizeof(entries)
    for entry, certificate in zip(entries, ordered, strict=True):
        entry.digest = certificate.digest
        entry.chain_offset = first + len(texts)
        entry.chain_bytes = len(certificate.chain_pem)
        texts += certificate.chain_pem
        entry.key_offset = first + len(texts)
        entry.key_bytes = len(certificate.key_pem)
        texts += certificate.key_pem
    header.magic = lib.EDGE_SECRETS_MAGIC
    header.count = len(ordered)
    header.total_bytes = first + len(texts)
    result = bytes(ffi.buffer(header)) + bytes(ffi.buffer(entries)) + bytes(texts)
    check_secrets(result)
    return result


def read_secrets(secrets: bytes) -> dict[bytes, bytes]:
    """Shape: each chain with its key, of what ``secrets`` made. Errors: NativeError."""
    check_secrets(secrets)
    count = ffi.from_buffer("struct edge_secrets_header *", secrets).count
    first = ffi.sizeof("struct edge_secrets_header")
    found = {}
    for entry in ffi.from_buffer("struct edge_secret[]", memoryview(secrets)[first:])[0:count]:
        chain = secrets[entry.chain_offset : entry.chain_offset + entry.chain_bytes]
        found[chain] = secrets[entry.key_offset : entry.key_offset + entry.key_bytes]
    return found


def sealed_memfd(name: str, content: bytes | memoryview) -> int:
    """A memory file that nobody can change any more; the descriptor is the caller's to close.

    Errors: NativeError when there is no memory for it.
    """
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except OSError as error:
        os.close(descriptor)
        raise NativeError(f"memory file {name}", lib.EDGE_ERR_SYSTEM, reason=str(error)) from error
    return descriptor
