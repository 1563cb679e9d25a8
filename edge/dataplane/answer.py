"""What a request gets from an image: action, route, upstreams, and why no other route, as JSON values.

Called by `edge explain` (on an image of a folder, or one that was recorded) and by the admin API (on the
running one). The workers' own matcher decides; this file puts words to it and never guesses.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Any

from edge.dataplane.explain import ImageCandidate, explain_image
from edge.dataplane.fragments import MAPPED
from edge.model.precedence import DEFAULT, STRING_PREFIX
from edge.model.types import EndpointState, PathType, Transport
from edge.native import ImageReader, Request, lib

_WORDS = {
    PathType.EXACT.value: "Exact",
    PathType.PREFIX.value: "Prefix",
    PathType.STRING_PREFIX.value: STRING_PREFIX,
    lib.EDGE_PATH_REGEX: "RegularExpression",
}


def listener_slot(image: bytes, tls: bool, port: int | None = None) -> int | None:
    """Find the listener that a URL means: of its scheme, and of its port where one has that."""
    reader = ImageReader(image)
    wanted = (Transport.TLS if tls else Transport.PLAIN).value
    found = [one for one in reader.entries("LISTENER", "edge_image_listener") if one.transport == wanted]
    of_port = [one for one in found if one.port == port]
    return int((of_port or found)[0].slot) if found else None


def answer(image: bytes, slot: int, request: Request) -> dict[str, Any]:
    """Say what a request gets from a listener.

    Shape: see README, `edge explain --json`; ``action`` is what the proxy would do.
    Errors: NativeError for a request that no client can send.
    """
    reader = ImageReader(image)
    found = explain_image(image, slot, request)
    listener = next(one for one in reader.entries("LISTENER", "edge_image_listener") if one.slot == slot)
    tls = listener.transport == Transport.TLS.value
    result: dict[str, Any] = {
        "request": {
            "method": request.method,
            "scheme": "https" if tls else "http",
            "host": request.host,
            "path": request.path,
            "query": request.query,
            "headers": [list(pair) for pair in request.headers],
        },
        "version": int(reader.header.version),
        "action": "404: no route",
        "route": None,
        "upstreams": [],
    }
    if request.now:
        result["at"] = _moment(request.now)
    hosts = {one.row.index: one.host for one in found.candidates}
    winner: dict[str, Any] | None = None
    if found.winner is not None:
        winner = _route(reader, found.winner.index, hosts.get(found.winner.index, ""))
        result |= _outcome(reader, _upstream_rows(reader), found.winner.index, tls)
        result["route"] = winner | {"why": _why_won(winner)}
    result["candidates"] = [
        _route(reader, one.row.index, one.host)
        | {"verdict": one.verdict, "reason": _why(reader, one, winner, request)}
        for one in found.candidates
        if found.winner is None or one.row.index != found.winner.index
    ]
    return result


def outcomes(image: bytes, routes: Iterable[int], tls: bool) -> dict[int, tuple[str, ...]]:
    """What each of these routes does with a request, to be compared between two images.

    Shape: by index; without the object that says so, which no client sees.
    """
    reader = ImageReader(image)
    rows = _upstream_rows(reader)
    result = {}
    for index in routes:
        found = _outcome(reader, rows, index, tls)
        upstreams = [(one["name"], one["weight"], one["times"]) for one in found["upstreams"]]
        result[index] = (
            found["action"],
            *(f"{name} weight {weight} {times}" for name, weight, times in upstreams),
            *found["filters"],
            f"bodies up to {found['body_bytes_max']} bytes"
            if found["body_bytes_max"]
            else "bodies of any size",
        )
    return result


def upstream_endpoints(image: bytes) -> dict[str, list[str]]:
    """Shape: by the upstream's name, each as ADDR:PORT state."""
    reader = ImageReader(image)
    return {
        reader.text(row.name): [
            f"{one['address']}:{one['port']} {one['state']}" for one in _endpoints(reader, row)
        ]
        for row in _upstream_rows(reader).values()
    }


def _upstream_rows(reader: ImageReader) -> dict[int, Any]:
    """Shape: by slot."""
    return {one.slot: one for one in reader.entries("UPSTREAM", "edge_image_upstream")}


def _outcome(reader: ImageReader, rows: dict[int, Any], index: int, tls: bool) -> dict[str, Any]:
    """What a route does: action, filters, limit, upstreams with their endpoints."""
    action = reader.entry(
        "ACTION", "edge_image_action", reader.entry("ROUTE", "edge_image_route", index).action
    )
    upstreams = []
    for place in range(action.first_reference, action.first_reference + action.reference_count):
        reference = reader.entry("REFERENCE", "edge_image_reference", place)
        upstream = rows.get(reference.upstream_slot)
        if upstream is not None:
            upstreams.append(_upstream(reader, upstream, reference.weight))
    ready = any(
        endpoint["state"] == "ready" for one in upstreams if one["weight"] for endpoint in one["endpoints"]
    )
    word = "forward" if ready else "503: no ready endpoint"
    if not upstreams:
        word = "503: leads nowhere"
    if action.flags & lib.EDGE_ROUTE_REDIRECT_HTTPS and not tls:
        word = "308: to https"
    filters = [
        reader.entry("FILTER", "edge_image_filter", place)
        for place in range(action.first_filter, action.first_filter + action.filter_count)
    ]
    return {
        "action": word,
        "filters": [f"delay {one.argument} ms" for one in filters],
        "body_bytes_max": int(action.body_bytes_max),
        "upstreams": upstreams,
    }


def _upstream(reader: ImageReader, row: Any, weight: int) -> dict[str, Any]:
    return {
        "name": reader.text(row.name),
        "weight": int(weight),
        "times": f"connect {row.connect_ms} ms, read {row.read_ms} ms, send {row.send_ms} ms",
        "endpoints": list(_endpoints(reader, row)),
    }


def _endpoints(reader: ImageReader, row: Any) -> Iterator[dict[str, Any]]:
    for place in range(row.first_endpoint, row.first_endpoint + row.endpoint_count):
        one = reader.entry("ENDPOINT", "edge_image_endpoint", place)
        raw = bytes(one.address)
        yield {
            "address": str(ip_address(raw[12:] if raw.startswith(MAPPED) else raw)),
            "port": int(one.port),
            "zone": reader.text(one.zone),
            "state": EndpointState(one.state).name.lower(),
        }


def _route(reader: ImageReader, index: int, host: str) -> dict[str, Any]:
    row = reader.entry("ROUTE", "edge_image_route", index)
    words = reader.route(index)
    is_default = words.precedence >> 40 == 2
    field = f"spec.rules[{row.rule_index}].http.paths[{row.path_index}]"
    if is_default:
        field = "spec.defaultBackend" if words.kind == "Ingress" else ""
    return {
        "object": "/".join(part for part in (words.kind, words.namespace, words.name) if part),
        "field": field,
        "host": host or "*",
        "path_type": DEFAULT if is_default else _WORDS.get(row.path_type, "?"),
        "path": reader.text(row.path_written),
        "service": f"{words.namespace}/{words.service}" if words.service else "none",
    }


# ---- why -----------------------------------------------------------------------------------


def _why_won(route: dict[str, Any]) -> str:
    kind = {
        "Exact": "its path is equal",
        "Prefix": "its path is the longest prefix, by elements",
        STRING_PREFIX: "its path is the longest prefix, as text",
        DEFAULT: "it is the default backend, and no path of the host matches",
    }.get(route["path_type"], "its expression matches")
    if route["host"] == "*":
        return f"no rule names this host, or none of its paths matches, and {kind}"
    if route["host"].startswith("*"):
        return f"{route['host']} covers the host, which no rule names itself, and {kind}"
    return f"the host is equal, and {kind}"


def _why(reader: ImageReader, one: ImageCandidate, winner: dict[str, Any] | None, request: Request) -> str:
    """Shape: a sentence that says why this route did not get the request."""
    route = _route(reader, one.row.index, one.host)
    if one.verdict == "path":
        path = f"{route['path_type']} {route['path']}"
        if route["path_type"] == "Prefix" and request.path.startswith(route["path"].rstrip("/")):
            return f"{path} ends within an element of {request.path}"
        return f"{path} does not match {request.path}"
    if one.verdict == "field" and one.field is not None:
        what = f"{one.field.target.name.lower()} {one.field.name}".strip()
        how = "does not match" if one.field.regex else "is not"
        return f"{what} {how} {one.field.value!r}"
    if one.verdict == "time":
        return _when(reader, one.row.index, request.now or int(time.time()))
    if winner is None:
        return "does not match"
    if route["host"] != winner["host"]:
        return f"matches, but {winner['host']} is the more specific host, and it decides alone"
    if route["path_type"] == DEFAULT:
        return "matches, but is the default backend: it takes what no rule of its host takes"
    if winner["path_type"] == "Exact" and route["path_type"] != "Exact":
        return "matches, but Exact goes before every prefix"
    if len(route["path"].rstrip("/")) < len(winner["path"].rstrip("/")):
        return f"matches, but {winner['path']} is longer"
    return "matches, but stands behind: elements go before text, then the older object"


def _when(reader: ImageReader, index: int, now: int) -> str:
    row = reader.entry("ROUTE", "edge_image_route", index)
    condition = reader.entry("CONDITION", "edge_image_condition", row.condition - 1)
    if condition.not_before_s and now < condition.not_before_s:
        return f"is not valid before {_moment(condition.not_before_s)}"
    return f"is not valid after {_moment(condition.not_after_s)}"


def _moment(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
