"""The two children: how each is exec'd, what it inherits, when it is started again.

Called by holder/main.py. A child gets /dev/null, our stdout and stderr, one control descriptor, and a
clean environment; everything else comes by messages. Never waits for a child.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping

from edge.channel import Channel

CONTROL_DESCRIPTOR = 3
SOON_S = 1.0  # a child that lived shorter than this is started again with a delay
DELAY_FIRST_S = 0.1
DELAY_MAX_S = 5.0
GONE_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE, signal.SIGCHLD)


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Shape: what a child may know of our environment, and what it is told."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
    return {**kept, **extra, "EDGE_CONTROL_FD": str(CONTROL_DESCRIPTOR)}


class Child:
    """One child process, of the same kind over all its lives. Units: seconds of the monotonic clock."""

    def __init__(self, name: str, module: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self.environment = clean_environment(environment)
        self._arguments = [sys.executable, "-I", "-m", module]
        self.channel: Channel | None = None
        self.pid = 0
        self.starts = 0
        self.start_at: float | None = 0.0  # when to start it; None: it runs
        self._started = 0.0
        self._delay = 0.0

    @property
    def restarts(self) -> int:
        """Return how often it was replaced."""
        return max(self.starts - 1, 0)

    def start(self) -> Channel:
        """Exec it and return our end of its control channel. Errors: OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        with theirs:
            self.pid = os.posix_spawn(
                self._arguments[0],
                self._arguments,
                self.environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    # The duplicate is the one descriptor without close-on-exec.
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), CONTROL_DESCRIPTOR),
                ],
                setpgroup=0,  # Ctrl-C is for the holder, which then drains them
                setsigmask=[],
                setsigdef=GONE_SIGNALS,
            )
        self.starts += 1
        self.start_at = None
        self._started = time.monotonic()
        self.channel = Channel(ours)
        return self.channel

    def died(self) -> float:
        """Note its death and plan the next life: at once, unless it died young again and again.

        Units: seconds until the next start.
        """
        lived = time.monotonic() - self._started
        if lived >= SOON_S:
            self._delay = 0.0
        wait = self._delay
        if lived < SOON_S:
            self._delay = min(max(self._delay * 2, DELAY_FIRST_S), DELAY_MAX_S)
        self.pid = 0
        self.start_at = time.monotonic() + wait
        if self.channel:
            self.channel.close()
            self.channel = None
        return wait

    def kill(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.pid:
            os.kill(self.pid, number)


def describe_status(status: int) -> str:
    """Shape: how a process ended, from its wait status."""
    code = os.waitstatus_to_exitcode(status)
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
