"""Packets as builders, not as hex, for tests/bpf. No checksum is right: XDP reads none.

`ipv4(...)` and `ipv6(...)` give whole frames; every part that can be wrong is a parameter.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address

SYN, ACK, FIN, RST = 2, 16, 1, 4
TCP, UDP = 6, 17


def ethernet(kind: int, payload: bytes, tags: tuple[int, ...] = ()) -> bytes:
    head = b"\x02\0\0\0\0\x02" + b"\x02\0\0\0\0\x01"
    for tag in tags:
        head += struct.pack(">HH", tag, 7)
    return head + struct.pack(">H", kind) + payload


def tcp(
    port: int = 443, flags: int = ACK, words: int = 5, source_port: int = 40000, data: bytes = b""
) -> bytes:
    head = struct.pack(">HHIIBBHHH", source_port, port, 1, 2, words << 4, flags, 1000, 0, 0)
    return head + bytes(max(0, words - 5) * 4) + data


def udp(port: int = 443, length: int | None = None, data: bytes = b"x" * 12) -> bytes:
    return struct.pack(">HHHH", 40000, port, 8 + len(data) if length is None else length, 0) + data


def ipv4(
    target: str,
    payload: bytes,
    *,
    source: str = "198.18.7.7",
    protocol: int = TCP,
    words: int = 5,
    total: int | None = None,
    fragment: int = 0,
    tags: tuple[int, ...] = (),
    version: int = 4,
) -> bytes:
    size = max(words, 5) * 4 + len(payload) if total is None else total
    head = struct.pack(">BBHHHBBH", version << 4 | words, 0, size, 1, fragment, 64, protocol, 0)
    head += ip_address(source).packed + ip_address(target).packed + bytes(max(0, words - 5) * 4)
    return ethernet(0x0800, head + payload, tags)


def ipv6(
    target: str,
    payload: bytes,
    *,
    source: str = "fd00:198:7::7",
    protocol: int = TCP,
    length: int | None = None,
    tags: tuple[int, ...] = (),
) -> bytes:
    size = len(payload) if length is None else length
    head = struct.pack(">IHBB", 6 << 28, size, protocol, 64)
    return ethernet(0x86DD, head + ip_address(source).packed + ip_address(target).packed + payload, tags)


def extension(following: int, payload: bytes, units: int = 0) -> bytes:
    """A hop-by-hop, routing or destination header of (units + 1) * 8 bytes."""
    return bytes((following, units)) + bytes(6 + 8 * units) + payload


def fragment6(following: int, payload: bytes, offset: int = 0, more: bool = True) -> bytes:
    return struct.pack(">BBHI", following, 0, offset << 3 | more, 9) + payload
