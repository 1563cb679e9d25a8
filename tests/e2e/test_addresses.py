"""A listener on any address: what it serves follows the node's addresses, and so does the filter."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from tests.e2e.lab import ADDRESS, Lab, give, wait_for
from tests.e2e.objects import endpoints, ingress, policy, service, write
from tests.e2e.running import Running

pytestmark = [pytest.mark.root, pytest.mark.slow]

DENIED, ADDED = "198.18.1.66", "198.18.1.9"


def test_an_address_is_policed_within_a_second_of_its_arrival(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    with Lab(clients=1, pods=1) as lab:
        with lab.inside("client1"), IPRoute() as route:
            give(route, "eth0", DENIED, 32)
        write(config, "policy.yaml", policy(deny=[f"{DENIED}/32"]))
        write(config, "service.yaml", service("web"), endpoints("web", 8080, [lab.pod_address(1)]))
        write(config, "ingress.yaml", ingress("web", [("a.example.com", "/", "web")]))
        options = {"xdp": "native", "interface": lab.interfaces()}
        with Running(tmp_path, config, lab=lab, http="0.0.0.0:80", **options) as edge:
            shown = edge.admin_json("/xdp")
            assert shown["program"]["object"] == "compiled", shown["program"]
            assert "edge-controller: xdp: compiled object" in edge.log.read_text()
            # It stands on lo, and its packets come in through an interface of ours all the same.
            assert not reaches(lab, ADDRESS, DENIED) and reaches(lab, ADDRESS)
            before = shown["vips"]
            with lab.inside("node"), IPRoute() as route:
                give(route, "client1", ADDED, 24)
            added = time.monotonic()
            wait_for("it is policed", lambda: not reaches(lab, ADDED, DENIED), 5)
            assert time.monotonic() - added < 1.3  # a try that is refused takes 0.3 s by itself
            assert reaches(lab, ADDED)
            assert edge.admin_json("/xdp")["vips"] > before
            with lab.inside("node"), IPRoute() as route:
                index = route.link_lookup(ifname="client1")[0]
                route.addr("del", index=index, address=ADDED, prefixlen=24)
            wait_for("it is forgotten", lambda: edge.admin_json("/xdp")["vips"] == before, 5)


def reaches(lab: Lab, address: str, source: str = "") -> bool:
    """Tell whether a connection is accepted within a moment."""
    with lab.inside("client1"), contextlib.closing(socket.socket()) as channel:
        channel.settimeout(0.3)
        channel.bind((source, 0))
        try:
            channel.connect((address, 80))
        except TimeoutError:
            return False
        return True
