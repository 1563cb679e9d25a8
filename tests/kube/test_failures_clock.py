"""The wall clocks of all processes of all edges jump, under load: nothing but what is printed changes."""

from __future__ import annotations

import base64
import datetime
import re
from collections.abc import Iterator

import pytest

from edge.admission.certificate import dates_of
from edge.controller.default_certificate import VALID, make_default_certificate
from tests.kube.api import KubeError, Object
from tests.kube.clock import Clocks
from tests.kube.cluster import Cluster
from tests.kube.failures import HERE, HOST, Failures
from tests.kube.installed import NAMESPACE
from tests.kube.test_failures import restart_api
from tests.kube.workload import ingress

NODES = 3
HOUR = 3600
DAY = datetime.timedelta(days=1)
SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/xdp-edge-webhook"
AGES = re.compile(r"edge_\w+_(age|lost)_seconds")
AGE_MAX_S = 600


@pytest.fixture(scope="module")
def clocks(kube: Cluster, failure: Failures) -> Iterator[Clocks]:
    """The clocks, to be moved; the Pods on both sides of a hand-over have another time."""
    clocks = Clocks(kube, failure.edge)
    try:
        with failure("edges whose clocks are 36 h ahead take over"):
            clocks.install(36 * HOUR)
            clocks.show()
        clocks.shift(0)
        clocks.show()
        yield clocks
    finally:
        with failure("edges take over from others whose clocks are 36 h behind"):
            clocks.shift(-36 * HOUR)
            clocks.remove()


@pytest.fixture(scope="module")
def secured(kube: Cluster, failure: Failures) -> Iterator[tuple[str, ...]]:
    """Give hosts with certificates that were made just now, and that end tomorrow."""
    now = datetime.datetime.now(datetime.UTC)
    things: list[Object] = []
    for name, made in (("young", now), ("old", now - VALID + DAY)):
        chain, key = make_default_certificate(made)
        data = {"tls.crt": base64.b64encode(chain).decode(), "tls.key": base64.b64encode(key).decode()}
        meta = {"name": name, "namespace": HERE}
        kind = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls"}
        using = ingress(name, f"{name}.test", "web", HERE)
        using["spec"]["tls"] = [{"hosts": [f"{name}.test"], "secretName": name}]
        things += [{**kind, "metadata": meta, "data": data}, using]
    kube.api.apply(things)
    hosts = ("young.test", "old.test")
    for host in hosts:
        failure.edge.everywhere(host, 308)
    yield hosts
    kube.api.delete(things)


def election(kube: Cluster) -> tuple[str, int]:
    """Who leads, and how often that was another."""
    lease = kube.api.get("coordination.k8s.io/v1", "Lease", "xdp-edge-leader", NAMESPACE)
    return str(lease["spec"].get("holderIdentity")), int(lease["spec"].get("leaseTransitions") or 0)


def leading(kube: Cluster, failure: Failures) -> list[str]:
    """The Pods that say they lead."""
    return [failure.pod_on(node) for node in kube.nodes if failure.edge.metrics(node).get("edge_leader") == 1]


def one_leads(kube: Cluster, failure: Failures) -> bool:
    """Say whether one does, and is the one that its Lease names."""
    return leading(kube, failure) == [election(kube)[0].partition("_")[0]]


def denied(kube: Cluster) -> bool:
    """Say whether the webhook is asked and answers: what we do not serve is refused."""
    guard = {"nginx.ingress.kubernetes.io/auth-url": "http://guard.test/"}
    guarded = ingress("guarded", "guarded.test", "web", HERE, annotations=guard)
    where = f"/apis/networking.k8s.io/v1/namespaces/{HERE}/ingresses"
    try:
        kube.api.request("POST", where, guarded, query={"dryRun": "All"}, timeout=35)
    except KubeError as error:
        return "UnsupportedGuard" in str(error)
    return False


def version(kube: Cluster, name: str) -> str:
    found = kube.api.get("networking.k8s.io/v1", "Ingress", name, HERE)
    return str(found["metadata"]["resourceVersion"])


@pytest.mark.parametrize(("hours", "reason"), [(36, "Expired"), (-36, "NotYetValid")])
def test_the_clocks_of_all_processes_jump(
    kube: Cluster, failure: Failures, clocks: Clocks, secured: tuple[str, ...], hours: int, reason: str
) -> None:
    kube.wait("one leads", lambda: one_leads(kube, failure), 60)
    kube.wait("the webhook is asked", lambda: denied(kube), 60)
    before, written = election(kube), version(kube, "web")
    with failure(f"all clocks of all edges jump by {hours:+} h") as row:
        clocks.shift(hours * HOUR)
        clocks.show()
        for _ in range(3):
            failure.takes_changes()
        failure.says(row, reason)
        for node in kube.nodes:
            for host in secured:
                assert failure.edge.status(node, host, tls=True) == 200
            metrics = failure.edge.metrics(node)
            ages = {name: value for name, value in metrics.items() if AGES.match(name)}
            assert ages and max(ages.values()) < AGE_MAX_S, ages
        assert (election(kube), version(kube, "web")) == (before, written)
        assert one_leads(kube, failure) and denied(kube)
    with failure(
        f"clocks {hours:+} h wrong: controller killed, webhook's key broken, API server restarted"
    ) as row:
        node = kube.nodes[0]
        node.run(["pkill", "-KILL", "-x", "edge-controller"])
        broken = {"data": {"tls.key": "AAAA"}}
        kube.api.request("PATCH", SECRET, broken, content_type="application/merge-patch+json")
        kube.wait("the webhook's key is mended", lambda: mended(kube), 90)
        restart_api(kube)  # all connect again, and look at certificates by their clocks
        failure.is_well()
        kube.wait("one leads", lambda: one_leads(kube, failure), 60)
        kube.wait("the webhook is asked", lambda: denied(kube), 60)
        events = failure.edge.admin_json(node, "/diagnostics")["events"]
        event = next(one for one in reversed(events) if one["kind"] == "controller")  # the holder's
        row.operators.append(f"{node.name}: {event['at']}: {event['text']}")
        at = datetime.datetime.fromisoformat(event["at"]) - datetime.datetime.now(datetime.UTC)
        assert abs(at - datetime.timedelta(hours=hours)) < datetime.timedelta(minutes=10)
    clocks.shift(0)
    clocks.show()
    assert version(kube, "web") == written
    failure.edge.everywhere(HOST)


def mended(kube: Cluster) -> bool:
    """Say whether the webhook's Secret holds a key, and a certificate that is valid by a right clock."""
    data = kube.api.request("GET", SECRET)["data"]
    dates = dates_of(base64.b64decode(data["tls.crt"]))
    now = datetime.datetime.now(datetime.UTC)
    return data["tls.key"] != "AAAA" and dates is not None and dates.begins < now < dates.ends


def test_clocks_from_before_the_api_servers_certificate(
    kube: Cluster, failure: Failures, clocks: Clocks
) -> None:
    with failure(
        "all clocks of all edges 30 days behind: the API server's certificate is not valid yet"
    ) as row:
        clocks.shift(-30 * 24 * HOUR)
        restart_api(kube)
        failure.says(row, "Unreachable", seconds=90)
        assert "certificate is not yet valid" in row.operators[-1]
        failure.edge.everywhere(HOST)
        clocks.shift(0)
        failure.is_well()
        kube.wait("one leads", lambda: one_leads(kube, failure), 60)
    kube.wait("the webhook is asked", lambda: denied(kube), 60)
