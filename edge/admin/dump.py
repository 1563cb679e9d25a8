"""What /snapshot, /diagnostics and /xdp show, as plain JSON values.

Called by edge/admin/server.py. Never shows a key: of a certificate only names and digest.
"""

from __future__ import annotations

from typing import Any

from edge.controller.log import moment
from edge.controller.view import View
from edge.model.diagnostics import Diagnostic
from edge.model.reasons import reason_of


def snapshot(view: View) -> dict[str, Any]:
    """Shape: the running version as its objects, with their slots."""
    state = view.state
    head: dict[str, Any] = {
        "version": state.committed,
        "serving": state.serving,
        "data_plane": {
            "up": state.up,
            "pid": state.pid,
            "loop": state.loop,
            "workers": state.workers,
            "restarts": state.restarts,
        },
        "counts": dict(state.counts),
    }
    running = view.snapshot
    if running is None:
        return head
    return {
        **head,
        "routes_digest": running.routes_digest.hex(),
        "endpoints_digest": running.endpoints_digest.hex(),
        "listeners": [
            {
                "slot": placed.slot.index,
                "address": str(placed.listener.address),
                "port": (
                    state.listeners[placed.slot.index].port
                    if placed.slot.index in state.listeners
                    else placed.listener.port
                ),
                "transport": placed.listener.transport.name.lower(),
                "open": placed.slot.index in state.listeners,
            }
            for placed in running.listeners
        ],
        "routes": [
            {
                "slot": placed.slot.index,
                "generation": placed.slot.generation,
                "precedence": placed.precedence,
                "host": placed.route.host,
                "path": placed.route.path,
                "path_type": placed.route.path_type.name.capitalize(),
                "object": f"{placed.route.key.kind}/{placed.route.key.namespace}/{placed.route.key.name}",
                "upstreams": [
                    {"upstream": f"{key.namespace}/{key.service}:{key.port}", "weight": weight}
                    for key, weight in placed.route.references
                ],
            }
            for placed in running.routes
        ],
        "upstreams": [
            {
                "slot": placed.slot.index,
                "generation": placed.slot.generation,
                "name": f"{key.namespace}/{key.service}:{key.port}",
                "endpoints": [
                    {
                        "address": str(endpoint.address),
                        "port": endpoint.port,
                        "state": endpoint.state.name.lower(),
                    }
                    for endpoint in placed.endpoints
                ],
            }
            for key, placed in running.upstreams.items()
        ],
        "certificates": [
            {
                "object": str(certificate.object),
                "names": list(certificate.names),
                "digest": certificate.digest.hex(),
                "default": certificate.is_default,
                "withheld": certificate.withheld,
            }
            for certificate in running.certificates
        ],
        "policies": [str(policy.object) for policy in running.policies],
    }


def diagnostic(found: Diagnostic) -> dict[str, str]:
    """Shape: one Diagnostic in words."""
    return {
        "severity": found.severity.value,
        "object": str(found.object),
        "field": found.field,
        "reason": found.reason,
        "message": found.message,
        "advice": reason_of(found.reason).advice,
    }


def diagnostics(view: View) -> dict[str, Any]:
    """Shape: all diagnostics of now, the last publish that failed, the state on disk, the last events."""
    keeper = view.keeper
    return {
        "diagnostics": [diagnostic(found) for found in view.findings],
        "publish_error": view.publish_error,
        "source": {"lost_since": view.lost_since and moment(view.lost_since)},
        "state": {
            "written": moment(keeper.written) if keeper.written else None,
            "age_s": round(keeper.age_s, 3) if keeper.written else None,
            "version": keeper.version,
            "current": keeper.current,
            "error": keeper.error,
        },
        "events": [
            {"at": moment(event.at), "kind": event.kind, "text": event.text} for event in view.state.events
        ],
    }


def xdp(view: View) -> dict[str, Any]:
    """Shape: where XDP is attached and what it counted, or why it is off."""
    if not view.xdp_on:
        return {"attached": False, "reason": view.xdp_reason}
    return {"attached": True, **view.xdp_describe()}
