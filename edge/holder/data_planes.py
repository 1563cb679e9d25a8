"""All data planes of the instance: the one that serves, one that comes, those that leave.

Called by holder/main.py and by the holder's side of the controller. What dies is replaced on the dead one's
lanes; an upgrade is a second process on the other half of the lanes, and the first is told to drain when it
serves (design note 0005). Never looks into an image.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable

from edge.errors import HolderError
from edge.holder.children import Program
from edge.holder.chronicle import Chronicle
from edge.holder.data_plane import SILENT_S, DataPlane, Setup
from edge.holder.log import say
from edge.holder.loop import Loop, Moment
from edge.holder.store import seal_size
from edge.holdings import HeldChild, Holdings, Listener, Stored
from edge.messages import Message

UPGRADE_PATIENCE_S = 10.0
KILL_AFTER_S = 2.0  # beyond the grace period

Tell = Callable[..., None]  # a message to the controller: verb, descriptors, fields
Step = Callable[[str, str], None]  # state and text of an upgrade


class DataPlanes:
    """Owner of every DataPlane."""

    def __init__(
        self, loop: Loop, holdings: Holdings, setup: Setup, chronicle: Chronicle, tell: Tell
    ) -> None:
        self._loop, self._holdings, self._chronicle, self._tell = loop, holdings, chronicle, tell
        self.setup = setup
        self.program = Program("data plane", "edge.dataplane", {})
        self.current: DataPlane | None = None
        self.coming: DataPlane | None = None
        self.leaving: list[DataPlane] = []
        self.stopping = False  # what dies is not replaced any more
        self._heard_at = -math.inf
        self.on_ended: Callable[[], None] = lambda: None
        self.on_progress: Callable[[DataPlane], None] = lambda _one: None
        self.on_serving: Callable[[int], None] = lambda _version: None
        self.on_changed: Callable[[], None] = lambda: None  # another set of processes
        self.foreign: set[int] = set()  # first lanes of data planes that another holder has
        self._last_half = 0
        self._complaint = ""
        self._upgrade: DataUpgrade | None = None

    def everyone(self) -> list[DataPlane]:
        """Shape: all that live, the one that serves first."""
        return [one for one in (self.current, self.coming, *self.leaving) if one is not None]

    def describe(self) -> dict[str, object]:
        """Shape: state, pid and loop of the one that serves."""
        one = self.current
        if one is None:
            return {"state": "down", "pid": 0, "loop": ""}
        return {"state": "up" if one.ready else "down", "pid": one.pid, "loop": one.loop}

    @property
    def serving(self) -> int:
        """Return the oldest version that a worker may still read, of the one that serves and who leaves."""
        if self.current is None:
            return 0
        leaving = [one.serving for one in self.leaving if one.serving]
        return min([self.current.serving, *leaving])

    # ---- start and end -------------------------------------------------------------------

    def start(self) -> None:
        """Start the one that serves, unless there is one, or we stop."""
        if self.stopping or self.current is not None:
            return
        self.current = self._begin(self.program.executable)
        if self.current is None:
            self._loop.after(self.program.wait_after(0), self.start)

    def _begin(self, executable: str) -> DataPlane | None:
        half = self._free_half()
        try:
            if half is None:
                raise OSError("both halves of the lanes are in use")
            child = self.program.start(self._loop, executable)
        except OSError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                say(f"a data plane cannot be started: {error}")
            return None
        self._complaint = ""
        one = DataPlane(child, half, self._holdings, self)
        one.begin()
        one.introduce(self.setup)
        self._loop.after(0, self.on_changed)
        one.held().tell(self._tell)
        return one

    def _free_half(self) -> int | None:
        """Return the first lane of a half that nobody writes, the one that was free last if both are."""
        used = self.foreign | {one.lane_first for one in self.everyone()}
        halves = (self._last_half, self._holdings.workers - self._last_half)
        return next((half for half in halves if half not in used), None)

    def take(self, held: HeldChild) -> None:
        """Go on with one that another holder had."""
        one = DataPlane.of(held, self._loop, self._holdings, self)
        if one.orphan:  # told to drain when another serves
            one.leaving = True
            self.leaving.append(one)
            self._loop.after(0, self._look_at_orphans)
        elif one.leaving:
            self.leaving.append(one)
            self._cut_later(one)
        else:
            if self.current is not None:  # an upgrade was under way: the newer of the two serves, too
                older = self.current
                self.leaving.append(older)
                self._loop.after(0, lambda: self.leave(older, idle_ms=self.setup.grace_ms))
            self.current = one
            self.program.executable = held.executable or self.program.executable
        one.begin()

    def lives(self, one: DataPlane) -> None:
        """Remember when one that serves, or will, was last alive; over its death and that of others."""
        if not one.leaving:
            self._heard_at = time.monotonic()

    @property
    def lively(self) -> bool:
        """Say whether one was alive a moment ago."""
        return time.monotonic() - self._heard_at < SILENT_S

    def say_again(self) -> None:
        """Send what a dead holder may not have sent any more; whoever has it already, prepares it again."""
        for one in self.everyone():
            one.owe(one.owed)

    def has_ended(self, one: DataPlane) -> None:
        """Replace it, if it is the one that serves."""
        self._last_half = one.lane_first
        if one is self.current:
            self._current_ended(one)
        elif one is self.coming:
            self.coming = None
            self._tell("data", (), state="left", pid=one.pid)
            if self._upgrade:
                self._upgrade.fail(f"it ended: {one.child.describe_end()}")
        else:
            self.leaving.remove(one)
            self._tell("data", (), state="left", pid=one.pid)
            self._tell_serving()
            if self._upgrade:
                self._upgrade.left(one)
        self.on_changed()
        self.on_ended()

    def _current_ended(self, one: DataPlane) -> None:
        store = self._holdings.store
        blamed = 0 if len(one.owed) > 1 else store.count_death()  # it was busy with an older version
        self.current, self.coming = self.coming, None
        self._tell("data", (), state="down", pid=one.pid)
        if blamed:
            self._tell("refused", (), version=blamed, reason="the data plane died of it, twice")
        if self.stopping:
            return
        self._chronicle.count("data_restarts")
        end = one.child.describe_end()
        if self.current is not None:  # the one that was to replace it anyway
            self._chronicle.note("data", f"data plane {one.pid} ended ({end}), {self.current.pid} follows it")
            if self.current.ready:
                self._tell("data", (), **self.describe())
            return
        if self._upgrade:
            self._upgrade.fail(f"it ended: {end}")
        wait = self.program.wait_after(one.child.age)
        self._chronicle.note("data", f"data plane {one.pid} ended ({end}), starting another in {wait:.1f} s")
        if wait:
            self._loop.after(wait, self.start)
        else:
            self.start()

    def leave(self, one: DataPlane, idle_ms: int) -> None:
        """Tell one to drain; it is cut when the grace period is over."""
        one.leaving = True
        one.held().tell(self._tell)
        one.child.send("drain", grace_ms=self.setup.grace_ms, idle_ms=idle_ms)
        self._cut_later(one)

    def _cut_later(self, one: DataPlane) -> None:
        self._loop.after(self.setup.grace_ms / 1000 + KILL_AFTER_S, lambda: self._cut(one))

    def _cut(self, one: DataPlane) -> None:
        if one in self.everyone():
            say(f"the grace period of data plane {one.pid} is over: open exchanges are cut")
            one.child.kill(signal.SIGKILL)

    def watch(self) -> None:
        """Kill what is stuck; called once in a while."""
        for one in self.everyone():
            one.child.read()  # we may have been stopped ourselves, and what it said waits
            reason = one.stuck()
            if reason:
                self._chronicle.count("watchdog_kills")
                self._chronicle.note("watchdog", f"data plane {one.pid} is killed: {reason}")
                one.child.kill(signal.SIGKILL)

    # ---- upgrade -------------------------------------------------------------------------

    @property
    def upgrading(self) -> bool:
        """Say whether one is being replaced."""
        return self._upgrade is not None

    def upgrade(self, executable: str, step: Step) -> None:
        """Replace the one that serves by a process of this executable. Errors: HolderError."""
        if self._upgrade is not None:
            raise HolderError("an upgrade of the data plane is under way")
        if self.current is None or not self.current.ready:
            raise HolderError("there is no data plane up that could be upgraded")
        self._upgrade = DataUpgrade(self, executable, step)
        self._upgrade.try_start()

    # ---- what they are told --------------------------------------------------------------

    def send(self, verb: str, descriptors: tuple[int, ...] = (), **fields: object) -> None:
        """Say something to all that live."""
        for one in self.everyone():
            one.child.send(verb, descriptors, **fields)

    def listen(self, listener: Listener) -> None:
        """Give them the sockets of a new listener."""
        for one in self.everyone():
            if not one.leaving:
                listener.tell(one.child.send, "listen")

    def stage(self, stored: Stored) -> None:
        """Give them a version to prepare."""
        for one in self.everyone():
            one.stage(stored)

    def commit(self, version: int) -> None:
        """Make a version the running one."""
        for one in self.everyone():
            one.commit(version)

    # ---- what they say -------------------------------------------------------------------

    def is_ready(self, one: DataPlane) -> None:
        """Tell the controller, if it is the one that serves."""
        seal_size(self._holdings.statistics)
        if one is self.current:
            self._tell("data", (), **self.describe())
        self._look()

    def has_prepared(self, one: DataPlane, version: int) -> None:
        """Relay the answer of the one that serves."""
        staged = self._holdings.store.staged
        if one is self.current and staged and staged.version == version:
            self._tell("prepared", (), version=version)
        self._look()

    def has_refused(self, one: DataPlane, version: int, message: Message) -> None:
        """Relay the answer of the one that serves; who comes must take what runs."""
        reason = message.fields.get("reason", "")[:200]
        if one is self.coming and self._upgrade:
            self._upgrade.fail(f"it refused version {version}: {reason}")
        if one is not self.current:
            return
        self._holdings.store.drop(version)
        self._tell(
            "refused",
            (),
            version=version,
            code=message.number("code"),
            section=message.number("section"),
            index=message.number("index"),
            field=message.fields.get("field", "")[:32],
            reason=reason,
        )

    def serves(self, one: DataPlane) -> None:
        """Relay what no worker reads any more."""
        if one is not self.coming:
            self._tell_serving()
        self._look_at_orphans()
        self._look()

    def _look_at_orphans(self) -> None:
        """Let those go that serve by themselves, when another serves."""
        if self.current and 0 < self.current.serving == self._holdings.store.committed:
            self.dismiss_orphans()

    def dismiss_orphans(self) -> None:
        """Tell them to drain: SIGTERM is the one thing that can be said to them."""
        for one in self.leaving:
            if one.orphan:
                one.orphan = False
                one.held().tell(self._tell)
                one.child.kill(signal.SIGTERM)
                self._cut_later(one)

    def _tell_serving(self) -> None:
        if self.serving:
            self._tell("serving", (), version=self.serving)
            self.on_serving(self.serving)

    def progresses(self, one: DataPlane) -> None:
        """Show how far a drain is."""
        self.on_progress(one)

    def _look(self) -> None:
        """Switch, when the one that comes serves what runs."""
        if self._upgrade:
            self._upgrade.look()

    def switch(self) -> DataPlane | None:
        """Make the one that comes the one that serves. Shape: the other one, which is told to drain."""
        old, self.current, self.coming = self.current, self.coming, None
        if old is not None:
            self.leaving.append(old)
            self.leave(old, idle_ms=self.setup.grace_ms)
        self._tell("data", (), **self.describe())
        self._tell_serving()
        staged = self._holdings.store.staged
        if staged and self.current and not self.current.owed:
            self._tell("prepared", (), version=staged.version)  # twice said is no harm
        self.on_changed()
        return old

    def begin_coming(self, executable: str) -> bool:
        """Start a second one beside the one that serves."""
        self.coming = self._begin(executable)
        return self.coming is not None

    def give_up_coming(self) -> None:
        """Kill the second one; the first goes on. Where the first has died, another of it is started."""
        one, self.coming = self.coming, None
        if one is not None:
            self.leaving.append(one)
            one.leaving = True
        elif self.current is not None and self.current.child.executable != self.program.executable:
            one = self.current
        if one is not None:
            one.child.kill(signal.SIGKILL)

    def end_upgrade(self) -> None:
        """Allow another upgrade."""
        self._upgrade = None

    def later(self, seconds: float, call: Callable[[], None]) -> Moment:
        """Call something later, by the holder's loop."""
        return self._loop.after(seconds, call)

    @property
    def committed(self) -> int:
        """Return the running version."""
        return self._holdings.store.committed

    def count_upgrade(self, text: str) -> None:
        """Note an upgrade that has worked."""
        self._chronicle.count("upgrades")
        self._chronicle.note("upgrade", text)


class DataUpgrade:
    """One upgrade: starting, ready, draining, then done or failed. Whoever asked may be gone meanwhile."""

    def __init__(self, data: DataPlanes, executable: str, step: Step) -> None:
        self._data, self._executable, self._step = data, executable, step
        self._old: DataPlane | None = None
        self._began = False
        self._switched = False
        self._deadline: Moment | None = None

    def try_start(self) -> None:
        """Start the second process, once the lanes of an older one are free."""
        if self._data.leaving:
            pids = ", ".join(str(one.pid) for one in self._data.leaving)
            self._step("starting", f"waits until data plane {pids} has drained")
            return
        self._began = True
        self._deadline = self._data.later(
            UPGRADE_PATIENCE_S, lambda: self.fail(f"it does not serve after {UPGRADE_PATIENCE_S:.0f} s")
        )
        if not self._data.begin_coming(self._executable):
            self.fail("it cannot be started")
        elif self._data.coming:
            self._step("starting", f"pid {self._data.coming.pid}")

    def look(self) -> None:
        """See whether the fresh one serves what runs."""
        fresh = self._data.coming or self._data.current
        if not self._began or self._switched or fresh is None or fresh.owed or not fresh.ready:
            return
        if fresh.serving != self._data.committed or fresh.child.executable != self._executable:
            return
        self._switched = True
        if self._deadline:
            self._deadline.cancel()
        self._data.program.executable = self._executable
        self._step("ready", f"pid {fresh.pid} serves version {fresh.serving}")
        if self._data.coming is None:  # the old one has died meanwhile
            self._finish(f"pid {fresh.pid}")
            return
        self._old = self._data.switch()
        if self._old:
            self._step("draining", f"pid {self._old.pid} finishes what it has")

    def left(self, one: DataPlane) -> None:
        """Note that one has ended that was to end."""
        if one is self._old:
            fresh = self._data.current
            self._finish(f"pid {fresh.pid} serves, {one.pid} has left" if fresh else f"{one.pid} has left")
        elif not self._began and not self._data.leaving:
            self.try_start()

    def _finish(self, text: str) -> None:
        self._data.end_upgrade()
        self._data.count_upgrade(f"data plane upgraded: {text}")
        self._step("done", text)

    def fail(self, reason: str) -> None:
        """Leave everything as it was."""
        if self._switched:
            return
        if self._deadline:
            self._deadline.cancel()
        self._data.end_upgrade()
        self._data.give_up_coming()
        self._step("failed", reason)
