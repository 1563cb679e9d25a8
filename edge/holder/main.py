"""The holder: the process of `edge run`, PID 1 in a container. Owns what must outlive its children.

One loop, one thread. Puts the parts together: start, signals, the control socket's answers, the end.
Called by edge/cli/run.py. Never parses an object, an image or a byte from the network.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from edge import privileges
from edge.channel import Channel
from edge.errors import HolderError
from edge.holder import init, sockets
from edge.holder.children import Child
from edge.holder.control import ControlSocket
from edge.holder.controller_side import ControllerSide
from edge.holder.data_plane import DataPlanes
from edge.holder.drain import Drain, end_children
from edge.holder.instance import take_lock, user_of
from edge.holder.log import open_access_log, say
from edge.holder.loop import Loop
from edge.holder.notify import Notifier
from edge.holder.store import CommitPage, make_statistics_memory
from edge.holdings import Holdings
from edge.options import Options, parse_address

BEAT_S = 0.5  # between two stamps of the heartbeat


class Holder:
    """All state of the process."""

    def __init__(self, options: Options, user: tuple[int, int]) -> None:
        self.options = options
        self.loop = Loop()
        self.holdings = Holdings(workers=options.workers or len(os.sched_getaffinity(0)))
        self._user = user
        self._notify = Notifier(os.environ)
        self._drain: Drain | None = None
        self._exit_status: int | None = None
        self._started = time.monotonic()

    # ---- start ---------------------------------------------------------------------------

    def start(self) -> None:
        """Take lock, memory, sockets and log; drop what is not needed. Errors: HolderError."""
        options, holdings = self.options, self.holdings
        self._lock = take_lock(options.instance_run_dir)
        if options.xdp != "off" and os.geteuid() == 0:
            reason = privileges.mount_bpffs()
            if reason:
                say(reason)
        privileges.raise_limits()
        page = CommitPage()
        holdings.commit_page = page.descriptor
        holdings.statistics = make_statistics_memory()
        holdings.admin = sockets.open_admin(*parse_address(options.admin, "--admin")).detach()
        holdings.log = open_access_log(options.access_log)
        self.controller = ControllerSide(self.loop, holdings, options, page)
        self.data = DataPlanes(self.loop, holdings, options, self._user, self.controller.send)
        self.controller.data = self.data
        self.controller.on_hopeless = lambda: self._end(2)
        self._control = ControlSocket(
            sockets.open_control(options.instance_run_dir / "control.sock"), self.status
        )
        self.loop.watch_descriptor(self._control.listening.fileno(), self._accept_control)
        self._wake_read = init.catch_signals()
        self.loop.watch_descriptor(self._wake_read, self._read_signals)
        privileges.keep_capabilities(privileges.HOLDER_KEEPS)

    # ---- loop ----------------------------------------------------------------------------

    def run(self) -> int:
        """Hold until told to stop, or until nothing can be done. Shape: the exit status."""
        try:
            self._beat()
            self.data.start()
            self.controller.start()
            while self._exit_status is None:
                self.loop.turn()
            return self._exit_status
        finally:
            self._close()

    def _beat(self) -> None:
        self.controller.stamp()
        serving = self.data.serving
        text = f"serving version {serving}" if serving else "waiting for a first version to serve"
        self._notify.beat(bool(serving), "draining" if self._drain else text)
        self.loop.after(BEAT_S, self._beat)

    # ---- signals -------------------------------------------------------------------------

    def _read_signals(self) -> None:
        numbers = set(os.read(self._wake_read, 512))
        if signal.SIGCHLD in numbers:
            for child in self.children():
                child.look()
            init.reap_orphans([child.pid for child in self.children()])
        if numbers & {signal.SIGHUP, signal.SIGUSR1}:
            self._reopen_log()
        if signal.SIGHUP in numbers:
            self._notify.reloading()
            self.controller.send("reread")
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            self._begin_drain()

    def children(self) -> list[Child]:
        """Shape: those that live, the controller last."""
        living = [self.data.current.child] if self.data.current else []
        return [*living, *([self.controller.child] if self.controller.child else [])]

    def _reopen_log(self) -> None:
        try:
            fresh = open_access_log(self.options.access_log)
        except HolderError as error:
            say(f"{error}; the old file stays open")
            return
        if fresh >= 0:
            self.data.send("log", (fresh,))
            self.holdings.replace("log", fresh)

    # ---- control socket ------------------------------------------------------------------

    def _accept_control(self) -> None:
        channel = self._control.accept()
        if channel is not None:
            self.loop.watch(channel, lambda: self._answer(channel))

    def _answer(self, channel: Channel) -> None:
        if not self._control.answer(channel):
            self.loop.forget(channel)
            channel.close()

    def status(self) -> dict[str, object]:
        """Shape: the fields of the control socket's answer to `status`."""
        holdings, store, data = self.holdings, self.holdings.store, self.data.describe()
        return {
            "instance": self.options.instance,
            "pid": os.getpid(),
            "uptime_s": int(time.monotonic() - self._started),
            "state": "draining" if self._drain else "running",
            "data_pid": data["pid"],
            "data_state": data["state"],
            "loop": data["loop"],
            "workers": holdings.workers,
            "controller_pid": self.controller.pid,
            "committed": store.committed,
            "staged": store.staged.version if store.staged else 0,
            "serving": self.data.serving,
            "admin": sockets.show_name(holdings.admin),
            "listeners": ",".join(
                sockets.show(one.address, one.port) for _, one in sorted(holdings.listeners.items())
            ),
            **holdings.counts,
        }

    # ---- end -----------------------------------------------------------------------------

    def _begin_drain(self) -> None:
        if self._drain is not None:
            self._end(0)  # asked twice: no more patience
            return
        self._notify.stopping()
        self._drain = Drain(self.loop, self.holdings, self.controller, self.data, lambda: self._end(0))

    def _end(self, status: int) -> None:
        if self._exit_status is None:
            self._exit_status = status

    def _close(self) -> None:
        """End the children and remove what marks the instance as running."""
        self.controller.stopping = self.data.stopping = True
        end_children(self.children())
        self._control.close()
        with contextlib.suppress(OSError):
            (self.options.instance_run_dir / "control.sock").unlink()
        signal.set_wakeup_fd(-1)
        self._notify.close()
        self.loop.close()


def run(options: Options) -> int:
    """Be the holder of an instance until it stops. Errors: HolderError before anything was started."""
    init.hold_signals()
    privileges.name_process("edge-holder")
    privileges.close_on_exec_all()
    holder = Holder(options, user_of(options))
    holder.start()
    return holder.run()
