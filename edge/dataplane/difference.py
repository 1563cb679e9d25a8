"""Which requests get another answer from one image than from another.

Called by `edge explain --diff`. Every request falls into a region of hosts and paths within which one image
answers the same; a request is made for each region of either image, and both matchers are asked. Routes with
conditions on headers, queries or methods are asked about without and with what they want.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from edge.dataplane.answer import outcomes, upstream_endpoints
from edge.model.types import PathType, Transport
from edge.native import ImageReader, Request, lib, match_requests

OTHER = "other-host.invalid"  # stands for every host that nobody names
LABEL = "any-label"
SEGMENT = "any-segment"
_Conditions = tuple[str, tuple[tuple[str, str], ...], str]  # method, headers, query


class _Image:
    """Hosts and paths of one image."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        self.reader = ImageReader(image)
        self.listeners = {
            one.transport: place
            for place, one in reversed(
                list(enumerate(self.reader.entries("LISTENER", "edge_image_listener")))
            )
        }

    def routes(self) -> Iterator[tuple[str, int, str, _Conditions]]:
        """Shape: host ("" any, ".x.org" a wildcard), path type, path, what it wants beside them."""
        reader = self.reader
        indices = reader.entries("PATH_INDEX", "edge_image_path_index")
        for entry in self._host_entries():
            host = reader.text_at(entry.name_offset, entry.name_length)
            index = indices[entry.path_index]
            for place in range(entry.first_route, entry.first_route + index.route_count):
                row = reader.entry("ROUTE", "edge_image_route", place)
                yield host, row.path_type, reader.text(row.path), self._conditions(row)

    def _host_entries(self) -> Iterator[Any]:
        entries = self.reader.entries("HOST_ENTRY", "edge_image_host_entry")
        for table in self.reader.entries("HOST_TABLE", "edge_image_table"):
            buckets = entries[table.first_entry : table.first_entry + table.mask + 1]
            yield from (entry for entry in buckets if entry.name_length)
            if table.fallback:
                yield entries[table.fallback - 1]  # any host

    def _conditions(self, row: Any) -> _Conditions:
        method, headers, query = "GET", [], []
        if row.condition:
            condition = self.reader.entry("CONDITION", "edge_image_condition", row.condition - 1)
            for place in range(
                condition.first_field_match, condition.first_field_match + condition.field_match_count
            ):
                one = self.reader.entry("FIELD_MATCH", "edge_image_field_match", place)
                name, value = self.reader.text(one.name), self.reader.text(one.value)
                if one.type == lib.EDGE_FIELD_REGEX:
                    continue
                if one.target == lib.EDGE_FIELD_METHOD:
                    method = value
                elif one.target == lib.EDGE_FIELD_HEADER:
                    headers.append((name, value))
                else:
                    query.append(f"{name}={value}")
        return method, tuple(headers), "&".join(query)


def difference(old: bytes, new: bytes) -> list[dict[str, str]]:
    """Compare two images. Shape: rows of request, old, new, by request; of listeners that both have."""
    images = (_Image(old), _Image(new))
    asked = list(_requests(images))
    rows: dict[tuple[str, str, str], list[str]] = {}
    for transport, scheme in ((Transport.PLAIN, "http"), (Transport.TLS, "https")):
        if any(transport.value not in image.listeners for image in images):
            continue
        answers = [_answers(image, image.listeners[transport.value], asked, scheme) for image in images]
        for request, before, after in zip(asked, *answers, strict=True):
            if before != after:
                rows.setdefault((_shown(request), before, after), []).append(scheme)
    return [
        {"request": shown.replace("://", f"{' or '.join(schemes)}://", 1), "old": before, "new": after}
        for (shown, before, after), schemes in sorted(rows.items())
    ]


def endpoint_differences(old: bytes, new: bytes) -> list[dict[str, str]]:
    """Upstreams of both images whose endpoints differ. Shape: rows of upstream, old, new, by name."""
    before, after = (upstream_endpoints(image) for image in (old, new))
    return [
        {"upstream": name, "old": ", ".join(before[name]) or "none", "new": ", ".join(after[name]) or "none"}
        for name in sorted(before.keys() & after.keys())
        if before[name] != after[name]
    ]


def _answers(image: _Image, listener: int, asked: list[Request], scheme: str) -> list[str]:
    routes = match_requests(image.image, listener, asked)
    words = outcomes(image.image, {index for index in routes if index >= 0}, scheme == "https")
    return ["; ".join(words[index]) if index >= 0 else "404: no route" for index in routes]


def _requests(images: Iterable[_Image]) -> Iterator[Request]:
    """One request for each region that routes of the images make."""
    paths: dict[str, dict[str, None]] = {"": {}}
    wanted: dict[tuple[str, str], dict[_Conditions, None]] = {}
    for image in images:
        for host, kind, path, conditions in image.routes():
            for one in _probes(kind, path):
                paths.setdefault(host, {})[one] = None
                wanted.setdefault((host, one), {})[conditions] = None
    for host in sorted(paths):
        name = OTHER if not host else f"{LABEL}{host}" if host.startswith(".") else host
        for path in sorted({*paths[host], "/", f"/{SEGMENT}"}):
            plain: _Conditions = ("GET", (), "")
            for method, headers, query in {plain: None, **wanted.get((host, path), {})}:
                yield Request(name, path, method, query, headers)


def _probes(kind: int, path: str) -> Iterator[str]:
    if kind == lib.EDGE_PATH_REGEX:
        return  # no request can be made of an expression
    yield path
    if kind == PathType.PREFIX.value:
        yield f"{path.rstrip('/')}/{SEGMENT}"
    elif kind == PathType.STRING_PREFIX.value:
        yield f"{path}{SEGMENT}"


def _shown(request: Request) -> str:
    host = request.host.replace(LABEL, "*", 1) if request.host.startswith(LABEL) else request.host
    host = "(any other host)" if request.host == OTHER else host
    query = f"?{request.query}" if request.query else ""
    path = request.path.replace(SEGMENT, "*")
    fields = "".join(f" [{name}: {value}]" for name, value in request.headers)
    return f"{request.method} ://{host}{path}{query}{fields}"
