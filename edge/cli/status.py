"""`edge status`: one screen about a running instance, or the same as JSON.

Called by edge/cli/main.py. Asks the holder over its control socket, the admin API, and /proc for ages; each
may be silent, and the rest is shown. Reads only. Exit status 0 when the data plane serves, else 1.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any

from edge.errors import HolderError
from edge.messages import Message, receive, send
from edge.options import Options, parse_address

PATIENCE_S = 2.0
FINDINGS_SHOWN = 20
EVENTS_SHOWN = 10
COUNTS = {
    "data_restarts": "data plane restarts",
    "controller_restarts": "controller restarts",
    "handovers": "hand-overs",
    "adoptions": "adoptions",
    "upgrades": "upgrades",
    "watchdog_kills": "watchdog kills",
}


# ---- asking ------------------------------------------------------------------------------


def ask_holder(options: Options) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Shape: the fields of the holder's `status`, and its events. Errors: HolderError when nobody answers."""
    path = options.instance_run_dir / "control.sock"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
            control.settimeout(PATIENCE_S)
            control.connect(str(path))
            send(control, "status")
            answer = receive(control)
            if answer is None:
                raise HolderError(f"{path}: the holder did not answer")
            return dict(answer.fields), _events(control)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise HolderError(f"instance {options.instance!r} is not running ({path})") from error
    except OSError as error:
        raise HolderError(f"{path}: {error.strerror or error}") from error


def _events(control: socket.socket) -> list[dict[str, str]]:
    events: list[dict[str, str]] = []
    send(control, "events")
    while True:
        answer: Message | None = receive(control)
        if answer is None or answer.verb != "event":
            return events
        events.append(dict(answer.fields))


def ask_admin(address: str, path: str) -> tuple[int, bytes]:
    """Get one page of the admin API. Shape: status and body; status 0 when it does not answer."""
    host, port = parse_address(address, "admin")
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def samples(page: str) -> dict[str, float]:
    """Shape: the samples of a metrics page by name and labels."""
    lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines if name}


def process(pid: str) -> dict[str, Any]:
    """What the kernel says of a process; empty for one that is gone. Units: seconds, bytes."""
    try:
        fields = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        age = uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return {
            "pid": int(pid),
            "age_s": round(age),
            "resident": int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        }
    except (OSError, ValueError, IndexError):
        return {}


def gather(options: Options) -> dict[str, Any]:
    """Shape: all that is shown; pages that did not answer are empty. Errors: HolderError."""
    holder, events = ask_holder(options)
    admin = holder.get("admin", "")
    ready, reason = ask_admin(admin, "/readyz") if admin else (0, b"")
    pages: dict[str, Any] = {}
    for path in ("/snapshot", "/diagnostics", "/xdp") if ready else ():
        status, body = ask_admin(admin, path)
        pages[path[1:]] = json.loads(body) if status == 200 else {}
    status, body = ask_admin(admin, "/metrics") if ready else (0, b"")
    serves = holder.get("data_state") == "up" and holder.get("serving") == holder.get("committed") != "0"
    return {
        "ready": ready == 200 if admin else serves,
        "reason": reason.decode(errors="replace").strip() or "the admin API is silent",
        "holder": holder,
        "processes": {
            name: process(holder.get(key, ""))
            for name, key in (
                ("holder", "pid"),
                ("controller", "controller_pid"),
                ("data plane", "data_pid"),
            )
        },
        "snapshot": pages.get("snapshot", {}),
        "diagnostics": pages.get("diagnostics", {}),
        "xdp": pages.get("xdp", {}),
        "metrics": samples(body.decode()) if status == 200 else {},
        "events": pages.get("diagnostics", {}).get("events") or events,  # the controller knows its own, too
    }


# ---- showing -----------------------------------------------------------------------------


def show_status(options: Options, as_json: bool = False) -> int:
    """Print it. Errors: HolderError when the instance does not run."""
    found = gather(options)
    if as_json:
        print(json.dumps(found, indent=2))
        return 0 if found["ready"] else 1
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    before = ""
    for name, text in rows(found):
        table.add_row("" if name == before else name, text)
        before = name
    Console(highlight=False, markup=False).print(table)
    return 0 if found["ready"] else 1


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Shape: name and text of each line; lines of one name stand together."""
    holder, snapshot = found["holder"], found["snapshot"]
    state = "ready" if found["ready"] else f"not ready: {found['reason']}"
    if holder.get("state") not in ("running", None):
        state = f"{holder['state']}, {state}"
    lines = [("instance", f"{holder.get('instance', '?')}  {state}")]
    for name, one in found["processes"].items():
        lines.append(
            ("processes", f"{name:<10}  {_process(one)}{_loop(holder) if name == 'data plane' else ''}")
        )
    versions = f"{holder.get('serving', '?')} served, {holder.get('committed', '?')} committed"
    if holder.get("staged", "0") != "0":
        versions += f", {holder['staged']} prepared"
    if snapshot.get("routes_digest"):
        versions += (
            f"  routes {snapshot['routes_digest'][:12]}, endpoints {snapshot['endpoints_digest'][:12]}"
        )
    lines.append(("version", versions))
    if snapshot.get("routes") is not None:
        lines.append(
            (
                "objects",
                f"{len(snapshot['routes'])} routes, {len(snapshot['upstreams'])} upstreams, "
                f"{len(snapshot['certificates'])} certificates",
            )
        )
    lines.append(("listeners", _listeners(found)))
    lines.append(("admin", holder.get("admin") or "not open: its address is taken"))
    lines.append(("xdp", _xdp(found["xdp"])))
    if found["metrics"]:
        lines += _counters(found["metrics"])
    lines += _state(found["diagnostics"])
    counts = {name: holder.get(name, "0") for name in COUNTS}
    lines.append(("since start", ", ".join(f"{COUNTS[name]} {number}" for name, number in counts.items())))
    return lines + _findings(found["diagnostics"]) + _events_shown(found["events"])


def _process(one: dict[str, Any]) -> str:
    if not one:
        return "not running"
    return f"pid {one['pid']:<8} {_span(one['age_s']):>10}  {one['resident'] >> 20:>5} MiB"


def _loop(holder: dict[str, str]) -> str:
    return f"  {holder.get('workers', '?')} workers, {holder.get('loop') or 'no loop yet'}"


def _span(seconds: float) -> str:
    """Shape: a length of time in its two largest units."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _listeners(found: dict[str, Any]) -> str:
    listed = found["snapshot"].get("listeners")
    if listed is None:
        return str(found["holder"].get("listeners", "")).replace(",", "  ") or "none open"
    shown = []
    for one in listed:
        address = f"[{one['address']}]" if ":" in one["address"] else one["address"]
        kind = {"plain": "http", "tls": "https"}.get(one["transport"], one["transport"])
        shown.append(f"{address}:{one['port']} {kind}{'' if one['open'] else ' (not open)'}")
    return "  ".join(shown) or "none"


def _xdp(page: dict[str, Any]) -> str:
    if not page:
        return "unknown"
    if not page.get("attached"):
        return f"off: {page.get('reason', '')}"
    places = ", ".join(f"{name} {mode}" for name, mode in page.get("interfaces", {}).items())
    packets = {name: one["packets"] for name, one in page.get("counters", {}).items() if one["packets"]}
    offered = packets.pop("offered", 0)
    ends = ", ".join(f"{number:,} {name}" for name, number in packets.items())
    text = f"{places or 'nowhere'}: {offered:,} packets" + (f" = {ends}" if ends else "")
    return "; ".join([text, *dict.fromkeys(page.get("without", {}).values())])


def _counters(page: dict[str, float]) -> list[tuple[str, str]]:
    def number(name: str) -> str:
        return f"{page.get(name, 0):,.0f}"

    outcomes = {
        name.partition('"')[2].rstrip('"}'): value
        for name, value in page.items()
        if name.startswith("edge_request_outcomes_total") and value
    }
    ends = ", ".join(f"{value:,.0f} {name}" for name, value in outcomes.items())
    lines = [
        (
            "requests",
            f"{number('edge_requests_total')}, {number('edge_requests_in_flight')} in flight"
            + (f": {ends}" if ends else ""),
        ),
        (
            "clients",
            f"{number('edge_connections_total')} connections, {number('edge_connections_open')} open, "
            f"{number('edge_tls_handshakes_total')} TLS handshakes",
        ),
    ]
    lost = {
        "edge_access_log_dropped_total": "log lines dropped",
        "edge_accept_errors_total": "connections refused for want of resources",
        "edge_tls_errors_total": "TLS errors",
        "edge_state_write_errors_total": "state writes failed",
    }
    bad = [f"{page[name]:,.0f} {words}" for name, words in lost.items() if page.get(name)]
    return lines + ([("losses", ", ".join(bad))] if bad else [])


def _state(page: dict[str, Any]) -> list[tuple[str, str]]:
    state, lines = page.get("state"), []
    if state:
        if state["written"]:
            text = f"version {state['version']}, written {_span(state['age_s'])} ago"
            text += "" if state["current"] else ", older than what is served"
        else:
            text = "none on disk"
        lines.append(("state", text + (f": {state['error']}" if state["error"] else "")))
    if page.get("source", {}).get("lost_since"):
        lines.append(("source", f"lost since {page['source']['lost_since']}: the state is served"))
    return lines


def _findings(page: dict[str, Any]) -> list[tuple[str, str]]:
    found = page.get("diagnostics", [])
    lines = [
        (one["severity"], f"{one['object']} {one['field']}: {one['message']}".replace(" :", ":"))
        for one in found[:FINDINGS_SHOWN]
    ]
    if len(found) > FINDINGS_SHOWN:
        lines.append(("more", f"{len(found) - FINDINGS_SHOWN} findings; all are in /diagnostics"))
    if page.get("publish_error"):
        lines.append(("publish", page["publish_error"]))
    return lines


def _events_shown(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    from edge.controller.log import moment

    lines = []
    for event in events[-EVENTS_SHOWN:]:
        at = str(event.get("at", ""))
        when = moment(int(at)) if at.isdigit() else at
        lines.append(("events", f"{when}  {event.get('kind', '')}: {event.get('text', '')}"))
    return lines
