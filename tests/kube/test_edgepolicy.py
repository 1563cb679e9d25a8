"""The CRD of EdgePolicy on a real API server: it refuses what the model refuses; what it shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.kube.api import KubeError
from tests.kube.kubernetes import Kubernetes, condition
from tests.manifests.policies import BAD, GOOD, ONLY_CRD, policy

CRD = yaml.safe_load((Path(__file__).parents[2] / "manifests/crds/edgepolicy.yaml").read_text())
FOLDER = "/apis/xdp-edge.dev/v1alpha1/edgepolicies"


@pytest.fixture(scope="module", autouse=True)
def defined(kube: Kubernetes) -> Iterator[None]:
    """The CRD stays, if it was there: others may hold policies."""
    there = any(one["metadata"]["name"] == CRD["metadata"]["name"] for one in definitions(kube))
    kube.api.apply([CRD])
    kube.wait("the CRD is served", lambda: served(kube), 30)
    yield
    if not there:
        kube.api.delete([CRD])


def definitions(kube: Kubernetes) -> list[dict[str, object]]:
    return kube.api.list("apiextensions.k8s.io/v1", "CustomResourceDefinition")  # type: ignore[return-value]


def served(kube: Kubernetes) -> bool:
    found = kube.api.get(CRD["apiVersion"], CRD["kind"], CRD["metadata"]["name"])
    if not found["status"]["conditions"]:
        return False
    assert condition(found, "NonStructuralSchema") != "True", found["status"]
    return condition(found, "Established") == "True"


def answer(kube: Kubernetes, spec: dict[str, object]) -> tuple[int, str]:
    """Shape: status and message of a creation that is not carried out, as strict as kubectl's."""
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    try:
        kube.api.request("POST", FOLDER, policy("dry", spec), query=query)
    except KubeError as error:
        return error.status, str(error)
    return 201, ""


def test_the_api_server_refuses_what_the_model_refuses(kube: Kubernetes) -> None:
    wrong = [
        f"{spec}: {text}"[:300] for spec in GOOD for status, text in [answer(kube, spec)] if status != 201
    ]
    assert not wrong, "\n".join(wrong)
    for spec, field in (*BAD, *ONLY_CRD):
        status, text = answer(kube, spec)
        # A field that nobody knows is the decoder's to name, and it names it in other words.
        named = field in text or 'unknown field "spec.' in text
        if status not in (400, 422) or not named:
            wrong.append(f"{str(spec)[:100]}: {field}: {status} {text[:300]}")
    assert not wrong, "\n".join(wrong)


def test_defaults_status_and_columns(kube: Kubernetes) -> None:
    kube.api.apply([policy("shown", {"perSource": {"packetsPerSecond": 5}, "deadMan": {"seconds": 5}})])
    try:
        found = kube.api.get("xdp-edge.dev/v1alpha1", "EdgePolicy", "shown")
        assert found["spec"]["scope"] == "listener" and found["spec"]["deadMan"]["action"] == "pass"
        assert (found["spec"]["perSource"]["prefixV4"], found["spec"]["perSource"]["prefixV6"]) == (32, 64)
        listed = kube.kubectl("get", "edgepolicies", "-o", "wide").splitlines()[0].split()
        wanted = "NAME SCOPE PACKETS/S CONNECTIONS/S ACCEPTED PROGRAMMED NODES FINDINGS AGE".split()
        assert listed == wanted
        change = {"spec": {"scope": "node"}, "status": {"conditions": []}}
        request = ("PATCH", f"{FOLDER}/shown/status", json.loads(json.dumps(change)))
        after = kube.api.request(*request, content_type="application/merge-patch+json")
        assert after["spec"]["scope"] == "listener", "who writes status writes nothing else"
        explained = kube.kubectl("explain", "edgepolicy.spec.deny")
        assert "Sources whose packets are dropped" in explained
    finally:
        kube.api.delete([policy("shown", {})])
