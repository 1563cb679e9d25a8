"""The controller's end of the way to the data plane: typed messages that the holder relays.

Called by edge/controller alone. One task reads; whoever publishes awaits an answer for a version.
Never looks into an image. The verbs stand in design note 0001.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edge.channel import Channel, peer_of
from edge.errors import PublishError
from edge.holdings import (
    COUNTS,
    EVENTS_KEPT,
    IMAGE_FULL,
    IMAGE_PATCH,
    Event,
    Holdings,
    Stored,
    event_of,
)
from edge.messages import Message

FULL = IMAGE_FULL
PATCH = IMAGE_PATCH
REJOIN_S = 0.05  # between two tries to find a holder that adopts us
ADOPTION_PATIENCE_S = 10.0


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
    settled: bool = True  # this holder has had a controller that committed, XDP included
    draining: bool = False
    listeners: dict[int, OpenListener] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT))

    def note(self, kind: str, text: str, at: int = 0) -> None:
        """Keep an event for the admin API; the oldest leaves. Units: at in seconds since 1970, 0 now."""
        self.events.append(Event(at or int(time.time()), kind[:32], text[:400]))


class HolderLink:
    """Shape: `open()` reads what the holder tells a new controller; then `on_*` hear the rest.

    ``holdings`` is a copy of all that the holder has, kept for a holder that comes after a dead one. With a
    ``control`` path, a holder that goes away is waited for; without it, `gone` is set at once.
    """

    def __init__(self, channel: Channel, control: Path | None = None) -> None:
        self._channel = channel
        self._control = control
        self.state = DataPlaneState()
        self.holdings = Holdings()
        self.slots = ""  # the slot table of what runs, as the last controller left it with the holder
        self.orphaned = False  # the holder is gone, and nobody has adopted us yet
        self.on_reread: Callable[[], None] = lambda: None
        self.on_drain: Callable[[], None] = lambda: None
        self.on_succeeded: Callable[[], None] = lambda: None  # it drains, and another has the same sockets
        self.on_data: Callable[[int], None] = lambda pid: None  # down: the pid that died; up: 0
        self.on_serving: Callable[[int], None] = lambda version: None
        self._answers: dict[int, asyncio.Future[Refusal | None]] = {}
        self._listening: dict[int, asyncio.Future[str]] = {}
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rejoining: asyncio.Task[None] | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def statistics(self) -> int:
        """Return the descriptor of the statistics memory, which stays ours."""
        return self.holdings.statistics

    async def open(self) -> None:
        """Start to read, and wait for the holder's `begin`. Errors: ConnectionError when it is gone."""
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._read)
        await asyncio.wait({self._begun, self.gone}, return_when=asyncio.FIRST_COMPLETED)
        if not self._begun.done():
            raise ConnectionError("the holder is gone")

    def leave(self) -> None:
        """End as if the holder were gone: it has asked for it."""
        if not self.gone.done():
            self.gone.set_result(None)

    def close(self) -> None:
        """Stop reading and close everything that the holder gave."""
        if self._rejoining is not None:
            self._rejoining.cancel()
        self._leave(self._channel)
        self._watch_children(False)
        self.holdings.close()

    @staticmethod
    def _leave(channel: Channel) -> None:
        if not channel.closed:
            asyncio.get_running_loop().remove_reader(channel.fileno())
            asyncio.get_running_loop().remove_writer(channel.fileno())
            channel.close()

    # ---- a holder that is gone -----------------------------------------------------------

    def _lost(self) -> None:
        """The holder is gone: what waits for it fails, what runs goes on."""
        self._leave(self._channel)
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(PublishError("the holder is gone"))
        for slot in list(self._listening):
            self._settle_listening(slot, "the holder is gone")
        if self.state.draining or self._control is None or not self._begun.done():
            if not self.gone.done():
                self.gone.set_result(None)
            return
        self.orphaned = True
        if self.holdings.store.staged:  # nobody will say what became of it
            self.holdings.store.drop(self.holdings.store.staged.version)
        self._note("orphaned", "the holder is gone: XDP, admin API and what is served go on")
        self._watch_children(True)
        self._rejoining = asyncio.create_task(self._rejoin(self._control))

    def _note(self, kind: str, text: str) -> None:
        self.state.note(kind, text)
        self.holdings.events.append(self.state.events[-1])

    def _watch_children(self, wanted: bool) -> None:
        """While there is no holder, nobody else says that a data plane has ended."""
        loop = asyncio.get_running_loop()
        for child in self.holdings.children:
            loop.remove_reader(child.pidfd)
            if wanted:
                loop.add_reader(child.pidfd, self._orphan_ended, child.pid)

    def _orphan_ended(self, pid: int) -> None:
        for child in self.holdings.children:
            if child.pid == pid:
                asyncio.get_running_loop().remove_reader(child.pidfd)
        self.holdings.drop_child(pid)
        if pid == self.state.pid:
            self._data_is_down(pid)

    async def _rejoin(self, control: Path) -> None:
        """Offer all that is held to the next holder of the instance, until one has taken it."""
        while not self.gone.done():
            channel = self._call(control)
            answer = await self._offer(channel) if channel else ""
            if channel and answer == "adopted":
                self._channel = channel
                self.orphaned = False
                self._watch_children(False)
                self._note("adopted", "another holder has adopted this instance")
                asyncio.get_running_loop().add_reader(channel.fileno(), self._read)
                self._read()
                return
            if channel:
                self._leave(channel)
            if answer == "refused":  # the instance lives without us
                self.gone.set_result(None)
                return
            await asyncio.sleep(REJOIN_S)

    @staticmethod
    def _call(control: Path) -> Channel | None:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            end.setblocking(False)
            end.connect(str(control))
            if peer_of(end).uid not in (0, os.geteuid()):
                raise PermissionError("a stranger listens there")
        except OSError:
            end.close()
            return None
        return Channel(end)

    async def _offer(self, channel: Channel) -> str:
        """Send the holdings and wait for what is said to them. Shape: the verb, "" for none."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                message = channel.receive()
                loop.remove_reader(channel.fileno())  # what follows the answer is for _read
                if message:
                    message.close()
                if not answer.done():
                    answer.set_result(message.verb if message else "")

        def flush() -> None:
            channel.flush()
            if not channel.waiting:
                loop.remove_writer(channel.fileno())

        channel.send("adopt", protocol=1, pid=os.getpid(), executable=sys.executable)
        self.holdings.tell(channel.send, self.holdings.children)
        channel.send("handed")
        loop.add_reader(channel.fileno(), read)
        if channel.waiting:
            loop.add_writer(channel.fileno(), flush)
        try:
            return await asyncio.wait_for(answer, ADOPTION_PATIENCE_S)
        except TimeoutError:
            return ""

    # ---- what we say ---------------------------------------------------------------------

    def _send(self, verb: str, descriptors: tuple[int, ...] = (), **fields: object) -> None:
        self._channel.send(verb, descriptors, **fields)
        if self._channel.waiting:
            asyncio.get_running_loop().add_writer(self._channel.fileno(), self._flush)

    def _flush(self) -> None:
        self._channel.flush()
        if not self._channel.waiting:
            asyncio.get_running_loop().remove_writer(self._channel.fileno())

    def _must_have_holder(self) -> None:
        if self.orphaned or self.gone.done():
            raise PublishError("the holder is gone")

    async def prepare(
        self, version: int, kind: int, descriptors: tuple[int, ...], patience_s: float
    ) -> Refusal | None:
        """Send an image or patch and wait for the answer; None: it is prepared.

        A data plane that dies meanwhile is replaced, and its successor answers.
        Errors: PublishError when nobody answers in time.
        """
        self._must_have_holder()
        answer: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        self._answers[version] = answer
        self.holdings.store.stage(Stored(version, kind, tuple(os.dup(number) for number in descriptors)))
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
        self._must_have_holder()
        self.holdings.store.keep_slots(os.dup(descriptor))
        self._send("slots", (descriptor,))

    def commit(self, version: int) -> None:
        """Make the prepared version the running one. Errors: PublishError when there is no holder."""
        self._must_have_holder()
        self.holdings.store.commit(version)
        self._send("commit", version=version)
        self.state.committed = version
        self.state.settled = True

    async def listen(self, slot: int, address: str, port: int, transport: str) -> str:
        """Ask the holder for the sockets of a listener. Shape: "" or why it cannot be.

        Errors: PublishError when there is no holder.
        """
        self._must_have_holder()
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._listening[slot] = answer
        self._send("listen", slot=slot, address=address, port=port, transport=transport)
        return await answer

    def unlisten(self, slot: int) -> None:
        """Close a listener for good."""
        self._send("unlisten", slot=slot)
        self.state.listeners.pop(slot, None)
        listener = self.holdings.listeners.pop(slot, None)
        if listener:
            listener.close()

    def alive(self) -> None:
        """Say that we come round; who does not is replaced."""
        if not self.orphaned and not self.gone.done():
            self._send("alive")

    def heartbeat(self, descriptor: int) -> None:
        """Give holder and data plane the page that XDP watches; the caller keeps its descriptor."""
        self.holdings.replace("heartbeat", os.dup(descriptor))
        self._send("heartbeat", (descriptor,))

    # ---- what we hear --------------------------------------------------------------------

    def _read(self) -> None:
        for _ in range(32):
            try:
                message = self._channel.receive()
            except BlockingIOError:
                return
            if message is None:
                self._lost()
                return
            if not self._hear(message):
                message.close()

    def _hear(self, message: Message) -> bool:
        """Act on one message. Shape: True when its descriptors were kept."""
        state, words = self.state, message.fields
        version = message.number("version")
        match message.verb:
            case "setup":
                self._setup(message)
            case "holding":
                return self._take(message)
            case "begin" if not self._begun.done():
                self._begin()
            case "listening":
                slot, port = message.number("slot"), message.number("port")
                first = message.number("first_member")
                self.holdings.put_listener(slot, words.get("address", ""), port, first, message.descriptors)
                self._note_listener(slot)
                self._settle_listening(slot, "")
                return True
            case "failed":
                self._settle_listening(message.number("slot"), words.get("reason", "no reason given"))
            case "prepared":
                self._settle(version, None)
            case "refused":
                self.holdings.store.drop(version)
                code, section, index = (message.number(name) for name in ("code", "section", "index"))
                field, reason = words.get("field", ""), words.get("reason", "")
                self._settle(version, Refusal(version, code, section, index, field, reason))
            case "serving":
                state.serving = version
                for child in self.holdings.children:
                    if child.pid == state.pid:
                        child.serving = version
                self.on_serving(version)
            case "data":
                self._data(message)
            case "counts":
                state.counts.update((name, message.number(name, state.counts[name])) for name in COUNTS)
                self.holdings.counts.update(state.counts)
            case "event":
                event = event_of(message)
                state.events.append(event)
                self.holdings.events.append(event)
            case "reread":
                self.on_reread()
            case "drain":
                state.draining = True
                self.holdings.close_listeners()  # with our copies open, no socket is really closed
                self.on_drain()
                if message.number("shared"):
                    self.on_succeeded()
        return False

    def _take(self, message: Message) -> bool:
        taken = self.holdings.take(message)
        match message.fields.get("what"):
            case "listener":
                self._note_listener(message.number("slot", -1))
            case "counts":
                self.state.counts.update(self.holdings.counts)
            case "event":
                self.state.events.append(self.holdings.events[-1])
        return taken

    def _note_listener(self, slot: int) -> None:
        listener = self.holdings.listeners[slot]
        self.state.listeners[slot] = OpenListener(slot, listener.address, listener.port)

    def _begin(self) -> None:
        descriptor = self.holdings.store.slots
        if descriptor is not None:
            # By place: the position is shared with whoever wrote it.
            text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            self.slots = text.decode("utf-8", "replace")
        self._begun.set_result(None)

    def _setup(self, message: Message) -> None:
        state = self.state
        state.up = message.fields.get("data") == "up"
        state.pid = message.number("pid")
        state.loop = message.fields.get("loop", "")
        state.workers = message.number("workers", 1)
        state.committed = message.number("committed")
        state.staged = message.number("staged")
        state.serving = message.number("serving")
        state.restarts = message.number("restarts")
        state.controller_starts = message.number("starts", 1)
        state.settled = bool(message.number("settled", 1))

    def _data(self, message: Message) -> None:
        state = self.state
        if message.fields.get("state") == "up":
            state.up = True
            state.pid = message.number("pid")
            state.loop = message.fields.get("loop", "")
            for child in self.holdings.children:
                if child.pid == state.pid:
                    child.ready, child.loop = True, state.loop
            self.on_data(0)
            return
        pid = message.number("pid")
        known = any(child.pid == pid for child in self.holdings.children)
        self.holdings.drop_child(pid)
        if message.fields.get("state") == "down" and (pid == state.pid or (known and not state.pid)):
            self._data_is_down(pid)

    def _data_is_down(self, pid: int) -> None:
        self.state.up = False
        self.state.pid = self.state.serving = 0
        self.state.restarts += 1
        self.on_data(pid)

    def _settle(self, version: int, answer: Refusal | None) -> None:
        waiting = self._answers.get(version)
        if waiting and not waiting.done():
            waiting.set_result(answer)

    def _settle_listening(self, slot: int, reason: str) -> None:
        waiting = self._listening.pop(slot, None)
        if waiting and not waiting.done():
            waiting.set_result(reason)
