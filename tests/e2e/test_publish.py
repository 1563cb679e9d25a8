"""1,000 publishes under traffic: no request fails, no connection closes, no memory stays."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from bench.proxy import processes
from tests.e2e.lab import wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import Running, pod
from tests.fakes.client import Client

pytestmark = [pytest.mark.root, pytest.mark.slow]

HOST = "a.example.com"
LONG = bool(os.environ.get("EDGE_LONG"))
PUBLISHES = 1000 if LONG else 400
INTERVAL_S = 0.05
HELD, HELD_S = 50, 60 if LONG else 25
LATE_MAX_S = 1.0
RATE, CONNECTIONS = 500, 32
PATIENT = {"nginx.ingress.kubernetes.io/proxy-read-timeout": "120"}
MIB = 1 << 20
LOOPS = ["uring", "epoll"] if LONG else ["auto"]


@pytest.mark.parametrize("loop", LOOPS)
def test_many_publishes_under_traffic(tmp_path: Path, loop: str) -> None:
    config = tmp_path / "config"
    config.mkdir()
    seconds = PUBLISHES * INTERVAL_S
    with pod("one") as one, pod("two") as two, pod("slow") as slow:
        write(config, "fixed.yaml", service("web"), service("slow"), endpoints("slow", slow),
              ingress("slow", [("slow.example.com", "/", "slow")], **PATIENT))  # fmt: skip
        write(config, "slice.yaml", endpoints("web", one))
        write(config, "ingress.yaml", ingress("web", [(HOST, "/", "web")]))
        with Running(tmp_path, config, loop=loop) as edge:
            held = [Client(edge.address, edge.port, timeout=HELD_S + 60) for _ in range(HELD)]
            for client in held:
                client.send_request("slow.example.com", f"/slow?s={HELD_S}")
            tool = processes.compile_tool("load")
            words = [tool, edge.address, edge.port, CONNECTIONS, seconds + 4, RATE, HOST, "/who"]
            load = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)
            try:
                delays, data_rss, late = run_publishes(edge, config, one, two)
                output, _ = load.communicate(timeout=seconds + 60)
                patches = edge.metrics()['edge_publishes_total{kind="patch"}']
            finally:
                if load.poll() is None:
                    load.kill()
                    load.communicate()
            result = json.loads(output)
            answers = [client.read_response().status for client in held]
            for client in held:
                client.close()
    assert answers == [200] * HELD
    assert result["requests"] >= 0.95 * RATE * (seconds + 4), result
    assert not result["errors"] + result["closed"] + result["unanswered"], result
    assert patches >= PUBLISHES / 2, f"{patches:.0f} of {PUBLISHES} publishes were patches"
    assert late < LATE_MAX_S, f"the last publish was {late:.1f} s behind its time"
    delays.sort()
    assert delays[-1] < 2, f"slowest publish took {delays[-1]:.3f} s"
    assert delays[len(delays) // 2] < 0.1, f"median publish took {delays[len(delays) // 2]:.3f} s"
    assert data_rss[1] <= data_rss[0] + MIB, f"after 100: {data_rss[0]}, after all: {data_rss[1]} bytes"


def run_publishes(
    edge: Running, config: Path, one: int, two: int
) -> tuple[list[float], tuple[int, int], float]:
    """Publish at the fixed pace; half of them endpoint patches, half full images.

    Shape: seconds until each was in force, the data plane's memory after 100 and after all, seconds
    by which the last one was behind its time.
    """
    delays = []
    after_100 = 0
    data = edge.pid("edge-data")
    with edge.inside():
        admin = Client("127.0.0.1", edge.admin_port)
    serving = json.loads(admin.ask("localhost", "/snapshot").body)["serving"]
    began = time.monotonic()
    for number in range(PUBLISHES):
        due = began + number * INTERVAL_S
        time.sleep(max(0.0, due - time.monotonic()))
        if number % 2:
            write(config, "slice.yaml", endpoints("web", two if number % 4 == 1 else one))
        else:
            write(
                config, "ingress.yaml", ingress("web", [(HOST, "/", "web"), (f"h{number}.x.org", "/", "web")])
            )
        written = time.monotonic()

        def next_version(last: int = serving) -> int:
            version = int(json.loads(admin.ask("localhost", "/snapshot").body)["serving"])
            return version if version > last else 0

        serving = wait_for(f"publish {number}", next_version, 10, 0.002)
        delays.append(time.monotonic() - written)
        if number == 99:
            after_100 = edge.resident("edge-data")
    late = time.monotonic() - began - PUBLISHES * INTERVAL_S
    admin.close()
    assert edge.pid("edge-data") == data, "the data plane was replaced"
    return delays, (after_100, edge.resident("edge-data")), late
