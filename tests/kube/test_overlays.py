"""What kustomize and Helm make, before a real API server: accepted without a warning, no port taken.

Nothing is stored (--dry-run=server), so that what runs here goes on.
"""

from __future__ import annotations

import json

import pytest
import yaml

from tests.kube.api import Object
from tests.kube.cluster import Cluster
from tests.manifests.written import MANIFESTS, NAME, charted, kustomized, one

OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
DRY = ("apply", "--dry-run=server", "-o", "json", "-f", "-")


@pytest.fixture
def prepared(kube: Cluster) -> None:
    """Apply what the rest stands in: the namespace and the CRD."""
    kinds = ("Namespace", "CustomResourceDefinition")
    kube.api.apply([item for item in kustomized() if item["kind"] in kinds])


def accepted(kube: Cluster, objects: list[Object]) -> list[Object]:
    """Give objects to the API server; return what it would have stored."""
    made = json.loads(kube.kubectl(*DRY, give=yaml.safe_dump_all(objects)))
    return list(made.get("items", [made]))


@pytest.mark.parametrize("name", [".", "detach", *(f"overlays/{name}" for name in OVERLAYS)])
def test_the_api_server_accepts_what_kustomize_makes(kube: Cluster, prepared: None, name: str) -> None:
    """Of an overlay only what is not in the base as it is."""
    known = kustomized() if name != "." else ()
    objects = [item for item in kustomized(name) if item["kind"] != "ServiceMonitor" and item not in known]
    stored = accepted(kube, objects)
    assert len(stored) == len(objects)
    for pod in (item["spec"]["template"]["spec"] for item in stored if item["kind"] == "DaemonSet"):
        assert not [port for box in pod["containers"] for port in box.get("ports", [])]


def test_the_api_server_accepts_what_helm_makes(kube: Cluster, prepared: None) -> None:
    """With values that no overlay has; of the others test_chart.py says that they are the same."""
    values = {"ioUring": True, "watch.namespaces": ["default"], "status.publishService": "kube-system/front"}
    objects = [item for item in charted(values) if item not in kustomized()]
    assert one(accepted(kube, objects), "DaemonSet")["metadata"]["name"] == NAME


def test_without_the_crd_of_prometheus_the_overlay_says_so(kube: Cluster, prepared: None) -> None:
    with pytest.raises(Exception, match="ServiceMonitor"):
        kube.kubectl("apply", "--dry-run=server", "-k", MANIFESTS / "overlays/metrics")
