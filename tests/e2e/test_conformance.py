"""The scenarios of ingress-controller-conformance against a running instance, from the golden cases.

What tests/golden asks the matcher is asked over HTTP and HTTPS here; each Pod answers with its own address.
Load balancing is counted: 100 requests reach ten Pods.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.proxy.processes import free_port
from tests.e2e.lab import wait_for
from tests.e2e.running import Running
from tests.fakes.client import Client, Response

pytestmark = [pytest.mark.slow]

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = sorted(path.parent for path in GOLDEN.glob("conformance-*/requests.yaml"))
POD_PORT = free_port()


class Pod(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        told = {
            "address": self.connection.getsockname()[0],
            "method": self.command,
            "path": self.path,
            "host": self.headers["Host"],
            "agent": self.headers["User-Agent"],
        }
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def log_message(self, *_words: Any) -> None:
        """Say nothing."""


@contextmanager
def pods(addresses: set[str]) -> Iterator[None]:
    servers = [ThreadingHTTPServer((address, POD_PORT), Pod) for address in sorted(addresses)]
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
    for server in servers:
        server.daemon_threads = True
        server.block_on_close = False
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


def on_loopback(case: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The case's objects with Pods on loopback. Shape: also the Service of each address."""
    objects = [one for one in yaml.load_all((case / "in.yaml").read_text(), yaml.CSafeLoader) if one]
    services = {}
    for one in objects:
        if one["kind"] == "EndpointSlice":
            one["ports"][0]["port"] = POD_PORT
            for endpoint in one["endpoints"]:
                endpoint["addresses"] = [
                    address.replace("198.18.", "127.18.") for address in endpoint["addresses"]
                ]
                for address in endpoint["addresses"]:
                    services[address] = one["metadata"]["labels"]["kubernetes.io/service-name"]
        if one["kind"] == "Secret":
            one["data"] = {}  # that of the golden case is no certificate: the default one is served
    return objects, services


def ask(edge: Running, tls: int, request: str) -> Response:
    method, _, url = request.partition(" ")
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    port = tls if scheme == "https" else edge.port
    name = host if scheme == "https" else None
    with Client(edge.address, port, tls_name=name) as client:
        return client.ask(host, slash + path, method, {"User-Agent": "Conformance/1.1"})


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_case(case: Path, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    objects, services = on_loopback(case)
    (config / "case.yaml").write_text(yaml.safe_dump_all(objects))
    wanted = yaml.safe_load((case / "requests.yaml").read_text())
    tls = free_port()
    with pods(set(services)), Running(tmp_path, config, workers=1, https=f"127.0.0.1:{tls}") as edge:
        for request, answer in wanted.items():
            response = ask(edge, tls, request)
            if str(answer).isdigit():
                assert response.status == answer, request
                continue
            assert response.status == 200, request
            told = json.loads(response.body)
            service = answer.partition("/")[2].partition(":")[0]
            method, _, url = request.partition(" ")
            host, slash, path = url.partition("://")[2].partition("/")
            assert services[told["address"]] == service
            assert (told["method"], told["path"], told["host"]) == (method, slash + path, host)
            assert told["agent"] == "Conformance/1.1"
            assert {"content-length", "content-type", "date", "server"} <= response.headers.keys()
        if case.name == "conformance-load-balancing":
            with Client(edge.address, edge.port) as client:
                seen = {json.loads(client.ask("load-balancing").body)["address"] for _ in range(100)}
            assert seen == set(services) and len(seen) == 10
        wait_for("nothing is wrong", lambda: edge.admin_json("/diagnostics")["publish_error"] == "")


def test_all_scenarios_are_there() -> None:
    asked = {case.name: len(yaml.safe_load((case / "requests.yaml").read_text())) for case in CASES}
    assert asked == {
        "conformance-default-backend": 6,
        "conformance-host-rules": 6,
        "conformance-ingress-class": 1,
        "conformance-load-balancing": 1,
        "conformance-path-rules": 15,
    }
