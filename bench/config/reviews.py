"""The caller of bench/config/admission.py: connections that each ask for one review after the other.

A process of its own, with plain sockets and one selector, so that it costs less than what it measures. At a
rate a call's clock starts when the call was due: one that had to wait for a free connection took that long.
`python -m bench.config.reviews PORT PATH CONNECTIONS SECONDS RATE INGRESSES CA_FILE` prints one JSON line.
"""

from __future__ import annotations

import json
import selectors
import socket
import ssl
import statistics
import sys
import time
from collections import deque
from dataclasses import dataclass

from bench.config.objects import INGRESS

DRAIN_S = 10.0  # for the calls that were due at the end

MANAGED = {
    "manager": "kubectl-client-side-apply",
    "operation": "Update",
    "apiVersion": "networking.k8s.io/v1",
    "time": "2026-11-01T00:00:00Z",
    "fieldsType": "FieldsV1",
    "fieldsV1": {
        "f:metadata": {"f:annotations": {".": {}, "f:kubectl.kubernetes.io/last-applied-configuration": {}}},
        "f:spec": {"f:ingressClassName": {}, "f:rules": {}},
    },
}


def ingress(name: str, host: str, service: str, paths: tuple[str, ...] = ("/a", "/b")) -> dict[str, object]:
    """An Ingress as an API server hands it on, ballast and all."""
    backend = {"service": {"name": service, "port": {"number": 80}}}
    spec = {
        "ingressClassName": "edge",
        "rules": [
            {
                "host": host,
                "http": {"paths": [{"path": one, "pathType": "Prefix", "backend": backend} for one in paths]},
            }
        ],
    }
    last = json.dumps({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "spec": spec})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"2f0b5a0c-0000-4000-8000-{abs(hash(name)) % 10**12:012}",
            "creationTimestamp": "2100-01-01T00:00:00Z",  # after whatever is there
            "labels": {"app": name, "tier": "web"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": last},
            "managedFields": [MANAGED],
        },
        "spec": spec,
    }


def requests(path: str, ingresses: int) -> list[tuple[bytes, bool]]:
    """Requests and whether each is to be allowed: new ones, changes, and those that another is older than."""
    result = []
    for turn in range(200):
        number = turn * 7919 % ingresses
        host = f"shop-{number:05}.example.test"
        kind = turn % 4
        old = None
        if kind == 0:
            new = ingress(f"fresh-{turn}", f"fresh-{turn}.example.test", "web-00001")
        elif kind == 1:
            new = ingress(f"thief-{turn}", host, "web-00001")  # the host is another's
        elif kind == 2:
            old = ingress(f"shop-{number:05}", host, "web-00001")
            new = ingress(f"shop-{number:05}", host, "web-00001", ("/a", "/b", "/c"))
        else:
            new = ingress(f"wrong-{turn}", f"wrong-{turn}.example.test", "web-00001", ("no path",))
        review = {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": f"705ab4f5-6393-11e8-b7cc-{turn:012}",
                "kind": {"group": "networking.k8s.io", "version": "v1", "kind": "Ingress"},
                "resource": {"group": "networking.k8s.io", "version": "v1", "resource": "ingresses"},
                "name": new["metadata"]["name"],  # type: ignore[index]
                "namespace": "default",
                "operation": "UPDATE" if old else "CREATE",
                "userInfo": {"username": "kubernetes-admin", "groups": ["system:authenticated"]},
                "object": new,
                "oldObject": old,
                "dryRun": False,
                "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
            },
        }
        body = json.dumps(review).encode()
        head = (
            f"POST {path}?timeout=5s HTTP/1.1\r\nHost: webhook\r\nUser-Agent: kube-apiserver-admission\r\n"
            f"Content-Length: {len(body)}\r\nAccept: application/json, */*\r\n"
            "Content-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n"
        )
        result.append((head.encode() + body, kind in (0, 2)))
    return result


@dataclass(eq=False)
class Caller:
    """One connection and the call that is under way on it."""

    end: ssl.SSLSocket
    begun: float = 0.0
    allowed: bool = False
    got: bytes = b""


def run(
    port: int, path: str, connections: int, seconds: float, rate: float, ingresses: int, ca: str
) -> dict[str, object]:
    """``rate`` 0: every connection asks again at once; else so many calls a second in all.

    Errors: RuntimeError when a connection was closed.
    """
    context = ssl.create_default_context(cafile=ca)
    context.check_hostname = False
    prepared = requests(path, ingresses)
    # At a rate it must wake when a call is due: epoll only knows whole milliseconds.
    selector: selectors.BaseSelector = selectors.SelectSelector() if rate else selectors.DefaultSelector()
    callers = []
    for _ in range(connections):
        end = context.wrap_socket(socket.create_connection(("127.0.0.1", port)))
        end.setblocking(False)
        callers.append(Caller(end))
        selector.register(end, selectors.EVENT_READ, callers[-1])
    idle = deque(callers)  # in turn, so that none is idle until the server ends it
    laps: list[float] = []
    wrong = turn = before_end = 0
    start = time.perf_counter()
    warm = start + 0.5
    stop = warm + seconds
    while (now := time.perf_counter()) < stop + DRAIN_S:
        while idle and (turn < (min(now, stop) - start) * rate if rate else now < stop):
            caller = idle.popleft()
            request, caller.allowed = prepared[turn % len(prepared)]
            caller.begun = start + turn / rate if rate else time.perf_counter()
            turn += 1
            caller.end.send(request)
        if now >= stop and len(idle) == len(callers):
            break
        due = start + turn / rate if rate and idle else now + 0.001
        for key, _ in selector.select(max(0.0, min(due - time.perf_counter(), 0.001))):
            caller = key.data
            try:
                part = caller.end.recv(65536)
            except ssl.SSLWantReadError:
                continue
            if not part:
                raise RuntimeError("a connection was closed")
            caller.got += part
            head, found, body = caller.got.partition(b"\r\n\r\n")
            if not found or len(body) < int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]):
                continue
            done = time.perf_counter()
            if caller.begun >= warm:
                laps.append(1000 * (done - caller.begun))
                before_end += done < stop
            wanted = b'"allowed":true' if caller.allowed else b'"allowed":false'
            wrong += wanted not in body
            caller.got = b""
            idle.append(caller)
    owed = len(callers) - len(idle) + (max(0, int((stop - start) * rate) - turn) if rate else 0)
    for caller in callers:
        caller.end.close()
    laps.sort()
    return {
        "connections": connections,
        "rate": rate,
        "calls": len(laps),
        "calls_per_s": round(before_end / seconds),
        "p50_ms": round(statistics.median(laps), 2),
        "p99_ms": round(laps[int(len(laps) * 0.99)], 2),
        "max_ms": round(laps[-1], 2),
        "wrong": wrong,
        "unanswered": owed,
    }


def listed(ingresses: int, services: int) -> list[dict[str, object]]:
    """The objects that are there: those of the other benchmarks, as an API server has them."""
    import yaml

    from bench.config.objects import SERVICE, SLICE

    def load(text: str) -> dict[str, object]:
        found: dict[str, object] = yaml.load(text, Loader=yaml.CSafeLoader)
        return found

    result = []
    for number in range(services):
        service = f"web-{number:05}"
        result.append(load(SERVICE.format(service=service)))
        result.append(load(SLICE.format(service=service, port=8080, address="127.0.0.1")))
    for number in range(ingresses):
        host, service = f"shop-{number:05}.example.test", f"web-{number % services:05}"
        result.append(load(INGRESS.format(number=number, host=host, service=service, path="/b")))
    return result


if __name__ == "__main__":
    port, path, connections, seconds, rate, ingresses, authorities = sys.argv[1:]
    print(
        json.dumps(
            run(int(port), path, int(connections), float(seconds), float(rate), int(ingresses), authorities)
        )
    )
