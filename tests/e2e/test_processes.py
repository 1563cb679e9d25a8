"""The three processes seen from outside: start, serve, change, die, come back, stop.

Each story is one instance on loopback; nothing here needs root.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.e2e.instance import Instance, get, wait_until

pytestmark = pytest.mark.slow

OBJECTS = """\
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: edge}
spec: {controller: xdp-edge.dev/ingress-controller}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: PORT, protocol: TCP}]
endpoints: [{addresses: [127.0.0.1], conditions: {ready: true}}]
"""

INGRESS = """\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: NAME, namespace: default}
spec:
  ingressClassName: edge
  rules:
  - host: HOST
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
"""


class Pod(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"pod"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def pod() -> Iterator[int]:
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Pod)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield listening.server_address[1]
    listening.shutdown()
    thread.join()
    listening.server_close()


def ingress(name: str, host: str) -> str:
    return INGRESS.replace("NAME", name).replace("HOST", host)


def prepared(pod: int, *options: str, http_port: int = 0) -> Instance:
    instance = Instance(*options, http_port=http_port)
    instance.write("objects.yaml", OBJECTS.replace("PORT", str(pod)))
    instance.write("a.yaml", ingress("a", "a.example"))
    return instance


@pytest.fixture
def edge(pod: int) -> Iterator[Instance]:
    with prepared(pod) as instance:
        yield instance


def test_a_change_is_served_soon(edge: Instance) -> None:
    assert edge.ask("a.example") == (200, b"pod")
    assert edge.ask("b.example")[0] == 404
    waits = []
    for number in range(5):
        host = f"b{number}.example"
        edge.write(f"b{number}.yaml", ingress(f"b{number}", host))
        start = time.monotonic()
        wait_until(lambda host=host: edge.ask(host)[0] == 200, f"{host} is served")
        waits.append(time.monotonic() - start)
    assert sorted(waits)[2] < 0.25, waits  # 10 to 20 ms on a quiet machine


def test_a_broken_file_keeps_what_was_good(edge: Instance) -> None:
    edge.write("a.yaml", "kind: [Ingress\n")
    wait_until(lambda: b"a.yaml" in get(edge.admin_port, "/diagnostics")[1], "a diagnostic")
    assert edge.ask("a.example") == (200, b"pod")
    assert edge.ready()


def test_killed_controller_is_replaced_unnoticed(edge: Instance) -> None:
    before = int(edge.status()["controller_pid"])
    version = int(edge.status()["committed"])
    os.kill(before, signal.SIGKILL)
    for _ in range(50):
        assert edge.ask("a.example")[0] == 200
    assert edge.ready()
    wait_until(lambda: int(edge.status()["controller_pid"]) not in (0, before), "another controller")
    edge.write("b.yaml", ingress("b", "b.example"))
    wait_until(lambda: edge.ask("b.example")[0] == 200, "changes are followed again", 3)
    assert int(edge.status()["committed"]) > version


def test_killed_data_plane_is_back_at_once(edge: Instance) -> None:
    before = int(edge.status()["data_pid"])
    os.kill(before, signal.SIGKILL)
    start = time.monotonic()
    wait_until(lambda: edge.ask("a.example") == (200, b"pod"), "served again")
    assert time.monotonic() - start < 0.5
    wait_until(lambda: edge.status()["data_state"] == "up", "up")
    assert int(edge.status()["data_pid"]) != before
    edge.write("b.yaml", ingress("b", "b.example"))
    wait_until(lambda: edge.ask("b.example")[0] == 200, "changes reach the new one")


def test_term_drains_and_exits_0(pod: int) -> None:
    with prepared(pod) as instance:
        pids = [int(instance.status()[name]) for name in ("data_pid", "controller_pid")]
        assert instance.stop() == 0
        assert all(not os.path.exists(f"/proc/{pid}") for pid in pids)
        assert get(instance.http_port, "/", "a.example")[0] == 0


def test_second_holder_of_an_instance_is_refused(edge: Instance) -> None:
    done = subprocess.run(edge.command(), capture_output=True, text=True, timeout=10)
    assert done.returncode == 2
    assert "is running already" in done.stderr
    assert done.stderr.count("\n") == 1


def test_port_in_use_is_said_in_one_line(pod: int) -> None:
    with prepared(pod) as first:
        second = prepared(pod, http_port=first.http_port).start()
        assert second.process is not None
        assert second.process.wait(15) == 2
        assert "in use" in second.lines()
        assert len(second.lines().splitlines()) == 1
        second.__exit__()
        assert first.ask("a.example")[0] == 200


def test_metrics_add_up(edge: Instance) -> None:
    for _ in range(20):
        assert edge.ask("a.example")[0] == 200
    assert edge.ask("nobody.example")[0] == 404

    def samples() -> dict[str, float]:
        page = get(edge.admin_port, "/metrics")[1].decode()
        lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    wait_until(lambda: samples()["edge_requests_total"] == 21, "all are counted")
    found = samples()
    outcomes = sum(value for name, value in found.items() if name.startswith("edge_request_outcomes_total"))
    assert found["edge_requests_total"] == outcomes + found["edge_requests_in_flight"]
    routes = sum(value for name, value in found.items() if name.startswith("edge_route_requests_total"))
    assert routes == 20


def test_admin_refuses_what_it_does_not_know(edge: Instance) -> None:
    import http.client
    import socket

    assert get(edge.admin_port, "/nothing")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", edge.admin_port, timeout=5)
    connection.request("POST", "/metrics", body=b"x")
    assert connection.getresponse().status == 405
    connection.close()
    with socket.create_connection(("127.0.0.1", edge.admin_port)) as raw:
        raw.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert raw.recv(64).startswith(b"HTTP/1.1 400")
    assert get(edge.admin_port, "/healthz")[0] == 200


def test_log_is_reopened(edge: Instance) -> None:
    log = edge.folder / "access.log"
    log.rename(edge.folder / "old.log")
    assert edge.process is not None
    edge.process.send_signal(signal.SIGUSR1)
    wait_until(log.exists, "a new file")

    def asked() -> bool:
        edge.ask("a.example")
        return log.stat().st_size > 0

    wait_until(asked, "lines in the new file")
