"""The stop of an instance: exchanges finish within the grace period, then all processes end.

Called by holder/main.py at SIGTERM. Leaves nothing running; the BPF pins stay.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable

from edge.holder.children import Child
from edge.holder.controller_side import ControllerSide
from edge.holder.data_plane import DataPlanes
from edge.holder.log import say
from edge.holder.loop import Loop
from edge.holdings import Holdings

KILL_AFTER_S = 2.0  # beyond the grace period
END_S = 1.0  # for a controller to end after SIGTERM


class Drain:
    """One stop. ``done`` is called once, when no data plane is left or patience is over."""

    def __init__(
        self,
        loop: Loop,
        holdings: Holdings,
        controller: ControllerSide,
        data: DataPlanes,
        done: Callable[[], None],
    ) -> None:
        self._holdings, self._controller, self._data, self._done = holdings, controller, data, done
        controller.stopping = data.stopping = True
        data.on_ended = self._look
        controller.send("drain", grace_ms=data.grace_ms)
        data.send("drain", grace_ms=data.grace_ms)
        # Our copies go; the data plane closes its own once their queues are served.
        holdings.close_listeners()
        loop.after(data.grace_ms / 1000 + KILL_AFTER_S, self._cut)
        self._look()

    def _look(self) -> None:
        if self._data.current is None:
            self._done()

    def _cut(self) -> None:
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
