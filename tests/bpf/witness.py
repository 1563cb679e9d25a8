"""A denied source that never rests, and who sees what of it came through; for tests/bpf's stories.

Both ends are packet sockets, so nothing is inferred: the node's end sees what XDP passed and nothing else,
the client's end whether anybody answered. Used in a network of tests/e2e/lab.py.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from tests.bpf.packets import ACK, SYN, TCP, ethernet, tcp
from tests.e2e.lab import Lab

EVERY_S = 0.003
_ALL = 0x0003
_OUTGOING = 4


@dataclass(slots=True)
class Seen:
    """Packets of the denied source: sent, seen by the node's stack, and answered with SYN and ACK."""

    sent: int = 0
    passed: int = 0
    accepted: int = 0


class Witness:
    """Sends SYNs and other segments from ``source`` of a client to address and port; a context manager."""

    def __init__(
        self, lab: Lab, role: str, source: str, address: str, port: int, every_s: float = EVERY_S
    ) -> None:
        self._lab, self._role = lab, role
        self._source, self._address = ip_address(source).packed, ip_address(address).packed
        self._port = port
        self._every_s = every_s
        self._lock = threading.Lock()
        self._seen = Seen()
        self._stop = threading.Event()
        self._quiet = threading.Event()

    def __enter__(self) -> Witness:
        target, own = self._lab.mac("node", self._role), self._lab.mac(self._role, "eth0")
        with self._lab.inside(self._role):
            self._client = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
            self._client.bind(("eth0", 0))
        with self._lab.inside("node"):
            self._node = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
            self._node.bind((self._role, 0))
        self._head = target + own
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._send, self._watch)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        self._client.close()
        self._node.close()

    @property
    def seen(self) -> Seen:
        """A copy of the figures of this moment."""
        with self._lock:
            return Seen(self._seen.sent, self._seen.passed, self._seen.accepted)

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Send nothing for a while."""
        self._quiet.set()
        with self._lock:
            pass
        try:
            yield
        finally:
            self._quiet.clear()

    def _send(self) -> None:
        number = 0
        while not self._stop.wait(self._every_s):
            with self._lock:
                if self._quiet.is_set():
                    continue
                number += 1
                self._seen.sent += self._client.send(self._frame(number)) > 0

    def _frame(self, number: int) -> bytes:
        body = tcp(self._port, SYN if number % 4 else ACK, source_port=1024 + number % 60000)
        pseudo = self._source + self._address + struct.pack(">HH", TCP, len(body))
        body = body[:16] + struct.pack(">H", ones_complement(pseudo + body)) + body[18:]
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), number & 0xFFFF, 0, 64, TCP, 0)
        head += self._source + self._address
        head = head[:10] + struct.pack(">H", ones_complement(head)) + head[12:]
        return self._head + ethernet(0x0800, head + body)[12:]

    def _watch(self) -> None:
        while not self._stop.is_set():
            for channel in select.select([self._client, self._node], [], [], 0.1)[0]:
                packet, (_, _, kind, *_) = channel.recvfrom(256)
                if len(packet) < 54 or packet[12:14] != b"\x08\0":
                    continue
                source, target = packet[26:30], packet[30:34]
                with self._lock:
                    if channel is self._node and source == self._source and kind != _OUTGOING:
                        self._seen.passed += 1
                    if channel is self._client and target == self._source and source == self._address:
                        self._seen.accepted += packet[23] == TCP and packet[47] & 0x12 == 0x12


def ones_complement(data: bytes) -> int:
    """The checksum of IP and its transports."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data.ljust(len(data) + 1 & ~1, b"\0")))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def wait_quiet(witness: Witness, seconds: float = 5) -> Seen:
    """Return the figures once nothing is under way; only while it rests."""
    deadline = time.monotonic() + seconds
    before = witness.seen
    while time.monotonic() < deadline:
        time.sleep(0.05)
        now = witness.seen
        if now == before:
            return now
        before = now
    raise AssertionError("packets go on arriving")
