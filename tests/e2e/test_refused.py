"""What only C refuses: it becomes a finding by object, field and reason, and the rest is served.

Stories on loopback; nothing here needs root. Which values the model refuses stands in tests/edge/model.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from bench.proxy.processes import free_port
from edge.controller.default_certificate import make_default_certificate
from tests.e2e.lab import wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import Running, pod
from tests.fakes.client import Client

pytestmark = pytest.mark.slow


def secret(chain: bytes, key: bytes) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": "cert", "namespace": "default"},
        "stringData": {"tls.crt": chain.decode(), "tls.key": key.decode()},
    }


def certificate_of(address: str, port: int, name: str) -> bytes:
    """Shape: the DER that the listener shows for a name."""
    with Client(address, port, tls_name=name) as client:
        return client.socket.getpeercert(binary_form=True) or b""  # type: ignore[attr-defined]


def test_a_key_of_another_certificate_is_named_and_the_rest_is_served(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    now = datetime.datetime.now(datetime.UTC)
    (chain, key), (_, other) = make_default_certificate(now), make_default_certificate(now)
    secured = ingress("a", [("a.example", "/", "web")])
    secured["spec"]["tls"] = [{"hosts": ["a.example"], "secretName": "cert"}]
    tls = free_port()
    with pod("web") as port:
        write(config, "objects.yaml", service("web"), endpoints("web", port))
        write(config, "a.yaml", secured)
        write(config, "secret.yaml", secret(chain, other))
        with Running(tmp_path, config, https=f"127.0.0.1:{tls}", workers=1) as edge:

            def findings() -> list[dict[str, str]]:
                found = edge.admin_json("/diagnostics")
                assert found["publish_error"] == ""
                return [one for one in found["diagnostics"] if one["reason"] == "Refused"]

            [finding] = findings()
            assert finding["object"] == "Secret/default/cert"
            assert finding["field"] == "data[tls.key]"
            assert "key" in finding["message"] and "certificate" in finding["message"]
            assert edge.metrics()['edge_publishes_total{kind="refused"}'] == 1
            assert edge.served("a.example") == 308  # what is broken does not turn encryption off
            shown = certificate_of("127.0.0.1", tls, "a.example")

            write(config, "b.yaml", ingress("b", [("b.example", "/", "web")]))
            wait_for("others are served meanwhile", lambda: edge.served("b.example") == 200)
            assert len(findings()) == 1

            write(config, "secret.yaml", secret(chain, key))
            wait_for("the finding is gone", lambda: not findings())
            wait_for(
                "its certificate is served",
                lambda: certificate_of("127.0.0.1", tls, "a.example") != shown,
            )
            wait_for("plain requests are sent there", lambda: edge.served("a.example") == 308)

            write(config, "secret.yaml", secret(chain, other))
            wait_for("refused anew", lambda: len(findings()) == 1)
            assert edge.served("b.example") == 200
