"""`edge status`: asks the holder over its control socket, and the admin API for findings.

Called by edge/cli/main.py. Reads only. Exit status 0 when the data plane serves, 1 when it does not.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

from edge.errors import HolderError
from edge.messages import receive, send
from edge.options import Options, parse_address

PATIENCE_S = 2.0


def ask_holder(options: Options) -> dict[str, str]:
    """Shape: the fields of the holder's `status`. Errors: HolderError when nobody answers."""
    path = options.instance_run_dir / "control.sock"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
            control.settimeout(PATIENCE_S)
            control.connect(str(path))
            send(control, "status")
            answer = receive(control)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise HolderError(f"instance {options.instance!r} is not running ({path})") from error
    except OSError as error:
        raise HolderError(f"{path}: {error.strerror or error}") from error
    if answer is None:
        raise HolderError(f"{path}: the holder did not answer")
    return dict(answer.fields)


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


def counters(page: str) -> dict[str, float]:
    """Shape: the samples without labels of a metrics page."""
    found: dict[str, float] = {}
    for line in page.splitlines():
        name, _, value = line.partition(" ")
        if not line.startswith("#") and "{" not in name:
            found[name] = float(value)
    return found


def show_status(options: Options) -> int:
    """Print a summary. Errors: HolderError when the instance does not run."""
    from rich.console import Console
    from rich.table import Table

    said = ask_holder(options)
    ready, reason = ask_admin(said["admin"], "/readyz")
    table = Table(show_header=False, box=None, pad_edge=False)
    rows = [
        ("instance", f"{said['instance']}  ({said['state']}, up {said['uptime_s']} s, holder {said['pid']})"),
        (
            "data plane",
            f"{said['data_state']}  pid {said['data_pid']}, {said['workers']} workers, "
            f"loop {said['loop'] or '?'}, {said['data_restarts']} restarts",
        ),
        ("controller", f"pid {said['controller_pid']}, {said['controller_restarts']} restarts"),
        ("version", f"{said['committed']} committed, {said['serving']} served"),
        ("listeners", said["listeners"].replace(",", "  ") or "none open"),
        ("admin", said["admin"]),
        ("ready", "yes" if ready == 200 else f"no: {reason.decode().strip() or 'the admin API is silent'}"),
    ]
    rows += _admin_rows(said["admin"])
    for name, text in rows:
        table.add_row(name, text)
    Console(highlight=False, markup=False).print(table)
    return 0 if ready == 200 else 1


def _admin_rows(address: str) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    status, body = ask_admin(address, "/metrics")
    if status == 200:
        numbers = counters(body.decode())
        rows.append(
            (
                "requests",
                f"{numbers.get('edge_requests_total', 0):.0f}, "
                f"{numbers.get('edge_requests_in_flight', 0):.0f} in flight, "
                f"{numbers.get('edge_connections_open', 0):.0f} connections open",
            )
        )
    status, body = ask_admin(address, "/xdp")
    if status == 200:
        xdp: dict[str, Any] = json.loads(body)
        rows.append(("xdp", "attached" if xdp["attached"] else f"off: {xdp.get('reason', '')}"))
    status, body = ask_admin(address, "/diagnostics")
    if status == 200:
        page = json.loads(body)
        rows += [
            (found["severity"], f"{found['object']} {found['field']}: {found['message']}")
            for found in page["diagnostics"][:20]
        ]
        if page["publish_error"]:
            rows.append(("publish", page["publish_error"]))
    return rows
