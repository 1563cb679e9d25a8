"""What each path through the packet program costs, in nanoseconds above an empty program.

`python -m bench.packet.paths [--quick]`: JSON lines by BPF_PROG_TEST_RUN, no interface; needs root. The best
of several rounds counts, since other work only ever adds. The packets are those of tests/bpf.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_network

from edge.model.diagnostics import ObjectRef
from edge.model.types import PerSource, Policy
from edge.xdp import syscalls
from edge.xdp.plane import XdpPlane, detach
from tests.bpf.packets import SYN, ethernet, ipv4, ipv6, tcp
from tests.bpf.probe import V4, V6, VIPS

EMPTY = bytes.fromhex("b7000000020000009500000000000000")  # return XDP_PASS


def policy(**values: object) -> Policy:
    return Policy(object=ObjectRef("EdgePolicy", "", "bench"), **values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Path:
    """A packet, and what must become of it under which policies."""

    name: str
    packet: bytes
    reason: str
    policies: tuple[Policy, ...] = field(default=())


def paths() -> list[Path]:
    many = tuple(ip_network(f"100.{64 + i // 256 % 64}.{i % 256}.{i // 16384}/32") for i in range(50_000))
    deny4 = policy(deny=(*many, ip_network("198.18.7.0/24"), ip_network("10.0.0.0/8")))
    deny6 = policy(deny=(ip_network("fd00:198:7::/64"),))
    rate = policy(per_source=PerSource(packets_per_second=900_000_000, connections_per_second=900_000_000))
    slow = policy(per_source=PerSource(packets_per_second=1, burst=1))
    return [
        Path("not_ip", ethernet(0x0806, bytes(46)), "pass_other"),
        Path("other_port_v4", ipv4(V4, tcp(port=22)), "pass_other"),
        Path("vip_v4", ipv4(V4, tcp()), "pass_policed"),
        Path("vip_v6", ipv6(V6, tcp()), "pass_policed"),
        Path("vip_v4_two_tags", ipv4(V4, tcp(), tags=(0x88A8, 0x8100)), "pass_policed"),
        Path("malformed_v4", ipv4(V4, tcp(flags=0)), "drop_malformed"),
        Path("rules_miss_v4", ipv4(V4, tcp(), source="198.19.1.1"), "pass_policed", (deny4,)),
        Path("denied_v4_exact", ipv4(V4, tcp()), "drop_denied", (deny4,)),
        Path("denied_v4_short", ipv4(V4, tcp(), source="10.1.1.1"), "drop_denied", (deny4,)),
        Path("rules_miss_v6", ipv6(V6, tcp(), source="fd00:1::1"), "pass_policed", (deny6,)),
        Path("denied_v6_exact", ipv6(V6, tcp()), "drop_denied", (deny6,)),
        Path("bucket_v4", ipv4(V4, tcp()), "pass_policed", (rate,)),
        Path("bucket_v4_syn", ipv4(V4, tcp(flags=SYN)), "pass_policed", (rate,)),
        Path("bucket_v6", ipv6(V6, tcp()), "pass_policed", (rate,)),
        Path("over_rate_v4", ipv4(V4, tcp(), source="198.18.8.8"), "drop_packets", (slow,)),
    ]


def best(run: Callable[[], int], rounds: int) -> int:
    return min(run() for _ in range(rounds))


def main() -> None:
    quick = "--quick" in sys.argv
    repeat, rounds = (100_000, 3) if quick else (1_000_000, 7)
    instance = f"bench-paths-{os.getpid()}"
    plane = XdpPlane.open(instance, [])
    empty = syscalls.program_load(EMPTY, "empty")
    program = plane._loaded.program
    summary: dict[str, object] = {"summary": True, "quick": quick}
    try:
        floor = best(lambda: syscalls.test_run(empty, bytes(64), repeat).nanoseconds, rounds)
        for version, path in enumerate(paths(), 1):
            plane.prepare(version, VIPS, path.policies)
            plane.commit()
            plane.retire()
            before = plane.statistics()[path.reason][0]
            cost = best(
                lambda packet=path.packet: syscalls.test_run(program, packet, repeat).nanoseconds,  # type: ignore[misc]
                rounds,
            )
            share = (plane.statistics()[path.reason][0] - before) / (repeat * rounds)
            row = {"path": path.name, "net_ns": cost - floor, "reason": path.reason, "share": round(share, 4)}
            print(json.dumps(row), flush=True)
            summary[path.name] = cost - floor
        info = syscalls.program_info(program)
        summary |= {"empty_ns": floor, "jited_bytes": info.jited_bytes, "xlated_bytes": info.xlated_bytes}
    finally:
        os.close(empty)
        plane.close()
        detach(instance)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    print(json.dumps(summary | {"commit": head.stdout.strip()}))


if __name__ == "__main__":
    main()
