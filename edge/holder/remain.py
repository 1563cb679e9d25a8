"""What a holder that has handed over still does where it is PID 1: without it, all of its container ends.

Called by holder/main.py as the last thing. It holds nothing any more; it waits for orphans, hands on
the signal to stop, and ends with its successor, or where that is in another container, when told to.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

from edge.holder import init


def remain(successor: int, wake: int) -> int:
    """Stay until nobody needs us. Shape: the exit status; ``successor`` is 0 where we cannot see it.

    ``wake``: the pipe that signals are written to.
    """
    try:
        pidfd = os.pidfd_open(successor) if successor else -1
    except ProcessLookupError:
        return 0
    poll = select.poll()
    for number in (wake, pidfd):
        if number >= 0:
            poll.register(number, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if wake in ready:
            numbers = set(os.read(wake, 512))
            init.reap_orphans([successor])
            if numbers & {signal.SIGTERM, signal.SIGINT}:
                if pidfd < 0:
                    return 0
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if pidfd in ready:
            return 0
