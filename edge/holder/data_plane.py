"""One data plane process as the holder sees it: what it is told, what it has said, whether it is stuck.

Made and heard by holder/data_planes.py. Nothing that a data plane says is trusted: known verbs, versions
that we gave it, nothing else. A fresh one gets all that is stored; the controller takes no part in that.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edge.channel import Channel
from edge.holder.children import Child
from edge.holder.log import say
from edge.holder.loop import Loop
from edge.holdings import HeldChild, Holdings, Stored
from edge.messages import Message

SILENT_S = 10.0  # a data plane that was heard of and is silent for so long is killed
STALLED_S = 10.0  # and one that says for so long that a worker does not come round


@dataclass(frozen=True, slots=True)
class Setup:
    """What is the same for every data plane of the instance.

    Units: milliseconds for grace_ms. Shape: ``commit_page`` is a descriptor that can only be read.
    """

    commit_page: int
    loop: str
    uid: int
    gid: int
    grace_ms: int
    log_format: str


class Owner(Protocol):
    """Who is told what a data plane said; edge/holder/data_planes.py."""

    def is_ready(self, one: DataPlane) -> None:
        """It has its threads."""

    def has_prepared(self, one: DataPlane, version: int) -> None:
        """It could commit this version now."""

    def has_refused(self, one: DataPlane, version: int, message: Message) -> None:
        """It cannot take this version."""

    def serves(self, one: DataPlane) -> None:
        """Every worker of it has passed ``one.serving``."""

    def lives(self, one: DataPlane) -> None:
        """It says that it is alive."""

    def progresses(self, one: DataPlane) -> None:
        """It drains, ``one.open`` exchanges and connections and ``one.tunnels`` are left."""

    def has_ended(self, one: DataPlane) -> None:
        """The process is gone."""


class DataPlane:
    """One process. ``owed``: stored versions that it has still to prepare, the first is on its way."""

    def __init__(self, child: Child, lane_first: int, holdings: Holdings, owner: Owner) -> None:
        self.child, self.lane_first = child, lane_first
        self.loop = ""
        self.ready = self.leaving = self.orphan = False
        self.serving = 0
        self.owed: list[Stored] = []
        self.open = self.tunnels = 0
        self._holdings, self._owner = holdings, owner
        self._complained = False
        self._heard_at = 0.0  # the last `alive`; 0: it has not said it yet, and is not watched
        self._stalled_at = 0.0

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self.child.pid

    def begin(self) -> None:
        """Hear it from now on."""
        self.child.watch(self._hear, lambda: self._owner.has_ended(self))

    # ---- changing hands ------------------------------------------------------------------

    def held(self) -> HeldChild:
        """Shape: what another holder needs of it; the descriptors stay ours."""
        return HeldChild(
            "data",
            self.pid,
            self.child.channel.fileno(),
            self.child.pidfd,
            self.lane_first,
            self.loop,
            self.ready,
            self.serving,
            self.leaving,
            self.child.executable,
            tuple(one.version for one in self.owed),
            self.orphan,
        )

    @classmethod
    def of(cls, held: HeldChild, loop: Loop, holdings: Holdings, owner: Owner) -> DataPlane:
        """Make one of what another holder had; owns the descriptors."""
        channel = Channel.of(held.channel)
        child = Child(loop, "data plane", held.pid, held.pidfd, channel, held.executable)
        one = cls(child, held.lane_first, holdings, owner)
        one.loop, one.ready, one.serving = held.loop, held.ready, held.serving
        one.leaving, one.orphan = held.leaving, held.orphan
        one.owed = [stored for stored in holdings.store.all() if stored.version in held.replay]
        return one

    # ---- what it is told -----------------------------------------------------------------

    def introduce(self, setup: Setup) -> None:
        """Tell a fresh one all that it needs: memory, sockets, versions."""
        holdings = self._holdings
        descriptors = [holdings.statistics, setup.commit_page]
        if holdings.log >= 0:
            descriptors.append(holdings.log)
        self.child.send(
            "setup",
            tuple(descriptors),
            loop=setup.loop,
            workers=holdings.workers,
            lane_first=self.lane_first,
            uid=setup.uid,
            gid=setup.gid,
            grace_ms=setup.grace_ms,
            log=int(holdings.log >= 0),
            log_format=int(setup.log_format == "json"),
        )
        for listener in holdings.listeners.values():
            listener.tell(self.child.send, "listen")
        if holdings.heartbeat >= 0:
            self.child.send("heartbeat", (holdings.heartbeat,))
        self.owe(holdings.store.all())

    def owe(self, versions: Sequence[Stored]) -> None:
        """Have it prepare these, one after the other: a patch needs its committed base."""
        self.owed = list(versions)
        self._send_next()

    def stage(self, stored: Stored) -> None:
        """Have it prepare a version; one that was never committed is not waited for any more."""
        committed = self._holdings.store.committed
        waiting = [one for one in self.owed[1:] if one.version <= committed]
        self.owed = [*self.owed[:1], *waiting, stored]
        if len(self.owed) == 1:
            self._send_next()

    def _send_next(self) -> None:
        # A full image that was committed meanwhile has closed what was before it.
        kept = self._holdings.store.all()
        self.owed = [one for one in self.owed if any(one is other for other in kept)]
        if self.owed:
            stored = self.owed[0]
            self.child.send("image", stored.descriptors, version=stored.version, kind=stored.kind)

    def commit(self, version: int) -> None:
        """Have it serve a version; if it has still to prepare it, after that."""
        if not any(one.version == version for one in self.owed):
            self.child.send("commit", version=version)

    # ---- what it says --------------------------------------------------------------------

    def _hear(self, message: Message) -> bool:
        version = message.number("version", -1)
        match message.verb:
            case "ready" if not self.ready and message.fields.get("loop") in ("uring", "epoll"):
                self.ready, self.loop = True, message.fields["loop"]
                self._owner.is_ready(self)
            case "prepared":
                self._prepared(version)
            case "refused":
                self._refused(version, message)
            case "serving" if 0 < version <= self._holdings.store.committed:
                self.serving = version
                self._owner.serves(self)
            case "alive":
                self._heard_at = time.monotonic()
                self._owner.lives(self)
                if not message.number("stalled"):
                    self._stalled_at = 0.0
                elif not self._stalled_at:
                    self._stalled_at = self._heard_at
            case "drain-progress":
                self.open, self.tunnels = message.number("open"), message.number("tunnels")
                self._owner.progresses(self)
            case "drained":
                pass  # its exit follows
            case _:
                if not self._complained:
                    self._complained = True
                    say(f"the data plane said {message.verb[:32]!r} out of turn: ignored, as all like it")
        return False  # it has no descriptor to give

    def _answered(self, version: int) -> bool:
        if not self.owed or self.owed[0].version != version:
            return False
        self.owed.pop(0)
        return True

    def _prepared(self, version: int) -> None:
        if self._answered(version):
            if version <= self._holdings.store.committed:
                self.child.send("commit", version=version)
            self._send_next()
            self._owner.has_prepared(self, version)

    def _refused(self, version: int, message: Message) -> None:
        if self._answered(version):
            self._send_next()
            self._owner.has_refused(self, version, message)

    def stuck(self) -> str:
        """Shape: why it must be killed, "" while it comes round. Call it after its messages were heard."""
        now = time.monotonic()
        if self._stalled_at and now - self._stalled_at >= STALLED_S:
            return f"a worker has not come round for {now - self._stalled_at:.0f} s"
        if self._heard_at and now - self._heard_at >= SILENT_S:
            return f"it has been silent for {now - self._heard_at:.0f} s"
        return ""
