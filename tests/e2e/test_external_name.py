"""A Service of type ExternalName on a running instance: resolved, followed, kept when its name is lost.

The resolver is the test's own, on loopback; no question leaves the machine.
"""

from __future__ import annotations

import os
import signal
from ipaddress import ip_address
from pathlib import Path

import pytest

from bench.proxy.processes import command_name, descendants
from tests.e2e.lab import wait_for
from tests.e2e.objects import ingress, write
from tests.e2e.running import Running, pod
from tests.edge.controller.test_names import dns_server

pytestmark = [pytest.mark.slow]


def external(name: str, host: str, port: int) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "ExternalName",
            "externalName": host,
            "ports": [{"port": 80, "targetPort": port}],
        },
    }


def test_a_name_is_followed_and_outlives_its_resolver(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    one, two = (ip_address(text).packed for text in ("127.0.0.1", "127.0.0.7"))
    records = {("ext.test", 1): [one]}
    with pod("web") as port, dns_server(records, ttl=1) as resolver:
        write(config, "service.yaml", external("ext", "ext.test", port), external("own", "ext.test", 1))
        write(config, "a.yaml", ingress("a", [("a.example", "/", "ext")]))
        options = {"resolver": resolver, "external_allow": "127.0.0.1/32"}
        with Running(tmp_path, config, workers=1, **options) as edge:

            def reasons() -> list[str]:
                return [found["reason"] for found in edge.admin_json("/diagnostics")["diagnostics"]]

            assert edge.served("a.example") == 200, "names are resolved before the first answer"
            assert reasons() == []
            records["ext.test", 1] = [two]
            wait_for("an address that is not allowed is refused", lambda: edge.served("a.example") == 503)
            assert reasons() == ["ForbiddenAddress"]
            records["ext.test", 1] = [one]
            wait_for("the name is followed back", lambda: edge.served("a.example") == 200)
            del records["ext.test", 1]
            wait_for("a lost name is told", lambda: reasons() == ["NotResolved"])
            assert edge.served("a.example") == 200, "the last good address stays"

            (controller,) = (
                pid for pid in descendants(edge.process.pid) if command_name(pid) == "edge-controller"
            )
            os.kill(controller, signal.SIGKILL)
            wait_for(
                "another controller knows it, too",
                lambda: (
                    edge.metrics().get('edge_restarts_total{process="controller"}')
                    and reasons() == ["NotResolved"]
                ),
            )
            assert edge.served("a.example") == 200
