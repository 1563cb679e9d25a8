"""`edge status`: what stands on the screen, from full pages and from none."""

from __future__ import annotations

import os
from typing import Any

from edge.cli.status import process, rows, samples

HOLDER = {
    "instance": "one",
    "state": "running",
    "serving": "7",
    "committed": "7",
    "staged": "0",
    "workers": "2",
    "loop": "uring",
    "admin": "127.0.0.1:9901",
    "listeners": "127.0.0.1:80,[::1]:443",
    "data_restarts": "3",
}
NOTHING: dict[str, Any] = {
    "ready": False,
    "reason": "the admin API is silent",
    "holder": HOLDER,
    "processes": {"holder": {"pid": 1, "age_s": 90_061, "resident": 5 << 20}, "data plane": {}},
    "snapshot": {},
    "diagnostics": {},
    "xdp": {},
    "metrics": {},
    "events": [],
}


def screen(found: dict[str, Any]) -> list[str]:
    return [f"{name}: {text}" for name, text in rows(found)]


def test_where_only_the_holder_answers() -> None:
    shown = screen(NOTHING)
    assert shown[0] == "instance: one  not ready: the admin API is silent"
    assert "1 d 1 h" in shown[1] and "5 MiB" in shown[1] and "not running" in shown[2]
    assert "version: 7 served, 7 committed" in shown
    assert "listeners: 127.0.0.1:80  [::1]:443" in shown
    assert "xdp: unknown" in shown
    assert any(line.startswith("since start: data plane restarts 3, controller restarts 0") for line in shown)


def test_everything() -> None:
    shown = screen(
        NOTHING
        | {
            "ready": True,
            "holder": HOLDER | {"state": "draining", "staged": "8"},
            "snapshot": {
                "routes_digest": "ab" * 32,
                "endpoints_digest": "cd" * 32,
                "routes": [1, 2],
                "upstreams": [1],
                "certificates": [],
                "listeners": [{"address": "::1", "port": 443, "transport": "tls", "open": False}],
            },
            "xdp": {
                "without": {"eth1": "interface eth1 does not exist"},
                "attached": True,
                "interfaces": {"eth0": "native"},
                "counters": {
                    name: {"packets": number}
                    for name, number in (("offered", 1200), ("pass_vip", 1200), ("none", 0))
                },
            },
            "metrics": {
                "edge_requests_total": 5,
                'edge_request_outcomes_total{outcome="done"}': 5,
                "edge_access_log_dropped_total": 4,
            },
            "diagnostics": {
                "diagnostics": [
                    {"severity": "error", "object": f"Ingress/n/{n}", "field": "", "message": "bad"}
                    for n in range(25)
                ],
                "publish_error": "later",
                "source": {"lost_since": "2030-01-01T00:00:00Z"},
                "state": {"written": "x", "age_s": 61, "version": 6, "current": False, "error": "full"},
            },
            "events": [{"at": "60", "kind": "restart", "text": f"number {n}"} for n in range(12)],
        }
    )
    assert shown[0] == "instance: one  draining, ready"
    assert "version: 7 served, 7 committed, 8 prepared  routes abababababab, endpoints cdcdcdcdcdcd" in shown
    assert "listeners: [::1]:443 https (not open)" in shown
    assert "xdp: eth0 native: 1,200 packets = 1,200 pass_vip; interface eth1 does not exist" in shown
    assert "requests: 5, 0 in flight: 5 done" in shown
    assert "losses: 4 log lines dropped" in shown
    assert "state: version 6, written 1 min 1 s ago, older than what is served: full" in shown
    assert "source: lost since 2030-01-01T00:00:00Z: the state is served" in shown
    assert "error: Ingress/n/0: bad" in shown and "more: 5 findings; all are in /diagnostics" in shown
    events = [line for line in shown if line.startswith("events")]
    assert len(events) == 10 and events[-1] == "events: 1970-01-01T00:01:00Z  restart: number 11"


def test_a_process_of_the_kernels_list() -> None:
    found = process(str(os.getpid()))
    assert found["pid"] == os.getpid() and found["age_s"] >= 0 and found["resident"] > 1 << 20
    assert process("0") == process("") == process("nobody") == {}


def test_samples() -> None:
    assert samples('# HELP a\na 1\nb{c="d e"} 2.5\n') == {"a": 1.0, 'b{c="d e"}': 2.5}
