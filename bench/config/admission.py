"""How long the admission webhook takes to answer, with many objects there and many callers.

`python -m bench.config.admission [--quick] [--ingresses N] [--services M]`: a running instance that follows a
small API server with N Ingresses of two paths and M Services. Reviews over TLS by one caller, by 100 callers
that ask again at once, by 100 callers at a fixed rate, and the same while one Ingress and ten Ingresses
change each second; ten times fewer objects beside, because one object must not cost what all cost. Half of
the reviews are to be refused; every answer is looked at. Callers that ask again at once show what it can do:
each waits for the other 99, so the goal is of the others. Prints JSON lines, also to
bench/results/admission.jsonl; the last one is the summary. Exit status 1 when an answer was wrong or missing.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench.config.publish import EDGE, PATIENCE_S, cpu_s, resident_mb
from bench.config.reviews import ingress, listed
from bench.proxy import processes
from bench.proxy.http1 import ROOT, cpu_model, launch, versions
from tests.fakes.apiserver import ApiServer

CALLERS = 100
RATE = 500
GOAL_P99_MS = 50.0
KIND = "ValidatingWebhookConfiguration"
CONFIGURATION = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": KIND,
    "metadata": {"name": "xdp-edge"},
    "webhooks": [
        {
            "name": "objects.xdp-edge.dev",
            "clientConfig": {"service": {"name": "xdp-edge-webhook", "namespace": "default"}},
        }
    ],
}


class World:
    """An API server, an instance that follows it, and callers."""

    def __init__(self, work: Path, ingresses: int, services: int) -> None:
        self.work, self.ingresses = work, ingresses
        work.mkdir()
        self.server = ApiServer()
        self.server.__enter__()
        for one in listed(ingresses, services):
            self.server.put(one)
        self.server.put(CONFIGURATION)
        self.port, self.http, self.admin = (processes.free_port() for _ in range(3))
        options = {
            "--kubeconfig": self.server.kubeconfig(work),
            "--http": f"127.0.0.1:{self.http}",
            "--admin": f"127.0.0.1:{self.admin}",
            "--webhook": f"127.0.0.1:{self.port}",
            "--pod-namespace": "default",
            "--workers": 1,
            "--xdp": "off",
            "--access-log": "off",
            "--instance": f"bench-{os.getpid()}",
            "--run-dir": work / "run",
            "--state-dir": work / "state",
        }
        self.out = work / "edge.out"
        words = [word for pair in options.items() for word in pair]
        self.process = launch([EDGE, "run", *words], self.out)
        self.path, self.authorities = self._announced()
        self._until_synced()

    def _wait(self, what: str, begun: float) -> None:
        if self.process.poll() is not None or time.monotonic() - begun > PATIENCE_S:
            self.close()
            raise RuntimeError(f"{what}:\n{self.out.read_text()[-3000:]}")
        time.sleep(0.05)

    def _announced(self) -> tuple[str, Path]:
        begun = time.monotonic()
        while True:
            client = (self.server.get(KIND, "", "xdp-edge") or {})["webhooks"][0]["clientConfig"]
            if client.get("caBundle"):
                file = self.work / "ca.crt"
                file.write_bytes(base64.b64decode(client["caBundle"]))
                return client["service"]["path"], file
            self._wait("no certificate", begun)

    def _until_synced(self) -> None:
        begun = time.monotonic()
        while True:
            try:
                found = self.call(1, 0.1, 50)
                if not found["wrong"] and not found["unanswered"]:
                    return
            except (subprocess.CalledProcessError, ValueError):
                pass
            self._wait("no right answer", begun)

    def call(self, connections: int, seconds: float, rate: float) -> dict[str, Any]:
        """Ask for so long. Shape: what bench/config/reviews.py prints."""
        words = (self.port, self.path, connections, seconds, rate, self.ingresses, self.authorities)
        done = subprocess.run(
            [sys.executable, "-m", "bench.config.reviews", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
            cwd=ROOT,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @property
    def controller(self) -> int:
        """Its process."""
        (found,) = (
            pid
            for pid in processes.descendants(self.process.pid)
            if processes.command_name(pid) == "edge-controller"
        )
        return found

    def measured(self, name: str, connections: int, seconds: float, rate: float, changes: float) -> Any:
        """Ask while so many Ingresses a second change."""
        ended = threading.Event()

        def change() -> None:
            turn = 0
            begun = time.monotonic()
            while not ended.wait(max(0.0, begun + turn / changes - time.monotonic())):
                number = turn * 31 % self.ingresses
                host = f"shop-{number:05}.example.test"
                self.server.put(ingress(f"shop-{number:05}", host, "web-00001", ("/a", "/b", f"/n{turn}")))
                turn += 1

        thread = threading.Thread(target=change)
        if changes:
            thread.start()
        spent = cpu_s(self.controller)
        try:
            found = self.call(connections, seconds, rate)
        finally:
            ended.set()
            if changes:
                thread.join()
        spent = cpu_s(self.controller) - spent
        # Handshakes and the first half second are in the processor time and not among the calls.
        found["controller_us_per_call"] = round(1e6 * spent / max(1, found["calls"]))
        return {"name": name, "ingresses": self.ingresses, "changes_per_s": changes, **found}

    def close(self) -> None:
        """End all."""
        processes.stop(self.process)
        self.server.__exit__(None, None, None)


def main() -> int:
    """Run the benchmark; shape: the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ingresses", type=int, default=10_000)
    parser.add_argument("--services", type=int, default=2_000)
    arguments = parser.parse_args()
    seconds = 3.0 if arguments.quick else 15.0
    results = ROOT / "bench" / "results" / "admission.jsonl"
    results.parent.mkdir(exist_ok=True)
    lines: list[dict[str, Any]] = []
    memory = 0.0
    with tempfile.TemporaryDirectory(prefix="bench-admission-") as folder:
        for size in (max(1, arguments.ingresses // 10), arguments.ingresses):
            world = World(Path(folder) / str(size), size, min(size, arguments.services))
            try:
                cases: list[tuple[str, int, float, float]] = [
                    ("one caller", 1, 0, 0),
                    ("100 callers", CALLERS, 0, 0),
                ]
                if size == arguments.ingresses:
                    cases += [
                        ("100 callers at a rate", CALLERS, RATE, 0),
                        ("100 callers, 1 change a second", CALLERS, 0, 1),
                        ("100 callers at a rate, 10 changes a second", CALLERS, RATE, 10),
                    ]
                for name, connections, rate, changes in cases:
                    lines.append(world.measured(name, connections, seconds, rate, changes))
                    print(json.dumps(lines[-1]), flush=True)
                memory = resident_mb(world.controller)
            finally:
                world.close()
    stamp = {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "versions": versions()}
    p99 = {f"{one['name']}, {one['ingresses']} Ingresses": one["p99_ms"] for one in lines}
    summary = {
        "bench": "config.admission",
        "summary": True,
        **stamp,
        "cpu": cpu_model(),
        "p99_ms": p99,
        "goal_p99_ms": GOAL_P99_MS,
        "missed": [
            f"{one['name']}, {one['ingresses']} Ingresses"
            for one in lines
            if (one["rate"] or one["connections"] == 1) and one["p99_ms"] > GOAL_P99_MS
        ],
        "wrong": sum(one["wrong"] for one in lines),
        "unanswered": sum(one["unanswered"] for one in lines),
        "controller_mb": round(memory, 1),
    }
    print(json.dumps(summary), flush=True)
    with results.open("a") as kept:
        for line in [*lines, summary]:
            kept.write(json.dumps({**stamp, **line}) + "\n")
    return 1 if summary["wrong"] or summary["unanswered"] else 0


if __name__ == "__main__":
    sys.exit(main())
