"""The Kubernetes of the tests itself: Pods run, are reached, and survive what is broken around them."""

from __future__ import annotations

import json

from tests.fakes.client import Client
from tests.kube.cluster import Cluster
from tests.kube.workload import deployment, namespace, service


def ask(kube: Cluster, address: str, port: int = 8080) -> dict[str, str]:
    with kube.on("client"):
        client = Client(address, port)
    with client:
        answer: dict[str, str] = json.loads(client.ask("web.test").body)
    return answer


def test_a_deployment_is_served_in_both_families(kube: Cluster) -> None:
    kube.api.apply([namespace("lab"), deployment("web", "lab", replicas=2), service("web", "lab", dual=True)])
    pods = kube.ready_pods("lab", "app=web", 2)
    addresses = {entry["ip"] for pod in pods for entry in pod["status"]["podIPs"]}
    assert len(addresses) == 4
    assert {ask(kube, address)["pod"] for address in addresses} == {p["metadata"]["name"] for p in pods}

    def slices() -> set[str]:
        found = kube.api.list("discovery.k8s.io/v1", "EndpointSlice", "lab", "kubernetes.io/service-name=web")
        return {a for s in found for e in s["endpoints"] or [] for a in e["addresses"]}

    kube.wait("slices of both families", lambda: slices() == addresses)
    got = kube.api.get("v1", "Service", "web", "lab")
    for pod in pods:
        assert pod["spec"]["nodeName"] in {node.name for node in kube.nodes}
    assert len(got["spec"]["clusterIPs"]) == 2
    kube.api.delete([namespace("lab")])
