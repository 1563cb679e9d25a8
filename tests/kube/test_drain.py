"""A node is drained under load: nobody who asks the others notices."""

from __future__ import annotations

import pytest

from tests.kube.cluster import Cluster
from tests.kube.installed import Installed
from tests.kube.traffic import HOST, Load, judge, plain
from tests.kube.workload import ingress, service

NODES = 3


@pytest.fixture
def spread_web(kube: Cluster, place: str) -> None:
    """Have a Pod on each node, and a budget."""
    spread = plain("web", place, 3)
    spread["spec"]["template"]["spec"]["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": "web"}},
        }
    ]
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": place},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}},
    }
    kube.api.apply([spread, service("web", place), ingress("web", HOST, "web", place), budget])
    kube.ready_pods(place, "app=web", 3)


def test_a_drained_node(kube: Cluster, edge: Installed, place: str, spread_web: None) -> None:
    edge.everywhere(HOST)
    *staying, leaving = kube.nodes
    on = [pod["spec"]["nodeName"] for pod in kube.ready_pods(place, "app=web", 3)]
    with Load(kube, staying) as load:
        try:
            kube.kubectl(
                "drain", leaving.name, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=90s"
            )
            pods = kube.ready_pods(place, "app=web", 3)
            assert leaving.name not in {pod["spec"]["nodeName"] for pod in pods}
            # A DaemonSet's Pod stays on a drained node: it is asked until the node itself goes.
            assert edge.status(leaving, HOST) == 200
        finally:
            kube.kubectl("uncordon", leaving.name)
        seen = load.finish()
    assert not (wrong := judge(load, seen, tunnels=on.count(leaving.name))), "\n".join(wrong)
