"""Ten thousand Ingresses are nothing special: served on every node, the time and the memory stated.

Needs three nodes only for the sake of the time: `make test` has no minute for it.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from bench.config.publish import resident_mb
from bench.proxy.processes import command_name
from tests.kube.api import KubeError, Object
from tests.kube.cluster import Cluster
from tests.kube.installed import Installed
from tests.kube.node import Node
from tests.kube.traffic import HOST, Load, judge, plain
from tests.kube.workload import deployment, ingress, service

NODES = 3

INGRESSES, SERVICES = 10_000, 2_000
AT_ONCE = 16
SECONDS_MAX = 10.0  # from the API server's last answer to the last Ingress served on the last node
MEGABYTES_MAX = 250
SAMPLE = random.Random(10).sample(range(INGRESSES), 200)


def host_of(number: int) -> str:
    return f"shop-{number:05}.example.test"


def service_of(number: int) -> str:
    return f"shop-{number % SERVICES:05}"


def one_ingress(number: int, place: str) -> Object:
    """Two paths to a Service that is shared by five."""
    made = ingress(f"shop-{number:05}", host_of(number), service_of(number), place)
    paths = made["spec"]["rules"][0]["http"]["paths"]
    paths.append({**paths[0], "path": "/basket"})
    return made


def one_service(number: int, place: str, addresses: list[str]) -> list[Object]:
    """A Service without selector and its slice: what is slow here shall be ours."""
    name = service_of(number)
    made = service(name, place)
    del made["spec"]["selector"]
    meta = {"name": f"{name}-1", "namespace": place, "labels": {"kubernetes.io/service-name": name}}
    return [
        made,
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": meta,
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": addresses, "conditions": {"ready": True}}],
        },
    ]


def controllers(node: Node) -> list[int]:
    return [pid for pid in node.processes() if command_name(pid) == "edge-controller"]


def create(kube: Cluster, objects: list[Object]) -> None:
    """Create them over this thread's connection; one that was cut off may have been made all the same."""
    for one in objects:
        try:
            kube.api.create(one)
        except KubeError as error:
            if error.reason != "AlreadyExists":
                raise
    kube.api.close()


def test_ten_thousand_ingresses(kube: Cluster, edge: Installed, place: str) -> None:
    kube.api.apply([deployment("web", place, replicas=2)])
    pods = kube.ready_pods(place, "app=web", 2)
    addresses = [pod["status"]["podIP"] for pod in pods]
    kube.api.apply([plain("load", place, 1), service("load", place), ingress("load", HOST, "load", place)])
    kube.ready_pods(place, "app=load", 1)
    edge.everywhere(HOST)
    with ThreadPoolExecutor(AT_ONCE) as pool, Load(kube, rates=(70, 28, 2)) as load:
        began = time.monotonic()
        for made in (
            [one for number in range(SERVICES) for one in one_service(number, place, addresses)],
            [one_ingress(number, place) for number in range(INGRESSES)],
        ):
            list(pool.map(partial(create, kube), [made[at::AT_ONCE] for at in range(AT_ONCE)]))
        applied = time.monotonic()
        for number in (0, INGRESSES // 2, INGRESSES - 1):
            edge.everywhere(host_of(number), seconds=120)
            edge.everywhere(host_of(number), path="/basket/now", seconds=120)
        served = time.monotonic()
        memory = {node.name: [round(resident_mb(pid)) for pid in controllers(node)] for node in kube.nodes}
        seen = load.finish()
    print(
        f"\n{INGRESSES} Ingresses, {SERVICES} Services: the API server took {applied - began:.1f} s,"
        f" served everywhere {served - applied:.1f} s after its last answer; controllers {memory} MB"
    )
    assert served - applied <= SECONDS_MAX
    assert max(used for one in memory.values() for used in one) <= MEGABYTES_MAX, memory
    assert not (wrong := judge(load, seen)), wrong
    for number in SAMPLE:
        edge.everywhere(host_of(number), seconds=10)
    for node in kube.nodes:
        found = edge.admin_json(node, "/diagnostics")
        assert found["publish_error"] == "", found
