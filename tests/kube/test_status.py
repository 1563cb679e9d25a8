"""Status, Events and leadership on a real API server: instances of a class of their own, one is killed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.proxy import processes
from tests.e2e.running import Running
from tests.kube.api import Object
from tests.kube.images import WEB
from tests.kube.kubernetes import Kubernetes
from tests.kube.workload import deployment, ingress, namespace, service

HERE, CLASS = "story-status", "status-story"
LEASE = ("coordination.k8s.io/v1", "Lease", "xdp-edge-leader", HERE)


def pod(name: str, node: str) -> Object:
    """Stands in for a Pod of ours: Ready, on a node, with the label by which siblings are known."""
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1}
    container = {"name": "web", "image": WEB, "imagePullPolicy": "Never", "readinessProbe": probe}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": HERE, "labels": {"app.kubernetes.io/name": CLASS}},
        "spec": {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 1},
    }


@pytest.fixture
def story(kube: Kubernetes) -> Iterator[None]:
    node = kube.nodes[0].name
    kube.api.apply([namespace(HERE)])
    kube.wait("Pods can be made", lambda: kube.has_account(HERE))
    kube.api.apply([*(pod(f"edge-{letter}", node) for letter in "abc")])
    kube.api.apply([deployment("web", HERE), service("web", HERE)])
    kube.ready_pods(HERE, f"app.kubernetes.io/name={CLASS}", 3)
    yield
    kube.api.delete([namespace(HERE)])


def instance(kube: Kubernetes, folder: Path, letter: str) -> Running:
    folder = folder / letter
    folder.mkdir(exist_ok=True)
    node = kube.nodes[0].name
    inside = SimpleNamespace(inside=lambda _: kube.on(node))
    edge = Running(
        folder,
        folder,
        lab=inside,  # type: ignore[arg-type]
        instance=f"status-{letter}-{os.getpid()}",
        kubeconfig=kube.admin,
        watch_namespace=HERE,
        ingress_class=CLASS,
        node_name=node,
        pod_name=f"edge-{letter}",
        pod_namespace=HERE,
    )
    edge.options["config"] = None
    return edge


def places(kube: Kubernetes, name: str) -> list[str]:
    found = kube.api.get("networking.k8s.io/v1", "Ingress", name, HERE)
    return [one.get("ip") or one["hostname"] for one in found["status"]["loadBalancer"].get("ingress", [])]


def events(kube: Kubernetes, name: str) -> list[tuple[str, str]]:
    found = kube.api.list("events.k8s.io/v1", "Event", HERE)
    ours = [
        one for one in found if one["regarding"].get("name") == name and one["regarding"]["kind"] == "Ingress"
    ]
    return sorted((one["reason"], one["note"]) for one in ours)


def holder(kube: Kubernetes) -> str:
    return str(kube.api.get(*LEASE)["spec"].get("holderIdentity") or "").partition("_")[0]


def kill(edge: Running) -> None:
    """End all its processes at once, as a power cut does."""
    for pid in processes.descendants(edge.process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    edge.process.wait(10)


def test_status_events_and_a_leader_that_dies(kube: Kubernetes, story: None, tmp_path: Path) -> None:
    def applied(name: str, host: str, to: str = "web", **more: Any) -> None:
        kube.api.apply([ingress(name, host, to, HERE, class_name=CLASS, **more)])

    node = kube.api.get("v1", "Node", kube.nodes[0].name)
    own = [one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP"]
    applied("good", "good.example")
    applied("nowhere", "nowhere.example", "no-such-service")
    applied("foreign", "foreign.example")
    kube.kubectl(
        *("-n", HERE, "patch", "ingress", "foreign", "--subresource=status", "--type=merge"),
        *("-p", '{"status": {"loadBalancer": {"ingress": [{"hostname": "lb.test"}]}}}'),
    )
    with instance(kube, tmp_path, "a") as first:
        kube.wait("its addresses", lambda: set(places(kube, "good")) == set(own), 30)
        kube.wait("others' stay", lambda: set(places(kube, "foreign")) == {"lb.test", *own}, 30)
        kube.wait("an Event", lambda: events(kube, "good") == [("Accepted", "served")], 30)
        kube.wait("a refusal", lambda: [one for one, _ in events(kube, "nowhere")] == ["Refused"], 30)
        described = kube.kubectl("-n", HERE, "describe", "ingress", "nowhere")
        assert "Warning" in described and "ServiceNotFound" in described, described
        assert "spec.rules[0].http.paths[0].backend.service" in described, described
        applied("younger", "good.example")
        kube.wait("who lost", lambda: [one for one, _ in events(kube, "younger")] == ["Conflict"], 30)
        assert not places(kube, "younger") and first.metrics()["edge_leader"] == 1
        with instance(kube, tmp_path, "b") as second:
            assert holder(kube) == "edge-a" and second.metrics()["edge_leader"] == 0
            kill(first)
            kube.wait("the second leads", lambda: holder(kube) == "edge-b", 30)
            applied("later", "later.example")
            kube.wait("what came later", lambda: set(places(kube, "later")) == set(own), 30)
            kube.wait("its Event", lambda: events(kube, "later") == [("Accepted", "served")], 30)
            for name, count in (("good", 1), ("nowhere", 1), ("younger", 1), ("foreign", 1)):
                assert len(events(kube, name)) == count, "the next leader says nothing twice"
            kube.api.delete([ingress("nowhere", "nowhere.example", "no-such-service", HERE)])
            with instance(kube, tmp_path, "c") as third:
                assert second.stop() == 0
                kube.wait("a Lease that is given back", lambda: holder(kube) == "edge-c", 10)
                assert set(places(kube, "good")) == set(own), "a stop takes no address away"
                moved = ingress("good", "good.example", "web", HERE, class_name="another")
                kube.api.apply([moved])
                kube.wait("ours alone is taken away", lambda: places(kube, "good") == [], 30)
                applied("foreign", "foreign.example")
                kube.api.apply([ingress("foreign", "foreign.example", "web", HERE, class_name="another")])
                kube.wait("others' stay", lambda: places(kube, "foreign") == ["lb.test"], 30)
                assert third.metrics()['edge_status_writes_total{result="failed"}'] == 0
