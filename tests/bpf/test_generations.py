"""Two generations: what a publish changes, what it keeps, and that no packet sees half of each."""

from __future__ import annotations

import threading
from ipaddress import ip_network

import pytest

from edge.errors import XdpError
from edge.xdp import syscalls
from edge.xdp.plane import XdpPlane
from tests.bpf.packets import ipv4, tcp
from tests.bpf.probe import V4, VIPS, Probe, policy

pytestmark = pytest.mark.root

NET = ip_network("198.18.7.0/24")


def test_prepare_changes_nothing_for_packets(probe: Probe) -> None:
    probe.publish()
    probe.plane.prepare(10, VIPS, [policy(deny=(NET,))])
    assert probe.reason(ipv4(V4, tcp())) == "pass_policed"
    probe.plane.commit()
    assert probe.reason(ipv4(V4, tcp())) == "drop_denied"
    assert probe.plane.committed == 10


def test_a_vip_that_left_is_policed_until_it_is_retired(probe: Probe) -> None:
    probe.publish(policy(deny=(NET,)))
    probe.plane.prepare(10, [("198.18.0.9", 80, "tcp")], [policy(deny=(NET,))])
    probe.plane.commit()
    assert probe.reason(ipv4(V4, tcp())) == "drop_denied"
    assert probe.reason(ipv4("198.18.0.9", tcp(port=80))) == "drop_denied"
    probe.plane.retire()
    assert probe.reason(ipv4(V4, tcp())) == "pass_other"
    assert probe.reason(ipv4("198.18.0.9", tcp(port=80))) == "drop_denied"


def test_the_same_again_only_moves_the_version(probe: Probe) -> None:
    probe.publish(policy(deny=(NET,)))
    generation = probe.plane.describe()["generation"]
    probe.publish(policy(deny=(NET,)))
    described = probe.plane.describe()
    assert (described["generation"], described["committed"]) == (generation, 2)


def test_versions_only_grow(probe: Probe) -> None:
    probe.publish()
    with pytest.raises(XdpError, match="not above"):
        probe.plane.prepare(1, VIPS, [])


@pytest.mark.slow
def test_no_packet_sees_two_generations(probe: Probe) -> None:
    """One generation denies and serves, the other allows and serves: "policed" would be a mixture."""
    packet = ipv4(V4, tcp())
    everyone = ip_network("0.0.0.0/0")
    pairs = [policy(deny=(everyone, NET)), policy(allow=(everyone, NET))]
    probe.publish(pairs[0])
    before = probe.plane.statistics()
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            syscalls.test_run(probe.plane._loaded.program, packet, 20_000)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        for turn in range(300):
            probe.publish(pairs[turn % 2])
    finally:
        stop.set()
        thread.join()
    after = probe.plane.statistics()
    change = {name: after[name][0] - before[name][0] for name in after if after[name] != before[name]}
    offered = change.pop("offered")
    assert set(change) == {"drop_denied", "pass_allowed"}
    assert offered == sum(change.values())


def test_a_new_process_finds_the_running_generation(probe: Probe) -> None:
    probe.publish(policy(deny=(NET,)))
    probe.run(ipv4(V4, tcp()), 3)
    again = XdpPlane.open(probe.plane.instance, [])
    try:
        assert again.committed == 1
        assert again.statistics()["drop_denied"][0] == 3
        again.prepare(2, VIPS[:1], [policy(deny=(NET,))])
        again.commit()
        again.retire()
        run = syscalls.test_run(again._loaded.program, ipv4(V4, tcp()))
        assert run.verdict == 1
        assert len(syscalls.map_items(again._loaded.maps["edge_vips"], 20, 4, 9000)) == 2
    finally:
        again.close()


def test_limits_are_refused_by_name(probe: Probe) -> None:
    probe.publish()
    many = [(f"10.{i >> 8}.{i & 255}.1", 80, "tcp") for i in range(2049)]
    with pytest.raises(XdpError, match="at most 4096"):
        probe.plane.prepare(2, many, [])
    assert probe.reason(ipv4(V4, tcp())) == "pass_policed"


def test_ten_thousand_rules_are_read_back_by_the_next_process(probe: Probe) -> None:
    many = tuple(ip_network(f"100.64.{i >> 8}.{i & 255}/32") for i in range(10_000))
    probe.publish(policy(deny=(*many, NET, ip_network("10.0.0.0/8"), ip_network("fd00:198:7::/64"))))
    again = XdpPlane.open(probe.plane.instance, [])
    try:
        assert again.describe()["rules"] == 10_003
        again.prepare(2, VIPS, [policy(deny=(*many[1:], NET))])
        again.commit()
        again.retire()
        assert again.describe()["rules"] == 10_000
        run = syscalls.test_run(again._loaded.program, ipv4(V4, tcp(), source="100.64.39.15"))
        assert run.verdict == 1
        run = syscalls.test_run(again._loaded.program, ipv4(V4, tcp(), source="100.64.0.0"))
        assert run.verdict == 2
        for name, key_bytes in (("edge_sources", 20), ("edge_short", 24)):
            items = syscalls.map_items(again._loaded.maps[name], key_bytes, 4, 300_000)
            assert len(items) == (10_000 if name == "edge_sources" else 0)
    finally:
        again.close()
