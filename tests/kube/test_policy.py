"""An EdgePolicy applied by kubectl is what XDP on the nodes' own NICs does."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
from typing import Any

from tests.e2e.lab import wait_for
from tests.e2e.survival.traffic import Tap
from tests.kube.cluster import Cluster, condition
from tests.kube.installed import Installed
from tests.kube.node import Node
from tests.kube.traffic import DENIED, Seat, denied_address, denies
from tests.kube.workload import deployment, ingress, service

TRIES, PATIENCE_S = 5, 0.3
COUNTED = 'edge_xdp_packets_total{reason="drop_denied"}'


def test_a_denied_source_ends_at_the_nic(kube: Cluster, edge: Installed, place: str) -> None:
    kube.api.apply([deployment("web", place), service("web", place)])
    kube.api.apply([ingress("web", "policy.example", "web", place)])
    edge.everywhere("policy.example")
    with denied_address(kube), contextlib.ExitStack() as stack:
        for node in kube.nodes:
            assert passes(kube, node) == TRIES, "not denied yet"
        stack.callback(kube.kubectl, "delete", "edgepolicy", "denies", "--ignore-not-found")
        kube.kubectl("apply", "-f", "-", give=json.dumps(denies()))
        kube.wait("it is accepted", lambda: condition(policy(kube), "Accepted") == "True", 20)
        kube.wait("every node serves it", lambda: condition(policy(kube), "Programmed") == "True", 30)
        for node in kube.nodes:
            before = edge.metrics(node)[COUNTED]
            with Tap(Seat(kube, node), DENIED) as tap:
                assert not passes(kube, node)
                assert not tap.read(), "packets have passed"
            assert edge.metrics(node)[COUNTED] >= before + TRIES, node.name
            assert edge.status(node, "policy.example") == 200, "another source is served"
        kube.kubectl("delete", "edgepolicy", "denies")
        for node in kube.nodes:
            wait_for(f"{node.name} lets it pass again", lambda node=node: passes(kube, node) == TRIES, 20)


def policy(kube: Cluster) -> dict[str, Any]:
    return kube.api.get("xdp-edge.dev/v1alpha1", "EdgePolicy", "denies")


def passes(kube: Cluster, node: Node) -> int:
    """How many of some connections of the denied source are answered, by acceptance or refusal."""
    answered = 0
    for _ in range(TRIES):
        with kube.on("client"), socket.socket() as channel:
            channel.settimeout(PATIENCE_S)
            channel.bind((DENIED, 0))
            with contextlib.suppress(TimeoutError):
                answered += channel.connect_ex((node.address, 80)) in (0, errno.ECONNREFUSED)
    return answered
