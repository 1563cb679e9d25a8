"""One object of a Snapshot to one fragment: the bytes that edge_image_build() takes.

Called by tables.py alone, once for each object that changed. Every struct comes from edge.h through
edge.native: there is no layout here. All routes and certificates are in domain 0 in this version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge.model.matches import FieldMatch, effective
from edge.model.types import Address, Certificate, Endpoint, Network, Upstream
from edge.native import ffi, lib
from edge.snapshot.types import PlacedListener, PlacedRoute, PlacedUpstream, Slot

MAPPED = bytes(10) + b"\xff\xff"


def address_bytes(address: Address) -> bytes:
    """16 bytes; IPv4 as ::ffff:a.b.c.d."""
    return address.packed if address.version == 6 else MAPPED + address.packed


class _Fragment:
    """A struct with its arrays and texts behind it."""

    def __init__(self, struct: str, kind: int) -> None:
        self.struct = ffi.new(f"struct {struct} *")
        self.struct.head.kind = kind
        self._tail = bytearray(-ffi.sizeof(self.struct[0]) % 8)
        self._base: int = ffi.sizeof(self.struct[0])

    def text(self, target: Any, text: str) -> None:
        """Put a text behind the struct, and its place into a ``struct edge_text``."""
        raw = text.encode()
        target.offset, target.length = self._base + len(self._tail), len(raw)
        self._tail += raw

    def array(self, entries: Any) -> int:
        """Put a cffi array behind the struct; its offset."""
        self._tail += bytes(-(self._base + len(self._tail)) % 8)
        offset: int = self._base + len(self._tail)
        self._tail += ffi.buffer(entries)
        return offset

    def later(self, entries: Any, offset: int) -> None:
        """Write an array again, whose texts were placed after it."""
        raw = ffi.buffer(entries)
        start = offset - self._base
        self._tail[start : start + len(raw)] = raw

    def finish(self) -> bytes:
        """The fragment's bytes."""
        self._tail += bytes(-(self._base + len(self._tail)) % 8)
        self.struct.head.bytes = self._base + len(self._tail)
        return bytes(ffi.buffer(self.struct)) + bytes(self._tail)


def listener_fragment(placed: PlacedListener) -> bytes:
    """A served address and whose forwarded headers it believes."""
    fragment = _Fragment("edge_fragment_listener", lib.EDGE_FRAGMENT_LISTENER)
    listener, out = placed.listener, fragment.struct.listener
    out.slot, out.generation = placed.slot.index, placed.slot.generation
    out.address = address_bytes(listener.address)
    out.port, out.transport = listener.port, listener.transport.value
    out.head_bytes_max, out.target_bytes_max = listener.head_bytes_max, listener.target_bytes_max
    out.idle_ms, out.head_ms = listener.idle_ms, listener.head_ms
    out.trusted_count = len(listener.trusted_proxies)
    prefixes = ffi.new("struct edge_image_prefix[]", len(listener.trusted_proxies))
    for entry, network in zip(prefixes, listener.trusted_proxies, strict=True):
        entry.address, entry.bits = _prefix(network)
    fragment.struct.trusted_offset = fragment.array(prefixes)
    return fragment.finish()


def _prefix(network: Network) -> tuple[bytes, int]:
    bits = network.prefixlen + (96 if network.version == 4 else 0)
    return address_bytes(network.network_address), bits


def route_fragment(placed: PlacedRoute, slots: Sequence[int]) -> bytes:
    """A route; ``slots`` are those of its upstreams, in the order of its references."""
    fragment = _Fragment("edge_fragment_route", lib.EDGE_FRAGMENT_ROUTE)
    route, given = placed.route, fragment.struct
    out = given.route
    out.slot, out.generation = placed.slot.index, placed.slot.generation
    out.precedence, out.path_type = placed.precedence, route.path_type.value
    out.flags = lib.EDGE_ROUTE_REDIRECT_HTTPS if route.redirect_https else 0
    out.body_bytes_max = route.body_bytes_max
    out.rule_index, out.path_index = route.rule_index, route.path_index
    matches = route.matches
    if route.host.startswith("."):
        given.wildcard = lib.EDGE_WILDCARD_SUFFIX if matches.any_depth else lib.EDGE_WILDCARD_LABEL
    given.fall_through = matches.fall_through
    out.created_s = matches.created
    out.not_before_s, out.not_after_s = matches.not_before, matches.not_after
    if matches.fields:
        _put_fields(fragment, matches.fields)
    out.filter_count, out.reference_count = len(route.filters), len(route.references)
    filters = ffi.new("struct edge_image_filter[]", len(route.filters))
    for entry, delay in zip(filters, route.filters, strict=True):
        entry.kind, entry.argument = lib.EDGE_FILTER_DELAY, delay.milliseconds
    references = ffi.new("struct edge_image_reference[]", len(slots))
    for entry, slot, (_, weight) in zip(references, slots, route.references, strict=True):
        entry.upstream_slot, entry.weight = slot, weight
    given.filters_offset = fragment.array(filters)
    given.references_offset = fragment.array(references)
    fragment.text(given.host, route.host)
    fragment.text(out.path, route.path)
    fragment.text(out.kind, route.key.kind)
    fragment.text(out.object_namespace, route.key.namespace)
    fragment.text(out.object_name, route.key.name)
    fragment.text(out.path_written, route.path_written)
    fragment.text(out.service, route.service)
    return fragment.finish()


def _put_fields(fragment: _Fragment, given: Sequence[FieldMatch]) -> None:
    fields = effective(tuple(given))
    entries = ffi.new("struct edge_image_field_match[]", len(fields))
    fragment.struct.route.field_match_count = len(fields)
    offset = fragment.struct.fields_offset = fragment.array(entries)
    for entry, field in zip(entries, fields, strict=True):
        entry.target = field.target.value
        entry.type = lib.EDGE_FIELD_REGEX if field.regex else lib.EDGE_FIELD_EXACT
        fragment.text(entry.name, field.name)
        fragment.text(entry.value, field.value)
    fragment.later(entries, offset)


def upstream_fragment(slot: Slot, upstream: Upstream) -> bytes:
    """An upstream without its endpoints."""
    fragment = _Fragment("edge_fragment_upstream", lib.EDGE_FRAGMENT_UPSTREAM)
    out = fragment.struct.upstream
    out.slot, out.generation = slot.index, slot.generation
    out.protocol, out.balance = lib.EDGE_PROTOCOL_HTTP1, lib.EDGE_BALANCE_ROUND_ROBIN
    out.connect_ms, out.read_ms = upstream.connect_ms, upstream.read_ms
    out.send_ms, out.idle_ms = upstream.send_ms, upstream.idle_ms
    key = upstream.key
    fragment.text(out.name, f"{key.namespace}/{key.service}:{key.port}")
    return fragment.finish()


def endpoints_fragment(placed: PlacedUpstream) -> bytes:
    """The endpoints of an upstream."""
    fragment = _Fragment("edge_fragment_endpoints", lib.EDGE_FRAGMENT_ENDPOINTS)
    endpoints: Sequence[Endpoint] = placed.endpoints
    fragment.struct.upstream_slot = placed.slot.index
    fragment.struct.endpoint_count = len(endpoints)
    entries = ffi.new("struct edge_image_endpoint[]", len(endpoints))
    offset = fragment.struct.endpoints_offset = fragment.array(entries)
    for entry, endpoint in zip(entries, endpoints, strict=True):
        entry.address = address_bytes(endpoint.address)
        entry.port, entry.state = endpoint.port, endpoint.state.value
        fragment.text(entry.zone, endpoint.zone)
    fragment.later(entries, offset)
    return fragment.finish()


def certificate_fragment(certificate: Certificate) -> bytes:
    """The names of a certificate and its digest, or names to reject; never a key."""
    fragment = _Fragment("edge_fragment_certificate", lib.EDGE_FRAGMENT_CERTIFICATE)
    names = [name.lower().removeprefix("*") for name in certificate.names if name]
    if certificate.withheld:
        fragment.struct.role = lib.EDGE_CERTIFICATE_REJECT
    else:
        fragment.struct.role = (
            lib.EDGE_CERTIFICATE_DEFAULT if certificate.is_default else lib.EDGE_CERTIFICATE_NAMED
        )
        fragment.struct.certificate.digest = certificate.digest
    fragment.struct.names_count = len(names)
    entries = ffi.new("struct edge_text[]", len(names))
    offset = fragment.struct.names_offset = fragment.array(entries)
    for entry, name in zip(entries, names, strict=True):
        fragment.text(entry, name)
    fragment.later(entries, offset)
    return fragment.finish()
