"""What kustomize and Helm make, before a real API server: accepted without a warning, no port taken.

Nothing is stored (--dry-run=server), so that what runs here goes on.
"""

from __future__ import annotations

import json

import pytest
import yaml

from tests.kube.cluster import Cluster
from tests.manifests.written import MANIFESTS, NAME, charted, kustomized, one

OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
DRY = ("apply", "--dry-run=server", "-o", "json", "-f", "-")


@pytest.fixture
def prepared(kube: Cluster) -> None:
    """Apply what the rest stands in: the namespace and the CRD."""
    kinds = ("Namespace", "CustomResourceDefinition")
    kube.api.apply([item for item in kustomized() if item["kind"] in kinds])


def accepted(kube: Cluster, objects: tuple[dict[str, object], ...]) -> list[dict[str, object]]:
    """Give objects to the API server; return what it would have stored."""
    return list(json.loads(kube.kubectl(*DRY, give=yaml.safe_dump_all(objects)))["items"])


@pytest.mark.parametrize("name", [".", *(f"overlays/{name}" for name in OVERLAYS)])
def test_the_api_server_accepts_what_kustomize_makes(kube: Cluster, prepared: None, name: str) -> None:
    objects = tuple(item for item in kustomized(name) if item["kind"] != "ServiceMonitor")
    stored = accepted(kube, objects)
    assert len(stored) == len(objects)
    pod = one(stored, "DaemonSet")["spec"]["template"]["spec"]
    assert not [port for box in pod["containers"] for port in box.get("ports", [])]
    assert pod["priorityClassName"] == "system-node-critical"


@pytest.mark.parametrize(
    "values", [{}, {"ioUring": True, "watch.namespaces": ["default"], "webhook.failurePolicy": "Fail"}]
)
def test_the_api_server_accepts_what_helm_makes(
    kube: Cluster, prepared: None, values: dict[str, object]
) -> None:
    assert one(accepted(kube, charted(values)), "DaemonSet")["metadata"]["name"] == NAME


def test_without_the_crd_of_prometheus_the_overlay_says_so(kube: Cluster, prepared: None) -> None:
    with pytest.raises(Exception, match="ServiceMonitor"):
        kube.kubectl("apply", "--dry-run=server", "-k", MANIFESTS / "overlays/metrics")
