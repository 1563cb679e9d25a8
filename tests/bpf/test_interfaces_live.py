"""Interfaces that go and come back while an instance runs; a start that finds an earlier one's program."""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from edge.errors import XdpError
from edge.xdp.addresses import AddressWatch, chosen_interfaces
from edge.xdp.plane import earlier
from tests.e2e.lab import Lab, give, wait_for
from tests.e2e.objects import policy, write
from tests.e2e.running import Running

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "config"
    folder.mkdir()
    return folder


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(clients=1, pods=0) as lab:
        add(lab)
        yield lab


def add(lab: Lab) -> None:
    with lab.inside("node"), IPRoute() as route:
        route.link("add", ifname="extra0", kind="veth", peer="extra1")


def delete(lab: Lab) -> None:
    with lab.inside("node"), IPRoute() as route:
        route.link("del", index=socket.if_nametoindex("extra0"))


def interfaces(edge: Running) -> dict[str, str]:
    found: dict[str, str] = edge.admin_json("/xdp").get("interfaces", {})
    return found


@pytest.mark.parametrize("mode", ["auto", "native"] if os.environ.get("EDGE_LONG") else ["native"])
def test_an_interface_that_comes_back_is_policed_again(
    tmp_path: Path, config: Path, lab: Lab, mode: str
) -> None:
    options = {"xdp": mode, "interface": ["client1", "extra0"]}
    both = {"client1": "native", "extra0": "native"}
    with Running(tmp_path, config, lab=lab, http="198.18.0.1:80", **options) as edge:
        assert wait_for("XDP", lambda: interfaces(edge)) == both
        delete(lab)
        wait_for("it is seen to be gone", lambda: interfaces(edge) == {"client1": "native"}, 5)
        assert edge.admin_json("/xdp")["without"] == {"extra0": "interface extra0 does not exist"}
        # A controller that starts now goes on without it, native or not.
        old = edge.pid("edge-controller")
        os.kill(old, signal.SIGKILL)
        wait_for("another one runs", lambda: edge.holder()["controller_pid"] not in ("0", str(old)))
        wait_for("it has XDP", lambda: edge.ready() and interfaces(edge) == {"client1": "native"})
        add(lab)
        wait_for("it is policed again", lambda: interfaces(edge) == both, 5)
        wait_for("it says so", lambda: "xdp: attached to extra0 (native)" in edge.lines())


def test_the_watch_tells_addresses_from_interfaces(lab: Lab) -> None:
    with lab.inside("node"):
        watch = AddressWatch()
    try:
        delete(lab)
        wait_for("an announcement", lambda: select.select([watch], [], [], 0)[0], 5)
        assert not watch.drain()
        with lab.inside("node"), IPRoute() as route:
            give(route, "client1", "198.18.9.9", 32)
        wait_for("an announcement", lambda: select.select([watch], [], [], 0)[0], 5)
        assert watch.drain()
        assert not watch.drain()
    finally:
        watch.close()


def test_a_start_without_xdp_says_what_still_filters_and_keeps_it_alive(
    tmp_path: Path, config: Path, lab: Lab
) -> None:
    write(config, "policy.yaml", policy(deadMan={"seconds": 1, "action": "drop"}))
    options = {"xdp": "native", "interface": ["client1"]}
    with Running(tmp_path, config, lab=lab, http="198.18.0.1:80", **options) as edge:
        wait_for("the policy", lambda: edge.admin_json("/xdp").get("dead_man", {}).get("seconds") == 1)
        assert edge.stop() == 0
        edge.options["xdp"] = "off"
        edge.start()
        wait_for("it serves", edge.ready)
        assert "an earlier start still filters on client1; `edge detach` removes that" in edge.lines()
        # Two seconds on, packets still reach it: its processes stamp the page that the program reads.
        ended = wait_for_stamps(edge)
        with lab.inside("client1"), socket.create_connection(("198.18.0.1", 80), 2):
            assert ended >= 20
        edge.options["xdp"] = "native"  # there is something to detach


def wait_for_stamps(edge: Running) -> int:
    """Read the heartbeat's second stamp until it has changed often enough for two seconds."""
    _, page = earlier(edge.name)
    assert page is not None
    seen: set[int] = set()
    with mmap.mmap(page, mmap.PAGESIZE, prot=mmap.PROT_READ) as memory:
        words = memoryview(memory).cast("Q")
        try:
            wait_for("stamps", lambda: seen.add(words[8]) or len(seen) > 20, 10)  # type: ignore[func-returns-value]
        finally:
            words.release()
    os.close(page)
    return len(seen)


def test_default_means_where_the_default_routes_leave() -> None:
    """A DaemonSet has one command line for nodes whose NICs have other names."""
    with Lab(clients=2, pods=0) as lab, lab.inside("node"), IPRoute() as route:
        assert chosen_interfaces(["eth7"]) == ("eth7",)
        with pytest.raises(XdpError, match="no default route"):
            chosen_interfaces(["default"])
        route.route("add", dst="default", gateway="198.18.2.2")
        assert chosen_interfaces(["default"]) == ("client2",)
        route.route("add", dst="default", family=socket.AF_INET6, gateway="fd00:198:0:1::2")
        assert chosen_interfaces(["eth7", "default", "client2"]) == ("client1", "client2", "eth7")
