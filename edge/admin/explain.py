"""Why a request gets what it gets: the image's answer, with what the objects add to it.

Called by `edge explain` on a folder and by the admin API on the running version. What an image alone does not
know: endpoints that are not eligible and why, findings about the objects that take part, the certificate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from edge.admin.dump import diagnostic
from edge.dataplane.answer import answer, listener_slot
from edge.dataplane.explain import Request
from edge.errors import EdgeError
from edge.model.diagnostics import Diagnostic
from edge.model.names import covers, host_of
from edge.model.types import Certificate, UpstreamKey
from edge.model.upstreams import Upstreams
from edge.snapshot.types import Snapshot


class QuestionError(EdgeError):
    """A request that cannot be asked about; its text says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request as a person writes it. ``at``: Unix time, 0 now."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    at: int = 0


@dataclass(frozen=True, slots=True)
class Objects:
    """What stands behind an image, where it is at hand."""

    snapshot: Snapshot
    upstreams: Upstreams


def explain(image: bytes, question: Question, objects: Objects | None = None) -> dict[str, Any]:
    """Answer a question about an image.

    Errors: QuestionError; NativeError for a request that no client can send.
    """
    try:
        parts = urlsplit(question.url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise QuestionError(f"{question.url!r} is no URL ({error})") from error
    if parts.scheme not in ("http", "https") or not host:
        raise QuestionError(f"{question.url!r} is no http:// or https:// URL with a host")
    tls = parts.scheme == "https"
    slot = listener_slot(image, tls, port)
    if slot is None:
        raise QuestionError(f"there is no listener for {parts.scheme}")
    authority = next(
        (value for name, value in question.headers if name.lower() == "host"),
        parts.netloc.rpartition("@")[2],
    )
    request = Request(
        authority, parts.path or "/", question.method.upper(), parts.query, question.headers, question.at
    )
    result = answer(image, slot, request)
    if objects is None:
        return result
    for upstream in result["upstreams"]:
        upstream["endpoints"] = _judged(upstream, objects)
    result["findings"] = _findings(result, objects.snapshot.diagnostics)
    if tls:
        result["certificate"] = _certificate(host, objects.snapshot.certificates)
    return result


def _judged(upstream: dict[str, Any], objects: Objects) -> list[dict[str, Any]]:
    """Every endpoint that the objects name for an upstream, with the verdict on it."""
    found = [key for key in objects.snapshot.upstreams if _name(key) == upstream["name"]]
    rows = []
    for key in found[:1]:
        for one in objects.upstreams.judged(key):
            state = one.endpoint.state.name.lower() if one.endpoint else "not eligible"
            rows.append(
                {
                    "address": one.address,
                    "port": one.port,
                    "zone": one.zone,
                    "state": state,
                    "why": one.why,
                    "object": str(one.object),
                    "field": one.field,
                }
            )
    return rows or upstream["endpoints"]


def _name(key: UpstreamKey) -> str:
    return f"{key.namespace}/{key.service}:{key.port}"


def _findings(result: dict[str, Any], diagnostics: Iterable[Diagnostic]) -> list[dict[str, str]]:
    """Findings about the objects that take part, and about rules that lost to the winner."""
    routes = [route for route in (result["route"], *result["candidates"]) if route]
    objects = {route["object"] for route in routes}
    objects |= {row["object"] for one in result["upstreams"] for row in one["endpoints"] if "object" in row}
    objects |= {f"Service/{route['service'].partition(':')[0]}" for route in routes}
    lost = f"is served by {result['route']['object']}" if result["route"] else None
    return [
        diagnostic(one)
        for one in diagnostics
        if str(one.object) in objects or (lost and one.reason == "Conflict" and one.message.endswith(lost))
    ]


def _certificate(host: str, certificates: Sequence[Certificate]) -> dict[str, str]:
    """Which certificate a client that sends this server name is shown: exact, wildcard, default."""
    name = host_of(host) or ""
    for wanted in (name, "." + name.partition(".")[2]):
        for one in certificates:
            if name and wanted in one.names and covers(wanted, name):
                how = "named" if wanted == name else f"covered by *{wanted}"
                return {"object": str(one.object), "why": f"{host} is {how}", "digest": one.digest.hex()}
    for one in certificates:
        if one.is_default:
            return {
                "object": str(one.object),
                "why": f"no tls section names {host}",
                "digest": one.digest.hex(),
            }
    return {"object": "", "why": "there is none", "digest": ""}
