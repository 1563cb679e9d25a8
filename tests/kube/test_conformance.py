"""The scenarios of ingress-controller-conformance on a real Kubernetes, asked of every node."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.controller.default_certificate import make_default_certificate
from tests.e2e.conformance import CASES, Ask, check, objects_of, requests_of, split
from tests.fakes.client import Response
from tests.kube.api import Object
from tests.kube.cluster import Cluster
from tests.kube.installed import Installed
from tests.kube.node import Node
from tests.kube.workload import deployment, ingress, namespace, service

NAMESPACE = "conformance"


def brought(case: Path) -> list[Object]:
    """The case's objects as a user brings them: Services select Pods, and nobody writes EndpointSlices."""
    objects = [one for one in objects_of(case) if one["kind"] != "EndpointSlice"]
    for one in objects:
        if one["kind"] != "IngressClass":
            one["metadata"]["namespace"] = NAMESPACE
        if one["kind"] == "Service":
            one["spec"]["selector"] = {"app": one["metadata"]["name"]}
            for port in one["spec"]["ports"]:
                port["targetPort"] = "http"
        if one["kind"] == "Secret":
            chain, key = make_default_certificate(datetime.datetime.now(datetime.UTC))
            one["data"] = {
                "tls.crt": base64.b64encode(chain).decode(),
                "tls.key": base64.b64encode(key).decode(),
            }
    return objects


@pytest.fixture(scope="module")
def pods(kube: Cluster) -> Iterator[None]:
    """Run all Pods that the cases need, each under its Service's name."""
    wanted: dict[str, int] = {}
    for case in CASES:
        for one in objects_of(case):
            if one["kind"] == "EndpointSlice":
                name = one["metadata"]["labels"]["kubernetes.io/service-name"]
                wanted[name] = max(wanted.get(name, 0), len(one["endpoints"]))
    kube.api.apply([namespace(NAMESPACE), service("last", NAMESPACE)])
    kube.api.apply(deployment(name, NAMESPACE, replicas=count) for name, count in wanted.items())
    kube.ready_pods(NAMESPACE, "app", sum(wanted.values()), 120)
    yield
    kube.api.delete([namespace(NAMESPACE)])


def served_by_pods(case: Path) -> list[str]:
    return [request for request, answer in requests_of(case).items() if not answer.isdigit()]


def asker(edge: Installed, node: Node) -> Ask:
    def ask(scheme: str, host: str, path: str, method: str, headers: dict[str, str]) -> Response:
        return edge.ask(node, host, path, method, headers, tls=scheme == "https")

    return ask


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_case(case: Path, kube: Cluster, edge: Installed, pods: None) -> None:
    """Served is what the last object says: it comes after the case's Ingress, on the same stream."""
    last = ingress("last", "last.example", "last", NAMESPACE)
    objects = [*brought(case), last]
    kube.api.apply(objects)
    try:
        edge.everywhere("last.example", 503)  # nobody stands behind it
        for scheme, host, path, method in map(split, served_by_pods(case)):
            if (scheme, method) == ("http", "GET"):
                edge.everywhere(host, path=path)  # its Service's EndpointSlices come later
        for node in kube.nodes:
            check(case, asker(edge, node))
    finally:
        kube.api.delete([one for one in objects if one["kind"] in ("Ingress", "Secret")])
        edge.everywhere("last.example", 404)
