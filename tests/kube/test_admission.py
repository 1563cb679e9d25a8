"""What kubectl is told of a bad object, in our words; and the webhook mended, and replaced, under way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.lab import wait_for
from tests.fakes.client import Client
from tests.kube.api import KubeError, Object
from tests.kube.cluster import Cluster
from tests.kube.installed import Installed
from tests.kube.workload import ingress, namespace, service

HERE = "story-admission"
HOOK = ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "xdp-edge")
SECRET = ("v1", "Secret", "xdp-edge-webhook", "xdp-edge")
UNREADY = "no endpoints available"  # what a busy machine's late probes cause; no call of ours
PATIENCE_S = 30
DENIED = 'admission webhook "objects.xdp-edge.dev" denied the request: '


@pytest.fixture(scope="module")
def place(kube: Cluster, edge: Installed) -> Iterator[str]:
    kube.api.apply([namespace(HERE), service("web", HERE)])
    kube.wait("API servers call the webhook", lambda: refused(kube, bad("probe")), 60)
    yield HERE
    kube.api.delete([namespace(HERE)])


def bad(name: str) -> Object:
    """What the API itself takes and we do not serve."""
    wrong = ingress(name, "bad.example", "web", HERE)
    resource = {"apiGroup": "storage.example", "kind": "Bucket", "name": "pictures"}
    wrong["spec"]["rules"][0]["http"]["paths"][0]["backend"] = {"resource": resource}
    return wrong


def create(kube: Cluster, obj: Object) -> str:
    """Ask for it in a dry run. Shape: why it is refused, "" when it is not."""
    where = f"/apis/networking.k8s.io/v1/namespaces/{HERE}/ingresses"
    try:
        kube.api.request("POST", where, obj, query={"dryRun": "All"}, timeout=PATIENCE_S + 5)
    except KubeError as error:
        return str(error)
    return ""


def refused(kube: Cluster, obj: Object) -> bool:
    return DENIED in create(kube, obj)


def kubectl(kube: Cluster, obj: Object, *more: str) -> tuple[int, str, str]:
    done = kube.run_as_admin("kubectl", ("apply", "-f", "-", *more), json.dumps(obj))
    return done.returncode, done.stdout, done.stderr


def test_a_bad_object_is_refused_in_our_words(kube: Cluster, edge: Installed, place: str) -> None:
    where = f"Ingress/{HERE}/bad spec.rules[0].http.paths[0].backend.resource"
    words = f"{where}: UnsupportedBackend: resource backends are not served"
    for more in ([], ["--dry-run=server"]):
        status, _, told = kubectl(kube, bad("bad"), *more)
        assert status != 0 and f"{DENIED}{words}. Do: " in told
    with pytest.raises(KubeError) as raised:
        kube.api.get("networking.k8s.io/v1", "Ingress", "bad", HERE)
    assert raised.value.status == 404
    counted = 'edge_admission_reviews_total{kind="Ingress",verdict="refused"}'
    assert sum(edge.metrics(node).get(counted, 0) for node in kube.nodes) >= 2


def test_what_is_not_there_yet_is_a_warning(kube: Cluster, place: str) -> None:
    early = ingress("early", "early.example", "later", HERE)
    status, _, told = kubectl(kube, early)
    assert status == 0 and "Warning: " in told and f"there is no Service {HERE}/later" in told
    kube.api.delete([early])


def test_who_comes_second_is_refused(kube: Cluster, place: str) -> None:
    first, second = (ingress(name, "twice.example", "web", HERE) for name in ("first", "second"))
    kube.api.apply([first])
    wanted = f"Conflict: twice.example Prefix / is served by Ingress/{HERE}/first"
    kube.wait("the second is refused", lambda: wanted in create(kube, second), 10)
    of_others = ingress("second", "twice.example", "web", HERE)
    of_others["spec"]["ingressClassName"] = "of-somebody-else"
    assert create(kube, of_others) == ""
    kube.api.delete([first])
    kube.wait("it may come", lambda: create(kube, second) == "", 10)


def test_a_policy_and_a_class(kube: Cluster, place: str) -> None:
    policy = {
        "apiVersion": "xdp-edge.dev/v1alpha1",
        "kind": "EdgePolicy",
        "metadata": {"name": "story-admission"},
        "spec": {"deny": ["198.51.100.1/24"]},
    }
    status, _, told = kubectl(kube, policy, "--dry-run=server")
    assert status != 0 and "198.51.100.1/24" in told
    another = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {"name": "story-admission"},
        "spec": {"controller": "xdp-edge.dev/ingress-controller"},
    }
    status, _, told = kubectl(kube, another, "--dry-run=server")
    assert status == 0 and "OtherClass" in told


def test_who_is_no_api_server_gets_no_verdict(kube: Cluster, edge: Installed, place: str) -> None:
    node = kube.nodes[0]
    for path, status in (("/validate", 404), ("/validate/guess", 401), ("/", 404)):
        with kube.on("client"):
            client = Client(node.address, 9443, tls_name="xdp-edge-webhook.xdp-edge.svc")
        with client:
            assert client.ask("x", path, "POST").status == status


def test_a_broken_certificate_is_mended(kube: Cluster, place: str) -> None:
    before = kube.api.get(*HOOK)["webhooks"][0]["clientConfig"]["caBundle"]
    path = "/api/v1/namespaces/xdp-edge/secrets/xdp-edge-webhook"
    merge = "application/merge-patch+json"
    kube.api.request("PATCH", path, {"data": {"tls.key": "AAAA"}}, content_type=merge)
    kube.wait(
        "another authority is announced",
        lambda: kube.api.get(*HOOK)["webhooks"][0]["clientConfig"]["caBundle"] != before,
        60,
    )
    kube.wait("and all is as before", lambda: refused(kube, bad("bad")), 60)
    kube.kubectl("apply", "-k", "manifests/overlays/lab")  # names neither path nor authority: takes none away
    assert refused(kube, bad("bad"))


class Asking(threading.Thread):
    """Bad and good objects, one after the other, while something happens. ``wrong``: other answers."""

    def __init__(self, kube: Cluster) -> None:
        super().__init__()
        self.kube = kube
        self.calls = 0
        self.wrong: list[str] = []
        self.slowest = 0.0
        self.ended = threading.Event()

    def run(self) -> None:
        good = ingress("good", "good.example", "web", HERE)
        while not self.ended.wait(0.02):
            for obj, is_right in ((bad("bad"), lambda said: DENIED in said), (good, lambda said: not said)):
                begun = time.monotonic()
                while UNREADY in (said := create(self.kube, obj)) and not self.ended.wait(0.1):
                    begun = time.monotonic()
                self.slowest = max(self.slowest, time.monotonic() - begun)
                self.calls += 1
                if not is_right(said) and UNREADY not in said:
                    self.wrong.append(said or "a bad object was allowed")
        self.kube.api.close()  # this thread's connection

    def finish(self) -> Asking:
        self.ended.set()
        self.join()
        return self


def configure(kube: Cluster, policy: str, seconds: int) -> None:
    found: Any = kube.api.get(*HOOK)
    for one in found["webhooks"]:
        one["failurePolicy"], one["timeoutSeconds"] = policy, seconds
    path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/xdp-edge"
    kube.api.request("PUT", path, found)


def test_no_call_is_lost_in_a_roll_out(kube: Cluster, edge: Installed, place: str) -> None:
    """Failing closed: whatever does not answer would be an error of the user's own call."""
    configure(kube, "Fail", PATIENCE_S)
    asking = Asking(kube)
    try:
        wait_for("it is in force", lambda: refused(kube, bad("bad")), 10)
        asking.start()
        kube.kubectl("-n", "xdp-edge", "rollout", "restart", "daemonset/xdp-edge")
        kube.kubectl("-n", "xdp-edge", "rollout", "status", "daemonset/xdp-edge", "--timeout=120s")
        edge.pods()
    finally:
        asking.finish() if asking.is_alive() else None
        configure(kube, "Ignore", 5)
    assert asking.calls > 50 and not asking.wrong, (asking.calls, asking.slowest, asking.wrong[:3])
