"""The network of a Kubernetes of the tests: a bridge, the nodes, a client, all in namespaces.

    control   bridge knode0 198.18.77.1/24, fd00:198:77::1/64: etcd, API server and their like
    nN        eth0 198.18.77.1N, fd00:198:77::1N; its Pods 198.19.N.0/24, fd00:198:19:N::/64
    client    eth0 198.18.77.100, fd00:198:77::100: asks the nodes as the world does

No overlay: the nodes share a link, so plain routes lead to the Pods, whose addresses survive. The
machine's own namespace has no part in it.
"""

from __future__ import annotations

import os
from pathlib import Path

from pyroute2 import IPRoute, netns

from tests.e2e.lab import ETHTOOL_SGRO, ETHTOOL_STXCSUM, give, inside, raise_link, set_offload
from tests.kube.place import Place

BRIDGE = "knode0"
CONTROL, CONTROL6 = "198.18.77.1", "fd00:198:77::1"
CLIENT, CLIENT6 = "198.18.77.100", "fd00:198:77::100"
PODS, PODS6 = "198.19.0.0/16", "fd00:198:19::/48"
SERVICES, SERVICES6 = "198.18.96.0/20", "fd00:198:96::/108"
API_SERVICE = "198.18.96.1"


def node_address(number: int) -> str:
    """Return the address of node `number` (from 1)."""
    return f"198.18.77.1{number}"


def node_address6(number: int) -> str:
    """Return the IPv6 address of node `number`."""
    return f"fd00:198:77::1{number}"


def pod_networks(number: int) -> tuple[str, str]:
    """Return the networks of the Pods of node `number`."""
    return f"198.19.{number}.0/24", f"fd00:198:19:{number}::/64"


def make(place: Place, nodes: int) -> None:
    """Make all namespaces, links, addresses and routes."""
    control = place.namespace("control")
    netns.create(control)
    with inside(control), IPRoute() as route:
        forward()
        raise_link(route, "lo")
        route.link("add", ifname=BRIDGE, kind="bridge")
        give(route, BRIDGE, CONTROL, 24)
        give(route, BRIDGE, CONTROL6, 64)
        raise_link(route, BRIDGE)
    for number in range(1, nodes + 1):
        join(place, f"n{number}", node_address(number), node_address6(number))
    join(place, "client", CLIENT, CLIENT6)
    for role in ("control", "client", *(f"n{number}" for number in range(1, nodes + 1))):
        with inside(place.namespace(role)), IPRoute() as route:
            for number in range(1, nodes + 1):
                if role != f"n{number}":
                    pods, pods6 = pod_networks(number)
                    route.route("add", dst=pods, gateway=node_address(number))
                    route.route("add", dst=pods6, gateway=node_address6(number))


def join(place: Place, role: str, address: str, address6: str) -> None:
    """Join a new namespace to the bridge by a veth pair."""
    name = place.namespace(role)
    netns.create(name)
    with inside(place.namespace("control")), IPRoute() as route:
        descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY)
        try:
            peer = {"ifname": "eth0", "net_ns_fd": descriptor}
            route.link("add", ifname=f"to-{role}", kind="veth", peer=peer)
        finally:
            os.close(descriptor)
        index = route.link_lookup(ifname=f"to-{role}")[0]
        route.link("set", index=index, master=route.link_lookup(ifname=BRIDGE)[0], state="up")
    with inside(name), IPRoute() as route:
        forward()
        raise_link(route, "lo")
        give(route, "eth0", address, 24)
        give(route, "eth0", address6, 64)
        raise_link(route, "eth0")
        route.route("add", dst="0.0.0.0/0", gateway=CONTROL)
        route.route("add", dst="::/0", gateway=CONTROL6)
        set_offload("eth0", ETHTOOL_STXCSUM, 0)
        set_offload("eth0", ETHTOOL_SGRO, 1)


def forward() -> None:
    """Forward packets in this thread's namespace."""
    for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        Path("/proc/sys", name).write_text("1")


def set_link(place: Place, role: str, state: str) -> None:
    """Set the bridge's end of a role's cable `up` or `down`."""
    with inside(place.namespace("control")), IPRoute() as route:
        route.link("set", index=route.link_lookup(ifname=f"to-{role}")[0], state=state)
