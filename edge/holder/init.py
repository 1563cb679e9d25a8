"""What the holder does because it may be PID 1 of a container: signals from the first moment, orphans.

Called by holder/main.py. The kernel drops a signal that PID 1 has no handler for, and leaves dead
orphans to it. Never waits for a process that somebody else watches by pidfd, and forwards nothing: what
a child has to know of a signal, the holder says in a message.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection
from pathlib import Path

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


def hold_signals() -> None:
    """Keep signals that come before the loop runs: a stop during the start is a stop, not lost."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def catch_signals() -> int:
    """Have signals written to a pipe, those included that were held. Shape: its end for reading."""
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return wake_read


def reap_orphans(watched: Collection[int]) -> int:
    """Wait for every dead child that is not watched; does nothing where we are not PID 1.

    Shape: how many there were.
    """
    if os.getpid() != 1:
        return 0
    found = 0
    for pid in _children() - set(watched):
        with contextlib.suppress(ChildProcessError):
            found += os.waitpid(pid, os.WNOHANG)[0] != 0
    return found


def _children() -> set[int]:
    """Shape: the process ids of our children, dead ones included."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        found.update(map(int, path.read_text().split()))
    return found
