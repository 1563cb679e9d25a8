"""Snapshot to bytes for the data plane: a full image, an endpoint patch, the secrets, sealed memory.

Called by the controller's publishing and by `edge explain`. Each object is encoded once and kept by
its slot, so that one changed object costs its own size; what the values may be is C's check alone.
"""

from __future__ import annotations

import fcntl
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from edge.dataplane import fragments
from edge.errors import NativeError
from edge.model.ordered import alike
from edge.model.types import Certificate, Listener, Route, UpstreamKey
from edge.native import BuildOptions, build_image, check_secrets, ffi, lib
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


class _Row(Generic[Key]):
    """The fragments of a row of objects, joined. An unchanged one is the same object in the next row.

    What changed stands together as a rule (routes are in the order of their hosts): the bytes before it and
    behind it are taken over as they are.
    """

    def __init__(self) -> None:
        self._row: tuple[Key, ...] = ()
        self._sizes: array[int] = array("I")  # of each fragment in _joined
        self._joined = b""

    def of(self, row: tuple[Key, ...], encode: Callable[[Key], bytes]) -> bytes:
        old = self._row
        if row is not old:
            head, tail = alike(old, row)
            gone = slice(head, len(old) - tail)
            begin = place = sum(self._sizes[:head])
            known: dict[int, bytes] = {}
            for one, size in zip(old[gone], self._sizes[gone], strict=True):
                known[id(one)] = self._joined[place : place + size]
                place += size
            fresh = [known.get(id(one)) or encode(one) for one in row[head : len(row) - tail]]
            self._sizes[gone] = array("I", map(len, fresh))
            self._joined = b"".join((self._joined[:begin], *fresh, self._joined[place:]))
            self._row = row
        return self._joined


class Tables:
    """Encodes snapshots, remembering the fragments of the last one."""

    def __init__(self) -> None:
        self._listeners: _Cache[int] = _Cache()
        self._routes: _Row[PlacedRoute] = _Row()
        self._upstreams: _Row[PlacedUpstream] = _Row()
        self._slots: dict[UpstreamKey, int] = {}
        self._certificates: _Cache[bytes] = _Cache()

    def full(self, snapshot: Snapshot) -> bytes:
        """One whole image, checked.

        Errors: NativeError; its index counts like ``subjects``.
        """
        options = BuildOptions(
            version=snapshot.version,
            routes_digest=snapshot.routes_digest,
            endpoints_digest=snapshot.endpoints_digest,
        )
        image = build_image(b"".join(self._fragments(snapshot)), options)
        self._certificates.keep_only(certificate.digest for certificate in snapshot.certificates)
        return image

    def patch(self, old: Snapshot, new: Snapshot) -> bytes | None:
        """An image of the upstreams whose endpoints changed; None: more changed, send a full one.

        Errors: NativeError.
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
        parts: list[bytes] = []
        for key in change.upstreams:
            parts.append(self._upstream(new.upstreams[key]))
        return build_image(b"".join(parts), options)

    def _fragments(self, snapshot: Snapshot) -> Iterator[bytes]:
        for listener in snapshot.listeners:
            yield self._listener(listener)
        slots = {key: placed.slot.index for key, placed in snapshot.upstreams.items()}
        if any(slots.get(key, slot) != slot for key, slot in self._slots.items()):
            self._routes = _Row()  # slots were lost: routes name them
        self._slots = slots
        yield self._upstreams.of(tuple(snapshot.upstreams.values()), self._upstream)
        yield self._routes.of(snapshot.routes, lambda placed: self._route(placed, snapshot))
        for certificate in snapshot.certificates:
            yield self._certificate(certificate)

    def _listener(self, placed: PlacedListener) -> bytes:
        return self._listeners.get(placed.slot.index, placed, lambda: fragments.listener_fragment(placed))

    def _upstream(self, placed: PlacedUpstream) -> bytes:
        policy = fragments.upstream_fragment(placed.slot, placed.upstream)
        return policy + fragments.endpoints_fragment(placed)

    def _route(self, placed: PlacedRoute, snapshot: Snapshot) -> bytes:
        slots = [snapshot.upstreams[key].slot.index for key, _ in placed.route.references]
        return fragments.route_fragment(placed, slots)

    def _certificate(self, certificate: Certificate) -> bytes:
        return self._certificates.get(
            certificate.digest, certificate, lambda: fragments.certificate_fragment(certificate)
        )


def subjects(snapshot: Snapshot) -> list[Listener | PlacedUpstream | Route | Certificate]:
    """What each fragment of ``Tables.full`` was made from: a refusal's index points in here."""
    result: list[Listener | PlacedUpstream | Route | Certificate] = []
    result += [placed.listener for placed in snapshot.listeners]
    for placed in snapshot.upstreams.values():
        result += [placed, placed]
    result += [route.route for route in snapshot.routes]
    result += snapshot.certificates
    return result


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


def sealed_memfd(name: str, content: bytes) -> int:
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
