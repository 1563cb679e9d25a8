"""The controller's end of the way to the data plane: typed messages that the holder relays.

Called by edge/controller alone. One task reads; whoever publishes awaits an answer for a version.
Never looks into an image. The verbs stand in design note 0001.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from edge.channel import Channel
from edge.errors import PublishError
from edge.messages import Message

FULL = 1
PATCH = 2
EVENTS_KEPT = 64
COUNTS = (
    "data_restarts",
    "controller_restarts",
    "handovers",
    "adoptions",
    "upgrades",
    "watchdog_kills",
)  # what the holder counts over the life of an instance


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the data plane refused a version: which entry of which section, and what is wrong."""

    version: int
    code: int
    section: int
    index: int
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the instance. Units: seconds since 1970."""

    at: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class OpenListener:
    """A listener whose sockets the holder has open."""

    slot: int
    address: str
    port: int


@dataclass(slots=True)
class DataPlaneState:
    """What the holder says about the data plane. Only this module's reader writes it."""

    up: bool = False
    pid: int = 0
    loop: str = ""
    workers: int = 0
    committed: int = 0
    staged: int = 0
    serving: int = 0
    restarts: int = 0
    controller_starts: int = 1
    draining: bool = False
    listeners: dict[int, OpenListener] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT))

    def note(self, kind: str, text: str, at: int = 0) -> None:
        """Keep an event for the admin API; the oldest leaves. Units: at in seconds since 1970, 0 now."""
        self.events.append(Event(at or int(time.time()), kind[:32], text[:400]))


class HolderLink:
    """Shape: `open()` reads what the holder tells a new controller; then `on_*` hear the rest."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.state = DataPlaneState()
        self.admin = self.statistics = self.commit_page = -1
        self.slots = ""  # the slot table of what runs, as the last controller left it with the holder
        self.copies: list[int] = []  # descriptors kept for a successor of the holder
        self.on_reread: Callable[[], None] = lambda: None
        self.on_drain: Callable[[], None] = lambda: None
        self.on_data: Callable[[int], None] = lambda pid: None  # down: the pid that died; up: 0
        self.on_serving: Callable[[int], None] = lambda version: None
        self._answers: dict[int, asyncio.Future[Refusal | None]] = {}
        self._listening: dict[int, asyncio.Future[str]] = {}
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Start to read, and wait for the holder's `begin`. Errors: ConnectionError when it is gone."""
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._read)
        await asyncio.wait({self._begun, self.gone}, return_when=asyncio.FIRST_COMPLETED)
        if not self._begun.done():
            raise ConnectionError("the holder is gone")

    def close(self) -> None:
        """Stop reading and close everything that the holder gave."""
        if not self._channel.closed:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            asyncio.get_running_loop().remove_writer(self._channel.fileno())
            self._channel.close()
        self.drop_copies()
        for number in (self.statistics, self.commit_page):
            if number >= 0:
                os.close(number)
        self.statistics = self.commit_page = -1

    def drop_copies(self) -> None:
        """Close our copies of listening sockets and images: with them open, no socket is really closed."""
        while self.copies:
            with contextlib.suppress(OSError):
                os.close(self.copies.pop())

    # ---- what we say ---------------------------------------------------------------------

    def _send(self, verb: str, descriptors: tuple[int, ...] = (), **fields: object) -> None:
        self._channel.send(verb, descriptors, **fields)
        if self._channel.waiting:
            asyncio.get_running_loop().add_writer(self._channel.fileno(), self._flush)

    def _flush(self) -> None:
        self._channel.flush()
        if not self._channel.waiting:
            asyncio.get_running_loop().remove_writer(self._channel.fileno())

    async def prepare(
        self, version: int, kind: int, descriptors: tuple[int, ...], patience_s: float
    ) -> Refusal | None:
        """Send an image or patch and wait for the answer; None: it is prepared.

        A data plane that dies meanwhile is replaced, and its successor answers.
        Errors: PublishError when nobody answers in time.
        """
        answer: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        self._answers[version] = answer
        try:
            self._send("image", descriptors, version=version, kind=kind)
            return await asyncio.wait_for(answer, patience_s)
        except TimeoutError as error:
            raise PublishError(
                f"version {version}: no answer from the data plane in {patience_s} s"
            ) from error
        finally:
            self._answers.pop(version, None)

    def keep_slots(self, descriptor: int) -> None:
        """Leave the slot table with the holder, for the next controller; the caller closes its descriptor."""
        self._send("slots", (descriptor,))

    def commit(self, version: int) -> None:
        """Make the prepared version the running one."""
        self._send("commit", version=version)
        self.state.committed = version

    async def listen(self, slot: int, address: str, port: int, transport: str) -> str:
        """Ask the holder for the sockets of a listener. Shape: "" or why it cannot be."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._listening[slot] = answer
        self._send("listen", slot=slot, address=address, port=port, transport=transport)
        return await answer

    def unlisten(self, slot: int) -> None:
        """Close a listener for good."""
        self._send("unlisten", slot=slot)
        self.state.listeners.pop(slot, None)

    def heartbeat(self, descriptor: int) -> None:
        """Give holder and data plane the page that XDP watches; the caller keeps its descriptor."""
        self._send("heartbeat", (descriptor,))

    # ---- what we hear --------------------------------------------------------------------

    def _read(self) -> None:
        for _ in range(32):
            try:
                message = self._channel.receive()
            except BlockingIOError:
                return
            if message is None:
                asyncio.get_running_loop().remove_reader(self._channel.fileno())
                if not self.gone.done():
                    self.gone.set_result(None)
                return
            self._hear(message)

    def _hear(self, message: Message) -> None:
        state = self.state
        version = message.number("version")
        match message.verb:
            case "setup":
                self._setup(message)
            case "begin" if not self._begun.done():
                self._begun.set_result(None)
            case "listening":
                slot = message.number("slot")
                state.listeners[slot] = OpenListener(
                    slot, message.fields.get("address", ""), message.number("port")
                )
                self.copies.extend(message.descriptors)
                self._settle_listening(slot, "")
            case "failed":
                message.close()
                self._settle_listening(
                    message.number("slot"), message.fields.get("reason", "no reason given")
                )
            case "image":
                # Kept so that a new holder can get them from us; what is published later we have anyway.
                self.copies.extend(message.descriptors)
            case "slots" if len(message.descriptors) == 1:
                with os.fdopen(message.descriptors[0], "rb") as file:
                    file.seek(0)  # the position is shared with whoever wrote it
                    self.slots = file.read().decode("utf-8", "replace")
            case "prepared":
                self._settle(version, None)
            case "refused":
                words = message.fields
                self._settle(
                    version,
                    Refusal(
                        version,
                        message.number("code"),
                        message.number("section"),
                        message.number("index"),
                        words.get("field", ""),
                        words.get("reason", ""),
                    ),
                )
            case "serving":
                state.serving = version
                self.on_serving(version)
            case "data":
                self._data(message)
            case "counts":
                state.counts.update((name, message.number(name, state.counts[name])) for name in COUNTS)
            case "event":
                words = message.fields
                state.note(words.get("kind", ""), words.get("text", ""), message.number("at"))
            case "reread":
                self.on_reread()
            case "drain":
                state.draining = True
                self.drop_copies()
                self.on_drain()
            case _:
                message.close()

    def _setup(self, message: Message) -> None:
        state = self.state
        if len(message.descriptors) == 3:
            self.admin, self.statistics, self.commit_page = message.descriptors
        state.up = message.fields.get("data") == "up"
        state.pid = message.number("pid")
        state.loop = message.fields.get("loop", "")
        state.workers = message.number("workers", 1)
        state.committed = message.number("committed")
        state.staged = message.number("staged")
        state.serving = message.number("serving")
        state.restarts = message.number("restarts")
        state.controller_starts = message.number("starts", 1)

    def _data(self, message: Message) -> None:
        state = self.state
        state.up = message.fields.get("state") == "up"
        if state.up:
            state.pid = message.number("pid")
            state.loop = message.fields.get("loop", "")
            self.on_data(0)
            return
        state.pid = state.serving = 0
        state.restarts += 1
        self.on_data(message.number("pid"))

    def _settle(self, version: int, answer: Refusal | None) -> None:
        waiting = self._answers.get(version)
        if waiting and not waiting.done():
            waiting.set_result(answer)

    def _settle_listening(self, slot: int, reason: str) -> None:
        waiting = self._listening.pop(slot, None)
        if waiting and not waiting.done():
            waiting.set_result(reason)
