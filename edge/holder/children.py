"""Child processes: how one is exec'd, what it inherits, how its messages and its end are noticed.

Called by holder/data_planes.py and holder/controller_side.py. A child gets /dev/null, our stdout and stderr,
one control descriptor, and a clean environment; everything else comes by messages. Its end is seen by
pidfd, whether it is ours to wait for or not. Never waits for a child.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping

from edge.channel import Channel
from edge.holder.log import say
from edge.holder.loop import Loop
from edge.messages import Message

CONTROL_DESCRIPTOR = 3
MESSAGES_A_TURN = 32
SOON_S = 1.0  # a child that lived shorter than this is started again with a delay
DELAY_FIRST_S = 0.1
DELAY_MAX_S = 5.0
# The last two: where a Pod finds the API server.
KEPT = ("PATH", "LANG", "TZ", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")
GONE_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE, signal.SIGCHLD)


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Shape: what a child may know of our environment, and what it is told."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, **extra, "EDGE_CONTROL_FD": str(CONTROL_DESCRIPTOR)}


def is_traced(pid: int) -> bool:
    """Say whether a debugger holds a process: one that it has stopped stands still on purpose."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            return any(line.startswith("TracerPid:") and line.split()[1] != "0" for line in status)
    except OSError:
        return False


class Child:
    """One process, from its start (or from when it was given to us) to its end."""

    def __init__(
        self, loop: Loop, name: str, pid: int, pidfd: int, channel: Channel, executable: str = ""
    ) -> None:
        self.name, self.pid, self.pidfd, self.channel = name, pid, pidfd, channel
        self.executable = executable
        self.status: int | None = None  # its wait status, where it is ours and has ended
        self._started = time.monotonic()
        self._loop = loop
        self._hear: Callable[[Message], bool] = lambda _message: False
        self._ended: Callable[[], None] = lambda: None

    def on_end(self, ended: Callable[[], None]) -> None:
        """Tell somebody else of its end."""
        self._ended = ended

    @property
    def age(self) -> float:
        """Return for how long we have had it. Units: seconds."""
        return time.monotonic() - self._started

    def watch(self, hear: Callable[[Message], bool], ended: Callable[[], None]) -> None:
        """Hear its messages (True: descriptors were kept) and its end, which comes once, after them."""
        self._hear, self._ended = hear, ended
        self._loop.watch(self.channel, self.read)
        self._loop.watch_descriptor(self.pidfd, self.look)

    def send(self, verb: str, descriptors: tuple[int, ...] = (), **fields: object) -> None:
        """Send a message; a child that leaves too many unread is killed."""
        try:
            self.channel.send(verb, descriptors, **fields)
        except BrokenPipeError:
            say(f"the {self.name} (pid {self.pid}) has stopped reading its messages: replaced")
            self.kill(signal.SIGKILL)
            return
        self._loop.adjust(self.channel)

    def kill(self, number: signal.Signals) -> None:
        """Send a signal, if it lives."""
        if self.pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def look(self) -> None:
        """Note its end, if it has ended: what it said before is heard first."""
        if self.pidfd < 0 or not self._has_ended():
            return
        while self._hear_one():
            pass
        self.close()
        self._ended()

    def _has_ended(self) -> bool:
        try:
            found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:  # not ours, or somebody has waited for it
            ended = select.poll()
            ended.register(self.pidfd, select.POLLIN)
            return bool(ended.poll(0))
        if found is None:
            return False
        self.status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        return True

    def read(self) -> None:
        """Hear some messages, and leave time for others."""
        for _ in range(MESSAGES_A_TURN):
            if not self._hear_one():
                return

    def _hear_one(self) -> bool:
        """Hear one message; False when there is none."""
        if self.channel.closed:
            return False
        try:
            message = self.channel.receive()
        except BlockingIOError:
            return False
        if message is None:
            # Its end comes by pidfd; until then there is nothing to read.
            self._loop.forget(self.channel)
            self.channel.close()
            return False
        if not self._hear(message):
            message.close()
        return True

    def pause(self) -> None:
        """Hear nothing until `watch`; what it says and its end wait for whoever hears it next."""
        self._loop.forget(self.channel)
        self._loop.forget(self.pidfd)

    def resume(self) -> None:
        """Hear it again."""
        self.pause()
        self.watch(self._hear, self._ended)

    def close(self) -> None:
        """Watch it no more and close what we have of it; it is not ended by this."""
        self._loop.forget(self.channel)
        self.channel.close()
        if self.pidfd >= 0:
            self._loop.forget(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = -1

    def describe_end(self) -> str:
        """Shape: how it ended, in words."""
        if self.status is None:
            return "how is not known: another process started it"
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        return f"exit status {self.status}"


class Program:
    """What is exec'd for one part, over all its lives. Units: seconds of the monotonic clock."""

    def __init__(self, name: str, module: str, environment: Mapping[str, str]) -> None:
        self.name, self.module = name, module
        self.executable = sys.executable
        self.environment = clean_environment(environment)
        self._delay = 0.0

    def start(self, loop: Loop, executable: str = "") -> Child:
        """Exec it. Errors: OSError."""
        executable = executable or self.executable
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        with theirs:
            try:
                pid = os.posix_spawn(
                    executable,
                    [executable, "-I", "-m", self.module],
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
                pidfd = os.pidfd_open(pid)
            except OSError:
                ours.close()  # a child that was started nevertheless reads the end of it, and ends
                if not os.path.exists(self.executable):
                    self.executable = sys.executable  # of an installation that is gone
                raise
        return Child(loop, self.name, pid, pidfd, Channel(ours), executable)

    def wait_after(self, lived: float) -> float:
        """Plan the next life: at once, unless one died young again and again.

        Units: seconds until the next start.
        """
        if lived >= SOON_S:
            self._delay = 0.0
        wait = self._delay
        if lived < SOON_S:
            self._delay = min(max(self._delay * 2, DELAY_FIRST_S), DELAY_MAX_S)
        return wait
