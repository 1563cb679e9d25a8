"""The Helm chart: the same objects as kustomize makes, by default and for each overlay; judged values.

What Helm cannot make is left out of the comparison: the namespace, which is the release's; nothing else.
"""

from __future__ import annotations

import json

import pytest
import yaml

from tests.manifests.access import Right
from tests.manifests.test_access import granted
from tests.manifests.written import (
    CHART,
    Object,
    charted,
    container,
    helm,
    kustomized,
    normal,
    one,
    options,
)

pytestmark = pytest.mark.slow

OVERLAYS: dict[str, Object] = {
    ".": {},
    "overlays/dual-stack": {"http": ["0.0.0.0:80", "[::]:80"], "https": ["0.0.0.0:443", "[::]:443"]},
    "overlays/io-uring": {"ioUring": True},
    "overlays/one-namespace": {"watch.namespaces": ["default"]},
    "overlays/metrics": {"admin": "0.0.0.0:9901", "serviceMonitor.enabled": True},
    "overlays/webhook-fail-closed": {"webhook.failurePolicy": "Fail"},
}


@pytest.mark.parametrize("folder", OVERLAYS)
def test_it_makes_what_kustomize_makes(folder: str) -> None:
    wanted = normal(kustomized(folder))
    del wanted["Namespace /xdp-edge"]
    made = normal(charted(OVERLAYS[folder]))
    assert made.keys() == wanted.keys()
    for name, found in made.items():
        assert found == wanted[name], name


@pytest.mark.parametrize("folder", ["overlays/lab", *OVERLAYS])
def test_an_address_is_named_before_it_is_used(folder: str) -> None:
    """Patches put what they name in front, and Kubernetes knows only what stands before."""
    for made in (kustomized(folder), charted(OVERLAYS.get(folder, {}))):
        names = [item["name"] for item in container(made)["env"]]
        assert names.index("HOST_IP") < names.index("EDGE_WEBHOOK")


def test_nothing_that_an_installation_brings_is_refused_for_want_of_an_edge() -> None:
    folder = "overlays/webhook-fail-closed"
    resources = {"IngressClass": "ingressclasses", "Ingress": "ingresses", "EdgePolicy": "edgepolicies"}
    for made in (kustomized(folder), charted(OVERLAYS[folder])):
        brought = {resources.get(item["kind"]) for item in made}
        asked: dict[str, set[str]] = {}
        for hook in one(made, "ValidatingWebhookConfiguration")["webhooks"]:
            found = {name for rule in hook["rules"] for name in rule["resources"]}
            asked.setdefault(hook["failurePolicy"], set()).update(found)
        assert asked == {"Fail": {"ingresses", "edgepolicies"}, "Ignore": {"ingressclasses"}}
        assert not asked["Fail"] & brought


def test_lint() -> None:
    done = helm("lint", "--strict", CHART, "--kube-version", "1.36.3")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert schema["properties"].keys() - {"global"} == values.keys()
    for name, part in values.items():
        inner = schema["properties"][name]
        if isinstance(part, dict) and "properties" in inner:
            assert inner["properties"].keys() == part.keys(), name
        assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    "value",
    [
        "htttp=[]",
        'http=["80"]',
        'xdp="fast"',
        'webhook.failurePolicy="fail"',
        "gracePeriod=-1",
        'watch.namespaces=["Shop"]',
        'ingressClass.parameters="name-alone"',
        'env={"PATH":"/"}',
        'image.pullPolicy="Sometimes"',
    ],
)
def test_a_wrong_value_is_refused(value: str) -> None:
    done = helm("template", "x", CHART, "--kube-version", "1.36.3", f"--set-json={value}")
    assert done.returncode != 0 and "schema" in done.stderr, done.stderr


def test_every_option_arrives() -> None:
    made = charted(
        {
            "interfaces": ["eth0", "eth1"],
            "xdp": "native",
            "ingressClass.name": "inner",
            "ingressClass.default": True,
            "ingressClass.parameters": "front/settings",
            "watch": {"namespaces": ["shop", "blog"], "selector": "tier=web", "ingressWithoutClass": True},
            "status": {"update": False, "publishService": "net/front", "addresses": ["192.0.2.1"]},
            "webhook.address": "0.0.0.0:8443",
            "gracePeriod": 60,
            "logFormat": "text",
            "env": {"EDGE_WORKERS": "3"},
        },
        name="inner",
    )
    chosen = options(made)
    assert chosen.interface == ("eth0", "eth1") and chosen.xdp == "native" and chosen.workers == 3
    assert chosen.watch_namespace == ("shop", "blog") and chosen.watch_selector == "tier=web"
    assert chosen.watch_ingress_without_class and not chosen.update_status
    assert chosen.publish_service == "net/front" and chosen.publish_status_address == ("192.0.2.1",)
    assert chosen.configmap == "xdp-edge/inner" and chosen.webhook_service == "inner-webhook"
    assert chosen.election_lease == "inner-leader"
    assert chosen.ingress_class == "inner" and chosen.grace_period == 60 and chosen.log_format == "text"
    pod = one(made, "DaemonSet", "inner")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 75
    assert one(made, "Service", "inner-webhook")["spec"]["ports"][0]["targetPort"] == 8443
    annotations = one(made, "IngressClass", "inner")["metadata"]["annotations"]
    assert annotations == {"ingressclass.kubernetes.io/is-default-class": "true"}
    named = one(made, "IngressClass", "inner")["spec"]["parameters"]
    reads = one(made, "Role", "inner-class")
    assert granted(reads, "") == [Right("", "configmaps", verb, "settings") for verb in ("list", "watch")]
    assert named == {"kind": "ConfigMap", "scope": "Namespace", "namespace": "front", "name": "settings"}
    assert reads["metadata"]["namespace"] == "front"
    assert one(made, "RoleBinding", "inner-class")["metadata"]["namespace"] == "front"
    bound = {
        (item["kind"], item["metadata"].get("namespace", ""))
        for item in made
        if item["metadata"]["name"] in ("inner-watched", "inner-events") and "roleRef" in item
    }
    assert bound == {("RoleBinding", "shop"), ("RoleBinding", "blog"), ("RoleBinding", "default")}
    assert one(made, "Role", "inner-publish")["metadata"]["namespace"] == "net"


def test_what_is_switched_off_is_not_there() -> None:
    off = {"webhook.enabled": False, "podDisruptionBudget": False, "networkPolicy": False, "roles": False}
    made = charted({**off, "ingressClass.create": False})
    kinds = {item["kind"] for item in made}
    assert not kinds & {
        "ValidatingWebhookConfiguration",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "IngressClass",
    }
    assert "EDGE_WEBHOOK" not in {item["name"] for item in container(made)["env"]}
