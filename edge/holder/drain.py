"""The stop of an instance: readiness off, a delay, no new connections, the grace period, the end.

Called by holder/main.py at SIGTERM. A closed listening socket resets what waits in its queue, so new SYNs are
dropped first by a filter: their clients send them again and are refused then. The BPF pins stay.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from edge.holder import sockets
from edge.holder.children import Child
from edge.holder.controller_side import ControllerSide
from edge.holder.data_plane import DataPlane
from edge.holder.data_planes import KILL_AFTER_S, DataPlanes
from edge.holder.log import say
from edge.holder.loop import Loop
from edge.holder.progress import DrainProgress
from edge.holdings import Holdings
from edge.options import Options

IDLE_MS = 1000  # a kept connection without a request
HANDSHAKES_S = 0.1  # for those whose SYN was taken before the filter
END_S = 1.0  # for a controller to end after SIGTERM


class Parts(Protocol):
    """What a stop needs of the holder."""

    loop: Loop
    options: Options
    holdings: Holdings
    controller: ControllerSide
    data: DataPlanes


class Drain:
    """One stop. ``done`` is called once, when no data plane is left or patience is over.

    ``shared``: a successor has the same listening sockets, which therefore take connections as before.
    """

    def __init__(self, parts: Parts, shared: bool, done: Callable[[], None]) -> None:
        self._parts, self._shared, self._done = parts, shared, done
        data = parts.data
        parts.controller.stopping = data.stopping = True
        self._progress = DrainProgress(data.setup.grace_ms / 1000)
        data.on_ended, data.on_progress = self._look, self._heard
        parts.controller.send("drain", grace_ms=data.setup.grace_ms, shared=int(shared))
        data.send("closing")
        delay = 0.0 if shared else parts.options.drain_delay
        parts.loop.after(delay, self._shut)
        self._look()

    def _shut(self) -> None:
        """Take no new connections; those whose handshake is under way are still served."""
        if self._shared:
            self._drain()
            return
        for listener in self._parts.holdings.listeners.values():
            for member in listener.members:
                sockets.drop_new_connections(member)
        self._parts.loop.after(HANDSHAKES_S, self._drain)

    def _drain(self) -> None:
        data = self._parts.data
        grace_ms = data.setup.grace_ms
        data.send("drain", grace_ms=grace_ms, idle_ms=min(IDLE_MS, grace_ms))
        data.dismiss_orphans()
        # Our copies go; the data plane closes its own once their queues are served.
        self._parts.holdings.close_listeners()
        self._parts.loop.after(grace_ms / 1000 + KILL_AFTER_S, self._cut)

    def _heard(self, one: DataPlane) -> None:
        self._progress.heard(one.pid, one.open, one.tunnels)

    def _look(self) -> None:
        if not self._parts.data.everyone():
            self._progress.end()
            self._done()

    def _cut(self) -> None:
        self._progress.end()
        say("the grace period is over: open exchanges are cut")
        self._done()


def wait_or_kill(child: Child, deadline: float) -> None:
    """Wait for its end until the deadline, then kill it."""
    ended = select.poll()
    ended.register(child.pidfd, select.POLLIN)
    if not ended.poll(max(deadline - time.monotonic(), 0) * 1000):
        child.kill(signal.SIGKILL)
        ended.poll(END_S * 1000)
    with contextlib.suppress(ChildProcessError):  # not ours: init waits for it
        os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG)


def end_children(children: Iterable[Child]) -> None:
    """End what still runs, and wait for it; a data plane has had its time."""
    living = list(children)
    for child in living:
        child.kill(signal.SIGTERM if child.name == "controller" else signal.SIGKILL)
    deadline = time.monotonic() + END_S
    for child in living:
        wait_or_kill(child, deadline)
        child.close()
