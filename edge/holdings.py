"""Holdings: all that outlives a process, as one record.

The holder's own, and the controller's copy of it, kept by the same calls and sent in one form: messages
`holding what=… `, which `Holdings.take` makes the record of again (design note 0005). Descriptors and
numbers alone: nothing here looks into an image, starts a process or knows who holds it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from edge.messages import DESCRIPTORS_MAX, Message

Send = Callable[..., None]  # verb, descriptors, **fields

IMAGE_FULL = 1
IMAGE_PATCH = 2
DEATHS_MAX = 2
COUNTS = (
    "data_restarts",
    "controller_restarts",
    "handovers",
    "adoptions",
    "upgrades",
    "watchdog_kills",
)  # of an instance, over all its holders


EVENTS_KEPT = 64


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the instance. Units: seconds since 1970."""

    at: int
    kind: str
    text: str


@dataclass(slots=True)
class Stored:
    """One image or patch as it came from the controller; owns its descriptors."""

    version: int
    kind: int
    descriptors: tuple[int, ...]
    deaths: int = 0  # of data planes that had it to prepare

    def tell(self, send: Send, **fields: object) -> None:
        """Send it as a part of the holdings."""
        words = {"version": self.version, "kind": self.kind, "deaths": self.deaths}
        send("holding", self.descriptors, what="image", **words, **fields)

    def close(self) -> None:
        """Close the descriptors."""
        for number in self.descriptors:
            os.close(number)


@dataclass(slots=True)
class ImageStore:
    """Shape: ``chain`` is the committed full image and its patches in order; ``staged`` waits for commit.

    ``slots``: the newest slot table, a memfd that only controllers read. It is of no version: a slot that a
    refused version was given is taken all the same.
    """

    chain: list[Stored] = field(default_factory=list)
    staged: Stored | None = None
    slots: int | None = None

    @property
    def committed(self) -> int:
        """Return the committed version, 0 for none."""
        return self.chain[-1].version if self.chain else 0

    def knows(self, version: int) -> bool:
        """Say whether a version is stored here."""
        return any(one.version == version for one in self.all())

    def all(self) -> list[Stored]:
        """Shape: the chain, then what is staged: the order in which a fresh data plane takes them."""
        return [*self.chain, *([self.staged] if self.staged else [])]

    def stage(self, fresh: Stored) -> None:
        """Keep a new version until its commit; one that was never committed is dropped."""
        if self.staged:
            self.staged.close()
        self.staged = fresh

    def keep_slots(self, descriptor: int) -> None:
        """Replace the slot table; owns the descriptor."""
        if self.slots is not None:
            os.close(self.slots)
        self.slots = descriptor

    def count_death(self) -> int:
        """Count a death of the data plane that had the staged version to prepare.

        Shape: the version when it is to be refused, dropped already; 0 for another try. One death may be of
        another cause; at the second we would kill one after the other.
        """
        if not self.staged:
            return 0
        self.staged.deaths += 1
        version = self.staged.version if self.staged.deaths >= DEATHS_MAX else 0
        self.drop(version)
        return version

    def drop(self, version: int) -> None:
        """Forget a staged version that was refused."""
        if self.staged and self.staged.version == version:
            self.staged.close()
            self.staged = None

    def commit(self, version: int) -> bool:
        """Make the staged version the running one; False when it is not the staged one.

        A full image ends the older chain, a patch is kept after its base.
        """
        if not self.staged or self.staged.version != version:
            return False
        if self.staged.kind == IMAGE_FULL:
            for old in self.chain:
                old.close()
            self.chain = []
        self.chain.append(self.staged)
        self.staged = None
        return True

    def close(self) -> None:
        """Close everything."""
        for one in self.all():
            one.close()
        if self.slots is not None:
            os.close(self.slots)
        self.chain, self.staged, self.slots = [], None, None


@dataclass(slots=True)
class Listener:
    """One served address: descriptors of its member sockets, as long as the instance lives."""

    slot: int
    address: str
    port: int
    members: list[int] = field(default_factory=list)

    def tell(self, send: Send, verb: str, **fields: object) -> None:
        """Send its sockets, in as many messages as their descriptors need."""
        for first in range(0, len(self.members), DESCRIPTORS_MAX):
            part = tuple(self.members[first : first + DESCRIPTORS_MAX])
            place = {"slot": self.slot, "address": self.address, "port": self.port, "first_member": first}
            send(verb, part, **place, **fields)

    def close(self) -> None:
        """Close the members."""
        while self.members:
            os.close(self.members.pop())


@dataclass(slots=True)
class HeldChild:
    """A process and our end of its channel, as both change hands; owns the two descriptors.

    Shape: ``part`` is data or controller; ``replay`` names stored versions that it still has to take.
    """

    part: str
    pid: int
    channel: int
    pidfd: int
    lane_first: int = 0
    loop: str = ""
    ready: bool = False
    serving: int = 0
    leaving: bool = False
    executable: str = ""
    replay: tuple[int, ...] = ()
    orphan: bool = False  # it serves by itself: nobody can speak to it

    @classmethod
    def of(cls, message: Message) -> HeldChild:
        """Make it of its message, which has the two descriptors."""
        words = message.fields
        channel, pidfd = message.descriptors
        return cls(
            words.get("part", ""),
            message.number("pid"),
            channel,
            pidfd,
            message.number("lane_first"),
            words.get("loop", ""),
            bool(message.number("ready")),
            message.number("serving"),
            bool(message.number("leaving")),
            words.get("executable", ""),
            tuple(int(text) for text in words.get("replay", "").split(",") if text.isdigit()),
            bool(message.number("orphan")),
        )

    def tell(self, send: Send) -> None:
        """Send it. Where the channel has ended, another goes in its place that has ended, too."""
        with contextlib.ExitStack() as stack:
            channel = self.channel
            if channel < 0:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                theirs.close()
                channel = stack.enter_context(ours).fileno()
            self._tell(send, channel)

    def _tell(self, send: Send, channel: int) -> None:
        send(
            "holding",
            (channel, self.pidfd),
            what="child",
            part=self.part,
            pid=self.pid,
            lane_first=self.lane_first,
            loop=self.loop,
            ready=int(self.ready),
            serving=self.serving,
            leaving=int(self.leaving),
            executable=self.executable,
            replay=",".join(map(str, self.replay)),
            orphan=int(self.orphan),
        )

    def close(self) -> None:
        """Close both; the process does not end by this, unless it reads the end of its channel."""
        for number in (self.channel, self.pidfd):
            if number >= 0:
                os.close(number)
        self.channel = self.pidfd = -1


def event_of(message: Message) -> Event:
    """Make an event of its message; a long text is cut."""
    words = message.fields
    return Event(
        message.number("at") or int(time.time()), words.get("kind", "")[:32], words.get("text", "")[:400]
    )


SINGLES = (
    "statistics",
    "admin",
    "webhook",
    "commit_page",
    "log",
    "heartbeat",
)  # descriptors of Holdings, by field


@dataclass(slots=True)
class Holdings:
    """Shape: descriptors, -1 where there is none; it owns them.

    ``children``: of a record that is a copy or on its way; the holder's own stand in edge/holder.
    """

    workers: int = 0
    statistics: int = -1
    admin: int = -1
    webhook: int = -1
    commit_page: int = -1
    log: int = -1
    heartbeat: int = -1
    listeners: dict[int, Listener] = field(default_factory=dict)
    store: ImageStore = field(default_factory=ImageStore)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT))
    options: dict[str, str] = field(default_factory=dict)  # EDGE_* that the instance runs with
    foreign_lanes: set[int] = field(default_factory=set)  # first lanes of who is not among the children
    children: list[HeldChild] = field(default_factory=list)

    def replace(self, name: str, descriptor: int) -> None:
        """Put a descriptor in the place of the one that is kept under this name."""
        old = getattr(self, name)
        setattr(self, name, descriptor)
        if old >= 0:
            os.close(old)

    def put_listener(
        self, slot: int, address: str, port: int, first_member: int, members: Iterable[int]
    ) -> None:
        """Keep members of a listener; the first of them begin it anew."""
        if first_member == 0 and slot in self.listeners:
            self.listeners.pop(slot).close()
        listener = self.listeners.setdefault(slot, Listener(slot, address, port))
        listener.members.extend(members)

    def close_listeners(self) -> None:
        """Close our copies of all listening sockets."""
        for listener in self.listeners.values():
            listener.close()
        self.listeners.clear()

    def close(self) -> None:
        """Close everything; twice is harmless."""
        self.close_listeners()
        self.store.close()
        for name in SINGLES:
            self.replace(name, -1)
        while self.children:
            self.children.pop().close()

    # ---- as messages ---------------------------------------------------------------------

    def tell(self, send: Send, children: Iterable[HeldChild]) -> None:
        """Send all of it, with these children in the place of our own list."""
        send("holding", (), what="base", workers=self.workers)
        send("holding", (), what="options", **self.options)
        for name in SINGLES:
            if getattr(self, name) >= 0:
                send("holding", (getattr(self, name),), what="descriptor", name=name)
        for listener in self.listeners.values():
            listener.tell(send, "holding", what="listener")
        for stored in self.store.all():
            stored.tell(send, staged=int(stored is self.store.staged))
        if self.store.slots is not None:
            send("holding", (self.store.slots,), what="slots")
        send("holding", (), what="counts", **self.counts)
        for event in self.events:
            send("holding", (), what="event", at=event.at, kind=event.kind, text=event.text)
        for child in children:
            child.tell(send)

    def take(self, message: Message) -> bool:
        """Take one `holding` message into the record. Shape: False when it makes no sense."""
        words, given = message.fields, message.descriptors
        match words.get("what"), len(given):
            case "base", 0:
                self.workers = message.number("workers")
            case "options", 0:
                self.options = {name: text for name, text in words.items() if name.startswith("EDGE_")}
            case "descriptor", 1 if words.get("name") in SINGLES:
                self.replace(words["name"], given[0])
            case "listener", count if count:
                slot, port = message.number("slot", -1), message.number("port")
                self.put_listener(slot, words.get("address", ""), port, message.number("first_member"), given)
            case "image", count if count:
                stored = Stored(
                    message.number("version"), message.number("kind"), given, message.number("deaths")
                )
                self.store.stage(stored)
                if not message.number("staged"):
                    self.store.commit(stored.version)
            case "slots", 1:
                self.store.keep_slots(given[0])
            case "counts", 0:
                self.counts.update((name, message.number(name, self.counts[name])) for name in COUNTS)
            case "lanes", 0:
                self.foreign_lanes.add(message.number("first"))
            case "event", 0:
                self.events.append(event_of(message))
            case "child", 2:
                self.drop_child(message.number("pid"))
                self.children.append(HeldChild.of(message))
            case _:
                return False
        return True

    def drop_child(self, pid: int) -> None:
        """Let go of a child that has ended."""
        for child in [one for one in self.children if one.pid == pid]:
            self.children.remove(child)
            child.close()
