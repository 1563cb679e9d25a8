"""The DaemonSet is rolled under load: no request fails, and packets are judged all the time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kube.cluster import Cluster
from tests.kube.installed import NAME, NAMESPACE, Installed
from tests.kube.traffic import HOST, Load, denied_address, denies, judge, plain
from tests.kube.workload import ingress, service


@pytest.fixture
def served(kube: Cluster, edge: Installed, place: str) -> Iterator[None]:
    """What the client asks for is served on all nodes, and one source is denied."""
    policy = denies()
    kube.api.apply([plain("web", place, 2), service("web", place), ingress("web", HOST, "web", place)])
    kube.api.apply([policy])
    kube.ready_pods(place, "app=web", 2)
    edge.everywhere(HOST)
    with denied_address(kube):
        yield
    kube.api.delete([policy])


def test_an_update_of_the_daemonset_loses_no_request(kube: Cluster, edge: Installed, served: None) -> None:
    before = {pod["metadata"]["name"] for pod in edge.pods()}
    with Load(kube, denied=True) as load:
        kube.kubectl("-n", NAMESPACE, "rollout", "restart", f"daemonset/{NAME}")
        kube.kubectl("-n", NAMESPACE, "rollout", "status", f"daemonset/{NAME}", "--timeout=120s")
        after = {pod["metadata"]["name"] for pod in edge.pods(150)}
        seen = load.finish()
    assert not before & after
    # A tunnel is cut when the old Pod's grace period is over, at most once a node.
    assert not (wrong := judge(load, seen, tunnels=1)), "\n".join(wrong)
    for node in kube.nodes:
        assert edge.metrics(node)["edge_handovers_total"] >= 1, node.name
