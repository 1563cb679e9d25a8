"""How long a change takes from the API server's answer until the first request is answered by it.

`python -m bench.config.kube [--quick] [--ingresses N] [--services M]`: a real API server (tests/kube), an
instance beside it with --kubeconfig; N Ingresses of two paths, M Services with a slice of two endpoints. Cold
start, one Ingress changed, one endpoint gone, 200 changes of endpoints a second under load, the cost of doing
nothing, memory. Prints JSON lines, also to bench/results/kube.jsonl; the last one is the summary. Exit status
1 when a request failed, or an endpoint answered that was gone. Needs root.
"""

from __future__ import annotations

import argparse
import datetime
import http.client
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from bench.config.objects import INGRESS, SERVICE, SLICE
from bench.config.publish import APART_S, Instance, cpu_s, lag_ms, missed, resident_mb, spread, start
from bench.proxy import processes
from bench.proxy.http1 import ROOT, launch, versions
from tests.kube.cluster import Cluster

GOALS = {
    "cold_start_s": 10.0,
    "ingress_ms.p50": 50.0,
    "ingress_ms.p99": 150.0,
    "endpoint_gone_ms.p99": 100.0,
    "idle_percent.all": 0.5,
    "controller_mb": 250.0,
}
WRITERS = 16  # threads that write objects, each on a connection of its own
RATE = 200
RATE_SHARE = 0.9  # of it must be reached, else the figures are of another load
QUIET_S = 0.4  # without an answer from it, an endpoint is gone
PATIENCE_S = 30.0
SETTLE_S = 70.0  # the last state is written by then, and connections that the load left to Pods are closed
LOAD_RATE = 1000
LATE_S = 0.5  # after which nothing may reach an endpoint that is gone
ASKED_S = 0.02  # between two looks at ASKED of those, so that our asking costs the writers little
ASKED = 10
PODS = {"198.18.78.1": b"pod-1", "198.18.78.2": b"pod-2"}
STAYS, GOES = PODS
NAMESPACE = "default"
Object = dict[str, Any]


class Objects:
    """The objects of the benchmark in an API server; every change is one request."""

    def __init__(self, kube: Cluster, ingresses: int, services: int, port: int) -> None:
        self.kube, self.ingresses, self.services, self.port = kube, ingresses, services, port

    def host(self, number: int) -> str:
        """Host of an Ingress."""
        return f"shop-{number:05}.example.test"

    def service(self, number: int) -> str:
        """Service that an Ingress leads to."""
        return f"web-{number % self.services:05}"

    def make(self) -> float:
        """Create everything; shape: seconds."""
        begin = time.monotonic()
        with ThreadPoolExecutor(WRITERS) as pool:
            for _ in pool.map(self._service, range(self.services), chunksize=50):
                pass
            for _ in pool.map(self._ingress, range(self.ingresses), chunksize=50):
                pass
        return time.monotonic() - begin

    def _service(self, number: int) -> None:
        service = yaml.load(SERVICE.format(service=self.service(number)), yaml.CSafeLoader)
        del service["spec"]["selector"]  # the slices are ours, not the control plane's
        service["spec"]["clusterIP"] = "None"
        self._create("/api/v1", "services", service)
        text = SLICE.format(service=self.service(number), port=self.port, address=STAYS)
        endpoints = yaml.load(text, yaml.CSafeLoader)
        endpoints["endpoints"] = self._endpoints(STAYS, GOES)
        self._create("/apis/discovery.k8s.io/v1", "endpointslices", endpoints)

    def _ingress(self, number: int) -> None:
        text = INGRESS.format(number=number, host=self.host(number), service=self.service(number), path="/b")
        self._create("/apis/networking.k8s.io/v1", "ingresses", yaml.load(text, yaml.CSafeLoader))

    def _create(self, api: str, plural: str, obj: Object) -> None:
        with self.kube.on("control"):
            self.kube.api.request("POST", f"{api}/namespaces/{NAMESPACE}/{plural}", obj, timeout=60)

    def _endpoints(self, *addresses: str) -> list[Object]:
        return [{"addresses": [one], "conditions": {"ready": True}} for one in addresses]

    def change_ingress(self, number: int, path: str) -> None:
        """Give an Ingress' second path another text."""
        self._patch(
            f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/ingresses/shop-{number:05}",
            json.dumps(
                [{"op": "replace", "path": "/spec/rules/0/http/paths/1/path", "value": path}]
            ).encode(),
        )

    def endpoints_body(self, *addresses: str) -> bytes:
        """What makes these a Service's endpoints, for any of them."""
        return json.dumps(
            [{"op": "replace", "path": "/endpoints", "value": self._endpoints(*addresses)}]
        ).encode()

    def change_slice(self, number: int, body: bytes) -> None:
        """Give a Service other endpoints."""
        path = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/{self.service(number)}-1"
        self._patch(path, body)

    def _patch(self, path: str, body: bytes) -> None:
        # On this thread's kept connection; the answer is not parsed: that would cost more than asking.
        api = self.kube.api
        connection = api.connection(60)
        headers = {"Content-Type": "application/json-patch+json", "Accept": "application/json"}
        if api.token:
            headers["Authorization"] = f"Bearer {api.token}"
        connection.request("PATCH", path, body, headers)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {said[:300]!r}")


def single_changes(instance: Instance, objects: Objects, count: int) -> list[float]:
    """One Ingress changed, count times, each by itself; from the API's answer on."""
    lags = []
    for turn in range(count):
        number, path = (turn * 7919) % objects.ingresses, f"/c{time.monotonic_ns()}"
        host = objects.host(number)
        assert instance.ask(host, path)[0] == 404

        def change(number: int = number, path: str = path) -> None:
            objects.change_ingress(number, path)

        def good(host: str = host, path: str = path) -> bool:
            return instance.ask(host, path)[0] == 200

        lags.append(lag_ms(change, good, made=True))
        time.sleep(APART_S)
    return lags


def endpoints_gone(instance: Instance, objects: Objects, count: int) -> list[float]:
    """One of two endpoints gone, count times: the last request that it answered, after the API's answer."""
    fewer, both = objects.endpoints_body(STAYS), objects.endpoints_body(STAYS, GOES)
    lags = []
    for turn in range(count):
        number = (turn * 31) % min(objects.services, objects.ingresses)
        host = objects.host(number)

        def goes_answers(host: str = host) -> bool:
            return PODS[GOES] in instance.ask(host, "/a")[1]

        lag_ms(lambda: None, goes_answers)  # it must be in use before it goes
        objects.change_slice(number, fewer)
        made = last = time.monotonic()
        while (asked := time.monotonic()) < last + QUIET_S:
            if goes_answers():
                last = asked
            if asked > made + PATIENCE_S:
                raise RuntimeError("an endpoint that is gone goes on answering")
            time.sleep(0.0005)
        lags.append(1000 * (last - made))
        objects.change_slice(number, both)
    return lags


def churn(instance: Instance, objects: Objects, seconds: float) -> dict[str, Any]:
    """Endpoints that come and go under load: failed requests, and answers of an endpoint that is gone.

    It ends by the clock; how many changes a second the API server took of RATE is in the result.
    """
    load: dict[str, Any] = {}
    target = min(objects.services, objects.ingresses) - 1

    def traffic() -> None:
        load.update(
            processes.load(
                instance.port,
                connections=8,
                seconds=seconds + 1,
                rate=LOAD_RATE,
                host=objects.host(target),
                path="/a",
            )
        )

    controller = instance.pid("edge-controller")
    gone: dict[int, float] = {}  # since when an endpoint is gone, by Service
    late, made = 0, 0
    lock = threading.Lock()
    fewer, both = objects.endpoints_body(STAYS), objects.endpoints_body(STAYS, GOES)
    traffic_thread = threading.Thread(target=traffic)
    traffic_thread.start()
    begin, spent = time.monotonic(), cpu_s(controller)

    def write(worker: int) -> None:
        """Write this worker's share; its Services are its own, so that their order is known."""
        nonlocal made
        own = [target] if not worker else list(range(worker, target, WRITERS))
        turn = 0
        with objects.kube.on("control"):
            while (due := begin + (worker + turn * WRITERS) / RATE) < begin + seconds:
                time.sleep(max(0.0, due - time.monotonic()))
                if time.monotonic() >= begin + seconds:
                    break
                # All lose an endpoint, one after the other, then all get it back.
                number, leaves = own[turn % len(own)], turn // len(own) % 2 == 0
                if not leaves:
                    with lock:
                        gone.pop(number, None)
                objects.change_slice(number, fewer if leaves else both)
                with lock:
                    made += 1
                    if leaves:
                        gone[number] = time.monotonic()
                turn += 1

    pool = ThreadPoolExecutor(WRITERS)
    writers = [pool.submit(write, worker) for worker in range(WRITERS)]
    asked = 0
    connection = http.client.HTTPConnection("127.0.0.1", instance.port, timeout=10)
    while not all(writer.done() for writer in writers):
        now = time.monotonic()
        with lock:
            due = [number for number, since in gone.items() if now - since > LATE_S]
        first = asked % max(1, len(due))
        for number in itertools.islice(itertools.cycle(due), first, first + min(ASKED, len(due))):
            connection.request("GET", "/a", headers={"Host": objects.host(number)})
            answer = connection.getresponse().read()
            with lock:
                still = gone.get(number, now) < now  # it did not come back meanwhile
            asked += 1
            late += still and PODS[GOES] in answer
        time.sleep(ASKED_S)
    connection.close()
    elapsed = time.monotonic() - begin
    busy = (cpu_s(controller) - spent) / elapsed
    pool.shutdown()
    traffic_thread.join()
    for writer in writers:
        writer.result()  # raises what ended it
    return {
        "changes": made,
        "target_a_second": RATE,
        "a_second": round(made / elapsed, 1),
        "seconds": round(elapsed, 1),
        "controller_core": round(busy, 3),
        "requests": load["requests"],
        "failed": load["errors"] + load["unanswered"] + load["closed"],
        "asked_late": asked,
        "answered_by_what_is_gone": late,
    }


def lease() -> Object:
    """The leader's Lease, held by nobody for an hour."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "xdp-edge-leader", "namespace": NAMESPACE},
        "spec": {
            "holderIdentity": "another-node",
            "leaseDurationSeconds": 3600,
            "acquireTime": now,
            "renewTime": now,
        },
    }


def idle(instance: Instance, seconds: float) -> dict[str, float]:
    """Processor time of each of our processes while nothing changes, in percent of one core."""
    pids = {"holder": instance.process.pid}
    pids |= {name: instance.pid(f"edge-{name}") for name in ("controller", "data")}
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    time.sleep(seconds)
    found = {name: round(100 * (cpu_s(pid) - before[name]) / seconds, 3) for name, pid in pids.items()}
    return {**found, "all": round(sum(found.values()), 3), "seconds": seconds}


def measure(kube: Cluster, arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Everything, inside the control plane's network."""
    for address in PODS:
        subprocess.run(["ip", "addr", "replace", f"{address}/32", "dev", "lo"], check=True)
    port = processes.free_port()
    pods = [
        launch(
            [
                sys.executable,
                "-m",
                "tests.fakes.endpoint",
                "--name",
                name.decode(),
                "--listen",
                f"{address}:{port}",
            ],
            work / f"{name.decode()}.out",
        )
        for address, name in PODS.items()
    ]
    instance = None
    try:
        objects = Objects(kube, arguments.ingresses, arguments.services, port)
        kube.kubectl("apply", "-k", ROOT / "manifests" / "crds")
        line: dict[str, Any] = {
            "ingresses": objects.ingresses,
            "services": objects.services,
            "created_s": round(objects.make(), 1),
        }
        # As on all nodes but one: what the leader writes about 10,000 Ingresses is spread over minutes.
        kube.api.create(lease())
        options = {"--kubeconfig": kube.admin, "--node-name": "n1", "--pod-namespace": NAMESPACE}
        instance = start(options, objects.host(objects.ingresses - 1), work)
        line["cold_start_s"] = round(time.monotonic() - instance.started, 2)
        controller = instance.pid("edge-controller")
        line["controller_cpu_s"] = round(cpu_s(controller), 2)
        count = 20 if arguments.quick else 200
        single_changes(instance, objects, 3)
        for name, change in (("ingress", single_changes), ("endpoint_gone", endpoints_gone)):
            spent = cpu_s(controller)
            line[f"{name}_ms"] = spread(change(instance, objects, count))
            line[f"{name}_cpu_ms"] = round(1000 * (cpu_s(controller) - spent) / count, 2)
        line["churn"] = churn(instance, objects, 10 if arguments.quick else 60)
        time.sleep(SETTLE_S)
        line["idle_percent"] = idle(instance, 15 if arguments.quick else 60)
        line["controller_mb"] = round(resident_mb(controller), 1)
        line["data_mb"] = round(resident_mb(instance.pid("edge-data")), 1)
        return line
    finally:
        for process in [*([instance.process] if instance else []), *pods]:
            processes.stop(process)


def main() -> int:
    """Run the benchmark; shape: the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ingresses", type=int, default=10_000)
    parser.add_argument("--services", type=int, default=2_000)
    arguments = parser.parse_args()
    processes.compile_tool("load")
    results = ROOT / "bench" / "results" / "kube.jsonl"
    stamp = {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "versions": versions()}
    with (
        Cluster(nodes=1) as kube,
        tempfile.TemporaryDirectory(prefix="bench-kube-") as folder,
        kube.on("control"),
    ):
        line = measure(kube, arguments, Path(folder))
    print(json.dumps(line), flush=True)
    behind = missed(line, GOALS)
    if line["churn"]["a_second"] < RATE_SHARE * RATE:
        behind.append("churn.a_second")
    summary = {"bench": "config.kube", "summary": True, **stamp, **line, "goals": GOALS, "missed": behind}
    print(json.dumps(summary), flush=True)
    results.parent.mkdir(exist_ok=True)
    with results.open("a") as sink:
        sink.write(json.dumps(summary) + "\n")
    return 1 if line["churn"]["failed"] or line["churn"]["answered_by_what_is_gone"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
