"""Fixtures of the stories on a real Kubernetes: one for the whole session, and who may use which.

EDGE_KUBE_NODES (the Makefile sets it) is the number of nodes: 1 in `make test`, 3 in `make e2e-kube`. A
module that needs three nodes says `NODES = 3`; with fewer it is not collected, so nothing is ever skipped.
EDGE_KUBE=PID uses the Kubernetes that python -m tests.kube.cluster runs by hand; EDGE_KUBE_ON=kind has kind
provide it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kind.provisioner import Kind
from tests.kube.cluster import Cluster
from tests.kube.failures import HERE as STORY
from tests.kube.failures import HOST, Failures
from tests.kube.installed import Installed
from tests.kube.kubernetes import Kubernetes
from tests.kube.workload import deployment, ingress, namespace, service

HERE = Path(__file__).parent
_numbers = itertools.count(1)
COUNT = int(os.environ.get("EDGE_KUBE_NODES", "1"))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave modules alone that need more nodes than there are."""
    if collection_path.parent == HERE and collection_path.name.startswith("test_"):
        wanted = "\nNODES = 3\n" in collection_path.read_text()
        return True if wanted and COUNT < 3 else None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of it needs root and takes its time; it runs last, so that nothing else shares the machine."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("root")
            item.add_marker("slow")
    items.sort(key=lambda item: HERE in item.path.parents)


@pytest.fixture(scope="session")
def kube() -> Iterator[Kubernetes]:
    """Give the Kubernetes of this session."""
    owner = os.environ.get("EDGE_KUBE")
    on_kind = os.environ.get("EDGE_KUBE_ON") == "kind"
    with Kind(COUNT) if on_kind else Cluster(COUNT, owner=int(owner) if owner else None) as running:
        yield running


@pytest.fixture(scope="session")
def edge(kube: Cluster) -> Iterator[Installed]:
    """Give xdp-edge, applied to the Kubernetes of this session as a user applies it."""
    with Installed(kube) as installed:
        yield installed


@pytest.fixture(scope="session")
def failure(kube: Cluster, edge: Installed) -> Iterator[Failures]:
    """Give what breaks things under a steady load; the table is shown when all is over."""
    objects = [namespace(STORY), deployment("web", STORY, replicas=2, linger="5s")]
    objects += [service("web", STORY), ingress("web", HOST, "web", STORY)]
    kube.api.apply(objects)
    kube.ready_pods(STORY, "app=web", 2)
    edge.everywhere(HOST)
    yield Failures(kube, edge)
    kube.api.delete([namespace(STORY)])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the table of failures, where any were tried."""
    if Failures.rows:
        terminalreporter.section("failures: what clients saw | what operators saw | served a change after")
        for row in Failures.rows:
            terminalreporter.write_line(str(row))


@pytest.fixture
def place(kube: Cluster) -> Iterator[str]:
    """Give a namespace of the test's own; its Ingresses are gone when the next test begins."""
    name = f"story-{next(_numbers)}-{os.getpid()}"
    kube.api.apply([namespace(name)])
    yield name
    ingresses = f"/apis/networking.k8s.io/v1/namespaces/{name}/ingresses"
    kube.api.request("DELETE", ingresses, timeout=120)  # there may be ten thousand
    kube.wait("its Ingresses are gone", lambda: not kube.api.list("networking.k8s.io/v1", "Ingress", name))
    kube.api.delete([namespace(name)])
