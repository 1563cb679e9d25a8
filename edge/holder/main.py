"""The holder: the process of `edge run`, PID 1 in a container. Owns what must outlive its children.

One selectors loop, one thread. Starts controller and data plane, gives them their descriptors,
relays their typed messages (design note 0001) and starts again what dies. Called by edge/cli/run.py.
Never parses an object, an image or a byte from the network; believes nothing the data plane says.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edge import privileges
from edge.channel import Channel
from edge.errors import HolderError
from edge.holder import sockets
from edge.holder.children import Child, describe_status
from edge.holder.control import ControlSocket
from edge.holder.instance import take_lock, user_of, wait_or_kill
from edge.holder.log import open_access_log, say
from edge.holder.store import (
    IMAGE_FULL,
    IMAGE_PATCH,
    CommitPage,
    ImageStore,
    Stored,
    make_statistics_memory,
    seal_size,
)
from edge.messages import DESCRIPTORS_MAX, Message
from edge.options import Options, parse_address

EXIT_HOPELESS = 78  # a controller's "it makes no sense to start me again" (EX_CONFIG of sysexits.h)
HEARTBEAT_S = 0.5
MESSAGES_A_TURN = 32
LISTENERS_MAX = 64  # EDGE_LISTENER_SLOTS
KILL_AFTER_S = 2.0  # beyond the grace period


@dataclass(slots=True)
class OpenListener:
    """One served address: its member sockets, as long as the holder lives."""

    slot: int
    address: str
    port: int
    members: list[socket.socket]


@dataclass(slots=True)
class DataState:
    """What the present data plane has said. ``replay``: stored versions that it still has to take."""

    loop: str = ""
    ready: bool = False
    serving: int = 0
    replay: list[Stored] = field(default_factory=list)


class Holder:
    """All state of the process."""

    def __init__(self, options: Options, uid: int, gid: int) -> None:
        self.options = options
        self._uid, self._gid = uid, gid
        self.workers = options.workers or len(os.sched_getaffinity(0))
        self.store = ImageStore()
        self.listeners: dict[int, OpenListener] = {}
        self._selector = selectors.DefaultSelector()
        self._heartbeat: int | None = None
        self._heartbeat_page: mmap.mmap | None = None
        self._drain_until: float | None = None
        self._exit_status: int | None = None
        self._lane_first = self.workers  # toggled before each start: the first one gets lane 0
        self._data = DataState()
        self._complained = False
        self._started = time.monotonic()
        grace_ms = int(options.grace_period * 1000)
        self._grace_ms = grace_ms
        self.controller = Child("controller", "edge.controller", options.to_environment())
        self.data_plane = Child("data plane", "edge.dataplane", {})

    # ---- start ---------------------------------------------------------------------------

    def start(self) -> None:
        """Take lock, memory, sockets and log; drop what is not needed. Errors: HolderError."""
        options = self.options
        self._lock = take_lock(options.instance_run_dir)
        if options.xdp != "off" and os.geteuid() == 0:
            reason = privileges.mount_bpffs()
            if reason:
                say(reason)
        privileges.raise_limits()
        self.commit_page = CommitPage()
        self._statistics = make_statistics_memory()
        self._admin = sockets.open_admin(*parse_address(options.admin, "--admin"))
        self._log = open_access_log(options.access_log)
        self._control = ControlSocket(
            sockets.open_control(options.instance_run_dir / "control.sock"), self.status
        )
        self._selector.register(self._control.listening, selectors.EVENT_READ, self._accept_control)
        self._watch_signals()
        privileges.keep_capabilities(privileges.HOLDER_KEEPS)

    def _watch_signals(self) -> None:
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, lambda _number, _frame: None)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._read_signals)

    # ---- loop ----------------------------------------------------------------------------

    def run(self) -> int:
        """Hold until told to stop, or until nothing can be done. Shape: the exit status."""
        try:
            while self._exit_status is None:
                self._start_due()
                for key, events in self._selector.select(self._timeout()):
                    key.data(events)
                self._stamp()
                self._check_drain()
            return self._exit_status
        finally:
            self._close()

    def _timeout(self) -> float:
        now = time.monotonic()
        moments = [
            child.start_at for child in (self.controller, self.data_plane) if child.start_at is not None
        ]
        if self._drain_until is not None:
            moments = [self._drain_until]
        if self._heartbeat_page is not None:
            moments.append(now + HEARTBEAT_S)
        return max(min([moment - now for moment in moments], default=60.0), 0.0)

    def _start_due(self) -> None:
        if self._drain_until is not None:
            return
        now = time.monotonic()
        if self.data_plane.start_at is not None and self.data_plane.start_at <= now:
            self._start_data_plane()
        if self.controller.start_at is not None and self.controller.start_at <= now:
            self._start_controller()

    def _watch(self, channel: Channel, read: Callable[[], None]) -> None:
        def ready(events: int) -> None:
            if events & selectors.EVENT_WRITE:
                channel.flush()
            if events & selectors.EVENT_READ:
                read()
            self._adjust(channel)

        self._selector.register(channel, selectors.EVENT_READ, ready)

    def _adjust(self, channel: Channel | None) -> None:
        """Ask for writability only while messages wait."""
        if channel is None or channel.closed:
            return
        key = self._selector.get_key(channel)
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.waiting else 0)
        if key.events != wanted:
            self._selector.modify(channel, wanted, key.data)

    def _send(self, child: Child, verb: str, descriptors: tuple[int, ...] = (), **fields: object) -> None:
        channel = child.channel
        if channel is None or channel.closed:
            return
        try:
            channel.send(verb, descriptors, **fields)
        except BrokenPipeError:
            say(f"the {child.name} (pid {child.pid}) has stopped reading its messages: replaced")
            child.kill(signal.SIGKILL)
            return
        self._adjust(channel)

    def _forget(self, channel: Channel | None) -> None:
        if channel is not None and not channel.closed:
            with contextlib.suppress(KeyError):
                self._selector.unregister(channel)

    # ---- signals and deaths --------------------------------------------------------------

    def _read_signals(self, _events: int) -> None:
        numbers = set(os.read(self._wake_read, 512))
        if signal.SIGCHLD in numbers:
            self._reap()
        if numbers & {signal.SIGHUP, signal.SIGUSR1}:
            self._reopen_log()
        if signal.SIGHUP in numbers:
            self._send(self.controller, "reread")
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            self._begin_drain()

    def _reap(self) -> None:
        """Wait for all dead children; as PID 1, for orphans too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.data_plane.pid:
                self._data_plane_died(status)
            elif pid == self.controller.pid:
                self._controller_died(status)

    def _data_plane_died(self, status: int) -> None:
        pid = self.data_plane.pid
        self._read_data_plane()  # what it said before it died
        self._forget(self.data_plane.channel)
        wait = self.data_plane.died()
        blamed = 0 if self._data.replay[1:] else self.store.count_death()
        self._data = DataState()
        self._send(self.controller, "data", state="down", pid=pid)
        if blamed:
            self._send(self.controller, "refused", version=blamed, reason="the data plane died of it, twice")
        if self._drain_until is not None:
            return
        say(f"data plane {pid} ended ({describe_status(status)}), starting another in {wait:.1f} s")
        self._start_due()

    def _controller_died(self, status: int) -> None:
        pid = self.controller.pid
        hopeless = os.WIFEXITED(status) and os.WEXITSTATUS(status) == EXIT_HOPELESS
        self._read_controller()
        self._forget(self.controller.channel)
        wait = self.controller.died()
        if self._drain_until is not None:
            return
        if hopeless and not self.store.committed:
            self._exit_status = 2  # it has said why
            return
        say(f"controller {pid} ended ({describe_status(status)}), starting another in {wait:.1f} s")
        self._start_due()

    def _reopen_log(self) -> None:
        try:
            fresh = open_access_log(self.options.access_log)
        except HolderError as error:
            say(f"{error}; the old file stays open")
            return
        if fresh is None:
            return
        old, self._log = self._log, fresh
        self._send(self.data_plane, "log", (fresh,))
        if old is not None:
            os.close(old)

    # ---- data plane ----------------------------------------------------------------------

    def _start_data_plane(self) -> None:
        self._lane_first = 0 if self._lane_first else self.workers
        self._data = DataState()
        channel = self.data_plane.start()
        self._watch(channel, self._read_data_plane)
        descriptors = [self._statistics, self.commit_page.descriptor]
        if self._log is not None:
            descriptors.append(self._log)
        self._send(
            self.data_plane,
            "setup",
            tuple(descriptors),
            loop=self.options.loop,
            workers=self.workers,
            lane_first=self._lane_first,
            uid=self._uid,
            gid=self._gid,
            grace_ms=self._grace_ms,
            log=int(self._log is not None),
            log_format=int(self.options.log_format == "json"),
        )
        for listener in self.listeners.values():
            self._send_listener(self.data_plane, "listen", listener)
        if self._heartbeat is not None:
            self._send(self.data_plane, "heartbeat", (self._heartbeat,))
        self._data.replay = self.store.all()
        self._replay_next()

    def _replay_next(self) -> None:
        """Send the next stored version; a patch can only be prepared on its committed base."""
        if self._data.replay:
            stored = self._data.replay[0]
            self._send(self.data_plane, "image", stored.descriptors, version=stored.version, kind=stored.kind)

    def _send_listener(self, child: Child, verb: str, listener: OpenListener, **fields: object) -> None:
        """Send a listener's sockets, in as many messages as its descriptors need."""
        numbers = [member.fileno() for member in listener.members]
        for first in range(0, len(numbers), DESCRIPTORS_MAX):
            part = tuple(numbers[first : first + DESCRIPTORS_MAX])
            self._send(child, verb, part, slot=listener.slot, first_member=first, **fields)

    def _read_data_plane(self) -> None:
        channel = self.data_plane.channel
        for _ in range(MESSAGES_A_TURN):
            if channel is None or channel.closed:
                return
            try:
                message = channel.receive()
            except BlockingIOError:
                return
            if message is None:
                # Its death comes as SIGCHLD; until then there is nothing to read.
                self._forget(channel)
                channel.close()
                return
            message.close()  # it has no descriptor to give
            self._hear_data_plane(message)

    def _hear_data_plane(self, message: Message) -> None:
        """Act on one message of the data plane: known verbs, versions that we gave it, nothing else."""
        version = message.number("version", -1)
        match message.verb:
            case "ready":
                loop = message.fields.get("loop", "")
                if loop in ("uring", "epoll") and not self._data.ready:
                    self._data.ready, self._data.loop = True, loop
                    seal_size(self._statistics)
                    self._tell_data_state()
            case "prepared" if self.store.knows(version):
                self._prepared(version)
            case "refused" if self.store.knows(version):
                self._refused(version, message)
            case "serving" if 0 < version <= self.store.committed:
                self._data.serving = version
                self._send(self.controller, "serving", version=version)
            case "drained":
                pass  # its exit follows
            case _:
                if not self._complained:
                    self._complained = True
                    say(f"the data plane said {message.verb[:32]!r} out of turn: ignored, as all like it")

    def _prepared(self, version: int) -> None:
        replay = self._data.replay
        if replay and replay[0].version == version:
            replay.pop(0)
            if version <= self.store.committed:
                self._send(self.data_plane, "commit", version=version)
            self._replay_next()
        if self.store.staged and self.store.staged.version == version:
            self._send(self.controller, "prepared", version=version)

    def _refused(self, version: int, message: Message) -> None:
        self._data.replay = [one for one in self._data.replay if one.version < version]
        self.store.drop(version)
        self._send(
            self.controller,
            "refused",
            version=version,
            code=message.number("code"),
            section=message.number("section"),
            index=message.number("index"),
            field=message.fields.get("field", "")[:32],
            reason=message.fields.get("reason", "")[:200],
        )

    def _tell_data_state(self) -> None:
        state = "up" if self._data.ready else "down"
        self._send(self.controller, "data", state=state, pid=self.data_plane.pid, loop=self._data.loop)

    # ---- controller ----------------------------------------------------------------------

    def _start_controller(self) -> None:
        channel = self.controller.start()
        self._watch(channel, self._read_controller)
        child = self.controller
        self._send(
            child,
            "setup",
            (self._admin.fileno(), self._statistics, self.commit_page.descriptor),
            data="up" if self._data.ready else "down",
            pid=self.data_plane.pid,
            loop=self._data.loop,
            committed=self.store.committed,
            staged=self.store.staged.version if self.store.staged else 0,
            serving=self._data.serving,
            workers=self.workers,
            restarts=self.data_plane.restarts,
            starts=child.starts,
        )
        for listener in self.listeners.values():
            self._send_listener(child, "listening", listener, address=listener.address, port=listener.port)
        for stored in self.store.all():
            self._send(child, "image", stored.descriptors, version=stored.version, kind=stored.kind)
        if self.store.slots is not None:
            self._send(child, "slots", (self.store.slots,))
        self._send(child, "begin")

    def _read_controller(self) -> None:
        channel = self.controller.channel
        for _ in range(MESSAGES_A_TURN):
            if channel is None or channel.closed:
                return
            try:
                message = channel.receive()
            except BlockingIOError:
                return
            if message is None:
                self._forget(channel)
                channel.close()
                return
            if not self._hear_controller(message):
                message.close()

    def _hear_controller(self, message: Message) -> bool:
        """Act on one message of the controller. Shape: True when its descriptors were kept."""
        version = message.number("version")
        match message.verb:
            case "listen":
                self._listen(message)
            case "unlisten":
                self._unlisten(message.number("slot", -1))
            case "image":
                return self._store_image(version, message)
            case "commit":
                self._commit(version)
            case "slots" if len(message.descriptors) == 1:
                self.store.keep_slots(message.descriptors[0])
                return True
            case "heartbeat" if len(message.descriptors) == 1:
                self._take_heartbeat(message.descriptors[0])
                return True
            case _:
                say(f"the controller said {message.verb[:32]!r}, which is no verb of this version")
        return False

    def _listen(self, message: Message) -> None:
        slot, port = message.number("slot", -1), message.number("port", -1)
        address = message.fields.get("address", "")
        known = self.listeners.get(slot)
        if known:
            self._send_listener(self.controller, "listening", known, address=known.address, port=known.port)
            return
        try:
            if not 0 <= slot < LISTENERS_MAX:
                raise HolderError(f"listener slot {slot} is out of range")
            members = sockets.open_members(address, port, self.workers)
        except HolderError as error:
            self._send(self.controller, "failed", slot=slot, reason=error)
            return
        listener = OpenListener(slot, address, members[0].getsockname()[1], members)
        self.listeners[slot] = listener
        self._send_listener(self.data_plane, "listen", listener)
        self._send_listener(self.controller, "listening", listener, address=address, port=listener.port)

    def _unlisten(self, slot: int) -> None:
        listener = self.listeners.pop(slot, None)
        if listener:
            self._send(self.data_plane, "unlisten", slot=slot)
            for member in listener.members:
                member.close()

    def _store_image(self, version: int, message: Message) -> bool:
        kind = message.number("kind")
        wanted = {IMAGE_FULL: 2, IMAGE_PATCH: 1}.get(kind, -1)
        if len(message.descriptors) != wanted or version <= self.store.committed:
            reason = f"version {version} of kind {kind} cannot follow {self.store.committed}"
            self._send(self.controller, "refused", version=version, reason=reason)
            return False
        stored = Stored(version, kind, message.descriptors)
        self.store.stage(stored)
        if self._data.replay:
            # A fresh data plane takes what is stored first, then this.
            self._data.replay = [one for one in self._data.replay if one.version <= self.store.committed]
            self._data.replay.append(stored)
        else:
            self._send(self.data_plane, "image", stored.descriptors, version=version, kind=kind)
        return True

    def _commit(self, version: int) -> None:
        if not self.store.commit(version):
            say(f"the controller committed version {version}, which is not staged: ignored")
            return
        self.commit_page.write(version)
        # A data plane that has still to prepare it gets its commit after that (`_prepared`).
        if not any(one.version == version for one in self._data.replay):
            self._send(self.data_plane, "commit", version=version)

    def _take_heartbeat(self, descriptor: int) -> None:
        if self._heartbeat is not None:
            os.close(self._heartbeat)
        self._heartbeat = descriptor
        try:
            self._heartbeat_page = mmap.mmap(descriptor, mmap.PAGESIZE)
        except (OSError, ValueError) as error:
            say(f"the heartbeat page cannot be mapped: {error}")
            self._heartbeat_page = None
        self._stamp()
        self._send(self.data_plane, "heartbeat", (descriptor,))

    def _stamp(self) -> None:
        """Say to XDP that we live (struct edge_heartbeat.holder_ns); only with a data plane to hold for."""
        if self._heartbeat_page is not None and self.data_plane.pid:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            memoryview(self._heartbeat_page).cast("Q")[0] = now

    # ---- control socket ------------------------------------------------------------------

    def _accept_control(self, _events: int) -> None:
        channel = self._control.accept()
        if channel is None:
            return

        def read() -> None:
            key_known = channel.fileno() >= 0
            if key_known and not self._still_there(channel):
                return

        self._watch(channel, read)

    def _still_there(self, channel: Channel) -> bool:
        number = channel.fileno()
        if self._control.answer(channel):
            return True
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(number)
        return False

    def status(self) -> dict[str, object]:
        """Shape: the fields of the control socket's answer to `status`."""
        return {
            "instance": self.options.instance,
            "pid": os.getpid(),
            "uptime_s": int(time.monotonic() - self._started),
            "state": "draining" if self._drain_until is not None else "running",
            "data_pid": self.data_plane.pid,
            "data_state": "up" if self._data.ready else "down",
            "data_restarts": self.data_plane.restarts,
            "loop": self._data.loop,
            "workers": self.workers,
            "controller_pid": self.controller.pid,
            "controller_restarts": self.controller.restarts,
            "committed": self.store.committed,
            "staged": self.store.staged.version if self.store.staged else 0,
            "serving": self._data.serving,
            "admin": sockets.show(*self._admin.getsockname()[:2]),
            "listeners": ",".join(
                sockets.show(one.address, one.port) for _, one in sorted(self.listeners.items())
            ),
        }

    # ---- end -----------------------------------------------------------------------------

    def _begin_drain(self) -> None:
        if self._drain_until is not None:
            self._exit_status = 0  # asked twice: no more patience
            return
        self._drain_until = time.monotonic() + self.options.grace_period + KILL_AFTER_S
        self._send(self.controller, "drain", grace_ms=self._grace_ms)
        self._send(self.data_plane, "drain", grace_ms=self._grace_ms)
        # Our copies go; the data plane closes its own once their queues are served.
        for listener in self.listeners.values():
            for member in listener.members:
                member.close()
        self.listeners.clear()

    def _check_drain(self) -> None:
        if self._drain_until is None:
            return
        if not self.data_plane.pid:
            self._exit_status = 0
        elif time.monotonic() >= self._drain_until:
            say("the grace period is over: open exchanges are cut")
            self._exit_status = 0

    def _close(self) -> None:
        """End the children and remove what marks the instance as running."""
        for child in (self.data_plane, self.controller):
            self._forget(child.channel)
            with contextlib.suppress(ProcessLookupError):
                child.kill(signal.SIGTERM if child is self.controller else signal.SIGKILL)
        deadline = time.monotonic() + 1.0
        for child in (self.data_plane, self.controller):
            if child.pid:
                wait_or_kill(child.pid, deadline)
        self._control.close()
        with contextlib.suppress(OSError):
            (self.options.instance_run_dir / "control.sock").unlink()
        signal.set_wakeup_fd(-1)


def run(options: Options) -> int:
    """Be the holder of an instance until it stops. Errors: HolderError before anything was started."""
    privileges.name_process("edge-holder")
    privileges.close_on_exec_all()
    holder = Holder(options, *user_of(options))
    holder.start()
    return holder.run()
