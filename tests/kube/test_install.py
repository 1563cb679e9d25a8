"""Applied as a user applies it: the DaemonSet comes up, an Ingress is answered, its status says where."""

from __future__ import annotations

import json

from tests.kube.api import Object
from tests.kube.cluster import Cluster
from tests.kube.installed import NAME, NAMESPACE, Installed
from tests.kube.workload import deployment, ingress, service


def addresses(found: Object) -> set[str]:
    entries = found.get("status", {}).get("loadBalancer", {}).get("ingress", [])
    return {entry.get("ip", entry.get("hostname", "")) for entry in entries}


def test_an_ingress_is_answered_on_every_node(kube: Cluster, edge: Installed, place: str) -> None:
    rollout = kube.kubectl("-n", NAMESPACE, "rollout", "status", f"daemonset/{NAME}", "--timeout=60s")
    assert "successfully rolled out" in rollout
    kube.api.apply([deployment("web", place), service("web", place)])
    written = "".join(json.dumps(one) for one in [ingress("web", "install.example", "web", place)])
    kube.kubectl("apply", "-f", "-", give=written)
    edge.everywhere("install.example")
    for node in kube.nodes:
        told = edge.told(node, "install.example", "/where?is=it")
        assert (told["service"], told["path"]) == ("web", "/where?is=it"), told
        assert told["host"] == "install.example"
        assert edge.metrics(node)["edge_xdp_attached"] == 1

    def named() -> Object:
        return kube.api.get("networking.k8s.io/v1", "Ingress", "web", place)

    wanted = {node.address for node in kube.nodes}
    kube.wait("status names the nodes", lambda: addresses(named()) >= wanted, 30)
    shown = kube.kubectl("-n", place, "get", "ingress", "web")
    assert any(address in shown for address in wanted), shown
    kube.kubectl("-n", place, "delete", "ingress", "web")
    edge.everywhere("install.example", 404)
