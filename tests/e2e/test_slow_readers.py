"""100 clients that ask for 1 MiB and do not read: what another connection and the memory feel."""

from __future__ import annotations

import contextlib
import statistics
from pathlib import Path

import pytest

from bench.proxy import processes
from tests.e2e.lab import wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import Running, pod
from tests.fakes.client import Client

pytestmark = [pytest.mark.root, pytest.mark.slow]

HOST = "a.example.com"
READERS = 100
ROUNDS = 5
SECONDS = 1.5
RATE = 500
HELD_BYTES_MAX = 128 * 1024


def p99(edge: Running) -> float:
    """Return the 99th percentile of one connection's answers. Units: microseconds."""
    result = processes.load(edge.port, connections=1, seconds=SECONDS, rate=RATE, host=HOST, path="/who")
    assert not result["errors"] + result["closed"], result
    return float(result["p99_us"])


@pytest.mark.parametrize("loop", ["uring", "epoll"])
def test_clients_that_do_not_read_harm_nobody(tmp_path: Path, loop: str) -> None:
    config = tmp_path / "config"
    config.mkdir()
    quiet, loaded, growth = [], [], []
    with pod("web") as port, pod("big") as big:
        write(config, "pods.yaml", *[item for name, number in (("web", port), ("big", big))
                                     for item in (service(name), endpoints(name, number))])  # fmt: skip
        write(config, "ingress.yaml", ingress("web", [(HOST, "/", "web"), (HOST, "/bytes", "big")]))
        with Running(tmp_path, config, loop=loop) as edge:
            for _ in range(ROUNDS):
                quiet.append(p99(edge))
                before = edge.resident("edge-data")
                with contextlib.ExitStack() as stack:
                    for _ in range(READERS):
                        client = stack.enter_context(Client(edge.address, edge.port))
                        client.send_request(HOST, f"/bytes?n={1 << 20}")
                    settled = [0, -1]

                    def still(seen: list[int] = settled) -> bool:
                        """Tell whether memory has not changed between two looks 0.1 s apart."""
                        seen[:] = [seen[1], edge.resident("edge-data")]
                        return seen[0] == seen[1]

                    wait_for("memory settles", still, 10, 0.1)
                    loaded.append(p99(edge))
                    growth.append(edge.resident("edge-data") - before)
    low, high = statistics.median(quiet), statistics.median(loaded)
    assert high <= max(2 * low, low + 1000), f"p99 {low} µs quiet, {high} µs with slow readers"
    assert max(growth) <= READERS * HELD_BYTES_MAX, f"{max(growth) / READERS:.0f} bytes for each slow reader"


@pytest.mark.parametrize("loop", ["uring", "epoll"])
def test_a_slow_reader_gets_every_byte_at_last(tmp_path: Path, loop: str) -> None:
    config = tmp_path / "config"
    config.mkdir()
    with pod("web") as port:
        write(
            config, "all.yaml", service("web"), endpoints("web", port), ingress("web", [(HOST, "/", "web")])
        )
        with Running(tmp_path, config, loop=loop) as edge:
            readers = [Client(edge.address, edge.port) for _ in range(10)]
            for reader in readers:
                reader.send_request(HOST, f"/bytes?n={1 << 20}")
            assert edge.ask(HOST, "/who").status == 200
            for reader in readers:
                answer = reader.read_response()
                assert (answer.status, len(answer.body)) == (200, 1 << 20)
                assert answer.body == b"0123456789abcdef" * (1 << 16)
                reader.close()
