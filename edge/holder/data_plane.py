"""The holder's side of the data plane: one process, what it is told, what it has said.

Called by holder/main.py. Nothing that a data plane says is trusted: known verbs, versions that we gave it,
nothing else. A fresh one gets all that is stored; the controller takes no part in that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edge.holder.children import Child, Program
from edge.holder.log import say
from edge.holder.loop import Loop
from edge.holder.store import seal_size
from edge.holdings import Holdings, Listener, Stored
from edge.messages import DESCRIPTORS_MAX, Message
from edge.options import Options

Tell = Callable[..., None]  # a message to the controller: verb, descriptors, fields


@dataclass(slots=True)
class DataPlane:
    """One process. ``replay``: stored versions that it still has to take, in order."""

    child: Child
    lane_first: int
    loop: str = ""
    ready: bool = False
    serving: int = 0
    replay: list[Stored] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self.child.pid


def send_listener(send: Callable[..., None], verb: str, listener: Listener, **fields: object) -> None:
    """Send a listener's sockets, in as many messages as its descriptors need."""
    for first in range(0, len(listener.members), DESCRIPTORS_MAX):
        part = tuple(listener.members[first : first + DESCRIPTORS_MAX])
        send(verb, part, slot=listener.slot, first_member=first, **fields)


class DataPlanes:
    """All data planes of the instance: the one that serves, and its replacement when it dies."""

    def __init__(
        self, loop: Loop, holdings: Holdings, options: Options, user: tuple[int, int], tell: Tell
    ) -> None:
        self._loop, self._holdings, self._options = loop, holdings, options
        self._uid, self._gid = user
        self._tell = tell
        self._complained = False
        self._lane_first = 0
        self.program = Program("data plane", "edge.dataplane", {})
        self.current: DataPlane | None = None
        self.stopping = False  # what dies is not replaced any more
        self.on_ended: Callable[[], None] = lambda: None

    @property
    def grace_ms(self) -> int:
        """Return how long open exchanges have at a stop."""
        return int(self._options.grace_period * 1000)

    def describe(self) -> dict[str, object]:
        """Shape: state, pid and loop of the one that serves."""
        one = self.current
        if one is None:
            return {"state": "down", "pid": 0, "loop": ""}
        return {"state": "up" if one.ready else "down", "pid": one.pid, "loop": one.loop}

    @property
    def serving(self) -> int:
        """Return the version that every worker has passed."""
        return self.current.serving if self.current else 0

    # ---- start and end -------------------------------------------------------------------

    def start(self) -> None:
        """Start one on the free half of the lanes, unless we stop."""
        if self.stopping or self.current is not None:
            return
        try:
            child = self.program.start(self._loop)
        except OSError as error:
            wait = self.program.wait_after(0)
            say(f"a data plane cannot be started ({error}), trying again in {wait:.1f} s")
            self._loop.after(wait, self.start)
            return
        one = self.current = DataPlane(child, self._lane_first)
        self._lane_first = 0 if self._lane_first else self._holdings.workers
        child.watch(lambda message: self._hear(one, message), lambda: self._ended(one))
        self._introduce(one)

    def _introduce(self, one: DataPlane) -> None:
        holdings, options = self._holdings, self._options
        descriptors = [holdings.statistics, holdings.commit_page]
        if holdings.log >= 0:
            descriptors.append(holdings.log)
        one.child.send(
            "setup",
            tuple(descriptors),
            loop=options.loop,
            workers=holdings.workers,
            lane_first=one.lane_first,
            uid=self._uid,
            gid=self._gid,
            grace_ms=self.grace_ms,
            log=int(holdings.log >= 0),
            log_format=int(options.log_format == "json"),
        )
        for listener in holdings.listeners.values():
            send_listener(one.child.send, "listen", listener)
        if holdings.heartbeat >= 0:
            one.child.send("heartbeat", (holdings.heartbeat,))
        one.replay = holdings.store.all()
        self._replay_next(one)

    def _ended(self, one: DataPlane) -> None:
        store = self._holdings.store
        wait = self.program.wait_after(one.child.age)
        blamed = 0 if one.replay[1:] else store.count_death()
        self.current = None
        self._tell("data", state="down", pid=one.pid)
        if blamed:
            self._tell("refused", version=blamed, reason="the data plane died of it, twice")
        if not self.stopping:
            self._holdings.counts["data_restarts"] += 1
            say(f"data plane {one.pid} ended ({one.child.describe_end()}), starting another in {wait:.1f} s")
            if wait:
                self._loop.after(wait, self.start)
            else:
                self.start()
        self.on_ended()

    # ---- what they are told --------------------------------------------------------------

    def _replay_next(self, one: DataPlane) -> None:
        """Send the next stored version; a patch can only be prepared on its committed base."""
        if one.replay:
            self._send_image(one, one.replay[0])

    @staticmethod
    def _send_image(one: DataPlane, stored: Stored) -> None:
        one.child.send("image", stored.descriptors, version=stored.version, kind=stored.kind)

    def send(self, verb: str, descriptors: tuple[int, ...] = (), **fields: object) -> None:
        """Say something to all that live."""
        if self.current:
            self.current.child.send(verb, descriptors, **fields)

    def listen(self, listener: Listener) -> None:
        """Give them the sockets of a new listener."""
        if self.current:
            send_listener(self.current.child.send, "listen", listener)

    def stage(self, stored: Stored) -> None:
        """Give them a version to prepare; one that has others to take first gets it after these."""
        one = self.current
        if one is None:
            return
        if one.replay:
            committed = self._holdings.store.committed
            one.replay = [older for older in one.replay if older.version <= committed]
            one.replay.append(stored)
        else:
            self._send_image(one, stored)

    def commit(self, version: int) -> None:
        """Make a version the running one; who has still to prepare it gets its commit after that."""
        one = self.current
        if one and not any(waiting.version == version for waiting in one.replay):
            one.child.send("commit", version=version)

    # ---- what they say -------------------------------------------------------------------

    def _hear(self, one: DataPlane, message: Message) -> bool:
        version, store = message.number("version", -1), self._holdings.store
        match message.verb:
            case "ready":
                loop = message.fields.get("loop", "")
                if loop in ("uring", "epoll") and not one.ready:
                    one.ready, one.loop = True, loop
                    seal_size(self._holdings.statistics)
                    self._tell("data", **self.describe())
            case "prepared" if store.knows(version):
                self._prepared(one, version)
            case "refused" if store.knows(version):
                self._refused(one, version, message)
            case "serving" if 0 < version <= store.committed:
                one.serving = version
                self._tell("serving", version=version)
            case "drained":
                pass  # its exit follows
            case _:
                if not self._complained:
                    self._complained = True
                    say(f"the data plane said {message.verb[:32]!r} out of turn: ignored, as all like it")
        return False  # it has no descriptor to give

    def _prepared(self, one: DataPlane, version: int) -> None:
        store = self._holdings.store
        if one.replay and one.replay[0].version == version:
            one.replay.pop(0)
            if version <= store.committed:
                one.child.send("commit", version=version)
            self._replay_next(one)
        if store.staged and store.staged.version == version:
            self._tell("prepared", version=version)

    def _refused(self, one: DataPlane, version: int, message: Message) -> None:
        one.replay = [older for older in one.replay if older.version < version]
        self._holdings.store.drop(version)
        self._tell(
            "refused",
            version=version,
            code=message.number("code"),
            section=message.number("section"),
            index=message.number("index"),
            field=message.fields.get("field", "")[:32],
            reason=message.fields.get("reason", "")[:200],
        )
