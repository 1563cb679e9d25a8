"""`edge explain METHOD URL --config DIR`: which route would take a request, and why no other.

Called by edge/cli/main.py. Asks the workers' own matcher in C (through edge/dataplane) on an image
that is built of the folder and sent nowhere. Exit status: 0 a route took it, 1 none did (404) or the
request cannot be matched, 2 the folder cannot be read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import typer

from edge.cli.folder import PLAIN, TLS, read_folder
from edge.errors import NativeError, SourceError
from edge.model.types import EndpointState, Route, Upstream
from edge.options import Options
from edge.snapshot.compile import compile_snapshot
from edge.snapshot.slots import SlotTables
from edge.snapshot.types import PlacedRoute, Snapshot

_REASONS = {
    "won": "takes the request",
    "shadowed": "matches too, but stands behind the winner: Exact before Prefix, then the longer path",
    "path": "its path does not match",
    "field": "a header, query or method does not match",
    "time": "is not valid now",
}


@dataclass(frozen=True, slots=True)
class _Request:
    """What a request line and Host field would say."""

    method: str
    listener: int
    host: str
    path: str


def explain_request(method: str, url: str, options: Options, as_json: bool = False) -> int:
    """Say which route would take a request, from which object, and why the others do not.

    Shape: the exit status.
    """
    # The compiled module is needed here and by no other command that runs without a set-up machine.
    from edge.dataplane.explain import explain as match

    request = _request(method, url)
    if not options.config:
        typer.echo("edge explain: --config DIR is missing", err=True)
        return 2
    if request is None:
        typer.echo(f"edge explain: {url!r} is no http:// or https:// URL with a host", err=True)
        return 1
    try:
        found = read_folder(Path(options.config), options)
        snapshot = compile_snapshot(found.model, SlotTables(), 1)
        matched = match(snapshot, request.listener, request.host, request.path)
    except SourceError as error:
        typer.echo(f"edge explain: {error}", err=True)
        return 2
    except NativeError as error:
        typer.echo(f"edge explain: {error}", err=True)
        return 1
    candidates = [(entry.placed, entry.verdict) for entry in matched.candidates]
    if matched.winner is not None and all(placed != matched.winner for placed, _ in candidates):
        candidates.append((matched.winner, "won"))
    plain = _plain(snapshot, request, matched.winner, candidates)
    if as_json:
        typer.echo(json.dumps(plain, indent=2))
    else:
        _print(plain)
    return 0 if matched.winner is not None else 1


def _request(method: str, url: str) -> _Request | None:
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return None
    except ValueError:
        return None
    listener = TLS if parts.scheme == "https" else PLAIN
    host = parts.netloc.rpartition("@")[2]
    return _Request(method.upper(), listener, host, parts.path or "/")


def _plain(
    snapshot: Snapshot,
    request: _Request,
    winner: PlacedRoute | None,
    candidates: list[tuple[PlacedRoute, str]],
) -> dict[str, Any]:
    """Shape: the answer as JSON values; ``action`` is what the proxy would do."""
    result: dict[str, Any] = {
        "request": {
            "method": request.method,
            "scheme": "https" if request.listener == TLS else "http",
            "host": request.host,
            "path": request.path,
        },
        "action": "404: no route",
        "route": None,
        "endpoints": [],
        "candidates": [
            {**_route(placed.route), "verdict": verdict, "reason": _REASONS[verdict]}
            for placed, verdict in candidates
        ],
    }
    if winner is None:
        return result
    route = winner.route
    upstreams = [snapshot.upstreams[key] for key, _ in route.references]
    endpoints = [endpoint for placed in upstreams for endpoint in placed.endpoints]
    result["route"] = _route(route)
    result["upstream"] = _upstream(upstreams[0].upstream)
    result["filters"] = [f"delay {filter_.milliseconds} ms" for filter_ in route.filters]
    result["body_bytes_max"] = route.body_bytes_max
    result["endpoints"] = [
        {
            "address": str(endpoint.address),
            "port": endpoint.port,
            "state": endpoint.state.name.lower(),
        }
        for endpoint in endpoints
    ]
    if route.redirect_https and request.listener == PLAIN:
        result["action"] = "308: to https"
    elif any(endpoint.state is EndpointState.READY for endpoint in endpoints):
        result["action"] = "forward"
    else:
        result["action"] = "503: no ready endpoint"
    return result


def _route(route: Route) -> dict[str, Any]:
    field = "spec.defaultBackend"
    if route.key.path_type != "Default":
        field = f"spec.rules[{route.rule_index}].http.paths[{route.path_index}]"
    return {
        "object": f"{route.key.kind}/{route.key.namespace}/{route.key.name}",
        "field": field,
        "host": "*" + route.host if route.host.startswith(".") else route.host or "*",
        "path_type": route.key.path_type,
        "path": route.path_written,
        "service": f"{route.key.namespace}/{route.service}",
    }


def _upstream(upstream: Upstream) -> dict[str, Any]:
    return {
        "connect_ms": upstream.connect_ms,
        "read_ms": upstream.read_ms,
        "send_ms": upstream.send_ms,
    }


def _print(plain: dict[str, Any]) -> None:
    request = plain["request"]
    typer.echo(f"{request['method']} {request['scheme']}://{request['host']}{request['path']}")
    typer.echo(f"  {plain['action']}")
    if plain["route"] is not None:
        typer.echo(f"  route     {_line(plain['route'])}")
        for filter_ in plain["filters"]:
            typer.echo(f"  filter    {filter_}")
        for endpoint in plain["endpoints"]:
            address = f"[{endpoint['address']}]" if ":" in endpoint["address"] else endpoint["address"]
            typer.echo(f"  endpoint  {address}:{endpoint['port']} {endpoint['state']}")
    for candidate in plain["candidates"]:
        if candidate["verdict"] != "won":
            typer.echo(f"  not       {_line(candidate)}")
            typer.echo(f"            {candidate['reason']}")


def _line(route: dict[str, Any]) -> str:
    return (
        f"{route['object']} {route['field']}: {route['host']} {route['path_type']} {route['path']}"
        f" -> {route['service']}"
    )
