"""A child that is only a channel: what the holder's parts are told stands at its other end."""

from __future__ import annotations

import gc
import itertools
import os
import select
import signal
import socket

from edge.channel import Channel
from edge.holder.children import Child
from edge.holder.loop import Loop
from edge.messages import Message, receive, send


def open_descriptors() -> int:
    """Count our descriptors."""
    return len(os.listdir("/proc/self/fd"))


def more_than(before: int) -> bool:
    """Tell whether more are open than before; what is only left to the collector is not."""
    if open_descriptors() > before:
        gc.collect()
    return open_descriptors() > before


_pids = itertools.count(1_000_000)


class FakeChild(Child):
    """Its pidfd is a pipe; signals are noted, not sent."""

    def kill(self, number: signal.Signals) -> None:
        self.signals.append(number)

    def _has_ended(self) -> bool:
        return bool(select.select([self.pidfd], [], [], 0)[0])

    signals: list[signal.Signals]


class Peer:
    """The process's end: reads what the holder says, and answers."""

    def __init__(self, loop: Loop, name: str) -> None:
        ours, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.setblocking(False)
        self.ending, self._end_of_life = os.pipe()  # readable: the process has ended
        self.child = FakeChild(loop, name, next(_pids), self.ending, Channel(ours))
        self.child.signals = []

    def heard(self) -> list[Message]:
        """Return what it was told since the last call; descriptors are closed."""
        result = []
        while True:
            try:
                message = receive(self.end)
            except BlockingIOError:
                return result
            if message is None:
                return result
            message.close()
            result.append(message)

    def says(self, verb: str, descriptors: tuple[int, ...] = (), **fields: object) -> None:
        """Say something to the holder."""
        send(self.end, verb, descriptors, **fields)

    def dies(self) -> None:
        """End: the pidfd becomes readable."""
        os.close(self._end_of_life)
        self.end.close()

    def close(self) -> None:
        """Leave nothing open."""
        self.child.close()
        if self.end.fileno() >= 0:
            os.close(self._end_of_life)
            self.end.close()
