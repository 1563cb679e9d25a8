"""The packet generator that `make demo` and the packet benchmarks stand on: what it says it sent arrives."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from bench.packet.flood import Flood, syn
from tests.e2e.lab import ADDRESS, ETHTOOL_SGRO, Lab, set_offload, wait_for

pytestmark = [pytest.mark.root, pytest.mark.slow]

PPS, SECONDS = 20_000, 0.3


def received(lab: Lab, interface: str) -> int:
    """Return the packets that came in through an interface of the node."""
    with lab.inside("node"):
        for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == interface:
                return int(numbers.split()[1])
    raise AssertionError(f"no interface {interface}")


def test_every_frame_that_left_arrives() -> None:
    with Lab(clients=1, pods=0) as lab:
        frame = syn(lab.mac("node", "client1"), lab.mac("client1", "eth0"), ip_address(ADDRESS))
        with lab.inside("node"):
            set_offload(
                "client1", ETHTOOL_SGRO, 1
            )  # without XDP it is what makes a veth take redirected frames
        before = received(lab, "client1")
        with Flood(lab.name("client1"), "eth0", frame, "198.18.0.0/16") as flood:
            sent = flood.run(PPS, SECONDS)
        assert sent
        wait_for("all have arrived", lambda: received(lab, "client1") >= before + sent, 5)
