"""Packet in, verdict and reason out, by BPF_PROG_TEST_RUN: every reason in both families."""

from __future__ import annotations

import struct
import time
from ipaddress import ip_network

import pytest

from edge.model.types import PerSource
from edge.xdp import syscalls
from tests.bpf.packets import ACK, FIN, RST, SYN, UDP, ethernet, extension, fragment6, ipv4, ipv6, tcp, udp
from tests.bpf.probe import V4, V6, Probe, policy

pytestmark = pytest.mark.root

DENIED = {"ipv4": "198.18.9.9", "ipv6": "fd00:198:9::9"}


def test_everything_passes_before_the_first_commit(probe: Probe, build) -> None:
    assert probe.reason(build()) == "pass_idle"


def test_to_a_vip(probe: Probe, build) -> None:
    probe.publish()
    assert probe.reason(build()) == "pass_policed"
    assert probe.reason(build(udp(), protocol=UDP)) == "pass_policed"
    assert probe.reason(build(tcp(port=22))) == "pass_other"
    other = "198.18.0.2" if len(build()) < 60 else "fd00:198::2"
    assert probe.reason(build(target=other)) == "pass_other"


@pytest.mark.parametrize("tags", [(0x8100,), (0x88A8, 0x8100)])
def test_vlan_tags(probe: Probe, build, tags: tuple[int, ...]) -> None:
    probe.publish()
    assert probe.reason(build(tags=tags)) == "pass_policed"


def test_a_third_tag_is_not_ours(probe: Probe, build) -> None:
    probe.publish()
    assert probe.reason(build(tags=(0x88A8, 0x8100, 0x8100))) == "pass_other"


def test_other_protocols_pass(probe: Probe, build) -> None:
    probe.publish()
    assert probe.reason(ethernet(0x0806, bytes(46))) == "pass_other"
    assert probe.reason(build(bytes(20), protocol=1)) == "pass_other"
    assert probe.reason(ipv4(V4, tcp(), version=5)) == "pass_other"


@pytest.mark.parametrize(
    "segment",
    [
        tcp(flags=0),
        tcp(flags=SYN | FIN),
        tcp(flags=SYN | RST),
        tcp(words=4),
        tcp(words=15)[:40],
        tcp(source_port=0),
        tcp()[:4],
        tcp()[:19],
    ],
    ids=["no-flag", "syn-fin", "syn-rst", "short-offset", "offset-past-end", "port-0", "4-bytes", "19-bytes"],
)
def test_malformed_tcp(probe: Probe, build, segment: bytes) -> None:
    probe.publish()
    assert probe.reason(build(segment)) == "drop_malformed"


@pytest.mark.parametrize("length", [0, 7, 99])
def test_malformed_udp(probe: Probe, build, length: int) -> None:
    probe.publish()
    assert probe.reason(build(udp(length=length), protocol=UDP)) == "drop_malformed"


def test_malformed_to_nobody_passes(probe: Probe, build) -> None:
    probe.publish()
    assert probe.reason(build(tcp(port=22, flags=0))) == "pass_other"
    assert probe.reason(ipv4("198.18.0.2", tcp()[:3])) == "pass_other"
    assert probe.reason(ipv6("fd00:198::2", tcp()[:3])) == "pass_other"


def test_malformed_ipv4_header(probe: Probe) -> None:
    probe.publish()
    assert probe.reason(ipv4(V4, tcp(), words=4, total=40)) == "drop_malformed"
    assert probe.reason(ipv4(V4, tcp(), total=19)) == "drop_malformed"
    assert probe.reason(ipv4(V4, tcp(), total=1000)) == "drop_malformed"
    assert probe.reason(ipv4(V4, tcp(), words=15)) == "pass_policed"


def test_ethernet_padding_is_no_payload(probe: Probe) -> None:
    probe.publish()
    assert probe.reason(ipv4(V4, tcp()) + bytes(6)) == "pass_policed"
    assert probe.reason(ipv4(V4, tcp()[:10]) + bytes(20)) == "drop_malformed"


@pytest.mark.parametrize("kind", [0, 43, 60])
def test_extension_headers(probe: Probe, kind: int) -> None:
    probe.publish()
    assert probe.reason(ipv6(V6, extension(6, tcp()), protocol=kind)) == "pass_policed"
    assert probe.reason(ipv6(V6, extension(6, tcp(), units=3), protocol=kind)) == "pass_policed"
    assert probe.reason(ipv6(V6, extension(6, tcp(), units=200)[:60], protocol=kind)) == "drop_malformed"


def test_too_many_extension_headers(probe: Probe) -> None:
    probe.publish()
    payload = tcp()
    for following in (6, 60, 60, 60, 60, 60):
        payload = extension(following, payload)
    assert probe.reason(ipv6(V6, payload, protocol=60)) == "drop_malformed"


@pytest.mark.slow
def test_cut_at_every_length(probe: Probe, build) -> None:
    """Never an error of the program, never judged within limits when a header is not whole."""
    probe.publish()
    whole = build(tcp(words=8, data=b"GET / HTTP/1.1\r\n"))
    for size in range(14, len(whole)):
        assert probe.reason(whole[:size]) in ("drop_malformed", "pass_other")
    assert probe.reason(whole) == "pass_policed"


def test_fragments(probe: Probe) -> None:
    """The first one names a VIP's port and is dropped; later ones are useless without it."""
    probe.publish()
    assert probe.reason(ipv4(V4, tcp(), fragment=0x2000)) == "drop_fragment"
    assert probe.reason(ipv4(V4, tcp()[:8], fragment=0x2000)) == "drop_fragment"
    assert probe.reason(ipv4(V4, tcp(port=22), fragment=0x2000)) == "pass_other"
    assert probe.reason(ipv4(V4, bytes(16), fragment=0x2001)) == "pass_other"
    assert probe.reason(ipv6(V6, fragment6(6, tcp()), protocol=44)) == "drop_fragment"
    assert probe.reason(ipv6(V6, fragment6(6, bytes(16), offset=9), protocol=44)) == "pass_other"
    assert probe.reason(ipv6(V6, fragment6(6, tcp(), more=False), protocol=44)) == "pass_policed"


@pytest.mark.parametrize("v4, v6", [(32, 128), (24, 64), (25, 48), (16, 32), (8, 20), (0, 0)])
def test_denied_by_prefix(probe: Probe, build, family: str, v4: int, v6: int) -> None:
    nets = [
        ip_network(f"{DENIED['ipv4']}/{v4}", strict=False),
        ip_network(f"{DENIED['ipv6']}/{v6}", strict=False),
    ]
    probe.publish(policy(deny=tuple(nets)))
    assert probe.reason(build(source=DENIED[family])) == "drop_denied"
    outside = {"ipv4": "100.64.1.1", "ipv6": "2001:db8::1"}[family]
    assert probe.reason(build(source=outside)) == ("pass_policed" if v4 else "drop_denied")


def test_the_most_specific_rule_decides(probe: Probe, build, family: str) -> None:
    wide, narrow = {"ipv4": ("198.18.0.0/15", "198.18.9.0/24"), "ipv6": ("fd00:198::/32", "fd00:198:9::/64")}[
        family
    ]
    probe.publish(policy(deny=(ip_network(wide),), allow=(ip_network(narrow),)))
    assert probe.reason(build(source=DENIED[family])) == "pass_allowed"
    assert probe.reason(build()) == "drop_denied"
    probe.publish(policy(allow=(ip_network(wide),), deny=(ip_network(narrow),)))
    assert probe.reason(build(source=DENIED[family])) == "drop_denied"
    assert probe.reason(build()) == "pass_allowed"


def test_many_lengths_of_ipv6(probe: Probe) -> None:
    """More lengths than the exact hashes take: the rest stands in the trie, the answer is the same."""
    nets = tuple(ip_network(f"2001:db8:{i:x}::/{48 + i}") for i in range(20))
    probe.publish(policy(deny=nets))
    for net in nets:
        assert probe.reason(ipv6(V6, tcp(), source=str(net[5]))) == "drop_denied"
    assert probe.reason(ipv6(V6, tcp(), source="2001:db8:ff::5")) == "pass_policed"


def test_packets_a_second(probe: Probe, build) -> None:
    probe.publish(policy(per_source=PerSource(packets_per_second=1, burst=5)))
    assert probe.run(build(), 20) == {"pass_policed": 5, "drop_packets": 15, "verdict": 1}
    other = "198.18.7.8" if len(build()) < 60 else "fd00:198:8::7"
    assert probe.reason(build(source=other)) == "pass_policed"


def test_connections_a_second(probe: Probe, build) -> None:
    probe.publish(policy(per_source=PerSource(connections_per_second=1, burst=3)))
    assert probe.run(build(tcp(flags=SYN)), 10) == {"pass_policed": 3, "drop_connections": 7, "verdict": 1}
    assert probe.run(build(), 10) == {"pass_policed": 10, "verdict": 2}


def test_the_prefix_names_the_source(probe: Probe) -> None:
    limit = PerSource(packets_per_second=1, burst=2, prefix_v4=24, prefix_v6=48)
    probe.publish(policy(per_source=limit))
    for packets in (
        [ipv4(V4, tcp(), source=f"198.18.7.{i}") for i in range(4)],
        [ipv6(V6, tcp(), source=f"fd00:198:7:{i}::1") for i in range(4)],
    ):
        assert [probe.reason(packet) for packet in packets] == ["pass_policed"] * 2 + ["drop_packets"] * 2


def test_a_bucket_outlives_a_publish(probe: Probe, build) -> None:
    limit = policy(per_source=PerSource(packets_per_second=1, burst=2))
    probe.publish(limit)
    probe.run(build(), 5)
    probe.publish(limit, policy("q", deny=(ip_network("203.0.113.0/24"),)))
    assert probe.reason(build()) == "drop_packets"


def test_allowed_sources_meet_no_bucket(probe: Probe, build, family: str) -> None:
    net = ip_network({"ipv4": "198.18.7.0/24", "ipv6": "fd00:198:7::/48"}[family])
    probe.publish(policy(allow=(net,), per_source=PerSource(packets_per_second=1, burst=1)))
    assert probe.run(build(), 9) == {"pass_allowed": 9, "verdict": 2}


def test_scope_node_judges_every_port_of_its_addresses(probe: Probe, build, family: str) -> None:
    net = ip_network({"ipv4": "198.18.7.0/24", "ipv6": "fd00:198:7::/48"}[family])
    probe.publish(policy(scope="node", deny=(net,)))
    assert probe.reason(build(tcp(port=22))) == "drop_denied"
    assert probe.reason(build(bytes(20), protocol=1)) == "drop_denied"
    forwarded = "198.18.44.1" if family == "ipv4" else "fd00:198:44::1"
    assert probe.reason(build(target=forwarded)) == "pass_other"
    probe.publish(policy(deny=(net,)), policy("n", scope="node", per_source=PerSource(100)))
    assert probe.reason(build(tcp(port=22))) == "pass_policed"
    assert probe.reason(build()) == "drop_denied"


def test_a_narrow_rule_of_one_scope_leaves_the_other_to_the_wider(probe: Probe) -> None:
    wide, narrow = ip_network("198.18.0.0/15"), ip_network("198.18.7.7/32")
    probe.publish(policy("a", scope="node", deny=(wide,)), policy("b", allow=(narrow,)))
    assert probe.reason(ipv4(V4, tcp())) == "pass_allowed"
    assert probe.reason(ipv4(V4, tcp(port=22))) == "drop_denied"


@pytest.mark.parametrize("passes, reason", [(True, "pass_stale"), (False, "drop_stale")])
def test_dead_man(probe: Probe, build, passes: bool, reason: str) -> None:
    probe.publish(
        policy(dead_man_s=2, dead_man_pass=passes, deny=(ip_network("0.0.0.0/0"), ip_network("::/0")))
    )
    beat = probe.plane._loaded.maps["edge_heartbeat"]

    def stamp(holder: int, data: int) -> None:
        syscalls.map_update(beat, bytes(4), struct.pack("<8Q8Q", holder, *[0] * 7, data, *[0] * 7))

    now = time.monotonic_ns()
    stamp(now - 10**10, now - 10**10)
    assert probe.reason(build()) == reason
    assert probe.reason(build(tcp(port=22))) == "pass_other"
    stamp(now - 10**10, now)
    assert probe.reason(build()) == "drop_denied"
    stamp(now, 0)
    assert probe.reason(build()) == "drop_denied"


def test_a_packet_may_be_answered_by_the_stack_alone(probe: Probe, build) -> None:
    probe.publish()
    assert probe.run(build(tcp(flags=SYN | ACK)))["verdict"] == 2
