"""Fixtures of the stories on a real Kubernetes: one for the whole session, and who may use which.

EDGE_KUBE_NODES (the Makefile sets it) is the number of nodes: 1 in `make test`, 3 in `make e2e-kube`. A
module that needs three nodes says `NODES = 3`; with fewer it is not collected, so nothing is ever skipped.
EDGE_KUBE=PID uses the Kubernetes that python -m tests.kube.cluster runs by hand; EDGE_KUBE_ON=kind has kind
provide it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kind.provisioner import Kind
from tests.kube.cluster import Cluster
from tests.kube.kubernetes import Kubernetes

HERE = Path(__file__).parent
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
