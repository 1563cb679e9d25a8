"""A ConfigMap that an IngressClass names: in force for that class alone, changed while it runs.

Stories on loopback, by the folder and by the API server double.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.options import CONTROLLER_CLASS
from tests.e2e.lab import wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import Running, pod
from tests.fakes.apiserver import ApiServer

pytestmark = pytest.mark.slow

CLASSES = ("edge", "secure")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with pod("web") as number:
        yield number


def objects(port: int) -> list[dict[str, Any]]:
    found = [service("web"), endpoints("web", port)]
    for name in CLASSES:
        one = ingress(name, [(f"{name}.example", "/", "web")])
        one["spec"]["ingressClassName"] = name
        found.append(one)
    parameters = {"kind": "ConfigMap", "scope": "Namespace", "namespace": "settings", "name": "secure"}
    spec = {"controller": CONTROLLER_CLASS, "parameters": parameters}
    meta = {"name": "secure"}
    found.append(
        {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": meta, "spec": spec}
    )
    return found


def config_map(name: str = "secure", **data: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "settings"}
    keys = {key.replace("_", "-"): value for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": keys}


def statuses(edge: Running) -> list[int]:
    return [edge.served(f"{name}.example") for name in CLASSES]


def findings(edge: Running) -> list[str]:
    return [f"{one['object']} {one['reason']}" for one in edge.admin_json("/diagnostics")["diagnostics"]]


def publishes(edge: Running) -> float:
    return sum(n for name, n in edge.metrics().items() if "edge_publishes_total" in name)


def test_by_the_folder(tmp_path: Path, port: int) -> None:
    config = tmp_path / "config"
    config.mkdir()
    write(config, "objects.yaml", *objects(port))
    with Running(tmp_path, config, workers=1, ingress_class=",".join(CLASSES)) as edge:
        assert statuses(edge) == [200, 200]
        assert findings(edge) == ["IngressClass/secure ParametersNotFound"]
        write(config, "settings.yaml", config_map(force_ssl_redirect="true"))
        wait_for("one class redirects", lambda: statuses(edge) == [200, 308])
        wait_for("nothing is wrong", lambda: findings(edge) == [])
        before = publishes(edge)
        write(config, "other.yaml", config_map("other", force_ssl_redirect="maybe"))
        write(config, "settings.yaml", config_map(force_ssl_redirect="maybe"))
        wait_for("it does not any more", lambda: statuses(edge) == [200, 200])
        wait_for("why", lambda: findings(edge) == ["ConfigMap/settings/secure InvalidSetting"])
        assert publishes(edge) == before + 1, "nobody names the other"
        write(config, "settings.yaml", config_map(force_ssl_redirect="true"))
        wait_for("it does again", lambda: statuses(edge) == [200, 308])
        assert edge.stop() == 0


def test_by_the_api_server_it_is_in_the_first_version(tmp_path: Path, port: int) -> None:
    with ApiServer(tls=True) as server:
        for one in objects(port):
            server.put(one)
        server.put(config_map(force_ssl_redirect="true"))
        options: dict[str, Any] = {
            "kubeconfig": server.kubeconfig(tmp_path),
            "instance": "kept",
            "workers": 1,
            "ingress_class": ",".join(CLASSES),
        }
        for _ in ("with nothing kept", "with what was kept"):
            with Running(tmp_path, None, **options) as edge:  # type: ignore[arg-type]
                assert statuses(edge) == [200, 308] and findings(edge) == []
                assert publishes(edge) == 1
                wait_for("it is kept", lambda edge=edge: edge.metrics()["edge_state_current"] == 1)
                assert edge.stop() == 0
        server.stop()
        with Running(tmp_path, None, **options) as edge:  # type: ignore[arg-type]
            assert statuses(edge) == [200, 308], "what was kept"
            server.put(config_map(force_ssl_redirect="false"))
            server.start()
            wait_for("what it says now", lambda: statuses(edge) == [200, 200])
            server.remove("ConfigMap", "settings", "secure")
            wait_for("that it is gone", lambda: findings(edge) == ["IngressClass/secure ParametersNotFound"])
            assert edge.stop() == 0
