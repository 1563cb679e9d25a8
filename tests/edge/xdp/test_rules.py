"""Policies to bytes without a kernel: keys, fronts, inheritance, rates; tests/bpf runs them over packets."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from edge.errors import XdpError
from edge.model.diagnostics import ObjectRef
from edge.model.types import PerSource, Policy
from edge.native import ffi, lib
from edge.xdp.btf import Btf
from edge.xdp.compiler import source_hash, stored_object
from edge.xdp.object import BpfObject, compare_layouts
from edge.xdp.rules import Plan, make_plan, normal_vips, paint_v4


def policy(name: str = "p", **values: object) -> Policy:
    return Policy(object=ObjectRef("EdgePolicy", "", name), **values)  # type: ignore[arg-type]


def settings(plan: Plan):
    return ffi.from_buffer("struct edge_settings *", plan.settings)


def test_vips_are_read_as_callers_write_them() -> None:
    assert normal_vips([("198.18.0.1", 80, "TCP"), (ip_address("fd00::1"), 53, 17)]) == {
        (ip_address("198.18.0.1"), 80, 6),
        (ip_address("fd00::1"), 53, 17),
    }


def test_an_unspecified_address_is_refused() -> None:
    with pytest.raises(XdpError, match="must be expanded"):
        make_plan(0, normal_vips([("0.0.0.0", 80, "tcp")]), [])


@pytest.mark.parametrize(
    "text", ["10.0.0.0/8", "198.18.0.0/15", "203.0.113.0/24", "203.0.112.0/22", "1.2.3.4/32"]
)
def test_the_front_has_a_bit_for_each_24_that_is_touched(text: str) -> None:
    network = ip_network(text)
    front = bytearray(lib.EDGE_FRONT_V4_WORDS * 8)
    paint_v4(front, network.prefixlen, int(network.network_address))
    first = int(network.network_address) >> 8
    count = max(1, network.num_addresses >> 8)
    assert int.from_bytes(front, "little").bit_count() == count
    for position in (first, first + count - 1):
        assert front[position >> 3] >> (position & 7) & 1


def test_no_rules_cost_no_memory() -> None:
    plan = make_plan(0, [], [])
    assert (plan.front_v4, plan.front_v6, plan.sources, plan.short) == (None, None, {}, {})
    assert settings(plan).flags == 0


def test_short_prefixes_stand_in_the_trie_alone() -> None:
    plan = make_plan(1, [], [policy(deny=(ip_network("10.0.0.0/8"), ip_network("10.1.1.0/24")))])
    assert len(plan.short) == len(plan.sources) == 1
    assert list(settings(plan).lengths_v4)[:2] == [24, 0]
    assert settings(plan).flags == lib.EDGE_SETTING_RULES_V4 | lib.EDGE_SETTING_SHORT_V4


def test_the_first_policy_by_name_gives_single_values() -> None:
    given = [policy("b", dead_man_s=9), policy("a", dead_man_s=3, dead_man_pass=False)]
    made = settings(make_plan(0, [], given))
    assert (made.dead_man_ns, made.flags) == (3_000_000_000, lib.EDGE_SETTING_STALE_DROP)


def test_a_burst_is_a_span_of_time_for_both_limits() -> None:
    limit = PerSource(packets_per_second=1000, connections_per_second=10, burst=2000)
    rate = settings(make_plan(0, [], [policy(per_source=limit)])).listener
    assert rate.packet_interval == 1_000_000 << lib.EDGE_RATE_SHIFT
    assert rate.packet_slack == 1999 * rate.packet_interval
    assert rate.connection_slack == 19 * rate.connection_interval


def test_the_slack_never_overflows() -> None:
    limit = PerSource(packets_per_second=1, burst=1_000_000_000)
    assert settings(make_plan(0, [], [policy(per_source=limit)])).listener.packet_slack == 1 << 61


def test_the_stored_object_is_of_these_sources_and_layouts() -> None:
    stored = stored_object()
    assert stored.source == source_hash(), "run: python -m edge.xdp.compiler --store"
    compare_layouts(stored)
    assert BpfObject.from_dict(stored.to_dict()) == stored


def test_btf_gives_names_and_offsets() -> None:
    stored = stored_object()
    spec = stored.maps["edge_vips"]
    assert Btf(stored.btf).layout(spec.key_type) == {
        "address": (0, 16),
        "port_be": (16, 2),
        "protocol": (18, 1),
        "generation": (19, 1),
    }
    with pytest.raises(ValueError, match="not BTF"):
        Btf(bytes(24))


def test_a_plan_moved_is_the_plan_of_the_other_generation() -> None:
    deny = tuple(map(ip_network, ("10.0.0.0/8", "198.18.7.0/24", "fd00:198::/32", "fd00:198:7::/64")))
    vips = normal_vips([("198.18.0.1", 80, "tcp"), ("fd00:198::1", 443, "udp")])
    given = [policy(deny=deny, scope="node", allow=(ip_network("198.18.7.7/32"),))]
    local = [ip_address("198.18.0.2")]
    assert make_plan(0, vips, given, local).moved(1) == make_plan(1, vips, given, local)
