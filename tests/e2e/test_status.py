"""`edge status` beside a running instance: one screen, and the same as JSON."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.lab import wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import EDGE, Running, pod

pytestmark = pytest.mark.slow


def status(edge: Running, *words: str) -> tuple[int, str]:
    where = ["--instance", edge.name, "--run-dir", str(edge.options["run_dir"])]
    environment = {**os.environ, "COLUMNS": "200"}
    found = subprocess.run([EDGE, "status", *where, *words], capture_output=True, text=True, env=environment)
    assert not found.stderr.strip() or found.returncode == 2, found.stderr
    return found.returncode, found.stdout + found.stderr


def test_one_screen(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    with pod("web") as port:
        write(
            config,
            "a.yaml",
            service("web"),
            endpoints("web", port),
            ingress("a", [("a.example", "/", "web")]),
        )
        write(config, "wrong.yaml", ingress("wrong", [("b.example", "/", "missing")]))
        with Running(tmp_path, config) as edge:
            assert edge.served("a.example") == 200
            wait_for("written", lambda: edge.metrics()["edge_state_current"] == 1)
            code, text = status(edge)
            assert code == 0
            for word in (
                f"{edge.name}  ready",
                f"pid {edge.pid('edge-data')}",
                f"pid {edge.pid('edge-controller')}",
                f"127.0.0.1:{edge.port} http",
                "off: --xdp off",
                "Ingress/default/wrong",
                "written",
                "1, 0 in flight",
            ):
                assert word in text, f"{word!r} is not in\n{text}"
            assert len(text.splitlines()) <= 24
            old = edge.pid("edge-data")
            os.kill(old, signal.SIGKILL)
            wait_for("another data plane", lambda: edge.ready() and edge.pid("edge-data") != old)
            wait_for("counted", lambda: edge.metrics()['edge_restarts_total{process="data"}'] == 1)
            events = edge.admin_json("/diagnostics")["events"]
            assert [str(old) in event["text"] for event in events] == [True], events
            assert "data plane restarts 1" in (shown := status(edge)[1]) and events[0]["text"][:40] in shown
            code, text = status(edge, "--json")
            found = json.loads(text)
            assert code == 0 and found["ready"] and found["snapshot"]["version"] >= 1
            assert found["processes"]["controller"]["pid"] == edge.pid("edge-controller")
        code, text = status(edge)
        assert code == 2 and "is not running" in text and len(text.splitlines()) == 1


def test_an_admin_port_that_is_taken_costs_no_client(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    with pod("web") as port, socket.create_server(("127.0.0.1", 0)) as taken:
        write(
            config,
            "a.yaml",
            service("web"),
            endpoints("web", port),
            ingress("a", [("a.example", "/", "web")]),
        )
        edge = Running(tmp_path, config)
        edge.admin_port = taken.getsockname()[1]
        edge.options["admin"] = f"127.0.0.1:{edge.admin_port}"
        edge.start()
        try:
            wait_for("served all the same", lambda: edge.served("a.example") == 200)
            code, text = status(edge)
            assert code == 0 and "not open: its address is taken" in text
            assert edge.lines().count("serving without the admin API") == 1
            old = edge.pid("edge-controller")
            os.kill(old, signal.SIGKILL)
            wait_for("another controller", lambda: edge.holder()["controller_pid"] not in ("0", str(old)))
            taken.close()
            wait_for("the admin API is open as well", edge.ready)
            assert status(edge)[0] == 0 and edge.lines().count("the admin API is open") == 1
        finally:
            edge.close()
