"""Overlays that change how it runs, applied over a running one: io_uring, and one namespace.

Each is a rolling update of every node, there and back; so only where there are three.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kube.cluster import Cluster
from tests.kube.installed import NAME, NAMESPACE, OVERLAY, Installed
from tests.kube.workload import deployment, ingress, service
from tests.manifests.written import MANIFESTS

NODES = 3
BINDINGS = ("clusterrolebinding/xdp-edge-watched", "clusterrolebinding/xdp-edge-events")


def apply(kube: Cluster, folder: object) -> None:
    """Apply a kustomization, and wait until all nodes run it."""
    kube.kubectl("apply", "-k", folder)
    kube.kubectl("-n", NAMESPACE, "rollout", "status", f"daemonset/{NAME}", "--timeout=150s")


@pytest.fixture
def host(kube: Cluster, edge: Installed, place: str) -> Iterator[str]:
    """Serve a host of a namespace that is not `default`; have the usual installation afterwards."""
    name = f"{place}.example"
    kube.api.apply([deployment("web", place), service("web", place), ingress("web", name, "web", place)])
    edge.everywhere(name)
    yield name
    apply(kube, OVERLAY)
    edge.everywhere(name)


def loops(kube: Cluster, edge: Installed) -> set[str]:
    """The loops that the nodes' data planes say they run."""
    shown = [
        kube.kubectl("-n", NAMESPACE, "exec", pod["metadata"]["name"], "-c", "edge", "--", "edge", "status")
        for pod in edge.pods()
    ]
    return {word for text in shown for word in ("uring", "epoll") if word in text}


def test_the_seccomp_profile_of_its_overlay_permits_io_uring(
    kube: Cluster, edge: Installed, host: str
) -> None:
    assert loops(kube, edge) == {"epoll"}
    apply(kube, MANIFESTS / "overlays/io-uring")
    assert loops(kube, edge) == {"uring"}
    edge.everywhere(host)


def test_an_edge_of_one_namespace_cannot_read_another(kube: Cluster, edge: Installed, host: str) -> None:
    apply(kube, MANIFESTS / "overlays/one-namespace")
    kube.kubectl("delete", *BINDINGS)  # kubectl does not take away what is applied no more
    edge.everywhere(host, 404)
    for node in kube.nodes:
        found = edge.admin_json(node, "/diagnostics")["diagnostics"]
        assert not [one for one in found if "orbidden" in one["message"] + one["reason"]], found
