"""Deploy, scale, roll, delete, under 1,000 requests a second through each node: nobody notices."""

from __future__ import annotations

from tests.kube.cluster import Cluster
from tests.kube.installed import Installed
from tests.kube.traffic import HOST, Load, judge, plain
from tests.kube.workload import deployment, ingress, service


def test_scaled_up_and_down(kube: Cluster, edge: Installed, place: str) -> None:
    kube.api.apply(
        [deployment("web", place), service("web", place), ingress("web", "scale.example", "web", place)]
    )
    edge.everywhere("scale.example")
    for replicas in (4, 1):
        kube.api.apply([deployment("web", place, replicas=replicas)])
        pods = {pod["metadata"]["name"] for pod in kube.ready_pods(place, "app=web", replicas)}
        for node in kube.nodes:

            def seen(node=node, ask=4 * replicas) -> set[str]:  # type: ignore[no-untyped-def]
                return {edge.told(node, "scale.example").get("pod", "") for _ in range(ask)}

            kube.wait(
                f"{replicas} Pods answer on {node.name}", lambda seen=seen, pods=pods: seen() == pods, 20
            )
    kube.api.apply([deployment("web", place, replicas=0)])
    edge.everywhere("scale.example", 503)
    kube.api.delete([ingress("web", "scale.example", "web", place)])
    edge.everywhere("scale.example", 404)


def test_nobody_notices_a_rolling_deployment(kube: Cluster, edge: Installed, place: str) -> None:
    replicas = 2
    kube.api.apply([plain("web", place, replicas), service("web", place), ingress("web", HOST, "web", place)])
    kube.ready_pods(place, "app=web", replicas)
    edge.everywhere(HOST)
    with Load(kube) as load:
        for version in ("2", "3"):
            kube.api.apply([plain("web", place, replicas, version)])
            kube.kubectl("-n", place, "rollout", "status", "deployment/web", "--timeout=60s")
        kube.ready_pods(place, "app=web", replicas)
        seen = load.finish()
    # A tunnel ends with its Pod, twice here; nothing else may.
    assert not (wrong := judge(load, seen, tunnels=2 * replicas)), wrong
    assert all(one.requests >= 1000 for one in seen.values()), seen
