"""What a holder that has handed over still does where it is PID 1: without it, all of its container ends.

Called by holder/main.py as the last thing; it holds nothing any more. It waits for orphans and hands on the
signal to stop. It ends with the last of its successors, or is the holder again if that one has died; where
the successor is in another container, it stays until it is told to end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

from edge.holder import init
from edge.options import Options

NEXT_S = 2.0  # for a successor's successor to write its pid down
LOOK_S = 0.02


def remain(successor: int, wake: int, options: Options) -> int:
    """Stay until nobody needs us. Shape: the exit status; ``successor`` is 0 where we cannot see it.

    ``wake``: the pipe that signals are written to.
    """
    stopping = False
    while True:
        pidfd = _open(successor)
        stopping |= _watch(successor, pidfd, wake)
        if pidfd < 0:
            return 0
        clean = _ended_well(pidfd)
        os.close(pidfd)
        after = 0 if clean and stopping else _next(options.instance_run_dir / "lock", successor)
        if after:
            successor = after
        elif clean or stopping:
            return 0
        else:
            _hold_again(options)


def _open(pid: int) -> int:
    with contextlib.suppress(ProcessLookupError):
        return os.pidfd_open(pid) if pid else -1
    return -1


def _watch(pid: int, pidfd: int, wake: int) -> bool:
    """Wait for the end of a process, or without one for the signal. Shape: True when told to stop."""
    stopping = False
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    if pidfd >= 0:
        poll.register(pidfd, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if wake in ready:
            numbers = set(os.read(wake, 512))
            init.reap_orphans([pid])
            if numbers & {signal.SIGTERM, signal.SIGINT}:
                stopping = True
                if pidfd < 0:
                    return True
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if pidfd in ready:
            return stopping


def _ended_well(pidfd: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        return found is not None and found.si_code == os.CLD_EXITED and found.si_status == 0
    return False


def _next(lock: Path, before: int) -> int:
    """Return the holder that has followed one, 0 when none has."""
    deadline = time.monotonic() + NEXT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            pid = int(lock.read_text())
            if pid not in (before, os.getpid()):
                os.kill(pid, 0)
                return pid
        time.sleep(LOOK_S)
    return 0


def _hold_again(options: Options) -> None:
    """Be the holder of this container: who died has left children, which are adopted."""
    environment = {**os.environ, **options.to_environment(), "EDGE_TAKE_OVER": "1"}
    signal.set_wakeup_fd(-1)
    os.execve(sys.executable, [sys.executable, "-I", "-m", "edge", "run"], environment)
