"""Specs of EdgePolicy that must pass or be refused, alike by the CRD and by the model.

Read by tests/manifests/test_edgepolicy.py (schema and model) and by tests/kube/test_edgepolicy.py, where a
real API server is asked.
"""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]

GOOD: tuple[Spec, ...] = (
    {},
    {"scope": "node"},
    {"deny": ["203.0.113.0/24", "2001:db8::/32", "198.18.0.1", "2001:db8::1", "64:ff9b::198.18.0.1"]},
    {"deny": []},
    {"allow": ["0.0.0.0/0", "::/0", "198.18.0.1/32", "2001:DB8::1/128"]},
    {"perSource": {"packetsPerSecond": 1000, "burst": 2000, "prefixV4": 24, "prefixV6": 56}},
    {"perSource": {"connectionsPerSecond": 1, "packetsPerSecond": 0}},
    {"perSource": {"packetsPerSecond": 1_000_000_000, "burst": 1, "prefixV4": 32, "prefixV6": 128}},
    {"deadMan": {"seconds": 5, "action": "drop"}},
    {"deadMan": {"seconds": 3600}},
    {"trustedProxies": ["198.18.0.0/15"]},
    {"deny": [f"198.18.{n >> 8}.{n & 255}" for n in range(4096)]},
)

# The field of each is the one that both name.
BAD: tuple[tuple[Spec, str], ...] = (
    ({"scope": "world"}, "spec.scope"),
    ({"scope": ""}, "spec.scope"),
    ({"scope": 5}, "spec.scope"),
    ({"deny": "198.18.0.0/15"}, "spec.deny"),
    ({"deny": [5]}, "spec.deny[0]"),
    ({"deny": ["example.org"]}, "spec.deny[0]"),
    ({"deny": [""]}, "spec.deny[0]"),
    ({"deny": ["198.18.0.1", "10.0.0.0/33"]}, "spec.deny[1]"),
    ({"deny": ["198.18.0.1/24"]}, "spec.deny[0]"),
    ({"deny": ["10.0.0.0/255.0.0.0"]}, "spec.deny[0]"),
    ({"deny": ["10.0.0.0/08"]}, "spec.deny[0]"),
    ({"deny": ["010.0.0.0/8"]}, "spec.deny[0]"),
    ({"deny": ["10.0.0/8"]}, "spec.deny[0]"),
    ({"deny": ["256.0.0.1"]}, "spec.deny[0]"),
    ({"deny": ["198.18.0.1 "]}, "spec.deny[0]"),
    ({"deny": ["198.18.0.1/"]}, "spec.deny[0]"),
    ({"allow": ["2001:db8::/129"]}, "spec.allow[0]"),
    ({"allow": ["2001:db8::1/64"]}, "spec.allow[0]"),
    ({"allow": ["1:2:3:4:5:6:7:8::"]}, "spec.allow[0]"),
    ({"allow": ["1::2::3"]}, "spec.allow[0]"),
    ({"allow": ["fe80::1%eth0"]}, "spec.allow[0]"),
    ({"allow": ["::ffff:198.18.0.1"]}, "spec.allow[0]"),
    ({"allow": ["::ffff:198.18.0.0/112"]}, "spec.allow[0]"),
    ({"trustedProxies": ["proxy"]}, "spec.trustedProxies[0]"),
    ({"trustedProxies": [f"198.18.{n >> 8}.{n & 255}" for n in range(1025)]}, "spec.trustedProxies"),
    ({"perSource": {}}, "spec.perSource"),
    ({"perSource": {"burst": 5}}, "spec.perSource"),
    ({"perSource": {"packetsPerSecond": 0, "connectionsPerSecond": 0}}, "spec.perSource"),
    ({"perSource": {"connectionsPerSecond": 1, "packetsPerSecond": -1}}, "spec.perSource.packetsPerSecond"),
    ({"perSource": {"packetsPerSecond": 1_000_000_001}}, "spec.perSource.packetsPerSecond"),
    (
        {"perSource": {"connectionsPerSecond": -1, "packetsPerSecond": 1}},
        "spec.perSource.connectionsPerSecond",
    ),
    ({"perSource": {"packetsPerSecond": 1, "burst": 0}}, "spec.perSource.burst"),
    ({"perSource": {"packetsPerSecond": 1, "prefixV4": 33}}, "spec.perSource.prefixV4"),
    ({"perSource": {"packetsPerSecond": 1, "prefixV6": 0}}, "spec.perSource.prefixV6"),
    ({"perSource": {"connectionsPerSecond": 1, "packetsPerSecond": "1"}}, "spec.perSource.packetsPerSecond"),
    ({"perSource": {"connectionsPerSecond": 1, "packetsPerSecond": 1.5}}, "spec.perSource.packetsPerSecond"),
    ({"perSource": {"packetPerSecond": 1}}, "spec.perSource"),
    ({"deadMan": {}}, "spec.deadMan"),
    ({"deadMan": {"seconds": 0}}, "spec.deadMan.seconds"),
    ({"deadMan": {"seconds": 3601}}, "spec.deadMan.seconds"),
    ({"deadMan": {"seconds": 5, "action": "reset"}}, "spec.deadMan.action"),
    ({"deadMan": {"seconds": 5, "action": ""}}, "spec.deadMan.action"),
    ({"deadMan": {"seconds": 5, "acton": "drop"}}, "spec.deadMan"),
    ({"denny": ["198.18.0.0/15"]}, "spec"),
)

# Refused by the API server alone: what a set is; a folder takes it as one entry.
ONLY_CRD: tuple[tuple[Spec, str], ...] = (({"deny": ["10.0.0.0/8", "10.0.0.0/8"]}, "spec.deny"),)


def policy(name: str, spec: Spec) -> dict[str, Any]:
    """Shape: the object."""
    return {
        "apiVersion": "xdp-edge.dev/v1alpha1",
        "kind": "EdgePolicy",
        "metadata": {"name": name},
        "spec": spec,
    }
