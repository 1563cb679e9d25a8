"""What breaks on one node of several, and what takes its time: the rest of the table of failures."""

from __future__ import annotations

import base64

import pytest

from tests.e2e.lab import ROOT, wait_for
from tests.kube.api import KubeError
from tests.kube.cluster import Cluster, condition
from tests.kube.failures import HERE, Failures
from tests.kube.installed import NAMESPACE, OVERLAY
from tests.kube.network import CONTROL
from tests.kube.node import Node
from tests.kube.test_failures import restart_api
from tests.kube.workload import ingress

NODES = 3
CUT = f"""
table inet cut {{
  chain out {{ type filter hook output priority 100; ip daddr {CONTROL} drop; }}
  chain in {{ type filter hook input priority 100; ip saddr {CONTROL} drop; }}
}}
"""


def leader(kube: Cluster) -> str:
    """Return the Pod that leads, empty when none does."""
    try:
        lease = kube.api.get("coordination.k8s.io/v1", "Lease", "xdp-edge-leader", NAMESPACE)
    except KubeError:
        return ""
    return str(lease["spec"].get("holderIdentity") or "")


def node_of(kube: Cluster, failure: Failures, pod: str) -> Node:
    return next(node for node in kube.nodes if failure.pod_on(node) in pod)


def test_a_node_that_cannot_reach_the_api_server(kube: Cluster, failure: Failures) -> None:
    node = kube.nodes[2]
    with failure(f"{node.name} cut off from the API server, not from clients") as row:
        node.run(["nft", "-f", "-"], give=CUT.encode())
        try:
            failure.says(row, "Unreachable", node=node, seconds=90)
            kube.wait(
                "the node is lost",
                lambda: condition(kube.api.get("v1", "Node", node.name), "Ready") == "Unknown",
            )
            row.operators.append("node NotReady")
        finally:
            node.run(["nft", "delete", "table", "inet", "cut"])
        kube.wait("the node is back", kube.takes_pods)
        kube.ready_pods(HERE, "app=web", 2)
        failure.is_well()


def test_a_node_without_a_cable(kube: Cluster, failure: Failures) -> None:
    node = kube.nodes[1]
    with failure(f"{node.name} without its cable") as row:
        row.unreachable.add(node.name)
        row.may_fail = 10
        node.cut_link()
        try:
            kube.wait(
                "the node is lost",
                lambda: condition(kube.api.get("v1", "Node", node.name), "Ready") == "Unknown",
            )
            row.operators.append("node NotReady")
        finally:
            node.restore_link()
        kube.wait("the node is back", kube.takes_pods)
        kube.ready_pods(HERE, "app=web", 2)
        failure.is_well()


def test_the_leader_loses_its_power(kube: Cluster, failure: Failures) -> None:
    first = kube.wait("somebody leads", lambda: leader(kube))
    node = node_of(kube, failure, first)
    with failure("the leader's node without power, then booted again") as row:
        row.unreachable.add(node.name)
        row.may_fail = 10
        node.cut_power()
        second = kube.wait("another leads", lambda: leader(kube) not in ("", first) and leader(kube), 90)
        row.operators.append(f"{first} led, then {second}")
        late = ingress("late", "late.test", "web", HERE)
        kube.api.apply([late])

        def told() -> bool:
            got = kube.api.get("networking.k8s.io/v1", "Ingress", "late", HERE)
            return bool(got["status"].get("loadBalancer", {}).get("ingress"))

        kube.wait("the new leader writes a status", told, 60)
        row.operators.append("an Ingress made meanwhile got its status")
        node.boot()
        kube.wait("the node is back", kube.takes_pods)
        failure.edge.pods(150)
        kube.api.delete([late])


def test_rights_are_too_small(kube: Cluster, failure: Failures) -> None:
    role = kube.api.get("rbac.authorization.k8s.io/v1", "ClusterRole", "xdp-edge-watched")
    less = [rule for rule in role["rules"] if "endpointslices" not in rule["resources"]]
    with failure("RBAC without endpointslices") as row:
        kube.api.patch(role, {"rules": less})
        restart_api(kube)  # a watch that runs is not ended by a right that goes
        failure.says(row, "Forbidden")
        kube.kubectl("apply", "-k", OVERLAY)
        failure.is_well(120)


def test_the_definition_of_policies_is_missing(kube: Cluster, failure: Failures) -> None:
    with failure("CRD of EdgePolicy deleted, then applied again") as row:
        kube.kubectl("delete", "crd", "edgepolicies.xdp-edge.dev")
        failure.says(row, "ResourceMissing", seconds=90)
        kube.kubectl("apply", "-k", ROOT / "manifests" / "crds")
        failure.is_well(120)


def test_a_secret_that_is_too_large(kube: Cluster, failure: Failures) -> None:
    def secret(name: str, size: int) -> dict[str, object]:
        data = {key: base64.b64encode(b"x" * size).decode() for key in ("tls.crt", "tls.key")}
        meta = {"name": name, "namespace": HERE}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": meta,
            "data": data,
        }

    with failure("Secret of 1 MiB and more; one of 1,000 KiB that is no certificate") as row:
        with pytest.raises(KubeError) as refused:
            kube.api.create(secret("huge", 600 * 1024))
        row.operators.append(f"API server: {refused.value.status} {refused.value.reason}")
        kube.api.apply([secret("large", 500 * 1024)])
        using = ingress("large", "large.test", "web", HERE)
        using["spec"]["tls"] = [{"hosts": ["large.test"], "secretName": "large"}]
        kube.api.apply([using])

        def said() -> str:
            found = failure.findings(kube.nodes[0])
            return next(
                (text for reason, text in found if "large" in text and reason != "SecretNotFound"), ""
            )

        row.operators.append(f"/diagnostics: {kube.wait('the Secret is refused', said)[:160]}")
        kube.api.delete([using, secret("large", 1)])


def test_the_disk_is_full(kube: Cluster, failure: Failures) -> None:
    node = kube.nodes[0]

    def inside(*command: str) -> None:
        script = 'exec nsenter -t $(pgrep -o -x edge-holder) -m /run/edge/busybox "$@"'
        node.run(["sh", "-c", script, "sh", *command])

    def errors() -> float:
        return failure.edge.metrics(node)["edge_state_write_errors_total"]

    before = errors()
    node.run(["cp", "/bin/busybox", "/run/xdp-edge/busybox"])
    with failure("the disk of the state folder full") as row:
        inside("mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", "/var/lib/edge")
        try:
            inside("sh", "-c", "dd if=/dev/zero of=/var/lib/edge/filled bs=1k count=64 2>/dev/null; true")
            failure.takes_changes()
            wait_for("the error is counted", lambda: errors() > before, 60)
            state = failure.edge.admin_json(node, "/diagnostics")["state"]
            row.operators.append(f"/diagnostics: state: {state['error'][:120]}")
        finally:
            inside("umount", "-l", "/var/lib/edge")
        wait_for("the state is written", lambda: failure.edge.metrics(node)["edge_state_current"] == 1, 90)
