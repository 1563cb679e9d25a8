"""The nodes that serve: whose addresses clients get, for how long, and who reports what."""

from __future__ import annotations

import json
from typing import Any

from edge.controller.fleet import STAYS_S, Fleet, siblings
from edge.controller.node_report import LASTS_S, ROUTES, XDP


def as_bytes(value: object) -> bytes:
    return json.dumps(value).encode()


def pod(node: str, ready: bool = True, **metadata: Any) -> bytes:
    conditions = [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": str(ready)}]
    return as_bytes({"metadata": metadata, "spec": {"nodeName": node}, "status": {"conditions": conditions}})


def node(*addresses: str) -> bytes:
    listed = [{"type": "InternalIP", "address": one} for one in addresses]
    return as_bytes({"metadata": {}, "status": {"addresses": listed}})


def fleet() -> Fleet:
    made = Fleet()
    made.take_nodes(
        [("n1", node("198.18.0.1", "fd00:198::1")), ("n2", node("198.18.0.2")), ("n3", node("198.18.0.3"))]
    )
    made.take_pods([("a", pod("n1")), ("b", pod("n2")), ("c", pod("n3", ready=False))], 0.0)
    return made


def test_nodes_with_a_ready_pod() -> None:
    made = fleet()
    assert made.ready() == {"n1", "n2"}
    assert made.addresses(0.0) == ("198.18.0.1", "198.18.0.2", "fd00:198::1")
    assert made.all_addresses() == {"198.18.0.1", "198.18.0.2", "198.18.0.3", "fd00:198::1"}


def test_an_address_outlives_a_restart() -> None:
    made = fleet()
    made.take_pods([("b", pod("n2", ready=False))], 10.0)
    assert "198.18.0.2" in made.addresses(10.0 + STAYS_S - 1) and made.ready() == {"n1"}
    assert made.next_leave(10.0) == STAYS_S
    assert "198.18.0.2" not in made.addresses(10.0 + STAYS_S) and made.next_leave(10.0 + STAYS_S) is None
    made.take_pods([("b2", pod("n2"))], 50.0)
    assert "198.18.0.2" in made.addresses(50.0)
    made.take_pods([("b2", pod("n2", deletionTimestamp="2026-11-21T00:00:00Z"))], 60.0)
    assert made.ready() == {"n1"}, "who is about to end takes nothing new"


def test_a_surge_pod_takes_over_without_a_gap() -> None:
    made = fleet()
    made.take_pods([("b2", pod("n2"))], 1.0)
    made.take_pods([("b", None)], 2.0)
    assert made.next_leave(2.0) is None and "198.18.0.2" in made.addresses(1e9)


def test_a_node_that_is_gone_or_unknown() -> None:
    made = fleet()
    made.take_nodes([("n2", None)])
    assert made.addresses(0.0) == ("198.18.0.1", "fd00:198::1")
    made.take_pods([("a", None), ("b", None)], 5.0)
    assert made.addresses(5.0) == (), "nobody serves: who asks must know that"
    made.take_pods([("x", b"[]"), ("y", b"{")], 5.0)
    made.take_nodes([("x", b"[]")])
    made.take_reports([("x", b"5")], 5.0)


def test_a_new_leader_gives_those_time_whose_addresses_are_written() -> None:
    made = fleet()
    made.remember(["198.18.0.3", "198.18.9.9"], 100.0)
    assert "198.18.0.3" in made.addresses(100.0) and "198.18.0.3" not in made.addresses(100.0 + STAYS_S)


def test_reports_grow_old_by_our_own_clock() -> None:
    made = fleet()
    assert made.report("xdp-edge-node-n1", 0.0) == ("", "")
    lease = as_bytes(
        {"metadata": {"annotations": {ROUTES: "aa", XDP: "native"}}, "spec": {"renewTime": "9999"}}
    )
    made.take_reports([("xdp-edge-node-n1", lease)], 0.0)
    assert made.report("xdp-edge-node-n1", LASTS_S - 1.0) == ("aa", "native")
    assert made.report("xdp-edge-node-n1", LASTS_S + 1.0) == ("", "")
    made.take_reports([("xdp-edge-node-n1", None)], 0.0)
    assert made.report("xdp-edge-node-n1", 0.0) == ("", "")


def test_without_a_pod_of_ours_this_node_counts() -> None:
    made = Fleet()
    made.take_nodes([("n1", node("198.18.0.1"))])
    made.alone("n1")
    assert made.addresses(0.0) == ("198.18.0.1",)


def test_siblings_are_of_any_revision() -> None:
    named = {"app.kubernetes.io/name": "xdp-edge", "app.kubernetes.io/instance": "one"}
    more = {"controller-revision-hash": "abc", "pod-template-generation": "3", "tier": "edge"}
    for labels, found in ((named | more, named), (more, {"tier": "edge"}), ({}, {})):
        assert siblings(as_bytes({"metadata": {"labels": labels}})) == found
    assert siblings(b"{") == {}
