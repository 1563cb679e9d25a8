"""What needs more than one node of the lab itself: a lost node is noticed, replaced, and comes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kube.api import Object
from tests.kube.cluster import Cluster, condition
from tests.kube.node import Node
from tests.kube.workload import deployment, namespace

NODES = 3


@pytest.fixture(scope="module")
def pods(kube: Cluster) -> Iterator[list[Object]]:
    kube.api.apply([namespace("lab-nodes"), deployment("web", "lab-nodes", replicas=3)])
    yield kube.ready_pods("lab-nodes", "app=web", 3)
    kube.api.delete([namespace("lab-nodes")])


def state(kube: Cluster, node: Node) -> str:
    return condition(kube.api.get("v1", "Node", node.name), "Ready")


def test_power_cut_moves_the_pods_and_the_node_comes_back(kube: Cluster, pods: list[Object]) -> None:
    node = next(n for n in kube.nodes if n.name == pods[0]["spec"]["nodeName"])
    node.cut_power()
    kube.wait("the node is lost", lambda: state(kube, node) == "Unknown")

    def moved() -> bool:
        found = kube.api.list("v1", "Pod", "lab-nodes")
        good = [
            p for p in found if p["spec"].get("nodeName") != node.name and condition(p, "Ready") == "True"
        ]
        return len(good) == 3

    kube.wait("the Pods run elsewhere", moved, 90)
    node.boot()
    kube.wait("the node is back", kube.takes_pods)
    kube.ready_pods("lab-nodes", "app=web", 3)


def test_link_cut_is_noticed_and_ends(kube: Cluster, pods: list[Object]) -> None:
    node = kube.nodes[2]
    node.cut_link()
    try:
        kube.wait("the node is lost", lambda: state(kube, node) == "Unknown")
    finally:
        node.restore_link()
    kube.wait("the node is back", kube.takes_pods)
