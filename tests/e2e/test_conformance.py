"""The scenarios of ingress-controller-conformance on a folder: each Pod is an address of loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.proxy.processes import free_port
from tests.e2e.conformance import CASES, SCENARIOS, check, objects_of, requests_of
from tests.e2e.lab import wait_for
from tests.e2e.running import Running
from tests.fakes.client import Client, Response

pytestmark = [pytest.mark.slow]

POD_PORT = free_port()


class Pod(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    services: Mapping[str, str]  # by address

    def answer(self) -> None:
        address = self.connection.getsockname()[0]
        told = {
            "pod": address,
            "service": self.services[address],
            "method": self.command,
            "path": self.path,
            "host": self.headers["Host"],
            "headers": {name: self.headers.get_all(name) for name in self.headers},
        }
        body = json.dumps(told).encode()
        self.send_response_only(200)  # without a Server field, as the suite's own server
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def log_message(self, *_words: Any) -> None:
        """Say nothing."""


@contextmanager
def pods(services: Mapping[str, str]) -> Iterator[None]:
    kind = type("Pod", (Pod,), {"services": services})
    servers = [ThreadingHTTPServer((address, POD_PORT), kind) for address in sorted(services)]
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
    objects = objects_of(case)
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


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_case(case: Path, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    objects, services = on_loopback(case)
    (config / "case.yaml").write_text(yaml.safe_dump_all(objects))
    tls = free_port()
    with pods(services), Running(tmp_path, config, workers=1, https=f"127.0.0.1:{tls}") as edge:

        def ask(scheme: str, host: str, path: str, method: str, headers: dict[str, str]) -> Response:
            port, name = (tls, host) if scheme == "https" else (edge.port, None)
            with Client(edge.address, port, tls_name=name) as client:
                return client.ask(host, path, method, headers)

        check(case, ask)
        wait_for("nothing is wrong", lambda: edge.admin_json("/diagnostics")["publish_error"] == "")


def test_all_scenarios_are_there() -> None:
    assert {case.name: len(requests_of(case)) for case in CASES} == SCENARIOS
