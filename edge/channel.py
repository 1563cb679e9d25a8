"""A SOCK_SEQPACKET end that never blocks: messages that the peer does not read yet wait in a queue.

Used by the holder (a selectors loop) and by the controller (asyncio); both call ``flush`` when the
socket becomes writable. A stopped peer must never stop the holder. Never reads more than it is asked.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edge.messages import DESCRIPTORS_MAX, Message, encode, receive

WAITING_MAX = 4096  # messages; a peer that leaves more unread is treated as gone


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the kernel says. Shape: pid is 0 where our PID namespace has none."""

    pid: int
    uid: int
    gid: int


def peer_of(end: socket.socket) -> Peer:
    """Read the peer's credentials, of the moment of connect or listen. Errors: OSError."""
    size = struct.calcsize("3i")
    return Peer(*struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)))


class Channel:
    """One end. Owns its socket, and duplicates of the descriptors that wait to be sent."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._waiting: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self.closed = False

    @classmethod
    def of(cls, descriptor: int) -> Channel:
        """Make one of an end that was received; owns the descriptor."""
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        """Return the descriptor for a selector."""
        return self._socket.fileno()

    @property
    def waiting(self) -> int:
        """Return how many messages wait for the peer."""
        return len(self._waiting)

    def send(self, verb: str, descriptors: Sequence[int] = (), **fields: object) -> None:
        """Send now or keep for later; a peer that is gone is noticed by ``receive``.

        Errors: BrokenPipeError when the peer leaves too much unread.
        """
        if self.closed:
            return
        if len(self._waiting) >= WAITING_MAX:
            raise BrokenPipeError("the peer has stopped reading")
        if len(descriptors) > DESCRIPTORS_MAX:
            raise ValueError(f"{verb}: {len(descriptors)} descriptors do not fit in one message")
        datagram = encode(verb, fields)
        if self._waiting or not self._try(datagram, descriptors):
            self._waiting.append((datagram, tuple(os.dup(number) for number in descriptors)))

    def flush(self) -> None:
        """Send what waits, as far as the peer takes it."""
        while self._waiting:
            datagram, descriptors = self._waiting[0]
            if not self._try(datagram, descriptors):
                return
            self._waiting.popleft()
            for number in descriptors:
                os.close(number)

    def _try(self, datagram: bytes, descriptors: Sequence[int]) -> bool:
        try:
            socket.send_fds(self._socket, [datagram], list(descriptors), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionError):
            pass  # the reading side finds out, and cleans up once
        return True

    def receive(self) -> Message | None:
        """Receive one message; None when the peer is gone. Errors: BlockingIOError when there is none."""
        try:
            return receive(self._socket)
        except ConnectionError:
            return None

    def close(self) -> None:
        """Close the socket and what waits; twice is harmless."""
        if self.closed:
            return
        self.closed = True
        while self._waiting:
            for number in self._waiting.popleft()[1]:
                os.close(number)
        self._socket.close()
