"""The holder: the process of `edge run`, PID 1 in a container. Owns what must outlive its children.

One loop, one thread. Puts the parts together: how it starts (first, successor, heir), signals, the control
socket's verbs, the end. Called by edge/cli/run.py. Never parses an object, an image, a network byte.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from edge import privileges
from edge.errors import HolderError
from edge.holder import adopt, init, record, sockets, take_over
from edge.holder.children import Child
from edge.holder.control import Client, ControlSocket
from edge.holder.controller_side import ControllerSide
from edge.holder.data_plane import Setup
from edge.holder.data_planes import DataPlanes
from edge.holder.drain import Drain, end_children
from edge.holder.hand_over import HandOver, refusal
from edge.holder.inheritance import Inheritance
from edge.holder.instance import sign_lock, take_lock, try_lock, user_of
from edge.holder.log import open_access_log, say
from edge.holder.loop import Loop
from edge.holder.notify import Notifier
from edge.holder.remain import remain
from edge.holder.store import CommitPage, make_statistics_memory
from edge.holder.upgrade import Upgrade, follow_options
from edge.holdings import Holdings
from edge.messages import Message
from edge.options import Options, parse_address

BEAT_S = 0.5  # between two stamps of the heartbeat
TAKE_OVER_TRIES = 40
TAKE_OVER_WAIT_S = 0.05  # between two tries to find either the lock free or the holder listening


class Holder:
    """All state of the process."""

    def __init__(self, options: Options, user: tuple[int, int]) -> None:
        self.options = options
        self.loop = Loop()
        self.holdings = Holdings()
        self._user = user
        self.notify = Notifier(os.environ)
        self._drain: Drain | None = None
        self._hand_over: HandOver | None = None
        self._upgrade: Upgrade | None = None
        self._handed_over = False
        self._successor = 0
        self._told_to_stop = False
        self._exit_status: int | None = None
        self._started = time.monotonic()

    # ---- start ---------------------------------------------------------------------------

    def start(self) -> None:
        """Take, take over or adopt what the instance has; drop what is not needed. Errors: HolderError."""
        options = self.options
        if options.xdp != "off" and os.geteuid() == 0:
            reason = privileges.mount_bpffs()
            if reason:
                say(reason)
        privileges.raise_limits()
        found = self._inherit()
        self.holdings = found.holdings
        self.lock = found.lock
        sign_lock(self.lock)
        self._put_together(found)
        self._wake_read = init.catch_signals()
        self.loop.watch_descriptor(self._wake_read, self._read_signals)
        privileges.keep_capabilities(privileges.HOLDER_KEEPS)

    def _inherit(self) -> Inheritance:
        directory = self.options.instance_run_dir
        for _ in range(TAKE_OVER_TRIES):
            lock = try_lock(directory)
            if lock is not None:
                control = sockets.open_control(directory / "control.sock")
                found = adopt.find(directory, control)
                found.lock, found.control = lock, control
                self._open_what_is_missing(found)
                return found
            if not self.options.take_over:
                break
            handed = take_over.ask(directory / "control.sock", self._open_what_is_missing)
            if handed is not None:
                return handed
            time.sleep(TAKE_OVER_WAIT_S)  # it starts, or it ends: both are soon over
        return Inheritance("first", Holdings(), lock=take_lock(directory))  # which refuses

    def _open_what_is_missing(self, found: Inheritance) -> None:
        """Open what nobody had before, or had otherwise. Errors: HolderError."""
        options, holdings = self.options, found.holdings
        before = holdings.options
        holdings.options = {
            name: text for name, text in options.to_environment().items() if name != "EDGE_TAKE_OVER"
        }
        self._options_before = before or holdings.options
        wanted = options.workers or len(os.sched_getaffinity(0))
        if holdings.workers and options.workers and holdings.workers != wanted:
            say(f"--workers {wanted}: the running instance keeps its {holdings.workers} until a stop")
        holdings.workers = holdings.workers or wanted
        self._page = CommitPage(holdings.commit_page)
        holdings.commit_page = self._page.descriptor
        if holdings.statistics < 0:
            holdings.statistics = make_statistics_memory()
        for name, place, what in (
            ("admin", options.admin, "the admin API"),
            ("webhook", options.webhook, "the admission webhook"),
        ):
            same = self._options_before.get(f"EDGE_{name.upper()}", "") == place
            if place and (getattr(holdings, name) < 0 or not same):
                opened = sockets.open_own(*parse_address(place, f"--{name}"), what)
                holdings.replace(name, opened.detach())
            elif not place:
                holdings.replace(name, -1)
        if holdings.log < 0 or self._options_before["EDGE_ACCESS_LOG"] != options.access_log:
            holdings.replace("log", open_access_log(options.access_log))

    def _put_together(self, found: Inheritance) -> None:
        options, holdings = self.options, self.holdings
        assert found.control is not None
        self.controller = ControllerSide(self.loop, holdings, options, self._page)
        setup = Setup(
            self._page.reader, options.loop, *self._user, int(options.grace_period * 1000), options.log_format
        )
        tell = self.controller.send
        self.data = DataPlanes(self.loop, holdings, setup, self.controller.chronicle, tell)
        self.controller.data = self.data
        self.controller.on_hopeless = lambda: self._end(2)
        self.controller.on_changed = self.data.on_changed = self._write_record
        verbs = {
            "status": self._say_status,
            "events": self._say_events,
            "take-over": self._begin_hand_over,
            "upgrade": self._begin_upgrade,
            "adopt": lambda client, _message: client.send("refused", reason="the instance has a controller"),
        }
        self.control = ControlSocket(self.loop, found.control, verbs)
        self.data.foreign = holdings.foreign_lanes
        for held in holdings.children:
            (self.controller if held.part == "controller" else self.data).take(held)
        for held in found.orphans:
            self.data.take(held)
        for pid in found.buried:
            tell("data", (), state="down", pid=pid)
        self._replaces = bool(found.buried) and self.data.current is None
        holdings.children = []
        if holdings.store.committed:
            self._page.write(holdings.store.committed)
        if found.how == "adopted":
            self.data.say_again()
        self._found = found

    # ---- loop ----------------------------------------------------------------------------

    def run(self) -> int:
        """Hold until told to stop, or until nothing can be done. Shape: the exit status."""
        try:
            self._beat()
            self.control.begin()
            for end, message in self._found.waiting:
                self.control.answer(end, message)
            self.data.start()
            self.controller.start()
            self._say_how()
            self._write_record()
            while self._exit_status is None:
                self.loop.turn()
            return self._exit_status
        finally:
            self._close()

    def _say_how(self) -> None:
        chronicle, found = self.controller.chronicle, self._found
        match found.how:
            case "handed" | "apart":
                chronicle.count("handovers")
                chronicle.note(
                    "hand-over", f"holder {os.getpid()} has taken over instance {self.options.instance!r}"
                )
            case "adopted" | "orphans":
                if self._replaces:
                    chronicle.count("data_restarts")
                chronicle.count("adoptions")
                chronicle.note("adoption", f"holder {os.getpid()} has adopted what a dead one left")
        if found.predecessor is not None:
            self.loop.watch(found.predecessor, self._hear_predecessor)
        if found.how == "apart":
            self.data.on_serving = self._tell_predecessor
        if found.how in ("handed", "adopted"):
            follow_options(self._options_before, self.options, self.controller, self.data, self.holdings)

    def _hear_predecessor(self) -> None:
        """Wait for the end of the old holder: with it, lanes are free that only it knew of."""
        predecessor = self._found.predecessor
        if predecessor is None:
            return
        with contextlib.suppress(BlockingIOError):
            message = predecessor.receive()
            if message is not None:
                message.close()
                return
            self.loop.forget(predecessor)
            predecessor.close()
            self._found.predecessor = None
            self.data.foreign.clear()

    def _tell_predecessor(self, version: int) -> None:
        """Say to a holder of another PID namespace that we serve: it drains."""
        if self._found.predecessor is not None and version == self.holdings.store.committed:
            self._found.predecessor.send("serving", version=version)

    def _beat(self) -> None:
        self.controller.stamp()
        if self._hand_over is None or not self._hand_over.together:
            self.data.watch()
            self.controller.watch()
        serving = self.data.serving
        text = f"serving version {serving}" if serving else "waiting for a first version to serve"
        self.notify.beat(bool(serving), "draining" if self._drain else text)
        self.loop.after(BEAT_S, self._beat)

    def _write_record(self) -> None:
        """Leave for a successor what it needs if we die."""
        if self._handed_over or self._exit_status is not None:
            return
        children = [one.held() for one in self.data.everyone()]
        controller = self.controller.held()
        if controller is not None:
            children.append(controller)
        record.write(self.options.instance_run_dir, record.make(self.holdings, children))

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
            self.notify.reloading()
            self.controller.send("reread")
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            self._stop()

    def children(self) -> list[Child]:
        """Shape: those that live, the controller last."""
        living = [one.child for one in self.data.everyone()]
        return [*living, *([self.controller.child] if self.controller.child else [])]

    def _reopen_log(self) -> None:
        try:
            fresh = open_access_log(self.options.access_log)
        except HolderError as error:
            say(f"{error}; the old file stays open")
            return
        if fresh >= 0:
            self.data.send("log", (fresh,))
            self.controller.send("holding", (fresh,), what="descriptor", name="log")
            self.holdings.replace("log", fresh)

    # ---- control socket ------------------------------------------------------------------

    def _say_status(self, client: Client, _message: Message) -> None:
        client.send("status", (), **self.status())

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

    def _say_events(self, client: Client, _message: Message) -> None:
        for event in self.holdings.events:
            client.send("event", (), at=event.at, kind=event.kind, text=event.text)
        client.send("end")

    def _begin_hand_over(self, client: Client, message: Message) -> None:
        if self._drain or self._hand_over or self._exit_status is not None:
            client.send("refused", reason="it drains" if self._drain else "another hand-over is under way")
        elif self.data.upgrading or self.controller.upgrading:
            client.send("refused", reason="data plane or controller is being replaced")
        elif reason := refusal(message, self.data):
            client.send("refused", reason=reason)
        else:
            self._hand_over = HandOver(self, client, message, self._hand_over_ended)

    def _hand_over_ended(self, gone: bool) -> None:
        hand_over, self._hand_over = self._hand_over, None
        if not gone:
            return
        self._handed_over = True
        if hand_over is None or hand_over.together:
            self._successor = hand_over.successor if hand_over else 0
            self.notify.hand_over(self._successor)
            if self._upgrade:
                self._upgrade.handed_over()
            self._end(0)
        else:
            self._begin_drain()

    def _begin_upgrade(self, client: Client, message: Message) -> None:
        busy = self._hand_over or self._upgrade or self.data.upgrading or self.controller.upgrading
        if self._drain or busy:
            client.send("failed", reason="it drains" if self._drain else "something is replaced already")
            return
        self._upgrade = Upgrade(self, client, message, self._upgrade_ended)
        self._upgrade.begin()

    def _upgrade_ended(self) -> None:
        self._upgrade = None

    # ---- end -----------------------------------------------------------------------------

    def _stop(self) -> None:
        if self._told_to_stop:
            self._end(0)  # asked twice: no more patience
            return
        self._told_to_stop = True
        if self._drain is None:  # else it drains because a successor serves, and goes on with that
            self._begin_drain()

    def _begin_drain(self) -> None:
        if self._hand_over is not None:
            self._handed_over = self._hand_over.conclude()
            self._hand_over = None
        self.notify.stopping()
        self._drain = Drain(self, shared=self._is_shared(), done=lambda: self._end(0))

    def _is_shared(self) -> bool:
        """Say whether another holder has the same sockets: our successor, or the one that we follow."""
        return self._handed_over or (self._found.how == "apart" and self._found.predecessor is not None)

    def _end(self, status: int) -> None:
        if self._exit_status is None:
            self._exit_status = status

    def _close(self) -> None:
        """End the children and remove what marks the instance as running, unless a successor has both."""
        if self._handed_over and self._drain is None:
            for child in self.children():
                child.close()
        else:
            self.controller.stopping = self.data.stopping = True
            end_children(self.children())
        self.control.close()
        if not self._is_shared():
            with contextlib.suppress(OSError):
                (self.options.instance_run_dir / "control.sock").unlink()
            record.remove(self.options.instance_run_dir)
        self.notify.close()
        self.loop.close()
        self.holdings.close()
        self._page.close()
        os.close(self.lock)

    def remain(self, status: int) -> int:
        """Stay, as PID 1 that has handed over; all others end. Shape: the exit status."""
        told = self._told_to_stop and not self._successor
        if self._handed_over and os.getpid() == 1 and not told:
            return remain(self._successor, self._wake_read, self.options)
        return status


def run(options: Options) -> int:
    """Be the holder of an instance until it stops. Errors: HolderError before anything was started."""
    init.hold_signals()
    privileges.name_process("edge-holder")
    privileges.close_on_exec_all()
    holder = Holder(options, user_of(options))
    holder.start()
    return holder.remain(holder.run())
