"""The Kubernetes of the tests itself: Pods run, are reached, outlive what breaks; nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.lab import ROOT, wait_for
from tests.fakes.client import Client
from tests.kube.api import Object
from tests.kube.cluster import Cluster
from tests.kube.place import Place, sweep
from tests.kube.workload import deployment, namespace, service


@pytest.fixture(scope="module")
def pods(kube: Cluster) -> Iterator[list[Object]]:
    kube.api.apply([namespace("lab"), deployment("web", "lab", replicas=2), service("web", "lab", dual=True)])
    yield kube.ready_pods("lab", "app=web", 2)
    kube.api.delete([namespace("lab")])


def ask(kube: Cluster, address: str, port: int = 8080) -> dict[str, str]:
    with kube.on("client"):
        client = Client(address, port)
    with client:
        answer: dict[str, str] = json.loads(client.ask("web.test").body)
    return answer


def restarts(kube: Cluster) -> int:
    found = kube.api.list("v1", "Pod", "lab")
    return sum(status["restartCount"] for pod in found for status in pod["status"]["containerStatuses"])


def test_a_deployment_is_served_in_both_families(kube: Cluster, pods: list[Object]) -> None:
    addresses = {entry["ip"] for pod in pods for entry in pod["status"]["podIPs"]}
    assert len(addresses) == 4
    assert {ask(kube, address)["pod"] for address in addresses} == {p["metadata"]["name"] for p in pods}

    def slices() -> set[str]:
        selector = "kubernetes.io/service-name=web"
        found = kube.api.list("discovery.k8s.io/v1", "EndpointSlice", "lab", selector)
        return {a for s in found for e in s["endpoints"] or [] for a in e["addresses"]}

    kube.wait("slices of both families", lambda: slices() == addresses)


def test_service_addresses_lead_to_pods_from_a_node(kube: Cluster, pods: list[Object]) -> None:
    addresses = kube.api.get("v1", "Service", "web", "lab")["spec"]["clusterIPs"]
    assert len(addresses) == 2
    names = {pod["metadata"]["name"] for pod in pods}
    for address in addresses:

        def answers(address: str = address) -> bool:
            with kube.on("n1"):
                try:
                    client = Client(address, 80, timeout=2)
                except OSError:
                    return False
            with client:
                return json.loads(client.ask("web.test").body)["pod"] in names

        wait_for(f"kube-proxy serves {address}", answers)


@pytest.mark.parametrize("daemon", ["kubelet", "containerd"])
def test_pods_run_on_when_a_daemon_of_the_node_restarts(
    kube: Cluster, pods: list[Object], daemon: str
) -> None:
    before = restarts(kube)
    kube.nodes[0].restart(daemon)
    for pod in pods:
        assert ask(kube, pod["status"]["podIP"])["pod"] == pod["metadata"]["name"]
    kube.wait("the kubelet answers", lambda: kube.api.raw("GET", "/api/v1/nodes/n1/proxy/healthz") == b"ok")
    kube.wait("the node is Ready", kube.takes_pods)
    assert restarts(kube) == before


def test_the_api_server_ends_and_comes_back(kube: Cluster, pods: list[Object]) -> None:
    kube.control.stop("api", signal.SIGKILL)
    assert not kube.api.ready()
    assert ask(kube, pods[0]["status"]["podIP"])["pod"] == pods[0]["metadata"]["name"]
    kube.control.start("api")
    kube.control.wait_ready()
    kube.ready_pods("lab", "app=web", 2)
    kube.settles("lab")


def test_what_a_killed_owner_leaves_is_found_and_removed() -> None:
    owner = subprocess.Popen([sys.executable, "-m", "tests.kube.cluster"], cwd=ROOT, env=os.environ)
    place = Place(owner.pid)
    try:
        wait_for("its node runs", lambda: (place.run / "n1" / "power.pid").exists(), 60)
    finally:
        owner.kill()
        owner.wait()
    assert place.name in sweep()
    assert not place.run.exists()
    assert not place.namespaces()
    assert not place.cgroups()
