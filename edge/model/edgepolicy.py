"""EdgePolicy objects to policies of the kernel's part.

Called by build.py. A policy guards: one entry that cannot be read is left out and named, the others
stay in force; a policy whose shape is wrong is refused whole. Source: design page §5 and the CRD.
"""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import IPv6Network, ip_network

from edge.model.diagnostics import ObjectRef
from edge.model.findings import Findings
from edge.model.types import Network, PerSource, Policy
from edge.resources.kinds import EdgePolicy, EdgePolicySpec, PolicyPerSource, Problem, shown
from edge.resources.store import ResourceStore

RATE_MAX = 1_000_000_000
DEAD_MAN_S_MAX = 3_600
# Of what Python reads, not: netmasks, leading zeros, zones.
_FORM = re.compile(r"[0-9A-Fa-f:.]{2,45}(/(0|[1-9][0-9]{0,2}))?")
_MAPPED = IPv6Network("::ffff:0:0/96")
NETWORKS_MAX = {"spec.deny": 65_536, "spec.allow": 65_536, "spec.trustedProxies": 1_024}


def policies(store: ResourceStore, findings: Findings) -> tuple[Policy, ...]:
    """Shape: one Policy for each usable EdgePolicy, by name."""
    result = []
    for namespace, name, decoded in store.typed("EdgePolicy"):
        policy = read_policy(decoded, ObjectRef("EdgePolicy", namespace, name), findings)
        if policy is not None:
            result.append(policy)
    return tuple(result)


def read_policy(decoded: object, ref: ObjectRef, findings: Findings) -> Policy | None:
    """Read one EdgePolicy, or say what is wrong with it; None: it is refused whole."""
    if isinstance(decoded, Problem):
        findings.problem(ref, decoded)
        return None
    assert isinstance(decoded, EdgePolicy)
    spec = decoded.spec or EdgePolicySpec()
    scope = "listener" if spec.scope is None else spec.scope
    if scope not in ("listener", "node"):
        message = f"{shown(scope)} is neither 'listener' nor 'node'"
        findings.error(ref, "spec.scope", "InvalidValue", message)
        return None
    seconds, passing = 0, True
    if spec.dead_man is not None:
        seconds, action = (
            spec.dead_man.seconds,
            "pass" if spec.dead_man.action is None else spec.dead_man.action,
        )
        if action not in ("pass", "drop"):
            findings.error(
                ref, "spec.deadMan.action", "InvalidValue", f"{shown(action)} is neither 'pass' nor 'drop'"
            )
            return None
        if not 0 < seconds <= DEAD_MAN_S_MAX:
            message = f"{seconds} is not between 1 and {DEAD_MAN_S_MAX} seconds"
            findings.error(ref, "spec.deadMan.seconds", "OutOfRange", message)
            return None
        passing = action == "pass"
    return Policy(
        object=ref,
        scope=scope,
        deny=_networks(ref, "spec.deny", spec.deny, findings),
        allow=_networks(ref, "spec.allow", spec.allow, findings),
        per_source=_per_source(ref, spec.per_source, findings),
        dead_man_s=seconds,
        dead_man_pass=passing,
        trusted_proxies=_networks(ref, "spec.trustedProxies", spec.trusted_proxies, findings),
    )


def _networks(
    ref: ObjectRef, field: str, written: list[str] | None, findings: Findings
) -> tuple[Network, ...]:
    """Shape: every network once, IPv4 first, by address."""
    found: set[Network] = set()
    if written is not None and len(written) > NETWORKS_MAX[field]:
        message = f"{len(written)} entries; the first {NETWORKS_MAX[field]} are used"
        findings.error(ref, field, "LimitReached", message)
    for index, text in enumerate((written or ())[: NETWORKS_MAX[field]]):
        network = _network(text)
        if network is not None:
            found.add(network)
            continue
        message = f"{shown(text)} is no network"
        with suppress(ValueError):
            message += f"; did you mean {_meant(text)}?"
        findings.error(ref, f"{field}[{index}]", "InvalidNetwork", message)
    return tuple(sorted(found, key=lambda net: (net.version, int(net.network_address), net.prefixlen)))


def _network(text: str) -> Network | None:
    """Read what the CRD lets pass: isIP or isCIDR of CEL, no bit behind the prefix."""
    if not _FORM.fullmatch(text):
        return None
    try:
        network = ip_network(text)
    except ValueError:
        return None
    # Packets of IPv4 have no mapped address: such an entry would guard nothing.
    mapped = isinstance(network, IPv6Network) and network.network_address in _MAPPED
    return None if mapped else network


def _meant(text: str) -> Network:
    """Shape: the network that was probably meant. Errors: ValueError."""
    network = ip_network(text, strict=False)
    if isinstance(network, IPv6Network):
        inside = network.network_address.ipv4_mapped
        if inside is not None and network.prefixlen >= _MAPPED.prefixlen:
            return ip_network(f"{inside}/{network.prefixlen - _MAPPED.prefixlen}")
    return network


def _per_source(ref: ObjectRef, written: PolicyPerSource | None, findings: Findings) -> PerSource | None:
    if written is None:
        return None
    limits = {
        "packetsPerSecond": (written.packets_per_second, 0, RATE_MAX),
        "connectionsPerSecond": (written.connections_per_second, 0, RATE_MAX),
        "burst": (written.burst, 1, RATE_MAX),
        "prefixV4": (written.prefix_v4, 1, 32),
        "prefixV6": (written.prefix_v6, 1, 128),
    }
    wrong = False
    for name, (value, lowest, most) in limits.items():
        if value is not None and not lowest <= value <= most:
            message = f"{value} is not between {lowest} and {most}"
            findings.error(ref, f"spec.perSource.{name}", "OutOfRange", message)
            wrong = True
    if wrong:
        return None
    packets, connections = written.packets_per_second or 0, written.connections_per_second or 0
    if not packets and not connections:
        message = "neither packetsPerSecond nor connectionsPerSecond is set, so nothing is limited"
        findings.error(ref, "spec.perSource", "NoLimit", message)
        return None
    return PerSource(
        packets_per_second=packets,
        connections_per_second=connections,
        # One second's worth: a client that starts is not punished for starting.
        burst=written.burst or max(packets, connections),
        prefix_v4=32 if written.prefix_v4 is None else written.prefix_v4,
        prefix_v6=64 if written.prefix_v6 is None else written.prefix_v6,
    )
