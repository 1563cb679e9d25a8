"""The holder's side of the controller: one process, what it is told, what it may order.

Called by holder/main.py. The controller is believed (it makes the images), yet what it orders is checked as
far as numbers go. Never looks into an image.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Mapping

from edge.channel import Channel
from edge.errors import HolderError
from edge.holder import sockets
from edge.holder.children import Child, Program, clean_environment, is_traced
from edge.holder.chronicle import Chronicle
from edge.holder.data_planes import DataPlanes, Step
from edge.holder.log import say
from edge.holder.loop import Loop, Moment
from edge.holder.store import CommitPage, Heartbeat
from edge.holdings import IMAGE_FULL, IMAGE_PATCH, HeldChild, Holdings, Listener, Stored
from edge.messages import Message
from edge.options import Options

EXIT_HOPELESS = 78  # a controller's "it makes no sense to start me again" (EX_CONFIG of sysexits.h)
LISTENERS_MAX = 64  # EDGE_LISTENER_SLOTS
END_S = 2.0  # for a controller to end after SIGTERM
UPGRADE_PATIENCE_S = 30.0
SILENT_BEATS = 60  # 30 s of the holder's own: time in which it stood still itself does not count


class ControllerSide:
    """The controller of the instance, over all its lives."""

    def __init__(self, loop: Loop, holdings: Holdings, options: Options, page: CommitPage) -> None:
        self._loop, self._holdings, self._page = loop, holdings, page
        self.program = Program("controller", "edge.controller", options.to_environment())
        self.heartbeat = Heartbeat()
        self.chronicle = Chronicle(holdings, self.send)
        self.data: DataPlanes  # set by the holder: the two know each other
        self.child: Child | None = None
        self.stopping = False
        self.on_hopeless: Callable[[], None] = lambda: None
        self.on_changed: Callable[[], None] = lambda: None
        self._upgrade: ControllerUpgrade | None = None
        self._parked: dict[tuple[str, int], Listener] = {}  # of slots that other options have changed
        self._silent = -1  # beats since its last `alive`; -1: it has not said it yet, and is not watched
        self._settled = False  # one of ours has committed a version
        if holdings.heartbeat >= 0:
            self.heartbeat.map(holdings.heartbeat)

    @property
    def pid(self) -> int:
        """Return its process id, 0 when none lives."""
        return self.child.pid if self.child else 0

    # ---- start and end -------------------------------------------------------------------

    def start(self) -> None:
        """Start one and tell it all that is held, unless we stop."""
        if self.stopping or self.child is not None:
            return
        executable = self._upgrade.executable if self._upgrade else self.program.executable
        try:
            self.child = self.program.start(self._loop, executable)
        except OSError as error:
            say(f"a controller cannot be started: {error}")
            if self._upgrade:
                self._upgrade.fail(f"it cannot be started: {error.strerror}")
                return
            self._loop.after(self.program.wait_after(0), self.start)
            return
        self._silent = -1
        self.child.watch(self._hear, self._ended)
        self._introduce(self.child)
        self.on_changed()

    def _introduce(self, child: Child) -> None:
        holdings, store = self._holdings, self._holdings.store
        data = self.data.describe()
        child.send(
            "setup",
            (),
            data=data["state"],
            pid=data["pid"],
            loop=data["loop"],
            committed=store.committed,
            staged=store.staged.version if store.staged else 0,
            serving=self.data.serving,
            workers=holdings.workers,
            restarts=holdings.counts["data_restarts"],
            starts=holdings.counts["controller_restarts"] + 1,
            settled=int(self._settled),
        )
        holdings.tell(child.send, [one.held() for one in self.data.everyone()])
        child.send("begin")

    def held(self) -> HeldChild | None:
        """Shape: what another holder needs of it; the descriptors stay ours."""
        child = self.child
        if child is None:
            return None
        return HeldChild(
            "controller", child.pid, child.channel.fileno(), child.pidfd, executable=child.executable
        )

    def take(self, held: HeldChild) -> None:
        """Go on with one that another holder had."""
        channel = Channel.of(held.channel)
        self.child = Child(self._loop, "controller", held.pid, held.pidfd, channel, held.executable)
        self.program.executable = held.executable or self.program.executable
        self._settled = bool(self._holdings.store.committed)
        self.child.watch(self._hear, self._ended)

    def _ended(self) -> None:
        child, self.child = self.child, None
        self.on_changed()
        if child is None or self.stopping:
            return
        if self._upgrade:
            self._upgrade.ended(child)
            return
        wait = self.program.wait_after(child.age)
        if child.status == EXIT_HOPELESS and not self._holdings.store.committed:
            self.on_hopeless()  # it has said why
            return
        self.chronicle.count("controller_restarts")
        self.chronicle.note(
            "controller",
            f"controller {child.pid} ended ({child.describe_end()}), starting another in {wait:.1f} s",
        )
        if wait:
            self._loop.after(wait, self.start)
        else:
            self.start()

    def end_and(self, then: Callable[[], None]) -> None:
        """End it, for good or for another one, and go on when it has ended."""
        child = self.child
        if child is None:
            then()
            return

        def ended() -> None:
            late.cancel()
            self.child = None
            self.on_changed()
            then()

        late = self._loop.after(END_S, lambda: child.kill(signal.SIGKILL))
        child.on_end(ended)
        child.kill(signal.SIGTERM)

    def upgrade(self, executable: str, step: Step, environment: Mapping[str, str] | None = None) -> None:
        """Replace it by one of this executable, and of other options. Errors: HolderError."""
        if self._upgrade is not None:
            raise HolderError("an upgrade of the controller is under way")
        self._upgrade = ControllerUpgrade(self, executable, step, environment)
        self._upgrade.begin()

    @property
    def upgrading(self) -> bool:
        """Say whether it is being replaced."""
        return self._upgrade is not None

    def end_upgrade(self) -> None:
        """Allow another upgrade."""
        self._upgrade = None

    def later(self, seconds: float, call: Callable[[], None]) -> Moment:
        """Call something later, by the holder's loop."""
        return self._loop.after(seconds, call)

    def send(self, verb: str, descriptors: tuple[int, ...] = (), **fields: object) -> None:
        """Tell it something, if it lives."""
        if self.child:
            self.child.send(verb, descriptors, **fields)

    def watch(self) -> None:
        """Kill one that has stood still for long, unless a debugger holds it; called at each beat."""
        child = self.child
        if child is None:
            return
        child.read()  # we may have been stopped ourselves, and what it said waits
        if self._silent < 0:
            return
        self._silent += 1
        if self._silent < SILENT_BEATS or is_traced(child.pid):
            return
        self._silent = -1
        self.chronicle.count("watchdog_kills")
        self.chronicle.note("watchdog", f"controller {child.pid} is killed: it stands still")
        child.kill(signal.SIGKILL)

    # ---- what it orders ------------------------------------------------------------------

    def _hear(self, message: Message) -> bool:
        """Act on one message. Shape: True when its descriptors were kept."""
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
            case "alive":
                self._silent = 0
            case "slots" if len(message.descriptors) == 1:
                self._holdings.store.keep_slots(message.descriptors[0])
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
        listener = self._holdings.listeners.get(slot)
        if listener is None or (listener.address, listener.port) != (address, port):
            try:
                if not 0 <= slot < LISTENERS_MAX:
                    raise HolderError(f"listener slot {slot} is out of range")
                members = self._sockets_of(address, port)
            except HolderError as error:
                self.send("failed", slot=slot, reason=error)
                return
            self._park(slot)
            with socket.socket(fileno=os.dup(members[0])) as one:
                port = one.getsockname()[1]
            listener = Listener(slot, address, port, members)
            self._holdings.listeners[slot] = listener
            self.data.listen(listener)
            self.on_changed()
        listener.tell(self.send, "listening")

    def _sockets_of(self, address: str, port: int) -> list[int]:
        """Return the members of an address: those we have, under whatever slot, or fresh ones.

        Errors: HolderError.
        """
        for slot, listener in self._holdings.listeners.items():
            if (listener.address, listener.port) == (address, port):
                self._park(slot)
                break
        parked = self._parked.pop((address, port), None)
        if parked is not None:
            return parked.members
        opened = sockets.open_members(address, port, self._holdings.workers)
        return [member.detach() for member in opened]

    def _park(self, slot: int) -> None:
        """Take a listener out of its slot; its sockets stay open until the next commit."""
        listener = self._holdings.listeners.pop(slot, None)
        if listener:
            self.data.send("unlisten", slot=slot)
            self._parked[listener.address, listener.port] = listener

    def _unlisten(self, slot: int) -> None:
        listener = self._holdings.listeners.pop(slot, None)
        if listener:
            self.data.send("unlisten", slot=slot)
            listener.close()
            self.on_changed()

    def _store_image(self, version: int, message: Message) -> bool:
        kind = message.number("kind")
        committed = self._holdings.store.committed
        wanted = {IMAGE_FULL: 2, IMAGE_PATCH: 1}.get(kind, -1)
        if len(message.descriptors) != wanted or version <= committed:
            reason = f"version {version} of kind {kind} cannot follow {committed}"
            self.send("refused", version=version, reason=reason)
            return False
        stored = Stored(version, kind, message.descriptors)
        self._holdings.store.stage(stored)
        self.data.stage(stored)
        return True

    def _commit(self, version: int) -> None:
        if not self._holdings.store.commit(version):
            say(f"the controller committed version {version}, which is not staged: ignored")
            return
        while self._parked:
            self._parked.popitem()[1].close()
        self._page.write(version)
        self._settled = True
        self.data.commit(version)
        if self._upgrade:
            self._upgrade.committed(version)

    def _take_heartbeat(self, descriptor: int) -> None:
        self._holdings.replace("heartbeat", descriptor)
        self.heartbeat.map(descriptor)
        self.stamp()
        self.data.send("heartbeat", (descriptor,))

    def stamp(self) -> None:
        """Say to XDP that we live, for a data plane that did a moment ago: we bridge its restart, no more."""
        if self.data.lively:
            self.heartbeat.stamp()


class ControllerUpgrade:
    """One upgrade: the old one ends, a new one publishes; if it does not, the old executable comes back.

    Meanwhile all is as for a dead controller.
    """

    def __init__(
        self, side: ControllerSide, executable: str, step: Step, environment: Mapping[str, str] | None
    ) -> None:
        self.executable = executable
        self._side, self._step = side, step
        self._old_environment = side.program.environment
        self._environment = clean_environment(environment) if environment else side.program.environment
        self._fresh: Child | None = None
        self._deadline: Moment | None = None

    def begin(self) -> None:
        """End the old one, start the new one."""
        self._step("starting", f"pid {self._side.pid} ends")
        self._side.end_and(self._start)

    def _start(self) -> None:
        self._side.program.environment = self._environment
        self._deadline = self._side.later(
            UPGRADE_PATIENCE_S, lambda: self.fail(f"it has published nothing in {UPGRADE_PATIENCE_S:.0f} s")
        )
        self._side.start()
        self._fresh = self._side.child

    def committed(self, version: int) -> None:
        """Note that the new one has published."""
        if self._fresh is None or self._side.child is not self._fresh:
            return
        if self._deadline:
            self._deadline.cancel()
        self._side.program.executable = self.executable
        self._side.end_upgrade()
        text = f"pid {self._side.pid} has published version {version}"
        self._side.chronicle.count("upgrades")
        self._side.chronicle.note("upgrade", f"controller upgraded: {text}")
        self._step("done", text)

    def ended(self, child: Child) -> None:
        """Note that the new one has ended: by itself, or because it was given up."""
        self.fail(f"it ended: {child.describe_end()}")

    def fail(self, reason: str) -> None:
        """Start the old executable again."""
        if self._deadline:
            self._deadline.cancel()
        self._side.program.environment = self._old_environment
        self._side.end_upgrade()
        self._side.end_and(self._side.start)
        self._side.chronicle.note("upgrade", f"controller not upgraded: {reason}")
        self._step("failed", reason)
