"""kill -9 of the data plane and of the controller, and what clients see of it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from bench.proxy import processes
from tests.e2e.lab import ADDRESS, Lab, give, wait_for
from tests.e2e.objects import endpoints, ingress, policy, service, write
from tests.e2e.running import Running, connect, pod
from tests.fakes.client import ask

pytestmark = [pytest.mark.root, pytest.mark.slow]

HOST = "a.example.com"
WAITING = 200


def thread_states(pid: int) -> set[str]:
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    return {stat.read_text().rpartition(")")[2].split()[0] for stat in stats}


@pytest.mark.parametrize("loop", ["uring", "epoll"])
def test_waiting_connections_are_served_by_the_next_data_plane(tmp_path: Path, loop: str) -> None:
    config = tmp_path / "config"
    config.mkdir()
    with pod("web") as port:
        write(config, "a.yaml", ingress("web", [(HOST, "/", "web")]), service("web"), endpoints("web", port))
        with Running(tmp_path, config, loop=loop) as edge:
            assert edge.ask(HOST).status == 200
            old = edge.pid("edge-data")
            os.kill(old, signal.SIGSTOP)
            # A thread stops when it is next scheduled: until then it would accept, and take to its grave.
            wait_for("the data plane is stopped", lambda: thread_states(old) == {"T"}, 5)
            selector = selectors.DefaultSelector()
            for _ in range(WAITING):
                channel = connect(edge.address, edge.port)
                channel.send(f"GET /who HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
                selector.register(channel, selectors.EVENT_READ)
            os.kill(old, signal.SIGKILL)
            killed = time.monotonic()
            answers: list[tuple[float, bytes]] = []
            while len(answers) < WAITING and time.monotonic() < killed + 10:
                for key, _mask in selector.select(0.05):
                    channel = key.fileobj
                    assert isinstance(channel, socket.socket)
                    try:
                        data = channel.recv(65536)
                    except ConnectionResetError:
                        data = b"reset"
                    answers.append((time.monotonic() - killed, data))
                    selector.unregister(channel)
                    channel.close()
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]
            selector.close()
            assert edge.pid("edge-data") != old
    wrong = [data[:60] for _, data in answers if not data.startswith(b"HTTP/1.1 200")]
    assert len(answers) == WAITING and not wrong, f"{len(answers)} answers, {len(wrong)} wrong: {wrong[:3]}"
    times = sorted(taken for taken, _ in answers)
    assert times[0] <= 0.5, f"first answer after {times[0]:.3f} s"
    assert times[-1] <= 2.0, f"last answer after {times[-1]:.3f} s"


def test_a_controllers_death_stops_neither_traffic_nor_filter(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    denied = "198.18.1.66"
    tool = processes.compile_tool("load")
    with Lab(clients=2, pods=2) as lab:
        for number, name in enumerate(("old", "new"), 1):
            lab.start_pod(number, name)
        with lab.inside("client1"), IPRoute() as route:
            give(route, "eth0", denied, 32)
        write(config, "policy.yaml", policy(deny=[f"{denied}/32"]))
        write(
            config,
            "services.yaml",
            *[item for n, name in enumerate(("old", "new"), 1) for item in
              (service(name), endpoints(name, 8080, [lab.pod_address(n)]))],
        )  # fmt: skip
        write(config, "ingress.yaml", ingress("web", [(HOST, "/", "old")]))
        options = {"xdp": "native", "interface": lab.interfaces()}
        with Running(tmp_path, config, lab=lab, http=f"{ADDRESS}:80", **options) as edge:
            assert not reaches(lab, denied), "the denied source is served before anything happened"
            before = counts(edge)
            words = [tool, ADDRESS, 80, 8, 5, 300, HOST, "/who"]
            load = lab.start("client2", "load", words, stdout=subprocess.PIPE, text=True)
            old, data = edge.pid("edge-controller"), edge.pid("edge-data")
            os.kill(old, signal.SIGKILL)
            killed = time.monotonic()
            write(config, "ingress.yaml", ingress("web", [(HOST, "/", "new")]))
            assert not reaches(lab, denied), "the filter let a denied source through"

            def followed() -> bool:
                with lab.inside("client1"):
                    answer = ask(ADDRESS, 80, HOST, "/who")
                assert answer.status == 200
                return answer.text == "new"

            wait_for("the change is followed", followed, 10)
            took = time.monotonic() - killed
            assert took <= 3, f"followed after {took:.2f} s"
            assert edge.pid("edge-controller") != old and edge.pid("edge-data") == data
            output, _ = load.communicate(timeout=30)
            result = json.loads(output)
            assert result["requests"] and not result["errors"] + result["closed"] + result["unanswered"], (
                result
            )
            after = wait_for("the admin API", lambda: edge.ready() and counts(edge), 5)
            assert after["drop_denied"] > before["drop_denied"]
            assert after["offered"] >= before["offered"] + result["requests"]
            rest = wait_for("counters at rest", lambda: at_rest(edge), 5)
            ends = sum(value for reason, value in rest.items() if reason != "offered")
            assert ends == rest["offered"] > after["offered"] // 2, rest


def reaches(lab: Lab, source: str) -> bool:
    """Tell whether a connection from `source` is accepted within a moment."""
    with lab.inside("client1"), contextlib.closing(socket.socket()) as channel:
        channel.settimeout(0.4)
        channel.bind((source, 0))
        try:
            channel.connect((ADDRESS, 80))
        except TimeoutError:
            return False
        return True


def at_rest(edge: Running) -> dict[str, int] | None:
    """Read the counters twice; give them when no packet came between: a reading itself is not atomic."""
    first, second = counts(edge), counts(edge)
    return second if first == second else None


def counts(edge: Running) -> dict[str, int]:
    return {reason: value["packets"] for reason, value in edge.admin_json("/xdp")["counters"].items()}
