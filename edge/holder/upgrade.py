"""Upgrades that the control socket asks for, and those that other options ask for after a take-over.

Made by holder/main.py. The data plane's moves stand in data_planes.py, the controller's in
controller_side.py; the holder's is a process of the new executable that takes over from us.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from edge.errors import HolderError
from edge.holder.children import clean_environment
from edge.holder.control import Client
from edge.holder.controller_side import ControllerSide
from edge.holder.data_planes import DataPlanes
from edge.holder.log import say
from edge.holder.loop import Loop, Moment
from edge.holder.notify import Notifier
from edge.holdings import Holdings
from edge.messages import Message
from edge.options import Options

HOLDER_PATIENCE_S = 20.0
DATA_OPTIONS = ("EDGE_LOOP", "EDGE_USER", "EDGE_GRACE_PERIOD", "EDGE_LOG_FORMAT", "EDGE_ACCESS_LOG")
SILENT_OPTIONS = (
    "EDGE_TAKE_OVER",
    "EDGE_WORKERS",
    "EDGE_DRAIN_DELAY",
    "EDGE_ACCEPT_EMPTY",
)  # of a holder, a start


class Parts(Protocol):
    """What an upgrade needs of the holder."""

    loop: Loop
    options: Options
    controller: ControllerSide
    data: DataPlanes
    notify: Notifier


class Upgrade:
    """One upgrade that a client asked for; it goes on when the client goes away."""

    def __init__(self, parts: Parts, client: Client, message: Message, ended: Callable[[], None]) -> None:
        self.what = message.fields.get("what", "")
        self._executable = message.fields.get("executable", "")
        self._parts, self._client, self._ended = parts, client, ended
        self._deadline: Moment | None = None
        self._pidfd = -1
        self.successor = 0

    def begin(self) -> None:
        """Start it."""
        try:
            if not os.access(self._executable, os.X_OK):
                raise HolderError(f"{self._executable} cannot be executed")
            match self.what:
                case "data":
                    self._parts.data.upgrade(self._executable, self._step)
                case "controller":
                    self._parts.controller.upgrade(self._executable, self._step)
                case "holder":
                    self._start_successor()
                case _:
                    raise HolderError(f"there is no part named {self.what[:32]!r}")
        except (HolderError, OSError) as error:
            self._step("failed", str(error))

    def _step(self, state: str, text: str) -> None:
        self._client.send("step", (), what=self.what, state=state, text=text)
        if state == "failed":
            self._client.send("failed", (), reason=text)
        elif state == "done":
            self._client.send("done", (), what=self.what)
        if state in ("failed", "done"):
            self._ended()

    # ---- the holder itself -----------------------------------------------------------------

    def _start_successor(self) -> None:
        """Exec a holder of the new executable; it asks us by `take-over` like any other."""
        environment = {
            **os.environ,
            **self._parts.notify.environment(),
            **self._parts.options.to_environment(),
            "EDGE_TAKE_OVER": "1",
        }
        pid = os.posix_spawn(
            self._executable,
            [self._executable, "-I", "-m", "edge", "run"],
            environment,
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)],
            setsigmask=[],
            setsigdef=(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD),
        )
        self.successor = pid
        self._pidfd = os.pidfd_open(pid)
        self._parts.loop.watch_descriptor(self._pidfd, lambda: self._fail("it ended before it took over"))
        self._deadline = self._parts.loop.after(
            HOLDER_PATIENCE_S, lambda: self._fail(f"it did not take over in {HOLDER_PATIENCE_S:.0f} s")
        )
        self._step("starting", f"pid {pid}")

    def _fail(self, reason: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._forget()
        self._step("failed", reason)

    def _forget(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._parts.loop.forget(self._pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd = -1

    def handed_over(self) -> None:
        """Say that a successor has all: the last that we do."""
        self._step("done", "the new holder has taken over")


def follow_options(
    before: Mapping[str, str],
    options: Options,
    controller: ControllerSide,
    data: DataPlanes,
    holdings: Holdings,
) -> None:
    """Bring running processes to the options of this holder: what differs is replaced, as in an upgrade."""
    now = options.to_environment()
    # What the holder before did not know is as it was: the default.
    changed = [
        name for name, text in now.items() if before.get(name, text) != text and name not in SILENT_OPTIONS
    ]
    if not changed:
        return
    words = ", ".join("--" + name.removeprefix("EDGE_").lower().replace("_", "-") for name in changed)
    say(f"other options than before: {words}")

    def next_one(state: str = "done", text: str = "") -> None:
        if state == "failed":
            say(f"the controller does not take the other options: {text}")
        elif state == "done":
            holdings.options = now
            controller.send("holding", (), what="options", **now)
        if state in ("done", "failed") and data.current and any(name in DATA_OPTIONS for name in changed):
            with _said():
                data.upgrade(data.program.executable, _say_failure)

    if controller.child is None:
        next_one()
        return
    running = {**now, **{name: before[name] for name in changed}}
    holdings.options = running  # and the way back, if those of now cannot be met
    controller.program.environment = clean_environment(running)
    with _said():
        controller.upgrade(controller.program.executable, next_one, now)


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Say what cannot be replaced now."""
    try:
        yield
    except HolderError as error:
        say(f"other options are not followed: {error}")


def _say_failure(state: str, text: str) -> None:
    if state == "failed":
        say(f"the data plane does not take the other options: {text}")
