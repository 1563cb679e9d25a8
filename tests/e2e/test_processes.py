"""The three processes seen from outside: start, serve, change, die, come back, stop.

Each story is one instance on loopback; nothing here needs root.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lab import wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import Running, pod

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with pod("web") as number:
        yield number


@pytest.fixture
def config(tmp_path: Path, port: int) -> Path:
    folder = tmp_path / "config"
    folder.mkdir()
    write(folder, "objects.yaml", service("web"), endpoints("web", port))
    route(folder, "a")
    return folder


@pytest.fixture
def edge(tmp_path: Path, config: Path) -> Iterator[Running]:
    with Running(tmp_path, config, workers=2) as running:
        yield running


def route(config: Path, name: str) -> None:
    """Write an Ingress of this name for NAME.example."""
    write(config, f"{name}.yaml", ingress(name, [(f"{name}.example", "/", "web")]))


def served(edge: Running, name: str, seconds: float = 15) -> None:
    """Wait until NAME.example answers."""
    wait_for(f"{name}.example is served", lambda: edge.served(f"{name}.example") == 200, seconds)


def routed(edge: Running) -> dict[str, float]:
    """Shape: requests counted, by route's name."""
    found = edge.metrics().items()
    return {
        name.partition('name="')[2].partition('"')[0]: value
        for name, value in found
        if name.startswith("edge_route_requests_total{")
    }


def test_a_change_is_served_soon(edge: Running, config: Path) -> None:
    assert edge.ask("a.example").text == "web"
    assert edge.served("b.example") == 404
    waits = []
    for number in range(5):
        route(config, f"b{number}")
        start = time.monotonic()
        served(edge, f"b{number}")
        waits.append(time.monotonic() - start)
    assert sorted(waits)[2] < 0.25, waits  # 10 to 20 ms on a quiet machine


def test_a_broken_file_keeps_what_was_good(edge: Running, config: Path) -> None:
    (config / "a.yaml").write_text("kind: [Ingress\n")
    wait_for("a diagnostic", lambda: "a.yaml" in edge.admin("/diagnostics").text)
    assert edge.served("a.example") == 200
    assert edge.ready()


def test_killed_controller_is_replaced_unnoticed(edge: Running, config: Path) -> None:
    before, version = edge.pid("edge-controller"), int(edge.holder()["committed"])
    os.kill(before, signal.SIGKILL)
    for _ in range(50):
        assert edge.served("a.example") == 200
    assert edge.ready()
    wait_for("another controller", lambda: int(edge.holder()["controller_pid"]) not in (0, before))
    route(config, "b")
    served(edge, "b", 3)
    assert int(edge.holder()["committed"]) > version


@pytest.mark.parametrize("lost", ["all", "newest"])
def test_counters_stay_with_their_routes_when_the_state_file_is_lost(
    edge: Running, config: Path, lost: str
) -> None:
    """Two routes whose order by name is not that of their slots; then a controller that sees no file."""
    route(config, "c")
    served(edge, "c")
    shutil.copytree(edge.state, edge.folder / "older")
    route(config, "b")  # by name before c, by slot after it
    served(edge, "b")
    for name, number in (("a", 3), ("b", 5), ("c", 7)):
        for _ in range(number):
            assert edge.served(f"{name}.example") == 200
    before = wait_for("all are counted", lambda: sum((now := routed(edge)).values()) == 17 and now)
    version, old = int(edge.holder()["committed"]), edge.pid("edge-controller")
    shutil.rmtree(edge.state)
    if lost == "newest":
        (edge.folder / "older").rename(edge.state)
    os.kill(old, signal.SIGKILL)
    wait_for("another has published", lambda: int(edge.holder()["committed"]) > version)
    assert wait_for("the page", lambda: routed(edge)) == before
    (config / "c.yaml").unlink()  # its slot must not be continued by d
    wait_for("c is gone", lambda: edge.served("c.example") == 404)
    route(config, "d")
    wait_for("d is there", lambda: "d" in routed(edge))
    assert routed(edge) == {"a": before["a"], "b": before["b"], "d": 0}


def test_versions_grow_over_a_stop(edge: Running) -> None:
    version = int(edge.holder()["committed"])
    assert edge.stop() == 0
    edge.start()
    wait_for("ready again", edge.ready)
    assert int(edge.holder()["committed"]) > version


def test_killed_data_plane_is_back_at_once(edge: Running, config: Path) -> None:
    before = edge.pid("edge-data")
    os.kill(before, signal.SIGKILL)
    start = time.monotonic()
    served(edge, "a")
    assert time.monotonic() - start < 0.5
    wait_for("up", lambda: edge.holder()["data_state"] == "up")
    assert edge.pid("edge-data") != before
    route(config, "b")
    served(edge, "b")


def test_term_drains_and_exits_0(edge: Running) -> None:
    pids = [edge.pid(name) for name in ("edge-data", "edge-controller")]
    assert edge.stop() == 0
    assert all(not os.path.exists(f"/proc/{pid}") for pid in pids)
    assert edge.served("a.example") == 0


def test_second_holder_of_an_instance_is_refused(edge: Running) -> None:
    done = subprocess.run(edge.command(), capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 2
    assert "is running already" in done.stderr
    assert done.stderr.count("\n") == 1


def test_port_in_use_is_said_in_one_line(edge: Running, config: Path) -> None:
    second = Running(edge.folder, config, http=f"127.0.0.1:{edge.port}")
    status, lines = second.refusal()
    assert status == 2
    assert "in use" in lines
    assert len(lines.splitlines()) == 1
    assert edge.served("a.example") == 200


def test_metrics_add_up(edge: Running) -> None:
    for _ in range(20):
        assert edge.served("a.example") == 200
    assert edge.served("nobody.example") == 404
    found: dict[str, float] = {}

    def counted() -> bool:
        found.update(edge.metrics())
        return found["edge_requests_total"] == 21

    wait_for("all are counted", counted)
    outcomes = sum(value for name, value in found.items() if name.startswith("edge_request_outcomes_total"))
    assert found["edge_requests_total"] == outcomes + found["edge_requests_in_flight"]
    assert routed(edge) == {"a": 20}


def test_admin_refuses_what_it_does_not_know(edge: Running) -> None:
    assert edge.admin("/nothing").status == 404
    connection = http.client.HTTPConnection("127.0.0.1", edge.admin_port, timeout=5)
    connection.request("POST", "/metrics", body=b"x")
    assert connection.getresponse().status == 405
    connection.close()
    with socket.create_connection(("127.0.0.1", edge.admin_port)) as raw:
        raw.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert raw.recv(64).startswith(b"HTTP/1.1 400")
    assert edge.admin("/healthz").status == 200


def test_log_is_reopened(edge: Running) -> None:
    log = edge.folder / "access.log"
    log.rename(edge.folder / "old.log")
    edge.process.send_signal(signal.SIGUSR1)
    wait_for("a new file", log.exists)

    def asked() -> bool:
        edge.served("a.example")
        return log.stat().st_size > 0

    wait_for("lines in the new file", asked)
