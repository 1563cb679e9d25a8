"""What breaks around xdp-edge, on one node and more: clients see nothing of it, operators are told."""

from __future__ import annotations

import json
import os
import threading

from tests.kube import keys
from tests.kube.cluster import Cluster
from tests.kube.failures import HERE, HOST, Failures
from tests.kube.installed import OVERLAY
from tests.kube.workload import ingress

OUTAGE_S = 300.0 if os.environ.get("EDGE_LONG") else 10.0  # longer than nodes may be silent: control.py


def last(seconds: float) -> None:
    """Let an outage last; nothing is waited for but its length."""
    threading.Event().wait(seconds)


def restart_api(kube: Cluster) -> None:
    with kube.control.api_away():
        pass


def test_api_server_away(kube: Cluster, failure: Failures) -> None:
    with failure(f"API server killed, away for {OUTAGE_S:g} s more than it took to notice") as row:
        with kube.control.api_away():
            failure.says(row, "Unreachable")
            last(OUTAGE_S)
        failure.is_well()


def test_controller_killed_while_the_api_server_is_away(kube: Cluster, failure: Failures) -> None:
    node = kube.nodes[0]
    with failure("controller killed while the API server is away") as row:
        with kube.control.api_away():
            node.run(["pkill", "-KILL", "-x", "edge-controller"])
            failure.says(row, "Unreachable")
        failure.is_well()


def test_tokens_are_void_at_once(kube: Cluster, failure: Failures) -> None:
    with failure("tokens of all service accounts void; kubelet gives new ones later") as row:
        keys.new_token_key(kube.place.run / "keys")
        restart_api(kube)
        failure.says(row, "Unauthorized")
        for node in kube.nodes:  # it keeps tokens in memory until most of their time is over
            node.restart("kubelet")
        failure.is_well(150)


def test_a_hundred_bad_objects_among_a_thousand(kube: Cluster, failure: Failures) -> None:
    guard = {"nginx.ingress.kubernetes.io/auth-url": "http://guard.test/"}
    good = [ingress(f"good-{n}", f"good-{n}.test", "web", HERE) for n in range(1000)]
    bad = [ingress(f"bad-{n}", f"bad-{n}.test", "web", HERE, annotations=guard) for n in range(100)]
    with failure("100 bad Ingresses among 1,000 good") as row:

        def denied() -> str:
            told = kube.kubectl(
                "apply", "--dry-run=server", "-f", "-", give=as_json(bad[:1]), check=False
            ).strip()
            return told if "denied the request" in told and "UnsupportedGuard" in told else ""

        row.operators.append(f"the webhook: {kube.wait('the webhook denies', denied)[:160]}")
        kube.kubectl("delete", "validatingwebhookconfiguration", "xdp-edge")
        kube.api.apply([*good[:500], *bad, *good[500:]])
        for host in ("good-0.test", "good-499.test", "good-500.test", "good-999.test"):
            failure.edge.everywhere(host)
        failure.says(row, "UnsupportedGuard")
        for node in kube.nodes:
            assert len({text for _, text in failure.findings(node) if "Ingress/" in text}) >= 100
            assert failure.edge.status(node, "bad-7.test") != 200
        kube.kubectl("apply", "-k", OVERLAY)
        kube.api.delete([*good, *bad])
    failure.edge.everywhere("good-999.test", 404)
    failure.edge.everywhere(HOST)


def as_json(things: list[dict[str, object]]) -> str:
    """Return objects as kubectl takes them."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": things})
