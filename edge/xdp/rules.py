"""VIPs and policies as the bytes of one generation of maps. Pure: no descriptor, no kernel.

Called by edge/xdp/plane.py, which writes the result; bpf/vip.h, source_rules.h and rate.h read it.
Layouts come from cffi (edge_abi.h). Policies are merged in the order of their names: deny and allow
lists are joined, of single values the first policy that has one gives it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from edge.errors import XdpError
from edge.model.types import Address, PerSource, Policy
from edge.native import ffi, lib

PROTOCOLS = {"tcp": 6, "udp": 17}
Rule = tuple[int, int, int]  # version, prefix length, network address as a number
Vip = tuple[str | IPv4Address | IPv6Address, int, str | int]

# A bucket cannot be finer than the coarse clock: one step is 10 ms at HZ 100.
_CLOCK_STEP_NS = 10_000_000
_SLACK_MAX = 1 << 61  # so that clock and slack never pass 64 bits together
_MAPPED = bytes(10) + b"\xff\xff"
_FRONT_V4_BYTES = lib.EDGE_FRONT_V4_WORDS * 8
_FRONT_V6_BYTES = lib.EDGE_FRONT_V6_WORDS * 8

_LISTENER_BITS = lib.EDGE_RULE_DENY | lib.EDGE_RULE_ALLOW
_NODE_BITS = lib.EDGE_RULE_NODE_DENY | lib.EDGE_RULE_NODE_ALLOW


@dataclass(slots=True)
class Plan:
    """What one generation holds: key to value for the hashes and the trie, raw bytes for the rest.

    Shape: keys carry generation 0 or 1 already. ``front_*`` is None where there are no rules.
    """

    generation: int
    settings: bytes = b""
    vips: dict[bytes, bytes] = field(default_factory=dict)
    sources: dict[bytes, bytes] = field(default_factory=dict)
    short: dict[bytes, bytes] = field(default_factory=dict)
    front_v4: bytes | None = None
    front_v6: bytes | None = None

    def moved(self, generation: int) -> Plan:
        """The same for another generation."""
        byte = bytes((generation,))
        return Plan(
            generation,
            self.settings,
            {key[:19] + byte: value for key, value in self.vips.items()},
            {key[:18] + byte + key[19:]: value for key, value in self.sources.items()},
            {key[:4] + byte + key[5:]: value for key, value in self.short.items()},
            self.front_v4,
            self.front_v6,
        )


def normal_vips(vips: Iterable[Vip]) -> frozenset[tuple[Address, int, int]]:
    """Read VIPs as callers write them; the protocol becomes its number."""
    return frozenset(
        (
            ip_address(address) if isinstance(address, str) else address,
            port,
            PROTOCOLS[protocol.lower()] if isinstance(protocol, str) else protocol,
        )
        for address, port, protocol in vips
    )


def make_plan(
    generation: int,
    vips: Iterable[tuple[Address, int, int]],
    policies: Iterable[Policy],
    node_addresses: Iterable[Address] = (),
) -> Plan:
    """Lay out one generation.

    Errors: XdpError where a limit of edge_abi.h is passed.
    """
    plan = Plan(generation)
    settings = ffi.new("struct edge_settings *")
    ordered = sorted(policies, key=lambda policy: policy.object)
    node = any(policy.scope == "node" for policy in ordered)
    if node:
        settings.flags |= lib.EDGE_SETTING_NODE
    put_vips(plan, vips, node_addresses if node else ())
    _put_rules(plan, settings, ordered)
    _put_rates(settings, ordered)
    for policy in ordered:
        if policy.dead_man_s > 0:
            settings.dead_man_ns = policy.dead_man_s * 1_000_000_000
            if not policy.dead_man_pass:
                settings.flags |= lib.EDGE_SETTING_STALE_DROP
            break
    plan.settings = bytes(ffi.buffer(settings))
    return plan


def packed(address: Address) -> bytes:
    """16 bytes, IPv4 as ::ffff:a.b.c.d."""
    return address.packed if address.version == 6 else _MAPPED + address.packed


def vip_key(address: Address, port: int, protocol: int, generation: int) -> bytes:
    """Shape: struct edge_vip_key."""
    return packed(address) + port.to_bytes(2, "big") + bytes((protocol, generation))


def _struct(name: str, **values: Any) -> bytes:
    return bytes(ffi.buffer(ffi.new(f"struct {name} *", values)))


def put_vips(plan: Plan, vips: Iterable[tuple[Address, int, int]], node: Iterable[Address]) -> None:
    """Add VIPs, and the node's own addresses, to a plan. Errors: XdpError where they are too many."""
    served = lib.EDGE_VIP_ADDRESS | lib.EDGE_VIP_PORT
    for address in node:
        key = vip_key(address, 0, 0, plan.generation)
        plan.vips[key] = _struct("edge_vip", flags=lib.EDGE_VIP_ADDRESS)
    for address, port, protocol in vips:
        if address.is_unspecified:
            raise XdpError(f"VIP {address}: a listener on any address must be expanded to the node's own")
        plan.vips[vip_key(address, port, protocol, plan.generation)] = _struct(
            "edge_vip", flags=lib.EDGE_VIP_PORT
        )
        plan.vips[vip_key(address, 0, 0, plan.generation)] = _struct("edge_vip", flags=served)
    if len(plan.vips) > lib.EDGE_VIPS_MAX:
        raise XdpError(f"{len(plan.vips)} VIPs and addresses, at most {lib.EDGE_VIPS_MAX}")


def _put_rules(plan: Plan, settings: Any, policies: list[Policy]) -> None:
    rules = _inherited(_joined(policies))
    lengths = Counter((version, length) for version, length, _ in rules)
    commonest = Counter({kind[1]: count for kind, count in lengths.items() if kind[0] == 6 and kind[1] >= 48})
    exact = {
        4: {length for version, length in lengths if version == 4 and length >= 24},
        6: {length for length, _ in commonest.most_common(lib.EDGE_LENGTHS_V6)},
    }
    for version, name in ((4, "lengths_v4"), (6, "lengths_v6")):
        for i, length in enumerate(sorted(exact[version], reverse=True)):
            getattr(settings, name)[i] = length
        if any(one == version for one, _ in lengths):
            settings.flags |= lib.EDGE_SETTING_RULES_V4 if version == 4 else lib.EDGE_SETTING_RULES_V6
        if any(one == version and length not in exact[version] for one, length in lengths):
            settings.flags |= lib.EDGE_SETTING_SHORT_V4 if version == 4 else lib.EDGE_SETTING_SHORT_V6
    values = {flags: _struct("edge_source_rule", flags=flags) for flags in set(rules.values())}
    front_v4, front_v6 = bytearray(), bytearray()
    for (version, length, number), flags in rules.items():
        if version == 4:
            front_v4 = front_v4 or bytearray(_FRONT_V4_BYTES)
            paint_v4(front_v4, length, number)
        if length in exact[version]:
            plan.sources[source_key(version, length, number, plan.generation)] = values[flags]
            if version == 6:
                front_v6 = front_v6 or bytearray(_FRONT_V6_BYTES)
                for position in bloom_positions(number >> 80):
                    front_v6[position >> 3] |= 1 << (position & 7)
        else:
            plan.short[short_key(version, length, number, plan.generation)] = values[flags]
    if len(plan.sources) > lib.EDGE_SOURCE_RULES_MAX:
        raise XdpError(f"{len(plan.sources)} rules by source, at most {lib.EDGE_SOURCE_RULES_MAX}")
    if len(plan.short) > lib.EDGE_SHORT_RULES_MAX:
        raise XdpError(f"{len(plan.short)} rules with short prefixes, at most {lib.EDGE_SHORT_RULES_MAX}")
    # An IPv6 generation without exact rules still reads its filter: it must then be empty.
    plan.front_v4 = bytes(front_v4) or None
    any_v6 = settings.flags & lib.EDGE_SETTING_RULES_V6
    plan.front_v6 = bytes(front_v6) or (bytes(_FRONT_V6_BYTES) if any_v6 else None)


def _joined(policies: list[Policy]) -> dict[Rule, int]:
    rules: dict[Rule, int] = {}
    for policy in policies:
        both = policy.scope == "node"
        deny = lib.EDGE_RULE_DENY | (lib.EDGE_RULE_NODE_DENY if both else 0)
        allow = lib.EDGE_RULE_ALLOW | (lib.EDGE_RULE_NODE_ALLOW if both else 0)
        for networks, flags in ((policy.deny, deny), (policy.allow, allow)):
            for network in networks:
                # Numbers, since a network's own hash costs more than all that follows.
                rule = (network.version, network.prefixlen, int(network.network_address))
                rules[rule] = rules.get(rule, 0) | flags
    return rules


def _inherited(rules: dict[Rule, int]) -> dict[Rule, int]:
    """Give each rule what the nearest wider one says about a scope that it leaves open."""
    if not any(flags & _NODE_BITS for flags in rules.values()):
        return rules
    lengths = {version: sorted({rule[1] for rule in rules if rule[0] == version}) for version in (4, 6)}
    result: dict[Rule, int] = {}
    for rule in sorted(rules, key=lambda rule: rule[1]):
        flags = rules[rule]
        version, prefix, number = rule
        bits_in_all = 32 if version == 4 else 128
        for bits in (_LISTENER_BITS, _NODE_BITS):
            if flags & bits:
                continue
            for length in reversed(lengths[version]):
                if length < prefix:
                    host = bits_in_all - length
                    wider = result.get((version, length, number >> host << host), 0)
                    if wider & bits:
                        flags |= wider & bits
                        break
        result[rule] = flags
    return result


def _put_rates(settings: Any, policies: list[Policy]) -> None:
    def first(scopes: tuple[str, ...]) -> PerSource | None:
        for scope in scopes:
            for policy in policies:
                if policy.scope == scope and policy.per_source is not None:
                    return policy.per_source
        return None

    _put_rate(settings.listener, first(("listener", "node")))
    _put_rate(settings.node, first(("node",)))


def _put_rate(rate: Any, limit: PerSource | None) -> None:
    if limit is None:
        return
    # One burst for both limits, as a time: what the packets' burst lasts at the packets' rate.
    leading = limit.packets_per_second or limit.connections_per_second
    for kind, per_second in (
        ("packet", limit.packets_per_second),
        ("connection", limit.connections_per_second),
    ):
        if not per_second:
            continue
        interval = (1_000_000_000 << lib.EDGE_RATE_SHIFT) // per_second
        burst = max(1, (limit.burst or leading) * per_second // leading)
        slack = max((burst - 1) * interval, (_CLOCK_STEP_NS << lib.EDGE_RATE_SHIFT) - interval, 0)
        setattr(rate, f"{kind}_interval", interval)
        setattr(rate, f"{kind}_slack", min(slack, _SLACK_MAX))
    mask = ((1 << 128) - (1 << (128 - limit.prefix_v6))).to_bytes(16, "big")
    rate.mask_high_be = int.from_bytes(mask[:8], "little")
    rate.mask_low_be = int.from_bytes(mask[8:], "little")
    mask_v4 = ((1 << 32) - (1 << (32 - limit.prefix_v4))).to_bytes(4, "big")
    rate.mask_v4_be = int.from_bytes(mask_v4, "little")


def source_key(version: int, length: int, number: int, generation: int) -> bytes:
    """Shape: struct edge_source_key."""
    address = _MAPPED + number.to_bytes(4, "big") if version == 4 else number.to_bytes(16, "big")
    return address + bytes((length, version, generation, 0))


def short_key(version: int, length: int, number: int, generation: int) -> bytes:
    """Shape: struct edge_short_key."""
    head = (32 + length).to_bytes(4, "little") + bytes((generation, version, 0, 0))
    return head + number.to_bytes(4 if version == 4 else 16, "big").ljust(16, b"\0")


def paint_v4(front: bytearray, length: int, number: int) -> None:
    """Set the bit of every /24 that a rule touches."""
    first = number >> 8
    count = 1 << max(0, 24 - length)
    if count >= 8:
        front[first >> 3 : (first + count) >> 3] = b"\xff" * (count >> 3)
        return
    for position in range(first, first + count):
        front[position >> 3] |= 1 << (position & 7)


def bloom_positions(prefix: int) -> tuple[int, int, int]:
    """Where a /48 stands in the filter: rules_hash of bpf/source_rules.h."""
    word = (1 << 64) - 1
    value = prefix * 0x9E3779B97F4A7C15 & word
    value ^= value >> 32
    value = value * 0xD6E8FEB86659FD93 & word
    value ^= value >> 29
    return value & 0xFFFFF, value >> 20 & 0xFFFFF, value >> 40 & 0xFFFFF
