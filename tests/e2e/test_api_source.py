"""An instance whose objects come from an API server that is away: at a start, while it runs, over both.

Stories on loopback, with the API server double. What one follower does stands in tests/edge/sources.
"""

from __future__ import annotations

import os
import signal
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.proxy.processes import free_port
from tests.e2e.lab import wait_for
from tests.e2e.objects import endpoints, ingress, service
from tests.e2e.running import Running, pod
from tests.e2e.test_state_tls import certificate
from tests.fakes.apiserver import ApiServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with pod("web") as number:
        yield number


@pytest.fixture
def server(port: int) -> Iterator[ApiServer]:
    with ApiServer(tls=True) as found:
        found.put(service("web"))
        found.put(endpoints("web", port))
        for name in "ab":
            found.put(ingress(name, [(f"{name}.example", "/", "web")]))
        yield found


def instance(tmp_path: Path, server: ApiServer, **options: object) -> Running:
    return Running(
        tmp_path,
        None,  # type: ignore[arg-type]
        kubeconfig=server.kubeconfig(tmp_path),
        instance="kept",
        workers=1,
        **options,  # type: ignore[arg-type]
    )


def statuses(edge: Running, names: str) -> list[int]:
    return [edge.served(f"{name}.example") for name in names]


def reasons(edge: Running) -> list[str]:
    found = edge.admin_json("/diagnostics")
    assert found["publish_error"] == ""
    return sorted({one["reason"] for one in found["diagnostics"]})


def test_away_while_it_runs_and_over_a_start(tmp_path: Path, server: ApiServer) -> None:
    with instance(tmp_path, server) as edge:
        assert statuses(edge, "abc") == [200, 200, 404] and reasons(edge) == []
        server.put(ingress("c", [("c.example", "/", "web")]))
        wait_for("the third host", lambda: statuses(edge, "c") == [200])
        server.stop()
        wait_for("the finding", lambda: reasons(edge) == ["Unreachable"])
        assert edge.admin_json("/diagnostics")["source"]["lost_since"]
        os.kill(edge.pid("edge-controller"), signal.SIGKILL)
        wait_for("the next controller", lambda: edge.ready() and reasons(edge) == ["Unreachable"])
        assert statuses(edge, "abc") == [200, 200, 200]
        assert edge.stop() == 0
    server.remove("Ingress", "default", "a")
    with instance(tmp_path, server) as edge:
        assert statuses(edge, "abc") == [200, 200, 200]
        assert "objects accepted until" in edge.lines()
        server.start()
        wait_for("what was deleted is gone", lambda: statuses(edge, "abc") == [404, 200, 200])
        wait_for("no finding", lambda: reasons(edge) == [])
        wait_for("it is there", lambda: edge.admin_json("/diagnostics")["source"]["lost_since"] is None)
        assert edge.stop() == 0


def test_what_runs_is_newer_than_what_was_written_and_goes_on(tmp_path: Path, server: ApiServer) -> None:
    with instance(tmp_path, server) as edge:
        for name in "cdef":  # the state is written once a second: of the last ones it knows nothing
            server.put(ingress(name, [(f"{name}.example", "/", "web")]))
            wait_for(f"host {name}", lambda name=name: statuses(edge, name) == [200], 20, 0.001)
        server.stop()
        os.kill(edge.pid("edge-controller"), signal.SIGKILL)
        wait_for("the next controller", lambda: edge.metrics()['edge_restarts_total{process="controller"}'])
        wait_for("its finding", lambda: edge.ready() and reasons(edge) == ["Unreachable"])
        for _ in range(300):  # it would publish what it knows about now
            assert statuses(edge, "abcdef") == [200] * 6
        assert "is newer than" in edge.lines()
        server.remove("Ingress", "default", "a")
        server.start()
        wait_for("what was deleted is gone", lambda: statuses(edge, "abcdef") == [404, *[200] * 5])
        wait_for("no finding", lambda: reasons(edge) == [])
        assert edge.stop() == 0


def test_nothing_kept_and_nobody_there_waits_and_can_be_stopped(tmp_path: Path, server: ApiServer) -> None:
    server.stop()
    edge = instance(tmp_path, server)
    edge.start()
    try:
        wait_for("it says what it waits for", lambda: "waiting for the API server" in edge.lines())
        assert edge.admin("/readyz").status == 503
        assert edge.served("a.example") == 0  # no listener is open: nothing is answered wrongly
        assert edge.stop() == 0
        assert "Task was destroyed" not in edge.lines()
    finally:
        edge.close()
    edge = instance(tmp_path, server)
    edge.start()
    try:
        wait_for("it waits", lambda: edge.lines().count("waiting for the API server") == 2)
        server.start()
        wait_for("it serves", lambda: statuses(edge, "ab") == [200, 200])
        assert edge.stop() == 0
    finally:
        edge.close()


def test_a_secret_that_may_not_be_read_is_named_and_the_rest_is_served(
    tmp_path: Path, server: ApiServer
) -> None:
    server.forbid("list", "secrets")
    server.unserve("edgepolicies")
    with instance(tmp_path, server) as edge:
        assert statuses(edge, "ab") == [200, 200]
        assert reasons(edge) == ["Forbidden", "ResourceMissing"]
        assert edge.stop() == 0


def test_a_certificate_of_another_type_is_in_the_first_version(tmp_path: Path, server: ApiServer) -> None:
    chain, key = certificate("c.example")
    data = {"tls.crt": b64encode(chain).decode(), "tls.key": b64encode(key).decode()}
    meta = {"name": "cert", "namespace": "default"}
    server.put({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": data})
    secured = ingress("c", [("c.example", "/", "web")])
    secured["spec"]["tls"] = [{"hosts": ["c.example"], "secretName": "cert"}]
    server.put(secured)
    for _ in ("with nothing kept", "with what was kept"):
        with instance(tmp_path, server, https=f"127.0.0.1:{free_port()}") as edge:

            def keys(edge: Running = edge) -> list[bool]:
                found = edge.admin_json("/snapshot")["certificates"]
                return [not one["withheld"] for one in found if "c.example" in one["names"]]

            wait_for("the certificate", lambda: keys() == [True])
            publishes = {name: n for name, n in edge.metrics().items() if "edge_publishes_total" in name}
            assert sum(publishes.values()) == 1, publishes
            assert edge.stop() == 0
